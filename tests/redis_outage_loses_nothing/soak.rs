//! Many clients live through everything that can go wrong, one thing after the other.

use std::{env, time::Duration};

use testkit::soak::{self, Soak};

/// For people: `scripts/soak`.
#[test]
#[ignore = "scripts/soak runs it"]
fn soak() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let minutes = number("SOAK_MINUTES").unwrap_or(20);
    let soak = Soak {
        lasting: Duration::from_secs(minutes * 60),
        seed: number("SOAK_SEED").unwrap_or(1),
    };
    let outcome = soak::run(&soak, |line| println!("soak: {line}"));
    for line in outcome.to_string().lines() {
        println!("soak: {line}");
    }
    assert!(outcome.is_clean(), "{outcome:#?}");
}

/// A few of the things that go wrong; `scripts/soak` goes on for as long as it is told.
#[test]
fn many_clients_live_through_what_goes_wrong() {
    let soak = Soak {
        lasting: Duration::from_secs(8),
        seed: 1,
    };
    let outcome = soak::run(&soak, |_| {});
    assert!(outcome.faults.len() >= 3, "{outcome:#?}");
    assert!(outcome.accepted >= 500, "{outcome:#?}");
    assert!(outcome.is_clean(), "{outcome:#?}");
}
