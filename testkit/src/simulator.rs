//! Deterministic simulation of a program with Paho, a store and a broker, with faults at every step.
//!
//! Everything follows from a seed: no thread, no real time, no network.
//!
//! | file | job |
//! |---|---|
//! | `driver`, `faults`, `ending` | the steps of a seed, its faults, and the end in which all must arrive |
//! | `profile`, `report`, `story` | what a seed decides, running seeds, shortening a failing one |
//! | `process`, `calls`, `clock` | the program: its persistence, each call with what it must answer, its worker and clock |
//! | `paho`, `restore` | model of Paho: which calls it makes, and how it restores |
//! | `store`, `world`, `writes` | the store: its operations, its state, its writes |
//! | `broker`, `ledger`, `values` | what arrives, what became of each message, keys and values |
//! | `invariants`, `death`, `exceptions` | what must hold, what a death may cost, and the limits that excuse |
//! | `sabotage`, `tests` | deliberate defects, and tests that find them |

#![allow(
    clippy::similar_names,
    clippy::struct_excessive_bools,
    clippy::too_many_lines,
    clippy::unchecked_time_subtraction
)]

mod broker;
mod calls;
mod clock;
mod death;
mod driver;
mod ending;
mod exceptions;
mod faults;
mod invariants;
mod ledger;
mod paho;
mod process;
mod profile;
mod report;
mod restore;
mod sabotage;
mod store;
mod story;
mod values;
mod world;
mod writes;

#[cfg(test)]
mod tests;

pub use self::{
    driver::{Totals, run},
    invariants::Violation,
    profile::{Fault, Profile},
    report::{Orders, check, print},
    sabotage::Sabotage,
};
