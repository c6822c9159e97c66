//! Many clients for a long time, with everything going wrong that can, and the account of their messages.

mod account;
mod driver;
mod program;
mod running;

pub use driver::{Outcome, Soak, run};
pub use program::run as run_program;

const TOPIC: &str = "readings";
