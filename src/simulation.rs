//! A persistence without threads, for a simulator: it decides when the worker runs and what time it is.
//!
//! For this project's own tests. It is not part of the public interface and may change at any time.

pub use crate::{
    clock::SimulatedClock,
    persistence::{Settings, SimulatedExchange, SimulatedWorker, Turn, simulated_persistence},
};
