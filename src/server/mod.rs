//! The HTTP endpoint that serves a registry; it knows nothing of MQTT.

mod auth;
mod builder;
mod collector;
mod config;
mod connection;
mod credentials;
mod event_loop;
#[cfg(fuzzing)]
pub mod fuzzing;
mod listener;
mod metrics_server;
mod page;
mod readiness;
mod request;
mod response;
mod router;
mod stream;
#[cfg(feature = "server-tls")]
mod tls;
mod transport;

pub use builder::MetricsServerBuilder;
pub use metrics_server::MetricsServer;
