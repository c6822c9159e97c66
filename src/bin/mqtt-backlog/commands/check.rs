//! `check`: the set-up of Redis, and the records as opening them would find them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use paho_mqtt_redis::backlog::{Finding, RecordsCheck, RedisCheck, Restore, Severity};
use serde_json::json;

use crate::{
    args::AnyClientsArgs,
    context::Context,
    exit::{Exit, Failure},
    output::{age, bytes, escape, printable},
};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    clients: AnyClientsArgs,
    /// Only the set-up of Redis; with the rights to the records of CLIENT, if there is one
    #[arg(long, conflicts_with = "prefix")]
    redis_only: bool,
}

/// The name of no client, for the rights if there is none.
const NO_CLIENT: &str = "mqtt-backlog:check";

/// Number of entries that a line of a finding names.
const NAMED: usize = 4;

impl Args {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        let names = self.names(context);
        // A user may have the rights to the keys of these clients only. The set-up is of use without a right
        // to list them, too.
        let first = names.as_ref().ok().and_then(|names| names.first());
        let redis = context
            .server
            .check_redis(first.map_or(NO_CLIENT, String::as_str))?;
        let mut has_problems = print_redis(context, &redis)?;
        let names = names?;
        if self.redis_only {
            return Ok(exit(has_problems));
        }
        for name in &names {
            let check = context.server.check_records(name)?;
            has_problems |= print_records(context, name, &check)?;
        }
        if names.is_empty() && !context.out.is_json() {
            context.out.line("\nno client has records")?;
        }
        Ok(exit(has_problems))
    }

    fn names(&self, context: &mut Context) -> Result<Vec<String>, Failure> {
        let server = &mut context.server;
        match self.clients.one(server)? {
            Some(name) => Ok(vec![name]),
            None if self.redis_only => Ok(Vec::new()),
            None => Ok(server.clients(self.clients.prefix())?),
        }
    }
}

fn exit(has_problems: bool) -> Exit {
    if has_problems {
        Exit::Partial
    } else {
        Exit::Done
    }
}

/// Writes what is known about Redis; returns true if there is a problem.
fn print_redis(context: &mut Context, check: &RedisCheck) -> Result<bool, Failure> {
    let number = |name: &str| check.fact(name)?.parse::<u64>().ok();
    let size = |name: &str| usize::try_from(number(name)?).ok();
    let is = |name: &str, value: &str| check.fact(name).map(|fact| fact == value);
    let saved = number("rdb_last_save_time").map(Duration::from_secs);
    // Until the first one, that is the start of Redis. Before version 7 only snapshots in the background show.
    let has_saved = match check.fact("rdb_saves") {
        Some(count) => count != "0",
        None => check.fact("rdb_last_bgsave_time_sec") != Some("-1"),
    };
    if context.out.is_json() {
        let problems = check
            .problems
            .iter()
            .map(|error| json!({"error": error.kind().as_str(), "text": error.to_string()}));
        let object = json!({
            "redis": check.address,
            "server": check.server(),
            "role": check.fact("role"),
            "used_memory": number("used_memory"),
            "maxmemory": number("maxmemory"),
            "maxmemory_policy": check.fact("maxmemory_policy"),
            "aof": is("aof_enabled", "1"),
            "aof_last_write_ok": is("aof_last_write_status", "ok"),
            "rdb_last_save": saved.filter(|_| has_saved).map(|saved| saved.as_secs()),
            "rdb_last_save_ok": is("rdb_last_bgsave_status", "ok"),
            "problems": problems.collect::<Vec<_>>(),
        });
        context.out.json(&object)?;
        return Ok(!check.problems.is_empty());
    }
    let text = |name: &str| escape(check.fact(name).unwrap_or("?").as_bytes());
    let out = &mut context.out;
    out.line(&format!("Redis at {}", check.address))?;
    if check.facts.is_some() {
        out.line(&format!(
            "  server       {}, {}",
            check.server().as_deref().unwrap_or("?"),
            text("role")
        ))?;
        let limit = size("maxmemory").filter(|limit| *limit > 0);
        out.line(&format!(
            "  memory       {} of {}, {}",
            size("used_memory").map_or_else(|| "?".to_owned(), bytes),
            limit.map_or_else(|| "no limit".to_owned(), bytes),
            text("maxmemory_policy")
        ))?;
        let aof = match (is("aof_enabled", "1"), is("aof_last_write_status", "ok")) {
            (Some(true), Some(false)) => "on, but the last write failed",
            (Some(true), _) => "on",
            _ => "off: a crash of Redis loses what waits, unless the program lives",
        };
        out.line(&format!("  AOF          {aof}"))?;
        let saved = saved.and_then(|saved| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH.checked_add(saved)?)
                .ok()
        });
        let state = if is("rdb_last_bgsave_status", "ok") == Some(false) {
            ", and the last attempt failed"
        } else {
            ""
        };
        out.line(&format!(
            "  snapshot     {}{state}",
            saved.map_or_else(
                || "?".to_owned(),
                |saved| {
                    let event = if has_saved {
                        "saved"
                    } else {
                        "none since Redis started,"
                    };
                    format!("{event} {} ago", age(saved))
                }
            )
        ))?;
    }
    for problem in &check.problems {
        out.line(&format!(
            "  problem      {}",
            printable(&problem.to_string())
        ))?;
    }
    if check.problems.is_empty() {
        out.line("  rights       all that the persistence uses")?;
    }
    Ok(!check.problems.is_empty())
}

/// Writes what is known about the records of a client; returns true if there is a problem.
fn print_records(context: &mut Context, name: &str, check: &RecordsCheck) -> Result<bool, Failure> {
    let RecordsCheck { findings, restore } = check;
    let out = &mut context.out;
    if out.is_json() {
        for finding in findings {
            let entries = finding.entries.iter();
            let entries = entries.map(|entry| String::from_utf8_lossy(entry));
            out.json(&json!({
                "client": name,
                "finding": finding.code,
                "severity": finding.severity.to_string(),
                "count": finding.entries.len(),
                "entries": entries.collect::<Vec<_>>(),
                "text": finding.meaning,
            }))?;
        }
        out.json(&json!({"client": name, "restore": restore_json(restore)}))?;
    } else {
        out.line(&format!("\n{}", escape(name.as_bytes())))?;
        for finding in findings {
            out.line(&line_of(finding))?;
        }
        out.line(&format!("  restore      {}", restore_text(restore)))?;
    }
    let mut severities = findings.iter().map(|finding| finding.severity);
    Ok(severities.any(|severity| severity == Severity::Problem))
}

fn line_of(finding: &Finding) -> String {
    let named = finding
        .entries
        .iter()
        .take(NAMED)
        .map(|entry| escape(entry));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match finding.entries.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let severity = finding.severity.to_string();
    format!(
        "  {severity:<12} {}: {named}{more}: {}",
        finding.code, finding.meaning
    )
}

fn restore_text(restore: &Restore) -> String {
    let [qos_0, qos_1, qos_2] = restore.publish;
    let parts = [
        (qos_0 + qos_1 + qos_2, "waiting"),
        (restore.subscribe + restore.unsubscribe, "subscriptions"),
        (restore.sent_qos_1 + restore.sent_qos_2, "to be sent again"),
        (restore.released, "to be released"),
        (restore.received, "inbound and not released"),
        (restore.undelivered, "inbound for the program"),
    ];
    let parts = parts.iter().filter(|(number, _)| *number > 0);
    let parts = parts.map(|(number, what)| format!("{number} {what}"));
    let parts = parts.collect::<Vec<_>>().join(", ");
    if parts.is_empty() {
        return "nothing".to_owned();
    }
    format!(
        "{parts}; {}, {} of 65535 packet ids",
        bytes(restore.bytes),
        restore.packet_ids()
    )
}

fn restore_json(restore: &Restore) -> serde_json::Value {
    let [qos_0, qos_1, qos_2] = restore.publish;
    let [v3, v5] = restore.versions;
    json!({
        "publish_qos_0": qos_0,
        "publish_qos_1": qos_1,
        "publish_qos_2": qos_2,
        "subscribe": restore.subscribe,
        "unsubscribe": restore.unsubscribe,
        "sent_qos_1": restore.sent_qos_1,
        "sent_qos_2": restore.sent_qos_2,
        "released": restore.released,
        "received": restore.received,
        "undelivered": restore.undelivered,
        "bytes": restore.bytes,
        "packet_ids": restore.packet_ids(),
        "records_v3": v3,
        "records_v5": v5,
    })
}
