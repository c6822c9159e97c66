//! What must hold after each step, and what is allowed after a crash.
//!
//! Most checks are made where something changes: in the store when a group is applied, after each call of Paho, at each crash and
//! opening. Only a few look at everything, every few steps.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use paho_mqtt_redis::{Durability, HealthSnapshot, prometheus::TextEncoder, simulation};

use crate::accounting::{Account, accounts_in};

use super::{
    exceptions,
    ledger::{Ledger, Message},
    process::{CLIENT, Machine, Stop, UNLIMITED, is_readable},
    values::{Key, Kind, fingerprint, has_value, is_same, message_of, token},
    world::State,
};

/// Invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub name: &'static str,
    pub detail: String,
}

/// The name of each.
pub const INVARIANTS: &[&str] = &[
    "altered",
    "call_time",
    "conserved",
    "dropped_are_set_aside",
    "events_are_true",
    "few_exchanges",
    "flush_is_true",
    "foreign_untouched",
    "gauges_are_true",
    "in_use",
    "keys_are_true",
    "memory_budget",
    "no_gap",
    "no_stuck",
    "nothing_foreign_deleted",
    "nothing_lost",
    "one_large_record_is_alone",
    "one_version",
    "open_succeeds",
    "order",
    "order_across_qos",
    "packet_id_of_foreign",
    "packet_id_of_forgotten",
    "paho_is_never_hurt",
    "qos2_once",
    "unique_packet_ids",
    "values_are_true",
];

/// Bytes that a read ahead may add to the memory: the cache limits one to 512 KiB, and keeps it until Paho has read it.
const READ_AHEAD: usize = 512 * 1024;

/// Time in which a small record must be written while a large one is refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same while each attempt breaks the connection: before each is a backoff, and they halve the batch.
const PATIENCE_WITH_BREAKS: Duration = Duration::from_secs(30);

impl Machine {
    /// Everything that was accepted is in the store, as far as the program knows.
    pub(super) fn is_safe(health: &HealthSnapshot) -> bool {
        health.up && health.held_records == 0
    }

    /// Checks what may have changed with a call or an action of the worker.
    pub fn observe(&mut self) -> Result<(), Stop> {
        let Some(process) = &self.process else {
            return Ok(());
        };
        if self.world.lock().violation.is_some() {
            return Err(Stop::Violated);
        }
        let lost_keys = process.events.take_lost_keys();
        // Of two messages with one packet id Paho puts one over the other.
        let is_clash = |key: &String| {
            let key = Key::parse(key.as_bytes());
            let id = key.and_then(|key| u16::try_from(key.number).ok());
            id.is_some_and(|id| self.clashing.contains(&id))
        };
        let damaged = process.events.take_damaged();
        if let Some(key) = damaged.filter(|key| !is_clash(key)) {
            self.world.lock().violate("paho_is_never_hurt", || {
                format!("{key} is reported as damaged")
            });
        }
        let health = process.health.snapshot();
        let (cached, pending) = process.clock.memory();
        // Paho reads what it put last at once, so that may stay, and so may what was read ahead of the record that it read last.
        let (put, read) = self.last_lengths;
        let budget = self.settings.cache_limit + pending + put + read + READ_AHEAD;
        if cached > budget {
            self.world.lock().violate("memory_budget", || {
                format!("{cached} bytes in memory, {pending} of them pending, of {budget}")
            });
        }
        let world = self.world.clone();
        let clock = Arc::clone(&process.clock);
        for key in lost_keys {
            // Paho may have removed it since, and its key may be the stored one of another record.
            let Some(key) = self.live_key(key) else {
                continue;
            };
            let mut state = world.lock();
            let value = &self.live[&key];
            let is_stored = has_value(&state.data.records, key, value);
            // A packet may have been put again before the event is delivered.
            let is_put_again = !key.is_queue_record()
                && (is_stored || clock.stored_key(&key.to_string()).is_some());
            if !is_put_again && self.settings.cache_limit < UNLIMITED {
                self.lost_seen += 1;
                self.excuse_lost(&mut state, key);
            }
        }
        let Some(process) = &self.process else {
            return Ok(());
        };
        // An outage may have come and gone while a call waited.
        let has_waited = process.clock.take_seen().is_some();
        let was_safe = Self::is_safe(&self.before)
            && !has_waited
            && health.lost_records == self.before.lost_records;
        self.before = health;
        // Two outages may begin at one moment of the virtual time.
        if health.up {
            self.waited_in = None;
        }
        self.must_compare |= !was_safe;
        // What is deferred or unconfirmed need not be in the store.
        if self.must_compare && Self::is_safe(&health) && health.unconfirmed_records == 0 {
            self.must_compare = false;
            self.check_after_outage();
        }
        self.result()
    }

    pub fn result(&self) -> Result<(), Stop> {
        match self.world.lock().violation {
            Some(_) => Err(Stop::Violated),
            None => Ok(()),
        }
    }

    /// Allows what follows from a record that the store has lost.
    pub fn excuse_lost(&mut self, state: &mut State, key: Key) {
        let message_in = |key: Key| {
            let value = self.live.get(&key)?;
            message_of(key, value)
        };
        if let Some(message) = message_in(key) {
            state
                .ledger
                .excuse_loss(message, exceptions::COUNTED_AS_LOST);
        }
        if key.kind == Kind::SentPubrel {
            // Without it, the PUBLISH is sent again.
            let publish = key.with_kind(Kind::SentPublish);
            for publish in [publish, publish.other_version()] {
                if let Some(message) = message_in(publish) {
                    state
                        .ledger
                        .excuse_duplicate(message, exceptions::COUNTED_AS_LOST);
                }
            }
        }
        self.live.remove(&key);
    }

    /// Checks at the end of an outage that the store has every record again, or that its loss was counted.
    fn check_after_outage(&mut self) {
        // What is sent and not answered yet may have been refused, unseen.
        let is_pipelined = self.settings.durability == Durability::Pipelined;
        if is_pipelined && self.before.unconfirmed_records > 0 {
            return;
        }
        let world = self.world.clone();
        let mut state = world.lock();
        state.read_unread();
        // Of what was lost after the keys were listed the persistence does not know yet.
        let is_all_listed = state.is_all_listed();
        let is_known = |key: Key| state.is_listed_since(state.lost_at(key));
        let missing: Vec<(Key, Option<u32>)> = self
            .live
            .iter()
            .filter(|(key, value)| !has_value(&state.data.records, **key, value) && is_known(**key))
            // After half a restore a record may be stored under another number.
            .filter(|(key, value)| {
                let mut stored = state.data.records.iter();
                !stored.any(|(other, found)| other.kind == key.kind && is_same(**key, found, value))
            })
            // The call that is being made removes or replaces them.
            .filter(|(key, _)| !self.changing.contains(key))
            .map(|(key, value)| (*key, message_of(*key, value)))
            .collect();
        for (key, message) in missing {
            let copies = message.and_then(|message| state.ledger.get(message));
            if copies.is_some_and(|message| message.copies > 0) {
                continue;
            }
            if self.lost_seen < self.before.lost_records && self.settings.cache_limit < UNLIMITED {
                self.lost_seen += 1;
                self.excuse_lost(&mut state, key);
            } else {
                state.violate("nothing_lost", || {
                    format!(
                        "{key} is not in the store after the outage, and was not counted as lost"
                    )
                });
            }
        }
        let outstanding: Vec<u32> = state.ledger.outstanding().iter().copied().collect();
        for message in outstanding {
            let is_missing = state.ledger.get(message).is_some_and(|message| {
                message.copies == 0 && state.is_listed_since(message.lost_at)
            });
            // Its key was listed, and what was under it went away before it was compared.
            let is_lost_since = self.live.iter().any(|(key, value)| {
                !state.is_listed_since(state.lost_at(*key))
                    && message_of(*key, value) == Some(message)
            });
            if !is_missing || is_lost_since {
                continue;
            }
            // Of a command that Paho has forgotten no record is live.
            if self.lost_seen < self.before.lost_records && self.settings.cache_limit < UNLIMITED {
                self.lost_seen += 1;
                state
                    .ledger
                    .excuse_loss(message, exceptions::COUNTED_AS_LOST);
            } else {
                state.violate("nothing_lost", || {
                    format!(
                        "m{message} is in no record after the outage, and was not counted as lost"
                    )
                });
            }
        }
        if !is_all_listed {
            return;
        }
        let held = state.data.records.iter();
        let is_dirty = self.live.iter().any(|(key, value)| {
            message_of(*key, value).is_none() && !has_value(&state.data.records, *key, value)
        }) || held
            .filter(|(key, value)| message_of(**key, value).is_some())
            .any(|(key, value)| !has_value(&self.live, *key, value));
        state.is_dirty = is_dirty;
    }

    /// Checks that an accepted message is in the store as soon as `put` has returned.
    pub fn check_durable(&mut self, message: u32) -> Result<(), Stop> {
        let is_confirmed = self.settings.durability != Durability::Pipelined;
        if is_confirmed && Self::is_safe(&self.before) {
            let mut state = self.world.lock();
            if state
                .ledger
                .get(message)
                .is_some_and(|message| message.copies == 0)
            {
                state.violate("nothing_lost", || {
                    format!("m{message} was accepted, and is not in the store, which is up")
                });
            }
        }
        self.result()
    }

    /// Checks everything that is too slow to check at each step.
    pub fn check_all(&mut self) -> Result<(), Stop> {
        let Some(process) = &self.process else {
            return self.result();
        };
        let mut state = self.world.lock();
        state.read_unread();
        let is_confirmed = self.before.unconfirmed_records == 0
            || self.settings.durability != Durability::Pipelined;
        if Self::is_safe(&self.before)
            && is_confirmed
            && state.is_all_listed()
            && !state.is_dirty
            && state.now() >= state.stalled_until
        {
            let missing = state.ledger.outstanding().iter().find(|message| {
                let message = state.ledger.get(**message);
                message.is_some_and(|message| message.copies == 0)
            });
            if let Some(message) = missing.copied() {
                state.violate("nothing_lost", || {
                    format!("m{message} is in no record, and the store is up")
                });
            }
        }
        // A record of the other version that a put replaces is counted until the next start. Of a loss this model learns with
        // its event, and the gauges at once.
        let has_one_version = !self.mixes_versions
            && process.events.lost.load(Ordering::Relaxed)
                == process.health.snapshot().lost_records;
        if let Some(measured) = process.measured.as_ref().filter(|_| has_one_version) {
            let expected = self.gauges();
            let found = gauges_of(&measured.registry);
            if found != expected {
                state.violate("gauges_are_true", || {
                    format!("the gauges have {found:?}, and the records are {expected:?}")
                });
            }
        }
        drop(state);
        self.result()
    }

    /// Checks that each message that was accepted or restored is somewhere, by the counters and gauges.
    pub fn check_account(&self) {
        let Some(measured) = self
            .process
            .as_ref()
            .and_then(|process| process.measured.as_ref())
        else {
            return;
        };
        let mut families = simulation::message_families(&measured.metrics);
        families.retain(|family| !family.get_metric().is_empty());
        let text = TextEncoder::new().encode_to_string(&families);
        let Some(account) = accounts_in(&text.expect("a text")).remove(CLIENT) else {
            return;
        };
        let restored = account.restored - self.read_subscriptions;
        let account = Account {
            restored,
            ..account
        };
        if !account.is_balanced() {
            let mut state = self.world.lock();
            state.violate("conserved", || {
                format!("the messages do not add up: {account:?}")
            });
        }
    }

    /// Number and bytes of the live records, by kind.
    fn gauges(&self) -> BTreeMap<String, (i64, i64)> {
        let mut gauges = BTreeMap::new();
        for kind in Kind::ALL {
            gauges.insert(kind.label().to_owned(), (0, 0));
        }
        for (key, value) in &self.live {
            let gauge = gauges.entry(key.kind.label().to_owned()).or_default();
            gauge.0 += 1;
            gauge.1 += i64::try_from(value.len()).unwrap_or(i64::MAX);
        }
        gauges
    }

    /// Checks that small records are written although a large one is refused.
    ///
    /// `refused_since` is when nothing else began to fail.
    pub fn check_small_records(&mut self, accepted: &BTreeMap<u32, Duration>) -> Result<(), Stop> {
        let mut state = self.world.lock();
        let now = state.now();
        let Some(refusal) = state.refusal() else {
            return Ok(());
        };
        let Some(above) = refusal.above else {
            return Ok(());
        };
        let reachable = state
            .in_use_until
            .max(state.loading_until)
            .max(state.down_until)
            .max(state.stalled_until);
        let since = refusal.since.max(reachable).max(state.disturbed_at);
        // Nothing is put before a record that is in the way is in the quarantine.
        let mut large = state
            .data
            .records
            .iter()
            .filter(|(_, value)| value.len() > above);
        if large.any(|(key, value)| !has_value(&self.live, *key, value)) {
            return Ok(());
        }
        // A message on which the connection broke three times is set aside, whatever the reason was.
        if self.before.up && self.before.held_records > 0 && refusal.hangs_up {
            return Ok(());
        }
        let patience = if refusal.hangs_up {
            PATIENCE_WITH_BREAKS
        } else {
            PATIENCE
        };
        if now < since + patience || !state.is_all_listed() || state.blow.is_some() {
            return Ok(());
        }
        let late = accepted.iter().find(|(number, at)| {
            let message = state.ledger.get(**number);
            now >= (**at).max(since) + patience
                && state.ledger.is_outstanding(**number)
                && message.is_some_and(|message| {
                    message.copies == 0 && (message.size as usize) + 64 < state.smallest_refused
                })
        });
        if let Some((number, _)) = late {
            let number = *number;
            state.violate("one_large_record_is_alone", || {
                format!("m{number} is small and not written while only values above {above} B are refused")
            });
        }
        drop(state);
        self.result()
    }

    /// Checks after a close that everything was written.
    pub fn check_closed(&mut self) -> Result<(), Stop> {
        let mut state = self.world.lock();
        state.read_unread();
        if state.is_dirty || !state.is_all_listed() {
            return Ok(());
        }
        drop(state);
        self.check_settled("after a close that returned Ok")
    }

    /// Checks after an opening that no two messages have one packet id.
    pub fn check_packet_ids(&mut self) -> Result<(), Stop> {
        self.clashing.clear();
        let mut users: BTreeMap<u16, (Key, Option<u32>)> = BTreeMap::new();
        let mut clashes = Vec::new();
        for (key, value) in &self.live {
            let id = match key.kind {
                Kind::SentPublish => u16::try_from(key.number).ok(),
                Kind::Command => token(value).filter(|id| *id > 0),
                _ => None,
            };
            // The persistence may have given an unread command another packet id.
            let Some(id) = id.filter(|_| !self.unread.contains(key)) else {
                continue;
            };
            let message = message_of(*key, value);
            let user = (*key, message);
            let Some(other) = users.insert(id, user) else {
                continue;
            };
            // Of both versions there may be one each, of which Paho sends the one that it was created for.
            let is_pair = other.0.kind == Kind::SentPublish
                && key.kind == Kind::SentPublish
                && (message == other.1 || self.mixes_versions);
            if is_pair && message != other.1 {
                self.clashing.insert(id);
            }
            if !is_pair {
                clashes.push((id, other, user));
            }
        }
        self.clashing.extend(clashes.iter().map(|(id, ..)| *id));
        let mut state = self.world.lock();
        for (id, first, second) in clashes {
            let messages = [first.1, second.1];
            let is_forgotten = [first.0, second.0].iter().any(|key| {
                let value = self.live.get(key);
                value.is_some_and(|value| self.forgotten.contains(&fingerprint(*key, value)))
            });
            let reason = if is_forgotten {
                "packet_id_of_forgotten"
            } else {
                clash_reason(&state.ledger, messages)
            };
            // Known from here on: what follows from it is not reported again.
            if reason != "unique_packet_ids" {
                for message in messages.into_iter().flatten() {
                    state
                        .ledger
                        .excuse_all(message, exceptions::PACKET_ID_OF_LOST);
                }
            }
            state.violate(reason, || {
                let same = if first.1 == second.1 {
                    ", and are one message"
                } else {
                    ""
                };
                let (first, second) = (first.0, second.0);
                format!("{first} and {second} both have the packet id {id} after an opening{same}")
            });
        }
        drop(state);
        self.result()
    }

    /// Checks that the store has the live records and nothing else.
    pub fn check_settled(&mut self, context: &str) -> Result<(), Stop> {
        let keys: Vec<Key> = {
            let mut state = self.world.lock();
            state.read_unread();
            state.data.records.keys().copied().collect()
        };
        self.find_relocated(&keys);
        let mut state = self.world.lock();
        // A closed persistence counts nothing.
        if let Some(process) = &self.process
            && self.before.up
        {
            let (reported, counted) = (
                process.events.lost.load(Ordering::Relaxed),
                self.before.lost_records,
            );
            if reported != counted {
                state.violate("events_are_true", || {
                    format!("events reported {reported} lost records, and the health has {counted}")
                });
            }
            let dropped = process.events.dropped.load(Ordering::Relaxed);
            let lost = process.events.set_aside_lost.load(Ordering::Relaxed);
            let kept = state.set_aside.intersection(&state.data.discarded).count() as u64;
            if kept > dropped || dropped > kept + lost {
                state.violate("dropped_are_set_aside", || {
                    format!("Paho dropped {dropped} records, of which the store has {kept}, and {lost} are reported as lost")
                });
            }
        }
        let differing = self
            .live
            .iter()
            .find(|(key, value)| !has_value(&state.data.records, **key, value))
            .map(|(key, value)| (*key, Some(Arc::clone(value))));
        if let Some((key, _)) = differing {
            let found = state.data.records.contains_key(&key);
            state.violate("no_stuck", || {
                let found = if found {
                    "has another value"
                } else {
                    "lacks it"
                };
                format!("{key} is live, and the store {found} {context}")
            });
        }
        let extra = state
            .data
            .records
            .iter()
            .find(|(key, value)| {
                !self.live.contains_key(key)
                    && !state.has_kept(**key)
                    && !state.unquarantined.contains(key)
                    && is_readable(**key, value)
            })
            .map(|(key, _)| *key);
        if let Some(key) = extra {
            state.violate("no_stuck", || {
                format!("the store still has {key}, which was removed, {context}")
            });
        }
        drop(state);
        self.result()
    }
}

/// The name of the invariant that two messages with one packet id break.
pub fn clash_reason(ledger: &Ledger, messages: [Option<u32>; 2]) -> &'static str {
    let any = |is_it: fn(&Message) -> bool| {
        let messages = messages.into_iter().flatten();
        let mut messages = messages.filter_map(|message| ledger.get(message));
        messages.any(is_it)
    };
    if any(|message| message.disorder == Some(exceptions::FORGOTTEN)) {
        "packet_id_of_forgotten"
    } else if any(|message| message.is_foreign || message.duplicate == Some(exceptions::OLDER_DATA))
    {
        "packet_id_of_foreign"
    } else {
        "unique_packet_ids"
    }
}

/// The gauges of the backlog in a registry, by kind.
fn gauges_of(registry: &paho_mqtt_redis::prometheus::Registry) -> BTreeMap<String, (i64, i64)> {
    let mut gauges: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for family in registry.gather() {
        let is_bytes = match family.name() {
            "mqtt_persistence_records" => false,
            "mqtt_persistence_record_bytes" => true,
            _ => continue,
        };
        for metric in family.get_metric() {
            let label = metric
                .get_label()
                .iter()
                .find(|label| label.name() == "kind");
            let Some(kind) = label.map(|label| label.value().to_owned()) else {
                continue;
            };
            if kind == "other" {
                continue;
            }
            #[allow(clippy::cast_possible_truncation)]
            let value = metric.get_gauge().get_value() as i64;
            let gauge = gauges.entry(kind).or_default();
            if is_bytes {
                gauge.1 = value;
            } else {
                gauge.0 = value;
            }
        }
    }
    gauges
}
