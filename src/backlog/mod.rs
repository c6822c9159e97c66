//! Reading and changing stored backlogs, for the program `mqtt-backlog`.
//!
//! It is not part of the public interface and may change at any time.

mod adoption;
mod check;
mod client_files;
mod client_name;
mod drain;
mod drain_rate;
mod dry_run;
mod import;
mod migrate;
mod order;
mod owned;
mod paho_files;
mod record;
mod restoring;
mod selection;
mod server;
mod set_aside;
mod topic_filter;
mod unwrap;

pub use crate::{
    DeadLetter, Place,
    paho::{Key, RecordKind},
    redis::Owner,
};
pub use adoption::AdoptionPlan;
pub use check::{Finding, RecordsCheck, RedisCheck, Restore, Severity};
pub use client_files::{ClientFiles, directories_of};
pub use client_name::{ClientName, Unresolved, is_explicit_server_uri};
pub use drain::{BrokerOptions, DrainEvent, DrainOptions, LeftReason};
pub use drain_rate::DrainRate;
pub use migrate::{MoveEvent, move_from_files, move_to_files};
pub use order::{Message, messages_in_order};
pub use owned::OwnedBacklog;
pub use record::{Content, Property, PropertyData, Record, View};
pub use restoring::Refusal;
pub use selection::{KindFilter, Selection};
#[cfg(feature = "redis-tls")]
pub use server::ServerTls;
pub use server::{Lengths, Listing, Ownership, Server, ServerOptions, Summary};
pub use set_aside::{SetAside, set_aside_reasons};
pub use topic_filter::TopicFilter;
