//! The metrics of all persistences of a process: catalog, series and rendering.

mod builder;
mod catalog;
mod client_table;
mod clock;
mod connection_catalog;
mod connection_series;
mod labels;
mod lean;
mod live_series;
mod message_catalog;
mod message_series;
mod names;
mod oldest_age;
mod persistence_metrics;
mod removal;
mod render;
mod set_aside_catalog;
mod store_catalog;
mod store_series;

pub use builder::PersistenceMetricsBuilder;
pub(crate) use client_table::KindSeries;
pub(crate) use clock::Clock;
pub(crate) use connection_series::ConnectionSeries;
pub(crate) use labels::{KindLabel, OperationLabel};
pub(crate) use live_series::ClientSeriesGuard;
pub(crate) use message_series::MessageChanges;
#[cfg(feature = "server")]
pub(crate) use names::PREFIX;
pub use persistence_metrics::PersistenceMetrics;
#[cfg(feature = "server")]
pub(crate) use render::{encode_text, gather_families};
pub use render::{render, write_textfile};
pub(crate) use store_series::StoreMetricsObserver;
