//! Sequence numbers that wrapped around to 0, and how to renumber them in order.

use super::key::RecordKind;

/// Plans the renumbering of these sorted numbers, or returns `None` if they can stay.
///
/// Returns the position of the number that comes first in Paho's order, and the first of the free
/// numbers for all. Paho restores commands by ascending number, so wrapped ones would come first. It
/// also removes command 0 at each connect, so a record must not keep that number.
pub(crate) fn renumbering_plan(numbers: &[u32]) -> Option<(usize, u32)> {
    let (lowest, highest) = (numbers.first()?, numbers.last()?);
    let limit = RecordKind::Command.number_range().end;
    let (first, last, end) = match wrap_position(numbers) {
        Some(first) => (
            first,
            numbers.get(first.saturating_sub(1))?,
            *numbers.get(first)?,
        ),
        None if *lowest == 0 => (0, highest, limit),
        None => return None,
    };
    let free = last.saturating_add(1);
    // Paho numbers consecutively, so scattered numbers without a gap for all are not Paho's.
    let room = usize::try_from(end.saturating_sub(free)).unwrap_or(usize::MAX);
    (room >= numbers.len()).then_some((first, free))
}

/// Returns the position at which a wrapped sequence starts in these sorted numbers.
///
/// The sequence starts after the widest gap between two numbers. `None` if the gap around the limit is
/// at least as wide, since then nothing wrapped.
fn wrap_position(numbers: &[u32]) -> Option<usize> {
    let (lowest, highest) = (numbers.first()?, numbers.last()?);
    let limit = RecordKind::Command.number_range().end;
    let wrap_gap = limit.saturating_sub(*highest).saturating_add(*lowest);
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
            assert_eq!(wrap_position(numbers), first, "{numbers:?}");
        }
    }

    #[test]
    fn records_are_relocated_after_last_or_not_at_all() {
        for (numbers, expected) in [
            (&[][..], None),
            (&[1, 2, 3], None),
            (&[0], Some((0, 1))),
            (&[0, 1, 2], Some((0, 3))),
            (&[0, 1, 999_999], Some((2, 2))),
            (&[0, 499_999, 999_999], Some((2, 500_000))),
        ] {
            assert_eq!(renumbering_plan(numbers), expected, "{numbers:?}");
        }
        let scattered: Vec<u32> = (0..500_000).map(|number| number * 2).collect();
        assert_eq!(renumbering_plan(&scattered), None);
    }
}
