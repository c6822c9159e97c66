//! Recovery with a store that fails on demand: relocations, and the error of a close.

use std::{
    mem,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use paho_mqtt::ClientPersistence;

use crate::{
    error::{Error, ErrorKind},
    persistence::{client_persistence::Persistence, config::PersistenceConfig},
    store::{Change, Connected, Group, MemoryStore, Sent, Store},
};

const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Condition {
    #[default]
    Available,
    Unavailable,
    /// Takes removes only.
    Full,
}

/// The faults of a [`FaultyStore`], set by the test.
#[derive(Default)]
struct Faults {
    condition: Condition,
    /// The reply to the next write is lost, after the write.
    loses_reply: bool,
    /// The store is flushed before it is next used.
    is_flushed: bool,
    /// The write with this payload waits until the test sends to the channel.
    blocks_before: Option<([u8; 8], mpsc::Receiver<()>)>,
}

/// A store in memory that fails on demand and sends a snapshot of its values after each write.
struct FaultyStore {
    store: MemoryStore,
    faults: Arc<Mutex<Faults>>,
    snapshots: mpsc::Sender<Vec<Vec<u8>>>,
    blocked: mpsc::Sender<()>,
}

impl FaultyStore {
    fn available(&mut self) -> Result<&mut MemoryStore, Error> {
        let mut faults = self.faults.lock().expect("no panic");
        if faults.condition == Condition::Unavailable {
            return Err(Error::new(ErrorKind::Connection, "reach the store"));
        }
        if mem::take(&mut faults.is_flushed) {
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

    fn write(&mut self, group: Group<'_>) -> Result<(), Error> {
        let puts = |payload: [u8; 8]| {
            let value = command(payload);
            let is_put = |change: &Change<'_>| matches!(change, Change::Put { value: put, .. } if *put == value);
            group.iter().any(is_put)
        };
        let has_puts = group
            .iter()
            .any(|change| matches!(change, Change::Put { .. }));
        let faults = Arc::clone(&self.faults);
        let mut faults = faults.lock().expect("no panic");
        if let Some((_, unblock)) = faults.blocks_before.take_if(|(payload, _)| puts(*payload)) {
            drop(faults);
            self.blocked.send(()).expect("the test waits");
            unblock.recv().expect("the test unblocks it");
            faults = self.faults.lock().expect("no panic");
        }
        if faults.condition == Condition::Full && has_puts {
            return Err(Error::new(ErrorKind::OutOfMemory, "change the store"));
        }
        self.store.send(&[group])?;
        let loses_reply = mem::take(&mut faults.loses_reply);
        drop(faults);
        let values = self.values()?;
        self.snapshots.send(values).expect("the test receives");
        if loses_reply {
            return Err(Error::new(ErrorKind::Connection, "read the reply"));
        }
        Ok(())
    }
}

impl Store for FaultyStore {
    const NAME: &'static str = "faulty";

    fn connect(&mut self, name: &str) -> Result<Connected, Error> {
        self.available()?.connect(name)
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        self.available()?.keys()
    }

    fn check(&mut self) -> Result<usize, Error> {
        self.available()?.check()
    }

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.available()?.read(keys)
    }

    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.confirm(&[], groups)
    }

    fn confirm(&mut self, _: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error> {
        self.available()?;
        groups.iter().try_for_each(|group| self.write(group))
    }

    fn close(&mut self) {
        self.store.close();
    }
}

fn open<S: Store>(store: S) -> Persistence<S> {
    let config = PersistenceConfig {
        cache_limit: 0,
        ..PersistenceConfig::default()
    };
    let mut persistence = Persistence::with_config(store, config);
    persistence.open("device", "broker").expect("opens");
    persistence
}

/// A publish command at QoS 1 as Paho C 1.3.16 writes it for MQTT 3.1.1.
fn command(payload: [u8; 8]) -> Vec<u8> {
    let fields = [3, 1].map(i32::to_ne_bytes).concat();
    let [length, qos, retained] = [8, 1, 0].map(i32::to_ne_bytes);
    [&fields, &b"t\0"[..], &length, &payload, &qos, &retained].concat()
}

/// A persistence with the commands 1 and 2 of an earlier run, listed by Paho and not read.
struct Restored {
    persistence: Persistence<FaultyStore>,
    faults: Arc<Mutex<Faults>>,
    snapshots: mpsc::Receiver<Vec<Vec<u8>>>,
    blocked: mpsc::Receiver<()>,
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
        let faults = Arc::<Mutex<Faults>>::default();
        let (snapshot_sender, snapshots) = mpsc::channel();
        let (blocked_sender, blocked) = mpsc::channel();
        let mut persistence = open(FaultyStore {
            store,
            faults: Arc::clone(&faults),
            snapshots: snapshot_sender,
            blocked: blocked_sender,
        });
        persistence.keys().expect("lists");
        Self {
            persistence,
            faults,
            snapshots,
            blocked,
        }
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().expect("no panic"));
    }

    fn put(&mut self, key: &str, payload: [u8; 8]) {
        let put = self.persistence.put(key, vec![&command(payload)]);
        put.expect("kept in memory");
    }

    fn recover(&self) {
        let flushed = self.persistence.health().flush(LIMIT);
        flushed.expect("recovers");
    }

    fn lost_records(&self) -> u64 {
        self.persistence.health().snapshot().lost_records
    }

    /// Asserts that each old record existed once in every snapshot, and the new ones in the last.
    fn check(self, new: &[[u8; 8]]) {
        assert_eq!(self.lost_records(), 0);
        drop(self.persistence);
        let snapshots: Vec<_> = self.snapshots.iter().collect();
        for payload in OLD {
            let old = command(payload);
            for values in &snapshots {
                let times = values.iter().filter(|value| **value == old).count();
                assert_eq!(times, 1, "{snapshots:?}");
            }
        }
        let mut last = snapshots.last().expect("a write").clone();
        last.sort();
        let all = OLD.iter().chain(new);
        let mut all: Vec<_> = all.map(|payload| command(*payload)).collect();
        all.sort();
        assert_eq!(last, all);
    }
}

#[test]
fn relocated_record_exists_once_at_each_step() {
    let mut restored = Restored::new();
    restored.set(|faults| faults.condition = Condition::Unavailable);
    restored.put("c-1", *b"behind 1");
    restored.put("c-2", *b"behind 2");
    restored.set(|faults| {
        faults.condition = Condition::Available;
        faults.loses_reply = true;
    });
    restored.recover();
    restored.check(&[*b"behind 1", *b"behind 2"]);
}

#[test]
fn put_during_recovery_relocates_record_in_its_way() {
    let mut restored = Restored::new();
    let (unblock, blocks) = mpsc::channel();
    restored.set(|faults| {
        faults.condition = Condition::Unavailable;
        faults.blocks_before = Some((*b"behind 1", blocks));
    });
    restored.put("c-1", *b"behind 1");
    restored.set(|faults| faults.condition = Condition::Available);
    restored
        .blocked
        .recv_timeout(LIMIT)
        .expect("recovery writes it");
    restored.put("c-2", *b"behind 2");
    unblock.send(()).expect("it waits");
    restored.recover();
    restored.check(&[*b"behind 1", *b"behind 2"]);
}

#[test]
fn put_at_target_of_lost_record_is_kept() {
    let mut restored = Restored::new();
    restored.set(|faults| faults.condition = Condition::Unavailable);
    let new = [*b"behind 1", *b"behind 2", *b"behind 3"];
    for (key, payload) in ["c-1", "c-2", "c-3"].into_iter().zip(new) {
        // `c-1` is to be relocated to `c-3`, which the third put takes, and so on.
        restored.put(key, payload);
    }
    restored.set(|faults| {
        faults.condition = Condition::Available;
        faults.is_flushed = true;
    });
    restored.recover();
    assert_eq!(restored.lost_records(), 2);
    for (key, payload) in ["c-1", "c-2", "c-3"].into_iter().zip(new) {
        let value = restored.persistence.get(key);
        assert_eq!(value.expect("present"), command(payload), "{key}");
    }
    drop(restored.persistence);
    let mut last = restored.snapshots.iter().last().expect("a write");
    last.sort();
    assert_eq!(last, new.map(command));
}

#[test]
fn record_not_yet_relocated_is_not_reported_lost() {
    let mut restored = Restored::new();
    restored.set(|faults| faults.condition = Condition::Unavailable);
    restored.put("c-1", *b"behind 1");
    restored.set(|faults| faults.condition = Condition::Full);
    let health = restored.persistence.health();
    let started = Instant::now();
    // From then on the record can be read, and not be moved.
    while health.last_error().map(|error| error.kind()) != Some(ErrorKind::OutOfMemory) {
        assert!(started.elapsed() < LIMIT, "{:?}", health.last_error());
        std::thread::park_timeout(Duration::from_millis(1));
    }
    // A `Health` keeps the store, and with it the sender of the snapshots that `check` collects.
    drop(health);
    restored.put("c-3", *b"behind 3");
    restored.set(|faults| faults.condition = Condition::Available);
    restored.recover();
    restored.check(&[*b"behind 1", *b"behind 3"]);
}

#[test]
fn full_store_removes_first_but_no_unmoved_record() {
    let mut restored = Restored::new();
    restored.set(|faults| faults.condition = Condition::Unavailable);
    restored.put("c-1", *b"behind 1");
    for key in ["c-1", "c-2"] {
        restored.persistence.remove(key).expect("kept in memory");
    }
    restored.set(|faults| faults.condition = Condition::Full);
    let first = restored.snapshots.recv_timeout(LIMIT);
    assert_eq!(first.expect("a remove"), [command(*b"before 1")]);
    restored.set(|faults| faults.condition = Condition::Available);
    restored.recover();
    assert_eq!(restored.persistence.keys().expect("lists"), ["c-3"]);
    let value = restored.persistence.get("c-3").expect("present");
    assert_eq!(value, command(*b"before 1"));
}

#[test]
fn close_during_outage_names_what_is_lost() {
    let closed = |calls: fn(&mut Restored)| {
        let mut restored = Restored::new();
        restored.set(|faults| faults.condition = Condition::Unavailable);
        calls(&mut restored);
        let error = restored.persistence.close().expect_err("is down");
        Error::in_mqtt(&error).expect("ours").to_string()
    };
    assert_eq!(
        closed(|restored| {
            restored.put("c-3", *b"behind 3");
            restored.put("c-4", *b"behind 4");
        }),
        "cannot write 2 pending records before closing: the store is unavailable, so they are lost \
         with this process"
    );
    assert_eq!(
        closed(|restored| restored.put("c-3", *b"behind 3")),
        "cannot write 1 pending record before closing: the store is unavailable, so it is lost \
         with this process"
    );
    assert_eq!(
        closed(|restored| restored.persistence.remove("c-1").expect("kept in memory")),
        "cannot write the pending removes before closing: the store is unavailable, so \
         acknowledged messages may be sent again"
    );
    assert_eq!(
        closed(|restored| {
            let flushed = restored.persistence.health().flush(Duration::ZERO);
            flushed.expect_err("is down");
        }),
        "cannot check the store before closing: the store is unavailable; no write is pending"
    );
}
