//! Paho's eight calls over a store, and the worker that keeps the store up to date.

mod adoption;
mod call_log;
mod call_semantics;
mod client_persistence;
mod config;
mod dead_letters;
mod due_work;
mod exchange;
mod fill;
mod guarded_store;
mod health;
mod lifecycle;
mod moved_backlog;
mod names;
mod notifier;
mod observer;
mod opening;
mod outbox;
mod recovery;
mod schedule;
mod shared;
mod simulated;
#[cfg(test)]
mod tests;
mod worker;

pub use adoption::Adoption;
#[cfg(feature = "cli")]
pub(crate) use adoption::adopt_all;
pub(crate) use client_persistence::{BoxedPersistence, Wrapper};
pub use client_persistence::{MemoryPersistence, Persistence};
#[cfg(feature = "redis")]
pub(crate) use config::PersistenceConfig;
#[cfg(any(feature = "redis", feature = "metrics"))]
pub(crate) use config::StoreAddress;
pub use dead_letters::{DeadLetter, DeadLetters, PublishedAgain};
#[cfg(feature = "cli")]
pub(crate) use dead_letters::{message_of, sorted as sorted_dead_letters};
pub use fill::OverBudget;
#[cfg(feature = "redis")]
pub(crate) use fill::WaitingLimits;
pub use health::{Flushed, Health};
pub use moved_backlog::MovedBacklog;
pub(crate) use notifier::catch_panic;
#[cfg(feature = "metrics")]
pub(crate) use observer::RecordObserver;
pub use observer::StoreObserver;
#[cfg(feature = "cli")]
pub(crate) use opening::connect;
pub use simulated::{Settings, SimulatedExchange, SimulatedWorker, Turn, simulated_persistence};
