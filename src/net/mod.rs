//! Absolute deadlines, and a socket that obeys one.

#[cfg(any(feature = "redis", feature = "server"))]
mod deadline;
#[cfg(feature = "redis")]
mod deadline_stream;

#[cfg(any(feature = "redis", feature = "server"))]
pub(crate) use deadline::deadline_after;
#[cfg(feature = "redis")]
pub(crate) use deadline::time_left;
#[cfg(feature = "redis")]
pub(crate) use deadline_stream::DeadlineStream;
