//! Stories of one persistence over a scripted store: calls, faults, and what is stored afterwards.

mod bench;
mod identity;
mod logging;
mod order;
mod packet_ids;
mod panics;
mod reads;
mod refusal;
mod restore;
