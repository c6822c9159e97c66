//! Paho's calls, with what each of them must answer and what it changes.

use std::sync::Arc;

use paho_mqtt_redis::{Error, ErrorKind};

use super::{
    process::{CLIENT, Limit, Machine, SERVER, Stop, UNLIMITED, is_readable, kind_of, show},
    values::{Key, Kind, Value, has_value, parse_command},
};

impl Machine {
    /// Opens the records, and returns whether that worked.
    pub fn open(&mut self) -> Result<bool, Stop> {
        let errors = self.world.lock().errors;
        let opened = self.call(
            Limit::Open,
            || "open".to_owned(),
            |opened| show(opened, |()| String::new()),
            |persistence| persistence.open(CLIENT, SERVER),
        )?;
        let mut state = self.world.lock();
        if let Err(error) = &opened {
            if state.errors == errors {
                let kind = kind_of(error);
                state.violate("open_succeeds", || format!("open fails: {kind}"));
            }
            drop(state);
            return self.result().map(|()| false);
        }
        state.read_unread();
        state.opened(|key, value| !is_readable(key, value));
        let readable = state.data.records.iter();
        let readable = readable.filter(|(key, value)| is_readable(**key, value));
        self.live = readable
            .map(|(key, value)| (*key, Arc::clone(value)))
            .collect();
        self.is_open = true;
        if let Some(v5) = self.named_v5
            && let Some(key) = self.live.keys().find(|key| key.v5 != v5)
        {
            state.violate("one_version", || format!("{key} was not converted"));
        }
        let subscriptions = self
            .live
            .keys()
            .filter(|key| key.kind == Kind::Command && !self.is_publish(**key));
        self.unread_subscriptions = subscriptions.copied().collect();
        self.read_subscriptions = 0;
        self.unread.clear();
        self.names.clear();
        self.relocated.clear();
        drop(state);
        let process = self.process.as_ref().expect("a running program");
        self.before = process.health.snapshot();
        self.observe()?;
        Ok(true)
    }

    /// Closes the records, and returns whether everything has been written.
    pub fn close(&mut self) -> Result<bool, Stop> {
        let closed = self.call(
            Limit::Close,
            || "close".to_owned(),
            |closed| show(closed, |()| String::new()),
            |persistence| persistence.close(),
        )?;
        Ok(closed.is_ok())
    }

    /// Lists the keys.
    pub fn keys(&mut self) -> Result<Vec<Key>, Stop> {
        self.pause()?;
        self.last_read = None;
        let keys = self.call(
            Limit::Call,
            || "keys".to_owned(),
            |keys| show(keys, |keys: &Vec<String>| keys.join(" ")),
            |persistence| persistence.keys(),
        )?;
        let keys = match keys {
            Ok(keys) => keys,
            Err(error) => return self.refused("keys", &error),
        };
        let parsed: Option<Vec<Key>> = keys.iter().map(|key| Key::parse(key.as_bytes())).collect();
        let Some(parsed) = parsed else {
            let mut state = self.world.lock();
            state.violate("keys_are_true", || format!("keys lists {keys:?}"));
            return Err(Stop::Violated);
        };
        Ok(parsed)
    }

    /// Lists the keys, and checks that they are those of the live records.
    pub fn live_keys(&mut self) -> Result<Vec<Key>, Stop> {
        let keys = self.keys()?;
        let mut sorted: Vec<Key> = keys.iter().map(|key| self.learn_name(*key)).collect();
        sorted.sort_unstable();
        self.find_relocated(&sorted);
        let missing: Vec<Key> = self
            .live
            .keys()
            .filter(|key| sorted.binary_search(key).is_err())
            .copied()
            .collect();
        for key in missing {
            self.account_for_loss(key);
        }
        if !sorted.iter().eq(self.live.keys()) {
            let extra = sorted.iter().find(|key| !self.live.contains_key(key));
            let missing = self.live.keys().find(|key| !sorted.contains(key));
            let shown = |key: Option<&Key>| key.map_or_else(|| "none".to_owned(), Key::to_string);
            let (extra, missing) = (shown(extra), shown(missing));
            let mut state = self.world.lock();
            state.violate("keys_are_true", || {
                format!("keys lists {extra} that is not there, and lacks {missing}")
            });
            return Err(Stop::Violated);
        }
        Ok(keys)
    }

    /// The key under which the store has a record of Paho.
    pub fn stored_key(&self, key: Key) -> Key {
        self.names.get(&key).copied().unwrap_or(key)
    }

    /// The stored key of a live record of Paho.
    pub fn live_key(&self, key: Key) -> Option<Key> {
        // What is stored under this key may have another name.
        let has_name = |stored: &Key| *stored == key;
        if !self.names.contains_key(&key) && self.names.values().any(has_name) {
            return None;
        }
        let stored = self.stored_key(key);
        self.live.contains_key(&stored).then_some(stored)
    }

    /// Asks under which key the store has a record of Paho.
    fn learn_name(&mut self, key: Key) -> Key {
        let process = self.process.as_ref().expect("a running program");
        let stored = process.clock.stored_key(&key.to_string());
        let stored = stored.and_then(|stored| Key::parse(stored.as_bytes()));
        let stored = stored.unwrap_or(key);
        if stored == key {
            self.names.remove(&key);
        } else {
            self.names.insert(key, stored);
        }
        stored
    }

    /// Finds the new numbers of relocated records among the keys.
    pub fn find_relocated(&mut self, keys: &[Key]) {
        if self.relocated.is_empty() {
            return;
        }
        let state = self.world.lock();
        for key in keys {
            if self.live.contains_key(key) {
                continue;
            }
            let stored = state.data.records.get(key);
            let is_it = |(kind, value): &(Kind, Value)| {
                *kind == key.kind && stored.is_none_or(|stored| stored == value)
            };
            if let Some(position) = self.relocated.iter().position(is_it) {
                let (_, value) = self.relocated.remove(position);
                self.live.insert(*key, value);
            }
        }
    }

    fn refused<T>(&mut self, call: &str, error: &paho_mqtt::Error) -> Result<T, Stop> {
        let kind = kind_of(error);
        let mut state = self.world.lock();
        state.violate("paho_is_never_hurt", || {
            format!("{call} returns an error: {kind}")
        });
        Err(Stop::Violated)
    }

    pub fn put(&mut self, key: Key, value: &Value) -> Result<(), Stop> {
        self.put_buffers(key, &[value], value)
    }

    /// Puts a value that Paho passes in several buffers.
    pub fn put_buffers(&mut self, key: Key, buffers: &[&[u8]], value: &Value) -> Result<(), Stop> {
        self.pause()?;
        // A PUBLISH or PUBREL that is put again replaces nothing in memory.
        let is_again = key.is_outbound() && has_value(&self.live, key, value);
        if !is_again {
            self.last_lengths.0 = value.len();
        }
        let name = key.to_string();
        self.changing = superseded_by(key);
        self.changing.push(key);
        self.world.lock().note_put(key, value);
        let put = self.call(
            Limit::Call,
            || format!("put {key} ({} B)", value.len()),
            |put| show(put, |()| String::new()),
            |persistence| persistence.put(&name, buffers.to_vec()),
        )?;
        if let Err(error) = put {
            let is_clash = u16::try_from(key.number).is_ok_and(|id| self.clashing.contains(&id));
            if kind_of(&error) == ErrorKind::Damaged && is_clash {
                return Ok(());
            }
            return self.refused(&format!("put {key}"), &error);
        }
        for replaced in superseded_by(key) {
            self.live.remove(&replaced);
        }
        self.changing.clear();
        let key = self.learn_name(key);
        let replaced = self.live.insert(key, Arc::clone(value));
        if self.unread.remove(&key) {
            self.relocated.extend(replaced.map(|old| (key.kind, old)));
        }
        Ok(())
    }

    /// Reads a record, and checks that the value is the one that was put.
    pub fn get(&mut self, key: Key) -> Result<Result<Value, ErrorKind>, Stop> {
        self.pause()?;
        let name = key.to_string();
        let stored = self.stored_key(key);
        let got = self.call(
            Limit::Call,
            || format!("get {key}"),
            |got| show(got, |value: &Vec<u8>| format!("{} B", value.len())),
            |persistence| persistence.get(&name),
        )?;
        if got
            .as_ref()
            .is_err_and(|error| kind_of(error) == ErrorKind::NotFound)
        {
            self.account_for_loss(stored);
        }
        let expected = self.live.get(&stored).map(Arc::clone);
        match got {
            Ok(value) => {
                self.last_lengths.1 = value.len();
                if !has_value(&self.live, stored, &value) {
                    let mut state = self.world.lock();
                    state.violate("values_are_true", || match &expected {
                        Some(_) => format!("get {key} returns another value than was put"),
                        None => format!("get {key} returns a value of a record that was removed"),
                    });
                    return Err(Stop::Violated);
                }
                if key.kind == Kind::Command {
                    self.last_read = Some(key);
                }
                self.unread.remove(&stored);
                let is_subscription = self.unread_subscriptions.remove(&stored);
                self.read_subscriptions += i64::from(is_subscription);
                let value = Value::from(value);
                // The persistence may have given a command another packet id.
                self.live.insert(stored, Arc::clone(&value));
                Ok(Ok(value))
            }
            Err(error) => {
                let kind = kind_of(&error);
                self.check_get_error(key, expected.is_some(), kind)?;
                if kind == ErrorKind::Lost {
                    self.account_for_loss(stored);
                }
                Ok(Err(kind))
            }
        }
    }

    /// Notes that a record is gone which the store has lost and the persistence has counted as lost.
    pub fn account_for_loss(&mut self, key: Key) {
        let process = self.process.as_ref().expect("a running program");
        let counted = process.health.snapshot().lost_records;
        let Some(value) = self.live.get(&key) else {
            return;
        };
        let world = self.world.clone();
        let mut state = world.lock();
        let is_stored = has_value(&state.data.records, key, value);
        let is_cached = self.settings.cache_limit >= UNLIMITED;
        if self.lost_seen >= counted || is_stored || is_cached {
            return;
        }
        self.lost_seen += 1;
        self.excuse_lost(&mut state, key);
    }

    /// Checks that `get` may fail with this error.
    fn check_get_error(&mut self, key: Key, is_live: bool, kind: ErrorKind) -> Result<(), Stop> {
        let mut state = self.world.lock();
        let has_all_in_memory = self.settings.cache_limit >= UNLIMITED;
        let is_allowed = match kind {
            ErrorKind::NotFound => !is_live,
            // The call may have waited while the record was found lost.
            _ => !has_all_in_memory,
        };
        if !is_allowed {
            state.violate("values_are_true", || {
                let live = if is_live { "live" } else { "removed" };
                format!("get {key} fails with {kind}, and the record is {live}")
            });
            return Err(Stop::Violated);
        }
        Ok(())
    }

    /// Removes a record. Whether it was there does not matter.
    pub fn remove(&mut self, key: Key) -> Result<(), Stop> {
        self.pause()?;
        // Before the call: the persistence may write at once.
        let removed = self.resolve_removed(key);
        self.changing.clone_from(&removed);
        let name = key.to_string();
        let result = self.call(
            Limit::Call,
            || format!("remove {key}"),
            |removed| show(removed, |()| String::new()),
            |persistence| persistence.remove(&name),
        )?;
        if let Err(error) = result {
            return self.refused(&format!("remove {key}"), &error);
        }
        for key in removed {
            self.live.remove(&key);
            self.names.retain(|_, stored| *stored != key);
        }
        self.changing.clear();
        Ok(())
    }

    /// The live records that a remove of this key removes.
    fn resolve_removed(&mut self, key: Key) -> Vec<Key> {
        let mut removed = key;
        let is_last_read = |read: &Key| key.kind == Kind::Command && read.number == key.number;
        let read = self.last_read.take_if(|read| is_last_read(read));
        let is_zero = key.kind == Kind::Command && key.number == 0;
        if is_zero && read.is_none() {
            self.has_session = false;
        }
        if let Some(read) = read {
            removed = read;
        }
        let other = removed.other_version();
        if key.is_queue_record()
            && !is_zero
            && self.live_key(removed).is_none()
            && self.live_key(other).is_some()
        {
            removed = other;
        }
        let Some(removed) = self.live_key(removed) else {
            return Vec::new();
        };
        // Paho removes this key at each connect, and means no record.
        if is_zero && read.is_none() && self.is_publish(removed) {
            return Vec::new();
        }
        let mut all = vec![removed];
        if removed.kind == Kind::SentPubrel {
            let publish = removed.with_kind(Kind::SentPublish);
            let both = [publish, publish.other_version()];
            all.extend(both.iter().filter(|key| self.live.contains_key(key)));
        }
        all
    }

    fn is_publish(&self, key: Key) -> bool {
        let value = self.live.get(&key);
        value.is_some_and(|value| parse_command(value).is_some())
    }

    /// Removes a record of the session before Paho has tried to connect, which must have no effect.
    pub fn remove_protected(&mut self, key: Key) -> Result<(), Stop> {
        self.pause()?;
        let publish = key.with_kind(Kind::SentPublish);
        let has_publish = [publish, publish.other_version()]
            .iter()
            .any(|key| self.live.contains_key(key));
        if key.kind == Kind::SentPubrel && !has_publish {
            return self.remove(key);
        }
        let name = key.to_string();
        let removed = self.call(
            Limit::Call,
            || format!("remove {key} (of a client that was never connected)"),
            |removed| show(removed, |()| String::new()),
            |persistence| persistence.remove(&name),
        )?;
        match removed {
            Ok(()) => Ok(()),
            Err(error) => self.refused(&format!("remove {key}"), &error),
        }
    }

    /// Asks whether a record is there, as Paho C hears the answer.
    pub fn contains(&mut self, key: Key) -> Result<bool, Stop> {
        self.pause()?;
        let name = key.to_string();
        let answer = self.call(
            Limit::Call,
            || format!("contains_key {key}"),
            |answer| format!("{answer}"),
            |persistence| persistence.contains_key(&name),
        )?;
        // C takes 0 for 'there', and gets 1 for `true`.
        let is_heard = !answer;
        let in_other = key.is_outbound() && self.live.contains_key(&key.other_version());
        let is_there = in_other || self.live.contains_key(&key);
        if is_heard != is_there {
            let mut state = self.world.lock();
            state.violate("keys_are_true", || {
                format!("Paho hears that {key} is there: {is_heard}, and it is there: {is_there}")
            });
            return Err(Stop::Violated);
        }
        Ok(is_heard)
    }

    /// Waits until everything is written, as a program does before it reboots the machine.
    pub fn flush(&mut self) -> Result<(), Stop> {
        let process = self.process.as_ref().expect("a running program");
        let (health, clock) = (process.health.clone(), Arc::clone(&process.clock));
        let timeout = self.settings.call_timeout;
        let flushed = self.call(
            Limit::Flush,
            || "flush".to_owned(),
            |flushed: &Result<(), Error>| match flushed {
                Ok(()) => "Ok".to_owned(),
                Err(error) => error.kind().to_string(),
            },
            |_| health.flush(timeout).map(drop),
        )?;
        if flushed.is_ok() && clock.memory().1 > 0 {
            let mut state = self.world.lock();
            state.violate("flush_is_true", || {
                "flush returns Ok, and puts are pending".to_owned()
            });
            return Err(Stop::Violated);
        }
        Ok(())
    }
}

/// Records that a put of this one replaces: of the other version, and leftovers of its packet id.
fn superseded_by(key: Key) -> Vec<Key> {
    let other = key.other_version();
    match key.kind {
        Kind::SentPublish => vec![
            other,
            key.with_kind(Kind::SentPubrel),
            other.with_kind(Kind::SentPubrel),
        ],
        Kind::SentPubrel | Kind::ReceivedPublish => vec![other],
        Kind::Command | Kind::Undelivered => Vec::new(),
    }
}
