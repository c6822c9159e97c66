//! Reports store events to the log and the observers.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tracing::{error, info, warn};

use super::{observer::StoreObserver, outbox::Outbox};
use crate::{error::ErrorChain, store::StoreEvent};

/// Runs the log and the observers for the store of one client.
///
/// They are user code, so they have a thread of their own: one that blocks delays no recovery.
pub(super) struct Notifier {
    pub(super) store_name: &'static str,
    pub(super) client_id: String,
    pub(super) observers: Vec<Arc<dyn StoreObserver>>,
    pub(super) outbox: Outbox,
}

impl Notifier {
    /// Delivers events until the persistence is closed.
    pub(super) fn run(&self) {
        loop {
            for event in self.outbox.wait() {
                self.notify(&event);
                if matches!(event, StoreEvent::Closed) {
                    return;
                }
            }
        }
    }

    /// Delivers the events that are queued, and returns true if there were any.
    pub(super) fn deliver_queued(&self) -> bool {
        let events = self.outbox.take();
        for event in &events {
            self.notify(event);
        }
        !events.is_empty()
    }

    /// Logs an event and passes it to each observer.
    ///
    /// A panic in a log subscriber or an observer must not end the thread.
    fn notify(&self, event: &StoreEvent) {
        catch_panic(|| self.log_event(event));
        for observer in &self.observers {
            catch_panic(|| observer.on_event(&self.client_id, event));
        }
    }

    fn log_event(&self, event: &StoreEvent) {
        macro_rules! log {
            ($level:ident, $($rest:tt)*) => {
                $level!(
                    "db.system.name" = self.store_name,
                    "messaging.client.id" = self.client_id,
                    $($rest)*
                )
            };
        }
        match event {
            StoreEvent::Down { error } => log!(
                warn,
                "error.type" = error.kind().as_str(),
                "{} is unavailable; writes are kept in memory until it recovers: {}",
                self.display_name(),
                ErrorChain(&**error)
            ),
            StoreEvent::StillDown {
                error,
                is_new_reason: true,
            } => log!(
                warn,
                "error.type" = error.kind().as_str(),
                "{} is still unavailable, now because: {}",
                self.display_name(),
                ErrorChain(&**error)
            ),
            // Records may have been reported lost a moment ago, so this must not claim that the
            // store has all of them.
            StoreEvent::Up { outage, rewritten } => log!(
                info,
                outage_seconds = seconds(*outage),
                rewritten,
                "{} is available again and has confirmed all pending writes but those that it refuses",
                self.display_name()
            ),
            StoreEvent::BufferWarning { bytes } => log!(
                error,
                bytes,
                "{} of records exist only in memory, since {} is unavailable or refuses them; they \
                 are lost if this process dies",
                ByteSize(*bytes),
                self.display_name()
            ),
            StoreEvent::Lost { records } => log!(
                error,
                records,
                "{} lost records of which this process has no copy; was it flushed, or does its \
                 maxmemory-policy evict?",
                self.display_name()
            ),
            StoreEvent::Refused {
                error,
                records,
                bytes,
            } => log!(
                error,
                records,
                bytes,
                "error.type" = error.kind().as_str(),
                "{} refuses some records although it takes others; {} exist only in memory and are \
                 lost if this process dies: {}",
                self.display_name(),
                ByteSize(*bytes),
                ErrorChain(&**error)
            ),
            StoreEvent::ForeignRecords {
                records,
                removed: true,
            } => log!(
                warn,
                records,
                "{} had records that this process has never known; they are in the quarantine hash now",
                self.display_name()
            ),
            StoreEvent::ForeignRecords { records, .. } => log!(
                error,
                records,
                "{} has records that this client did not write; does another program use its \
                 client id?",
                self.display_name()
            ),
            // Metrics and observers use these; in the log they would be noise. `Lost` is logged for
            // all the records that it counts.
            StoreEvent::StillDown { .. }
            | StoreEvent::Opened { .. }
            | StoreEvent::RecordLost { .. }
            | StoreEvent::RecordRelocated { .. }
            | StoreEvent::Discarded { .. }
            | StoreEvent::Status(_)
            | StoreEvent::Closed => {}
        }
    }

    /// The store's name as people write it.
    fn display_name(&self) -> &'static str {
        if self.store_name == "redis" {
            "Redis"
        } else {
            self.store_name
        }
    }
}

/// Runs user code and drops its panic.
pub(super) fn catch_panic(work: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(work)));
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// A number of bytes, shown in B, KiB or MiB.
struct ByteSize(usize);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: u64 = 1024;
        const MIB: u64 = 1024 * KIB;
        let bytes = u64::try_from(self.0).unwrap_or(u64::MAX);
        let tenths = bytes.saturating_mul(10);
        let (tenths, unit) = match bytes {
            ..KIB => return write!(f, "{bytes} B"),
            KIB..MIB => (tenths / KIB, "KiB"),
            MIB.. => (tenths / MIB, "MiB"),
        };
        write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_size_is_shown_in_largest_unit() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (1_258_292, "1.2 MiB"),
            (3 * 1024 * 1024 * 1024, "3072.0 MiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), shown);
        }
    }
}
