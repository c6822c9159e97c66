//! The lean profile: only the series that the fleet board, the recording rules and the alerts read.

use prometheus::{
    core::{Collector, Desc},
    proto::{Metric, MetricFamily},
};

use super::names::PREFIX;

/// Default latency bounds of the profile in seconds, around the 50 ms of the alert about slow puts.
pub(super) const LEAN_LATENCY_BUCKETS: [f64; 5] = [0.000_5, 0.005, 0.05, 0.25, 1.0];

/// A rule that selects the exposed series of a family.
#[derive(Clone, Copy)]
enum SeriesFilter {
    All,
    /// Series with one of these values of the label.
    Only(&'static str, &'static [&'static str]),
    /// Series with one of these values from the start, so that `increase` sees the step from zero;
    /// others once they are not zero.
    NonZeroOr(&'static str, &'static [&'static str]),
}

/// The kinds of waiting outbound messages.
const WAITING_KINDS: SeriesFilter = SeriesFilter::Only("kind", &["command", "sent_publish"]);

/// The families of the profile without the prefix, each with its filter.
const LEAN_FAMILIES: [(&str, SeriesFilter); 27] = [
    (
        "operation_duration_seconds",
        SeriesFilter::Only("operation", &["put"]),
    ),
    (
        "operation_errors_total",
        SeriesFilter::NonZeroOr("error", &["damaged", "lost"]),
    ),
    ("operations_in_progress", SeriesFilter::All),
    ("records", WAITING_KINDS),
    ("record_bytes", WAITING_KINDS),
    (
        "oldest_record_age_seconds",
        SeriesFilter::Only("kind", &["command", "sent_publish", "undelivered"]),
    ),
    ("accepted_messages_total", SeriesFilter::All),
    ("waiting_messages", SeriesFilter::All),
    ("delivered_messages_total", SeriesFilter::All),
    (
        "dropped_records_total",
        SeriesFilter::NonZeroOr("kind", &["command", "sent_publish"]),
    ),
    ("lost_messages_total", SeriesFilter::All),
    ("restored_records", WAITING_KINDS),
    ("opened_timestamp_seconds", SeriesFilter::All),
    ("build_info", SeriesFilter::All),
    ("store_up", SeriesFilter::All),
    ("store_changed_timestamp_seconds", SeriesFilter::All),
    ("store_reconnects_total", SeriesFilter::All),
    ("store_errors_total", SeriesFilter::NonZeroOr("error", &[])),
    ("store_held_bytes", SeriesFilter::All),
    ("store_waiting_bytes", SeriesFilter::All),
    ("store_queued_messages", SeriesFilter::All),
    ("store_limit_messages", SeriesFilter::All),
    ("store_limit_bytes", SeriesFilter::All),
    ("store_poison_suspects", SeriesFilter::All),
    ("store_lost_records_total", SeriesFilter::All),
    ("store_quarantined_records_total", SeriesFilter::All),
    ("store_last_confirmed_timestamp_seconds", SeriesFilter::All),
];

impl SeriesFilter {
    /// Returns the filter of a family by its full name.
    fn of(family: &str) -> Option<Self> {
        let mut all = LEAN_FAMILIES.iter();
        let (_, filter) = all.find(|(name, _)| family.strip_prefix(PREFIX) == Some(name))?;
        Some(*filter)
    }

    fn admits(self, metric: &Metric) -> bool {
        match self {
            Self::All => true,
            Self::Only(label, values) => has_label(metric, label, values),
            Self::NonZeroOr(label, values) => {
                has_label(metric, label, values) || metric.get_counter().get_value() != 0.0
            }
        }
    }
}

fn has_label(metric: &Metric, label: &str, values: &[&str]) -> bool {
    let mut labels = metric.get_label().iter();
    labels.any(|pair| pair.name() == label && values.contains(&pair.value()))
}

/// A collector that exposes only some series of another.
///
/// Filters at each collection, so counting stays complete and costs the same in both profiles.
struct FilteredCollector {
    collector: Box<dyn Collector>,
}

/// Returns the collector restricted to the profile, or `None` if no family of it is part of the profile.
pub(super) fn filtered(collector: Box<dyn Collector>) -> Option<Box<dyn Collector>> {
    let collector = FilteredCollector { collector };
    let is_empty = collector.desc().is_empty();
    (!is_empty).then(|| Box::new(collector) as Box<dyn Collector>)
}

impl Collector for FilteredCollector {
    fn desc(&self) -> Vec<&Desc> {
        let mut descs = self.collector.desc();
        descs.retain(|desc| SeriesFilter::of(&desc.fq_name).is_some());
        descs
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.collector.collect();
        families.retain_mut(|family| {
            let filter = SeriesFilter::of(family.name());
            if let Some(filter) = filter {
                family.mut_metric().retain(|metric| filter.admits(metric));
            }
            filter.is_some()
        });
        families
    }
}

#[cfg(test)]
mod tests {
    use paho_mqtt::ClientPersistence;
    use prometheus::Registry;

    use super::*;
    use crate::{
        error::ErrorKind,
        instrumented::Instrumented,
        metrics::persistence_metrics::PersistenceMetrics,
        persistence::{MemoryPersistence, StoreObserver},
    };

    fn series(registry: &Registry) -> Vec<String> {
        let text = crate::metrics::render(registry).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn each_lean_entry_is_family_and_keeps_some_series() {
        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).unwrap();
        let mut persistence = MemoryPersistence::new().instrument(&metrics);
        persistence.open("id", "uri").unwrap();
        let families = registry.gather();
        for (name, filter) in LEAN_FAMILIES {
            let family = families
                .iter()
                .find(|family| family.name() == format!("{PREFIX}{name}"))
                .unwrap_or_else(|| panic!("{name} is not a family"));
            let (label, values) = match filter {
                SeriesFilter::All => continue,
                SeriesFilter::Only(label, values) | SeriesFilter::NonZeroOr(label, values) => {
                    (label, values)
                }
            };
            for value in values {
                let mut metrics = family.get_metric().iter();
                assert!(
                    metrics.any(|metric| has_label(metric, label, &[value])),
                    "{name} {value}"
                );
            }
        }
    }

    #[test]
    fn error_series_begins_with_first_error() {
        let registry = Registry::new();
        let metrics = PersistenceMetrics::builder()
            .lean()
            .register(&registry)
            .unwrap();
        let mut persistence = Instrumented::new(MemoryPersistence::new(), &metrics);
        persistence.open("id", "uri").unwrap();
        let errors = || {
            let all = series(&registry).into_iter();
            all.filter(|line| line.contains("_errors_total"))
                .collect::<Vec<_>>()
        };
        let before = errors();
        assert_eq!(before.len(), 2, "{before:?}");
        persistence.put("no key of Paho", vec![b"x"]).unwrap_err();
        let after = errors();
        assert_eq!(after.len(), 3, "{after:?}");
        assert!(
            after
                .iter()
                .any(|line| line.contains("invalid_key") && line.ends_with(" 1")),
            "{after:?}"
        );
    }

    #[test]
    fn omitted_series_are_counted_and_go_with_client() {
        let registry = Registry::new();
        let metrics = PersistenceMetrics::builder()
            .lean()
            .register(&registry)
            .unwrap();
        let mut persistence = MemoryPersistence::new().instrument(&metrics);
        persistence.open("id", "uri").unwrap();
        assert!(
            series(&registry)
                .iter()
                .all(|line| !line.contains("operation=\"open\""))
        );
        drop(persistence);
        assert_eq!(series(&registry), Vec::<String>::new());
    }

    #[test]
    fn second_registration_is_refused_and_keeps_first() {
        let registry = Registry::new();
        let lean = || PersistenceMetrics::builder().lean();
        let metrics = lean().register(&registry).unwrap();
        let error = lean().register(&registry).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Registration);
        metrics.on_event("id", &crate::store::StoreEvent::Opened { quarantined: 0 });
        assert!(!series(&registry).is_empty());
    }
}
