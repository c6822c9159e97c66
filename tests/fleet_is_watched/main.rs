//! Real Prometheus servers, rules, alerts and dashboards show what a device and a fleet do.

mod agent;
mod credentials;
mod device;
mod engines;
mod fleet;
mod outage;
mod pictures;
mod rules;
