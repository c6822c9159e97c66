//! A store that comes back with other data.

use super::bench::{Bench, Content, SECOND, command, publish};
use crate::{error::ErrorKind, persistence::simulated::Settings, store::StoreEvent};

fn quarantined_values(bench: &Bench) -> Vec<Vec<u8>> {
    let content = bench.content();
    let mut values: Vec<_> = content.quarantine.values().cloned().collect();
    values.sort();
    values
}

/// A server can have another version only after a restart, which gives its data another identity.
#[test]
fn server_is_reported_unless_it_is_same() {
    let content = Content {
        server: Some("Redis 7.0.15"),
        ..Content::default()
    };
    let mut bench = Bench::with_content(&Settings::default(), content);
    bench.interrupt(ErrorKind::Connection, |_| {});
    bench.interrupt(ErrorKind::Connection, |bench| {
        let mut content = bench.content();
        content.instance_id += 1;
        content.server = Some("Valkey 9.1.2");
    });
    bench.interrupt(ErrorKind::Connection, |bench| {
        let mut content = bench.content();
        content.instance_id += 1;
        content.server = None;
    });
    let servers: Vec<String> = bench
        .events()
        .into_iter()
        .filter_map(|event| match event {
            StoreEvent::Connected { server } => Some(server),
            _ => None,
        })
        .collect();
    assert_eq!(servers, ["Redis 7.0.15", "Valkey 9.1.2"]);
}

#[test]
fn records_mounted_late_are_quarantined() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    let old: Vec<Vec<u8>> = (0..5).map(|number| command(9, 1, &[number])).collect();
    bench.interrupt(ErrorKind::Connection, |bench| {
        let mut content = bench.content();
        content.instance_id += 1;
        for (number, value) in old.iter().enumerate() {
            content
                .records
                .insert(format!("c-{}", number + 1), value.clone());
        }
    });
    assert_eq!(quarantined_values(&bench), old);
    assert!(bench.stored_keys().is_empty());
    let is_counted = |event: &StoreEvent| {
        matches!(
            event,
            StoreEvent::ForeignRecords {
                records: 5,
                removed: true
            }
        )
    };
    assert!(bench.events().iter().any(is_counted));
}

#[test]
fn unknown_value_under_live_key_is_quarantined() {
    for cache_limit in [0, usize::MAX] {
        let settings = Settings {
            cache_limit,
            ..Settings::default()
        };
        let mut bench = Bench::new(&settings, &[]);
        let ours = command(1, 1, b"ours");
        let theirs = command(1, 1, b"theirs");
        bench.put("c-1", &ours);
        bench.put("c-2", &ours);
        bench.interrupt(ErrorKind::Connection, |bench| {
            bench.put("c-1", &ours);
            let mut content = bench.content();
            content.instance_id += 1;
            content.records.clear();
            content.records.insert("c-1".to_owned(), theirs.clone());
        });
        assert_eq!(quarantined_values(&bench), [theirs]);
        assert_eq!(bench.stored()["c-1"], ours);
    }
}

#[test]
fn own_removed_record_is_not_quarantined() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    let value = command(1, 2, b"delivered");
    bench.put("c-1", &value);
    bench.send("c-1", "s-1", &publish(1, 2, b"delivered"));
    let older = bench.stored();
    bench.remove("s-1");
    bench.run(SECOND);
    assert!(bench.stored_keys().is_empty());
    bench.interrupt(ErrorKind::Connection, |bench| {
        let mut content = bench.content();
        content.instance_id += 1;
        content.records = older;
    });
    assert!(bench.stored_keys().is_empty());
    assert!(quarantined_values(&bench).is_empty());
}

#[test]
fn older_data_behind_same_identity_is_replaced() {
    for kind in [ErrorKind::ReadOnly, ErrorKind::Loading, ErrorKind::InUse] {
        let mut bench = Bench::new(&Settings::default(), &[]);
        let old = command(1, 1, b"old");
        let new = command(2, 1, b"new");
        bench.put("c-1", &old);
        let older = bench.stored();
        bench.put("c-1", &new);
        bench.interrupt(kind, |bench| bench.content().records = older);
        assert_eq!(bench.stored().get("c-1"), Some(&new), "{kind:?}");
    }
}

#[test]
fn records_of_successor_are_quarantined_and_counted() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    let own = command(1, 1, b"own");
    let [waiting, sent] = [command(2, 1, b"waiting"), publish(3, 2, b"sent")];
    bench.put("c-1", &own);
    bench.interrupt(ErrorKind::InUse, |bench| {
        // The successor has sent what it found, and left records of its own.
        let records = [("c-1", &waiting), ("s-3", &sent)];
        let records = records.map(|(key, value)| (key.to_owned(), value.clone()));
        bench.content().records = records.into();
    });
    assert_eq!(bench.stored(), [("c-1".to_owned(), own)].into());
    assert_eq!(quarantined_values(&bench), [waiting, sent]);
    let is_counted = |event: &StoreEvent| {
        matches!(
            event,
            StoreEvent::ForeignRecords {
                records: 2,
                removed: true
            }
        )
    };
    let counted = bench
        .events()
        .iter()
        .filter(|event| is_counted(event))
        .count();
    assert_eq!(counted, 1, "{:?}", bench.events());
}

#[test]
fn lost_writes_make_identity_doubtful() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    let value = command(1, 1, b"old");
    bench.put("c-1", &value);
    bench.put("c-2", &value);
    {
        // A restart between two exchanges that the connection hides.
        let mut content = bench.content();
        content.instance_id += 1;
        content.records.clear();
        content
            .records
            .insert("c-1".to_owned(), command(1, 1, b"of another"));
    }
    bench.run(5 * SECOND);
    assert!(bench.is_up());
    assert_eq!(bench.stored()["c-1"], value);
    assert_eq!(quarantined_values(&bench), [command(1, 1, b"of another")]);
}
