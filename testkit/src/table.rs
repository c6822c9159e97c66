//! Markdown tables.

use crate::statistics::Series;

const FAILED: &str = "failed";

/// Prints a heading, an explanation and the table.
pub fn print(title: &str, about: &str, columns: &[String], rows: &[Vec<String>]) {
    println!("\n## {title}\n");
    if !about.is_empty() {
        println!("{about}\n");
    }
    println!("| {} |", columns.join(" | "));
    println!("|---|{}", "--:|".repeat(columns.len() - 1));
    for row in rows {
        println!("| {} |", row.join(" | "));
    }
}

/// Formats a median with its range.
pub fn spread(series: &Series, show: impl Fn(f64) -> String) -> String {
    match (series.median(), series.range()) {
        (Some(median), Some((low, high))) if series.0.len() > 1 => {
            format!("{} ({}–{})", show(median), show(low), show(high))
        }
        (Some(median), _) => show(median),
        _ => FAILED.to_owned(),
    }
}

/// Formats a median.
pub fn median(series: &Series, show: impl Fn(f64) -> String) -> String {
    series.median().map_or(FAILED.to_owned(), show)
}

/// Formats the ratio to another contender.
pub fn ratio(series: &Series, to: Option<&Series>) -> String {
    to.map_or("–".to_owned(), |to| {
        median(&series.ratios(to), two_places)
    })
}

/// Formats a number with commas at the thousands.
pub fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let (sign, digits) = digits
        .strip_prefix('-')
        .map_or(("", &*digits), |digits| ("-", digits));
    let mut text = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn two_places(number: f64) -> String {
    format!("{number:.2}")
}

pub fn three_places(number: f64) -> String {
    format!("{number:.3}")
}

/// Formats the size of a payload.
pub fn size(bytes: usize) -> String {
    if bytes.is_multiple_of(1024) {
        format!("{} KiB", bytes / 1024)
    } else {
        format!("{bytes} B")
    }
}

/// Formats a size in memory.
pub fn mebibytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1024.0 / 1024.0)
}
