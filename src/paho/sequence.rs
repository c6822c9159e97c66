//! The order of sequence numbers that wrapped around to 0.

use super::key::RecordKind;

/// Which of these sorted numbers comes first, and where there is room for all; nothing where they
/// can stay.
pub(crate) fn renumbering_plan(numbers: &[u32]) -> Option<(usize, u32)> {
    let (lowest, highest) = (numbers.first()?, numbers.last()?);
    let limit = RecordKind::Command.number_range().end;
    let (first, last, end) = match first_behind_widest_gap(numbers) {
        Some(first) => (
            first,
            numbers.get(first.saturating_sub(1))?,
            *numbers.get(first)?,
        ),
        None if *lowest == 0 => (0, highest, limit),
        None => return None,
    };
    let free = last.saturating_add(1);
    // Numbers that are all over the place are none that Paho gave.
    let room = usize::try_from(end.saturating_sub(free)).unwrap_or(usize::MAX);
    (room >= numbers.len()).then_some((first, free))
}

/// Where the sequence starts in these sorted numbers, if that is not at their start.
fn first_behind_widest_gap(numbers: &[u32]) -> Option<usize> {
    let (lowest, highest) = (numbers.first()?, numbers.last()?);
    let limit = RecordKind::Command.number_range().end;
    let around = limit.saturating_sub(*highest).saturating_add(*lowest);
    let gaps = numbers.iter().zip(numbers.iter().skip(1));
    let (widest, position) = gaps
        .map(|(before, behind)| behind.saturating_sub(*before))
        .zip(1..)
        .max_by_key(|(gap, _)| *gap)?;
    (widest > around).then_some(position)
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
        ] {
            assert_eq!(first_behind_widest_gap(numbers), first, "{numbers:?}");
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
