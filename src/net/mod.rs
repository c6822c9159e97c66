//! Absolute deadlines, and a socket that obeys one.

mod deadline;
#[cfg(feature = "redis")]
mod deadline_stream;

pub(crate) use deadline::deadline_after;
#[cfg(feature = "redis")]
pub(crate) use deadline::time_left;
#[cfg(feature = "redis")]
pub(crate) use deadline_stream::DeadlineStream;
