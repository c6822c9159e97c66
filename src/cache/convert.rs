//! Converts the records of the other MQTT version, which Paho could not restore.

use std::{collections::HashSet, time::SystemTime};

use super::{
    batched_read::read_or_split,
    drop_loaded::is_refused,
    write::{WriteAck, write},
};
use crate::{
    error::Error,
    paho::{
        Key, KeyMap, KeyName, Publish, RecordKind, convert, is_expired, is_valid_record,
        version_name,
    },
    store::{Change, Store},
};

/// The number of records per exchange.
const RECORDS_PER_STEP: usize = 32;

/// The result of a conversion.
#[derive(Default)]
pub(crate) struct Conversion {
    /// The keys of all records, but for those that are left.
    pub(crate) keys: Vec<Key>,
    /// Number of records that were converted.
    pub(crate) converted: usize,
    /// Records that cannot be converted: their version has no such form of them, or another message has
    /// the key.
    pub(crate) left: Vec<Key>,
}

/// The old key of a record and, unless it is only removed, its new key and value.
type ConvertedRecord = (KeyName, Option<(KeyName, Vec<u8>)>);

/// What becomes of a record of the other version.
enum Step {
    /// It gets the key and this value of the wanted version.
    Convert(Vec<u8>),
    /// The wanted version has it already, or it is the PUBREL of a message that is left.
    Remove,
    /// Opening deals with it: it has expired, or is unreadable.
    Keep,
    /// It cannot be converted.
    Leave,
}

/// Converts the records among `keys` that are not of this version.
///
/// Each record changes in one step, so that after a crash the next attempt converts the rest.
pub(crate) fn convert_records(
    store: &mut impl Store,
    mut keys: Vec<Key>,
    to_v5: bool,
    now: SystemTime,
) -> Result<Conversion, Error> {
    // A PUBLISH comes before its PUBREL.
    keys.sort_unstable();
    let (keys, others): (Vec<Key>, Vec<Key>) = keys.into_iter().partition(|key| key.v5 == to_v5);
    let present: HashSet<Key> = keys.iter().copied().collect();
    let mut conversion = Conversion {
        keys,
        ..Conversion::default()
    };
    for batch in others.chunks(RECORDS_PER_STEP) {
        let twins = batch.iter().map(|key| key.other_version());
        let twins = twins.filter(|key| present.contains(key));
        let wanted: Vec<Key> = batch.iter().copied().chain(twins).collect();
        let values = read_or_split(store, &wanted)?;
        let values: KeyMap<Option<Vec<u8>>> = wanted.into_iter().zip(values).collect();
        let value_of = |key: Key| values.get(&key)?.as_deref();
        let mut steps = Vec::new();
        for key in batch.iter().copied() {
            // Removed since it was listed.
            let Some(value) = value_of(key) else { continue };
            let is_of_left_publish = key.kind == RecordKind::SentPubrel
                && conversion
                    .left
                    .contains(&key.with_kind(RecordKind::SentPublish));
            let twin = value_of(key.other_version());
            match step(key, value, twin, is_of_left_publish, now) {
                Step::Convert(value) => {
                    conversion.keys.push(key.other_version());
                    steps.push((key.to_name(), Some((key.other_version().to_name(), value))));
                }
                Step::Remove => steps.push((key.to_name(), None)),
                Step::Keep => conversion.keys.push(key),
                Step::Leave => conversion.left.push(key),
            }
        }
        write_steps(store, &steps).map_err(|error| refusal(error, to_v5))?;
        conversion.converted = conversion.converted.saturating_add(steps.len());
    }
    Ok(conversion)
}

fn step(
    key: Key,
    value: &[u8],
    twin: Option<&[u8]>,
    is_of_left_publish: bool,
    now: SystemTime,
) -> Step {
    if !is_valid_record(key, value) || is_expired(key, value, || now) {
        return Step::Keep;
    }
    if is_of_left_publish {
        return Step::Remove;
    }
    match (convert(key, value), twin) {
        (Some(converted), None) => Step::Convert(converted),
        (Some(converted), Some(twin)) if is_same(key.other_version(), &converted, twin) => {
            Step::Remove
        }
        _ => Step::Leave,
    }
}

/// Returns true if two records of one key have the same message; properties do not count.
fn is_same(key: Key, one: &[u8], other: &[u8]) -> bool {
    let publish = Publish::parse(one, key.v5);
    match key.kind {
        RecordKind::SentPubrel => true,
        RecordKind::SentPublish | RecordKind::ReceivedPublish => {
            publish.is_some() && publish == Publish::parse(other, key.v5)
        }
        RecordKind::Command | RecordKind::Undelivered => one == other,
    }
}

/// Removes each record, together with a put of its converted form, if it has one.
fn write_steps(store: &mut impl Store, steps: &[ConvertedRecord]) -> Result<(), Error> {
    let groups = steps.iter().map(|(old, new)| {
        let put = new.as_ref().map(|(key, value)| Change::Put { key, value });
        let remove = Change::Remove { key: old };
        put.into_iter().chain([remove]).collect()
    });
    let groups: Vec<Vec<Change<'_>>> = groups.collect();
    let groups: Vec<&[Change<'_>]> = groups.iter().map(Vec::as_slice).collect();
    if groups.is_empty() {
        return Ok(());
    }
    write(store, &groups, WriteAck::Confirmed { sent: &[] })
}

/// Names the cure, if the store refuses the writes of a conversion.
fn refusal(error: Error, to_v5: bool) -> Error {
    if !is_refused(&error) {
        return error;
    }
    let (from, to) = (version_name(!to_v5), version_name(to_v5));
    let attempt = format!("convert the records of MQTT {from} to MQTT {to}");
    let reason = format!(
        "the store takes no writes; correct that, or start with MQTT {from} until all of them are sent"
    );
    Error::new(error.kind(), attempt)
        .with_reason(reason)
        .with_source(error)
}
