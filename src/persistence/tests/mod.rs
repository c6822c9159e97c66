//! Stories of one persistence over a scripted store: calls, faults, and what is stored afterwards.

mod adoption;
mod bench;
mod conversion;
mod dead_letters;
mod expiry;
mod fences;
mod identity;
mod late_store;
mod logging;
mod opening;
mod order;
mod over_budget;
mod packet_ids;
mod panics;
mod poison;
mod reads;
mod refusal;
mod relocation;
mod restore;
mod resync;
mod semantics;
mod threads;
mod waiting;
mod waits;
