//! Numbers for records whose sequence has wrapped, for a persistence that does not know where it begins.

use crate::paho::{Key, RecordKind, sort_by_sequence};

/// Plans numbers from 1 on for the records of one queue, in the order in which they move: newest first, each
/// to a number that is free. At each moment the numbers show the order of all, and a further plan has the
/// moves that are missing.
///
/// Nothing moves if Paho would take them up in the right order as they are. It sorts them by number, and
/// removes command 0 whenever it connects. Returns `None` if the order would not show at each moment, since
/// the numbers are not near the wrap.
pub(super) fn plan_unwrapped(kind: RecordKind, keys: &[Key]) -> Option<Vec<(Key, Key)>> {
    let mut keys: Vec<Key> = keys
        .iter()
        .copied()
        .filter(|key| key.kind == kind)
        .collect();
    let is_wrapped = sort_by_sequence(&mut keys);
    if !is_wrapped && !keys.iter().any(|key| key.is_command_zero()) {
        return Some(Vec::new());
    }
    let falls = |(one, next): (&Key, &Key)| next.number < one.number;
    let fall = keys.iter().zip(keys.iter().skip(1)).position(falls);
    let before = fall.map_or(0, |position| position.saturating_add(1));
    // Those after the wrap go up, but only as far as needed, and make room below for those before it.
    let moves = keys.iter().zip(1_u32..).zip(0_usize..);
    let moves = moves.map(|((key, rank), index)| {
        let number = if index < before {
            rank
        } else {
            rank.max(key.number)
        };
        (*key, Key { number, ..*key })
    });
    let mut moves: Vec<(Key, Key)> = moves.collect();
    // With all numbers this near to the wrap, the widest gap is between the two parts until the last move.
    let quarter = kind.number_range().end / 4;
    let (is_high, is_low) = (
        |(from, _): &(Key, Key)| from.number >= quarter.saturating_mul(3),
        |(from, to): &(Key, Key)| to.number < quarter || (!is_wrapped && from == to),
    );
    let (high, low) = moves.split_at_checked(before)?;
    if !high.iter().all(is_high) || !low.iter().all(is_low) {
        return None;
    }
    moves.reverse();
    moves.retain(|(from, to)| from != to);
    Some(moves)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &str) -> Vec<Key> {
        let names = names.split_whitespace();
        names.map(|name| Key::parse(name).expect("a key")).collect()
    }

    fn planned(names: &str) -> String {
        let Some(moves) = plan_unwrapped(RecordKind::Command, &keys(names)) else {
            return "none".to_owned();
        };
        let moves = moves.iter().map(|(old, new)| format!("{old}>{new}"));
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
        assert_eq!(planned("c-0 c-2 q-1"), "c-0>c-1");
        assert_eq!(planned("c-0 c5-0 c-1"), "c-1>c-3 c5-0>c5-2 c-0>c-1");
        assert_eq!(
            planned("c-0 c5-0 c-4 c-999999 c5-999997"),
            "c-4>c-5 c5-0>c5-4 c-0>c-3 c-999999>c-2 c5-999997>c5-1"
        );
        assert_eq!(planned("c-999999 c-2 c-3"), "c-999999>c-1");
    }

    #[test]
    fn order_far_from_wrap_is_left() {
        // Were they moved one by one, the last one would seem the newest.
        assert_eq!(planned("c-450000 c-950000 c-0 c-1"), "none");
        assert_eq!(planned("c-999999 c-0 c-300000"), "none");
        assert_eq!(planned("c-0 c-400000"), "c-0>c-1");
    }

    #[test]
    fn order_is_right_after_each_stop() {
        for names in [
            "c-999990 c-999999 c-0 c-1 c-5",
            "c-999998 c-999999 c-0 c-1 c-2",
            "c-999999 c-2 c-3",
            "c-999999 c-3 c-4",
            "c-999997 c5-999997 c5-999998 c-0 c5-0 c-1 c5-7 c-9",
            "c-0 c5-0 c-1 c-2 c-5",
            "c-760000 c-999999 c-0 c-240000",
        ] {
            let mut order = keys(names);
            let mut moved = 0;
            // Each plan is given up after one move.
            while let Some((old, new)) = plan_unwrapped(RecordKind::Command, &order)
                .expect("a plan")
                .first()
            {
                assert!(!order.contains(new), "{names}: {old} to {new}");
                let place = order.iter().position(|key| key == old).expect("present");
                order[place] = *new;
                let mut sorted = order.clone();
                sorted.reverse();
                sort_by_sequence(&mut sorted);
                assert_eq!(sorted, order, "{names}");
                moved += 1;
                assert!(moved <= order.len(), "{names}");
            }
            assert!(order.is_sorted_by_key(|key| key.number), "{names}");
            assert!(!order.iter().any(|key| key.is_command_zero()));
        }
    }
}
