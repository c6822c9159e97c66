//! One fault, and a program that lives through it.

use std::{thread, time::Instant};

use super::{
    Fault, Keeper, Report, Setting,
    app::{App, CLIENT},
    arrivals::Arrivals,
    publisher::{Publisher, TOPIC},
    site::Site,
};
use crate::{LIMIT, Mosquitto, Subscriber, crash::qos, eventually, log::Log};

pub fn run(fault: &Fault, setting: Setting, keeper: Keeper) -> Report {
    let log = Log::default();
    log.of_the_process();
    let mut site = Site::start(fault);
    let mut broker = Mosquitto::start();
    // Mosquitto 2.0.11 repeats what was half done at QoS 2 when it has been stopped and started.
    let qos_of_subscriber = if setting == Setting::Publishing { 2 } else { 0 };
    let subscriber = Subscriber::start(&broker.url(), TOPIC, qos_of_subscriber);
    let app = App::start(&site.url(), &broker, keeper);
    let mut publisher = Publisher::new(&app.client);
    publisher.start();
    publisher.advance();
    if setting != Setting::Publishing {
        publisher.stop();
        broker.stop();
        eventually(LIMIT, "the connection is lost", || {
            (!app.client.is_connected()).then_some(())
        });
        publisher.start();
        publisher.advance();
    }
    if setting == Setting::Idle {
        publisher.pause();
    }

    (fault.begin)(&mut site);
    thread::sleep(fault.lasts);
    let is_certain = setting != Setting::Publishing || !fault.may_pass_unnoticed;
    if app.health.is_some() && is_certain && !fault.kinds.is_empty() {
        eventually(LIMIT, fault.name, || {
            let told = app.told();
            let is_told = told.iter().any(|kind| fault.kinds.contains(&kind.as_str()));
            is_told.then_some(())
        });
    }
    (fault.end)(&mut site);
    let ended = Instant::now();
    if let Some(health) = &app.health {
        health.flush(LIMIT).expect("Redis has everything again");
    }
    let recovered = ended.elapsed();

    if setting == Setting::Idle {
        // What waits is there again, whatever became of it.
        assert_eq!(
            records(&mut site, CLIENT, &broker),
            publisher.waiting(),
            "records in Redis"
        );
    }
    if setting != Setting::Publishing {
        broker.restart();
        app.connect();
    }
    if setting == Setting::Idle {
        publisher.start();
    }
    if app.health.is_some() {
        publisher.advance();
    }
    let stands_still = !publisher.stop();

    let accepted = publisher.accepted();
    let certain: Vec<String> = accepted
        .iter()
        .filter(|text| qos(text) > 0)
        .cloned()
        .collect();
    let limit = if app.health.is_some() {
        LIMIT
    } else {
        LIMIT / 10
    };
    let arrivals = Arrivals::of(&certain, &subscriber, limit);
    let mut report = Report {
        published: accepted.len(),
        refused: publisher.refused(),
        lost: arrivals.missing(&certain),
        twice: arrivals.twice(),
        altered: arrivals.altered(),
        connected: app.has_never_lost_connection(),
        recovered,
        ..Report::default()
    };
    if let Some(health) = &app.health {
        health.flush(LIMIT).expect("Redis has everything");
        report.counted_lost = health.snapshot().lost_records;
    }
    report.left = records(&mut site, CLIENT, &broker);
    app.disconnect();
    report.longest = app.longest_call();
    report.told = app.told();
    report.log = if stands_still {
        "the program stood still".to_owned()
    } else {
        cause(&log.text())
    };
    report
}

/// How many records the client has in Redis.
pub fn records(site: &mut Site, client: &str, broker: &Mosquitto) -> usize {
    redis::cmd("HLEN")
        .arg(format!("{client}:127.0.0.1:{}", broker.port()))
        .query(&mut site.redis().connection())
        .expect("HLEN")
}

/// Why Redis could not be used, as the first line of the log about it says: what was tried on what, the reason, and what to do.
fn cause(log: &str) -> String {
    let cause = || {
        let (_, cause) = log.split_once("is held in memory until it can: ")?;
        let (_, reason) = cause.lines().next()?.split_once(": ")?;
        reason.split([';', ':']).next()
    };
    cause().unwrap_or_default().to_owned()
}
