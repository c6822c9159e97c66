//! The set-up of Redis and the records of a client, as opening them would find them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use super::{
    dry_run::DryRun,
    record::{Content, Record},
};
use crate::{
    cache::{LoadChanges, LoadOptions, RecordIndex, SetAsides, load_records},
    error::Error,
    paho::{Key, KeyMap, RecordKind, sort_by_sequence},
    persistence::PersistenceConfig,
    redis::{Diagnosis, RedisReader, server_version},
    store::{Place, Store},
};

/// The set-up of a Redis.
#[derive(Debug)]
pub struct RedisCheck {
    /// The address, without user and password.
    pub address: String,
    /// The properties that `INFO` returns; `None` without the right to it.
    pub facts: Option<BTreeMap<String, String>>,
    /// The faults that the persistence would return as an error, or log as a warning.
    pub problems: Vec<Error>,
}

/// The records of a client.
#[derive(Debug, PartialEq, Eq)]
pub struct RecordsCheck {
    /// Faults that opening would repair or log, and notes for a person.
    pub findings: Vec<Finding>,
    /// The records that Paho would then be handed.
    pub restore: Restore,
}

/// A remarkable thing about records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// A stable name.
    pub code: &'static str,
    /// Names of the entries, sorted.
    pub entries: Vec<Vec<u8>>,
    /// The meaning, and what opening does about it.
    pub meaning: &'static str,
}

/// The weight of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Messages are damaged, lost, doubled or delayed.
    Problem,
    /// Opening copes with it.
    Note,
}

/// The records that opening would hand to Paho.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restore {
    /// Waiting messages by QoS.
    pub publish: [usize; 3],
    /// Waiting commands to subscribe.
    pub subscribe: usize,
    /// Waiting commands to unsubscribe.
    pub unsubscribe: usize,
    /// Messages in flight at QoS 1.
    pub sent_qos_1: usize,
    /// Messages in flight at QoS 2 whose PUBLISH is repeated.
    pub sent_qos_2: usize,
    /// Messages in flight at QoS 2 whose PUBREL is repeated.
    pub released: usize,
    /// Inbound messages whose PUBREL is awaited.
    pub received: usize,
    /// Inbound messages for the application.
    pub undelivered: usize,
    /// Bytes of all values.
    pub bytes: usize,
    /// Records of MQTT 3.1.1 and of MQTT 5.
    pub versions: [usize; 2],
}

impl RedisCheck {
    pub(super) fn new(address: String, diagnosis: Diagnosis) -> Self {
        let Diagnosis { facts, problems } = diagnosis;
        Self {
            address,
            facts,
            problems,
        }
    }

    /// Returns a property of `INFO`.
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.as_ref()?.get(name).map(String::as_str)
    }

    /// Returns name and version of the server, such as `Valkey 9.1.2`.
    #[must_use]
    pub fn server(&self) -> Option<String> {
        server_version(|name| self.fact(name))
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Problem => "problem",
            Self::Note => "note",
        })
    }
}

/// The use of a record, as far as the summary needs it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Message(u8),
    Subscribe,
    Unsubscribe,
    Other,
}

/// Loads the records as opening does, but changes nothing.
pub(super) fn check_records(
    reader: RedisReader,
    name: &str,
    config: &PersistenceConfig,
) -> Result<RecordsCheck, Error> {
    let uses: Arc<Mutex<KeyMap<(Use, usize)>>> = Arc::default();
    let noted = Arc::clone(&uses);
    let mut store = DryRun::new(reader, name, move |key, value| {
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.insert(key, (use_of(key, value), value.len()));
    });
    let mut set_asides = SetAsides::new(&config.set_asides);
    set_asides.note_time(SystemTime::now(), config.clock.since_boot());
    let mut aside = Vec::new();
    for place in Place::BOTH {
        let names = store.set_aside_names(place)?;
        set_asides.load(place, &names);
        aside.push((place, names));
    }
    let entries = store.keys()?;

    let options = LoadOptions {
        // So only one value is in memory at a time.
        cache_limit: 0,
        to_v5: None,
        // The limits of the program are unknown here.
        drops_above: None,
        max_sends: u32::MAX,
        quarantines_poison: false,
        now: SystemTime::now(),
        since_boot: config.clock.since_boot(),
    };
    let mut changes = LoadChanges::default();
    let loaded = load_records(&mut store, (&mut set_asides, &mut changes), options)?;
    let uses = uses.lock().unwrap_or_else(PoisonError::into_inner);
    let restore = summarize(&loaded.index, &uses);
    let mut findings = findings_of_load(entries, &changes.unreadable, store.removed());
    findings.extend(findings_of_index(&loaded.index));
    findings.extend(findings_of_restore(&restore));
    for (place, names) in aside {
        let (code, meaning) = match place {
            Place::Quarantine => (
                "quarantined",
                "records in the quarantine, which Paho never reads",
            ),
            Place::Discarded => (
                "discarded",
                "records that Paho dropped without delivering them",
            ),
        };
        findings.push(Finding {
            severity: Severity::Note,
            code,
            entries: names,
            meaning,
        });
    }
    findings.retain(|finding| !finding.entries.is_empty());
    for finding in &mut findings {
        finding.entries.sort_unstable();
    }
    findings.sort_by_key(|finding| finding.severity);
    Ok(RecordsCheck { findings, restore })
}

fn use_of(key: Key, value: &[u8]) -> Use {
    let record = Record {
        key,
        value: value.to_vec(),
        time: None,
    };
    match record.view().content {
        Content::Message { qos, .. } => Use::Message(qos),
        Content::Subscribe(_) => Use::Subscribe,
        Content::Unsubscribe(_) => Use::Unsubscribe,
        Content::Pubrel | Content::Unreadable => Use::Other,
    }
}

fn finding(
    severity: Severity,
    code: &'static str,
    keys: impl IntoIterator<Item = Key>,
    meaning: &'static str,
) -> Finding {
    let entries = keys.into_iter().map(|key| key.to_string().into_bytes());
    Finding {
        severity,
        code,
        entries: entries.collect(),
        meaning,
    }
}

/// The entries that opening would not hand over.
fn findings_of_load(
    entries: Vec<Vec<u8>>,
    unreadable: &BTreeSet<Key>,
    removed: &[Key],
) -> Vec<Finding> {
    let is_foreign = |entry: &Vec<u8>| str::from_utf8(entry).ok().and_then(Key::parse).is_none();
    let others = removed.iter().filter(|key| !unreadable.contains(key));
    let (expired, doubled): (Vec<Key>, Vec<Key>) =
        others.partition(|key| key.kind == RecordKind::Command);
    vec![
        finding(
            Severity::Problem,
            "unreadable",
            unreadable.iter().copied(),
            "Paho could not read these records; opening moves them to the quarantine",
        ),
        Finding {
            severity: Severity::Problem,
            code: "foreign",
            entries: entries.into_iter().filter(is_foreign).collect(),
            meaning: "Paho does not write such entries; they stay, and Paho never sees them",
        },
        finding(
            Severity::Note,
            "expired",
            expired,
            "the message expiry has passed; opening removes these messages",
        ),
        finding(
            Severity::Note,
            "duplicate",
            doubled,
            "the same message is there in both versions of MQTT; opening removes this record",
        ),
    ]
}

/// The numbers and packet ids that opening would change, or that stand in each other's way.
fn findings_of_index(index: &RecordIndex) -> Vec<Finding> {
    let of_kind = |kind: RecordKind| {
        let keys = index.keys().filter(move |key| key.kind == kind);
        keys.collect::<Vec<Key>>()
    };
    let shared = index.shared_packet_ids().into_iter().map(|(key, _)| key);
    let has_pair =
        |key: &Key| !key.is_queue_record() && !key.v5 && index.contains(key.other_version());
    let is_stale = |key: &Key| {
        let publish = key.with_kind(RecordKind::SentPublish);
        !index.contains(publish) && !index.contains(publish.other_version())
    };
    let mut wrapped = Vec::new();
    for kind in [RecordKind::Command, RecordKind::Undelivered] {
        let mut keys = of_kind(kind);
        if sort_by_sequence(&mut keys) {
            wrapped.extend(keys.first().copied());
        }
    }
    let zero = of_kind(RecordKind::Command).into_iter();
    vec![
        finding(
            Severity::Problem,
            "version_pair",
            index.keys().filter(has_pair),
            "another message has this packet id in the other version of MQTT; both are sent under one id",
        ),
        finding(
            Severity::Problem,
            "stale_pubrel",
            of_kind(RecordKind::SentPubrel).into_iter().filter(is_stale),
            "there is no PUBLISH for this PUBREL; Paho sends it for nothing",
        ),
        finding(
            Severity::Note,
            "shared_packet_id",
            shared,
            "another message has this packet id; opening gives these commands ids of their own",
        ),
        finding(
            Severity::Note,
            "wrapped",
            wrapped,
            "the numbers begin here, and have wrapped from 999999 to 0; opening counts from 1",
        ),
        finding(
            Severity::Note,
            "command_zero",
            zero.filter(|key| key.is_command_zero()),
            "Paho removes this number at each connect; opening gives it another name",
        ),
    ]
}

/// Limits and mixtures that only the whole shows.
fn findings_of_restore(restore: &Restore) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |is_found: bool, severity, code, entry: String, meaning| {
        if is_found {
            findings.push(Finding {
                severity,
                code,
                entries: vec![entry.into_bytes()],
                meaning,
            });
        }
    };
    let ids = restore.packet_ids();
    add(
        ids > PACKET_IDS,
        Severity::Problem,
        "over_packet_ids",
        format!("{ids} messages"),
        "there are 65535 packet ids for messages at QoS 1 and 2",
    );
    let [v3, v5] = restore.versions;
    add(
        v3 > 0 && v5 > 0,
        Severity::Note,
        "both_versions",
        format!("{v3} of 3.1.1, {v5} of 5"),
        "records of both versions of MQTT; create the client with the version that it connects with",
    );
    findings
}

/// Number of packet ids.
const PACKET_IDS: usize = 65_535;

impl Restore {
    /// Number of messages that need a packet id.
    #[must_use]
    pub fn packet_ids(&self) -> usize {
        let [_, qos_1, qos_2] = self.publish;
        [
            qos_1,
            qos_2,
            self.subscribe,
            self.unsubscribe,
            self.sent_qos_1,
            self.sent_qos_2,
            self.released,
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }
}

fn summarize(index: &RecordIndex, uses: &KeyMap<(Use, usize)>) -> Restore {
    let mut restore = Restore::default();
    let mut add = |counter: fn(&mut Restore) -> &mut usize, number: usize| {
        let counter = counter(&mut restore);
        *counter = counter.saturating_add(number);
    };
    for key in index.keys() {
        let Some((found, length)) = uses.get(&key) else {
            continue;
        };
        if key.v5 {
            add(|restore| &mut restore.versions[1], 1);
        } else {
            add(|restore| &mut restore.versions[0], 1);
        }
        add(|restore| &mut restore.bytes, *length);
        let pubrel = key.with_kind(RecordKind::SentPubrel);
        let is_released = index.contains(pubrel) || index.contains(pubrel.other_version());
        match (key.kind, found) {
            (RecordKind::Command, Use::Message(0)) => add(|restore| &mut restore.publish[0], 1),
            (RecordKind::Command, Use::Message(1)) => add(|restore| &mut restore.publish[1], 1),
            (RecordKind::Command, Use::Message(_)) => add(|restore| &mut restore.publish[2], 1),
            (RecordKind::Command, Use::Unsubscribe) => add(|restore| &mut restore.unsubscribe, 1),
            (RecordKind::Command, _) => add(|restore| &mut restore.subscribe, 1),
            // Its PUBREL counts.
            (RecordKind::SentPublish, _) if is_released => {}
            (RecordKind::SentPublish, Use::Message(2)) => add(|restore| &mut restore.sent_qos_2, 1),
            (RecordKind::SentPublish, _) => add(|restore| &mut restore.sent_qos_1, 1),
            (RecordKind::SentPubrel, _) => add(|restore| &mut restore.released, 1),
            (RecordKind::ReceivedPublish, _) => add(|restore| &mut restore.received, 1),
            (RecordKind::Undelivered, _) => add(|restore| &mut restore.undelivered, 1),
        }
    }
    restore
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key")
    }

    /// An index with these records, whose commands have these packet ids.
    fn index(records: &[(&str, i32)]) -> RecordIndex {
        let mut index = RecordIndex::with_capacity(records.len(), 0);
        for (name, id) in records {
            let key = key(name);
            let int = |value: i32| value.to_ne_bytes();
            let properties: &[u8] = if key.v5 { b"\0" } else { b"" };
            let value = [
                &int(3)[..],
                &int(*id),
                b"t\0",
                &int(0),
                &int(1),
                &int(0),
                properties,
            ];
            index.insert_loaded(key, value.concat());
        }
        index
    }

    /// The entries of each finding that has any.
    fn found(findings: &[Finding]) -> String {
        let findings = findings
            .iter()
            .filter(|finding| !finding.entries.is_empty());
        let findings = findings.map(|finding| {
            let mut entries = finding.entries.clone();
            entries.sort_unstable();
            let entries = entries.iter().map(|entry| String::from_utf8_lossy(entry));
            let entries = entries.collect::<Vec<_>>().join(" ");
            format!("{}: {entries}", finding.code)
        });
        findings.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn orderly_records_have_no_findings() {
        let index = index(&[
            ("c-1", 7),
            ("c5-2", 8),
            ("s-3", 0),
            ("sc5-3", 0),
            ("r-1", 0),
        ]);
        assert_eq!(found(&findings_of_index(&index)), "");
    }

    #[test]
    fn numbers_in_each_others_way_are_found() {
        for (records, expected) in [
            (&[("c-1", 7), ("c-2", 7)][..], "shared_packet_id: c-2"),
            (&[("c-1", 7), ("s-7", 0)], "shared_packet_id: c-1"),
            (&[("s-7", 0), ("s5-7", 0)], "version_pair: s-7"),
            (&[("r5-7", 0), ("r-7", 0)], "version_pair: r-7"),
            (&[("sc-7", 0)], "stale_pubrel: sc-7"),
            (
                &[("c-0", 1), ("c-999999", 2)],
                "wrapped: c-999999; command_zero: c-0",
            ),
            (&[("q-0", 1), ("q-999999", 2)], "wrapped: q-999999"),
        ] {
            assert_eq!(found(&findings_of_index(&index(records))), expected);
        }
    }

    #[test]
    fn restore_counts_messages_once() {
        let names = [
            "c-1", "c5-2", "c-3", "s-3", "sc-3", "s5-4", "s-5", "r-6", "q-7",
        ];
        let index = index(&names.map(|name| (name, 0)));
        let uses = [
            Use::Message(0),
            Use::Message(2),
            Use::Subscribe,
            Use::Message(2),
            Use::Other,
            Use::Message(2),
            Use::Message(1),
            Use::Message(2),
            Use::Message(1),
        ];
        let uses = names.iter().zip(uses);
        let uses = uses.map(|(name, found)| (key(name), (found, 10)));
        let expected = Restore {
            publish: [1, 0, 1],
            subscribe: 1,
            unsubscribe: 0,
            sent_qos_1: 1,
            sent_qos_2: 1,
            released: 1,
            received: 1,
            undelivered: 1,
            bytes: 90,
            versions: [7, 2],
        };
        assert_eq!(summarize(&index, &uses.collect()), expected);
        assert_eq!(expected.packet_ids(), 5);
        assert_eq!(
            found(&findings_of_restore(&expected)),
            "both_versions: 7 of 3.1.1, 2 of 5"
        );
    }

    #[test]
    fn more_messages_than_packet_ids_are_found() {
        let restore = |waiting| Restore {
            publish: [1_000_000, waiting, 0],
            sent_qos_1: 5,
            ..Restore::default()
        };
        assert_eq!(found(&findings_of_restore(&restore(65_530))), "");
        assert_eq!(
            found(&findings_of_restore(&restore(65_531))),
            "over_packet_ids: 65536 messages"
        );
    }
}
