//! Runs one seed: each step follows from one number, so that a list of numbers repeats a run.

use std::{collections::BTreeMap, time::Duration};

use crate::random::Random;

use super::{
    broker::Broker,
    clock::{Acted, VirtualClock},
    exceptions,
    invariants::Violation,
    paho::Paho,
    process::{Machine, Pauses, Process, Stop, at},
    profile::{Action, Fault, Profile},
    values::{Key, Kind, Publish, Topic, command, message_of, payload},
    world::{Blow, Snapshot, World},
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
    pub(super) profile: Profile,
    pub(super) clock: std::sync::Arc<VirtualClock>,
    pub(super) world: World,
    pub(super) machine: Machine,
    pub(super) broker: Broker,
    pub(super) paho: Option<Paho>,
    /// A program that another one has replaced while it slept.
    pub(super) sleeper: Option<Process>,
    pub(super) snapshots: Vec<Snapshot>,
    /// The time at which each message was accepted that is not delivered.
    pub(super) accepted: BTreeMap<u32, Duration>,
    /// The broker cannot be reached before this time.
    pub(super) unreachable_until: Duration,
    pub(super) foreign_number: u32,
    pub(super) totals: Totals,
}

/// Numbers that follow from the number of a step.
pub(super) struct Choice(Random);

impl Choice {
    pub(super) fn of(number: u32) -> Self {
        let mut random = Random::of(u64::from(number) << 1 | 1);
        random.draw();
        random.draw();
        Self(random)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0.below(end)
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        self.0.pick(from)
    }

    /// Mostly short, sometimes long.
    pub(super) fn duration(&mut self, shortest: u64, doublings: usize) -> Duration {
        let exponent = self.below(doublings);
        let milliseconds = shortest << exponent;
        Duration::from_millis(
            milliseconds + self.below(usize::try_from(milliseconds).unwrap_or(1)) as u64,
        )
    }
}

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
            let has = |fault| profile.faults.contains(&fault);
            state.set_backups(
                has(Fault::PowerCut),
                has(Fault::Failover) || has(Fault::PrimaryLost),
                &profile.settings,
            );
            state.ignored.clone_from(&profile.ignored);
        }
        let mut broker = Broker::default();
        let mixes_versions = profile.changes_versions && !profile.names_version;
        broker.versions_differ = mixes_versions;
        let mut machine = Machine::new(&world, profile.settings);
        machine.mixes_versions = mixes_versions
            || profile.options.versions.created_v5 != profile.options.versions.connects_v5;
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
            let is_deadly = self.profile.faults.contains(&Fault::Crash);
            let pauses = Pauses::of(number, self.profile.pause_share, is_deadly);
            self.machine.pauses = Some(pauses);
            let done = self.step(number);
            self.machine.pauses = None;
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

    pub(super) fn note(&self, line: &str) {
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

    pub(super) fn bury(&mut self) -> Result<(), Stop> {
        self.paho = None;
        self.disconnect(0);
        self.machine.bury(&mut self.broker)
    }

    /// Breaks the connection to the broker, which still receives this share of what was sent.
    pub(super) fn disconnect(&mut self, share: usize) {
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
        let v5 = self.profile.options.versions.created_v5;
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
        state.ledger.add_copy(message, self.clock.now());
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
                    self.create_among_faults(&mut choice)?;
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
        self.machine.check_account();
        let is_due = self
            .totals
            .steps
            .is_multiple_of(self.profile.full_check_steps);
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

    pub(super) fn break_network(&mut self, choice: &mut Choice) -> Result<(), Stop> {
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

    /// Starts the program, now and then with a fault in its restore, or closes it before it connects.
    fn create_among_faults(&mut self, choice: &mut Choice) -> Result<(), Stop> {
        let has = |fault| self.profile.faults.contains(&fault);
        let (breaks, closes) = (has(Fault::Connection), has(Fault::Close));
        if breaks && choice.below(6) == 0 {
            self.strike(choice, Blow::LostBefore(100));
        }
        self.create(choice)?;
        if closes && self.paho.is_some() && choice.below(6) == 0 {
            self.end_program()?;
        }
        Ok(())
    }

    /// Starts the program.
    pub(super) fn create(&mut self, choice: &mut Choice) -> Result<(), Stop> {
        let mut options = self.profile.options;
        if self.profile.changes_versions {
            let (created, mut connects) =
                choice.pick(&[(true, true), (true, true), (true, false), (false, false)]);
            connects |= created && self.profile.names_version;
            (options.versions.created_v5, options.versions.connects_v5) = (created, connects);
            if created != connects {
                self.excuse_versions();
            }
        }
        self.totals.starts += 1;
        self.note("driver: the program starts");
        let connects = choice.below(3) == 0;
        let version = options.versions.created_v5;
        self.machine.named_v5 = self.profile.names_version.then_some(version);
        if self.machine.start(connects)? {
            self.paho = Paho::create(&mut self.machine, options)?;
        }
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
    pub(super) fn end_program(&mut self) -> Result<(), Stop> {
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
}
