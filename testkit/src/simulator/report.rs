//! Runs seeds, and reports what they found.

use std::{collections::BTreeMap, fmt::Write, panic, sync::Once, time::Instant};

use super::{
    driver::{Outcome, Totals, replay, run},
    invariants::INVARIANTS,
    profile::{Fault, Profile},
    sabotage::Sabotage,
    story::shrink,
    world::SimulatedPanic,
};

/// The orders of one simulation.
#[derive(Clone, Debug)]
pub struct Orders {
    pub first_seed: u64,
    pub seeds: u64,
    pub steps: usize,
    /// Faults that seeds may have.
    pub faults: Vec<Fault>,
    /// A failing run is shortened before it is shown.
    pub shrinks: bool,
    pub sabotage: Sabotage,
    /// Invariants that are not reported.
    pub ignored: Vec<&'static str>,
    /// Goes on after a failing seed.
    pub goes_on: bool,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            first_seed: 1,
            seeds: 200,
            steps: 2000,
            faults: Fault::ALL.to_vec(),
            shrinks: false,
            sabotage: Sabotage::None,
            ignored: Vec::new(),
            goes_on: false,
        }
    }
}

impl Orders {
    /// Parses the arguments of the command line.
    pub fn parse(arguments: &[&str]) -> Option<Self> {
        let mut orders = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match *argument {
                "--shrink" => orders.shrinks = true,
                "--go-on" => orders.goes_on = true,
                option => {
                    let value = arguments.next()?;
                    match option {
                        "--seeds" => orders.seeds = value.parse().ok()?,
                        "--steps" => orders.steps = value.parse().ok()?,
                        "--first-seed" => orders.first_seed = value.parse().ok()?,
                        "--seed" => {
                            orders.first_seed = value.parse().ok()?;
                            orders.seeds = 1;
                        }
                        "--faults" => {
                            let names = value.split(',').filter(|name| !name.is_empty());
                            orders.faults = names.map(Fault::parse).collect::<Option<_>>()?;
                        }
                        "--ignore" => {
                            let names = value.split(',').filter(|name| !name.is_empty());
                            orders.ignored = names.map(invariant).collect::<Option<_>>()?;
                        }
                        "--sabotage" => {
                            let mut all = Sabotage::ALL.into_iter();
                            let is_it = |sabotage: &Sabotage| format!("{sabotage:?}") == *value;
                            orders.sabotage = all.find(is_it)?;
                        }
                        _ => return None,
                    }
                }
            }
        }
        Some(orders)
    }

    fn profile(&self, seed: u64) -> Profile {
        let mut profile = Profile::of(seed, &self.faults, self.sabotage);
        profile.ignored.clone_from(&self.ignored);
        profile
    }

    /// The command that repeats a seed.
    fn command(&self, seed: u64) -> String {
        let mut command = format!("scripts/simulate --seed {seed} --steps {}", self.steps);
        if self.faults != Fault::ALL {
            let names: Vec<String> = self.faults.iter().map(|fault| fault.name()).collect();
            let _ = write!(command, " --faults {}", names.join(","));
        }
        if self.sabotage != Sabotage::None {
            let _ = write!(command, " --sabotage {:?}", self.sabotage);
        }
        command
    }
}

/// The name of an invariant.
fn invariant(name: &str) -> Option<&'static str> {
    let mut all = INVARIANTS.iter().copied();
    all.find(|invariant| *invariant == name)
}

/// A seed that breaks an invariant.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub name: &'static str,
    pub detail: String,
    /// Number of steps until it failed.
    pub steps: usize,
    pub story: String,
}

/// Runs every seed. Stops at the first that fails, unless it goes on.
pub fn check(orders: &Orders, mut on_failure: impl FnMut(&Failure)) -> (Totals, Vec<Failure>) {
    hush();
    let mut totals = Totals::default();
    let mut failures = Vec::new();
    for seed in orders.first_seed..orders.first_seed + orders.seeds {
        let profile = orders.profile(seed);
        let outcome = run(seed, &profile, orders.steps);
        totals.add(&outcome.totals);
        if outcome.violation.is_some() {
            let failure = tell(orders, seed, &profile, outcome);
            on_failure(&failure);
            failures.push(failure);
            if !orders.goes_on {
                break;
            }
        }
    }
    (totals, failures)
}

/// Lines of a story that is not shortened.
const STORY_LINES: usize = 60;
const SHRUNK_STORY_LINES: usize = 4000;

fn tell(orders: &Orders, seed: u64, profile: &Profile, outcome: Outcome) -> Failure {
    let violation = outcome.violation.expect("a violation");
    let mut story = String::new();
    let mut shown = outcome.steps.clone();
    let mut lines = STORY_LINES;
    let mut profile = profile.clone();
    if orders.shrinks {
        shown = shrink(&mut profile, &outcome.steps, &violation);
        let (before, after) = (outcome.steps.len(), shown.len());
        let _ = writeln!(story, "shortened from {before} steps to {after}");
        lines = SHRUNK_STORY_LINES;
    }
    let told = replay(&profile, &shown, true);
    let trace = &told.trace[told.trace.len().saturating_sub(lines)..];
    let _ = writeln!(story, "{profile:?}");
    for line in trace {
        let _ = writeln!(story, "{line}");
    }
    let _ = writeln!(story, "repeat with: {}", orders.command(seed));
    let detail = told.violation.map_or_else(
        || format!("{} (and the replay does not fail)", violation.detail),
        |found| found.detail,
    );
    Failure {
        seed,
        name: violation.name,
        detail,
        steps: outcome.steps.len(),
        story,
    }
}

/// Lets simulated panics be silent.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<SimulatedPanic>() {
                loud(info);
            }
        }));
    });
}

/// Simulates and prints the result. Returns true if no invariant was broken.
pub fn print(orders: &Orders) -> bool {
    let started = Instant::now();
    let (totals, failures) = check(orders, |failure| {
        println!(
            "seed {}, step {}: {}: {}\n{}",
            failure.seed, failure.steps, failure.name, failure.detail, failure.story
        );
    });
    let elapsed = started.elapsed();
    let mut by_name: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for failure in &failures {
        by_name.entry(failure.name).or_default().push(failure.seed);
    }
    for (name, seeds) in &by_name {
        println!("{name}: {} seeds: {seeds:?}", seeds.len());
    }
    #[allow(clippy::cast_precision_loss)]
    let per_minute = totals.steps as f64 / elapsed.as_secs_f64() * 60.0;
    println!(
        "{} steps in {:.1} s, {per_minute:.0} per minute; {} calls, {} operations of the store, {} messages, {} deliveries, {} excused, {} starts, {} faults, {} h of virtual time",
        totals.steps,
        elapsed.as_secs_f64(),
        totals.calls,
        totals.operations,
        totals.messages,
        totals.deliveries,
        totals.excused,
        totals.starts,
        totals.faults,
        totals.virtual_time.as_secs() / 3600,
    );
    failures.is_empty()
}
