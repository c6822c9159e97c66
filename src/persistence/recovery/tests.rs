//! The times between the attempts of a recovery.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::Recovery;
use crate::{
    cache::{SetAsideOptions, SetAsides, WriteBehindCache, load_records},
    error::{Error, ErrorKind},
    store::{Durability, MemoryStore, Store},
};

#[test]
fn jitter_adds_up_to_a_quarter_of_backoff() {
    let mut store = MemoryStore::default();
    store.connect("device:broker").expect("connects");
    let mut set_asides = SetAsides::new(&SetAsideOptions::default());
    let loaded =
        load_records(&mut store, 0, &mut set_asides, SystemTime::UNIX_EPOCH).expect("loads");
    let mut cache = WriteBehindCache::new(
        loaded.index,
        (0, HashSet::new()),
        Durability::default(),
        set_asides,
        Some(SystemTime::UNIX_EPOCH),
    );
    let now = Duration::from_secs(1);
    let error = Arc::new(Error::new(ErrorKind::Connection, "reach the store"));
    let mut dues = Vec::new();
    for random in [0, 128, 255] {
        let mut recovery = Recovery::new(ErrorKind::Connection, now);
        assert_eq!(recovery.due, now);
        recovery.note_failure(&mut cache, None, &error, (now, random));
        dues.push(recovery.due.saturating_sub(now).as_micros());
    }
    assert_eq!(dues, [50_000, 56_250, 62_451]);
}
