//! Drops waiting messages at open that exceed the byte budget.

use super::{
    batched_read::read_or_split,
    drop_loaded::{drop_loaded, is_refused},
    index::RecordIndex,
    load_changes::LoadChanges,
    set_aside::name_for,
    set_asides::SetAsides,
    write::{WriteAck, write},
};
use crate::{
    error::Error,
    paho::{DropReason, Key, KeyMap, RecordKind, sort_by_sequence},
    store::{Change, Place, SetAsideLoss, Store},
};

/// Number of messages that are set aside per exchange.
const COPY_BATCH: usize = 64;

/// Returns the waiting messages that exceed the budget, in the order in which they are to be dropped: the
/// lowest QoS first, and of one QoS the oldest.
///
/// Messages in flight count, and are never dropped: the broker may have them.
fn excess(index: &RecordIndex, qos_of: &KeyMap<u8>, budget: usize) -> Vec<Key> {
    let mut bytes = index.waiting.totals().bytes;
    if bytes <= budget {
        return Vec::new();
    }
    let commands = index.keys().filter(|key| key.kind == RecordKind::Command);
    let mut commands: Vec<Key> = commands.collect();
    sort_by_sequence(&mut commands);
    let messages = commands.into_iter();
    let messages = messages.filter_map(|key| Some((*qos_of.get(&key)?, key)));
    let mut messages: Vec<(u8, Key)> = messages.collect();
    messages.sort_by_key(|(qos, _)| *qos);
    let dropped = messages.into_iter().map_while(|(_, key)| {
        let is_over = bytes > budget;
        bytes = bytes.saturating_sub(index.length(key).unwrap_or_default());
        is_over.then_some(key)
    });
    dropped.collect()
}

/// Drops waiting messages until what is left fits into the budget, and sets aside as many of them as may
/// be: the last ones.
///
/// If the store refuses to remove them, they are restored.
pub(super) fn drop_over_budget(
    store: &mut impl Store,
    (index, changes, set_asides): (&mut RecordIndex, &mut LoadChanges, &mut SetAsides),
    (qos_of, budget): (&KeyMap<u8>, usize),
) -> Result<(), Error> {
    const PLACE: Place = Place::Discarded;
    const REASON: DropReason = DropReason::OverBudget;
    let dropped = excess(index, qos_of, budget);
    let newest_first = dropped.iter().rev();
    let lengths = newest_first.map(|key| index.length(*key).unwrap_or_default());
    let (kept, loss) = set_asides.newest_within_limits(PLACE, lengths);
    let (gone, copied) = dropped.split_at(dropped.len().saturating_sub(kept));
    let removed = drop_loaded(store, (index, changes), gone, REASON)?;
    if set_asides.is_on(PLACE) {
        changes.losses.set_aside_lost(PLACE, loss, removed);
    }
    if removed < gone.len() {
        return Ok(());
    }
    for keys in copied.chunks(COPY_BATCH) {
        let is_copied = copy(store, (changes, set_asides), keys)?;
        let removed = drop_loaded(store, (index, changes), keys, REASON)?;
        if !is_copied {
            let losses = &mut changes.losses;
            losses.set_aside_lost(PLACE, SetAsideLoss::Refused, removed);
        }
        if removed < keys.len() {
            break;
        }
    }
    Ok(())
}

/// Sets copies of these records aside; returns false if the store refuses them.
fn copy(
    store: &mut impl Store,
    (changes, set_asides): (&mut LoadChanges, &mut SetAsides),
    keys: &[Key],
) -> Result<bool, Error> {
    let place = Place::Discarded;
    let values = read_or_split(store, keys)?;
    let found = keys.iter().zip(&values);
    let found = found.filter_map(|(key, value)| Some((*key, value.as_deref()?)));
    let copies = found.map(|(key, value)| {
        let key_name = key.to_name();
        let name = name_for(DropReason::OverBudget.as_str(), key, &key_name, value);
        // A crash before the remove repeats this.
        (changes.set_aside(set_asides, place, name), value)
    });
    let copies: Vec<(String, &[u8])> = copies.collect();
    let writes = copies.iter();
    let writes = writes.map(|(name, value)| Change::SetAside { place, name, value });
    let writes: Vec<Change<'_>> = writes.collect();
    let groups: Vec<&[Change<'_>]> = writes.chunks(1).collect();
    match write(store, &groups, WriteAck::Rewritten) {
        Ok(()) => {}
        Err(error) if is_refused(&error) => {
            for (name, _) in copies {
                changes.set_aside.remove(&(place, name));
            }
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    for (name, _) in &copies {
        set_asides.add(place, name);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waiting messages of 10 bytes, each with its QoS, and one in flight.
    fn index(messages: &[(&str, u8)]) -> (RecordIndex, KeyMap<u8>) {
        let mut index = RecordIndex::with_capacity(0, 0);
        let mut qos_of = KeyMap::default();
        for (name, qos) in messages {
            let key = Key::parse(name).expect("a key");
            let packet_id = i32::from(*qos > 0);
            let value = [3, packet_id].map(i32::to_ne_bytes).concat();
            index.insert_loaded(key, [&value[..], &[0, 0]].concat());
            qos_of.insert(key, *qos);
        }
        let in_flight = Key::parse("s-1").expect("a key");
        index.insert_loaded(in_flight, vec![0x32; 10]);
        (index, qos_of)
    }

    fn dropped(messages: &[(&str, u8)], budget: usize) -> String {
        let (index, qos_of) = index(messages);
        let dropped = excess(&index, &qos_of, budget);
        let names: Vec<String> = dropped.iter().map(Key::to_string).collect();
        names.join(" ")
    }

    #[test]
    fn oldest_of_lowest_qos_leave_until_rest_fits() {
        let messages = [("c-1", 2), ("c-2", 1), ("c-3", 0), ("c-4", 1), ("c-5", 0)];
        for (budget, expected) in [
            (60, ""),
            (59, "c-3"),
            (50, "c-3"),
            (49, "c-3 c-5"),
            (39, "c-3 c-5 c-2"),
            (20, "c-3 c-5 c-2 c-4"),
            (10, "c-3 c-5 c-2 c-4 c-1"),
            // What is in flight stays, although it alone exceeds the budget.
            (0, "c-3 c-5 c-2 c-4 c-1"),
        ] {
            assert_eq!(dropped(&messages, budget), expected, "{budget}");
        }
    }

    #[test]
    fn oldest_is_known_behind_wrap() {
        let messages = [("c-1", 1), ("c5-999999", 1), ("c-0", 1), ("c-999998", 1)];
        assert_eq!(dropped(&messages, 20), "c-999998 c5-999999 c-0");
    }

    #[test]
    fn subscription_is_never_dropped() {
        let (mut index, qos_of) = index(&[("c-2", 1)]);
        let subscription = Key::parse("c-1").expect("a key");
        index.insert_loaded(subscription, 8_i32.to_ne_bytes().to_vec());
        let dropped = excess(&index, &qos_of, 0);
        assert_eq!(dropped, [Key::parse("c-2").expect("a key")]);
    }
}
