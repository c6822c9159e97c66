//! `watch`: how much waits, and how it drains.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stdout},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use paho_mqtt_redis::backlog::{DrainRate, Lengths, Summary};
use serde_json::json;

use super::list;
use crate::{
    args::{AnyClientsArgs, parse_seconds},
    context::Context,
    exit::{Exit, Failure},
    output::{Align, Table, age, bytes, escape},
};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    clients: AnyClientsArgs,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    interval: Duration,
    /// End after this many looks
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// The shortest pause, as a multiple of what the look before it took: a look at a long backlog costs Redis
/// time that the programs need.
const PAUSE_FACTOR: u32 = 10;

impl Args {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        let name = self.clients.one(&mut context.server)?;
        let prefix = self.clients.prefix();
        let is_live = !context.out.is_json() && stdout().is_terminal();
        let started = Instant::now();
        let mut lengths = Lengths::default();
        let mut rates: BTreeMap<String, DrainRate> = BTreeMap::new();
        let mut drawn = 0;
        let mut looks = 0;
        let mut took = Duration::ZERO;
        while self.count.is_none_or(|count| looks < count) {
            if looks > 0 {
                thread::sleep(self.interval.max(took.saturating_mul(PAUSE_FACTOR)));
            }
            looks += 1;
            let began = Instant::now();
            let mut summaries = Vec::new();
            match &name {
                Some(name) => summaries.push(context.server.summary(name, &mut lengths)?),
                None => context.server.summarize(prefix, &mut lengths, |summary| {
                    summaries.push(summary);
                })?,
            }
            took = began.elapsed();
            rates.retain(|name, _| summaries.iter().any(|summary| summary.name == *name));
            for summary in &summaries {
                let rate = rates.entry(summary.name.clone()).or_default();
                rate.add(started.elapsed(), messages(summary));
            }
            if is_live {
                drawn = draw(context, &summaries, &rates, drawn)?;
            } else {
                print(context, &summaries, &rates)?;
            }
            context.out.flush()?;
        }
        Ok(Exit::Done)
    }
}

/// Number of messages for the broker.
fn messages(summary: &Summary) -> usize {
    summary.waiting + summary.in_flight
}

/// Writes a line per client.
fn print(
    context: &mut Context,
    summaries: &[Summary],
    rates: &BTreeMap<String, DrainRate>,
) -> Result<(), Failure> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = time.unwrap_or_default();
    for summary in summaries {
        let rate = rates.get(&summary.name);
        if context.out.is_json() {
            let mut object = list::to_json(summary);
            object["time"] = json!(time.as_secs_f64());
            object["drained_per_second"] = json!(rate.and_then(DrainRate::per_second));
            let until_empty = rate.and_then(DrainRate::until_empty);
            object["seconds_until_empty"] = json!(until_empty.map(|left| left.as_secs()));
            context.out.json(&object)?;
        } else {
            let line = format!(
                "{} {} waiting={} in_flight={} inbound={} bytes={} drained_per_second={} until_empty={}",
                time.as_secs(),
                escape(summary.name.as_bytes()),
                summary.waiting,
                summary.in_flight,
                summary.inbound,
                summary.bytes(),
                per_second(rate),
                until_empty(rate).replace(' ', ""),
            );
            context.out.line(&line)?;
        }
    }
    Ok(())
}

/// Draws the table over the last one, which had this many lines; returns the number of its lines.
fn draw(
    context: &mut Context,
    summaries: &[Summary],
    rates: &BTreeMap<String, DrainRate>,
    drawn: usize,
) -> Result<usize, Failure> {
    let (width, height) = terminal_size::terminal_size().map_or((80, 24), |(width, height)| {
        (width.0.into(), height.0.into())
    });
    let mut lines = table(summaries, rates).into_lines();
    let total: usize = summaries.iter().map(messages).sum();
    let size: u64 = summaries.iter().map(Summary::bytes).sum();
    lines.push(format!(
        "{} clients, {total} messages, {}; Ctrl-C ends",
        summaries.len(),
        bytes(size)
    ));
    if lines.len() >= height {
        let last = lines.pop();
        lines.truncate(height.saturating_sub(2));
        lines.extend(last);
    }
    // Back to the first line of the last table, and erase to the end of the screen.
    if drawn > 0 {
        context.out.raw(format!("\x1b[{drawn}F\x1b[J").as_bytes())?;
    }
    for line in &lines {
        // A line that wraps would be two.
        let line: String = line.chars().take(width).collect();
        context.out.line(&line)?;
    }
    Ok(lines.len())
}

fn table(summaries: &[Summary], rates: &BTreeMap<String, DrainRate>) -> Table {
    let mut table = Table::new(&[
        ("CLIENT", Align::Left),
        ("WAITING", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("INBOUND", Align::Right),
        ("SIZE", Align::Right),
        ("DRAINS/S", Align::Right),
        ("EMPTY IN", Align::Right),
        ("OWNER", Align::Left),
    ]);
    // The largest backlog comes first.
    let mut sorted: Vec<&Summary> = summaries.iter().collect();
    sorted.sort_by_key(|summary| std::cmp::Reverse(messages(summary)));
    for summary in sorted {
        let rate = rates.get(&summary.name);
        table.add(vec![
            escape(summary.name.as_bytes()),
            summary.waiting.to_string(),
            summary.in_flight.to_string(),
            summary.inbound.to_string(),
            bytes(summary.bytes()),
            per_second(rate),
            until_empty(rate),
            list::owner(&summary.ownership),
        ]);
    }
    table
}

fn per_second(rate: Option<&DrainRate>) -> String {
    let rate = rate.and_then(DrainRate::per_second);
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

fn until_empty(rate: Option<&DrainRate>) -> String {
    let left = rate.and_then(DrainRate::until_empty);
    left.map_or_else(|| "-".to_owned(), age)
}
