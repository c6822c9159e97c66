//! docs/errors.md lists every kind of error, in order, with its own words.

use std::collections::BTreeSet;

use paho_mqtt_redis::ErrorKind;

use super::page::ERRORS;

fn kinds() -> Vec<&'static str> {
    ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect()
}

#[test]
fn error_table_has_words_of_error_kinds() {
    let rows = ERRORS.table("## Kinds", "error");
    let plain = |cell: &String| cell.replace('`', "");
    let written: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(plain).collect())
        .collect();
    let expected: Vec<[&str; 3]> = ErrorKind::ALL
        .iter()
        .map(|kind| [kind.as_str(), kind.meaning(), kind.advice()])
        .collect();
    assert_eq!(written, expected);
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
