//! Real Prometheus servers, rules, alerts and dashboards show what a device and a fleet do.

mod agent;
mod credentials;
mod dashboards;
mod device;
mod fleet;
mod outage;
mod provisioning;
mod rules;
