//! Every deliberate defect is found within a few seeds, and runs repeat themselves.

use super::{
    driver::{replay, run},
    profile::{Fault, Profile},
    report::{Failure, Orders, check},
    sabotage::Sabotage,
    story::shrink,
};

/// Runs seeds with a defect and these faults, until one fails.
fn find(sabotage: Sabotage, faults: &[Fault]) -> Failure {
    find_from(1, sabotage, faults)
}

/// Does the same from a later seed, if the first ones are known to find nothing.
fn find_from(first_seed: u64, sabotage: Sabotage, faults: &[Fault]) -> Failure {
    let orders = Orders {
        first_seed,
        seeds: 60,
        steps: 1000,
        faults: faults.to_vec(),
        ignored: vec!["few_exchanges", "gauges_are_true", "order_across_qos"],
        sabotage,
        ..Orders::default()
    };
    let (_, failures) = check(&orders, |_| ());
    let failure = failures.into_iter().next();
    failure.unwrap_or_else(|| panic!("{sabotage:?} is not found"))
}

#[test]
fn dropped_put_is_found() {
    let found = find(Sabotage::DropsPuts, &[Fault::Network]);
    assert!(
        ["nothing_lost", "values_are_true", "keys_are_true"].contains(&found.name),
        "{found:?}"
    );
}

#[test]
fn twice_accepted_message_is_found() {
    let found = find(Sabotage::PutsTwice, &[Fault::Network]);
    assert_eq!(found.name, "conserved", "{found:?}");
}

#[test]
fn early_remove_is_found() {
    let found = find(Sabotage::RemovesEarly, &[Fault::Network, Fault::Crash]);
    assert!(
        ["keys_are_true", "nothing_lost", "no_stuck", "qos2_once"].contains(&found.name),
        "{found:?}"
    );
}

#[test]
fn version_that_is_not_named_is_found() {
    let found = find_from(40, Sabotage::ForgetsVersion, &[Fault::Crash]);
    assert_eq!(found.name, "one_version", "{found:?}");
}

#[test]
fn stale_value_is_found() {
    let found = find(Sabotage::ReturnsStaleValues, &[Fault::Network]);
    assert_eq!(found.name, "values_are_true", "{found:?}");
}

#[test]
fn inverted_contains_key_is_found() {
    let found = find(Sabotage::InvertsContains, &[Fault::Crash]);
    assert_eq!(found.name, "keys_are_true", "{found:?}");
}

#[test]
fn forgetful_store_is_found() {
    let found = find(Sabotage::StoreForgets, &[Fault::Network]);
    assert!(
        ["nothing_lost", "no_stuck"].contains(&found.name),
        "{found:?}"
    );
}

#[test]
fn confirmation_before_sync_is_found() {
    let found = find(Sabotage::StoreSkipsSync, &[Fault::PowerCut]);
    assert_eq!(found.name, "nothing_lost", "{found:?}");
}

#[test]
fn confirmation_before_replication_is_found() {
    let found = find(Sabotage::StoreSkipsReplica, &[Fault::PrimaryLost]);
    assert_eq!(found.name, "nothing_lost", "{found:?}");
}

#[test]
fn split_group_is_found() {
    let found = find(Sabotage::StoreSplitsGroups, &[Fault::Crash]);
    assert!(
        ["no_gap", "nothing_lost", "no_stuck"].contains(&found.name),
        "{found:?}"
    );
}

#[test]
fn dropped_quarantine_is_found() {
    let faults = [Fault::Foreign, Fault::Crash, Fault::Close];
    let found = find(Sabotage::StoreDropsQuarantine, &faults);
    assert_eq!(found.name, "nothing_foreign_deleted", "{found:?}");
}

#[test]
fn dropped_dead_letter_is_found() {
    let found = find(Sabotage::StoreDropsDiscarded, &[Fault::Network]);
    assert_eq!(found.name, "dropped_are_set_aside", "{found:?}");
}

#[test]
fn faultless_run_is_clean_and_delivers() {
    let orders = Orders {
        seeds: 10,
        steps: 1000,
        faults: Vec::new(),
        ignored: vec!["gauges_are_true"],
        ..Orders::default()
    };
    let (totals, failures) = check(&orders, |_| ());
    assert!(failures.is_empty(), "{failures:?}");
    assert!(totals.deliveries > 200, "{totals:?}");
}

#[test]
fn seed_repeats_itself() {
    for seed in 1..8 {
        let profile = Profile::of(seed, &Fault::ALL, Sabotage::None);
        let first = run(seed, &profile, 600);
        let again = replay(&profile, &first.steps, true);
        assert_eq!(first.violation, again.violation, "seed {seed}");
        assert_eq!(first.totals.virtual_time, again.totals.virtual_time);
        let third = replay(&profile, &first.steps, true);
        assert_eq!(again.trace, third.trace, "seed {seed}");
    }
}

#[test]
fn shrunk_story_fails_in_same_way() {
    let faults = [Fault::Network];
    // Each step that is tried repeats the whole story, so a short one.
    let found = (1..60).find_map(|seed| {
        let profile = Profile::of(seed, &faults, Sabotage::DropsPuts);
        let mut outcome = run(seed, &profile, 200);
        let violation = outcome.violation.take()?;
        Some((profile, outcome, violation))
    });
    let (mut profile, outcome, violation) = found.expect("a seed fails");
    let steps = shrink(&mut profile, &outcome.steps, &violation);
    assert!(steps.len() < outcome.steps.len());
    let again = replay(&profile, &steps, false);
    assert_eq!(
        again.violation.map(|found| found.name),
        Some(violation.name)
    );
}
