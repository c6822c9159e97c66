//! Masters that are killed one after the other while a program publishes, and the account of its messages.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{Client, RedisPersistence, Session};

use crate::{
    LIMIT, Mosquitto, Subscriber, eventually,
    sentinel::{Replicated, Sentinel},
    timed::Timed,
};

const TOPIC: &str = "failovers";
/// Interval between two messages.
const INTERVAL: Duration = Duration::from_millis(2);
/// Number of messages between two failovers.
const BETWEEN: usize = 300;
/// Time that one call may take: the `operation_timeout`, and the time for the reply to a transaction.
const CALL_LIMIT: Duration = Duration::from_millis(250);

/// Circumstances of a run.
#[derive(Clone, Copy)]
pub struct Plan {
    pub qos: i32,
    pub replicas: u32,
    /// The broker is away until the end, and no value is kept in memory once Redis has confirmed it.
    pub waits_in_redis: bool,
    pub kills: usize,
}

/// Account of a run.
#[derive(Debug, Default)]
pub struct Account {
    pub accepted: usize,
    /// Messages that did not arrive.
    pub lost: usize,
    /// Messages whose loss the persistence has counted and logged.
    pub counted: u64,
    /// Messages that arrived more than once.
    pub doubled: usize,
    pub longest_call: Duration,
    /// Connections to the broker beyond the first.
    pub reconnects: u64,
}

/// Publishes until it is stopped.
struct Publisher {
    accepted: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Publisher {
    fn start(client: &Arc<Client>, qos: i32) -> Self {
        let (accepted, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, end, client) = (
            Arc::clone(&accepted),
            Arc::clone(&is_over),
            Arc::clone(client),
        );
        let thread = thread::spawn(move || {
            let mut next = Instant::now();
            while !end.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed).to_string();
                if client
                    .publish(mqtt::Message::new(TOPIC, number, qos))
                    .is_ok()
                {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                next += INTERVAL;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self {
            accepted,
            is_over,
            thread,
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    fn stop(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Plan {
    pub fn run(self) -> Account {
        let mut both = Replicated::with(&["--appendonly", "yes"]);
        // Longer than a busy machine keeps a server waiting: a new master that counts as dead would be followed by an old one.
        let sentinel = Sentinel::with_patience(&both, 2000);
        let mut broker = Mosquitto::start();
        let mut subscriber = Some(Subscriber::start(&broker.url(), TOPIC, self.qos));
        let longest = Arc::<Mutex<Duration>>::default();
        let client = Arc::new(self.client(&sentinel.url(), &broker.url(), &longest));
        eventually(LIMIT, "the client is connected", || {
            client.state().is_connected().then_some(())
        });
        if self.waits_in_redis {
            subscriber = None;
            broker.stop();
        }
        let publisher = Publisher::start(&client, self.qos);
        for _ in 0..self.kills {
            let target = publisher.accepted() + BETWEEN;
            eventually(LIMIT, "messages are accepted", || {
                (publisher.accepted() >= target && client.health().snapshot().up).then_some(())
            });
            fail_over(&mut both, &sentinel);
        }
        let accepted = publisher.stop();
        client.flush(LIMIT).expect("everything is confirmed");
        if self.waits_in_redis {
            broker.restart();
        }
        let subscriber =
            subscriber.unwrap_or_else(|| Subscriber::start(&broker.url(), TOPIC, self.qos));
        let health = client.health();
        eventually(LIMIT, "everything is delivered", || {
            let status = health.snapshot();
            (status.queued_messages == 0 && status.waiting_messages == 0).then_some(())
        });
        let counted = health.snapshot().lost_records;
        // What the broker has acknowledged may still be on its way to the subscriber.
        let expected = accepted.saturating_sub(usize::try_from(counted).unwrap_or(accepted));
        let arrived = || {
            let mut numbers = BTreeMap::<Vec<u8>, usize>::new();
            for (_, payload) in subscriber.messages() {
                *numbers.entry(payload).or_default() += 1;
            }
            numbers
        };
        // One that does not arrive is the finding.
        let _ = crate::poll(LIMIT, || (arrived().len() >= expected).then_some(()));
        let arrived = arrived();
        Account {
            accepted,
            lost: accepted.saturating_sub(arrived.len()),
            counted,
            doubled: arrived.values().filter(|times| **times > 1).count(),
            longest_call: *longest.lock().expect("no panic"),
            reconnects: client.state().connects.saturating_sub(1),
        }
    }

    fn client(self, redis: &str, broker: &str, longest: &Arc<Mutex<Duration>>) -> Client {
        let mut options = RedisPersistence::builder()
            .url(redis)
            .replicas(self.replicas)
            .open_timeout(LIMIT);
        if self.waits_in_redis {
            options = options.cache_limit(0);
        }
        let persistence = options.build().expect("good options");
        let longest = Arc::clone(longest);
        let persistence =
            persistence.wrapped_in_session(move |inner| Box::new(Timed::new(inner, &longest)));
        Session::new("failovers", broker)
            .name(broker)
            .persistence(persistence)
            .max_messages(60_000)
            .backoff(Duration::from_millis(100), Duration::from_secs(1))
            .start()
            .expect("it starts")
    }

    /// Returns true if every promise is kept.
    fn is_kept_by(self, account: &Account) -> bool {
        let is_counted = u64::try_from(account.lost).is_ok_and(|lost| lost == account.counted);
        let loses_nothing = account.lost == 0 || self.replicas == 0 && self.waits_in_redis;
        let doubles_nothing = self.qos < 2 || account.doubled == 0;
        is_counted && loses_nothing && doubles_nothing && account.longest_call <= CALL_LIMIT * 2
    }
}

/// Kills the master, waits for the other one, and brings the killed one back as its replica.
fn fail_over(both: &mut Replicated, sentinel: &Sentinel) {
    let is_master = |server: usize| sentinel.master() == both.servers[server].port();
    let old = usize::from(!is_master(0));
    let new = 1 - old;
    both.servers[old].kill();
    eventually(LIMIT, "the replica is promoted", || {
        (sentinel.master() == both.servers[new].port()).then_some(())
    });
    both.servers[old].restart();
    eventually(LIMIT, "the old master follows", || {
        both.is_replica(old).then_some(())
    });
    both.wait_for_link(old);
    sentinel.wait_for_replica();
}

/// Prints every row as Markdown. Returns true if all promises are kept.
pub fn print(kills: usize) -> bool {
    println!(
        "| QoS | `replicas` | messages wait | masters killed | accepted | lost | counted as lost | arrived twice | longest call | reconnects to the broker |"
    );
    println!("|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|");
    let mut all_kept = true;
    for (qos, waits_in_redis) in [(1, false), (2, false), (1, true)] {
        for replicas in [1, 0] {
            let plan = Plan {
                qos,
                replicas,
                waits_in_redis,
                kills,
            };
            let account = plan.run();
            let Account {
                accepted,
                lost,
                counted,
                doubled,
                longest_call,
                reconnects,
            } = &account;
            let place = if waits_in_redis {
                "in Redis alone"
            } else {
                "for an acknowledgment"
            };
            println!(
                "| {qos} | {replicas} | {place} | {kills} | {accepted} | {lost} | {counted} | {doubled} | {} ms | {reconnects} |",
                longest_call.as_millis()
            );
            all_kept &= plan.is_kept_by(&account);
        }
    }
    all_kept
}
