//! The simulated store of one incarnation of the program: each operation meets the faults of the world.

use std::{
    panic::panic_any,
    sync::{Arc, atomic::Ordering},
};

use paho_mqtt_redis::{Change, Connected, Error, ErrorKind, Group, Place, Sent, Store};

use super::{
    clock::ProcessClock,
    values::{Key, Value},
    world::{Blow, Fate, OwnedGroup, Refusal, SimulatedPanic, State, World, Write, show_group},
};

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
    /// Creates the store of a new incarnation of the program.
    pub fn new(world: &World, clock: &Arc<ProcessClock>) -> Self {
        Self {
            world: world.clone(),
            clock: Arc::clone(clock),
            incarnation: world.begin_incarnation(),
            name: None,
            epoch: None,
        }
    }

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
        state.back_up_if_due();
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
        if blow.is_some() {
            state.disturbed_at = state.now();
        }
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
        state.back_up_before_reply(operation == "confirm");
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
            let mut connected = Connected::default();
            connected.write_error = is_full.then(|| Error::new(ErrorKind::OutOfMemory, "write"));
            connected.instance_id = state.identity();
            Ok(connected)
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

    /// What is in the quarantine has no names here.
    fn set_aside_names(&mut self, place: Place) -> Result<Vec<Vec<u8>>, Error> {
        self.operate("names", Vec::new(), true, |state, _| match place {
            Place::Discarded => {
                let names = state.data.discarded.iter();
                Ok(names.map(|name| name.clone().into_bytes()).collect())
            }
            _ => Ok(Vec::new()),
        })
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
    let name = match change {
        Change::Put { key, .. } | Change::Remove { key } => *key,
        // Time, reason and length come before the key.
        Change::SetAside { name, .. } | Change::RemoveSetAside { name, .. } => {
            name.split(':').nth(3).unwrap_or(name)
        }
        unknown => panic!("{unknown:?}"),
    };
    let Some(parsed) = Key::parse(name.as_bytes()) else {
        return Write::Stray(name.to_owned());
    };
    match change {
        Change::Put { value, .. } => Write::Put(parsed, Value::from(*value)),
        Change::Remove { .. } => Write::Remove(parsed),
        Change::SetAside {
            place,
            name: set_aside,
            value,
        } => match place {
            Place::Quarantine => Write::Quarantine(parsed, Value::from(*value)),
            Place::Discarded => Write::Discard {
                name: (*set_aside).to_owned(),
                key: parsed,
                value: Value::from(*value),
            },
            unknown => panic!("{unknown:?}"),
        },
        Change::RemoveSetAside { name, .. } => Write::RemoveSetAside {
            name: (*name).to_owned(),
            key: parsed,
        },
        unknown => panic!("{unknown:?}"),
    }
}
