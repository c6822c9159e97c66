//! Program that lives through one fault.

use std::{process, thread, time::Instant};

use super::{
    Keeper, Report, Run, Setting,
    app::{App, CLIENT},
    killed,
    site::Site,
};
use crate::{
    LIMIT, Mosquitto, Subscriber, eventually,
    harness::{
        Id,
        messages::TOPIC,
        program::{DEFAULT_CACHE_LIMIT, cache_limit, orders, records, report},
    },
    log::Log,
    poll,
};

/// Runs the program and reports the result.
pub fn run_program() -> ! {
    let orders: Run = orders();
    let result = if orders.setting == Setting::Killed {
        killed::run(orders.fault())
    } else {
        run(orders)
    };
    report(&serde_json::to_string(&result).expect("JSON"));
    // Dropping what a failed persistence leaves may never return.
    process::exit(0);
}

fn run(run: Run) -> Report {
    let (fault, setting) = (run.fault(), run.setting);
    let is_ours = run.keeper == Keeper::Ours;
    let log = Log::default();
    log.of_the_process();
    let mut site = Site::start(fault);
    let mut broker = Mosquitto::start();
    // After a restart, Mosquitto 2.0.11 repeats messages that were incomplete at QoS 2.
    let qos_of_subscriber = if setting == Setting::Publishing { 2 } else { 0 };
    let subscriber = Subscriber::start(&broker.url(), TOPIC, qos_of_subscriber);
    let mut app = App::start(&site.url(), &broker, run.keeper);
    app.start_publishing();
    app.advance();
    if setting != Setting::Publishing {
        app.stop();
        broker.stop();
        eventually(LIMIT, "the connection is lost", || {
            (!app.is_connected()).then_some(())
        });
        app.start_publishing();
        app.advance();
    }
    if setting == Setting::Idle {
        app.pause();
    }

    (fault.begin)(&mut site);
    thread::sleep(fault.lasts);
    let is_certain = setting != Setting::Publishing || !fault.may_pass_unnoticed;
    if is_ours && is_certain && !fault.kinds.is_empty() {
        eventually(LIMIT, fault.name, || {
            let kinds = app.kinds();
            let is_one = |kind: &String| fault.kinds.contains(&kind.as_str());
            kinds.iter().any(is_one).then_some(())
        });
    }
    (fault.end)(&mut site);
    let ended = Instant::now();
    if let Some(health) = &app.health {
        health.flush(LIMIT).expect("Redis has everything again");
    }
    let recovered = ended.elapsed();

    let url = broker.url();
    if setting == Setting::Idle {
        // The waiting messages are restored in any case.
        let remaining = records(&mut site.redis().connection(), CLIENT, &url).len();
        assert_eq!(remaining, app.waiting(), "records in Redis");
    }
    if setting != Setting::Publishing {
        broker.restart();
        app.connect();
    }
    if setting == Setting::Idle {
        app.start_publishing();
    }
    if is_ours {
        app.advance();
    }
    let has_hung = !app.stop();
    let mut report = Report {
        refused: app.refused(),
        connected: app.has_never_lost_connection(),
        recovered,
        ..Report::default()
    };
    let kinds = app.kinds();
    let mut longest = app.longest_call();
    let unread = app.unread();
    if cache_limit() < DEFAULT_CACHE_LIMIT && unread > 0 {
        report.refused = report.refused.saturating_sub(unread);
        let ledger = app.end();
        app = App::start(&site.url(), &broker, run.keeper);
        app.ledger(|of_next| *of_next = ledger);
        // Records that remain are found below.
        let _ = poll(LIMIT, || {
            let records = records(&mut site.redis().connection(), CLIENT, &url);
            records.is_empty().then_some(())
        });
    }

    let limit = if is_ours { LIMIT } else { LIMIT / 10 };
    app.ledger(|ledger| ledger.collect_all(&subscriber, limit, |_| true));
    let balance = app.ledger(|ledger| ledger.balance());
    let [_, lost1, lost2] = &balance.lost;
    let twice = balance.repeated[2].iter().map(|(id, _)| id);
    report.published = balance.accepted.iter().sum();
    report.lost = lost1.iter().chain(lost2).map(Id::to_string).collect();
    report.twice = twice.map(Id::to_string).collect();
    report.altered = balance.altered.len() + balance.prefixed.len();
    if let Some(health) = &app.health {
        health.flush(LIMIT).expect("Redis has everything");
        report.counted_lost = health.snapshot().lost_records;
    }
    report.remaining = records(&mut site.redis().connection(), CLIENT, &url).len();
    if let Err(left) = app.disconnect() {
        panic!("the client ended with {left}");
    }
    longest = longest.max(app.longest_call());
    report.longest = longest;
    report.kinds = kinds;
    report.log = if has_hung {
        "the program hung".to_owned()
    } else {
        cause(&log.text())
    };
    report
}

/// Reason why Redis was unavailable: the middle part of the first log line about it, between the attempted call and the remedy.
fn cause(log: &str) -> String {
    let cause = || {
        let (_, cause) = log.split_once("writes are kept in memory until it recovers: ")?;
        let (_, reason) = cause.lines().next()?.split_once(": ")?;
        reason.split([';', ':']).next()
    };
    cause().unwrap_or_default().to_owned()
}
