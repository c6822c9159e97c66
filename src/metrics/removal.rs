//! [`remove_series`]: ends a series with its client.

use prometheus::core::{MetricVec, MetricVecBuilder};

/// Removes the series with these label values, if it exists.
pub(super) fn remove_series<T: MetricVecBuilder>(family: &MetricVec<T>, labels: &[&str]) {
    // The only error is that the series does not exist, which is the wanted state.
    drop(family.remove_label_values(labels));
}
