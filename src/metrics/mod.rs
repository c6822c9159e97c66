//! The metrics of all persistences of a process: table, series and rendering.

mod builder;
mod catalog;
mod client_share;
mod clock;
mod connection_share;
mod family;
mod labels;
mod lean;
mod message_changes;
mod persistence_metrics;
mod render;
mod share;
mod store_share;
mod table;

pub use builder::PersistenceMetricsBuilder;
pub(crate) use client_share::{ClientSeries, ClientShare};
pub(crate) use clock::Clock;
pub(crate) use connection_share::ConnectionShare;
#[cfg(feature = "server")]
pub(crate) use family::PREFIX;
pub(crate) use labels::{KindLabel, MissLabel, OperationLabel};
pub(crate) use message_changes::MessageChanges;
pub use persistence_metrics::PersistenceMetrics;
#[cfg(feature = "server")]
pub(crate) use render::{encode_text, gather_families};
pub use render::{render, write_textfile};
pub(crate) use store_share::StoreMetricsObserver;
