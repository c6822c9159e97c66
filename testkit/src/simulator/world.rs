//! Simulated Redis behind the `Store` trait, with its faults.
//!
//! It promises what `RedisStore` promises, and nothing more. What `send` sends lies unread until the store answers something, and a
//! broken connection or a refusal drops it unseen. A timeout says nothing about its effect, which may still come until the next
//! `connect` returns.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    panic::panic_any,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use paho_mqtt_redis::{Change, Connected, Error, ErrorKind, Group, Sent, Store};

use super::{
    clock::{ProcessClock, VirtualClock},
    exceptions,
    invariants::Violation,
    ledger::Ledger,
    sabotage::Sabotage,
    values::{Key, Kind, Value, fingerprint, is_same, message_of},
};

/// Payload of a simulated panic in a store, by which the hook knows that it is no failure.
pub struct SimulatedPanic;

/// Shared by the driver and the stores of all incarnations of the program.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    pub clock: Arc<VirtualClock>,
}

/// One write, which owns its value.
#[derive(Clone, Debug)]
pub enum Write {
    Put(Key, Value),
    Remove(Key),
    Quarantine(Key, Value),
    /// A write to a field that Paho does not write.
    Stray(String),
}

type OwnedGroup = Vec<Write>;

/// Reason why writes are refused while everything else works.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    pub kind: ErrorKind,
    /// Puts of longer values are refused; `None` for all puts. Counts for `OutOfMemory` only.
    pub above: Option<usize>,
    /// The server hangs up on a value that is too long, instead of refusing it.
    pub hangs_up: bool,
    pub since: Duration,
    pub until: Duration,
}

/// Identity that the store reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    None,
    RunIdOnly,
    RunAndReplication,
}

/// Fault of a single operation.
#[derive(Clone, Copy, Debug)]
pub enum Blow {
    /// The connection breaks before the operation; of what was unread, this share in percent has its effect.
    LostBefore(usize),
    /// The connection breaks after the operation.
    LostAfter,
    Stall(Fate),
    PanicBefore,
    PanicAfter,
    /// The program dies; this share of the operation in percent has its effect.
    Die(usize),
}

/// Effect of an operation that timed out.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    Before,
    Later,
    Never,
}

/// Older contents of the store.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub records: BTreeMap<Key, Value>,
    pub quarantine: BTreeMap<Key, Vec<Value>>,
    pub fields: BTreeMap<Vec<u8>, Value>,
}

impl Snapshot {
    fn has_quarantined(&self, key: Key, value: &Value) -> bool {
        let values = self.quarantine.get(&key);
        values.is_some_and(|values| values.contains(value))
    }
}

pub struct State {
    clock: Arc<VirtualClock>,
    pub data: Snapshot,
    run_id: u64,
    replication_id: u64,
    pub identity: Identity,
    pub call_timeout: Duration,

    /// The incarnation of the program that lives; everything of the others is refused.
    pub alive: u64,
    /// An incarnation that another one has replaced while it slept.
    pub loser: u64,
    /// Connections of an earlier epoch are broken.
    epoch: u64,

    pub refusal: Option<Refusal>,
    pub down_until: Duration,
    pub loading_until: Duration,
    pub stalled_until: Duration,
    pub in_use_until: Duration,
    /// The blow to the operation that comes after this many others.
    pub blow: Option<(usize, Blow)>,

    /// Sent, and not read by the store yet.
    unread: VecDeque<OwnedGroup>,
    /// Of an abandoned connection: read before the next `connect` returns.
    late: Vec<OwnedGroup>,

    /// Number of losses of data so far.
    losses: u32,
    /// The losses before the last complete list of the keys by the living program.
    listed_losses: u32,
    /// The store differs from what it confirmed, and the program may not know that yet.
    pub is_dirty: bool,
    /// Keys of records that it refused to quarantine, and that stay in place.
    pub unquarantined: BTreeSet<Key>,
    /// Fingerprints of the records that the living program has known.
    known: HashSet<u64>,
    /// Records that the living program has never known, and unreadable ones: still there or in quarantine.
    kept: BTreeMap<Key, Vec<Value>>,

    pub ledger: Ledger,
    pub violation: Option<Violation>,
    /// Names of invariants that are not reported.
    pub ignored: Vec<&'static str>,
    /// Operations so far.
    pub operations: u64,
    /// Operations of Paho's calls that waited for an answer.
    pub operations_of_calls: u64,
    /// Timeouts of the worker so far.
    pub timeouts_of_worker: u64,
    /// Errors that the store has returned so far.
    pub errors: u64,
    /// Time that operations took because the store was slow, and answered.
    pub slow: Duration,
    pub trace: Option<Vec<String>>,
    /// Deliberate defect of the store.
    pub sabotage: Sabotage,
    sabotaged: u32,
    /// Puts that a sabotaged store still owes.
    owed: Vec<Write>,
}

impl World {
    pub fn new(clock: &Arc<VirtualClock>, identity: Identity, call_timeout: Duration) -> Self {
        let state = State {
            clock: Arc::clone(clock),
            data: Snapshot::default(),
            run_id: 1,
            replication_id: 1,
            identity,
            call_timeout,
            alive: 0,
            loser: 0,
            epoch: 1,
            refusal: None,
            down_until: Duration::ZERO,
            loading_until: Duration::ZERO,
            stalled_until: Duration::ZERO,
            in_use_until: Duration::ZERO,
            blow: None,
            unread: VecDeque::new(),
            late: Vec::new(),
            losses: 0,
            listed_losses: 0,
            is_dirty: false,
            unquarantined: BTreeSet::new(),
            known: HashSet::new(),
            kept: BTreeMap::new(),
            ledger: Ledger::default(),
            violation: None,
            ignored: Vec::new(),
            operations: 0,
            operations_of_calls: 0,
            timeouts_of_worker: 0,
            errors: 0,
            slow: Duration::ZERO,
            trace: None,
            sabotage: Sabotage::None,
            sabotaged: 0,
            owed: Vec::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            clock: Arc::clone(clock),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates the store of a new incarnation of the program, the only one that lives from now on.
    pub fn store(&self, clock: &Arc<ProcessClock>) -> SimulatedStore {
        let mut state = self.lock();
        state.alive = state.alive.max(state.loser) + 1;
        SimulatedStore {
            world: self.clone(),
            clock: Arc::clone(clock),
            incarnation: state.alive,
            name: None,
            epoch: None,
        }
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        self.lock().note(line);
    }
}

impl State {
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    pub fn violate(&mut self, name: &'static str, detail: impl FnOnce() -> String) {
        if self.violation.is_none() && !self.ignored.contains(&name) {
            let detail = detail();
            self.note(|| format!("VIOLATION {name}: {detail}"));
            self.violation = Some(Violation { name, detail });
        }
    }

    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Ends every fault.
    pub fn heal(&mut self) {
        self.refusal = None;
        self.blow = None;
        self.down_until = Duration::ZERO;
        self.loading_until = Duration::ZERO;
        self.stalled_until = Duration::ZERO;
        self.in_use_until = Duration::ZERO;
    }

    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal.filter(|refusal| self.now() < refusal.until)
    }

    /// Returns the error reply for a group, if the store refuses it. The whole group is refused with one of its writes.
    fn refusal_of(&self, group: &[Write]) -> Option<ErrorKind> {
        let refusal = self.refusal()?;
        let is_refused = |write: &Write| match write {
            Write::Put(_, value) | Write::Quarantine(_, value) => {
                refusal.kind != ErrorKind::OutOfMemory
                    || refusal.above.is_none_or(|above| value.len() > above)
            }
            Write::Remove(_) => refusal.kind != ErrorKind::OutOfMemory,
            Write::Stray(_) => true,
        };
        group.iter().any(is_refused).then_some(refusal.kind)
    }

    /// Returns true if the server breaks the connection over a write of this group.
    fn hangs_up_on(&self, groups: &[OwnedGroup]) -> bool {
        let Some(refusal) = self.refusal().filter(|refusal| refusal.hangs_up) else {
            return false;
        };
        groups
            .iter()
            .any(|group| self.refusal_of(group) == Some(refusal.kind))
    }

    /// Applies one group, all or nothing.
    fn apply(&mut self, group: &[Write]) -> Result<(), ErrorKind> {
        if let Some(kind) = self.refusal_of(group) {
            self.note(|| format!("  store: refused ({kind}): {}", show_group(group)));
            let quarantined = group.iter().filter_map(|write| match write {
                Write::Quarantine(key, _) => Some(*key),
                _ => None,
            });
            self.unquarantined.extend(quarantined);
            return Err(kind);
        }
        let sabotaged = self.sabotage_group(group);
        let group = sabotaged.as_deref().unwrap_or(group);
        let mut touched: Vec<(u32, Key, Value)> = Vec::new();
        let mut overwritten: Vec<(Key, Value)> = Vec::new();
        for write in group {
            match write {
                Write::Put(key, value) => {
                    self.note_put(*key, value);
                    if let Some(message) = message_of(*key, value) {
                        self.ledger.add_copy(message);
                    }
                    if let Some(old) = self.data.records.insert(*key, Arc::clone(value)) {
                        if let Some(message) = message_of(*key, &old) {
                            self.ledger.remove_copy(message);
                            touched.push((message, *key, Arc::clone(&old)));
                        }
                        if old != *value {
                            overwritten.push((*key, old));
                        }
                    }
                }
                Write::Remove(key) => {
                    if let Some(old) = self.data.records.remove(key) {
                        if let Some(message) = message_of(*key, &old) {
                            self.ledger.remove_copy(message);
                            touched.push((message, *key, Arc::clone(&old)));
                        }
                        overwritten.push((*key, old));
                    }
                }
                Write::Quarantine(key, value) => {
                    let values = self.data.quarantine.entry(*key).or_default();
                    if !values.contains(value) {
                        values.push(Arc::clone(value));
                    }
                }
                Write::Stray(key) => self.violate("foreign_untouched", || {
                    format!("the store was asked to write the field {key:?}")
                }),
            }
        }
        for (message, key, value) in touched {
            // An older state of a lost message is kept there.
            if self.data.has_quarantined(key, &value) {
                continue;
            }
            let copies = self.ledger.get(message).map_or(0, |message| message.copies);
            if copies == 0 && self.ledger.is_outstanding(message) {
                self.violate("nothing_lost", || {
                    let group = show_group(group);
                    format!("m{message} was removed with {key}, its only record, by {group}")
                });
            }
        }
        self.check_kept(&overwritten, group);
        Ok(())
    }

    /// Returns what a store with a deliberate defect applies instead of a group.
    fn sabotage_group(&mut self, group: &[Write]) -> Option<OwnedGroup> {
        match self.sabotage {
            Sabotage::StoreForgets => {
                self.sabotaged += 1;
                self.sabotaged.is_multiple_of(50).then(Vec::new)
            }
            Sabotage::StoreSplitsGroups => {
                let mut applied = std::mem::take(&mut self.owed);
                let is_put = |write: &Write| matches!(write, Write::Put(..));
                for write in group {
                    if is_put(write) && group.len() > 1 {
                        self.owed.push(write.clone());
                    } else {
                        applied.push(write.clone());
                    }
                }
                Some(applied)
            }
            Sabotage::StoreDropsQuarantine => {
                let is_kept = |write: &&Write| !matches!(write, Write::Quarantine(..));
                Some(group.iter().filter(is_kept).cloned().collect())
            }
            _ => None,
        }
    }

    /// Checks that no record that the program never knew was deleted.
    fn check_kept(&mut self, gone: &[(Key, Value)], group: &[Write]) {
        if self.kept.is_empty() {
            return;
        }
        for (key, value) in gone {
            // A program that opens the records may renumber them.
            let is_moved = group.iter().any(|write| {
                matches!(write, Write::Put(new, moved) if new.kind == key.kind && moved == value)
            });
            let is_kept = !is_moved
                && self
                    .kept
                    .get(key)
                    .is_some_and(|values| values.contains(value));
            if is_kept && !self.has_somewhere(*key, value) {
                self.violate("nothing_foreign_deleted", || {
                    let group = show_group(group);
                    format!("{key}, which the program had never known, was deleted by {group}")
                });
            }
        }
    }

    fn has_somewhere(&self, key: Key, value: &Value) -> bool {
        self.data.records.get(&key) == Some(value) || self.data.has_quarantined(key, value)
    }

    /// Applies what was sent and not read yet. A refusal stays unseen.
    pub fn read_unread(&mut self) {
        if self.now() < self.stalled_until {
            return;
        }
        while let Some(group) = self.unread.pop_front() {
            if self.apply(&group).is_err() {
                self.is_dirty = true;
            }
        }
    }

    /// Breaks every connection. Of what was unread, this share in percent has its effect.
    pub fn break_connections(&mut self, share: usize) {
        self.epoch += 1;
        let keeps = self.unread.len() * share / 100;
        let dropped = self.unread.split_off(keeps);
        let stalled_until = std::mem::take(&mut self.stalled_until);
        self.read_unread();
        self.stalled_until = stalled_until;
        if !dropped.is_empty() {
            self.note(|| format!("  store: {} unread groups are dropped", dropped.len()));
            self.is_dirty = true;
        }
    }

    /// Ends the living program. What it has sent arrives.
    pub fn kill(&mut self) {
        self.read_late();
        self.break_connections(100);
        self.alive = self.alive.max(self.loser) + 1;
        self.blow = None;
    }

    /// Applies what an abandoned connection has sent.
    pub fn read_late(&mut self) {
        for group in std::mem::take(&mut self.late) {
            if self.apply(&group).is_err() {
                self.is_dirty = true;
            }
        }
    }

    /// Ends the store's process and starts another with these data. Of what was unread, this share in percent had its effect.
    pub fn restart(&mut self, share: usize) {
        self.late.clear();
        self.break_connections(share);
        self.run_id += 1;
        self.replication_id += 1;
        self.stalled_until = Duration::ZERO;
    }

    /// Makes another server the primary, under the same run id.
    pub fn fail_over(&mut self) {
        self.late.clear();
        self.break_connections(100);
        self.replication_id += 1;
    }

    pub fn is_alive(&self, incarnation: u64) -> bool {
        incarnation == self.alive
    }

    /// Replaces all data, as a restart does that loads other data.
    pub fn load(&mut self, data: Snapshot, is_program_running: bool) {
        let old = std::mem::replace(&mut self.data, data);
        self.losses += 1;
        let mut before: Vec<u32> = Vec::new();
        for (key, value) in &old.records {
            if let Some(message) = message_of(*key, value) {
                self.ledger.remove_copy(message);
                before.push(message);
            }
        }
        let mut present: Vec<u32> = Vec::new();
        for (key, value) in &self.data.records {
            if let Some(message) = message_of(*key, value) {
                self.ledger.add_copy(message);
                present.push(message);
            }
        }
        let is_changed = old.records != self.data.records;
        self.is_dirty |= is_changed;
        for message in before {
            let losses = self.losses;
            if let Some(message) = self.ledger.get_mut(message)
                && message.copies == 0
            {
                message.lost_at = losses;
            }
        }
        // What the store lost while nobody had a copy.
        if !is_program_running && is_changed {
            let outstanding: Vec<u32> = self.ledger.outstanding().iter().copied().collect();
            for message in outstanding {
                if self
                    .ledger
                    .get(message)
                    .is_some_and(|message| message.copies == 0)
                {
                    self.ledger.excuse_loss(message, exceptions::STORE_LOST);
                }
            }
            for message in present {
                self.ledger.excuse_all(message, exceptions::OLDER_DATA);
            }
        }
        // Of a record that was lost nothing is expected any more.
        let data = &self.data;
        for (key, values) in &mut self.kept {
            values.retain(|value| {
                data.records.get(key) == Some(value) || data.has_quarantined(*key, value)
            });
        }
        self.kept.retain(|_, values| !values.is_empty());
        if is_program_running {
            let unknown: Vec<(Key, Value)> = self
                .data
                .records
                .iter()
                .filter(|(key, value)| !self.known.contains(&fingerprint(**key, value)))
                .map(|(key, value)| (*key, Arc::clone(value)))
                .collect();
            for (key, value) in unknown {
                self.note(|| format!("  world: {key} is unknown to the program"));
                if let Some(message) = message_of(key, &value) {
                    self.ledger
                        .excuse_duplicate(message, exceptions::OLDER_DATA);
                    self.ledger.excuse_disorder(message, exceptions::OLDER_DATA);
                }
                self.keep(key, value);
            }
        }
    }

    /// Notes that the program has put a record, which it knows from then on.
    pub fn note_put(&mut self, key: Key, value: &Value) {
        self.known.insert(fingerprint(key, value));
        if let Some(values) = self.kept.get_mut(&key) {
            values.retain(|kept| !is_same(key, kept, value));
        }
    }

    /// Expects that a record stays in its place or in the quarantine.
    pub fn keep(&mut self, key: Key, value: Value) {
        // All PUBRELs of one packet id are equal.
        if key.kind == Kind::SentPubrel {
            return;
        }
        let values = self.kept.entry(key).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }

    /// Adds a record behind the program's back.
    pub fn plant(&mut self, key: Key, value: Value) {
        if let Some(message) = message_of(key, &value) {
            self.ledger.add_copy(message);
        }
        self.data.records.insert(key, Arc::clone(&value));
        self.keep(key, value);
    }

    /// Notes that the program has opened the records, and knows all of them from now on.
    pub fn opened(&mut self, is_unreadable: impl Fn(Key, &Value) -> bool) {
        self.known.clear();
        for (key, value) in &self.data.records {
            self.known.insert(fingerprint(*key, value));
        }
        let data = &self.data;
        self.kept.retain(|key, values| {
            values.retain(|value| is_unreadable(*key, value) || data.has_quarantined(*key, value));
            !values.is_empty()
        });
        self.is_dirty = false;
        self.listed_losses = self.losses;
    }

    /// Returns true if the program has listed the keys since this loss.
    pub fn is_listed_since(&self, loss: u32) -> bool {
        loss <= self.listed_losses
    }

    /// Returns true if the program has listed the keys since the last loss.
    pub fn is_all_listed(&self) -> bool {
        self.listed_losses == self.losses
    }

    pub fn has_kept(&self, key: Key) -> bool {
        self.kept.contains_key(&key)
    }

    fn identity(&self) -> Option<String> {
        match self.identity {
            Identity::None => None,
            Identity::RunIdOnly => Some(self.run_id.to_string()),
            Identity::RunAndReplication => Some(format!("{}/{}", self.run_id, self.replication_id)),
        }
    }
}

/// Store of one incarnation of the program.
pub struct SimulatedStore {
    world: World,
    clock: Arc<ProcessClock>,
    incarnation: u64,
    name: Option<String>,
    /// Epoch of the connection; `None` if there is none.
    epoch: Option<u64>,
}

impl SimulatedStore {
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Makes one operation, with every fault that applies.
    fn operate<T>(
        &mut self,
        operation: &'static str,
        groups: Vec<OwnedGroup>,
        waits: bool,
        work: impl FnOnce(&mut State, &[OwnedGroup]) -> Result<T, ErrorKind>,
    ) -> Result<T, Error> {
        let world = self.world.clone();
        let mut state = world.lock();
        let shown = state.trace.is_some().then(|| {
            let groups: Vec<String> = groups.iter().map(|group| show_group(group)).collect();
            format!("  store: {operation} {}", groups.join("; "))
        });
        let result = self.operate_on(&mut state, operation, groups, waits, work);
        if let Some(shown) = shown {
            let shown = match &result {
                Ok(_) => shown,
                Err(Failed::With(kind)) => format!("{shown} -> {kind}"),
                Err(Failed::Panics) => format!("{shown} -> panics"),
            };
            state.note(|| shown);
        }
        match result {
            Ok(value) => Ok(value),
            Err(Failed::With(kind)) => {
                state.errors += 1;
                Err(Error::new(
                    kind,
                    format!("{operation} in the simulated store"),
                ))
            }
            Err(Failed::Panics) => {
                state.errors += 1;
                drop(state);
                panic_any(SimulatedPanic);
            }
        }
    }

    fn operate_on<T>(
        &mut self,
        state: &mut State,
        operation: &'static str,
        groups: Vec<OwnedGroup>,
        waits: bool,
        work: impl FnOnce(&mut State, &[OwnedGroup]) -> Result<T, ErrorKind>,
    ) -> Result<T, Failed> {
        self.check_alive(state)?;
        state.operations += 1;
        let is_worker = self.clock.is_worker.load(Ordering::Relaxed);
        state.operations_of_calls += u64::from(!is_worker && waits);
        let blow = match &mut state.blow {
            Some((0, blow)) => {
                let blow = *blow;
                state.blow = None;
                Some(blow)
            }
            Some((others, _)) => {
                *others -= 1;
                None
            }
            None => None,
        };
        match blow {
            Some(Blow::PanicBefore) => return Err(Failed::Panics),
            Some(Blow::Die(share)) => {
                let is_connected =
                    self.epoch == Some(state.epoch) && state.now() >= state.down_until;
                if is_connected {
                    let applied = groups.len() * share / 100;
                    state.unread.extend(groups.into_iter().take(applied));
                }
                state.note(|| "the program dies".to_owned());
                state.kill();
                return Err(Failed::With(ErrorKind::Connection));
            }
            _ => {}
        }
        if operation == "connect" {
            self.epoch = None;
        } else {
            if self.epoch.is_some_and(|epoch| epoch != state.epoch) {
                self.epoch = None;
                return Err(Failed::With(ErrorKind::Connection));
            }
            if self.name.is_none() {
                return Err(Failed::With(ErrorKind::NotOpen));
            }
            if self.epoch.is_none() {
                self.open_connection(state)?;
            }
        }
        if let Some(Blow::LostBefore(share)) = blow {
            state.break_connections(share);
            self.epoch = None;
            return Err(Failed::With(ErrorKind::Connection));
        }
        if let Some(Blow::Stall(fate)) = blow {
            self.time_out(state, groups, fate);
            return Err(Failed::With(ErrorKind::Timeout));
        }
        let stalls = state.stalled_until.saturating_sub(state.now());
        if !stalls.is_zero() && waits {
            if stalls >= state.call_timeout {
                self.time_out(state, groups, Fate::Later);
                return Err(Failed::With(ErrorKind::Timeout));
            }
            state.clock.advance(stalls);
            state.slow += stalls;
        }
        if state.hangs_up_on(&groups) {
            state.break_connections(100);
            self.epoch = None;
            return Err(Failed::With(ErrorKind::Connection));
        }
        if !waits {
            state.unread.extend(groups);
            let done = work(state, &[]);
            return self.end(state, blow, done);
        }
        if operation == "connect" {
            self.open_connection(state)?;
        }
        state.read_unread();
        let is_busy = |refusal: Refusal| refusal.kind == ErrorKind::Busy;
        let done = match state.refusal().filter(|refusal| is_busy(*refusal)) {
            Some(_) => Err(ErrorKind::Busy),
            None => work(state, &groups),
        };
        self.end(state, blow, done)
    }

    fn end<T>(
        &mut self,
        state: &mut State,
        blow: Option<Blow>,
        done: Result<T, ErrorKind>,
    ) -> Result<T, Failed> {
        match blow {
            Some(Blow::LostAfter) => {
                state.break_connections(100);
                self.epoch = None;
                Err(Failed::With(ErrorKind::Connection))
            }
            Some(Blow::PanicAfter) => Err(Failed::Panics),
            _ => done.map_err(Failed::With),
        }
    }

    fn check_alive(&self, state: &State) -> Result<(), Failed> {
        if state.is_alive(self.incarnation) {
            Ok(())
        } else if self.incarnation == state.loser {
            Err(Failed::With(ErrorKind::InUse))
        } else {
            Err(Failed::With(ErrorKind::Connection))
        }
    }

    /// Connects. Nothing that an earlier connection has sent arrives afterwards.
    fn open_connection(&mut self, state: &mut State) -> Result<(), Failed> {
        let now = state.now();
        let refuses = |kind| state.refusal().is_some_and(|refusal| refusal.kind == kind);
        let error = if now < state.down_until {
            Some(ErrorKind::Connection)
        } else if now < state.loading_until {
            Some(ErrorKind::Loading)
        } else if now < state.in_use_until {
            Some(ErrorKind::InUse)
        } else {
            // The preflight queues a write; only a full store passes it.
            let kinds = [ErrorKind::Busy, ErrorKind::ReadOnly, ErrorKind::Misconf];
            kinds.into_iter().find(|kind| refuses(*kind))
        };
        if let Some(kind) = error {
            return Err(Failed::With(kind));
        }
        state.break_connections(100);
        state.read_late();
        self.epoch = Some(state.epoch);
        Ok(())
    }

    /// Lets the time limit of an operation pass, and abandons the connection.
    fn time_out(&mut self, state: &mut State, groups: Vec<OwnedGroup>, fate: Fate) {
        let limit = state.call_timeout;
        state.clock.advance(limit);
        let is_worker = self.clock.is_worker.load(Ordering::Relaxed);
        state.timeouts_of_worker += u64::from(is_worker);
        self.epoch = None;
        let sent = std::mem::take(&mut state.unread);
        match fate {
            Fate::Before => {
                state.late.extend(sent.into_iter().chain(groups));
                state.read_late();
            }
            Fate::Later => state.late.extend(sent.into_iter().chain(groups)),
            Fate::Never => state.is_dirty |= !sent.is_empty(),
        }
        state.epoch += 1;
    }
}

/// Reason why an operation has no result.
enum Failed {
    With(ErrorKind),
    Panics,
}

impl Store for SimulatedStore {
    const NAME: &'static str = "simulated";

    fn connect(&mut self, name: &str) -> Result<Connected, Error> {
        let connected = self.operate("connect", Vec::new(), true, |state, _| {
            let is_full = state.refusal().is_some_and(|refusal| {
                refusal.kind == ErrorKind::OutOfMemory && refusal.above.is_none()
            });
            Ok(Connected {
                write_error: is_full.then(|| Error::new(ErrorKind::OutOfMemory, "write")),
                instance_id: state.identity(),
                ..Connected::default()
            })
        })?;
        self.name = Some(name.to_owned());
        Ok(connected)
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        self.operate("keys", Vec::new(), true, |state, _| {
            state.listed_losses = state.losses;
            let records = state.data.records.keys();
            let fields = state.data.fields.keys().cloned();
            Ok(records
                .map(|key| key.to_string().into_bytes())
                .chain(fields)
                .collect())
        })
    }

    fn check(&mut self) -> Result<usize, Error> {
        self.operate("check", Vec::new(), true, |state, _| {
            let refusal = state.refusal();
            match refusal.filter(|refusal| refusal.above.is_none() && !refusal.hangs_up) {
                Some(refusal) => Err(refusal.kind),
                None => Ok(state.data.records.len() + state.data.fields.len()),
            }
        })
    }

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.operate("read", Vec::new(), true, |state, _| {
            state.note(|| format!("  store: reads {}", keys.join(" ")));
            Ok(keys.iter().map(|key| value_of(state, key)).collect())
        })
    }

    /// Reads all in one exchange, as `RedisStore` does.
    fn read_each(
        &mut self,
        keys: &[&str],
        on_value: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), Error> {
        self.read(keys)?.into_iter().for_each(on_value);
        Ok(())
    }

    fn prefetch(&mut self, _: &[&str]) -> Result<(), Error> {
        self.operate("prefetch", Vec::new(), false, |_, _| Ok(()))
    }

    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.operate("send", owned(groups), false, |_, _| Ok(()))
    }

    fn confirm(&mut self, sent: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error> {
        self.operate("confirm", owned(groups), true, |state, groups| {
            let is_as_sent = |sent: &Sent<'_>| {
                let length = Key::parse(sent.key.as_bytes())
                    .and_then(|key| state.data.records.get(&key))
                    .map(|value| value.len());
                length == sent.length
            };
            let differs = sent.iter().find(|sent| !is_as_sent(sent));
            let differs = differs.map(|sent| sent.key.to_owned());
            let mut result = Ok(());
            for group in groups {
                result = result.and(state.apply(group));
            }
            match differs {
                Some(key) if result.is_ok() => {
                    state.note(|| format!("  store: {key} is not as sent"));
                    Err(ErrorKind::Unconfirmed)
                }
                _ => result,
            }
        })
    }

    fn rewrite(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.confirm(&[], groups)
    }

    fn close(&mut self) {
        let world = self.world.clone();
        let mut state = world.lock();
        if self.epoch == Some(state.epoch) && state.is_alive(self.incarnation) {
            state.break_connections(100);
        }
        self.epoch = None;
        self.name = None;
    }
}

fn value_of(state: &State, key: &str) -> Option<Vec<u8>> {
    let value = match Key::parse(key.as_bytes()) {
        Some(key) => state.data.records.get(&key),
        None => state.data.fields.get(key.as_bytes()),
    };
    value.map(|value| value.to_vec())
}

fn owned(groups: &[Group<'_>]) -> Vec<OwnedGroup> {
    let groups = groups.iter().filter(|group| !group.is_empty());
    groups
        .map(|group| group.iter().map(owned_write).collect())
        .collect()
}

fn owned_write(change: &Change<'_>) -> Write {
    let (Change::Put { key, .. } | Change::Remove { key } | Change::Quarantine { key, .. }) =
        change;
    // A record of another origin is quarantined under its key and a hash.
    let name = match change {
        Change::Quarantine { .. } => key.split_once(':').map_or(*key, |(name, _)| name),
        _ => key,
    };
    let Some(parsed) = Key::parse(name.as_bytes()) else {
        return Write::Stray((*key).to_owned());
    };
    match change {
        Change::Put { value, .. } => Write::Put(parsed, Value::from(*value)),
        Change::Remove { .. } => Write::Remove(parsed),
        Change::Quarantine { value, .. } => Write::Quarantine(parsed, Value::from(*value)),
    }
}

fn show_group(group: &[Write]) -> String {
    let writes: Vec<String> = group
        .iter()
        .map(|write| match write {
            Write::Put(key, value) => {
                let message =
                    message_of(*key, value).map_or_else(String::new, |m| format!("m{m} "));
                format!("put {key} ({message}{} B)", value.len())
            }
            Write::Remove(key) => format!("remove {key}"),
            Write::Quarantine(key, _) => format!("quarantine {key}"),
            Write::Stray(key) => format!("write {key:?}"),
        })
        .collect();
    writes.join(", ")
}
