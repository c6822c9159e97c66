//! README, examples, units, dashboards, rules and their provisioning match the code.

mod dashboards;
mod examples;
mod module_graph;
mod provisioning;
mod readme;
mod rules;
mod systemd;
