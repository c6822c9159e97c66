//! What became of a program and its messages.

use std::time::Duration;

use serde_json::{Value, json};

#[derive(Debug, Default, PartialEq)]
pub struct Report {
    pub published: usize,
    /// Calls of `publish` that failed, and messages whose token did.
    pub refused: usize,
    /// Those that did not arrive, of the messages at QoS 1 and 2 that the promises cover.
    pub lost: Vec<String>,
    /// How many others did not: held in a program that was killed, or in a Redis that lost what it had.
    pub uncovered: usize,
    /// Those at QoS 2 that arrived more than once.
    pub twice: Vec<String>,
    /// And those of which that is known to be so: Redis took no writes when the waiting one became a sent one.
    pub twice_uncovered: usize,
    pub altered: usize,
    /// The longest that a call of the persistence took.
    pub longest: Duration,
    /// The connection to the broker was never lost.
    pub connected: bool,
    /// Records that are in Redis when all has arrived.
    pub left: usize,
    /// What the persistence counted as lost.
    pub counted_lost: u64,
    /// How long after the end of the fault Redis had everything.
    pub recovered: Duration,
    /// The kinds of error that the metrics tell of.
    pub told: Vec<String>,
    /// The line of the log that begins the outage.
    pub log: String,
}

const MARK: &str = "report ";

impl Report {
    /// For the process that started this one.
    pub fn print(&self) {
        let Self {
            published,
            refused,
            lost,
            uncovered,
            twice,
            twice_uncovered,
            altered,
            longest,
            connected,
            left,
            counted_lost,
            recovered,
            told,
            log,
        } = self;
        let (longest, recovered) = (longest.as_secs_f64(), recovered.as_secs_f64());
        println!(
            "\n{MARK}{}",
            json!([
                published,
                refused,
                lost,
                uncovered,
                twice,
                twice_uncovered,
                altered,
                longest,
                connected,
                left,
                counted_lost,
                recovered,
                told,
                log
            ])
        );
    }

    pub fn read(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix(MARK))?;
        let values: Vec<Value> = serde_json::from_str(line).ok()?;
        let mut values = values.into_iter();
        let mut next = || values.next().expect("as it was printed");
        let number = |value: Value| value.as_u64().expect("a number");
        let size = |value: Value| usize::try_from(number(value)).expect("small");
        let seconds = |value: Value| Duration::from_secs_f64(value.as_f64().expect("a number"));
        let texts = |value: Value| serde_json::from_value(value).expect("texts");
        Some(Self {
            published: size(next()),
            refused: size(next()),
            lost: texts(next()),
            uncovered: size(next()),
            twice: texts(next()),
            twice_uncovered: size(next()),
            altered: size(next()),
            longest: seconds(next()),
            connected: next().as_bool().expect("yes or no"),
            left: size(next()),
            counted_lost: number(next()),
            recovered: seconds(next()),
            told: texts(next()),
            log: next().as_str().expect("a text").to_owned(),
        })
    }

    /// The cells of a row, without what was run.
    pub fn cells(&self) -> String {
        let milliseconds = |duration: Duration| format!("{:.1}", duration.as_secs_f64() * 1000.0);
        [
            self.published.to_string(),
            self.lost.len().to_string(),
            self.twice.len().to_string(),
            self.uncovered.to_string(),
            self.twice_uncovered.to_string(),
            self.refused.to_string(),
            milliseconds(self.longest),
            if self.connected { "alive" } else { "lost" }.to_owned(),
            milliseconds(self.recovered),
            self.left.to_string(),
            self.told.join(", "),
            self.log.clone(),
        ]
        .join(" | ")
    }

    /// The heads of their columns.
    pub const COLUMNS: [&str; 12] = [
        "published",
        "lost",
        "twice, QoS 2",
        "lost, not covered",
        "twice, not covered",
        "refused",
        "longest call, ms",
        "MQTT connection",
        "recovered after, ms",
        "left in Redis",
        "`store_errors_total`",
        "log",
    ];
}
