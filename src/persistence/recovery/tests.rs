//! The times between the attempts of a recovery.

use std::{sync::Arc, time::Duration};

use super::{
    super::exchange::{Answer, Step},
    Recovery,
};
use crate::{
    cache::{Confirmation, RewriteBatch, SetAsideOptions, SetAsides, WriteBehindCache},
    clock::Clock,
    error::{Error, ErrorKind},
    paho::Key,
};

#[test]
fn jitter_adds_up_to_a_quarter_of_backoff() {
    let set_asides = SetAsides::new(&SetAsideOptions::default());
    let mut cache = WriteBehindCache::without_store(0, Confirmation::OnRequest, set_asides);
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

#[test]
fn failure_drops_planned_relocation() {
    let set_asides = SetAsides::new(&SetAsideOptions::default());
    let mut cache = WriteBehindCache::without_store(0, Confirmation::OnRequest, set_asides);
    let [old, new] = ["s-1", "s-9"].map(|name| Key::parse(name).expect("a key"));
    let value = b"\x32\x06\0\x01t\0\x01x".to_vec();
    cache.index.insert_loaded(old, value.clone());
    cache.relocate_later(old, new);
    let mut recovery = Recovery::new(ErrorKind::OutOfMemory, Duration::ZERO);
    let read = (
        Step::ReadRelocation(old, new),
        Answer::Values(vec![Some(value), None]),
    );
    recovery.note_answer(&mut cache, &mut None, read, &Clock::System);
    assert!(recovery.relocation.is_some());
    // The connection of a call breaks before the step. Another program may change the record meanwhile.
    let error = Arc::new(Error::new(ErrorKind::Connection, "read a record"));
    recovery.note_failure(&mut cache, None, &error, (Duration::ZERO, 0));
    assert!(recovery.relocation.is_none());
}

#[test]
fn only_refused_put_is_tried_again_at_once() {
    let put = || RewriteBatch::to_quarantine([("q-1".to_owned(), Vec::new())].into_iter());
    let now = Duration::from_secs(1);
    for (batch, kind, is_at_once) in [
        (put(), ErrorKind::OutOfMemory, true),
        (put(), ErrorKind::Connection, false),
        (RewriteBatch::default(), ErrorKind::OutOfMemory, false),
    ] {
        let set_asides = SetAsides::new(&SetAsideOptions::default());
        let mut cache = WriteBehindCache::without_store(0, Confirmation::OnRequest, set_asides);
        let mut recovery = Recovery::new(kind, now);
        let error = Arc::new(Error::new(kind, "repeat writes"));
        let failed = Step::Write(batch);
        recovery.note_failure(&mut cache, Some(&failed), &error, (now, 0));
        assert_eq!(recovery.due == now, is_at_once, "{kind:?}");
    }
}
