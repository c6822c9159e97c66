//! The table of all metrics: from it come registering, creating and removing series, the lean profile and the docs.
//!
//! An entry is the words of the docs, the name without the prefix, the type of the handle with its labels beside
//! `client_id`, the form in the lean profile, the help, and the option that sets the buckets of a histogram.

use prometheus::{Gauge, Histogram, IntCounter, IntGauge, core::Collector};

use super::{
    family::{Each, Families, FamilyOptions, Handle, Info, Metric, metrics},
    labels::{BuildLabels, KindLabel, MissLabel, OperationLabel, QosLabel},
    lean::Lean::{Absent, Kept, NonZeroOr, Only},
};
use crate::{
    error::ErrorKind,
    paho::{DropReason, RecordKind},
    store::{Place, SetAsideLoss},
};

metrics! {
    /// The series of Paho's calls and of the records that wait.
    CallSeries of CallFamilies {
        /// how long each call took, and so held Paho's lock; on Linux without the time that the device was suspended
        operation_duration_seconds: Each<OperationLabel, Histogram>, Only("operation", &["put"]),
            "Duration of Paho's calls to the persistence, in seconds", latency_buckets;
        /// calls that returned an error; a failure of Redis that only leaves records buffered is not one
        operation_errors_total: Each<(OperationLabel, ErrorKind), IntCounter>, NonZeroOr("error", &["damaged", "lost"]),
            "Calls that returned an error";
        /// `get` and `remove` of a record that does not exist; normal for `remove`: three of four
        operation_misses_total: Each<MissLabel, IntCounter>, Absent, "Calls for a missing record; normal for remove";
        /// calls that have not returned; one that stays shows a stuck store
        operations_in_progress: IntGauge, Kept, "Calls in progress";
        /// the backlog, in records
        records: Each<KindLabel, IntGauge>, Only("kind", &["command", "sent_publish"]), "Records waiting, by kind";
        /// the backlog, in bytes
        record_bytes: Each<KindLabel, IntGauge>, Only("kind", &["command", "sent_publish"]),
            "Size of waiting records in bytes";
        /// how long the oldest record has been waiting, on Linux with the time that the device was suspended; a lower
        /// bound after a restart
        oldest_record_age_seconds: Each<KindLabel, Gauge>, Only("kind", &["command", "sent_publish", "undelivered"]),
            "Minimum age of the oldest waiting record, in seconds";
        /// records that were put and did not exist before
        added_records_total: Each<KindLabel, IntCounter>, Absent, "New records put";
        /// records that were removed for any reason, or replaced by one with another key
        removed_records_total: Each<KindLabel, IntCounter>, Absent, "Records removed";
        /// the size of each value that was put
        value_size_bytes: Histogram, Absent, "Size of put values in bytes", size_buckets;
        /// when the persistence was last opened, by the device's clock
        opened_timestamp_seconds: Gauge, Kept, "Unix time of the last open, by the device's clock";
        /// from the last open to the end of the last call that belongs to restoring
        restore_duration_seconds: Gauge, Absent, "Time from the last open to the last call that restores, in seconds";
        /// always 1; `server` is name and version of the server, such as `Valkey 9.1.2`, and empty until it is known
        build_info: Info<BuildLabels>, Kept, "Crate version, store and server of the client";
    }
}

metrics! {
    /// The series that count messages to the broker, and what became of them.
    ///
    /// A message is accepted or restored, and then waits until it is delivered, dropped or lost.
    MessageSeries of MessageFamilies {
        /// messages that `publish` accepted, as far as Paho puts them: all, but for QoS 0 with `persist_qos0(false)`
        accepted_messages_total: IntCounter, Kept, "Messages that publish accepted and Paho put";
        /// records that the last open found
        restored_records: Each<KindLabel, IntGauge>, Only("kind", &["command", "sent_publish"]),
            "Records restored at the last open";
        /// messages that wait to be sent or acknowledged, restored ones too
        waiting_messages: IntGauge, Kept, "Messages that wait to be sent or acknowledged";
        /// messages that the broker acknowledged; at QoS 0 those that Paho took up to send
        delivered_messages_total: Each<QosLabel, IntCounter>, Kept,
            "Messages that the broker acknowledged, or that were sent at QoS 0";
        /// records that Paho removed although their messages were not delivered
        dropped_records_total: Each<(RecordKind, DropReason), IntCounter>, NonZeroOr("kind", &["command", "sent_publish"]),
            "Records that Paho removed although they were not delivered";
        /// messages that were lost since the store lost their record and no copy was in memory
        lost_messages_total: IntCounter, Kept, "Messages that the store lost without a copy in memory";
    }
}

metrics! {
    /// The series of what only the client knows.
    ConnectionSeries of ConnectionFamilies {
        /// 1 while the client is connected to the broker. This and the next five are of `Client` alone: no call shows
        /// them to a persistence
        broker_up: IntGauge, Absent, "Client is connected to the broker (1) or not (0)";
        /// since when `broker_up` has its value, by the device's clock
        broker_changed_timestamp_seconds: Gauge, Absent,
            "Unix time of the last change of broker_up, by the device's clock";
        /// when the client tries to connect again, by the device's clock; 0 if it waits for no attempt
        broker_next_attempt_timestamp_seconds: Gauge, Absent,
            "Unix time of the next attempt to connect, by the device's clock; 0 if none is waited for";
        /// connections that were made
        broker_connections_total: IntCounter, Absent, "Connections that were made";
        /// attempts to connect that failed
        broker_failed_attempts_total: IntCounter, Absent, "Attempts to connect that failed";
        /// messages that `publish` refused at a [limit](reliable-client.md#how-much-may-wait)
        refused_messages_total: IntCounter, Absent, "Messages that publish refused at a limit";
    }
}

metrics! {
    /// The series of what only the store knows, which `StoreEvent`s feed.
    StoreSeries of StoreFamilies {
        /// 1 while the store can be used; 0 while it cannot and what is put stays in memory
        store_up: IntGauge, Kept, "Store is available (1) or unavailable (0)";
        /// since when `store_up` has its value, by the device's clock
        store_changed_timestamp_seconds: Gauge, Kept,
            "Unix time of the last change of store_up, by the device's clock";
        /// 1 for the kind of the last error, while the store is down; absent while it is up
        store_down_info: Info<ErrorKind>, Kept, "Last error of an unavailable store";
        /// how often the store became usable again
        store_reconnects_total: IntCounter, Kept, "Recoveries of the store after an outage";
        /// attempts at that which failed
        store_reconnect_failures_total: IntCounter, Absent, "Failed recovery attempts";
        /// store errors that were not passed to Paho: one when the store goes down, and one per failed attempt
        store_errors_total: Each<ErrorKind, IntCounter>, NonZeroOr("error", &[]),
            "Store errors that were not passed to Paho";
        /// records that were written and that the store has not confirmed yet
        store_unconfirmed_records: IntGauge, Absent, "Records sent but not yet confirmed";
        /// the same in bytes
        store_unconfirmed_bytes: IntGauge, Absent, "Size of records sent but not yet confirmed, in bytes";
        /// records that exist only in memory because the store is down or refuses them: a crash of the program loses
        /// them
        store_held_records: IntGauge, Absent,
            "Records only in memory because the store is unavailable or refuses them";
        /// the same in bytes
        store_held_bytes: IntGauge, Kept,
            "Size of records only in memory because the store is unavailable or refuses them, in bytes";
        /// the size of the records of all messages that wait to be sent or acknowledged
        store_waiting_bytes: IntGauge, Kept, "Size of the records of all waiting messages, in bytes";
        /// messages that Paho has not sent yet: the fill of its buffer
        store_queued_messages: IntGauge, Kept, "Waiting messages that Paho has not sent yet";
        /// the option `max_buffered_messages`; 0 if it is not set
        store_limit_messages: IntGauge, Kept, "Messages that Paho buffers at most; 0 if not set";
        /// the option `byte_budget`; 0 if it is not set
        store_limit_bytes: IntGauge, Kept, "Limit of store_waiting_bytes, in bytes; 0 if not set";
        /// records of an earlier run that the store has, which was unavailable at open: the next start [restores
        /// them](reliable-client.md#start-without-redis)
        store_earlier_records: IntGauge, Absent, "Records of an earlier run that wait for the next start";
        /// messages in flight that were sent on more connections than `max_sends` and never acknowledged: [a poison
        /// message](reliable-client.md#a-poison-message), or one behind it
        store_poison_suspects: IntGauge, Kept, "Messages in flight that were sent on more connections than max_sends";
        /// records that disappeared from the store and of which no copy was in memory: their messages are lost
        store_lost_records_total: IntCounter, Kept, "Records lost by the store without a copy in memory";
        /// records that were quarantined: those unreadable at open, unmovable ones included, which are counted when the
        /// series begins, so no rate shows them; those that Redis came back with after an outage and that the program
        /// has never known; and a suspected poison message
        store_quarantined_records_total: IntCounter, Kept,
            "Records quarantined: unreadable at open, or unknown when the store came back";
        /// records in the quarantine, and [dead letters](dead-letters.md): records that Paho dropped
        store_set_aside_records: Each<Place, IntGauge>, Absent, "Records that are set aside";
        /// the same in bytes
        store_set_aside_bytes: Each<Place, IntGauge>, Absent, "Size of records that are set aside, in bytes";
        /// records that were set aside
        store_set_asides_total: Each<Place, IntCounter>, Absent, "Records that were set aside";
        /// records that were set aside, or were to be, and are gone without having been published or removed
        store_set_aside_losses_total: Each<(Place, SetAsideLoss), IntCounter>, Absent,
            "Records that were set aside, or were to be, and are gone";
        /// when the store was last known to have everything that it does not refuse, by the device's clock; 0 before
        /// the first check. While it refuses a record, no check moves it, only a confirmed write
        store_last_confirmed_timestamp_seconds: Gauge, Kept,
            "Unix time at which the store last had every record, by the device's clock";
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::metrics::{catalog::all_metrics, family::PREFIX};

    fn code<'a>(words: impl IntoIterator<Item = &'a &'a str>) -> String {
        let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
        words.join(", ")
    }

    fn docs_row(metric: &Metric) -> String {
        let lean = match metric.lean {
            Absent => String::new(),
            Kept => "yes".to_owned(),
            Only(_, values) => code(values),
            NonZeroOr(_, []) => "each from its first on".to_owned(),
            NonZeroOr(_, values) => format!("{}; others from their first on", code(values)),
        };
        let cells = [
            format!("`{PREFIX}{}`", metric.name),
            metric.kind.to_owned(),
            code(metric.labels),
            lean,
            metric.docs.trim().to_owned(),
        ];
        let cells = cells.map(|cell| {
            if cell.is_empty() {
                cell
            } else {
                format!("{cell} ")
            }
        });
        format!("| {}|\n", cells.join("| "))
    }

    #[test]
    fn docs_match_table_of_metrics() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let docs = fs::read_to_string(path).expect("docs/metrics.md");
        let (before, rest) = docs
            .split_once("\n|---|---|---|---|---|\n")
            .expect("the table");
        let (_, after) = rest.split_once("\n\n").expect("the end of the table");
        let rows: String = all_metrics().map(docs_row).collect();
        let expected = format!("{before}\n|---|---|---|---|---|\n{rows}\n{after}");
        if std::env::var_os("UPDATE_METRICS_DOCS").is_some() {
            fs::write(path, &expected).expect("written");
        }
        assert_eq!(
            docs, expected,
            "UPDATE_METRICS_DOCS=1 writes the table again"
        );
    }
}
