//! Agents write to a `VictoriaMetrics` through a link that breaks, with the configuration of `dashboards/provisioning/`.
//! `scripts/fleet --outages` does the same for hours.

use std::{thread, time::Duration};

use tempfile::TempDir;
use testkit::fleet::{
    agent::Kind,
    device::Device,
    outages::{Outage, store},
};

/// Divisor of the times of the agents.
const FACTOR: u32 = 30;

#[test]
fn agents_lose_nothing_in_short_link_outage() {
    let dir = TempDir::new().expect("a folder");
    let store = store(dir.path(), FACTOR);
    let device = Device::start("a", true);
    let port = device.address().port();
    let outage = |kind, restarts| Outage {
        kind,
        length: Duration::from_secs(8),
        restarts,
        factor: FACTOR,
    };
    let outages = [
        ("prometheus", outage(Kind::Prometheus, false)),
        ("vmagent", outage(Kind::Vmagent, false)),
        ("restarted", outage(Kind::Vmagent, true)),
    ];
    thread::scope(|scope| {
        let store = &store;
        let running = outages
            .map(|(name, outage)| scope.spawn(move || (name, outage.run(name, port, store))));
        for outcome in running {
            let (name, outcome) = outcome.join().expect("no panic");
            // One at either end may be in transit, and one is cut off by the restart.
            let cut_off = u64::from(outcome.outage.restarts);
            let (scrapes, arrived) = (outcome.scrapes, outcome.arrived);
            assert!(scrapes >= 8, "{name}: {scrapes} scrapes");
            assert!(arrived + 1 + cut_off >= scrapes, "{name}: {outcome}");
        }
    });
}
