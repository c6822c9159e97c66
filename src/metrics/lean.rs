//! The lean profile: only the series that the fleet board, the recording rules and the alerts read.

use prometheus::proto::Metric;

/// Default latency bounds of the profile in seconds, around the 50 ms of the alert about slow puts.
pub(super) const LEAN_LATENCY_BUCKETS: [f64; 5] = [0.000_5, 0.005, 0.05, 0.25, 1.0];

/// The form of a metric in the lean profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lean {
    Absent,
    Kept,
    /// Series with one of these values of the label.
    Only(&'static str, &'static [&'static str]),
    /// Series with one of these values from the start, so that `increase` sees the step from zero;
    /// others once they are not zero.
    NonZeroOr(&'static str, &'static [&'static str]),
}

impl Lean {
    /// Returns true if the profile has the series.
    ///
    /// Selects at each collection, so counting stays complete and costs the same in both profiles.
    pub(super) fn exposes(self, series: &Metric) -> bool {
        match self {
            Self::Absent => false,
            Self::Kept => true,
            Self::Only(label, values) => has_label(series, label, values),
            Self::NonZeroOr(label, values) => {
                has_label(series, label, values) || series.get_counter().get_value() != 0.0
            }
        }
    }
}

fn has_label(series: &Metric, label: &str, values: &[&str]) -> bool {
    let mut labels = series.get_label().iter();
    labels.any(|pair| pair.name() == label && values.contains(&pair.value()))
}

#[cfg(test)]
mod tests {
    use paho_mqtt::ClientPersistence;
    use prometheus::Registry;

    use super::*;
    use crate::{
        error::ErrorKind,
        instrumented::Instrumented,
        metrics::{
            catalog::all_metrics,
            family::{Metric, PREFIX},
            persistence_metrics::PersistenceMetrics,
        },
        persistence::{MemoryPersistence, StoreObserver},
    };

    fn series(registry: &Registry) -> Vec<String> {
        let text = crate::metrics::render(registry).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn each_value_that_lean_selects_exists() {
        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).unwrap();
        let mut persistence = MemoryPersistence::new().instrument(&metrics);
        persistence.open("id", "uri").unwrap();
        let families = registry.gather();
        for Metric { name, lean, .. } in all_metrics() {
            let (Lean::Only(label, values) | Lean::NonZeroOr(label, values)) = *lean else {
                continue;
            };
            let family = families
                .iter()
                .find(|family| family.name() == format!("{PREFIX}{name}"))
                .unwrap_or_else(|| panic!("{name} is not a family"));
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
