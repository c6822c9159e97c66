//! [`PersistenceMetricsBuilder`]: the options of the metrics.

use std::{collections::HashMap, sync::Arc};

use prometheus::Registry;

use super::{
    catalog::{Catalog, all_metrics},
    clock::Clock,
    family::FamilyOptions,
    lean::LEAN_LATENCY_BUCKETS,
    persistence_metrics::PersistenceMetrics,
};
use crate::error::{Error, ErrorKind};

/// Default latency bounds in seconds. The lowest are latencies of a Redis on the same device.
const LATENCY_BUCKETS: [f64; 12] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.05, 0.25,
    1.0,
];

/// Default size bounds in bytes, from one reading to a file in one message.
const SIZE_BUCKETS: [f64; 8] = [
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
];

impl PersistenceMetrics {
    /// Registers the metrics with the default options.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Registration`] if the registry already has a metric with one of the names.
    pub fn register(registry: &Registry) -> Result<Self, Error> {
        Self::builder().register(registry)
    }

    /// Returns a builder, for options other than the defaults.
    #[must_use]
    pub fn builder() -> PersistenceMetricsBuilder {
        PersistenceMetricsBuilder::default()
    }
}

/// Options of the metrics, set before they are registered.
///
/// ```
/// use paho_mqtt_redis::{PersistenceMetrics, prometheus::Registry};
///
/// let metrics = PersistenceMetrics::builder()
///     .latency_buckets(vec![0.000_1, 0.001, 0.01, 0.1, 1.0])
///     .size_buckets(vec![100.0, 1_000.0, 10_000.0])
///     .const_label("site", "north")
///     .register(&Registry::new())?;
/// # Ok::<(), paho_mqtt_redis::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PersistenceMetricsBuilder {
    /// `None` selects the bounds of the profile, which [`lean`](Self::lean) decides later.
    latency_buckets: Option<Vec<f64>>,
    size_buckets: Vec<f64>,
    const_labels: HashMap<String, String>,
    is_lean: bool,
    clock: Clock,
}

impl Default for PersistenceMetricsBuilder {
    fn default() -> Self {
        Self {
            latency_buckets: None,
            size_buckets: SIZE_BUCKETS.to_vec(),
            const_labels: HashMap::new(),
            is_lean: false,
            clock: Clock::System,
        }
    }
}

impl PersistenceMetricsBuilder {
    /// Sets the upper bounds of the buckets of `mqtt_persistence_operation_duration_seconds`, in seconds.
    ///
    /// Defaults to 12 bounds from 10 µs to 1 s, and with [`lean`](Self::lean) to 5 from 0.5 ms to 1 s.
    #[must_use]
    pub fn latency_buckets(mut self, latency_buckets: Vec<f64>) -> Self {
        self.latency_buckets = Some(latency_buckets);
        self
    }

    /// Sets the upper bounds of the buckets of `mqtt_persistence_value_size_bytes`, in bytes.
    ///
    /// Defaults to 8 bounds from 64 B to 1 MiB.
    #[must_use]
    pub fn size_buckets(mut self, size_buckets: Vec<f64>) -> Self {
        self.size_buckets = size_buckets;
        self
    }

    /// Adds a label with a fixed value to every series. Several calls add several labels.
    ///
    /// Defaults to no label.
    #[must_use]
    pub fn const_label(mut self, name: &str, value: &str) -> Self {
        self.const_labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Exposes only the series that the fleet board, the recording rules and the alerts of this crate read.
    ///
    /// Meant for fleets of many devices: about a tenth of the series per client. `docs/metrics.md` lists them, and the
    /// panels of the device board that stay empty. Everything is still measured; less of it is exposed. Series of
    /// errors other than `lost` and `damaged` appear with the first such error, not at zero before.
    ///
    /// Defaults to every series.
    #[must_use]
    pub fn lean(mut self) -> Self {
        self.is_lean = true;
        self
    }

    #[cfg(test)]
    pub(crate) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Registers the metrics.
    ///
    /// After an error no series of these metrics is registered.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidOption`] if bounds are missing, not finite, not positive or not ascending, or if a
    ///   constant label has an invalid name or one that the metrics use themselves.
    /// - [`ErrorKind::Registration`] if the registry already has a metric with one of the names.
    pub fn register(self, registry: &Registry) -> Result<PersistenceMetrics, Error> {
        let Self {
            latency_buckets,
            size_buckets,
            const_labels,
            is_lean,
            clock,
        } = self;
        let latency_buckets = latency_buckets.unwrap_or_else(|| {
            if is_lean {
                LEAN_LATENCY_BUCKETS.to_vec()
            } else {
                LATENCY_BUCKETS.to_vec()
            }
        });
        check_buckets("latency_buckets", &latency_buckets)?;
        check_buckets("size_buckets", &size_buckets)?;
        check_labels(&const_labels)?;
        let options = FamilyOptions {
            latency_buckets,
            size_buckets,
            const_labels,
        };
        let catalog = Catalog::new(&options, clock).map_err(|error| {
            Error::new(ErrorKind::InvalidOption, "create the metrics")
                .with_reason("the prometheus crate rejects an option")
                .with_source(error)
        })?;
        let catalog = Arc::new(catalog);
        catalog.register(registry, is_lean)?;
        Ok(PersistenceMetrics::new(catalog))
    }
}

fn check_buckets(option: &str, buckets: &[f64]) -> Result<(), Error> {
    let positive = buckets
        .iter()
        .all(|bound| bound.is_finite() && *bound > 0.0);
    let ascending = buckets.is_sorted_by(|one, next| one < next);
    if buckets.is_empty() || !positive || !ascending {
        return Err(Error::invalid_option(option).with_reason(format!(
            "bounds must be positive, finite and ascending, and at least one; got {buckets:?}"
        )));
    }
    Ok(())
}

fn check_labels(labels: &HashMap<String, String>) -> Result<(), Error> {
    // `le` is the label that the text format gives to the buckets of a histogram.
    let of_metrics = || all_metrics().flat_map(|metric| metric.labels);
    for name in labels.keys() {
        let mut characters = name.chars();
        let valid_start = characters
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        let valid_rest = characters.all(|other| other.is_ascii_alphanumeric() || other == '_');
        let reason = if ["client_id", "le"]
            .iter()
            .chain(of_metrics())
            .any(|label| label == name)
        {
            "reserved label; choose another name"
        } else if !valid_start || !valid_rest || name.starts_with("__") {
            "invalid label name; use letters, digits and underscores, not starting with a digit or two \
             underscores"
        } else {
            continue;
        };
        return Err(Error::new(
            ErrorKind::InvalidOption,
            format!("use the const_label {name:?}"),
        )
        .with_reason(reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_metrics_are_reserved() {
        let of_metrics = all_metrics().flat_map(|metric| metric.labels);
        for label in ["client_id", "le"].iter().chain(of_metrics) {
            let builder = PersistenceMetrics::builder().const_label(label, "x");
            let refused = builder.register(&Registry::new());
            let kind = refused.map(drop).map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::InvalidOption), "{label}");
        }
    }
}
