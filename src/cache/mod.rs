//! The write-behind cache of live records and pending writes: single-threaded, no locks.

mod access;
mod adopt;
mod batched_read;
mod convert;
mod drop_loaded;
mod earlier;
mod event_queue;
mod index;
mod load;
mod load_changes;
mod over_budget;
mod pending;
mod prefetch;
mod quarantine;
mod relocate;
mod relocations;
mod removed;
mod resync;
mod send_counts;
mod set_aside;
mod set_asides;
mod waiting;
mod write;
mod write_behind;

pub(crate) use access::{Outage, StoreAccess};
pub(crate) use adopt::adopt_records;
#[cfg(feature = "cli")]
pub(crate) use adopt::plan_moves;
pub(crate) use batched_read::{list_keys, read_or_split};
pub(crate) use convert::convert_records;
#[cfg(feature = "cli")]
pub(crate) use index::{RecordIndex, hash_of};
pub(crate) use load::{LoadOptions, LoadedRecords, load_records};
pub(crate) use load_changes::LoadChanges;
pub(crate) use pending::BatchLimits;
pub(crate) use relocate::Relocation;
pub(crate) use send_counts::{DEFAULT_MAX_SENDS, SendCounts};
pub(crate) use set_asides::{SetAsideOptions, SetAsides};
pub(crate) use write::RewriteBatch;
pub(crate) use write_behind::{Ack, Confirmation, WriteBehindCache};
