//! Absolute deadlines, and a socket that obeys one.

#[cfg(any(feature = "redis", feature = "server"))]
mod deadline;
#[cfg(any(feature = "redis", feature = "server"))]
mod deadline_stream;

#[cfg(any(feature = "redis", feature = "server"))]
pub(crate) use deadline::deadline_after;
#[cfg(feature = "redis")]
pub(crate) use deadline::{remaining, time_left};
#[cfg(any(feature = "redis", feature = "server"))]
pub(crate) use deadline_stream::DeadlineStream;
