//! The HTTP endpoint that serves a registry, as text and as a page for people.

mod builder;
mod client_view;
mod collector;
mod connection;
mod credentials;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod listener;
mod metrics_server;
mod page;
mod readiness;
mod request;
mod response;
mod slots;
mod stream;
#[cfg(feature = "server-tls")]
mod tls;

pub use builder::MetricsServerBuilder;
pub use metrics_server::MetricsServer;
