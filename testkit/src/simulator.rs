//! Deterministic simulation of a program with Paho, a store and a broker, with faults at every step.
//!
//! Everything follows from a seed: no thread, no real time, no network. `driver` makes the steps, `world` is the store, `paho` makes
//! Paho's calls, `broker` counts what arrives, and `invariants` says what must hold.

#![allow(
    clippy::similar_names,
    clippy::struct_excessive_bools,
    clippy::too_many_lines,
    clippy::unchecked_time_subtraction
)]

mod broker;
mod clock;
mod driver;
mod exceptions;
mod invariants;
mod ledger;
mod paho;
mod process;
mod profile;
mod report;
mod sabotage;
mod story;
mod values;
mod world;

#[cfg(test)]
mod tests;

pub use self::{
    driver::{Totals, run},
    invariants::Violation,
    profile::{Fault, Profile},
    report::{Orders, check, print},
    sabotage::Sabotage,
};
