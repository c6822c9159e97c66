//! Recovery with a store that fails on demand: relocations, and the error of a close.

use std::{
    collections::{BTreeSet, HashSet},
    mem,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant, SystemTime},
};

use paho_mqtt::ClientPersistence;

use super::Recovery;
use crate::{
    cache::{WriteBehindCache, load_records},
    error::{Error, ErrorKind},
    persistence::{
        client_persistence::Persistence, config::PersistenceConfig, observer::StoreObserver,
    },
    store::{Change, Connected, Durability, Group, MemoryStore, Sent, Store, StoreEvent},
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
            let is_put = |change: &Change<'_>| matches!(change, Change::Put { value, .. } if value.ends_with(&payload));
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

/// A PUBLISH at QoS 2 of MQTT 3.1.1.
fn packet(packet_id: u16, payload: [u8; 8]) -> Vec<u8> {
    [
        &b"\x34\x0d\x00\x01t"[..],
        &packet_id.to_be_bytes(),
        &payload,
    ]
    .concat()
}

/// The payload of such a packet, whose packet id a relocation changes.
fn payload(packet: &[u8]) -> &[u8] {
    packet.last_chunk::<8>().expect("a payload")
}

/// A persistence with the packets 1 and 2 of an earlier run, listed by Paho and not read.
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
        for (number, payload) in (1..).zip(OLD) {
            let key = format!("s-{number}");
            before
                .put(&key, vec![&packet(number, payload)])
                .expect("put");
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

    fn put(&mut self, packet_id: u16, payload: [u8; 8]) {
        let key = format!("s-{packet_id}");
        let put = self
            .persistence
            .put(&key, vec![&packet(packet_id, payload)]);
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
            for values in &snapshots {
                let times = values
                    .iter()
                    .filter(|value| value.ends_with(&payload))
                    .count();
                assert_eq!(times, 1, "{snapshots:?}");
            }
        }
        let last = snapshots.last().expect("a write");
        let last: BTreeSet<&[u8]> = last.iter().map(|value| payload(value)).collect();
        let all = OLD.iter().chain(new).map(<[u8; 8]>::as_slice);
        assert_eq!(last, all.collect());
    }
}

#[test]
fn relocated_record_exists_once_at_each_step() {
    let mut restored = Restored::new();
    restored.set(|faults| faults.condition = Condition::Unavailable);
    restored.put(1, *b"behind 1");
    restored.put(2, *b"behind 2");
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
    restored.put(1, *b"behind 1");
    restored.set(|faults| faults.condition = Condition::Available);
    restored
        .blocked
        .recv_timeout(LIMIT)
        .expect("recovery writes it");
    restored.put(2, *b"behind 2");
    unblock.send(()).expect("it waits");
    restored.recover();
    restored.check(&[*b"behind 1", *b"behind 2"]);
}

#[test]
fn put_at_target_of_lost_record_is_kept() {
    let mut restored = Restored::new();
    restored.set(|faults| faults.condition = Condition::Unavailable);
    let new = [*b"behind 1", *b"behind 2", *b"behind 3"];
    // `s-1` is to be relocated to the highest packet id, which the third put takes.
    let ids = [1, 2, u16::MAX];
    for (packet_id, payload) in ids.into_iter().zip(new) {
        restored.put(packet_id, payload);
    }
    restored.set(|faults| {
        faults.condition = Condition::Available;
        faults.is_flushed = true;
    });
    restored.recover();
    assert_eq!(restored.lost_records(), 2);
    let packets = ids
        .into_iter()
        .zip(new)
        .map(|(id, payload)| packet(id, payload));
    let packets: BTreeSet<Vec<u8>> = packets.collect();
    for (id, payload) in ids.into_iter().zip(new) {
        let value = restored.persistence.get(&format!("s-{id}"));
        assert_eq!(value.expect("present"), packet(id, payload));
    }
    drop(restored.persistence);
    let last = restored.snapshots.iter().last().expect("a write");
    assert_eq!(last.into_iter().collect::<BTreeSet<_>>(), packets);
}

#[test]
fn record_not_yet_relocated_is_not_reported_lost() {
    let mut restored = Restored::new();
    restored.set(|faults| faults.condition = Condition::Unavailable);
    restored.put(1, *b"behind 1");
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
    restored.put(3, *b"behind 3");
    restored.set(|faults| faults.condition = Condition::Available);
    restored.recover();
    restored.check(&[*b"behind 1", *b"behind 3"]);
}

#[test]
fn full_store_removes_first_but_no_unmoved_record() {
    let mut restored = Restored::new();
    restored.set(|faults| faults.condition = Condition::Unavailable);
    restored.put(1, *b"behind 1");
    // Paho has tried to connect, so it means what it removes.
    for key in ["c-0", "s-1", "s-2"] {
        restored.persistence.remove(key).expect("kept in memory");
    }
    restored.set(|faults| faults.condition = Condition::Full);
    let first = restored.snapshots.recv_timeout(LIMIT);
    assert_eq!(first.expect("a remove"), [packet(1, *b"before 1")]);
    restored.set(|faults| faults.condition = Condition::Available);
    restored.recover();
    assert_eq!(restored.persistence.keys().expect("lists"), ["s-65535"]);
    let value = restored.persistence.get("s-65535").expect("present");
    assert_eq!(value, packet(u16::MAX, *b"before 1"));
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
            restored.put(3, *b"behind 3");
            restored.put(4, *b"behind 4");
        }),
        "cannot write 2 pending records before closing: the store is unavailable, so they are lost \
         with this process"
    );
    assert_eq!(
        closed(|restored| restored.put(3, *b"behind 3")),
        "cannot write 1 pending record before closing: the store is unavailable, so it is lost \
         with this process"
    );
    assert_eq!(
        closed(|restored| restored
            .persistence
            .remove("c-0")
            .and_then(|()| restored.persistence.remove("s-1"))
            .expect("kept in memory")),
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
    let faults = Arc::<Mutex<Faults>>::default();
    let (snapshots, _snapshots) = mpsc::channel();
    let (blocked, _blocked) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let store = FaultyStore {
        store: MemoryStore::default(),
        faults: Arc::clone(&faults),
        snapshots,
        blocked,
    };
    let config = PersistenceConfig {
        observer: Some(Arc::new(BlockedObserver(Mutex::new(released)))),
        ..PersistenceConfig::default()
    };
    let mut persistence = Persistence::with_config(store, config);
    persistence.open("device", "broker").expect("opens");
    faults.lock().expect("no panic").condition = Condition::Unavailable;
    let put = persistence.put("s-1", vec![&packet(1, *b"behind 1")]);
    put.expect("kept in memory");
    assert!(!persistence.health().snapshot().up);
    faults.lock().expect("no panic").condition = Condition::Available;
    persistence.health().flush(LIMIT).expect("recovers");
    drop(release);
}

#[test]
fn jitter_adds_up_to_a_quarter_of_backoff() {
    let mut store = MemoryStore::default();
    store.connect("device:broker").expect("connects");
    let loaded = load_records(&mut store, 0).expect("loads");
    let mut cache = WriteBehindCache::new(
        loaded.index,
        (0, HashSet::new()),
        Durability::default(),
        SystemTime::UNIX_EPOCH,
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
