//! [`Counted`]: counts the clients of this process, and warns if they are more than Paho survives.

use std::{
    fs,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::log;

/// The bytes of kernel memory that one byte takes in Paho's socket pair, where it waits to be read.
///
/// Paho writes one for each connection that ends, and freezes all clients once they take more than a socket may have
/// (docs/upstream/interrupt-socket.md).
const BYTES_PER_CONNECTION: usize = 768;
const WMEM_DEFAULT: &str = "/proc/sys/net/core/wmem_default";

static CLIENTS: AtomicUsize = AtomicUsize::new(0);

/// A client of this process, as long as it lasts.
pub(super) struct Counted(());

impl Counted {
    /// Counts one more client. The first that exceeds the limit of the process is in the log.
    pub(super) fn new(client_id: &str) -> Self {
        static LIMIT: OnceLock<usize> = OnceLock::new();
        static IS_LOGGED: AtomicBool = AtomicBool::new(false);
        let clients = CLIENTS.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let limit = *LIMIT.get_or_init(limit);
        if clients > limit && !IS_LOGGED.swap(true, Ordering::Relaxed) {
            log::crowded(client_id, limit);
        }
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        CLIENTS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the number of clients that may lose their connections at the same moment.
fn limit() -> usize {
    let bytes = fs::read_to_string(WMEM_DEFAULT);
    let bytes = bytes.ok().and_then(|bytes| bytes.trim().parse().ok());
    // No warning that nobody could have found out to be right.
    bytes.map_or(usize::MAX, |bytes: usize| bytes / BYTES_PER_CONNECTION)
}
