//! The clocks of the device, and the clock of a persistence.

mod boot_time;
mod injected;

#[cfg(feature = "metrics")]
pub(crate) use boot_time::awake_time;
pub(crate) use boot_time::since_boot;
pub(crate) use injected::Clock;
pub use injected::SimulatedClock;
