//! The write-behind cache of live records and pending writes: single-threaded, no locks.

mod batched_read;
mod event_queue;
mod index;
mod load;
mod pending;
mod prefetch;
mod relocate;
mod relocations;
mod renumber;
mod resync;
mod write_behind;

pub(crate) use batched_read::{list_keys, read_or_split};
pub(crate) use load::{LoadedRecords, load_records};
pub(crate) use relocate::relocate_record;
pub(crate) use resync::LentStore;
pub(crate) use write_behind::{Ack, WriteBehindCache};
