//! Reading and changing stored backlogs, for the program `mqtt-backlog`.
//!
//! It is not part of the public interface and may change at any time.

mod check;
mod client_name;
mod drain_rate;
mod dry_run;
mod order;
mod owned;
mod record;
mod selection;
mod server;
mod topic_filter;

pub use crate::{
    paho::{Key, RecordKind},
    redis::Owner,
};
pub use check::{Finding, RecordsCheck, RedisCheck, Restore, Severity};
pub use client_name::Unresolved;
pub use drain_rate::DrainRate;
pub use order::{Message, messages_in_order};
pub use owned::OwnedBacklog;
pub use record::{Content, Property, PropertyData, Record, View};
pub use selection::Selection;
pub use server::{Lengths, Listing, Ownership, Server, ServerOptions, Summary};
pub use topic_filter::TopicFilter;
