//! `list`: the clients that have records.

use std::time::{SystemTime, UNIX_EPOCH};

use paho_mqtt_redis::backlog::{Lengths, Ownership, RecordKind, Summary};
use serde_json::{Map, Value, json};

use crate::{
    context::Context,
    exit::{Exit, Failure},
    output::{Align, Table, age, bytes, escape},
};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only clients whose id begins with this
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    prefix: String,
}

impl Args {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        let mut summaries = Vec::new();
        context
            .server
            .summarize(&self.prefix, &mut Lengths::default(), |summary| {
                summaries.push(summary);
            })?;
        let out = &mut context.out;
        if out.is_json() {
            for summary in &summaries {
                out.json(&to_json(summary))?;
            }
            return Ok(Exit::Done);
        }
        if summaries.is_empty() {
            out.line("no client has records")?;
            return Ok(Exit::Done);
        }
        let mut table = Table::new(&[
            ("CLIENT", Align::Left),
            ("WAITING", Align::Right),
            ("IN FLIGHT", Align::Right),
            ("INBOUND", Align::Right),
            ("SIZE", Align::Right),
            ("OWNER", Align::Left),
            ("QUARANTINED", Align::Right),
            ("DISCARDED", Align::Right),
            ("OLDEST ASIDE", Align::Right),
            ("FOREIGN", Align::Right),
        ]);
        for summary in &summaries {
            let oldest = summary.oldest_set_aside;
            let oldest = oldest.and_then(|time| SystemTime::now().duration_since(time).ok());
            let row = vec![
                escape(summary.name.as_bytes()),
                summary.waiting.to_string(),
                summary.in_flight.to_string(),
                summary.inbound.to_string(),
                bytes(summary.bytes()),
                owner(&summary.ownership),
                summary.quarantined.to_string(),
                summary.discarded.to_string(),
                oldest.map_or_else(|| "-".to_owned(), age),
                summary.foreign.to_string(),
            ];
            table.row(out, row)?;
        }
        table.finish(out)?;
        Ok(Exit::Done)
    }
}

/// The owner in a word.
pub fn owner(ownership: &Ownership) -> String {
    match ownership {
        Ownership::Connected(_) => "connected".to_owned(),
        Ownership::Silent(owner) => format!("silent for {}", age(owner.idle)),
        Ownership::Free => "-".to_owned(),
        Ownership::Unknown => "?".to_owned(),
    }
}

/// The summary with stable names.
pub fn to_json(summary: &Summary) -> Value {
    let by_kind = RecordKind::ALL.iter().map(|kind| {
        let (records, bytes) = summary.kinds.get(kind).copied().unwrap_or_default();
        let kind = kind.as_str().to_owned();
        (kind, json!({"records": records, "bytes": bytes}))
    });
    let (state, owner) = match &summary.ownership {
        Ownership::Connected(owner) => ("connected", Some(owner)),
        Ownership::Silent(owner) => ("silent", Some(owner)),
        Ownership::Free => ("none", None),
        Ownership::Unknown => ("unknown", None),
    };
    let oldest = summary.oldest_set_aside;
    let oldest = oldest.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    json!({
        "client": summary.name,
        "waiting": summary.waiting,
        "in_flight": summary.in_flight,
        "inbound": summary.inbound,
        "records": summary.records(),
        "bytes": summary.bytes(),
        "by_kind": by_kind.collect::<Map<_, _>>(),
        "owner": state,
        "owner_address": owner.map(|owner| &owner.address),
        "owner_idle_seconds": owner.map(|owner| owner.idle.as_secs()),
        "quarantined": summary.quarantined,
        "discarded": summary.discarded,
        "oldest_set_aside": oldest.map(|oldest| oldest.as_secs_f64()),
        "foreign": summary.foreign,
    })
}
