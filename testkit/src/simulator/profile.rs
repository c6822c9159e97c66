//! Everything that one seed decides: the program, the faults, and the frequency of each.

use std::time::Duration;

use paho_mqtt_redis::Durability;

use crate::random::Random;

use super::{
    paho::{Options, Versions},
    process::{Settings, UNLIMITED},
    sabotage::Sabotage,
    world::Identity,
};

/// Fault that a seed may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Writes are refused: out of memory, read-only, a script, no snapshot.
    Refuse,
    /// Only large values are refused, or the server hangs up on them.
    Large,
    /// The connection to the store breaks before or after an operation.
    Connection,
    /// Operations time out.
    Stall,
    Down,
    Loading,
    InUse,
    /// The store restarts with all its data.
    Restart,
    /// The store restarts without data.
    Empty,
    /// The store restarts with an older snapshot.
    Snapshot,
    /// The store restarts with records of another program.
    Other,
    /// A replica with older data becomes the primary under the same run id.
    Failover,
    /// The hash is evicted in place.
    Evict,
    /// Fields and records appear that Paho did not write.
    Foreign,
    /// The store panics.
    Panic,
    /// The wall clock steps.
    Clock,
    /// The machine is suspended.
    Suspend,
    /// The program dies, in a call or between calls.
    Crash,
    /// Program and store die together.
    CrashBoth,
    /// The power fails: the store comes back with what its disk had.
    PowerCut,
    /// Primary and program die together: a replica takes over with what it had.
    PrimaryLost,
    /// The program closes its client and starts again.
    Close,
    /// The program sleeps while another one takes its records.
    Sleeper,
    /// The broker loses its session.
    Session,
    /// The connection to the broker breaks.
    Network,
}

impl Fault {
    pub const ALL: [Self; 25] = [
        Self::Refuse,
        Self::Large,
        Self::Connection,
        Self::Stall,
        Self::Down,
        Self::Loading,
        Self::InUse,
        Self::Restart,
        Self::Empty,
        Self::Snapshot,
        Self::Other,
        Self::Failover,
        Self::Evict,
        Self::Foreign,
        Self::Panic,
        Self::Clock,
        Self::Suspend,
        Self::Crash,
        Self::CrashBoth,
        Self::PowerCut,
        Self::PrimaryLost,
        Self::Close,
        Self::Sleeper,
        Self::Session,
        Self::Network,
    ];

    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }
}

/// Step of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Publish,
    Process,
    ClientReceives,
    BrokerReceives,
    Worker,
    Time,
    Network,
    Subscribe,
    Inbound,
    Application,
    Flush,
    Snapshot,
    Fault,
}

/// Everything that a seed decides before its first step.
#[derive(Clone, Debug)]
pub struct Profile {
    pub settings: Settings,
    pub options: Options,
    pub identity: Identity,
    /// Versions change with each start of the program.
    pub changes_versions: bool,
    /// The program names its version, so that records of the other one are converted.
    pub names_version: bool,
    pub faults: Vec<Fault>,
    /// Actions with the cumulated weight of each.
    pub actions: Vec<(Action, u32)>,
    /// Sizes of payloads: bytes, and how many of a hundred are large.
    pub large_size: usize,
    pub large_share: u32,
    /// Most messages that wait.
    pub max_backlog: usize,
    /// The most actions that the worker makes after each step.
    pub worker_haste: u32,
    /// Of a hundred pauses between two calls of a step, this many let the worker act.
    pub pause_share: u32,
    /// QoS of publishes; one is picked.
    pub qos: &'static [u8],
    /// Sequence number at the beginning.
    pub first_sequence: Option<u32>,
    /// Steps between two checks of everything.
    pub full_check_steps: u64,
    /// Invariants that are not reported.
    pub ignored: Vec<&'static str>,
}

impl Profile {
    pub fn of(seed: u64, allowed: &[Fault], sabotage: Sabotage) -> Self {
        let mut random = Random::of(seed.wrapping_mul(31).wrapping_add(7));
        for _ in 0..8 {
            random.draw();
        }
        let faults = choose_faults(&mut random, allowed);
        let durability = random.pick(&[
            Durability::Confirmed,
            Durability::Confirmed,
            Durability::Pipelined,
            Durability::Synced,
        ]);
        let cache_limit = random.pick(&[0, 1024, 64 * 1024, UNLIMITED, UNLIMITED]);
        let call_timeout = Duration::from_millis(random.pick(&[100, 250, 1000]));
        let identity = if faults.contains(&Fault::Failover) {
            Identity::RunAndReplication
        } else {
            random.pick(&[
                Identity::RunIdOnly,
                Identity::RunAndReplication,
                Identity::RunAndReplication,
                Identity::None,
            ])
        };
        let v5 = random.below(2) == 0;
        let changes_versions = random.below(8) == 0;
        let mut profile = Self {
            settings: Settings {
                durability,
                has_replicas: false,
                cache_limit,
                call_timeout,
                open_timeout: Duration::from_secs(2),
                is_instrumented: random.below(3) == 0,
                sabotage,
            },
            options: Options {
                versions: Versions {
                    created_v5: v5,
                    connects_v5: v5,
                },
                max_inflight: random.pick(&[1, 3, 10, 65_535]),
                max_buffered: random.pick(&[5, 100, 100, 1000]),
                deletes_oldest: random.below(6) == 0,
                is_clean: random.below(12) == 0,
            },
            identity,
            changes_versions,
            names_version: false,
            actions: weigh(&mut random, &faults),
            faults,
            large_size: random.pick(&[200, 3000, 3000, 100_000]),
            large_share: random.pick(&[0, 2, 2, 10, 30]),
            max_backlog: random.pick(&[10, 50, 50, 400]),
            worker_haste: random.pick(&[0, 1, 4, 4, 30]),
            qos: random.pick(&[&[0_u8, 1, 2][..], &[1, 2], &[1, 2], &[2], &[1]]),
            first_sequence: (random.below(4) == 0).then_some(999_980),
            pause_share: random.pick(&[0, 10, 10, 50, 100]),
            full_check_steps: 50,
            ignored: Vec::new(),
        };
        profile.names_version = random.below(2) == 0;
        profile.settings.has_replicas = random.below(2) == 0;
        profile
    }
}

/// Chooses the faults of a seed: none, few or many.
fn choose_faults(random: &mut Random, allowed: &[Fault]) -> Vec<Fault> {
    let count = random.pick(&[0, 1, 2, 2, 3, 4, allowed.len()]);
    let mut faults: Vec<Fault> = Vec::new();
    for _ in 0..count {
        if allowed.is_empty() {
            break;
        }
        let fault = random.pick(allowed);
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }
    // Most of what is promised shows only after a crash.
    for always in [Fault::Crash, Fault::Network] {
        if allowed.contains(&always) && !faults.contains(&always) && random.below(3) > 0 {
            faults.push(always);
        }
    }
    faults
}

fn weigh(random: &mut Random, faults: &[Fault]) -> Vec<(Action, u32)> {
    let mut weight = |usual: u32| {
        let factor = random.pick(&[1_u32, 2, 2, 2, 4]);
        usual * factor * 5
    };
    let mut actions = vec![
        (Action::Publish, weight(12)),
        (Action::Process, weight(16)),
        (Action::ClientReceives, weight(20)),
        (Action::BrokerReceives, weight(20)),
        (Action::Worker, weight(16)),
        (Action::Time, weight(6)),
        (Action::Network, weight(2)),
        (Action::Subscribe, 2),
        (Action::Inbound, weight(2)),
        (Action::Application, weight(1)),
        (Action::Flush, 2),
        (Action::Snapshot, 4),
    ];
    if !faults.is_empty() {
        actions.push((Action::Fault, random.pick(&[3, 10, 10, 40])));
    }
    let mut sum = 0;
    for (_, weight) in &mut actions {
        sum += *weight;
        *weight = sum;
    }
    actions
}
