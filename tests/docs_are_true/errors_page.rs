//! docs/errors.md lists every kind of error, in order.

use std::collections::BTreeSet;

use paho_mqtt_redis::ErrorKind;

use super::page::ERRORS;

fn kinds() -> Vec<&'static str> {
    ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect()
}

#[test]
fn error_table_matches_error_kinds() {
    assert_eq!(ERRORS.first_column("## Kinds", "error"), kinds());
}

#[test]
fn advice_table_names_known_error_kinds_only() {
    // Its other columns name commands; the first one has nothing but kinds.
    let advised = ERRORS.first_column("## What to do", "kind");
    let known: BTreeSet<&str> = kinds().into_iter().collect();
    for kind in &advised {
        assert!(known.contains(kind.as_str()), "{kind}");
    }
    assert!(advised.len() > 15, "{advised:?}");
}
