//! Numbers with units, as people read them.

/// Returns a size such as `512 B` or `1.5 MiB`.
pub(crate) fn size(bytes: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    self::bytes(bytes as f64)
}

/// Does the same for a value of a metric.
pub(crate) fn bytes(bytes: f64) -> String {
    if bytes < 1024.0 {
        return format!("{bytes:.0} B");
    }
    let mut size = bytes / 1024.0;
    let mut unit = "KiB";
    for next in ["MiB", "GiB", "TiB"] {
        // 1023.96 would be shown as 1024.0.
        if size < 1023.95 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    format!("{size:.1} {unit}")
}

/// Returns a whole number, its digits grouped by narrow no-break spaces.
#[cfg(feature = "server")]
pub(crate) fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let remaining = digits.len().saturating_sub(index);
        if index > 0 && remaining.is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Returns a time such as `1.2 ms`, `28 s` or `5 min`.
#[cfg(feature = "server")]
pub(crate) fn duration(seconds: f64) -> String {
    match seconds.max(0.0) {
        seconds if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7_200.0 => format!("{:.0} min", (seconds / 60.0).floor()),
        seconds if seconds < 172_800.0 => format!("{:.0} h", (seconds / 3_600.0).floor()),
        seconds => format!("{:.0} d", (seconds / 86_400.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_fitting_unit() {
        for (size, text) in [
            (0.0, "0 B"),
            (1023.0, "1023 B"),
            (1024.0, "1.0 KiB"),
            (1_048_575.0, "1.0 MiB"),
            (1_258_292.0, "1.2 MiB"),
            (3e9, "2.8 GiB"),
            (3e15, "2728.5 TiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn digits_are_grouped() {
        assert_eq!(count(999.0), "999");
        assert_eq!(count(1_234_567.0), "1\u{202f}234\u{202f}567");
    }

    #[cfg(feature = "server")]
    #[test]
    fn times_are_short() {
        for (seconds, text) in [
            (-1.0, "0.0 ms"),
            (0.001_23, "1.2 ms"),
            (0.25, "250 ms"),
            (2.5, "2.5 s"),
            (61.0, "61 s"),
            (150.0, "2 min"),
            (7_300.0, "2 h"),
            (200_000.0, "2 d"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
