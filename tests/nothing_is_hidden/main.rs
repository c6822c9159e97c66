//! Every call, error and invalid option shows in a span, a metric or a typed error.

mod bad_input;
mod spans;
mod textfile;
