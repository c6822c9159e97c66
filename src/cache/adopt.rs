//! Moves the backlog of another name into the present one, message by message.

use std::collections::{BTreeMap, HashSet};

use super::batched_read::{list_keys, read_or_split};
use crate::{
    error::Error,
    paho::{Key, KeyName, RecordKind, is_valid_record, set_record_number, sort_by_sequence},
    store::{Adopted, Store},
};

/// The number of messages per exchange.
const MESSAGES_PER_STEP: usize = 32;

/// The records of one message, with their present keys and those that they get.
pub(crate) type Message = Vec<(Key, Key)>;

/// Moves all records of `source`, whose name is `from`, into `store`; returns how many it has moved.
///
/// Each message moves in one step, so that a crash leaves it in one of the two places, and the next
/// adoption moves the rest. Records stay in the source if Paho could not read them, or if nothing can be
/// done with them here: see [`plan_moves`].
pub(crate) fn adopt_records<S: Store>(
    store: &mut S,
    source: &mut S,
    from: &str,
) -> Result<usize, Error> {
    let (old_keys, _) = list_keys(source)?;
    let (present, _) = list_keys(store)?;
    let mut moved = 0_usize;
    for step in plan_moves(&old_keys, &present).chunks(MESSAGES_PER_STEP) {
        let keys: Vec<Key> = step.iter().flatten().map(|(old, _)| *old).collect();
        // An exchange of the source too, so its connection never counts as gone.
        let mut values = read_or_split(source, &keys)?.into_iter();
        let groups = step.iter().map(|message| {
            let records = message.iter().zip(values.by_ref());
            let records = records.filter_map(|((old, new), value)| {
                let mut value = value.filter(|value| is_valid_record(*old, value))?;
                set_record_number(*new, &mut value);
                Some((old.to_name(), new.to_name(), value))
            });
            records.collect::<Vec<(KeyName, KeyName, Vec<u8>)>>()
        });
        let groups: Vec<_> = groups.collect();
        let adopted = groups.iter().map(|group| {
            let records = group
                .iter()
                .map(|(from, key, value)| Adopted { from, key, value });
            records.collect::<Vec<Adopted<'_>>>()
        });
        let adopted: Vec<_> = adopted.filter(|group| !group.is_empty()).collect();
        let adopted: Vec<&[Adopted<'_>]> = adopted.iter().map(Vec::as_slice).collect();
        if !adopted.is_empty() {
            store.adopt(from, &adopted)?;
        }
        moved = moved.saturating_add(adopted.iter().map(|group| group.len()).sum());
    }
    Ok(moved)
}

/// Plans the keys that records get, in the order in which they move. A present record is never written
/// over.
///
/// - What waits is older than what waits here, so it gets numbers before that. It moves newest first: at
///   each moment, and after a crash, both parts are in order.
/// - A message in flight keeps its packet id, by which the broker knows it, unless a message in flight here
///   has the id. Its PUBREL moves with it.
/// - An inbound PUBLISH keeps its packet id, which the broker has chosen, or stays if the id is in use here.
pub(crate) fn plan_moves(old_keys: &[Key], present: &[Key]) -> Vec<Message> {
    let mut messages = plan_in_flight(old_keys, present);
    let is_used = |key: &Key| present.contains(key) || present.contains(&key.other_version());
    let received = old_keys
        .iter()
        .filter(|key| key.kind == RecordKind::ReceivedPublish);
    let received = received.filter(|key| !is_used(key));
    messages.extend(received.map(|key| vec![(*key, *key)]));
    for kind in [RecordKind::Command, RecordKind::Undelivered] {
        messages.extend(plan_queue(kind, old_keys, present));
    }
    messages
}

fn plan_in_flight(old_keys: &[Key], present: &[Key]) -> Vec<Message> {
    let mut by_id: BTreeMap<u32, Vec<Key>> = BTreeMap::new();
    let mut old: Vec<Key> = old_keys
        .iter()
        .copied()
        .filter(|key| key.is_outbound())
        .collect();
    // A PUBLISH before its PUBREL; Redis lists them in any order.
    old.sort_unstable();
    for key in old {
        by_id.entry(key.number).or_default().push(key);
    }
    let in_flight = present.iter().filter(|key| key.is_outbound());
    let used: HashSet<u32> = in_flight.map(|key| key.number).collect();
    // Paho assigns ids upwards, so the highest stay free longest.
    let ids = RecordKind::SentPublish.number_range().rev();
    let mut free = ids.filter(|id| !used.contains(id) && !by_id.contains_key(id));
    let messages = by_id.iter().filter_map(|(id, keys)| {
        let number = if used.contains(id) { free.next()? } else { *id };
        let moves = keys.iter().map(|key| (*key, Key { number, ..*key }));
        Some(moves.collect())
    });
    messages.collect()
}

fn plan_queue(kind: RecordKind, old_keys: &[Key], present: &[Key]) -> Vec<Message> {
    let of_kind = |keys: &[Key]| {
        let keys = keys.iter().copied().filter(|key| key.kind == kind);
        let mut keys: Vec<Key> = keys.collect();
        sort_by_sequence(&mut keys);
        keys
    };
    let (old, here) = (of_kind(old_keys), of_kind(present));
    let used: HashSet<u32> = here.iter().map(|key| key.number).collect();
    let both = of_kind(&[old.as_slice(), &here].concat());
    let is_older = both.starts_with(&old) && !old.iter().any(|key| used.contains(&key.number));
    let newest_first = old.iter().rev();
    let (Some(first), false) = (here.first(), is_older) else {
        return newest_first.map(|key| vec![(*key, *key)]).collect();
    };
    let mut number = first.number;
    let messages = newest_first.map(|key| {
        number = number_before(number, kind, &used);
        vec![(*key, Key { number, ..*key })]
    });
    messages.collect()
}

/// Returns the next free number before this one. After 1 come the numbers before the wrap, since Paho
/// removes command 0 whenever it connects.
fn number_before(number: u32, kind: RecordKind, used: &HashSet<u32>) -> u32 {
    let numbers = kind.number_range();
    let before = (1..number).rev();
    let wrapped = (number..numbers.end).rev();
    let mut free = before
        .chain(wrapped)
        .filter(|number| !used.contains(number));
    free.next().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Change, MemoryStore};

    #[test]
    fn readable_records_move_and_others_stay() {
        let command = [3, 7].map(i32::to_ne_bytes).concat();
        let command = [&command[..], b"t\0", &[0; 12]].concat();
        let mut store = MemoryStore::default();
        let mut source = store.another().expect("in memory");
        store.connect("new").expect("connected");
        source.connect("old").expect("connected");
        for (key, value) in [("c-1", &command[..]), ("s-2", b"unreadable")] {
            source.send(&[&[Change::Put { key, value }]]).expect("put");
        }
        for moved in [1, 0] {
            let adopted = adopt_records(&mut store, &mut source, "old");
            assert_eq!(adopted.expect("adopted"), moved);
            assert_eq!(store.keys().expect("listed"), [b"c-1".to_vec()]);
            assert_eq!(source.keys().expect("listed"), [b"s-2".to_vec()]);
        }
        assert_eq!(store.read(&["c-1"]).expect("read"), [Some(command)]);
    }

    fn keys(names: &str) -> Vec<Key> {
        let names = names.split_whitespace();
        names.map(|name| Key::parse(name).expect("a key")).collect()
    }

    /// Returns the moves in their order, as in `c-1>c-9`; the records of one message are joined by `+`.
    fn planned(old: &str, present: &str) -> String {
        let messages = plan_moves(&keys(old), &keys(present))
            .into_iter()
            .map(|message| {
                let moves = message.iter().map(|(old, new)| format!("{old}>{new}"));
                moves.collect::<Vec<_>>().join("+")
            });
        messages.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn keys_stay_if_nothing_is_in_their_way() {
        assert_eq!(planned("", "c-1 s-1"), "");
        assert_eq!(planned("c5-1 c5-2", ""), "c5-2>c5-2 c5-1>c5-1");
        assert_eq!(planned("q-7 c-1", "c-3 q-9"), "c-1>c-1 q-7>q-7");
        assert_eq!(planned("c-999999 c-0", ""), "c-0>c-0 c-999999>c-999999");
        assert_eq!(
            planned("s-3 sc-3 r5-4", "s-2"),
            "s-3>s-3+sc-3>sc-3 r5-4>r5-4"
        );
        // A PUBLISH comes before its PUBREL, in whichever order they were listed.
        assert_eq!(planned("sc5-3 s5-3", ""), "s5-3>s5-3+sc5-3>sc5-3");
    }

    #[test]
    fn adopted_backlog_gets_numbers_before_present_one() {
        assert_eq!(planned("c-1 c-2", "c-1 c-2"), "c-2>c-999999 c-1>c-999998");
        assert_eq!(planned("c-8 c5-8", "c5-3"), "c5-8>c5-2 c-8>c-1");
        // A crash came after the newest record had moved.
        assert_eq!(planned("c-1", "c-1 c-2 c-999999"), "c-1>c-999998");
        assert_eq!(planned("c-9", "c-999999 c-0 c-1"), "c-9>c-999998");
        // In this order their numbers would not show which is older.
        assert_eq!(planned("c-1", "c-900000"), "c-1>c-899999");
    }

    #[test]
    fn packet_id_in_use_is_replaced_for_whole_message() {
        assert_eq!(
            planned("s5-1 sc5-1 s5-2 s5-65535", "s-1 c-2"),
            "s5-1>s5-65534+sc5-1>sc5-65534 s5-2>s5-2 s5-65535>s5-65535"
        );
        assert_eq!(planned("s-1 s5-1", "sc5-1"), "s-1>s-65535+s5-1>s5-65535");
        // The broker has chosen the id of an inbound message.
        assert_eq!(planned("r-1 r-2", "r5-1 s-2"), "r-2>r-2");
    }

    #[test]
    fn order_of_both_backlogs_is_kept_at_each_crash() {
        let all = |kind: &str, numbers: std::ops::Range<u32>| {
            let names = numbers.map(|number| format!("{kind}-{number}"));
            keys(&names.collect::<Vec<_>>().join(" "))
        };
        for (old, present) in [
            (1..40, 1..20),
            (30..60, 1..20),
            (1..20, 15..30),
            (5..9, 2..4),
        ] {
            let (mut old, mut present) = (all("c5", old), all("c5", present));
            let newer = present.clone();
            let mut order: Vec<Key> = Vec::new();
            // Each adoption ends after one message, as by a crash.
            while let Some(message) = plan_moves(&old, &present).first() {
                let (from, to) = message[0];
                assert_eq!(old.last(), Some(&from));
                old.retain(|key| *key != from);
                assert!(!present.contains(&to));
                present.push(to);
                order.insert(0, to);
                sort_by_sequence(&mut present);
                assert_eq!(present, [order.as_slice(), &newer].concat());
            }
        }
    }
}
