//! The lean profile: the series that the fleet board, the recording rules and the alerts read, and no others.

use prometheus::{
    core::{Collector, Desc},
    proto::{Metric, MetricFamily},
};

use super::names::PREFIX;

/// Bounds around what the alert about slow puts compares with, 50 ms, in seconds.
pub(super) const LEAN_LATENCY_BUCKETS: [f64; 5] = [0.000_5, 0.005, 0.05, 0.25, 1.0];

/// Which series of a family are told.
#[derive(Clone, Copy)]
enum SeriesFilter {
    All,
    /// Those with one of these values of the label.
    Only(&'static str, &'static [&'static str]),
    /// The same from the start, so that an increase from zero shows; the others once they are not zero.
    Moved(&'static str, &'static [&'static str]),
}

/// The messages that wait.
const WAITING_KINDS: SeriesFilter = SeriesFilter::Only("kind", &["command", "sent_publish"]);

/// The families of which anything is told, without the prefix.
const LEAN_FAMILIES: [(&str, SeriesFilter); 20] = [
    (
        "operation_duration_seconds",
        SeriesFilter::Only("operation", &["put"]),
    ),
    (
        "operation_errors_total",
        SeriesFilter::Moved("error", &["damaged", "lost"]),
    ),
    ("operations_in_progress", SeriesFilter::All),
    ("records", WAITING_KINDS),
    ("record_bytes", WAITING_KINDS),
    (
        "oldest_record_age_seconds",
        SeriesFilter::Only("kind", &["command", "sent_publish", "undelivered"]),
    ),
    ("added_records_total", WAITING_KINDS),
    ("removed_records_total", WAITING_KINDS),
    ("restored_records", WAITING_KINDS),
    ("opened_timestamp_seconds", SeriesFilter::All),
    ("build_info", SeriesFilter::All),
    ("store_up", SeriesFilter::All),
    ("store_changed_timestamp_seconds", SeriesFilter::All),
    ("store_reconnects_total", SeriesFilter::All),
    ("store_errors_total", SeriesFilter::Moved("error", &[])),
    ("store_held_bytes", SeriesFilter::All),
    (
        "store_discarded_records_total",
        SeriesFilter::Moved("kind", &["sent_publish"]),
    ),
    ("store_lost_records_total", SeriesFilter::All),
    ("store_quarantined_records_total", SeriesFilter::All),
    ("store_last_confirmed_timestamp_seconds", SeriesFilter::All),
];

impl SeriesFilter {
    fn of(family: &str) -> Option<Self> {
        let mut all = LEAN_FAMILIES.iter();
        let (_, kept) = all.find(|(name, _)| family.strip_prefix(PREFIX) == Some(name))?;
        Some(*kept)
    }

    fn keeps(self, metric: &Metric) -> bool {
        match self {
            Self::All => true,
            Self::Only(label, values) => has(metric, label, values),
            Self::Moved(label, values) => {
                has(metric, label, values) || metric.get_counter().get_value() != 0.0
            }
        }
    }
}

fn has(metric: &Metric, label: &str, values: &[&str]) -> bool {
    let mut labels = metric.get_label().iter();
    labels.any(|pair| pair.name() == label && values.contains(&pair.value()))
}

/// A collector that tells of a part of its series.
struct FilteredCollector {
    collector: Box<dyn Collector>,
    kept: SeriesFilter,
}

/// The part of a family that the profile has, if it has any.
pub(super) fn narrowed(collector: Box<dyn Collector>) -> Option<Box<dyn Collector>> {
    let kept = SeriesFilter::of(&collector.desc().first()?.fq_name)?;
    Some(Box::new(FilteredCollector { collector, kept }))
}

impl Collector for FilteredCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.collector.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.collector.collect();
        for family in &mut families {
            family.mut_metric().retain(|metric| self.kept.keeps(metric));
        }
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
        let text = crate::render(registry).unwrap();
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
        for (name, kept) in LEAN_FAMILIES {
            let family = families
                .iter()
                .find(|family| family.name() == format!("{PREFIX}{name}"))
                .unwrap_or_else(|| panic!("{name} is no family"));
            let listed = match kept {
                SeriesFilter::All => continue,
                SeriesFilter::Only(label, values) | SeriesFilter::Moved(label, values) => {
                    (label, values)
                }
            };
            for value in listed.1 {
                let mut metrics = family.get_metric().iter();
                assert!(
                    metrics.any(|metric| has(metric, listed.0, &[value])),
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
