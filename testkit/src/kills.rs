//! A program that is killed at random instants in full flow with a real broker, and the account of its messages.

mod account;
mod life;
mod program;

pub use account::Account;
pub use life::Life;
pub use program::{CLIENT, Orders, TOPIC, exit, run as run_program};

/// How many messages wait for an acknowledgement at most.
const WINDOW: usize = 50;

/// What the sender sends last, so that the program knows when it has everything.
const LAST: &str = "m0-i0|the last one";
