//! The times between the attempts of a recovery.

use std::{sync::Arc, time::Duration};

use super::Recovery;
use crate::{
    cache::{SetAsideOptions, SetAsides, WriteBehindCache},
    error::{Error, ErrorKind},
    store::Durability,
};

#[test]
fn jitter_adds_up_to_a_quarter_of_backoff() {
    let set_asides = SetAsides::new(&SetAsideOptions::default());
    let mut cache = WriteBehindCache::without_store(0, Durability::default(), set_asides);
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
