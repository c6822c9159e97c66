//! Families of series, which a registry collects, and the handles to the series of one client.

use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts,
    core::{Collector, Desc, MetricVec, MetricVecBuilder},
    proto::MetricFamily,
};

use super::{
    labels::{IndexedLabel, LabelSet},
    lean::Lean,
};

/// The prefix of every metric name.
pub(crate) const PREFIX: &str = "mqtt_persistence_";

/// A metric as the table describes it.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "a test compares the words with the docs")
)]
pub(super) struct Metric {
    /// Without the prefix.
    pub(super) name: &'static str,
    /// The words of `docs/metrics.md`.
    pub(super) docs: &'static str,
    pub(super) kind: &'static str,
    /// Beside `client_id`.
    pub(super) labels: &'static [&'static str],
    pub(super) lean: Lean,
}

/// The options that families are created with.
pub(super) struct FamilyOptions {
    pub(super) latency_buckets: Vec<f64>,
    pub(super) size_buckets: Vec<f64>,
    pub(super) const_labels: HashMap<String, String>,
}

impl FamilyOptions {
    /// Returns the options of one family. Only a histogram has buckets.
    pub(super) fn of(&self, name: &str, help: &str, buckets: &[&[f64]]) -> HistogramOpts {
        let opts = Opts::new(format!("{PREFIX}{name}"), help);
        HistogramOpts {
            common_opts: opts.const_labels(self.const_labels.clone()),
            buckets: buckets.concat(),
        }
    }
}

/// The families of one part of the table.
pub(super) trait Families: Sized {
    /// The handles to the series of one client.
    type Series;
    const METRICS: &'static [Metric];

    fn create(options: &FamilyOptions) -> prometheus::Result<Self>;

    /// Returns the families in the order of [`METRICS`](Self::METRICS).
    fn collectors(&self) -> Vec<&dyn Collector>;

    /// Creates the series of a client, at zero, or finds those that exist.
    fn series(&self, label: &str) -> Self::Series;

    /// Removes the series of a client.
    fn remove(&self, label: &str);

    /// Returns each metric that the profile exposes, with its family.
    fn exposed(&self, is_lean: bool) -> impl Iterator<Item = (&'static Metric, &dyn Collector)> {
        let all = Self::METRICS.iter().zip(self.collectors());
        all.filter(move |(metric, _)| !is_lean || metric.lean != Lean::Absent)
    }

    /// Collects the series that the profile exposes.
    fn collect(&self, is_lean: bool) -> Vec<MetricFamily> {
        let mut collected = Vec::with_capacity(Self::METRICS.len());
        for (metric, collector) in self.exposed(is_lean) {
            let mut families = collector.collect();
            if is_lean {
                for family in &mut families {
                    let series = family.mut_metric();
                    series.retain(|series| metric.lean.exposes(series));
                }
            }
            collected.append(&mut families);
        }
        collected
    }
}

/// Declares the handles to the series of one client, and the families that they belong to.
///
/// The entries are explained in `table.rs`.
macro_rules! metrics {
    (
        $(#[$attribute:meta])*
        $series:ident of $families:ident {
            $($(#[doc = $docs:literal])+
            $name:ident: $handle:ty, $lean:expr, $help:literal $(, $buckets:ident)?;)+
        }
    ) => {
        $(#[$attribute])*
        #[allow(clippy::struct_field_names, reason = "they are the names of the metrics")]
        pub(crate) struct $series {
            $($(#[doc = $docs])+ pub(crate) $name: $handle,)+
        }

        #[allow(clippy::struct_field_names, reason = "they are the names of the metrics")]
        pub(super) struct $families {
            $(pub(super) $name: <$handle as Handle>::Family,)+
        }

        impl Families for $families {
            type Series = $series;
            const METRICS: &'static [Metric] = &[
                $(Metric {
                    name: stringify!($name),
                    docs: concat!($($docs),+),
                    kind: <$handle as Handle>::KIND,
                    labels: <$handle as Handle>::LABELS,
                    lean: $lean,
                },)+
            ];

            fn create(options: &FamilyOptions) -> prometheus::Result<Self> {
                Ok(Self {
                    $($name: <$handle as Handle>::family(
                        options.of(stringify!($name), $help, &[$(&options.$buckets)?]),
                    )?,)+
                })
            }

            fn collectors(&self) -> Vec<&dyn Collector> {
                vec![$(&self.$name,)+]
            }

            fn series(&self, label: &str) -> $series {
                $series {
                    $($name: Handle::create(&self.$name, label),)+
                }
            }

            fn remove(&self, label: &str) {
                $(<$handle as Handle>::remove(&self.$name, label);)+
            }
        }
    };
}
pub(super) use metrics;

/// A handle to the series that one client has of a metric.
pub(super) trait Handle {
    /// The series of all clients.
    type Family: Collector;
    /// The type in the text format.
    const KIND: &'static str;
    /// The labels beside `client_id`.
    const LABELS: &'static [&'static str];

    fn family(opts: HistogramOpts) -> prometheus::Result<Self::Family>;
    fn create(family: &Self::Family, label: &str) -> Self;
    fn remove(family: &Self::Family, label: &str);
}

/// A series, of one of the types of the prometheus crate.
pub(crate) trait Series: Sized {
    type Vector: SeriesVector<Series = Self>;
    const KIND: &'static str;

    fn vector(opts: HistogramOpts, labels: &[&str]) -> prometheus::Result<Self::Vector>;
}

impl Series for IntCounter {
    type Vector = IntCounterVec;
    const KIND: &'static str = "counter";

    fn vector(opts: HistogramOpts, labels: &[&str]) -> prometheus::Result<Self::Vector> {
        IntCounterVec::new(opts.common_opts, labels)
    }
}

impl Series for IntGauge {
    type Vector = IntGaugeVec;
    const KIND: &'static str = "gauge";

    fn vector(opts: HistogramOpts, labels: &[&str]) -> prometheus::Result<Self::Vector> {
        IntGaugeVec::new(opts.common_opts, labels)
    }
}

impl Series for Gauge {
    type Vector = GaugeVec;
    const KIND: &'static str = "gauge";

    fn vector(opts: HistogramOpts, labels: &[&str]) -> prometheus::Result<Self::Vector> {
        GaugeVec::new(opts.common_opts, labels)
    }
}

impl Series for Histogram {
    type Vector = HistogramVec;
    const KIND: &'static str = "histogram";

    fn vector(opts: HistogramOpts, labels: &[&str]) -> prometheus::Result<Self::Vector> {
        HistogramVec::new(opts, labels)
    }
}

/// The series of one family by their label values.
pub(crate) trait SeriesVector: Collector {
    type Series;

    /// Creates a series, at zero, or finds the one that exists.
    fn create_series(&self, values: &[&str]) -> Self::Series;

    /// Removes a series, if it exists.
    fn remove_series(&self, values: &[&str]);
}

impl<B: MetricVecBuilder> SeriesVector for MetricVec<B> {
    type Series = B::M;

    fn create_series(&self, values: &[&str]) -> B::M {
        self.with_label_values(values)
    }

    fn remove_series(&self, values: &[&str]) {
        // The only error is that the series does not exist, which is the wanted state.
        drop(self.remove_label_values(values));
    }
}

/// The only series of a client.
impl<S: Series> Handle for S {
    type Family = S::Vector;
    const KIND: &'static str = S::KIND;
    const LABELS: &'static [&'static str] = &[];

    fn family(opts: HistogramOpts) -> prometheus::Result<Self::Family> {
        S::vector(opts, &["client_id"])
    }

    fn create(family: &Self::Family, label: &str) -> Self {
        family.create_series(&[label])
    }

    fn remove(family: &Self::Family, label: &str) {
        family.remove_series(&[label]);
    }
}

/// A series for each value of a label, or of several labels.
pub(crate) struct Each<L, S>(Box<[(L, S)]>);

impl<L: LabelSet + Copy, S> Each<L, S> {
    /// Returns the series with these label values, if they can occur.
    pub(crate) fn get(&self, labels: L) -> Option<&S> {
        let found = self.0.iter().find(|(other, _)| *other == labels);
        found.map(|(_, series)| series)
    }

    /// Returns the series with this label value, without a search.
    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    pub(crate) fn of(&self, label: L) -> &S
    where
        L: IndexedLabel,
    {
        &self.0[label.index()].1
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(L, S)> {
        self.0.iter()
    }
}

impl<L: LabelSet, S: Series> Handle for Each<L, S> {
    type Family = S::Vector;
    const KIND: &'static str = S::KIND;
    const LABELS: &'static [&'static str] = L::NAMES;

    fn family(opts: HistogramOpts) -> prometheus::Result<Self::Family> {
        // The client id comes first: `labels.rs` tests that series cannot collide in this order.
        S::vector(opts, &[&["client_id"], L::NAMES].concat())
    }

    fn create(family: &Self::Family, label: &str) -> Self {
        let series = L::all().map(|labels| {
            let series = family.create_series(&labels.of_client(label));
            (labels, series)
        });
        Self(series.collect())
    }

    fn remove(family: &Self::Family, label: &str) {
        for labels in L::all() {
            family.remove_series(&labels.of_client(label));
        }
    }
}

/// Series with the value 1, each of which exists for as long as it is held.
pub(crate) struct Info<L> {
    family: InfoFamily,
    label: String,
    labels: PhantomData<L>,
}

impl<L: LabelSet> Info<L> {
    /// Returns a share in the series with these label values, which ends with its last share.
    pub(super) fn hold(&self, labels: &L) -> HeldInfo {
        let values = labels.of_client(&self.label);
        let mut holders = self.family.lock();
        self.family.series.create_series(&values).set(1);
        let values: Vec<String> = values.into_iter().map(str::to_owned).collect();
        let count = holders.entry(values.clone()).or_default();
        *count = count.saturating_add(1);
        drop(holders);
        HeldInfo {
            family: self.family.clone(),
            values,
        }
    }
}

/// The series of an [`Info`] of all clients.
#[derive(Clone)]
pub(super) struct InfoFamily {
    series: IntGaugeVec,
    /// The number of shares by label values.
    holders: Arc<Mutex<HashMap<Vec<String>, usize>>>,
}

impl InfoFamily {
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<String>, usize>> {
        // The counts are plain integers, which no panic leaves half written.
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for InfoFamily {
    fn desc(&self) -> Vec<&Desc> {
        self.series.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.series.collect()
    }
}

/// A share in a series of an [`Info`].
pub(super) struct HeldInfo {
    family: InfoFamily,
    values: Vec<String>,
}

impl Drop for HeldInfo {
    fn drop(&mut self) {
        let mut holders = self.family.lock();
        if let Some(count) = holders.get_mut(&self.values) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                holders.remove(&self.values);
                let values: Vec<&str> = self.values.iter().map(String::as_str).collect();
                self.family.series.remove_series(&values);
            }
        }
    }
}

impl<L: LabelSet> Handle for Info<L> {
    type Family = InfoFamily;
    const KIND: &'static str = <IntGauge as Series>::KIND;
    const LABELS: &'static [&'static str] = L::NAMES;

    fn family(opts: HistogramOpts) -> prometheus::Result<Self::Family> {
        Ok(InfoFamily {
            series: IntGauge::vector(opts, &[&["client_id"], L::NAMES].concat())?,
            holders: Arc::default(),
        })
    }

    fn create(family: &Self::Family, label: &str) -> Self {
        Self {
            family: family.clone(),
            label: label.to_owned(),
            labels: PhantomData,
        }
    }

    /// Does nothing: the last share has removed the series, or will.
    fn remove(_: &Self::Family, _: &str) {}
}
