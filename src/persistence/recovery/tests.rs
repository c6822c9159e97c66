//! Records in the way of what is put while their store is away, and what may happen to the store then.

use std::{
    mem,
    sync::{Arc, Mutex, mpsc},
};

use paho_mqtt::ClientPersistence;

use super::*;
use crate::{
    persistence::{client_persistence::Persistence, config::PersistenceConfig},
    store::{Change, Connected, Group, MemoryStore, Sent},
};

const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Condition {
    #[default]
    Good,
    Away,
    /// It takes removes only.
    Full,
}

/// What happens to the store, by the test's will.
#[derive(Default)]
struct Fate {
    now: Condition,
    /// The answer to the next change gets lost.
    loses_answer: bool,
    /// It comes back without any record.
    is_emptied: bool,
    /// Before the change with that payload it waits until it is told to go on.
    waits_before: Option<([u8; 8], mpsc::Receiver<()>)>,
}

/// A store in memory, which tells its values after each change.
struct Fated {
    store: MemoryStore,
    fate: Arc<Mutex<Fate>>,
    moments: mpsc::Sender<Vec<Vec<u8>>>,
    is_waiting: mpsc::Sender<()>,
}

impl Fated {
    fn there(&mut self) -> Result<&mut MemoryStore, Error> {
        let mut fate = self.fate.lock().expect("no panic");
        if fate.now == Condition::Away {
            return Err(Error::new(ErrorKind::Connection, "reach the store"));
        }
        if mem::take(&mut fate.is_emptied) {
            for key in self.store.keys()? {
                let key = &String::from_utf8(key).expect("UTF-8");
                self.store.send(&[&[Change::Remove { key }]])?;
            }
        }
        Ok(&mut self.store)
    }

    fn values(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let keys = self.store.keys()?.into_iter().map(String::from_utf8);
        let keys: Vec<String> = keys.map(|key| key.expect("UTF-8")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        Ok(self.store.read(&keys)?.into_iter().flatten().collect())
    }

    fn change(&mut self, group: Group<'_>) -> Result<(), Error> {
        let puts = |payload: [u8; 8]| {
            let value = command(payload);
            let is_it = |change: &Change<'_>| matches!(change, Change::Put { value: put, .. } if *put == value);
            group.iter().any(is_it)
        };
        let has_puts = group
            .iter()
            .any(|change| matches!(change, Change::Put { .. }));
        let fate = Arc::clone(&self.fate);
        let mut fate = fate.lock().expect("no panic");
        if let Some((_, go_on)) = fate.waits_before.take_if(|(payload, _)| puts(*payload)) {
            drop(fate);
            self.is_waiting.send(()).expect("somebody waits");
            go_on.recv().expect("somebody goes on");
            fate = self.fate.lock().expect("no panic");
        }
        if fate.now == Condition::Full && has_puts {
            return Err(Error::new(ErrorKind::OutOfMemory, "change the store"));
        }
        self.store.send(&[group])?;
        let loses_answer = mem::take(&mut fate.loses_answer);
        drop(fate);
        let values = self.values()?;
        self.moments.send(values).expect("somebody looks");
        if loses_answer {
            return Err(Error::new(ErrorKind::Connection, "hear from the store"));
        }
        Ok(())
    }
}

impl Store for Fated {
    const NAME: &'static str = "fated";

    fn connect(&mut self, name: &str) -> Result<Connected, Error> {
        self.there()?.connect(name)
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        self.there()?.keys()
    }

    fn check(&mut self) -> Result<usize, Error> {
        self.there()?.check()
    }

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.there()?.read(keys)
    }

    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.confirm(&[], groups)
    }

    fn confirm(&mut self, _: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error> {
        self.there()?;
        groups.iter().try_for_each(|group| self.change(group))
    }

    fn close(&mut self) {
        self.store.close();
    }
}

fn open<S: Store>(store: S) -> Persistence<S> {
    let settings = PersistenceConfig {
        cache_limit: 0,
        ..PersistenceConfig::default()
    };
    let mut persistence = Persistence::with_config(store, settings);
    persistence.open("device", "broker").expect("opens");
    persistence
}

/// A publish command at QoS 1 as Paho C 1.3.16 writes it for MQTT 3.1.1.
fn command(payload: [u8; 8]) -> Vec<u8> {
    let fields = [3, 1].map(i32::to_ne_bytes).concat();
    let [length, qos, retained] = [8, 1, 0].map(i32::to_ne_bytes);
    [&fields, &b"t\0"[..], &length, &payload, &qos, &retained].concat()
}

/// A persistence over a store with the commands 1 and 2 of an earlier run, of which Paho knows and has read none.
struct Restored {
    persistence: Persistence<Fated>,
    fate: Arc<Mutex<Fate>>,
    moments: mpsc::Receiver<Vec<Vec<u8>>>,
    is_waiting: mpsc::Receiver<()>,
}

const OLD: [[u8; 8]; 2] = [*b"before 1", *b"before 2"];

impl Restored {
    fn new() -> Self {
        let store = MemoryStore::default();
        let mut before = open(store.clone());
        for (key, payload) in ["c-1", "c-2"].into_iter().zip(OLD) {
            before.put(key, vec![&command(payload)]).expect("put");
        }
        drop(before);
        let fate = Arc::<Mutex<Fate>>::default();
        let (moments_told, moments) = mpsc::channel();
        let (waiting_told, is_waiting) = mpsc::channel();
        let mut persistence = open(Fated {
            store,
            fate: Arc::clone(&fate),
            moments: moments_told,
            is_waiting: waiting_told,
        });
        persistence.keys().expect("lists");
        Self {
            persistence,
            fate,
            moments,
            is_waiting,
        }
    }

    fn set(&self, change: impl FnOnce(&mut Fate)) {
        change(&mut self.fate.lock().expect("no panic"));
    }

    fn put(&mut self, key: &str, payload: [u8; 8]) {
        let put = self.persistence.put(key, vec![&command(payload)]);
        put.expect("it is held");
    }

    fn recover(&self) {
        let flushed = self.persistence.health().flush(LIMIT);
        flushed.expect("is recovered");
    }

    fn lost(&self) -> u64 {
        self.persistence.health().snapshot().lost_records
    }

    /// Fails unless the old ones were there once each at every moment, and in the end these too.
    fn check(self, new: &[[u8; 8]]) {
        assert_eq!(self.lost(), 0);
        drop(self.persistence);
        let moments: Vec<_> = self.moments.iter().collect();
        for payload in OLD {
            let value = command(payload);
            for values in &moments {
                let times = values.iter().filter(|there| **there == value).count();
                assert_eq!(times, 1, "{moments:?}");
            }
        }
        let mut last = moments.last().expect("something has changed").clone();
        last.sort();
        let all = OLD.iter().chain(new);
        let mut all: Vec<_> = all.map(|payload| command(*payload)).collect();
        all.sort();
        assert_eq!(last, all);
    }
}

#[test]
fn relocated_record_exists_once_at_each_moment() {
    let mut restored = Restored::new();
    restored.set(|fate| fate.now = Condition::Away);
    restored.put("c-1", *b"behind 1");
    restored.put("c-2", *b"behind 2");
    restored.set(|fate| (fate.now, fate.loses_answer) = (Condition::Good, true));
    restored.recover();
    restored.check(&[*b"behind 1", *b"behind 2"]);
}

#[test]
fn put_during_recovery_relocates_record_in_its_way() {
    let mut restored = Restored::new();
    let (go_on, waits) = mpsc::channel();
    restored
        .set(|fate| (fate.now, fate.waits_before) = (Condition::Away, Some((*b"behind 1", waits))));
    restored.put("c-1", *b"behind 1");
    restored.set(|fate| fate.now = Condition::Good);
    restored
        .is_waiting
        .recv_timeout(LIMIT)
        .expect("it is being recovered");
    restored.put("c-2", *b"behind 2");
    go_on.send(()).expect("it waits");
    restored.recover();
    restored.check(&[*b"behind 1", *b"behind 2"]);
}

#[test]
fn put_at_target_of_lost_record_is_kept() {
    let mut restored = Restored::new();
    restored.set(|fate| fate.now = Condition::Away);
    let new = [*b"behind 1", *b"behind 2", *b"behind 3"];
    for (key, payload) in ["c-1", "c-2", "c-3"].into_iter().zip(new) {
        // The first of them is to be moved to the place of the third, and so further.
        restored.put(key, payload);
    }
    restored.set(|fate| (fate.now, fate.is_emptied) = (Condition::Good, true));
    restored.recover();
    assert_eq!(restored.lost(), 2);
    for (key, payload) in ["c-1", "c-2", "c-3"].into_iter().zip(new) {
        let value = restored.persistence.get(key);
        assert_eq!(value.expect("is there"), command(payload), "{key}");
    }
    drop(restored.persistence);
    let mut last = restored.moments.iter().last().expect("it was written");
    last.sort();
    assert_eq!(last, new.map(command));
}

#[test]
fn record_not_yet_relocated_is_not_reported_lost() {
    let mut restored = Restored::new();
    restored.set(|fate| fate.now = Condition::Away);
    restored.put("c-1", *b"behind 1");
    restored.set(|fate| fate.now = Condition::Full);
    let health = restored.persistence.health();
    let started = Instant::now();
    // From then on it can be read again, and not be moved.
    while health.last_error().map(|error| error.kind()) != Some(ErrorKind::OutOfMemory) {
        assert!(started.elapsed() < LIMIT, "{:?}", health.last_error());
        std::thread::park_timeout(Duration::from_millis(1));
    }
    // It would keep the store, and what that tells would not end.
    drop(health);
    restored.put("c-3", *b"behind 3");
    restored.set(|fate| fate.now = Condition::Good);
    restored.recover();
    restored.check(&[*b"behind 1", *b"behind 3"]);
}

#[test]
fn full_store_removes_first_but_no_unmoved_record() {
    let mut restored = Restored::new();
    restored.set(|fate| fate.now = Condition::Away);
    restored.put("c-1", *b"behind 1");
    for key in ["c-1", "c-2"] {
        restored.persistence.remove(key).expect("is held");
    }
    restored.set(|fate| fate.now = Condition::Full);
    let first = restored.moments.recv_timeout(LIMIT);
    assert_eq!(first.expect("it is removed"), [command(*b"before 1")]);
    restored.set(|fate| fate.now = Condition::Good);
    restored.recover();
    assert_eq!(restored.persistence.keys().expect("lists"), ["c-3"]);
    let value = restored.persistence.get("c-3").expect("is there");
    assert_eq!(value, command(*b"before 1"));
}
