//! Fleet of simulated devices. Each one is a real persistence over memory, measured by `Instrumented`, behind an endpoint of its own.
//! The fleet makes Paho's calls, and takes stores and links down on request.

pub mod agent;
pub mod comparison;
pub mod device;
pub mod observer;
pub mod outages;
pub mod script;
mod store;
pub mod sums;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{random::Random, serving::serve};
use device::Device;

/// Outages, by the names of the devices.
#[derive(Debug, Default)]
pub struct Outages {
    pub stores: BTreeSet<String>,
    pub links: BTreeSet<String>,
}

pub struct Fleet {
    switches: Vec<Switches>,
    pub addresses: Vec<SocketAddr>,
    /// URL at which Prometheus asks for its targets.
    pub targets: String,
    stop: Arc<AtomicBool>,
    work: Option<JoinHandle<()>>,
}

/// Switches that take the store and the link of a device down.
#[derive(Clone)]
pub struct Switches {
    pub name: String,
    pub store_is_down: Arc<AtomicBool>,
    pub link_is_down: Arc<AtomicBool>,
}

impl Fleet {
    /// Starts this many devices, each of which accepts a message every `interval`.
    pub fn start(devices: usize, is_lean: bool, interval: Duration) -> Self {
        let names = (1..=devices).map(|number| format!("device-{number:04}"));
        let devices: Vec<Device> = names.map(|name| Device::start(&name, is_lean)).collect();
        let switches: Vec<Switches> = devices.iter().map(|one| one.switches.clone()).collect();
        let targets: Vec<_> = devices
            .iter()
            .map(|device| {
                let labels = json!({ "instance": device.switches.name });
                json!({ "targets": [device.address()], "labels": labels })
            })
            .collect();
        let targets = json!(targets).to_string();
        let addresses = devices.iter().map(Device::address).collect();
        let discovery = serve("application/json", move || targets.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = thread::spawn(move || {
            let mut devices = devices;
            let mut due = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                devices.iter_mut().for_each(Device::step);
                // Missed messages are not made up for.
                due = (due + interval).max(Instant::now());
                thread::park_timeout(due.saturating_duration_since(Instant::now()));
            }
        });
        Self {
            switches,
            addresses,
            targets: format!("http://{discovery}/targets"),
            stop,
            work: Some(work),
        }
    }

    pub fn size(&self) -> usize {
        self.switches.len()
    }

    /// Takes down the stores of some devices and the links of others: of each more than the share that makes the alerts for the fleet
    /// fire, and at least two. The same seed gives the same devices.
    pub fn begin_outages(&self, seed: u64) -> Outages {
        let mut random = Random::of(seed);
        let many = (self.size() * 6 / 100 + 1).max(2);
        assert!(self.size() >= 2 * many, "too few devices");
        let mut outages = Outages::default();
        while outages.stores.len() < many || outages.links.len() < many {
            let one = &self.switches[random.below(self.size())];
            let (switch, set) = if outages.stores.len() < many {
                (&one.store_is_down, &mut outages.stores)
            } else if outages.stores.contains(&one.name) {
                continue;
            } else {
                (&one.link_is_down, &mut outages.links)
            };
            switch.store(true, Ordering::Relaxed);
            set.insert(one.name.clone());
        }
        outages
    }

    /// Takes down the store of one device.
    pub fn begin_outage(&self) {
        self.switches[0]
            .store_is_down
            .store(true, Ordering::Relaxed);
    }

    pub fn end_outages(&self) {
        for one in &self.switches {
            one.store_is_down.store(false, Ordering::Relaxed);
            one.link_is_down.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.work.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}
