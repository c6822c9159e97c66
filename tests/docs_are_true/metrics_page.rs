//! docs/metrics.md matches the registered metrics, their labels, the lean profile and the options.

use std::collections::{BTreeMap, BTreeSet};

use paho_mqtt_redis::prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use testkit::{
    dashboard::{Dashboard, Query},
    promql::selectors,
    rules::families,
};

use super::{
    page::{FLEET, METRICS, code, setters},
    rules::lean_has,
};

#[test]
fn metrics_table_matches_registered_metrics() {
    let registered: BTreeMap<String, (String, Vec<String>)> = families(false)
        .iter()
        .map(|family| {
            let kind = match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                other => panic!("{other:?}"),
            };
            let labels = family.get_metric()[0]
                .get_label()
                .iter()
                .map(LabelPair::name);
            let mut labels: Vec<_> = labels
                .filter(|name| *name != "client_id")
                .map(str::to_owned)
                .collect();
            labels.sort();
            (family.name().to_owned(), (kind.to_owned(), labels))
        })
        .collect();
    let rows = METRICS.table("## The catalogue", "name").into_iter();
    let described = rows.map(|row| {
        let mut labels = code(&row[2]);
        labels.sort();
        (code(&row[0]).remove(0), (row[1].clone(), labels))
    });
    assert_eq!(described.collect::<BTreeMap<_, _>>(), registered);
}

#[test]
fn lean_profile_table_matches_its_series() {
    // Some begin with the first error.
    let mut present: BTreeSet<String> = families(true)
        .iter()
        .map(|family| family.name().to_owned())
        .collect();
    present.insert("mqtt_persistence_store_errors_total".to_owned());
    let mut rows = METRICS.table("## The catalogue", "name");
    rows.retain(|row| !row[3].is_empty());
    let described = rows.iter().map(|row| code(&row[0]).remove(0));
    assert_eq!(described.collect::<BTreeSet<_>>(), present);
    for row in rows {
        let name = code(&row[0]).remove(0);
        let kept: BTreeSet<String> = code(&row[3]).into_iter().collect();
        let Some(family) = families(true).iter().find(|family| family.name() == name) else {
            continue;
        };
        let is_of = |label: &str| {
            let labels = family.get_metric().iter().flat_map(Metric::get_label);
            let values = labels.filter(|pair| pair.name() == label);
            let values: BTreeSet<String> = values.map(|pair| pair.value().to_owned()).collect();
            values == kept
        };
        let matches = if row[3] == "yes" {
            family.get_metric().len() == kept_whole(&name)
        } else {
            ["kind", "operation", "error"].into_iter().any(is_of)
        };
        assert!(matches, "{name}");
    }
}

/// Number of series of the family in the full profile.
fn kept_whole(name: &str) -> usize {
    let mut families = families(false).iter();
    let family = families.find(|family| family.name() == name);
    family.expect("a family").get_metric().len()
}

#[test]
fn label_values_match_text() {
    for (label, introduction) in [("operation", "`operation` is "), ("kind", "`kind` is ")] {
        let mut values: Vec<&str> = families(false)
            .iter()
            .flat_map(MetricFamily::get_metric)
            .flat_map(Metric::get_label)
            .filter(|pair| pair.name() == label)
            .map(LabelPair::value)
            .collect();
        values.sort_unstable();
        values.dedup();
        let mut named = code(METRICS.between(introduction, ". "));
        named.sort();
        named.dedup();
        assert_eq!(named, values, "{label}");
    }
}

#[test]
fn metrics_option_table_matches_builder() {
    assert_eq!(
        METRICS.first_column("`PersistenceMetrics::builder()`:", "option"),
        setters(include_str!("../../src/metrics/builder.rs"))
    );
}

#[test]
fn panels_incomplete_in_lean_profile_are_named() {
    let board = Dashboard::load("device");
    let lacks = |query: &Query| {
        let mut selectors = selectors(&query.expression).into_iter();
        selectors.any(|selector| {
            selector.metric.starts_with("mqtt_persistence_") && !lean_has(&selector)
        })
    };
    let queries = board.queries();
    let lacking = queries.iter().filter(|query| lacks(query));
    let lacking: BTreeSet<&str> = lacking.map(|query| query.of.as_str()).collect();
    let list = METRICS.between(
        "the lean profile leaves these panels empty, or a part of them:",
        ".",
    );
    let named = list.split('*').skip(1).step_by(2);
    assert_eq!(named.collect::<BTreeSet<_>>(), lacking);
}

/// Number of samples of one client, whose store is up.
fn samples(is_lean: bool) -> usize {
    let of_family = |family: &MetricFamily| -> usize {
        let metrics = family.get_metric().iter();
        let is_up = |metric: &&Metric| metric.get_label().iter().any(|it| it.value() == "id");
        let samples = metrics
            .filter(is_up)
            .map(|metric| match family.get_field_type() {
                // The bucket of infinity, the sum and the count.
                MetricType::HISTOGRAM => metric.get_histogram().get_bucket().len() + 3,
                _ => 1,
            });
        samples.sum()
    };
    families(is_lean).iter().map(of_family).sum()
}

#[test]
fn series_per_client_match_text() {
    let (full, lean) = (samples(false), samples(true));
    for text in [
        METRICS.between("alerts read: ", " per client"),
        FLEET.between("The full profile has ", ": those that"),
    ] {
        let numbers = text.split(|letter: char| !letter.is_ascii_digit());
        let mut numbers: Vec<usize> = numbers.filter_map(|number| number.parse().ok()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [lean, full], "{text}");
    }
}
