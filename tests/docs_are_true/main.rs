//! README, docs, examples, units, dashboards, rules and their provisioning match the code.

mod dashboards;
mod endpoint_page;
mod errors_page;
mod examples;
mod lifecycle;
mod links;
mod metrics_page;
mod module_graph;
mod opentelemetry_page;
mod page;
mod provisioning;
mod public_types;
mod readme;
mod redis_exporter;
mod redis_page;
mod rules;
mod sentinel_example;
mod systemd;
mod upstream;
mod wording;
