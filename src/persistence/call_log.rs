//! What the log is told, since Paho does not pass most of it on.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use paho_mqtt as mqtt;
use tracing::{debug, info, warn};

use super::{call_semantics::VersionMismatch, lifecycle::OpenReport};
use crate::{
    error::{Error, ErrorChain, ErrorKind, log_throttle::LogThrottle},
    paho::Key,
};

/// The log of one persistence.
pub(super) struct CallLog {
    store: &'static str,
    /// As it was opened for, so that the log can name it.
    pub(super) client_id: String,
    throttle: Mutex<LogThrottle>,
}

impl CallLog {
    pub(super) fn new(store: &'static str) -> Self {
        Self {
            store,
            client_id: String::new(),
            throttle: Mutex::default(),
        }
    }

    /// Turns an error into Paho's, and tells the log of it, since most of them Paho does not pass on.
    pub(super) fn log_error<T>(
        &self,
        operation: &str,
        key: &str,
        result: Result<T, Error>,
    ) -> mqtt::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            // A record that is not there is an answer.
            let due = (kind != ErrorKind::NotFound)
                .then(|| self.throttle().admit(kind, Instant::now()))
                .flatten();
            macro_rules! log {
                ($level:ident) => {
                    $level!(
                        "db.system.name" = self.store,
                        "db.operation.name" = operation,
                        "messaging.client.id" = self.client_id,
                        key,
                        "error.type" = kind.as_str(),
                        suppressed = due,
                        "{}",
                        ErrorChain(&error)
                    )
                };
            }
            if due.is_some() {
                log!(warn);
            } else {
                log!(debug);
            }
            error.into()
        })
    }

    /// What opening found.
    pub(super) fn opened(&self, server_uri: &str, found: &OpenReport) {
        warn_of_write_error(self.store, &self.client_id, found.full.as_ref());
        for remark in &found.remarks {
            warn!(
                "db.system.name" = self.store,
                "messaging.client.id" = self.client_id,
                server_uri,
                "error.type" = remark.kind().as_str(),
                "{}",
                ErrorChain(remark)
            );
        }
        info!(
            "db.system.name" = self.store,
            "messaging.client.id" = self.client_id,
            server_uri,
            records = found.records,
            "the persistence is open{}{}",
            if found.keeps.is_some() { "; " } else { "" },
            found.keeps.unwrap_or_default()
        );
        if found.foreign > 0 {
            warn!(
                "db.system.name" = self.store,
                "messaging.client.id" = self.client_id,
                server_uri,
                entries = found.foreign,
                "there are entries that Paho did not write; they are left as they are"
            );
        }
        self.quarantined(server_uri, &found.unreadable);
    }

    pub(super) fn version_mismatch(&self, mismatch: Option<VersionMismatch>) {
        let (v5_records, does) = match mismatch {
            Some(VersionMismatch::Created { v5_records }) => (v5_records, "was created for"),
            Some(VersionMismatch::Connected { v5_records }) => (v5_records, "connects with"),
            None => return,
        };
        let (records, client) = if v5_records {
            ("5", "3.1.1")
        } else {
            ("3.1.1", "5")
        };
        warn!(
            "db.system.name" = self.store,
            "messaging.client.id" = self.client_id,
            records_version = records,
            "there are records of MQTT {records}, and the client {does} MQTT {client}: \
             Paho may refuse them, change their payloads or send them twice; call \
             CreateOptionsBuilder::mqtt_version with the version that the client connects with"
        );
    }

    /// Records that were set aside, or left where there was no room for that.
    fn quarantined(&self, server_uri: &str, (keys, left): &(Vec<Key>, bool)) {
        const NAMED: usize = 10;
        if keys.is_empty() {
            return;
        }
        let names: Vec<String> = keys.iter().take(NAMED).map(Key::to_string).collect();
        warn!(
            "db.system.name" = self.store,
            "messaging.client.id" = self.client_id,
            server_uri,
            records = keys.len(),
            first = names.join(" "),
            "there are records that Paho could not read; {}",
            if *left {
                "some stay where they are, since the store refused to move them"
            } else {
                "they are set aside"
            }
        );
    }

    fn throttle(&self) -> MutexGuard<'_, LogThrottle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn warn_of_write_error(store: &str, client_id: &str, full: Option<&Error>) {
    if let Some(error) = full {
        warn!(
            "db.system.name" = store,
            "messaging.client.id" = client_id,
            "error.type" = error.kind().as_str(),
            "what waits can be sent, but nothing new can be accepted: {}",
            ErrorChain(error)
        );
    }
}
