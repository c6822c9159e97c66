//! Runs one seed: each step follows from one number, so that a list of numbers repeats a run.

use std::{collections::BTreeMap, time::Duration};

use paho_mqtt_redis::ErrorKind;

use crate::random::Random;

use super::{
    broker::Broker,
    clock::{Acted, VirtualClock},
    exceptions,
    invariants::{FULL_CHECK, Violation},
    paho::Paho,
    process::{Machine, Process, Stop, at},
    profile::{Action, Fault, Profile},
    values::{Key, Kind, Publish, Topic, Value, command, message_of, packet, payload, pubrel},
    world::{Blow, Fate, Refusal, Snapshot, State, World},
};

/// Counters of a run, to see that it did something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub steps: u64,
    pub calls: u64,
    pub operations: u64,
    pub messages: u64,
    pub deliveries: u64,
    pub excused: u64,
    pub starts: u64,
    pub faults: u64,
    pub virtual_time: Duration,
}

impl Totals {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.calls += other.calls;
        self.operations += other.operations;
        self.messages += other.messages;
        self.deliveries += other.deliveries;
        self.excused += other.excused;
        self.starts += other.starts;
        self.faults += other.faults;
        self.virtual_time += other.virtual_time;
    }
}

/// Result of a run.
pub struct Outcome {
    pub violation: Option<Violation>,
    /// The steps that were made, each as its number.
    pub steps: Vec<u32>,
    pub totals: Totals,
    pub trace: Vec<String>,
}

/// One simulation.
pub struct Simulation {
    profile: Profile,
    clock: std::sync::Arc<VirtualClock>,
    world: World,
    machine: Machine,
    broker: Broker,
    paho: Option<Paho>,
    /// A program that another one has replaced while it slept.
    sleeper: Option<Process>,
    snapshots: Vec<Snapshot>,
    /// The time at which each message was accepted that is not delivered.
    accepted: BTreeMap<u32, Duration>,
    /// The broker cannot be reached before this time.
    unreachable_until: Duration,
    foreign_number: u32,
    totals: Totals,
}

/// Numbers that follow from the number of a step.
struct Choice(Random);

impl Choice {
    fn of(number: u32) -> Self {
        let mut random = Random::of(u64::from(number) << 1 | 1);
        random.draw();
        random.draw();
        Self(random)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0.below(end)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        self.0.pick(from)
    }

    /// Mostly short, sometimes long.
    fn duration(&mut self, shortest: u64, doublings: usize) -> Duration {
        let exponent = self.below(doublings);
        let milliseconds = shortest << exponent;
        Duration::from_millis(
            milliseconds + self.below(usize::try_from(milliseconds).unwrap_or(1)) as u64,
        )
    }
}

/// Virtual time in which everything must be written once all faults have ended.
const SETTLES_IN: Duration = Duration::from_secs(20);
/// The longest wait of the persistence between two attempts to write what the store refuses.
const RETRIES_IN: Duration = Duration::from_secs(11 * 60);

/// Runs a seed for this many steps, or until an invariant does not hold.
pub fn run(seed: u64, profile: &Profile, steps: usize) -> Outcome {
    let mut random = Random::of(seed);
    for _ in 0..4 {
        random.draw();
    }
    let numbers = std::iter::repeat_with(|| u32::try_from(random.draw() >> 32).unwrap_or_default());
    Simulation::new(profile).run(numbers.take(steps), false)
}

/// Repeats these steps, and returns the story too if it is wanted.
pub fn replay(profile: &Profile, steps: &[u32], tells: bool) -> Outcome {
    Simulation::new(profile).run(steps.iter().copied(), tells)
}

impl Simulation {
    fn new(profile: &Profile) -> Self {
        let clock = std::sync::Arc::<VirtualClock>::default();
        // A monotonic clock does not begin at 0.
        clock.advance(Duration::from_secs(100));
        let world = World::new(&clock, profile.identity, profile.settings.call_timeout);
        {
            let mut state = world.lock();
            state.sabotage = profile.settings.sabotage;
            state.ignored.clone_from(&profile.ignored);
        }
        let mut broker = Broker::default();
        broker.versions_differ = profile.changes_versions;
        let mut machine = Machine::new(&world, profile.settings);
        machine.mixes_versions =
            profile.changes_versions || profile.options.created_v5 != profile.options.connects_v5;
        Self {
            machine,
            profile: profile.clone(),
            clock,
            world,
            broker,
            paho: None,
            sleeper: None,
            snapshots: Vec::new(),
            accepted: BTreeMap::new(),
            unreachable_until: Duration::ZERO,
            foreign_number: 0,
            totals: Totals::default(),
        }
    }

    fn run(mut self, numbers: impl Iterator<Item = u32>, tells: bool) -> Outcome {
        if tells {
            self.world.lock().trace = Some(Vec::new());
        }
        self.plant_first_record();
        let mut steps = Vec::new();
        let mut is_right = true;
        for number in numbers {
            steps.push(number);
            self.totals.steps += 1;
            let done = self.step(number);
            is_right = self.end_step(&done);
            if !is_right {
                break;
            }
        }
        if is_right {
            self.note("driver: every fault ends");
            let done = self.finish();
            let _ = self.end_step(&done);
        }
        self.leave();
        let mut state = self.world.lock();
        let mut totals = self.totals;
        totals.calls = self.machine.calls;
        totals.operations = state.operations;
        totals.messages = state.ledger.len() as u64;
        totals.deliveries = state.ledger.deliveries;
        totals.excused = state.ledger.excused;
        totals.virtual_time = self.clock.now();
        Outcome {
            violation: state.violation.take(),
            steps,
            totals,
            trace: state.trace.take().unwrap_or_default(),
        }
    }

    fn note(&self, line: &str) {
        let now = self.clock.now();
        self.world.note(|| format!("{} {line}", at(now)));
    }

    /// Drops what still runs, without another check.
    fn leave(&mut self) {
        for process in self
            .sleeper
            .take()
            .into_iter()
            .chain(self.machine.process.take())
        {
            process.clock.die();
            self.world.lock().kill();
            let drops = std::panic::AssertUnwindSafe(move || drop(process));
            drop(std::panic::catch_unwind(drops));
        }
    }

    /// Handles a death in a step. Returns false if an invariant does not hold.
    fn end_step(&mut self, done: &Result<(), Stop>) -> bool {
        match done {
            Ok(()) => {}
            Err(Stop::Violated) => return false,
            Err(Stop::Died) => {
                if self.bury().is_err() {
                    return false;
                }
            }
        }
        self.machine.result().is_ok()
    }

    fn bury(&mut self) -> Result<(), Stop> {
        self.paho = None;
        self.disconnect(0);
        self.machine.bury(&mut self.broker)
    }

    /// Breaks the connection to the broker, which still receives this share of what was sent.
    fn disconnect(&mut self, share: usize) {
        let Some(connection) = &self.broker.connection else {
            return;
        };
        let received = connection.to_broker.len() * share / 100;
        let mut state = self.world.lock();
        self.broker.disconnect(received, &mut state);
    }

    /// Gives the program a record with a high number, so that the numbers wrap soon.
    fn plant_first_record(&mut self) {
        let Some(number) = self.profile.first_sequence else {
            return;
        };
        let v5 = self.profile.options.created_v5;
        let mut state = self.world.lock();
        let message = state.ledger.publish(1, 8);
        let publish = Publish {
            qos: 1,
            packet_id: 1,
            topic: Topic::Own(message),
            payload: payload(message, 8),
        };
        let key = Key::new(Kind::Command, v5, number);
        state.data.records.insert(key, command(v5, &publish));
        state.ledger.add_copy(message);
        state.ledger.accept(message);
    }

    fn step(&mut self, number: u32) -> Result<(), Stop> {
        let mut choice = Choice::of(number);
        let total = self.profile.actions.last().map_or(1, |(_, sum)| *sum);
        let drawn = u32::try_from(choice.below(total as usize)).unwrap_or_default();
        let mut actions = self.profile.actions.iter();
        let action = actions.find(|(_, sum)| drawn < *sum);
        let action = action.map_or(Action::Worker, |(action, _)| *action);
        let is_running = self.paho.is_some();
        match action {
            Action::Fault => self.inject(&mut choice)?,
            Action::Time => self.pass_time(&mut choice)?,
            Action::Snapshot => self.take_snapshot(),
            _ if !is_running => {
                if choice.below(4) == 0 {
                    self.create(&mut choice)?;
                } else {
                    self.clock.advance(choice.duration(1, 8));
                }
            }
            Action::Publish => self.publish(&mut choice)?,
            Action::Process => self.process()?,
            Action::ClientReceives => self.client_receives()?,
            Action::BrokerReceives => {
                let mut state = self.world.lock();
                self.broker.receive(&mut state);
            }
            Action::Worker => self.work(1)?,
            Action::Network => self.connect_or_break(&mut choice)?,
            Action::Subscribe => self.subscribe(&mut choice)?,
            Action::Inbound => {
                let size = self.size(&mut choice);
                self.broker.publish(choice.pick(&[1, 2, 2]), size);
            }
            Action::Application => self.deliver(&mut choice)?,
            Action::Flush => {
                if self.machine.is_open {
                    self.machine.flush()?;
                }
            }
        }
        let haste = self.profile.worker_haste;
        if self.paho.is_some() && haste > 0 {
            let actions = choice.below(haste as usize + 1);
            self.work(actions)?;
        }
        let is_due = self.totals.steps.is_multiple_of(FULL_CHECK as u64);
        if is_due && self.machine.is_open {
            self.machine.check_all()?;
            self.check_small_records()?;
        }
        self.machine.result()
    }

    fn check_small_records(&mut self) -> Result<(), Stop> {
        let state = self.world.lock();
        self.accepted
            .retain(|number, _| state.ledger.is_outstanding(*number));
        drop(state);
        // A worker that has not acted could not write anything.
        if self.profile.worker_haste < 4 {
            return Ok(());
        }
        self.machine.check_small_records(&self.accepted)
    }

    /// Lets the worker act, until it has nothing to do.
    fn work(&mut self, actions: usize) -> Result<(), Stop> {
        for _ in 0..actions {
            if let Acted::Idle(_) = self.machine.act()? {
                break;
            }
        }
        Ok(())
    }

    /// Lets time pass; the worker acts when it is due, unless it is slow.
    fn pass_time(&mut self, choice: &mut Choice) -> Result<(), Stop> {
        let by = choice.duration(1, 13);
        let until = self.clock.now() + by;
        let is_prompt = self.profile.worker_haste > 0 && self.paho.is_some();
        let mut actions = 0;
        while is_prompt && actions < 200 {
            actions += 1;
            match self.machine.act()? {
                Acted::Idle(due) if due < until => self.clock.advance_to(due),
                Acted::Idle(_) => break,
                _ => {}
            }
        }
        self.clock.advance_to(until);
        Ok(())
    }

    fn size(&mut self, choice: &mut Choice) -> usize {
        if choice.below(100) < self.profile.large_share as usize {
            choice.below(self.profile.large_size + 1)
        } else {
            choice.pick(&[0, 1, 10, 40, 120])
        }
    }

    fn publish(&mut self, choice: &mut Choice) -> Result<(), Stop> {
        let size = self.size(choice);
        let qos = choice.pick(self.profile.qos);
        let max_backlog = self.profile.max_backlog;
        let Some(paho) = &mut self.paho else {
            return Ok(());
        };
        if paho.backlog() >= max_backlog {
            return Ok(());
        }
        if let Some(message) = paho.publish(&mut self.machine, qos, size)?
            && qos > 0
        {
            self.accepted.insert(message, self.clock.now());
        }
        Ok(())
    }

    fn process(&mut self) -> Result<(), Stop> {
        if let Some(paho) = &mut self.paho {
            paho.process(&mut self.machine, &mut self.broker)?;
        }
        Ok(())
    }

    fn client_receives(&mut self) -> Result<(), Stop> {
        if let Some(paho) = &mut self.paho {
            paho.receive(&mut self.machine, &mut self.broker)?;
        }
        Ok(())
    }

    fn deliver(&mut self, choice: &mut Choice) -> Result<(), Stop> {
        if let Some(paho) = &mut self.paho {
            if choice.below(3) == 0 {
                paho.is_busy = !paho.is_busy;
            }
            paho.deliver_queued(&mut self.machine)?;
        }
        Ok(())
    }

    fn subscribe(&mut self, choice: &mut Choice) -> Result<(), Stop> {
        let unsubscribes = choice.below(3) == 0;
        if let Some(paho) = &mut self.paho {
            paho.subscribe(&mut self.machine, unsubscribes)?;
        }
        Ok(())
    }

    fn connect_or_break(&mut self, choice: &mut Choice) -> Result<(), Stop> {
        let Some(paho) = &mut self.paho else {
            return Ok(());
        };
        if !paho.is_connected {
            let is_reachable = self.clock.now() >= self.unreachable_until;
            return paho.connect(&mut self.machine, &mut self.broker, is_reachable);
        }
        if self.profile.faults.contains(&Fault::Network) {
            self.break_network(choice)?;
        }
        Ok(())
    }

    fn break_network(&mut self, choice: &mut Choice) -> Result<(), Stop> {
        self.note("world: the connection to the broker breaks");
        let share = choice.pick(&[0, 50, 100]);
        self.disconnect(share);
        self.unreachable_until =
            self.clock.now() + choice.pick(&[Duration::ZERO, Duration::from_secs(1)]);
        if let Some(paho) = &mut self.paho
            && paho.is_connected
        {
            paho.lose_connection(&mut self.machine)?;
        }
        Ok(())
    }

    /// Starts the program.
    fn create(&mut self, choice: &mut Choice) -> Result<(), Stop> {
        let mut options = self.profile.options;
        if self.profile.changes_versions {
            let (created, connects) =
                choice.pick(&[(true, true), (true, true), (true, false), (false, false)]);
            (options.created_v5, options.connects_v5) = (created, connects);
            if created != connects {
                self.excuse_versions();
            }
        }
        self.totals.starts += 1;
        self.note("driver: the program starts");
        self.machine.start();
        self.paho = Paho::create(&mut self.machine, options)?;
        if self.paho.is_none() {
            self.end_program()?;
        }
        Ok(())
    }

    /// A client that mixes versions damages what it restores.
    fn excuse_versions(&mut self) {
        let mut state = self.world.lock();
        let restored: Vec<u32> = state
            .data
            .records
            .iter()
            .filter_map(|(key, value)| message_of(*key, value))
            .collect();
        for message in restored {
            state
                .ledger
                .excuse_duplicate(message, exceptions::VERSIONS_DIFFER);
        }
    }

    /// Closes the persistence, if it is open, and ends the program.
    fn end_program(&mut self) -> Result<(), Stop> {
        if self.machine.is_open {
            let is_written = match self.paho.take() {
                Some(paho) => paho.destroy(&mut self.machine, &mut self.broker)?,
                None => self.machine.close()?,
            };
            if is_written {
                self.machine.check_closed()?;
            }
        }
        self.bury()
    }

    fn take_snapshot(&mut self) {
        let mut state = self.world.lock();
        state.read_unread();
        let snapshot = state.data.clone();
        drop(state);
        if self.snapshots.len() >= 4 {
            self.snapshots.remove(0);
        }
        self.snapshots.push(snapshot);
    }

    /// Makes one of the faults of this seed happen.
    fn inject(&mut self, choice: &mut Choice) -> Result<(), Stop> {
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
                let data = self.snapshot(choice);
                let world = self.world.clone();
                let mut state = world.lock();
                state.fail_over();
                self.load(&mut state, data);
            }
            Fault::Evict => {
                let world = self.world.clone();
                let mut state = world.lock();
                state.read_unread();
                self.load(&mut state, Snapshot::default());
            }
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
        Ok(())
    }

    fn refuse(&mut self, kind: ErrorKind, above: Option<usize>, hangs_up: bool, until: Duration) {
        let since = self.clock.now();
        let mut state = self.world.lock();
        // What was sent before is read before.
        state.read_unread();
        state.refusal = Some(Refusal {
            kind,
            above,
            hangs_up,
            since,
            until,
        });
        state.note(|| {
            format!(
                "  {:?} until {}",
                state_refusal(kind, above, hangs_up),
                at(until)
            )
        });
    }

    fn strike(&mut self, choice: &mut Choice, blow: Blow) {
        let others = choice.pick(&[0, 0, 1, 2, 5]);
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
        let v5 = self.profile.options.created_v5;
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
            state.plant(Key::new(kind, v5, number), value.into());
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

    /// Ends every fault, lets everything be written, sends what waits, and checks that all has arrived.
    fn finish(&mut self) -> Result<(), Stop> {
        self.world.lock().heal();
        self.unreachable_until = Duration::ZERO;
        self.settle_and_drain()?;
        // What Paho had forgotten is restored by the next start.
        self.end_program()?;
        self.settle_and_drain()?;
        self.end_program()?;
        let mut state = self.world.lock();
        let left = state.ledger.outstanding().iter().next().copied();
        if let Some(number) = left {
            state.violate("nothing_lost", || {
                format!("m{number} never arrives, although all faults have ended")
            });
        }
        Ok(())
    }

    fn settle_and_drain(&mut self) -> Result<(), Stop> {
        if self.paho.is_none() {
            self.start_again()?;
        }
        self.settle("after all faults have ended")?;
        self.drain()?;
        self.settle("after everything was sent")
    }

    /// Starts the program without a fault.
    fn start_again(&mut self) -> Result<(), Stop> {
        if self.machine.process.is_some() {
            self.end_program()?;
        }
        let mut choice = Choice::of(1);
        for _ in 0..20 {
            if self.paho.is_some() {
                return Ok(());
            }
            self.create(&mut choice)?;
        }
        if self.paho.is_none() {
            self.world.lock().violate("open_succeeds", || {
                "the program cannot start although all faults have ended".to_owned()
            });
        }
        self.machine.result()
    }

    /// Waits until everything is written.
    fn settle(&mut self, context: &str) -> Result<(), Stop> {
        let started = self.clock.now();
        let mut acts = 0;
        // At least one check of the store, which finds what it has lost.
        let checked = self.clock.now() + Duration::from_secs(3);
        let mut written = None;
        loop {
            acts += 1;
            if let Acted::Idle(due) = self.machine.act()? {
                let health = self.machine.before;
                let pending = self
                    .machine
                    .process
                    .as_ref()
                    .map_or(0, |process| process.clock.memory().1);
                let is_written = health.up && pending == 0;
                if !is_written {
                    written = None;
                } else if self.clock.now() >= checked {
                    // The removes follow with the next tick.
                    let since = *written.get_or_insert(self.clock.now());
                    if self.clock.now() >= since + Duration::from_millis(300) {
                        break;
                    }
                }
                let next = due.max(self.clock.now() + Duration::from_millis(1));
                self.clock.advance_to(next);
            }
            let health = self.machine.before;
            // What the store refused is tried again after a wait that doubles.
            let limit = if health.up && health.held_records > 0 {
                RETRIES_IN
            } else {
                SETTLES_IN
            };
            if self.clock.now() > started + limit || acts > 100_000 {
                self.world.lock().violate("no_stuck", || {
                    format!("not everything is written within {limit:?} {context}: {health:?}")
                });
                return Err(Stop::Violated);
            }
        }
        self.machine.check_settled(context)
    }

    /// Sends and receives until nothing waits.
    fn drain(&mut self) -> Result<(), Stop> {
        for _ in 0..20_000 {
            let Some(paho) = &mut self.paho else {
                return Ok(());
            };
            paho.is_busy = false;
            if !paho.is_connected {
                paho.connect(&mut self.machine, &mut self.broker, true)?;
            }
            let mut has_moved = paho.process(&mut self.machine, &mut self.broker)?;
            let mut state = self.world.lock();
            has_moved |= self.broker.receive(&mut state);
            drop(state);
            has_moved |= paho.receive(&mut self.machine, &mut self.broker)?;
            has_moved |= paho.deliver_queued(&mut self.machine)?;
            if !has_moved {
                // Of two messages with one packet id Paho completes one; the next start sends the other.
                if paho.is_idle() || !self.machine.clashing.is_empty() {
                    return Ok(());
                }
                break;
            }
        }
        let backlog = self.paho.as_ref().map_or(0, Paho::backlog);
        self.world.lock().violate("no_stuck", || {
            format!("{backlog} messages are stuck in Paho after all faults have ended")
        });
        Err(Stop::Violated)
    }
}

fn state_refusal(
    kind: ErrorKind,
    above: Option<usize>,
    hangs_up: bool,
) -> (ErrorKind, Option<usize>, bool) {
    (kind, above, hangs_up)
}
