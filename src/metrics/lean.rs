//! The lean profile: the series that the fleet board, the recording rules and the alerts read, and no others.

use prometheus::{
    core::{Collector, Desc},
    proto::{Metric, MetricFamily},
};

/// Bounds around what the alert about slow puts compares with, 50 ms, in seconds.
pub(super) const LATENCY_BUCKETS: [f64; 5] = [0.000_5, 0.005, 0.05, 0.25, 1.0];

/// Which series of a family are told.
#[derive(Clone, Copy)]
enum Kept {
    All,
    /// Those with one of these values of the label.
    Only(&'static str, &'static [&'static str]),
    /// The same from the start, so that an increase from zero shows; the others once they are not zero.
    Moved(&'static str, &'static [&'static str]),
}

/// The messages that wait.
const WAITING: Kept = Kept::Only("kind", &["command", "sent_publish"]);

/// The families of which anything is told, without the prefix.
const KEPT: [(&str, Kept); 20] = [
    (
        "operation_duration_seconds",
        Kept::Only("operation", &["put"]),
    ),
    (
        "operation_errors_total",
        Kept::Moved("error", &["damaged", "lost"]),
    ),
    ("operations_in_progress", Kept::All),
    ("records", WAITING),
    ("record_bytes", WAITING),
    (
        "oldest_record_age_seconds",
        Kept::Only("kind", &["command", "sent_publish", "undelivered"]),
    ),
    ("added_records_total", WAITING),
    ("removed_records_total", WAITING),
    ("restored_records", WAITING),
    ("opened_timestamp_seconds", Kept::All),
    ("build_info", Kept::All),
    ("store_up", Kept::All),
    ("store_changed_timestamp_seconds", Kept::All),
    ("store_reconnects_total", Kept::All),
    ("store_errors_total", Kept::Moved("error", &[])),
    ("store_held_bytes", Kept::All),
    (
        "store_discarded_records_total",
        Kept::Moved("kind", &["sent_publish"]),
    ),
    ("store_lost_records_total", Kept::All),
    ("store_quarantined_records_total", Kept::All),
    ("store_last_confirmed_timestamp_seconds", Kept::All),
];

impl Kept {
    fn of(family: &str) -> Option<Self> {
        let mut all = KEPT.iter();
        let (_, kept) = all.find(|(name, _)| family.strip_prefix(super::PREFIX) == Some(name))?;
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
struct Narrowed {
    collector: Box<dyn Collector>,
    kept: Kept,
}

/// The part of a family that the profile has, if it has any.
pub(super) fn narrowed(collector: Box<dyn Collector>) -> Option<Box<dyn Collector>> {
    let kept = Kept::of(&collector.desc().first()?.fq_name)?;
    Some(Box::new(Narrowed { collector, kept }))
}

impl Collector for Narrowed {
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
    use crate::{ErrorKind, Instrumented, MemoryPersistence, PersistenceMetrics, StoreObserver};

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
        for (name, kept) in KEPT {
            let family = families
                .iter()
                .find(|family| family.name() == format!("{}{name}", super::super::PREFIX))
                .unwrap_or_else(|| panic!("{name} is no family"));
            let listed = match kept {
                Kept::All => continue,
                Kept::Only(label, values) | Kept::Moved(label, values) => (label, values),
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
        metrics.on_event("id", &crate::StoreEvent::Opened { quarantined: 0 });
        assert!(!series(&registry).is_empty());
    }
}
