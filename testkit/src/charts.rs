//! Charts of `docs/benchmarks.md`. The bench draws them from its measurements, the program `testkit` from the tables.

use std::{fs, io, path::Path};

pub use crate::bar_chart::{BarChart, Bars};

pub const THROUGHPUT: &str = "throughput.svg";
pub const FLASH: &str = "flash.svg";
/// Series of each chart.
pub const QUALITIES: [i32; 2] = [1, 2];
pub const STATES: [&str; 2] = ["acknowledged at once", "waiting"];

/// Messages per second of 100 B with 100 in flight, at each of [`QUALITIES`].
pub fn throughput(bars: Vec<Bars>) -> BarChart {
    BarChart {
        title: "Messages per second".to_owned(),
        about: vec![
            "100 B each, 100 in flight; medians of the rounds. More is better.".to_owned(),
            "The client, the broker and Redis run on one machine. Conditions: docs/benchmarks.md."
                .to_owned(),
        ],
        series: QUALITIES.map(|qos| format!("QoS {qos}")).to_vec(),
        bars: rounded(bars),
    }
}

/// Bytes per message that reach the disk in each of [`STATES`].
pub fn flash(bars: Vec<Bars>) -> BarChart {
    BarChart {
        title: "Bytes written to flash per message".to_owned(),
        about: vec![
            "100 B at QoS 1: bytes that client and Redis wrote, minus those deleted before they reached the disk. Less is better."
                .to_owned(),
            "A waiting message is not sent yet. How it is measured: docs/benchmarks.md.".to_owned(),
        ],
        series: STATES.map(str::to_owned).to_vec(),
        bars: rounded(bars),
    }
}

/// Label of a contender in the chart of bytes written to flash.
pub fn flash_label(contender: &str, policy: &str) -> String {
    if policy == "–" {
        contender.to_owned()
    } else {
        format!("{contender}, AOF {policy}")
    }
}

/// Rounds values as the tables do, so that a chart drawn from the tables is the same.
fn rounded(mut bars: Vec<Bars>) -> Vec<Bars> {
    for value in bars.iter_mut().flat_map(|bars| &mut bars.values).flatten() {
        *value = value.round_ties_even();
    }
    bars
}

/// Writes a chart into a folder, which is created if it is missing.
pub fn write(folder: &Path, name: &str, chart: &BarChart) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join(name), chart.svg())
}

/// Charts of the tables of a document, with their file names.
pub fn of_document(document: &str) -> [(&'static str, BarChart); 2] {
    let [first, second] = QUALITIES.map(|qos| {
        let rows = table(document, &format!("### QoS {qos}, 100 in flight"));
        let bars = rows
            .into_iter()
            .map(|row| (row[0].clone(), number(&row[1])));
        bars.collect::<Vec<_>>()
    });
    let messages = first.into_iter().zip(second).map(|(one, other)| {
        assert_eq!(one.0, other.0, "the same contenders in the same order");
        Bars {
            label: one.0,
            values: vec![one.1, other.1],
        }
    });
    let written = table(
        document,
        "### What reaches the disk for a message of 100 B at QoS 1",
    );
    let written = written.chunks_exact(STATES.len()).map(|rows| Bars {
        label: flash_label(&rows[0][0], &rows[0][1]),
        values: rows
            .iter()
            .zip(STATES)
            .map(|(row, state)| {
                assert_eq!(row[2], state);
                let [client, withdrawn, redis] = [3, 4, 5].map(|column| number(&row[column]));
                Some(client? - withdrawn? + redis?)
            })
            .collect(),
    });
    [
        (THROUGHPUT, throughput(messages.collect())),
        (FLASH, flash(written.collect())),
    ]
}

/// Rows of the first table below a heading.
fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, section) = document
        .split_once(&format!("{heading}\n"))
        .unwrap_or_else(|| panic!("no {heading:?}"));
    let lines = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

/// Number at the start of a cell, before its range; `None` if the measurement failed.
fn number(cell: &str) -> Option<f64> {
    let first = cell.split_whitespace().next()?;
    first.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository;

    const DOCUMENT: &str = "\
### QoS 1, 100 in flight

|  | 100 B: messages/s | × direct |
|---|--:|--:|
| none | 1,234 (1,000–2,000) | 2.00 |
| files | failed | failed |

### QoS 2, 100 in flight

|  | 100 B: messages/s | × direct |
|---|--:|--:|
| none | 600 (500–700) | 2.00 |
| files | 10 (9–11) | 1.00 |

### What reaches the disk for a message of 100 B at QoS 1

In bytes.

|  | AOF | messages | client | withdrawn | Redis | device |
|---|--:|--:|--:|--:|--:|--:|
| files | – | acknowledged at once | 8,266 | 8,192 | 0 | 86 |
| files | – | waiting | 5,170 | 0 | 0 | 5,224 |
| ours | always | acknowledged at once | 0 | 0 | 4,374 | 8,464 |
| ours | always | waiting | 0 | 0 | 0 | 8,405 |
";

    #[test]
    fn charts_have_numbers_of_tables() {
        let [(_, throughput), (_, flash)] = of_document(DOCUMENT);
        let bars = |label: &str, values: [Option<f64>; 2]| Bars {
            label: label.to_owned(),
            values: values.to_vec(),
        };
        assert_eq!(
            throughput.bars,
            [
                bars("none", [Some(1234.0), Some(600.0)]),
                bars("files", [None, Some(10.0)])
            ]
        );
        assert_eq!(
            flash.bars,
            [
                bars("files", [Some(74.0), Some(5170.0)]),
                bars("ours, AOF always", [Some(4374.0), Some(0.0)])
            ]
        );
    }

    #[test]
    fn images_match_documented_tables() {
        let docs = repository().join("docs");
        let document = fs::read_to_string(docs.join("benchmarks.md")).expect("a document");
        for (name, chart) in of_document(&document) {
            let image = fs::read_to_string(docs.join("images").join(name)).expect("an image");
            assert!(
                image == chart.svg(),
                "docs/images/{name}: run `cargo run -p testkit -- draw-charts docs/benchmarks.md docs/images`"
            );
        }
    }
}
