//! Numbers for records whose sequence has wrapped, for a persistence that does not know where it begins.

use crate::paho::{Key, RecordKind, sort_by_sequence};

/// Plans numbers from 1 on for the records of one queue, in the order in which they move: newest first, so
/// that at each moment the order of all shows in their numbers.
///
/// Nothing moves if Paho would take them up in the right order as they are. It sorts them by number, and
/// removes command 0 whenever it connects.
pub(super) fn plan_unwrapped(kind: RecordKind, keys: &[Key]) -> Vec<(Key, Key)> {
    let mut keys: Vec<Key> = keys
        .iter()
        .copied()
        .filter(|key| key.kind == kind)
        .collect();
    let is_wrapped = sort_by_sequence(&mut keys);
    if !is_wrapped && !keys.iter().any(|key| key.is_command_zero()) {
        return Vec::new();
    }
    let wrap = keys.iter().zip(keys.iter().skip(1));
    let wrap = wrap
        .zip(1..)
        .find(|((one, next), _)| next.number < one.number);
    let wrap = wrap.map_or(0, |(_, position)| position);
    let (before, after) = keys.split_at_checked(wrap).unwrap_or_default();
    let mut moves = Vec::with_capacity(keys.len());
    let mut next = 1_u32;
    for part in [before, after] {
        let (Some(first), Some(last)) = (part.first(), part.last()) else {
            continue;
        };
        moves.extend(part.iter().map(|key| {
            let number = key.number.saturating_sub(first.number).saturating_add(next);
            (*key, Key { number, ..*key })
        }));
        let numbers = last.number.saturating_sub(first.number).saturating_add(1);
        next = next.saturating_add(numbers);
    }
    moves.reverse();
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &str) -> Vec<Key> {
        let names = names.split_whitespace();
        names.map(|name| Key::parse(name).expect("a key")).collect()
    }

    fn planned(names: &str) -> String {
        let moves = plan_unwrapped(RecordKind::Command, &keys(names)).into_iter();
        let moves = moves.map(|(old, new)| format!("{old}>{new}"));
        moves.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn sequence_from_1_on_stays() {
        for names in ["", "c-1 c5-2 c-9", "c-7", "s-1 q-0"] {
            assert_eq!(planned(names), "", "{names}");
        }
    }

    #[test]
    fn wrapped_sequence_begins_at_1() {
        assert_eq!(planned("c-0"), "c-0>c-1");
        assert_eq!(planned("c-0 c-2 q-1"), "c-2>c-3 c-0>c-1");
        assert_eq!(
            planned("c-0 c5-0 c-4 c-999999 c5-999997"),
            "c-4>c-8 c5-0>c5-4 c-0>c-4 c-999999>c-3 c5-999997>c5-1"
        );
    }

    #[test]
    fn order_is_right_after_each_move() {
        let mut present = keys("c-999990 c-999999 c-0 c-1 c-5");
        let mut order = present.clone();
        for (old, new) in plan_unwrapped(RecordKind::Command, &present) {
            assert!(!present.contains(&new));
            for keys in [&mut present, &mut order] {
                let place = keys.iter().position(|key| *key == old).expect("present");
                keys[place] = new;
            }
            sort_by_sequence(&mut present);
            assert_eq!(present, order);
        }
        assert_eq!(order, keys("c-1 c-10 c-11 c-12 c-16"));
        assert_eq!(plan_unwrapped(RecordKind::Command, &order), []);
    }
}
