//! The end of a run: every fault ends, and everything must arrive.

use std::time::Duration;

use super::{
    clock::Acted,
    driver::{Choice, Simulation},
    paho::Paho,
    process::Stop,
};

/// Virtual time in which everything must be written once all faults have ended.
const SETTLES_IN: Duration = Duration::from_secs(20);

/// The longest wait of the persistence between two attempts to write what the store refuses.
const RETRIES_IN: Duration = Duration::from_secs(11 * 60);

impl Simulation {
    /// Ends every fault, lets everything be written, sends what waits, and checks that all has arrived.
    pub(super) fn finish(&mut self) -> Result<(), Stop> {
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
        let mut limit = SETTLES_IN;
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
            if health.up && health.held_records > 0 {
                limit = RETRIES_IN;
            }
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
