//! Whatever Redis does, publishing goes on, no message is lost, and Redis catches up by itself.

mod connection;
mod faults;
mod recovery;
mod soak;
