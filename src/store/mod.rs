//! The `Store` trait, its events and durability, and `MemoryStore`.

mod durability;
mod event;
mod memory;
mod set_aside;
mod traits;

pub use durability::Durability;
pub use event::{HealthSnapshot, HealthState, StoreEvent};
pub use memory::MemoryStore;
#[cfg(feature = "cli")]
pub(crate) use set_aside::QUARANTINE_REASONS;
pub(crate) use set_aside::{FOREIGN, OTHER_VERSION, POISON, SetAsideName, UNKNOWN, UNREADABLE};
pub use set_aside::{SetAsideLimits, SetAsideLoss};
pub use traits::{Adopted, Change, Connected, Group, OtherRecords, Place, Sent, Store};
