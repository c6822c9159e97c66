//! The time since boot, and the clock of a persistence.

mod boot_time;
mod injected;

pub(crate) use boot_time::since_boot;
pub(crate) use injected::Clock;
pub use injected::SimulatedClock;
