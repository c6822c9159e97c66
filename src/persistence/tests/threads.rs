//! A persistence with its real worker and notifier threads.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use paho_mqtt::ClientPersistence;

use super::bench::{Content, ScriptedStore, command, publish};
use crate::{
    error::ErrorKind,
    persistence::{
        client_persistence::{MemoryPersistence, Persistence},
        config::PersistenceConfig,
        lifecycle::Lifecycle,
        observer::StoreObserver,
    },
    store::{Durability, StoreEvent},
};

const LIMIT: Duration = Duration::from_secs(30);

/// Passes events to the test, and panics at the first.
struct Channel(Mutex<(mpsc::Sender<StoreEvent>, bool)>);

impl StoreObserver for Channel {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        let mut state = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.0.send(event.clone()).expect("the test receives");
        assert!(
            std::mem::replace(&mut state.1, true),
            "the test wants a panic"
        );
    }
}

fn opened(observer: Arc<dyn StoreObserver>) -> (Persistence<ScriptedStore>, Arc<Mutex<Content>>) {
    let content = Arc::<Mutex<Content>>::default();
    let config = PersistenceConfig {
        durability: Durability::Pipelined,
        ..PersistenceConfig::default()
    };
    let store = ScriptedStore::new(&content);
    let mut persistence = Persistence::with_config(store, config).observer(observer);
    persistence.open("device", "broker").expect("opens");
    (persistence, content)
}

fn wait_for(events: &mpsc::Receiver<StoreEvent>, is_expected: impl Fn(&StoreEvent) -> bool) {
    while !is_expected(&events.recv_timeout(LIMIT).expect("an event")) {}
}

#[test]
fn worker_confirms_and_recovers_by_itself() {
    let (sender, events) = mpsc::channel();
    let (mut persistence, content) = opened(Arc::new(Channel(Mutex::new((sender, false)))));
    wait_for(&events, |event| matches!(event, StoreEvent::Opened { .. }));
    // The panic of the observer ends nothing. The worker confirms the write at the next tick.
    persistence
        .put("c-1", vec![&command(1, 1, b"x")])
        .expect("put");
    wait_for(
        &events,
        |event| matches!(event, StoreEvent::Status(status) if status.unconfirmed_records == 0),
    );
    content.lock().expect("no panic").is_down = Some(ErrorKind::Connection);
    persistence
        .put("s-1", vec![&publish(1, 2, b"x")])
        .expect("put");
    wait_for(&events, |event| matches!(event, StoreEvent::Down { .. }));
    wait_for(&events, |event| {
        matches!(event, StoreEvent::StillDown { .. })
    });
    content.lock().expect("no panic").is_down = None;
    wait_for(&events, |event| matches!(event, StoreEvent::Up { .. }));
    assert!(persistence.health().snapshot().up);
    persistence.close().expect("closes");
    wait_for(&events, |event| matches!(event, StoreEvent::Closed));
    assert_eq!(content.lock().expect("no panic").records.len(), 2);
    // The next opening has a worker too.
    persistence.open("device", "broker").expect("opens");
    persistence.remove("c-0").expect("removed");
    persistence.remove("s-1").expect("removed");
    let flushed = persistence.health().flush(LIMIT);
    flushed.expect("flushes");
    assert_eq!(content.lock().expect("no panic").records.len(), 1);
    drop(persistence);
    wait_for(&events, |event| matches!(event, StoreEvent::Closed));
    // Both threads have ended with the notifier, which owned the observer.
    assert!(events.recv_timeout(LIMIT).is_err());
}

#[test]
fn clone_during_use_of_store_shares_records() {
    let mut persistence = MemoryPersistence::new();
    persistence.open("device", "broker").expect("opens");
    persistence
        .put("c-1", vec![&command(1, 1, b"x")])
        .expect("put");
    persistence.close().expect("closes");
    let shared = persistence.shared();
    // As during a connect, or while the worker has the store.
    let store = shared.lock().lifecycle.begin_opening().expect("is closed");
    let mut copy = thread::scope(|scope| {
        let (started, is_started) = mpsc::channel();
        let persistence = &persistence;
        let copying = scope.spawn(move || {
            started.send(()).expect("received");
            persistence.clone()
        });
        is_started.recv().expect("starts");
        // Without a wait for the store it ends at once.
        thread::sleep(Duration::from_millis(100));
        assert!(!copying.is_finished(), "waits for the store");
        shared.lock().lifecycle = Lifecycle::Closed(store);
        shared.notify();
        copying.join().expect("no panic")
    });
    copy.open("device", "broker").expect("opens");
    assert!(copy.contains("c-1"));
}

/// Blocks in its first event until the test lets it go.
struct BlockedObserver(Mutex<mpsc::Receiver<()>>);

impl StoreObserver for BlockedObserver {
    fn on_event(&self, _: &str, _: &StoreEvent) {
        // The sender is gone once the test is over.
        let _ = self.0.lock().expect("no panic").recv();
    }
}

#[test]
fn blocked_observer_holds_up_no_recovery() {
    let (release, released) = mpsc::channel();
    let (mut persistence, content) = opened(Arc::new(BlockedObserver(Mutex::new(released))));
    content.lock().expect("no panic").is_down = Some(ErrorKind::Connection);
    let put = persistence.put("s-1", vec![&publish(1, 2, b"x")]);
    put.expect("kept in memory");
    assert!(!persistence.health().snapshot().up);
    content.lock().expect("no panic").is_down = None;
    persistence.health().flush(LIMIT).expect("recovers");
    drop(release);
}

#[test]
fn each_observer_receives_each_event() {
    let observer = || {
        let (sender, events) = mpsc::channel();
        (Channel(Mutex::new((sender, true))), events)
    };
    let (first, first_events) = observer();
    let (second, second_events) = observer();
    let persistence = MemoryPersistence::new().observer(first);
    let mut persistence = persistence.observer(Arc::new(second));
    persistence.open("device", "broker").expect("opens");
    persistence.close().expect("closes");
    for events in [first_events, second_events] {
        wait_for(&events, |event| matches!(event, StoreEvent::Opened { .. }));
        wait_for(&events, |event| matches!(event, StoreEvent::Closed));
    }
}
