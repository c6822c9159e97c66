//! The faults, as the steps of a seed make them happen.

use std::{collections::BTreeMap, time::Duration};

use paho_mqtt_redis::ErrorKind;

use super::{
    clock::Acted,
    driver::{Choice, Simulation},
    process::{Process, Stop, at},
    profile::Fault,
    values::{Key, Kind, Publish, Topic, Value, command, packet, payload, pubrel},
    world::{Blow, Fate, Refusal, Snapshot, State},
};

impl Simulation {
    /// Makes one of the faults of this seed happen.
    pub(super) fn inject(&mut self, choice: &mut Choice) -> Result<(), Stop> {
        if self.profile.faults.is_empty() {
            return Ok(());
        }
        self.totals.faults += 1;
        let fault = choice.pick(&self.profile.faults);
        self.note(&format!("world: {}", fault.name()));
        let now = self.clock.now();
        let until = now + choice.duration(10, 11);
        match fault {
            Fault::Refuse => {
                let kind = choice.pick(&[
                    ErrorKind::OutOfMemory,
                    ErrorKind::OutOfMemory,
                    ErrorKind::Misconf,
                    ErrorKind::ReadOnly,
                    ErrorKind::Busy,
                ]);
                self.refuse(kind, None, false, until);
            }
            Fault::Large => {
                let above = choice.pick(&[100, 1000, 2000]);
                let until = now + choice.duration(2000, 5);
                let hangs_up = choice.below(4) == 0;
                self.refuse(ErrorKind::OutOfMemory, Some(above), hangs_up, until);
            }
            Fault::Connection => {
                let blow = match choice.below(3) {
                    0 => Blow::LostAfter,
                    _ => Blow::LostBefore(choice.pick(&[0, 50, 100])),
                };
                self.strike(choice, blow);
            }
            Fault::Stall => {
                if choice.below(2) == 0 {
                    let fate = choice.pick(&[Fate::Before, Fate::Later, Fate::Never]);
                    self.strike(choice, Blow::Stall(fate));
                } else {
                    self.world.lock().stalled_until = until;
                }
            }
            Fault::Panic => {
                let blow = choice.pick(&[Blow::PanicBefore, Blow::PanicAfter]);
                self.strike(choice, blow);
            }
            Fault::Down => {
                let mut state = self.world.lock();
                state.down_until = until;
                state.break_connections(choice.pick(&[0, 50, 100]));
            }
            Fault::InUse => {
                let mut state = self.world.lock();
                state.in_use_until = until;
                state.break_connections(choice.pick(&[0, 100]));
            }
            Fault::Loading
            | Fault::Restart
            | Fault::Empty
            | Fault::Snapshot
            | Fault::Other
            | Fault::Failover
            | Fault::Evict => self.replace_data(fault, choice, until),
            Fault::Foreign => self.add_foreign(choice),
            Fault::Clock => {
                let seconds = choice.pick(&[-86_400, -60, -1, 1, 60, 86_400]);
                self.clock.step_wall_clock(seconds * 1_000_000_000);
            }
            Fault::Suspend => self.clock.advance(choice.duration(1000, 12)),
            Fault::Crash => {
                if self.machine.process.is_some() {
                    if choice.below(2) == 0 {
                        let share = choice.pick(&[0, 50, 100]);
                        self.strike(choice, Blow::Die(share));
                    } else {
                        self.bury()?;
                    }
                }
            }
            Fault::CrashBoth => {
                if self.machine.process.is_some() {
                    self.world.lock().restart(choice.pick(&[0, 50, 100]));
                    self.bury()?;
                }
            }
            Fault::PowerCut => {
                if self.machine.process.is_some() {
                    self.world.lock().cut_power();
                    self.bury()?;
                }
            }
            Fault::PrimaryLost => {
                if self.machine.process.is_some() {
                    self.world.lock().lose_primary();
                    self.bury()?;
                }
            }
            Fault::Close => {
                if self.paho.is_some() {
                    self.end_program()?;
                }
            }
            Fault::Sleeper => self.sleep_or_wake(choice)?,
            Fault::Session => {
                let mut state = self.world.lock();
                self.broker.lose_session(&mut state);
                drop(state);
                self.break_network(choice)?;
            }
            Fault::Network => self.break_network(choice)?,
        }
        if fault != Fault::Large {
            self.world.lock().disturbed_at = self.clock.now();
        }
        Ok(())
    }

    /// Restarts the store, or replaces its data in another way.
    fn replace_data(&mut self, fault: Fault, choice: &mut Choice, until: Duration) {
        match fault {
            Fault::Loading => {
                let data = self.current_data();
                self.restart(choice, data);
                self.world.lock().loading_until = until;
            }
            Fault::Restart => {
                let data = self.current_data();
                self.restart(choice, data);
            }
            Fault::Empty => self.restart(choice, Snapshot::default()),
            Fault::Snapshot => {
                let data = self.snapshot(choice);
                self.restart(choice, data);
            }
            Fault::Other => {
                let data = self.other_data(choice);
                self.restart(choice, data);
            }
            Fault::Failover => {
                let older = self.snapshot(choice);
                let world = self.world.clone();
                let mut state = world.lock();
                // One that confirmations wait for lacks nothing that was confirmed.
                let data = state.waited_replica().unwrap_or(older);
                state.fail_over();
                self.load(&mut state, data);
            }
            Fault::Evict => {
                let world = self.world.clone();
                let mut state = world.lock();
                state.read_unread();
                // What is set aside has keys of its own.
                let data = Snapshot {
                    records: BTreeMap::new(),
                    fields: BTreeMap::new(),
                    ..state.data.clone()
                };
                self.load(&mut state, data);
            }
            _ => {}
        }
    }

    fn refuse(&mut self, kind: ErrorKind, above: Option<usize>, hangs_up: bool, until: Duration) {
        let since = self.clock.now();
        let mut state = self.world.lock();
        // What was sent before is read before.
        state.read_unread();
        state.smallest_refused = above.map_or(state.smallest_refused, |above| {
            above.min(state.smallest_refused)
        });
        state.refusal = Some(Refusal {
            kind,
            above,
            hangs_up,
            since,
            until,
        });
        state.note(|| {
            format!(
                "  {kind}, above {above:?}, hangs up: {hangs_up}, until {}",
                at(until)
            )
        });
    }

    pub(super) fn strike(&mut self, choice: &mut Choice, blow: Blow) {
        let others = choice.pick(&[0, 0, 1, 2, 3, 5, 8]);
        let mut state = self.world.lock();
        state.note(|| format!("  {blow:?} after {others} operations"));
        state.blow = Some((others, blow));
    }

    fn current_data(&self) -> Snapshot {
        self.world.lock().data.clone()
    }

    fn snapshot(&mut self, choice: &mut Choice) -> Snapshot {
        if self.snapshots.is_empty() {
            self.current_data()
        } else {
            let chosen = choice.below(self.snapshots.len());
            self.snapshots[chosen].clone()
        }
    }

    /// Restarts the store with these data, or with what it has if they are what it had.
    fn restart(&mut self, choice: &mut Choice, data: Snapshot) {
        let share = choice.pick(&[0, 50, 100]);
        let pause = choice.pick(&[Duration::ZERO, Duration::from_millis(500)]);
        let world = self.world.clone();
        let mut state = world.lock();
        let is_current = data.records == state.data.records;
        state.restart(share);
        if !is_current {
            self.load(&mut state, data);
        }
        let now = state.now();
        state.down_until = state.down_until.max(now + pause);
    }

    /// Replaces the data of the store.
    fn load(&mut self, state: &mut State, data: Snapshot) {
        let is_running = self.machine.process.is_some();
        state.load(data, is_running);
        if !is_running {
            self.broker.forget_lost(&state.data.records);
        }
    }

    /// Records of another program, some of them under keys that the program uses.
    fn other_data(&mut self, choice: &mut Choice) -> Snapshot {
        let mut data = match choice.below(3) {
            0 => Snapshot::default(),
            1 => self.snapshot(choice),
            _ => self.current_data(),
        };
        for _ in 0..=choice.below(6) {
            let (key, value) = self.foreign_record(choice);
            data.records.insert(key, value);
        }
        data
    }

    fn foreign_record(&mut self, choice: &mut Choice) -> (Key, Value) {
        let v5 = self.profile.options.versions.created_v5;
        let live: Vec<Key> = self.machine.live.keys().copied().collect();
        let kind = choice.pick(&[
            Kind::Command,
            Kind::Command,
            Kind::SentPublish,
            Kind::SentPubrel,
            Kind::ReceivedPublish,
        ]);
        let number = u32::try_from(1 + choice.below(40)).unwrap_or(1);
        let mut key = Key::new(kind, v5, number);
        if choice.below(2) == 0 && !live.is_empty() {
            key = choice.pick(&live);
            if key.kind == Kind::Undelivered {
                key = Key::new(Kind::Command, key.v5, 1 + key.number % 1000);
            }
        }
        let mut state = self.world.lock();
        let message = state.ledger.add_foreign(2, 4);
        drop(state);
        self.foreign_number += 1;
        let publish = Publish {
            qos: 2,
            packet_id: u16::try_from(key.number).unwrap_or(7).max(1),
            topic: Topic::Own(message),
            payload: payload(message, 4),
        };
        let value = match key.kind {
            Kind::Command => command(key.v5, &publish),
            Kind::SentPubrel => pubrel(publish.packet_id).into(),
            Kind::SentPublish | Kind::ReceivedPublish | Kind::Undelivered => {
                let (header, body) = packet(key.v5, false, &publish);
                [header, body].concat().into()
            }
        };
        (key, value)
    }

    /// Adds fields that Paho does not write, or records that it cannot read.
    fn add_foreign(&mut self, choice: &mut Choice) {
        let number = u32::try_from(500 + choice.below(500)).unwrap_or(500);
        let v5 = choice.below(2) == 0;
        let mut state = self.world.lock();
        if self.machine.process.is_none() && choice.below(2) == 0 {
            let kind = choice.pick(&[Kind::Command, Kind::SentPublish, Kind::Undelivered]);
            let length = choice.below(3);
            let value = vec![b'x'; length];
            let key = Key::new(kind, v5, number);
            if !state.data.records.contains_key(&key) {
                state.plant(key, value.into());
            }
        } else {
            let field = choice.pick(&[&b"check"[..], b"config", b"\xff\xfe", b"x-1", b"c-01"]);
            let value: Value = b"of another program".to_vec().into();
            state.data.fields.insert(field.to_vec(), value);
        }
    }

    /// The program falls asleep and another one takes over, or the replaced one wakes up.
    fn sleep_or_wake(&mut self, choice: &mut Choice) -> Result<(), Stop> {
        if let Some(mut loser) = self.sleeper.take() {
            return self.wake(&mut loser, choice);
        }
        if self.paho.is_none() {
            return Ok(());
        }
        let Some(process) = self.machine.process.take() else {
            return Ok(());
        };
        {
            let mut state = self.world.lock();
            state.kill();
            state.loser = process.incarnation;
        }
        self.paho = None;
        self.disconnect(0);
        if std::mem::take(&mut self.machine.is_open) {
            self.machine.account_for_death(&mut self.broker);
        }
        self.sleeper = Some(process);
        self.machine.result()
    }

    /// Lets a replaced program make a few calls: none of them may hurt it, and none has an effect on the store.
    fn wake(&mut self, loser: &mut Process, choice: &mut Choice) -> Result<(), Stop> {
        let before = self.world.lock().data.clone();
        let publish = Publish {
            qos: 1,
            packet_id: 9,
            topic: Topic::Inbound(0),
            payload: Vec::new(),
        };
        let acts = std::panic::AssertUnwindSafe(|| {
            for _ in 0..choice.below(8) {
                match choice.below(4) {
                    0 => drop(
                        loser
                            .persistence
                            .put("c5-900", vec![&command(true, &publish)]),
                    ),
                    1 => drop(loser.persistence.keys()),
                    2 => drop(loser.persistence.get("c5-900")),
                    _ => {
                        if let Acted::Idle(due) = loser.clock.act() {
                            self.clock.advance_to(due);
                        }
                    }
                }
            }
        });
        let is_hurt = std::panic::catch_unwind(acts).is_err();
        loser.clock.die();
        let mut state = self.world.lock();
        if is_hurt {
            state.violate("paho_is_never_hurt", || {
                "a program that was replaced panics".to_owned()
            });
        }
        if before.records != state.data.records {
            state.violate("in_use", || {
                "a program that was replaced has changed the store".to_owned()
            });
        }
        drop(state);
        self.machine.result()
    }
}
