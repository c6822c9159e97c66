//! The backlog under another server URI is found and moved.

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, Content, command};
use crate::{MemoryPersistence, error::ErrorKind, persistence::simulated::Settings};

const OLD: &str = "tcp://old:1883";
const NEW: &str = "tcp://new:1883";

/// A closed persistence with one readable record and one unreadable one under the old URI.
fn left_behind() -> MemoryPersistence {
    let mut persistence = MemoryPersistence::new();
    persistence.open("device", "old:1883").expect("opens");
    let value = command(1, 1, b"x");
    persistence.put("c-1", vec![&value]).expect("put");
    persistence.put("q-1", vec![b"unreadable"]).expect("put");
    persistence.close().expect("closes");
    persistence
}

#[test]
fn backlog_is_found_and_moved() {
    let mut persistence = left_behind();
    for (client_id, expected) in [("device", &[("old:1883", 2)][..]), ("dev", &[])] {
        let found = persistence.find_moved_backlogs(client_id, NEW);
        let found = found.expect("listed").into_iter();
        let found: Vec<(String, usize)> = found
            .map(|backlog| (backlog.server_uri, backlog.records))
            .collect();
        let expected = expected
            .iter()
            .map(|(uri, records)| ((*uri).to_owned(), *records));
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
    for moved in [1, 0] {
        let adoption = persistence.adopt("device", NEW, OLD).expect("adopted");
        assert_eq!((adoption.moved, adoption.left), (moved, 1));
    }
    persistence.open("device", "new:1883").expect("opens");
    assert_eq!(persistence.keys().expect("listed"), ["c-1"]);
    let error = persistence.adopt("device", NEW, OLD).expect_err("is open");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
}

#[test]
fn adoption_needs_two_names_and_store_that_moves() {
    let error = left_behind().adopt("device", OLD, "old:1883");
    let error = error.expect_err("one name");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(
        error.to_string().contains("have this server URI already"),
        "{error}"
    );
    let content = std::sync::Arc::new(std::sync::Mutex::new(Content::default()));
    let mut bench = Bench::closed(&Settings::default(), content);
    let error = bench.persistence.adopt("device", NEW, OLD);
    let error = error.expect_err("cannot move");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.to_string().contains("cannot move records"), "{error}");
}
