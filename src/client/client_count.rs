//! [`ClientCount`]: counts the clients of this process, and warns if they are more than Paho survives.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{log, unread_bytes::most_unread_bytes};

static CLIENTS: AtomicUsize = AtomicUsize::new(0);

/// A client of this process, as long as it lasts.
pub(super) struct ClientCount(());

impl ClientCount {
    /// Counts one more client. The first that exceeds the limit of the process is in the log.
    pub(super) fn add(client_id: &str) -> Self {
        static IS_LOGGED: AtomicBool = AtomicBool::new(false);
        let clients = CLIENTS.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        // Each connection that is lost is a byte that waits to be read.
        let limit = most_unread_bytes();
        if clients > limit && !IS_LOGGED.swap(true, Ordering::Relaxed) {
            log::too_many_clients(client_id, limit);
        }
        Self(())
    }
}

impl Drop for ClientCount {
    fn drop(&mut self) {
        CLIENTS.fetch_sub(1, Ordering::Relaxed);
    }
}
