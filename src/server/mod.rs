//! The HTTP endpoint that serves a registry; it knows nothing of MQTT.

mod builder;
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
