//! Every call, error and invalid option shows in a span, a metric or a typed error.

mod bad_input;
mod dead_letters;
mod departures;
mod limits;
mod moved_broker;
mod opentelemetry;
mod poison;
mod spans;
mod textfile;
