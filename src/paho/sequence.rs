//! Sequence numbers that wrapped around to 0, and the order of what they number.

use super::key::Key;

/// Sorts records of one kind, or packets of one direction, into the order in which Paho numbered them; returns true if the numbers do
/// not show it, since they wrapped from 999,999 to 0.
pub(crate) fn sort_by_sequence(records: &mut [Key]) -> bool {
    records.sort_unstable_by_key(|key| key.by_number());
    let numbers: Vec<u32> = records.iter().map(|key| key.number).collect();
    let range = records.first().map(|key| key.kind.number_range());
    let first = wrap_position(&numbers, range.map_or(0, |range| range.len()));
    // Those numbered after the wrap are newer than those before it.
    records.rotate_left(first.unwrap_or_default());
    first.is_some()
}

/// Returns the position at which a wrapped sequence starts in these sorted numbers.
///
/// The sequence of `count` numbers starts after the widest gap between two of them. `None` if the gap around the limit is
/// at least as wide, since then nothing wrapped.
fn wrap_position(numbers: &[u32], count: usize) -> Option<usize> {
    let (lowest, highest) = (numbers.first()?, numbers.last()?);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let wrap_gap = count.saturating_sub(*highest).saturating_add(*lowest);
    let gaps = numbers.iter().zip(numbers.iter().skip(1));
    let (widest, position) = gaps
        .map(|(before, after)| after.saturating_sub(*before))
        .zip(1..)
        .max_by_key(|(gap, _)| *gap)?;
    (widest > wrap_gap).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_starts_after_widest_gap() {
        for (numbers, first) in [
            (&[][..], None),
            (&[7], None),
            (&[1, 2, 3], None),
            (&[999_998, 999_999], None),
            (&[400_000, 400_001, 900_000], None),
            (&[0, 999_999], Some(1)),
            (&[0, 1, 2, 999_998, 999_999], Some(3)),
            (&[5, 999_000], Some(1)),
            (&[0, 500_000], None),
        ] {
            assert_eq!(wrap_position(numbers, 1_000_000), first, "{numbers:?}");
        }
    }

    #[test]
    fn wrapped_records_are_sorted_from_oldest() {
        let sorted = |names: &[&str]| {
            let keys = names.iter().map(|name| Key::parse(name).expect("a key"));
            let mut keys: Vec<Key> = keys.collect();
            let is_wrapped = sort_by_sequence(&mut keys);
            let names: Vec<String> = keys.iter().map(Key::to_string).collect();
            (names.join(" "), is_wrapped)
        };
        assert_eq!(sorted(&[]), (String::new(), false));
        assert_eq!(sorted(&["c-2", "c5-1", "c-1"]).0, "c-1 c5-1 c-2");
        assert!(!sorted(&["c-0", "c-1"]).1);
        let wrapped = sorted(&["c-0", "c5-0", "c5-999999", "c-1", "c-999998"]);
        assert_eq!(wrapped.0, "c-999998 c5-999999 c-0 c5-0 c-1");
        assert!(wrapped.1);
    }
}
