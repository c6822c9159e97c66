//! The client that connects again by itself: [`Session`] describes it, [`Client`] publishes.

mod attempt;
mod backoff;
mod broken_write;
mod callbacks;
mod client_count;
mod connection;
mod deliveries;
mod delivery;
mod gauges;
mod link;
mod log;
mod messenger;
mod names;
mod options;
mod permit;
mod persistence;
mod refusal;
mod report;
mod room;
mod session;
mod shared;
mod signal;
mod stopping;
mod subscriptions;
mod token;
mod unread_bytes;
mod worker;

pub use broken_write::{BrokenWrite, OnBrokenWrite};
pub use delivery::Delivery;
pub use messenger::Client;
pub use refusal::PublishError;
pub use report::{ClientState, ConnectionState};
pub use session::{Session, SessionOptions};
pub use stopping::Stopped;
