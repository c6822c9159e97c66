//! A persistence over a scripted store, whose worker runs when the test says so.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use paho_mqtt::ClientPersistence;

use crate::{
    clock::SimulatedClock,
    error::{Error, ErrorKind},
    paho::Key,
    persistence::{
        client_persistence::Persistence,
        observer::StoreObserver,
        simulated::{Settings, SimulatedWorker, Turn, simulated_persistence},
    },
    store::{Change, Connected, Group, Place, Sent, SetAsideLoss, Store, StoreEvent},
};

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// The content and the faults of a [`ScriptedStore`].
#[derive(Default)]
pub(super) struct Content {
    pub(super) records: BTreeMap<String, Vec<u8>>,
    pub(super) quarantine: BTreeMap<String, Vec<u8>>,
    pub(super) discarded: BTreeMap<String, Vec<u8>>,
    pub(super) send_counts: Option<Vec<u8>>,
    pub(super) instance_id: u32,
    /// Every call fails with this error.
    pub(super) is_down: Option<ErrorKind>,
    /// Puts of longer values are refused for lack of memory.
    pub(super) largest_value: Option<usize>,
    /// There is no memory for any put.
    pub(super) is_full: bool,
    /// A put of a longer value breaks the connection.
    pub(super) breaks_above: Option<usize>,
    /// Reads fail with this error.
    pub(super) refuses_reads: Option<ErrorKind>,
    /// Reads of more keys time out.
    pub(super) largest_read: Option<usize>,
    /// A prefetch breaks the connection.
    pub(super) breaks_prefetch: bool,
    /// Writes and checks fail with this error.
    pub(super) fails_writes: Option<ErrorKind>,
    /// The next write succeeds, and its reply is replaced by this error.
    pub(super) loses_reply: Option<ErrorKind>,
    /// The next remove of a record succeeds, and its reply is replaced by this error.
    pub(super) loses_reply_to_remove: Option<ErrorKind>,
    /// Recovery's writes of more bytes time out.
    pub(super) slow_above: Option<usize>,
    /// The next list of keys fails with this error.
    pub(super) fails_list: Option<ErrorKind>,
    /// Number of attempts to connect.
    pub(super) attempts: usize,
    /// What is set aside cannot be listed, for this reason.
    pub(super) refuses_places: Option<ErrorKind>,
    /// The quarantine, or setting anything aside, fails with this error.
    pub(super) refuses_quarantine: Option<ErrorKind>,
    /// What is set aside cannot be removed, for this reason.
    pub(super) refuses_removals: Option<ErrorKind>,
    /// Most bytes that one read of what is set aside returned.
    pub(super) largest_set_aside_read: usize,
    /// The quarantine has no room for longer values.
    pub(super) largest_quarantined: Option<usize>,
    /// The next connections find these problems.
    pub(super) write_error: Option<ErrorKind>,
    pub(super) warning: Option<ErrorKind>,
    pub(super) durability_note: Option<&'static str>,
    pub(super) server: Option<&'static str>,
    /// Entries that Paho did not write.
    pub(super) foreign: Vec<Vec<u8>>,
    /// Every call panics.
    pub(super) panics: bool,
    /// The exchanges, as in `send s-1 -c-1`.
    pub(super) trace: Vec<String>,
    /// Number of reads.
    pub(super) reads: usize,
    /// The records after each write, if the test wants them.
    pub(super) snapshots: Option<Vec<BTreeMap<String, Vec<u8>>>>,
    /// Most bytes that one write put while calls waited.
    pub(super) largest_confirm: usize,
}

/// A store whose content and faults the test changes.
pub(super) struct ScriptedStore(Arc<Mutex<Content>>);

impl ScriptedStore {
    pub(super) fn new(content: &Arc<Mutex<Content>>) -> Self {
        Self(Arc::clone(content))
    }

    fn available(&self) -> Result<MutexGuard<'_, Content>, Error> {
        let content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(!content.panics, "the test wants a panic");
        match content.is_down {
            Some(kind) => Err(Error::new(kind, "reach the store")),
            None => Ok(content),
        }
    }
}

impl Content {
    pub(super) fn new(records: &[(&str, Vec<u8>)]) -> Self {
        let records = records.iter();
        let records = records.map(|(key, value)| ((*key).to_owned(), value.clone()));
        Self {
            records: records.collect(),
            ..Self::default()
        }
    }

    /// Takes the exchanges since the last time.
    pub(super) fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }

    fn note<'a>(&mut self, verb: &str, keys: impl IntoIterator<Item = &'a str>) {
        let mut line = verb.to_owned();
        for key in keys {
            line.push(' ');
            line.push_str(key);
        }
        self.trace.push(line);
    }

    fn note_writes(&mut self, verb: &str, groups: &[Group<'_>]) {
        let mut words = Vec::new();
        for group in groups.iter().filter(|group| !group.is_empty()) {
            if !words.is_empty() {
                words.push("|".to_owned());
            }
            words.extend(group.iter().map(|change| match change {
                Change::Put { key, .. } => (*key).to_owned(),
                Change::Remove { key } => format!("-{key}"),
                Change::SetAside { place, name, .. } => format!("!{}", short_name(*place, name)),
                Change::RemoveSetAside { place, name } => {
                    format!("-!{}", short_name(*place, name))
                }
            }));
        }
        self.note(verb, words.iter().map(String::as_str));
    }

    pub(super) fn place(&mut self, place: Place) -> &mut BTreeMap<String, Vec<u8>> {
        match place {
            Place::Quarantine => &mut self.quarantine,
            Place::Discarded => &mut self.discarded,
        }
    }

    fn apply(&mut self, group: Group<'_>) -> Result<(), Error> {
        let puts_above = |limit: Option<usize>| {
            let limit = limit.unwrap_or(usize::MAX);
            move |change: &Change<'_>| matches!(change, Change::Put { value, .. } if value.len() > limit)
        };
        if group.iter().any(puts_above(self.breaks_above)) {
            return Err(Error::new(ErrorKind::Connection, "change the store"));
        }
        let is_refused = puts_above(self.largest_value);
        if group.iter().any(is_refused) {
            return Err(Error::new(ErrorKind::OutOfMemory, "change the store"));
        }
        if let Some(kind) = self.fails_writes {
            return Err(Error::new(kind, "change the store"));
        }
        let limit = self.largest_quarantined.unwrap_or(usize::MAX);
        let is_too_long = |change: &Change<'_>| matches!(change, Change::SetAside { value, .. } if value.len() > limit);
        if group.iter().any(is_too_long) {
            return Err(Error::new(ErrorKind::OutOfMemory, "change the quarantine"));
        }
        let sets_aside = |change: &Change<'_>| matches!(change, Change::SetAside { .. });
        if self.is_full && group.iter().any(sets_aside) {
            return Err(Error::new(ErrorKind::OutOfMemory, "set a record aside"));
        }
        if let Some(kind) = self.refuses_quarantine
            && group.iter().any(sets_aside)
        {
            return Err(Error::new(kind, "change the quarantine"));
        }
        let removes = |change: &Change<'_>| matches!(change, Change::RemoveSetAside { .. });
        if let Some(kind) = self.refuses_removals
            && group.iter().any(removes)
        {
            return Err(Error::new(kind, "remove what is set aside"));
        }
        for change in group {
            match *change {
                Change::Put { key, value } => {
                    self.records.insert(key.to_owned(), value.to_vec());
                }
                Change::Remove { key } => {
                    self.records.remove(key);
                }
                Change::SetAside { place, name, value } => {
                    let set_aside = self.place(place);
                    set_aside.insert(name.to_owned(), value.to_vec());
                }
                Change::RemoveSetAside { place, name } => {
                    self.place(place).remove(name);
                }
            }
        }
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.push(self.records.clone());
        }
        let removes = group
            .iter()
            .any(|change| matches!(change, Change::Remove { .. }));
        let of_remove = self.loses_reply_to_remove.take_if(|_| removes);
        match self.loses_reply.take().or(of_remove) {
            Some(kind) => Err(Error::new(kind, "read the reply")),
            None => Ok(()),
        }
    }
}

/// Returns the key in the name of a record that is set aside, with the first letter of its place.
fn short_name(place: Place, name: &str) -> String {
    let key = name.split(':').nth(3).unwrap_or(name);
    format!("{}:{key}", &place.as_str()[..1])
}

/// Bytes of the values in these groups.
fn put_bytes(groups: &[Group<'_>]) -> usize {
    let lengths = groups.iter().copied().flatten().map(|change| match change {
        Change::Put { value, .. } | Change::SetAside { value, .. } => value.len(),
        Change::Remove { .. } | Change::RemoveSetAside { .. } => 0,
    });
    lengths.sum()
}

impl Store for ScriptedStore {
    const NAME: &'static str = "scripted";

    fn connect(&mut self, name: &str) -> Result<Connected, Error> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .attempts += 1;
        let mut content = self.available()?;
        content.note("connect", [name]);
        let problem = |kind: Option<ErrorKind>| kind.map(|kind| Error::new(kind, "use the store"));
        Ok(Connected {
            instance_id: Some(content.instance_id.to_string()),
            write_error: problem(content.write_error),
            durability_note: content.durability_note,
            server: content.server.map(str::to_owned),
            warnings: problem(content.warning).into_iter().collect(),
        })
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let mut content = self.available()?;
        if let Some(kind) = content.fails_list.take() {
            return Err(Error::new(kind, "list the keys"));
        }
        let keys = content.records.keys();
        let keys = keys.map(|key| key.clone().into_bytes());
        Ok(keys.chain(content.foreign.iter().cloned()).collect())
    }

    fn check(&mut self) -> Result<usize, Error> {
        let mut content = self.available()?;
        content.note("check", []);
        if let Some(kind) = content.fails_writes {
            return Err(Error::new(kind, "check the store"));
        }
        if content.is_full {
            return Err(Error::new(ErrorKind::OutOfMemory, "check the store"));
        }
        Ok(content.records.len() + content.foreign.len())
    }

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut content = self.available()?;
        content.reads += 1;
        content.note("read", keys.iter().copied());
        if content.largest_read.is_some_and(|limit| keys.len() > limit) {
            return Err(Error::new(ErrorKind::Timeout, "read the store"));
        }
        if let Some(kind) = content.refuses_reads {
            return Err(Error::new(kind, "read the store"));
        }
        Ok(keys
            .iter()
            .map(|key| content.records.get(*key).cloned())
            .collect())
    }

    fn prefetch(&mut self, keys: &[&str]) -> Result<(), Error> {
        let mut content = self.available()?;
        content.note("prefetch", keys.iter().copied());
        if content.breaks_prefetch {
            return Err(Error::new(ErrorKind::Connection, "read ahead"));
        }
        Ok(())
    }

    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        let mut content = self.available()?;
        content.note_writes("send", groups);
        if let Some(kind) = content.fails_writes.filter(|kind| !kind.is_refusal()) {
            return Err(Error::new(kind, "send writes"));
        }
        for group in groups {
            // Unanswered, so a refusal is not seen.
            drop(content.apply(group));
        }
        Ok(())
    }

    fn confirm(&mut self, sent: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error> {
        let mut content = self.available()?;
        content.note_writes("confirm", groups);
        content.largest_confirm = content.largest_confirm.max(put_bytes(groups));
        let is_missing =
            |sent: &Sent<'_>| content.records.get(sent.key).map(Vec::len) != sent.length;
        let is_unconfirmed = sent.iter().any(is_missing);
        let results: Vec<_> = groups.iter().map(|group| content.apply(group)).collect();
        results.into_iter().collect::<Result<(), _>>()?;
        if is_unconfirmed {
            return Err(Error::new(ErrorKind::Unconfirmed, "confirm the writes"));
        }
        Ok(())
    }

    fn rewrite(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        let mut content = self.available()?;
        content.note_writes("rewrite", groups);
        if content
            .slow_above
            .is_some_and(|limit| put_bytes(groups) > limit)
        {
            return Err(Error::new(ErrorKind::Timeout, "repeat writes"));
        }
        let results: Vec<_> = groups.iter().map(|group| content.apply(group)).collect();
        results.into_iter().collect()
    }

    fn set_aside_names(&mut self, place: Place) -> Result<Vec<Vec<u8>>, Error> {
        let mut content = self.available()?;
        if let Some(kind) = content.refuses_places {
            return Err(Error::new(kind, "list what is set aside"));
        }
        let names = content.place(place).keys();
        Ok(names.map(|name| name.clone().into_bytes()).collect())
    }

    fn read_set_aside(
        &mut self,
        place: Place,
        names: &[&str],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut content = self.available()?;
        let set_aside = content.place(place);
        let values = names.iter().map(|name| set_aside.get(*name).cloned());
        let values: Vec<Option<Vec<u8>>> = values.collect();
        let bytes = values.iter().flatten().map(Vec::len).sum();
        content.largest_set_aside_read = content.largest_set_aside_read.max(bytes);
        Ok(values)
    }

    fn read_send_counts(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let content = self.available()?;
        match content.refuses_places {
            Some(kind) => Err(Error::new(kind, "read the counts of sends")),
            None => Ok(content.send_counts.clone()),
        }
    }

    fn save_send_counts(&mut self, counts: Option<&[u8]>) -> Result<(), Error> {
        let mut content = self.available()?;
        content.note("sends", []);
        if content.is_full && counts.is_some() {
            return Err(Error::new(ErrorKind::OutOfMemory, "save the counts"));
        }
        content.send_counts = counts.map(<[u8]>::to_vec);
        Ok(())
    }

    fn close(&mut self) {
        if let Ok(mut content) = self.available() {
            content.note("close", []);
        }
    }
}

/// The clock of a bench: it moves when a call waits, and when the test says so.
#[derive(Default)]
struct BenchClock {
    now: Mutex<Duration>,
    /// Number of turns of the worker.
    turns: AtomicUsize,
    worker: Mutex<Option<SimulatedWorker<ScriptedStore>>>,
}

impl SimulatedClock for BenchClock {
    fn since_boot(&self) -> Duration {
        *self.now.lock().expect("no panic")
    }

    fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.since_boot()
    }

    fn wait(&self, until: Duration) {
        let worker = self.worker.lock().expect("no panic").clone();
        let next = worker.map_or(until, |worker| {
            self.take_turn(&worker).unwrap_or(Duration::ZERO)
        });
        let mut now = self.now.lock().expect("no panic");
        *now = next.min(until).max(*now);
    }
}

impl BenchClock {
    /// Counts a turn, so that a worker that never waits fails the test instead of hanging it.
    fn count_turn(&self) {
        let turns = self.turns.fetch_add(1, Ordering::Relaxed);
        assert!(turns < 100_000, "the worker never waits");
    }

    /// Runs one turn of the worker; returns the time until which it then waits.
    fn take_turn(&self, worker: &SimulatedWorker<ScriptedStore>) -> Option<Duration> {
        self.count_turn();
        match worker.turn() {
            Turn::Exchange(mut exchange) => {
                exchange.perform();
                exchange.finish();
                None
            }
            Turn::Done => None,
            Turn::Wait(until) => Some(until),
            Turn::Ended => Some(Duration::MAX),
        }
    }
}

/// Keeps the events that a persistence reports, and the keys of damaged records.
#[derive(Default)]
pub(super) struct Events(Mutex<Vec<StoreEvent>>, Mutex<Vec<String>>);

impl StoreObserver for Events {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        self.0.lock().expect("no panic").push(event.clone());
    }

    fn on_damaged(&self, client_id: &str, key: &str) {
        let damaged = format!("{client_id} {key}");
        self.1.lock().expect("no panic").push(damaged);
    }
}

/// An open persistence and everything around it.
pub(super) struct Bench {
    content: Arc<Mutex<Content>>,
    settings: Settings,
    clock: Arc<BenchClock>,
    pub(super) worker: SimulatedWorker<ScriptedStore>,
    pub(super) persistence: Persistence<ScriptedStore>,
    events: Arc<Events>,
}

impl Bench {
    pub(super) fn new(settings: &Settings, records: &[(&str, Vec<u8>)]) -> Self {
        Self::with_content(settings, Content::new(records))
    }

    /// Opens over a store with this content and these faults.
    pub(super) fn with_content(settings: &Settings, content: Content) -> Self {
        Self::open(settings, Arc::new(Mutex::new(content)))
    }

    fn open(settings: &Settings, content: Arc<Mutex<Content>>) -> Self {
        let mut bench = Self::closed(settings, content);
        bench.persistence.open("device", "broker").expect("opens");
        bench
    }

    /// Opens on a device that booted this long ago.
    pub(super) fn opened_at(settings: &Settings, content: Content, since_boot: Duration) -> Self {
        let mut bench = Self::closed(settings, Arc::new(Mutex::new(content)));
        *bench.clock.now.lock().expect("no panic") = since_boot;
        bench.persistence.open("device", "broker").expect("opens");
        bench
    }

    /// A persistence that is not open yet.
    pub(super) fn closed(settings: &Settings, content: Arc<Mutex<Content>>) -> Self {
        let clock = Arc::<BenchClock>::default();
        let events = Arc::<Events>::default();
        let (persistence, worker) = simulated_persistence(
            ScriptedStore(Arc::clone(&content)),
            settings,
            Arc::clone(&clock) as Arc<dyn SimulatedClock>,
            Some(Arc::clone(&events) as Arc<dyn StoreObserver>),
        );
        *clock.worker.lock().expect("no panic") = Some(worker.clone());
        Self {
            content,
            settings: settings.clone(),
            clock,
            worker,
            persistence,
            events,
        }
    }

    /// Kills the program, and starts it again over what the store has.
    pub(super) fn crash(self) -> Self {
        let content = {
            let content = self.content();
            Content {
                records: content.records.clone(),
                quarantine: content.quarantine.clone(),
                send_counts: content.send_counts.clone(),
                instance_id: content.instance_id,
                ..Content::default()
            }
        };
        let settings = self.settings.clone();
        // What the dying persistence still writes goes to the old content.
        drop(self);
        Self::open(&settings, Arc::new(Mutex::new(content)))
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store, which outlives the bench.
    pub(super) fn shared_content(&self) -> Arc<Mutex<Content>> {
        Arc::clone(&self.content)
    }

    pub(super) fn stored(&self) -> BTreeMap<String, Vec<u8>> {
        self.content().records.clone()
    }

    pub(super) fn stored_keys(&self) -> Vec<String> {
        self.content().records.keys().cloned().collect()
    }

    pub(super) fn put(&mut self, key: &str, value: &[u8]) {
        self.persistence.put(key, vec![value]).expect("put");
    }

    pub(super) fn get(&mut self, key: &str) -> Vec<u8> {
        self.persistence.get(key).expect("present")
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.persistence.remove(key).expect("removed");
    }

    /// Makes the calls of Paho that send a command: read it, remove it, put its PUBLISH.
    pub(super) fn send(&mut self, command: &str, publish: &str, packet: &[u8]) {
        self.get(command);
        self.remove(command);
        self.put(publish, packet);
    }

    /// Makes the calls of a restore: lists the keys and reads each record.
    pub(super) fn restore(&mut self) -> Vec<String> {
        let keys = self.persistence.keys().expect("listed");
        for key in &keys {
            self.get(key);
        }
        keys
    }

    /// Runs the worker for this long.
    pub(super) fn run(&self, time: Duration) {
        let end = self.clock.since_boot() + time;
        while self.clock.since_boot() < end {
            let next = self.clock.take_turn(&self.worker).unwrap_or(Duration::ZERO);
            let mut now = self.clock.now.lock().expect("no panic");
            *now = next.min(end).max(*now);
        }
    }

    /// Makes the store fail, changes it while it is away, and brings it back.
    pub(super) fn replace_data(&mut self, kind: ErrorKind, change: impl FnOnce(&mut Self)) {
        self.content().is_down = Some(kind);
        self.run(2 * SECOND);
        assert!(!self.is_up());
        change(self);
        self.content().is_down = None;
        self.trace();
        self.run(5 * SECOND);
    }

    /// Does the same with a store that can be recovered.
    pub(super) fn interrupt(&mut self, kind: ErrorKind, change: impl FnOnce(&mut Self)) {
        self.replace_data(kind, change);
        assert!(self.is_up(), "{:?}", self.events().last());
    }

    /// Runs one turn of the worker, with calls before and after its exchange.
    pub(super) fn turn_with(&mut self, mut calls: impl FnMut(&mut Self)) {
        self.clock.count_turn();
        match self.worker.turn() {
            Turn::Exchange(mut exchange) => {
                calls(self);
                exchange.perform();
                calls(self);
                exchange.finish();
            }
            Turn::Wait(until) => *self.clock.now.lock().expect("no panic") = until,
            Turn::Done | Turn::Ended => {}
        }
    }

    /// Takes the exchanges with the store since the last time.
    pub(super) fn trace(&self) -> Vec<String> {
        self.content().take_trace()
    }

    /// The time of the bench's clock.
    pub(super) fn now(&self) -> Duration {
        self.clock.since_boot()
    }

    pub(super) fn is_up(&self) -> bool {
        self.persistence.health().snapshot().up
    }

    /// The client and the key of each damaged record.
    pub(super) fn damaged(&self) -> Vec<String> {
        self.events.1.lock().expect("no panic").clone()
    }

    /// The events so far; the worker has to run for them.
    pub(super) fn events(&self) -> Vec<StoreEvent> {
        self.events.0.lock().expect("no panic").clone()
    }

    /// The events about records that were set aside and are gone.
    pub(super) fn set_aside_losses(&self) -> Vec<(SetAsideLoss, usize)> {
        let losses = self.events().into_iter().filter_map(|event| match event {
            StoreEvent::SetAsideLost {
                reason, records, ..
            } => Some((reason, records)),
            _ => None,
        });
        losses.collect()
    }
}

/// A publish command at this QoS as Paho C 1.3.16 writes it for MQTT 3.1.1.
pub(super) fn command(packet_id: i32, qos: i32, payload: &[u8]) -> Vec<u8> {
    let fields = [3, packet_id].map(i32::to_ne_bytes).concat();
    let length = i32::try_from(payload.len()).expect("short");
    let [length, qos, retained] = [length, qos, 0].map(i32::to_ne_bytes);
    [&fields, &b"t\0"[..], &length, payload, &qos, &retained].concat()
}

/// A PUBLISH packet of MQTT 3.1.1.
pub(super) fn publish(packet_id: u16, qos: u8, payload: &[u8]) -> Vec<u8> {
    let rest = [&[0, 1, b't'][..], &packet_id.to_be_bytes(), payload].concat();
    let mut packet = vec![0x30 | qos << 1];
    let mut length = rest.len();
    loop {
        let byte = u8::try_from(length % 128).expect("7 bits");
        length /= 128;
        packet.push(byte | if length > 0 { 0x80 } else { 0 });
        if length == 0 {
            break;
        }
    }
    [packet, rest].concat()
}

/// An inbound message that waits for the application.
pub(super) fn queued(payload: u8) -> Vec<u8> {
    let numbers = [2, 0, 0, 1].map(i32::to_ne_bytes).concat();
    let one = 1_i32.to_ne_bytes();
    [&one[..], &[payload], &numbers, b"t\0", &one].concat()
}

/// A PUBREL packet.
pub(super) fn pubrel(packet_id: u16) -> Vec<u8> {
    [&[0x62, 2][..], &packet_id.to_be_bytes()].concat()
}

/// Asserts that every stored record is one that Paho can read.
pub(super) fn assert_readable(bench: &Bench) {
    for (key, value) in bench.stored() {
        let parsed = Key::parse(&key).expect("a key");
        assert!(crate::paho::is_valid_record(parsed, &value), "{key}");
    }
}
