//! Paho's eight calls over a store, and the worker that keeps the store up to date.

mod call_log;
mod call_semantics;
mod client_persistence;
mod config;
mod health;
mod lifecycle;
mod notifier;
mod observer;
mod recovery;
mod worker;
mod worker_context;

pub use client_persistence::{MemoryPersistence, Persistence};
#[cfg(feature = "redis")]
pub(crate) use config::PersistenceConfig;
pub use health::Health;
pub use observer::StoreObserver;
