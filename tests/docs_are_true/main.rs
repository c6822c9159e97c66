//! README, examples and units say what the code does.

mod examples;
mod readme;
mod systemd;
