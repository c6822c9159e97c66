//! Tells the log and the observers what happened to the store.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tracing::{error, info, warn};

use super::observer::StoreObserver;
use crate::{error::ErrorChain, store::StoreEvent};

/// Whom to tell, and of whose store.
pub(super) struct Notifier {
    pub(super) store: &'static str,
    pub(super) client_id: String,
    pub(super) observers: Vec<Arc<dyn StoreObserver>>,
}

impl Notifier {
    /// What a subscriber or an observer does wrong must not end the thread that recovers the store.
    pub(super) fn notify(&self, event: &StoreEvent) {
        catch_panic(|| self.log(event));
        for observer in &self.observers {
            catch_panic(|| observer.on_event(&self.client_id, event));
        }
    }

    fn log(&self, event: &StoreEvent) {
        macro_rules! log {
            ($level:ident, $($rest:tt)*) => {
                $level!(
                    "db.system.name" = self.store,
                    "messaging.client.id" = self.client_id,
                    $($rest)*
                )
            };
        }
        match event {
            StoreEvent::Down { error } => log!(
                warn,
                "error.type" = error.kind().as_str(),
                "{} cannot be used; what is published is held in memory until it can: {}",
                self.name(),
                ErrorChain(&**error)
            ),
            StoreEvent::StillDown {
                error,
                is_new_reason: true,
            } => log!(
                warn,
                "error.type" = error.kind().as_str(),
                "{} still cannot be used, for another reason: {}",
                self.name(),
                ErrorChain(&**error)
            ),
            StoreEvent::Up { outage, rewritten } => log!(
                info,
                outage_seconds = seconds(*outage),
                rewritten,
                "{} can be used again, and has everything",
                self.name()
            ),
            StoreEvent::BufferWarning { bytes } => log!(
                error,
                bytes,
                "so much is held in memory only, since {} cannot be used: a crash of this program \
                 loses it",
                self.name()
            ),
            StoreEvent::Lost { records } => log!(
                error,
                records,
                "{} has lost records of which there was no copy here; was it emptied, or does its \
                 maxmemory-policy evict?",
                self.name()
            ),
            StoreEvent::ForeignRecords {
                records,
                removed: true,
            } => log!(
                warn,
                records,
                "{} came back with older contents; what had been removed meanwhile is removed again",
                self.name()
            ),
            StoreEvent::ForeignRecords { records, .. } => log!(
                error,
                records,
                "there are records in {} that this client has not written; does another program use \
                 its client id?",
                self.name()
            ),
            StoreEvent::StillDown { .. }
            | StoreEvent::Opened { .. }
            | StoreEvent::Discarded { .. }
            | StoreEvent::Status(_)
            | StoreEvent::Closed => {}
        }
    }

    /// What a person calls it.
    fn name(&self) -> &'static str {
        if self.store == "redis" {
            "Redis"
        } else {
            self.store
        }
    }
}

/// What it panics with goes no further.
pub(super) fn catch_panic(work: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(work)));
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
