//! Simulated Redis behind the `Store` trait, with its faults.
//!
//! It promises what `RedisStore` promises, and nothing more. What `send` sends lies unread until the store answers something, and a
//! broken connection or a refusal drops it unseen. A timeout says nothing about its effect, which may still come until the next
//! `connect` returns.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use paho_mqtt_redis::{Durability, ErrorKind};

use super::{
    clock::VirtualClock,
    exceptions,
    invariants::Violation,
    ledger::Ledger,
    process::Settings,
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
    /// Sets a record aside that Paho has dropped.
    Discard {
        name: String,
        key: Key,
        value: Value,
    },
    /// Removes what was set aside.
    RemoveSetAside {
        name: String,
        key: Key,
    },
    /// A write to a field that Paho does not write.
    Stray(String),
}

pub type OwnedGroup = Vec<Write>;

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
    /// Names of the records that Paho has dropped.
    pub discarded: BTreeSet<String>,
    pub fields: BTreeMap<Vec<u8>, Value>,
}

impl Snapshot {
    pub(super) fn has_quarantined(&self, key: Key, value: &Value) -> bool {
        let values = self.quarantine.get(&key);
        values.is_some_and(|values| values.contains(value))
    }
}

/// Interval at which the store writes everything to its disk: `appendfsync everysec`.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which its replica gets everything, if nothing waits for that.
const REPLICATION_INTERVAL: Duration = Duration::from_millis(300);

/// The data as another place has them: the disk, or a replica.
struct Backup {
    data: Snapshot,
    /// The last time at which it got everything.
    taken_at: Duration,
    interval: Duration,
    /// It gets everything before what was confirmed counts as confirmed.
    is_waited_for: bool,
    /// The store may come back with it; otherwise nobody looks at it.
    is_used: bool,
}

impl Backup {
    fn every(interval: Duration) -> Self {
        Self {
            data: Snapshot::default(),
            taken_at: Duration::ZERO,
            interval,
            is_waited_for: false,
            is_used: false,
        }
    }

    fn take(&mut self, data: &Snapshot, now: Duration) {
        self.taken_at = now;
        if self.is_used {
            self.data = data.clone();
        }
    }

    fn take_if_due(&mut self, data: &Snapshot, now: Duration) {
        if now >= self.taken_at + self.interval {
            self.take(data, now);
        }
    }
}

pub struct State {
    pub(super) clock: Arc<VirtualClock>,
    pub data: Snapshot,
    /// The data that a power cut leaves.
    disk: Backup,
    /// The data that a failover leaves.
    replica: Backup,
    /// Whatever is sent at once waits until the replica has it.
    sends_wait_for_replica: bool,
    run_id: u64,
    replication_id: u64,
    pub identity: Identity,
    pub call_timeout: Duration,

    /// The incarnation of the program that lives; everything of the others is refused.
    pub alive: u64,
    /// An incarnation that another one has replaced while it slept.
    pub loser: u64,
    /// Connections of an earlier epoch are broken.
    pub(super) epoch: u64,

    pub refusal: Option<Refusal>,
    /// Smallest size above which values were ever refused: what is set aside then is tried again after up to ten minutes.
    pub smallest_refused: usize,
    pub down_until: Duration,
    pub loading_until: Duration,
    pub stalled_until: Duration,
    pub in_use_until: Duration,
    /// The last time at which something other than a refusal hindered the program.
    pub disturbed_at: Duration,
    /// The blow to the operation that comes after this many others.
    pub blow: Option<(usize, Blow)>,

    /// Sent, and not read by the store yet.
    pub(super) unread: VecDeque<OwnedGroup>,
    /// Of an abandoned connection: read before the next `connect` returns.
    pub(super) late: Vec<OwnedGroup>,

    /// Number of losses of data so far.
    pub(super) losses: u32,
    /// The loss that took each record that was not put again.
    pub(super) lost_at: BTreeMap<Key, u32>,
    /// The losses before the last complete list of the keys by the living program.
    pub(super) listed_losses: u32,
    /// The store differs from what it confirmed, and the program may not know that yet.
    pub is_dirty: bool,
    /// Keys of records that it refused to quarantine, and that stay in place.
    pub unquarantined: BTreeSet<Key>,
    /// Names of the records that the living program has set aside since Paho dropped them.
    pub(super) set_aside: BTreeSet<String>,
    /// Fingerprints of the records that the living program has known.
    known: HashSet<u64>,
    /// Records that the living program has never known, and unreadable ones: still there or in quarantine.
    pub(super) kept: BTreeMap<Key, Vec<Value>>,

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
    pub(super) sabotaged: u32,
    /// Puts that a sabotaged store still owes.
    pub(super) owed: Vec<Write>,
}

impl World {
    pub fn new(clock: &Arc<VirtualClock>, identity: Identity, call_timeout: Duration) -> Self {
        let state = State {
            clock: Arc::clone(clock),
            data: Snapshot::default(),
            disk: Backup::every(SYNC_INTERVAL),
            replica: Backup::every(REPLICATION_INTERVAL),
            sends_wait_for_replica: false,
            run_id: 1,
            replication_id: 1,
            identity,
            call_timeout,
            alive: 0,
            loser: 0,
            epoch: 1,
            refusal: None,
            smallest_refused: usize::MAX,
            down_until: Duration::ZERO,
            loading_until: Duration::ZERO,
            stalled_until: Duration::ZERO,
            in_use_until: Duration::ZERO,
            disturbed_at: Duration::ZERO,
            blow: None,
            unread: VecDeque::new(),
            late: Vec::new(),
            losses: 0,
            lost_at: BTreeMap::new(),
            listed_losses: 0,
            is_dirty: false,
            unquarantined: BTreeSet::new(),
            set_aside: BTreeSet::new(),
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

    /// Begins a new incarnation of the program, the only one that lives from now on.
    pub fn begin_incarnation(&self) -> u64 {
        let mut state = self.lock();
        state.alive = state.alive.max(state.loser) + 1;
        state.alive
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

    /// Sets what a power cut and a failover leave: if they happen, and if writes wait for the disk and for the replica.
    pub fn set_backups(&mut self, has_power_cuts: bool, has_failovers: bool, settings: &Settings) {
        self.disk.is_used = has_power_cuts;
        self.replica.is_used = has_failovers;
        self.disk.is_waited_for = settings.durability == Durability::Synced;
        self.replica.is_waited_for = settings.has_replicas;
        self.sends_wait_for_replica = settings.each_send_waits_for_replica();
    }

    /// Brings the places up to date that have everything before this reply.
    pub(super) fn back_up_before_reply(&mut self, confirms: bool) {
        let now = self.now();
        // With `appendfsync always` before each reply; a replica only where a confirmation waits.
        if self.disk.is_waited_for && self.sabotage != Sabotage::StoreSkipsSync {
            self.disk.take(&self.data, now);
        }
        if confirms && self.replica.is_waited_for && self.sabotage != Sabotage::StoreSkipsReplica {
            self.replica.take(&self.data, now);
        }
    }

    /// Writes everything to the disk once per second, and to the replica more often.
    pub(super) fn back_up_if_due(&mut self) {
        let now = self.now();
        self.disk.take_if_due(&self.data, now);
        self.replica.take_if_due(&self.data, now);
    }

    /// Takes from the store what its disk does not have, as a power cut does, which the program does not survive.
    pub fn cut_power(&mut self) {
        self.back_up_if_due();
        let backup = self.disk.data.clone();
        // With `Synced`, every write has waited.
        let lacks_unconfirmed = !self.disk.is_waited_for;
        let may_lack_since = lacks_unconfirmed.then_some(self.disk.taken_at);
        self.come_back_with(
            backup,
            may_lack_since,
            lacks_unconfirmed,
            exceptions::POWER_CUT,
        );
    }

    /// Takes from the store what its replica does not have, as the death of the primary does, with that of the program.
    pub fn lose_primary(&mut self) {
        self.back_up_if_due();
        let backup = self.replica.data.clone();
        let may_lack_since = (!self.replica.is_waited_for).then_some(self.replica.taken_at);
        // A write that was sent without waiting may be missing, unless each one waits.
        let lacks_unconfirmed = !self.sends_wait_for_replica;
        self.come_back_with(
            backup,
            may_lack_since,
            lacks_unconfirmed,
            exceptions::FAILOVER,
        );
    }

    /// Replaces the data by those of another place, while the program dies.
    fn come_back_with(
        &mut self,
        backup: Snapshot,
        may_lack_since: Option<Duration>,
        lacks_unconfirmed: bool,
        reason: &'static str,
    ) {
        let was_dirty = self.is_dirty;
        self.restart(0);
        let old = std::mem::replace(&mut self.data, backup);
        self.back_up();
        let messages_in = |records: &BTreeMap<Key, Value>| -> Vec<u32> {
            let messages = records
                .iter()
                .filter_map(|(key, value)| message_of(*key, value));
            messages.collect()
        };
        let present = messages_in(&self.data.records);
        for message in messages_in(&old.records) {
            let stored_at = self.ledger.get(message).map(|message| message.stored_at);
            let is_lost = !present.contains(&message);
            // None is excused if writes wait, and otherwise none that there has been time for.
            if is_lost && may_lack_since.is_some_and(|since| stored_at >= Some(since)) {
                self.ledger.excuse_loss(message, reason);
            }
            self.ledger.remove_copy(message);
        }
        for message in present {
            self.ledger.add_copy(message, self.clock.now());
        }
        let data = &self.data;
        self.kept.retain(|key, values| {
            values.retain(|value| {
                data.records.get(key) == Some(value) || data.has_quarantined(*key, value)
            });
            !values.is_empty()
        });
        self.is_dirty = was_dirty || lacks_unconfirmed;
    }

    /// Brings the disk and the replica up to date, as after a restart.
    fn back_up(&mut self) {
        let now = self.now();
        self.disk.take(&self.data, now);
        self.replica.take(&self.data, now);
    }

    /// Returns the data of the replica if a confirmation waits for it.
    pub fn waited_replica(&self) -> Option<Snapshot> {
        let replica = &self.replica;
        (replica.is_used && replica.is_waited_for).then(|| replica.data.clone())
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
        self.back_up();
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
                self.ledger.add_copy(message, self.clock.now());
                present.push(message);
            }
        }
        for key in old.records.keys() {
            if old.records.get(key) != self.data.records.get(key) {
                self.lost_at.insert(*key, self.losses);
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
        let known = &self.known;
        for (key, values) in &mut self.kept {
            // The program may remove what it has known since it opened the records.
            values.retain(|value| {
                let is_unknown = !known.contains(&fingerprint(*key, value));
                is_unknown && data.records.get(key) == Some(value)
                    || data.has_quarantined(*key, value)
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
            self.ledger.add_copy(message, self.clock.now());
        }
        self.data.records.insert(key, Arc::clone(&value));
        self.keep(key, value);
    }

    /// Notes that the program has opened the records, and knows all of them from now on.
    pub fn opened(&mut self, is_unreadable: impl Fn(Key, &Value) -> bool) {
        self.known.clear();
        for (key, value) in &self.data.records {
            if !is_unreadable(*key, value) {
                self.known.insert(fingerprint(*key, value));
            }
        }
        let data = &self.data;
        self.kept.retain(|key, values| {
            values.retain(|value| is_unreadable(*key, value) || data.has_quarantined(*key, value));
            !values.is_empty()
        });
        self.set_aside.clear();
        self.is_dirty = false;
        self.listed_losses = self.losses;
    }

    /// The loss that took a record; 0 if none did since it was put.
    pub fn lost_at(&self, key: Key) -> u32 {
        self.lost_at.get(&key).copied().unwrap_or_default()
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

    pub(super) fn identity(&self) -> Option<String> {
        match self.identity {
            Identity::None => None,
            Identity::RunIdOnly => Some(self.run_id.to_string()),
            Identity::RunAndReplication => Some(format!("{}/{}", self.run_id, self.replication_id)),
        }
    }
}

/// Formats a group for the story.
pub fn show_group(group: &[Write]) -> String {
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
            Write::Discard { key, .. } => format!("discard {key}"),
            Write::RemoveSetAside { key, .. } => format!("remove {key} from its place"),
            Write::Stray(key) => format!("write {key:?}"),
        })
        .collect();
    writes.join(", ")
}
