//! Every call, error and bad setting shows in a span, a metric or a typed error.

mod bad_input;
mod spans;
mod textfile;
