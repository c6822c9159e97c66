//! Measures a process with many clients: its threads and memory, and the time until all are up after Redis or the broker has restarted.
//!
//! Prints a Markdown table. `cargo bench -p testkit --bench gateway -- [CLIENTS]`, 1,000 by default. Clients of Paho are not connected, and
//! one message waits in each. Each `Client` is connected to a broker, which has acknowledged one message; the broker is restarted only if
//! `net.core.wmem_default` has 1,024 bytes for each.

use std::{
    env, fs, mem,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{
    Client, MemoryPersistence, RedisPersistence, Session, StoreEvent, StoreObserver,
};
use testkit::{Mosquitto, RedisServer, eventually};

const CLIENTS: usize = 1000;
const PAYLOAD: usize = 100;
const LIMIT: Duration = Duration::from_secs(300);
/// Argument of a process that measures one contender.
const MEASURE: &str = "--measure";
const CONTENDERS: [&str; 6] = [
    "none",
    "memory",
    "Confirmed, TCP",
    "Confirmed, Unix socket",
    CLIENT_WITH_MEMORY,
    CLIENT_WITH_REDIS,
];
const CLIENT_WITH_MEMORY: &str = "`Client`, memory";
const CLIENT_WITH_REDIS: &str = "`Client`, Confirmed, Unix socket";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).filter(|one| one != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let count = |text: &str| text.parse::<usize>().ok().filter(|count| *count > 0);
    let clients = match arguments[..] {
        [] => Some(CLIENTS),
        [clients] => count(clients),
        [MEASURE, contender, clients] => {
            measure(contender, count(clients).expect("a number"));
            return ExitCode::SUCCESS;
        }
        _ => None,
    };
    let Some(clients) = clients else {
        eprintln!("usage: cargo bench -p testkit --bench gateway -- [CLIENTS]");
        return ExitCode::from(2);
    };
    println!(
        "| {clients} clients | threads | resident, each | created | up after a restart of Redis | of the broker |"
    );
    println!("|---|--:|--:|--:|--:|--:|");
    for contender in CONTENDERS {
        let program = env::current_exe().expect("this program");
        let clients = clients.to_string();
        let status = Command::new(program)
            .args([MEASURE, contender, &clients])
            .status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("gateway: FAILED: {contender}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Counts the stores that have come up again.
#[derive(Clone, Default)]
struct Recovered(Arc<AtomicUsize>);

impl StoreObserver for Recovered {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        if let StoreEvent::Up { .. } = event {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn measure(contender: &str, count: usize) {
    let mut redis = RedisServer::tcp();
    let mut broker = Mosquitto::start();
    let recovered = Recovered::default();
    // They read the logs of the servers.
    let of_bench = threads() - 1;
    // Paho's own threads and tables come with the first client.
    mem::forget(client("none", &redis, 0, &recovered));
    let before = resident();
    let started = Instant::now();
    let mut clients = Vec::new();
    if contender.starts_with("`Client`") {
        let start = |id| start(contender, &broker, &redis, id, &recovered);
        clients.extend((1..=count).map(start));
        eventually(LIMIT, "all have delivered", || {
            let mut states = clients.iter().map(Client::state);
            states.all(|state| state.acknowledged == 1).then_some(())
        });
    } else {
        for id in 1..=count {
            // Paho would take long to disconnect each.
            mem::forget(client(contender, &redis, id, &recovered));
        }
    }
    let created = started.elapsed();
    let each = (resident() - before) / 1000 / count;
    let threads = threads() - of_bench;
    let up = contender.contains("Confirmed").then(|| {
        redis.restart();
        let started = Instant::now();
        eventually(LIMIT, "all stores are up again", || {
            (recovered.0.load(Ordering::Relaxed) >= count).then_some(())
        });
        started.elapsed()
    });
    let connected = (!clients.is_empty() && paho_survives(count)).then(|| {
        broker.kill();
        broker.restart();
        let started = Instant::now();
        eventually(LIMIT, "all are connected again", || {
            let mut states = clients.iter().map(Client::state);
            states
                .all(|state| state.connects == 2 && state.is_connected())
                .then_some(())
        });
        started.elapsed()
    });
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    let measured = |time: Option<Duration>| time.map_or("–".to_owned(), seconds);
    println!(
        "| {contender} | {threads} | {each} kB | {} | {} | {} |",
        seconds(created),
        measured(up),
        measured(connected)
    );
    // They would take long to disconnect.
    mem::forget(clients);
}

/// Returns true if Paho survives that so many connections are lost at once: see docs/upstream/interrupt-socket.md.
fn paho_survives(connections: usize) -> bool {
    let buffer = fs::read_to_string("/proc/sys/net/core/wmem_default").expect("procfs");
    let bytes: usize = buffer.trim().parse().expect("a number");
    connections * 1024 <= bytes
}

/// Starts a client that connects and publishes one message.
fn start(
    contender: &str,
    broker: &Mosquitto,
    redis: &RedisServer,
    id: usize,
    recovered: &Recovered,
) -> Client {
    let session = Session::new(format!("gateway-{id}"), broker.url());
    let session = if contender == CLIENT_WITH_MEMORY {
        session.persistence(MemoryPersistence::new())
    } else {
        session.redis_url(redis.url()).observer(recovered.clone())
    };
    let client = session.start().expect("starts");
    drop(client.publish(message()).expect("accepted"));
    client
}

fn message() -> mqtt::Message {
    mqtt::Message::new("gateway", vec![b'x'; PAYLOAD], mqtt::QOS_1)
}

/// Creates a client in whose persistence one message waits.
fn client(
    contender: &str,
    redis: &RedisServer,
    id: usize,
    recovered: &Recovered,
) -> mqtt::AsyncClient {
    let options = mqtt::CreateOptionsBuilder::new()
        .server_uri("mqtt://127.0.0.1:1")
        .client_id(format!("gateway-{id}"))
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true);
    let over = |url: &str| {
        let persistence = RedisPersistence::builder().url(url).build();
        persistence.expect("a good URL").observer(recovered.clone())
    };
    let options = match contender {
        "none" => options.persistence(mqtt::PersistenceType::None),
        "memory" => options.user_persistence(MemoryPersistence::new()),
        "Confirmed, TCP" => options.user_persistence(over(&redis.tcp_url())),
        "Confirmed, Unix socket" => options.user_persistence(over(&redis.url())),
        other => panic!("no contender {other:?}"),
    };
    let client = mqtt::AsyncClient::new(options.finalize()).expect("created");
    client.try_publish(message()).expect("accepted");
    client
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    testkit::resident(std::process::id()).expect("resident memory in /proc")
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("procfs").count()
}
