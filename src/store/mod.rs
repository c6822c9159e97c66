//! The `Store` trait, its events and durability, and `MemoryStore`.

mod durability;
mod event;
mod memory;
mod traits;

pub use durability::Durability;
pub use event::{HealthSnapshot, StoreEvent};
pub use memory::MemoryStore;
pub use traits::{Adopted, Change, Connected, Group, OtherRecords, Sent, Store};
