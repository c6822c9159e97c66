//! Many clients publish while one fault follows another.

use std::time::Duration;

use testkit::harness::{failovers, soak};

/// A few of the faults; `scripts/soak` runs as long as requested.
#[test]
fn fault_after_fault_loses_nothing() {
    let outcome = soak::run(Duration::from_secs(8), 3, 1, |_| {});
    assert!(outcome.faults.len() >= 3, "{outcome:#?}");
    assert!(outcome.accepted() >= 500, "{outcome:#?}");
    assert!(outcome.is_clean(), "{outcome:#?}");
}

/// Two kills; `scripts/failovers` makes as many as requested.
#[test]
fn killed_master_with_replica_loses_nothing() {
    let outcome = failovers::run(2, 1, 1, |_| {});
    assert_eq!(outcome.kills, 2, "{outcome:#?}");
    assert!(outcome.is_clean(), "{outcome:#?}");
}
