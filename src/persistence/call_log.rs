//! The log of Paho's calls, since Paho passes on hardly any of their errors.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use paho_mqtt as mqtt;
use tracing::{debug, info, warn};

use super::{call_semantics::VersionMismatch, moved_backlog::MovedBacklog, opening::OpenReport};
use crate::{
    error::{Error, ErrorChain, ErrorKind, log_throttle::LogThrottle},
    paho::{Key, version_name},
};

/// The log of one persistence.
pub(super) struct CallLog {
    store_name: &'static str,
    /// The client id of the last `open`.
    pub(super) client_id: String,
    throttle: Mutex<LogThrottle<ErrorKind>>,
}

impl CallLog {
    pub(super) fn new(store_name: &'static str) -> Self {
        Self {
            store_name,
            client_id: String::new(),
            throttle: Mutex::default(),
        }
    }

    /// Converts the error of a call into Paho's type and logs it.
    ///
    /// Paho drops most of these errors, so the log is the only place that has the reason.
    pub(super) fn log_error<T>(
        &self,
        operation: &str,
        key: &str,
        result: Result<T, Error>,
    ) -> mqtt::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            // Paho asks for records that may not exist: an answer, not a failure.
            let due = (kind != ErrorKind::NotFound)
                .then(|| self.throttle().admit(kind, 1, Instant::now()))
                .flatten();
            macro_rules! log {
                ($level:ident) => {
                    $level!(
                        "db.system.name" = self.store_name,
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

    /// Logs the findings of an opening.
    pub(super) fn opened(&self, server_uri: &str, report: Option<&OpenReport>) {
        let Some(report) = report else {
            warn!(
                "db.system.name" = self.store_name,
                "messaging.client.id" = self.client_id,
                server_uri,
                "persistence opened without the store, which is unavailable; records of an earlier run \
                 are not sent before the next start"
            );
            return;
        };
        warn_of_write_error(
            self.store_name,
            &self.client_id,
            report.write_error.as_ref(),
        );
        for warning in &report.warnings {
            warn!(
                "db.system.name" = self.store_name,
                "messaging.client.id" = self.client_id,
                server_uri,
                "error.type" = warning.kind().as_str(),
                "{}",
                ErrorChain(warning)
            );
        }
        info!(
            "db.system.name" = self.store_name,
            "messaging.client.id" = self.client_id,
            server_uri,
            records = report.records,
            "persistence opened{}{}",
            if report.durability_note.is_some() {
                "; "
            } else {
                ""
            },
            report.durability_note.unwrap_or_default()
        );
        if report.foreign_entries > 0 {
            warn!(
                "db.system.name" = self.store_name,
                "messaging.client.id" = self.client_id,
                server_uri,
                entries = report.foreign_entries,
                "the hash has foreign entries, which Paho did not write; they are ignored"
            );
        }
        self.quarantined(server_uri, report);
        if let Some(key) = report.poison {
            self.poison(server_uri, key);
        }
    }

    /// Warns, if there is a mismatch, that client and records are of different MQTT versions.
    pub(super) fn version_mismatch(&self, mismatch: Option<VersionMismatch>) {
        let (v5_records, does) = match mismatch {
            Some(VersionMismatch::Created { v5_records }) => (v5_records, "was created for"),
            Some(VersionMismatch::Connected { v5_records }) => (v5_records, "connects with"),
            None => return,
        };
        let (records, client) = (version_name(v5_records), version_name(!v5_records));
        warn!(
            "db.system.name" = self.store_name,
            "messaging.client.id" = self.client_id,
            records_version = records,
            "found records of MQTT {records}, but the client {does} MQTT {client}: Paho may reject \
             them, corrupt their payloads or send them twice; set the version that the client \
             connects with in CreateOptionsBuilder::mqtt_version and in Persistence::mqtt_version, \
             which converts the records"
        );
    }

    /// Warns of records that were quarantined or, if the store refused that, are unmovable.
    fn quarantined(&self, server_uri: &str, report: &OpenReport) {
        const MAX_NAMED_KEYS: usize = 10;
        let keys = &report.unreadable;
        if keys.is_empty() {
            return;
        }
        let first = keys.iter().take(MAX_NAMED_KEYS);
        let names: Vec<String> = first.map(Key::to_string).collect();
        warn!(
            "db.system.name" = self.store_name,
            "messaging.client.id" = self.client_id,
            server_uri,
            records = keys.len(),
            first = names.join(" "),
            "found records that Paho cannot read; {}",
            if report.has_unmovable {
                "some could not be moved to the quarantine hash and stay in place"
            } else {
                "moved to the quarantine hash"
            }
        );
    }

    /// Warns of a message that was quarantined since it may be poison.
    fn poison(&self, server_uri: &str, key: Key) {
        warn!(
            "db.system.name" = self.store_name,
            "messaging.client.id" = self.client_id,
            server_uri,
            "record.key" = %key,
            "moved a message to the quarantine hash that was sent on too many connections and never \
             acknowledged"
        );
    }

    fn throttle(&self) -> MutexGuard<'_, LogThrottle<ErrorKind>> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Warns, if there is an error, that the store can be read but takes no writes.
///
/// A function, since `connect` logs before the persistence has a client id.
pub(super) fn warn_of_write_error(store_name: &str, client_id: &str, write_error: Option<&Error>) {
    if let Some(error) = write_error {
        warn!(
            "db.system.name" = store_name,
            "messaging.client.id" = client_id,
            "error.type" = error.kind().as_str(),
            "the store takes no writes: waiting messages can be sent, new ones cannot be stored: \
             {}",
            ErrorChain(error)
        );
    }
}

/// Logs that records were converted, if there were any.
pub(super) fn converted(store_name: &str, client_id: &str, records: usize, to_v5: bool) {
    if records > 0 {
        info!(
            "db.system.name" = store_name,
            "messaging.client.id" = client_id,
            records,
            "converted the records of another MQTT version to MQTT {}",
            version_name(to_v5)
        );
    }
}

/// Warns of backlogs of this client id under other server URIs, which nothing sends, or that they could
/// not be looked for.
pub(super) fn warn_of_moved_backlogs(
    store_name: &str,
    client_id: &str,
    found: Result<Vec<MovedBacklog>, Error>,
) {
    const MAX_NAMED: usize = 10;
    match found {
        Ok(backlogs) if backlogs.is_empty() => {}
        Ok(backlogs) => {
            let records = backlogs.iter().map(|backlog| backlog.records);
            let named = backlogs.iter().take(MAX_NAMED).map(|backlog| {
                let MovedBacklog {
                    server_uri,
                    records,
                } = backlog;
                format!("{server_uri} ({records})")
            });
            warn!(
                "db.system.name" = store_name,
                "messaging.client.id" = client_id,
                records = records.fold(0, usize::saturating_add),
                server_uris = named.collect::<Vec<_>>().join(" "),
                "this client id has records under another server URI, which this client does not send; \
                 move them with Persistence::adopt, or create the client with that URI"
            );
        }
        Err(error) => {
            let error = if error.kind() == ErrorKind::Permission {
                Error::new(
                    ErrorKind::Permission,
                    "look for records of this client id under another server URI",
                )
                .with_reason("the user lacks +scan; docs/redis.md has the ACL line")
                .with_source(error)
            } else {
                error
            };
            warn!(
                "db.system.name" = store_name,
                "messaging.client.id" = client_id,
                "error.type" = error.kind().as_str(),
                "{}",
                ErrorChain(&error)
            );
        }
    }
}
