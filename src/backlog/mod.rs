//! Reading and changing stored backlogs, for the program `mqtt-backlog`.
//!
//! It is not part of the public interface and may change at any time.

mod adoption;
mod check;
mod client_name;
mod drain;
mod drain_rate;
mod dry_run;
mod order;
mod owned;
mod record;
mod restoring;
mod selection;
mod server;
mod set_aside;
mod topic_filter;

pub use crate::{
    DeadLetter, Place,
    paho::{Key, RecordKind},
    redis::Owner,
};
pub use adoption::AdoptionPlan;
pub use check::{Finding, RecordsCheck, RedisCheck, Restore, Severity};
pub use client_name::Unresolved;
pub use drain::{BrokerOptions, DrainEvent, DrainOptions, LeftReason};
pub use drain_rate::DrainRate;
pub use order::{Message, messages_in_order};
pub use owned::OwnedBacklog;
pub use record::{Content, Property, PropertyData, Record, View};
pub use restoring::Refusal;
pub use selection::Selection;
pub use server::{Lengths, Listing, Ownership, Server, ServerOptions, Summary};
pub use set_aside::SetAside;
pub use topic_filter::TopicFilter;
