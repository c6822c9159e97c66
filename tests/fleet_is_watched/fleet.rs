//! A fleet of devices under a real Prometheus: with the lean profile the fleet board is complete, and alerts fire for the affected
//! devices and no others. `scripts/fleet` does the same with up to thousands of devices, and measures.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use testkit::{
    dashboard::array,
    eventually_queried,
    fleet::{
        Fleet,
        observer::{Observer, panels},
    },
};

const DEVICES: usize = 12;
/// Divisor of the times of the rules.
const FACTOR: u32 = 100;
/// Interval between two messages of a device, so short that enough wait within seconds.
const INTERVAL: Duration = Duration::from_millis(25);
/// Limit on an alert, which waits for up to half an hour divided by the factor; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// Panels that stay empty in this outage: nothing is lost or dropped, every device answers, and no store error reaches Paho.
/// The persistences of these devices know no limit.
const EMPTY: [&str; 6] = [
    "Backlogs without a program",
    "Dropped records",
    "Failing stores",
    "Lost records",
    "Nearest to a limit",
    "Devices that do not report",
];

/// Names of alerts, with the common prefix.
fn alerts(names: &[&str]) -> BTreeSet<String> {
    let names = names.iter();
    names.map(|name| format!("MqttPersistence{name}")).collect()
}

#[test]
fn alerts_fire_for_affected_devices_only_and_resolve() {
    let fleet = Fleet::start(DEVICES, true, INTERVAL);
    let outages = fleet.begin_outages(7);
    assert!(outages.stores.is_disjoint(&outages.links), "{outages:?}");
    let observer = Observer::start(&fleet.targets, FACTOR);
    let started = Instant::now();
    eventually_queried(LIMIT, "all devices are scraped", || {
        let devices = observer
            .prometheus
            .value("job:mqtt_persistence_devices:count");
        (devices == Some(12.0)).then_some(())
    });
    let expected = [
        (
            "MqttPersistenceStoreDown".to_owned(),
            outages.stores.clone(),
        ),
        (
            "MqttPersistenceBacklogOld".to_owned(),
            outages.links.clone(),
        ),
        (
            "MqttPersistenceBacklogGrowing".to_owned(),
            outages.links.clone(),
        ),
    ];
    let mut firing = None;
    let wait = Instant::now();
    while firing.as_ref() != Some(&expected.clone().into()) {
        assert!(
            wait.elapsed() < LIMIT,
            "{firing:#?} instead of {expected:#?}"
        );
        thread::park_timeout(Duration::from_millis(200));
        firing = Some(observer.of_devices());
    }
    eventually_queried(LIMIT, "the alerts about the fleet fire", || {
        let expected = alerts(&["FleetBacklogOld", "FleetStoresFailing"]);
        (observer.of_fleet() == expected).then_some(())
    });

    for (panel, queries) in panels() {
        let answers = observer.ask(&queries, started.elapsed());
        let found = answers
            .iter()
            .any(|answer| !array(&answer["data"]["result"]).is_empty());
        assert_eq!(found, !EMPTY.contains(&panel.as_str()), "{panel}");
    }

    fleet.end_outages();
    eventually_queried(LIMIT, "all alerts resolve", || {
        let all_quiet = observer.of_devices().is_empty() && observer.of_fleet().is_empty();
        all_quiet.then_some(())
    });
}
