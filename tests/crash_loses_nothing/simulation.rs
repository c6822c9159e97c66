//! Simulated runs with every fault: some seeds of `scripts/simulate`, which does thousands.

use testkit::simulator::{Orders, check};

#[test]
fn simulated_faults_break_no_promise() {
    let orders = Orders {
        seeds: 20,
        ..Orders::default()
    };
    let (totals, failures) = check(&orders, |failure| eprintln!("{}", failure.story));
    assert!(failures.is_empty(), "{:?}", failures.first());
    assert!(totals.deliveries > 1000, "{totals:?}");
    assert!(totals.starts > 100, "{totals:?}");
    assert!(totals.faults > 250, "{totals:?}");
}
