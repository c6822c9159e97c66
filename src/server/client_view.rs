//! The samples of each client, from the contents of a registry.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::{error::ErrorKind, metrics::PREFIX, units::duration};

/// The reason of a store that is down without an error.
const NO_ERROR: &str = "not open yet, or closed; if opening failed, the log has the reason";

/// Stands between the reasons of stores that share a label.
const NEXT_STORE: &str = ". Another store with this label: ";

/// The samples of one client.
#[derive(Default)]
pub(super) struct ClientView<'a> {
    /// Sums by name, without the prefix, and label value.
    samples: BTreeMap<(&'a str, &'a str), f64>,
    /// The version of this crate and the store, if they are known.
    pub(super) build: String,
    /// The time of the device, in seconds since 1970.
    now: f64,
}

/// Groups the samples of this crate by client id.
pub(super) fn clients(
    families: &[MetricFamily],
    now: SystemTime,
) -> BTreeMap<&str, ClientView<'_>> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut clients: BTreeMap<&str, ClientView> = BTreeMap::new();
    for family in families {
        let Some(name) = family.name().strip_prefix(PREFIX) else {
            continue;
        };
        for metric in family.get_metric() {
            if let Some(id) = label(metric, &["client_id"]) {
                let client = clients.entry(id).or_default();
                client.now = now.as_secs_f64();
                client.add(name, family.get_field_type(), metric);
            }
        }
    }
    clients
}

/// Returns the value of the first of these labels that the metric has.
fn label<'a>(metric: &'a Metric, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| {
        let mut labels = metric.get_label().iter();
        let label = labels.find(|label| label.name() == *name)?;
        Some(label.value())
    })
}

impl<'a> ClientView<'a> {
    fn add(&mut self, name: &'a str, kind: MetricType, metric: &'a Metric) {
        let labels = label(metric, &["operation", "reason", "kind", "error"]);
        let mut add = |name, value| {
            let sample = self.samples.entry((name, labels.unwrap_or_default()));
            *sample.or_default() += value;
        };
        match (name, kind) {
            ("operation_duration_seconds", MetricType::HISTOGRAM) => {
                let histogram = metric.get_histogram();
                #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
                add("calls", histogram.get_sample_count() as f64);
                add("spent", histogram.get_sample_sum());
            }
            ("build_info", _) => {
                let [version, store] =
                    ["version", "store"].map(|name| label(metric, &[name]).unwrap_or_default());
                self.build = format!("paho-mqtt-redis {version}, store {store}");
            }
            ("store_up", _) => add("stores_down", 1.0 - metric.get_gauge().get_value()),
            (_, MetricType::COUNTER) => add(name, metric.get_counter().get_value()),
            _ => add(name, metric.get_gauge().get_value()),
        }
    }

    /// Returns the label values of a metric, with its values.
    pub(super) fn series<'s>(&'s self, name: &'s str) -> impl Iterator<Item = (&'s str, f64)> {
        let samples = self.samples.range((name, "")..);
        let samples = samples.take_while(move |((sample, _), _)| *sample == name);
        samples.map(|((_, label), value)| (*label, *value))
    }

    /// Returns the value of a metric over all label values.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        let values = self.series(name).map(|(_, value)| value);
        // Ages do not add up.
        if name == "oldest_record_age_seconds" {
            values.reduce(f64::max)
        } else {
            values.reduce(|sum, value| sum + value)
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.value("stores_down") > Some(0.0)
    }

    /// Returns the value of a metric for one label value.
    pub(super) fn value_of(&self, name: &str, label: &str) -> Option<f64> {
        self.samples.get(&(name, label)).copied()
    }

    /// Returns the seconds since an event, if it has occurred.
    pub(super) fn time_since(&self, event: &str) -> Option<f64> {
        let at = self.value(&format!("{event}_timestamp_seconds"))?;
        (at > 0.0).then_some(self.now - at)
    }

    /// Returns " for" and the time since an event, if it has occurred.
    pub(super) fn for_time_since(&self, event: &str) -> String {
        let time = self.time_since(event);
        time.map_or(String::new(), |time| format!(" for {}", duration(time)))
    }

    /// Returns the kinds of the errors for which stores are down.
    pub(super) fn errors(&self) -> Vec<&str> {
        self.series("store_down_info")
            .map(|(error, _)| error)
            .collect()
    }

    /// Returns why the store is down, and what to do; of each, if several stores share the label.
    pub(super) fn explanation(&self) -> String {
        let explanations = self.errors().into_iter().map(|error| {
            let mut kinds = ErrorKind::ALL.iter();
            let kind = kinds.find(|kind| kind.as_str() == error);
            kind.map_or(error, |kind| kind.explanation())
        });
        let explanations: Vec<_> = explanations.collect();
        match explanations.as_slice() {
            [] => NO_ERROR.to_owned(),
            known => known.join(NEXT_STORE),
        }
    }
}
