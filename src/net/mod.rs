//! Absolute deadlines, a socket that obeys one, and look-ups of host names.

mod deadline;
#[cfg(any(feature = "redis", feature = "server"))]
mod deadline_stream;
mod host_names;

pub(crate) use deadline::deadline_after;
#[cfg(feature = "redis")]
pub(crate) use deadline::{remaining, time_left};
#[cfg(any(feature = "redis", feature = "server"))]
pub(crate) use deadline_stream::DeadlineStream;
pub(crate) use host_names::LookUp;
