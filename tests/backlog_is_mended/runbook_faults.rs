//! Every command of the runbooks is run as it stands, against the fault that it is for, and shows what the page says.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    process::{self, Command},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::Duration,
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use paho_mqtt_redis::{
    EvictionCheck, Instrumented, MemoryPersistence, MetricsServer, PersistenceMetrics,
    RedisPersistence, RedisPersistenceBuilder, prometheus::Registry,
};
use redis::Commands;
use testkit::{
    LIMIT, RedisServer, SNAPSHOT, Server,
    broker::{Broker, Kind},
    child::{example, tool},
    device::{Device, address},
    eventually, http_get, record,
    runbook::{ErrorRow, Shell, Unit, errors, page, sections},
};

use crate::stored::{keys, put, set_aside_in};

const CLIENT: &str = "device-1";
const PROGRAM: &str = "mqtt-device";
const REDIS: &str = "mqtt-redis";
const ABOUT: &str = "MqttPersistence";

/// Defines a test per fault: its sections, each followed to its end.
macro_rules! faults {
    ($($test:ident: $fault:ident $($section:literal)+;)*) => {
        const FOLLOWED: &[&str] = &[$($($section),+),*];

        $(#[test]
        fn $test() {
            $fault(&[$($section),+]);
        })*
    };
}

faults! {
    section_of_killed_redis_is_true: killed_redis "StoreDown" "Restarting" "TargetDown";
    section_of_closed_connections_is_true: closed_connections "StoreFlapping";
    section_of_too_large_message_is_true: too_large_message "StoreHeldLarge" "StoreUnconfirmed";
    section_of_slow_redis_is_true: slow_redis "PutsSlow";
    section_of_refused_puts_is_true: refused_puts "PutsFailing";
    section_of_refused_get_is_true: refused_get "CallsFailing";
    section_of_stuck_call_is_true: stuck_call "CallStuck";
    section_of_emptied_redis_is_true: emptied_redis "RecordsLost";
    section_of_lost_session_is_true: lost_session "MessagesDropped";
    section_of_unreadable_records_is_true: unreadable_records "RecordsQuarantined";
    section_of_silent_broker_is_true: silent_broker "PoisonSuspected";
    section_of_damaged_message_is_true: damaged_message "RecordsDamaged";
    section_of_missing_broker_is_true: missing_broker "NearlyFull" "BacklogGrowing" "BacklogOld" "RestoreLarge" "BacklogGrowingUnseen";
    section_of_untaken_message_is_true: untaken_message "UndeliveredOld";
    section_of_missing_program_is_true: missing_program "BacklogUnattended";
    section_of_missing_client_is_true: missing_client "MetricsMissing";
}

/// Sections that `fleet_is_watched` follows, on its Prometheus.
const OF_PROMETHEUS: [&str; 5] = [
    "FleetStoresFailing",
    "FleetBacklogOld",
    "FleetTargetsDown",
    "Absent",
    "RegionDown",
];
/// Kinds whose line is followed below, in groups that share a Redis.
const MENDED: [&[&str]; 7] = [
    &["connection", "timeout", "out_of_memory", "lost"],
    &["misconf", "read_only", "busy"],
    &["authentication", "permission", "wrong_type"],
    &["loading", "eviction", "in_use"],
    &["tls", "protocol", "server"],
    &["not_synced"],
    &["not_replicated"],
];
/// Kinds whose line has no command.
const WITHOUT_COMMAND: [&str; 2] = ["unconfirmed", "other"];

#[test]
fn each_section_of_runbooks_is_followed() {
    let all: BTreeSet<String> = sections().into_keys().collect();
    let followed = FOLLOWED
        .iter()
        .chain(&OF_PROMETHEUS)
        .map(|name| format!("{ABOUT}{name}"));
    let order = ["Which alert comes first".to_owned()];
    assert_eq!(followed.chain(order).collect::<BTreeSet<_>>(), all);
}

#[test]
fn variables_of_runbooks_are_set_by_page() {
    let page = page();
    let steps = sections().into_values().flatten().map(|step| step.command);
    let lines = errors().into_iter().flat_map(|row| row.does);
    for command in steps.chain(lines) {
        for rest in command.split('$').skip(1) {
            let rest = rest.trim_start_matches('{');
            let end = rest.find(|c: char| !(c.is_ascii_uppercase() || c == '_'));
            let name = &rest[..end.unwrap_or(rest.len())];
            let is_set = name.is_empty() || page.contains(&format!("export {name}="));
            assert!(is_set, "{name}: {command}");
        }
    }
    for block in page.split("```sh\nexport ").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        let (code, text, _) = Shell::new(&[], &[]).run(&format!("set -eu\nexport {block}"));
        assert!(code == Some(0) && text.is_empty(), "{block}: {text}");
    }
}

#[test]
fn each_line_of_error_table_is_followed() {
    let rows = errors();
    let all: BTreeSet<&str> = rows.iter().map(|row| &*row.kind).collect();
    let followed = MENDED.iter().copied().flatten().chain(&WITHOUT_COMMAND);
    assert_eq!(followed.copied().collect::<BTreeSet<_>>(), all);
    for row in &rows {
        let has_command = !(row.sees.is_empty() && row.does.is_empty());
        assert_eq!(
            has_command,
            !WITHOUT_COMMAND.contains(&&*row.kind),
            "{}",
            row.kind
        );
    }
}

/// Redis and a program on one device, and the shell of somebody on call.
struct Site {
    redis: RedisServer,
    is_redis_up: bool,
    program: Program,
    shell: Shell,
    /// Key of the client's hash.
    key: String,
}

/// The program, as its unit starts and stops it.
enum Program {
    Device {
        device: Device,
        run: Option<Server>,
        address: String,
        status: i32,
        log: String,
    },
    /// Clients in this process, whose calls are made here as Paho would make them; dropped by a stop.
    Here(
        Option<Box<dyn ClientPersistence>>,
        #[expect(dead_code, reason = "it serves")] MetricsServer,
    ),
}

fn unused_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

fn shell(redis: &RedisServer, device: &str, broker: &str, key: &str) -> Shell {
    let variables = [
        ("CLIENT", CLIENT.to_owned()),
        ("DEVICE", device.to_owned()),
        ("BROKER", broker.to_owned()),
        ("PROGRAM", PROGRAM.to_owned()),
        ("REDIS", REDIS.to_owned()),
        ("SOCKET", redis.socket().display().to_string()),
        ("MQTT_BACKLOG_URL", redis.url()),
        ("MQTT_BACKLOG_KEY_PREFIX", String::new()),
        ("KEY", key.to_owned()),
        ("ACL_USER", "device".to_owned()),
        ("ACL_PASSWORD", "secret".to_owned()),
        ("ACL_RIGHT", "+hset".to_owned()),
    ];
    Shell::new(&variables, &[("mqtt-backlog", &tool())])
}

impl Site {
    /// A device that publishes with these options.
    fn device(redis: RedisServer, user: &str, broker: &str, options: &[&str]) -> Self {
        let own = ["--client-id", CLIENT, "--stop-timeout", "0"];
        let url = format!("{}{user}", redis.url());
        let device = Device::new(&format!("mqtt://{broker}"), &url, &[&own, options].concat());
        // No connection uses this loopback address as its source, so the port is free when the device starts again.
        let run = device.start(&["--listen", "127.0.0.2:0"]);
        let address = address(&run);
        let key = format!("{CLIENT}:{broker}");
        Self {
            shell: shell(&redis, &address, broker, &key),
            redis,
            is_redis_up: true,
            program: Program::Device {
                device,
                run: Some(run),
                address,
                status: 0,
                log: String::new(),
            },
            key,
        }
    }

    /// A program whose calls the test makes.
    fn here(
        redis: RedisServer,
        registry: Registry,
        persistence: impl ClientPersistence + 'static,
    ) -> Self {
        let server = MetricsServer::bind("127.0.0.1:0", registry).expect("a port");
        let address = server.local_addr().expect("TCP").to_string();
        let key = format!("{CLIENT}:broker:1883");
        Self {
            shell: shell(&redis, &address, &unused_address(), &key),
            redis,
            is_redis_up: true,
            program: Program::Here(Some(Box::new(persistence)), server),
            key,
        }
    }

    /// Follows sections to their ends.
    #[track_caller]
    fn follow(&mut self, names: &[&str]) {
        for name in names {
            let Self {
                redis,
                is_redis_up,
                program,
                shell,
                ..
            } = self;
            let state = std::cell::RefCell::new((redis, is_redis_up, program));
            shell.follow(
                &format!("{ABOUT}{name}"),
                |shell| {
                    let (redis, is_redis_up, program) = &mut *state.borrow_mut();
                    shell.show(&unit_of_redis(redis, **is_redis_up));
                    shell.show(&program.unit());
                },
                |asked| {
                    let (redis, is_redis_up, program) = &mut *state.borrow_mut();
                    match asked.split_once(' ') {
                        Some(("start", REDIS)) => {
                            redis.restart();
                            **is_redis_up = true;
                        }
                        Some(("stop", PROGRAM)) => program.stop(),
                        Some(("start", PROGRAM)) => program.start(),
                        Some(("restart", PROGRAM)) => {
                            program.stop();
                            program.start();
                        }
                        _ => panic!("systemctl {asked}"),
                    }
                },
            );
        }
    }

    fn kill_redis(&mut self) {
        self.redis.kill();
        self.is_redis_up = false;
    }

    fn ask(&self, command: &[&str]) {
        let mut asked = redis::cmd(command[0]);
        asked.arg(&command[1..]);
        asked
            .exec(&mut self.redis.connection())
            .expect("Redis takes it");
    }

    fn ready(&self) -> bool {
        let Program::Device { address, .. } = &self.program else {
            return true;
        };
        http_get(address, "/-/ready").0 == 200
    }

    /// Does what a line of the table says, which must show what it says and bring the store back.
    #[track_caller]
    fn mend(&mut self, row: &ErrorRow) {
        let unit = unit_of_redis(&self.redis, self.is_redis_up);
        self.shell.show(&unit);
        for (command, shown) in &row.sees {
            let (_, text, _) = self.shell.run(command);
            let shown = shown.as_deref().unwrap_or_default();
            assert!(text.contains(shown), "{}: {command}: {text}", row.kind);
        }
        for command in &row.does {
            let (code, text, asked) = self.shell.run(command);
            let refuses = text.contains("ERR") || text.contains("WRONG") || text.contains("NOPERM");
            assert!(
                code == Some(0) && !refuses,
                "{}: {command}: {text}",
                row.kind
            );
            if asked == [format!("start {REDIS}")] {
                self.redis.restart();
                self.is_redis_up = true;
            }
        }
        eventually(LIMIT, &format!("{} is mended", row.kind), || {
            self.ready().then_some(())
        });
    }

    /// Waits until the store is down for one of these reasons, by the log.
    #[track_caller]
    fn until_down(&self, kinds: &[&str]) {
        let Program::Device { run: Some(run), .. } = &self.program else {
            panic!("no device");
        };
        let is_down = || {
            let log = run.log();
            let error = log
                .lines()
                .rev()
                .find(|line| line.contains("error.type="))?;
            let named = kinds
                .iter()
                .any(|kind| error.contains(&format!("error.type=\"{kind}\"")));
            (named && !self.ready()).then_some(())
        };
        let found = testkit::poll(LIMIT, is_down);
        assert!(found.is_some(), "{kinds:?}: {}", run.log());
    }
}

fn unit_of_redis(redis: &RedisServer, is_active: bool) -> Unit<'static> {
    Unit {
        name: REDIS,
        is_active,
        pid: redis.pid(),
        status: 0,
        log: redis.log(),
    }
}

impl Program {
    fn unit(&self) -> Unit<'static> {
        let own = Unit {
            name: PROGRAM,
            is_active: true,
            pid: process::id(),
            status: 0,
            log: String::new(),
        };
        match self {
            Self::Here(..) => own,
            Self::Device { run: Some(run), .. } => Unit {
                pid: run.pid(),
                log: run.log(),
                ..own
            },
            Self::Device { status, log, .. } => Unit {
                is_active: false,
                status: *status,
                log: log.clone(),
                ..own
            },
        }
    }

    fn stop(&mut self) {
        match self {
            Self::Here(persistence, _) => drop(persistence.take()),
            Self::Device { run, log, .. } => {
                if let Some(mut ending) = run.take() {
                    ending.signal(libc::SIGTERM);
                    eventually(LIMIT, "the device ends", || {
                        ending.has_ended().then_some(())
                    });
                    *log = ending.log();
                }
            }
        }
    }

    fn start(&mut self) {
        if let Self::Device {
            device,
            run,
            address,
            ..
        } = self
            && run.is_none()
        {
            *run = Some(device.start(&["--listen", address]));
        }
    }

    /// Starts the device although it cannot start, and keeps its last words.
    fn fail(&mut self, redis: &str) {
        self.stop();
        if let Self::Device { status, log, .. } = self {
            let mut command = Command::new(example("device"));
            command.args(["--redis", redis, "--listen", "none", "--client-id", CLIENT]);
            let output = command.output().expect("the device runs");
            *status = output.status.code().expect("it ends by itself");
            *log = String::from_utf8_lossy(&output.stderr).into_owned();
        }
    }
}

/// A persistence of this crate with metrics, open as the client.
fn opened(
    redis: &RedisServer,
    set: fn(RedisPersistenceBuilder) -> RedisPersistenceBuilder,
) -> (Registry, impl ClientPersistence + use<>) {
    let (registry, metrics) = metrics();
    let persistence = set(RedisPersistence::builder().url(redis.url())).build();
    let mut persistence = persistence.expect("valid").instrument(&metrics);
    persistence.open(CLIENT, "broker:1883").expect("opens");
    (registry, persistence)
}

fn metrics() -> (Registry, PersistenceMetrics) {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    (registry, metrics)
}

/// A custom persistence, which refuses each put or lets one never return.
struct Custom {
    records: MemoryPersistence,
    blocks: Option<Receiver<()>>,
}

impl ClientPersistence for Custom {
    fn open(&mut self, client_id: &str, server_uri: &str) -> mqtt::Result<()> {
        self.records.open(client_id, server_uri)
    }

    fn close(&mut self) -> mqtt::Result<()> {
        self.records.close()
    }

    fn put(&mut self, _: &str, _: Vec<&[u8]>) -> mqtt::Result<()> {
        if let Some(blocks) = &self.blocks {
            // Until the test ends.
            let _ = blocks.recv();
        }
        Err(mqtt::Error::PersistenceError)
    }

    fn get(&mut self, key: &str) -> mqtt::Result<Vec<u8>> {
        self.records.get(key)
    }

    fn remove(&mut self, key: &str) -> mqtt::Result<()> {
        self.records.remove(key)
    }

    fn keys(&mut self) -> mqtt::Result<Vec<String>> {
        self.records.keys()
    }

    fn clear(&mut self) -> mqtt::Result<()> {
        self.records.clear()
    }

    fn contains_key(&mut self, key: &str) -> bool {
        self.records.contains_key(key)
    }
}

fn custom(blocks: Option<Receiver<()>>) -> (Registry, Instrumented<Custom>) {
    let (registry, metrics) = metrics();
    let records = MemoryPersistence::new();
    let mut persistence = Instrumented::new(Custom { records, blocks }, &metrics);
    persistence.open(CLIENT, "broker:1883").expect("opens");
    (registry, persistence)
}

fn killed_redis(sections: &[&str]) {
    let redis = RedisServer::with(&["--appendonly", "yes"]);
    let mut site = Site::device(redis, "", &unused_address(), &["--rate", "50"]);
    site.kill_redis();
    site.follow(&sections[..1]);

    site.kill_redis();
    let url = site.redis.url();
    site.program.fail(&url);
    site.follow(&sections[1..2]);

    site.follow(&sections[2..]);
}

fn closed_connections(sections: &[&str]) {
    let broker = Broker::start();
    let address = broker.url().replace("mqtt://", "");
    let mut site = Site::device(RedisServer::start(), "", &address, &["--rate", "50"]);
    site.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    site.follow(sections);
}

fn too_large_message(sections: &[&str]) {
    let redis = RedisServer::with(&["--proto-max-bulk-len", "1mb"]);
    let large = ["--rate", "1", "--payload", "1200000", "--buffer", "4"];
    let mut site = Site::device(redis, "", &unused_address(), &large);
    site.follow(sections);
}

fn slow_redis(sections: &[&str]) {
    let redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (registry, persistence) = opened(&redis, |options| options);
    Site::here(redis, registry, persistence).follow(sections);
}

fn refused_puts(sections: &[&str]) {
    let (registry, mut persistence) = custom(None);
    let refused = persistence.put("c5-1", vec![&record("c5-1", b"a reading")]);
    refused.expect_err("it is refused");
    Site::here(RedisServer::start(), registry, persistence).follow(sections);
}

fn refused_get(sections: &[&str]) {
    let mut redis = RedisServer::start();
    let (registry, mut persistence) = opened(&redis, |options| options.cache_limit(0));
    for key in ["c5-1", "c5-2", "c5-3"] {
        persistence
            .put(key, vec![&record(key, b"a reading")])
            .expect("put");
    }
    redis.kill();
    persistence.get("c5-1").expect_err("only Redis has it");
    Site::here(redis, registry, persistence).follow(sections);
}

fn stuck_call(sections: &[&str]) {
    let (release, blocks) = mpsc::channel();
    let (registry, mut persistence) = custom(Some(blocks));
    let calling = thread::spawn(move || {
        let refused = persistence.put("c5-1", vec![&record("c5-1", b"a reading")]);
        refused.expect_err("it is refused");
    });
    Site::here(RedisServer::start(), registry, MemoryPersistence::new()).follow(sections);
    drop(release);
    calling.join().expect("no panic");
}

fn emptied_redis(sections: &[&str]) {
    let redis = RedisServer::start();
    let (registry, mut persistence) = opened(&redis, |options| options.cache_limit(0));
    for key in ["c5-1", "q5-1", "q5-2"] {
        persistence
            .put(key, vec![&record(key, b"a reading")])
            .expect("put");
    }
    let mut site = Site::here(redis, registry, persistence);
    site.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    site.ask(&["FLUSHALL"]);
    site.follow(sections);
}

fn lost_session(sections: &[&str]) {
    let redis = RedisServer::start();
    let (registry, mut persistence) = opened(&redis, |options| options);
    // As Paho does when the broker has no session: the first remove comes with the connection.
    persistence
        .put("s5-1", vec![&record("s5-1", b"a reading")])
        .expect("put");
    persistence.remove("c5-0").expect("remove");
    persistence.keys().expect("keys");
    persistence.remove("s5-1").expect("remove");
    let mut site = Site::here(redis, registry, persistence);
    let discarded = format!("{}:discarded", site.key);
    eventually(LIMIT, "the message is kept", || {
        (!keys(&site.redis, &discarded).is_empty()).then_some(())
    });
    site.follow(sections);
    assert_eq!(keys(&site.redis, &site.key), ["c5-1"]);
}

fn unreadable_records(sections: &[&str]) {
    let redis = RedisServer::start();
    let broker = unused_address();
    let key = format!("{CLIENT}:{broker}");
    let quarantine = format!("{key}:quarantine");
    put(&redis, &key, "c5-900", b"nonsense");
    for foreign in ["c5-1", "c5-901"] {
        let value = record(foreign, b"a reading");
        set_aside_in(
            &redis,
            &quarantine,
            foreign,
            &value,
            "foreign",
            Duration::from_secs(60),
        );
    }
    // The key of one is in use by the time.
    let mut site = Site::device(redis, "", &broker, &["--rate", "50"]);
    eventually(LIMIT, "a message waits", || {
        let waits: bool = site
            .redis
            .connection()
            .hexists(&site.key, "c5-1")
            .expect("HEXISTS");
        waits.then_some(())
    });
    site.follow(sections);
    assert_eq!(keys(&site.redis, &quarantine), [""; 0]);
    assert!(keys(&site.redis, &site.key).contains(&"c5-901".to_owned()));
}

fn silent_broker(sections: &[&str]) {
    let broker = Broker::start();
    broker.withhold(Kind::Puback);
    let address = broker.url().replace("mqtt://", "");
    let mut site = Site::device(RedisServer::start(), "", &address, &["--rate", "50"]);
    eventually(LIMIT, "the message is in flight", || {
        let waits: bool = site
            .redis
            .connection()
            .hexists(&site.key, "s5-7")
            .expect("HEXISTS");
        waits.then_some(())
    });
    site.follow(sections);
    assert!(!keys(&site.redis, &site.key).contains(&"s5-7".to_owned()));
}

fn damaged_message(sections: &[&str]) {
    let redis = RedisServer::start();
    let (registry, mut persistence) = opened(&redis, |options| options);
    persistence
        .put("s5-1", vec![&record("s5-1", b"a reading")])
        .expect("put");
    let again = persistence.put("s5-1", vec![&record("s5-1", b"garbage!!")]);
    again.expect_err("it has other contents");
    Site::here(redis, registry, persistence).follow(sections);
}

fn missing_broker(sections: &[&str]) {
    let options = ["--rate", "50", "--buffer", "1000"];
    let mut site = Site::device(RedisServer::start(), "", &unused_address(), &options);
    eventually(LIMIT, "enough waits", || {
        let waits: bool = site
            .redis
            .connection()
            .hexists(&site.key, "c5-41")
            .expect("HEXISTS");
        waits.then_some(())
    });
    site.follow(sections);
    assert!(keys(&site.redis, &site.key).contains(&"c5-41".to_owned()));
}

fn untaken_message(sections: &[&str]) {
    let redis = RedisServer::start();
    let (registry, mut persistence) = opened(&redis, |options| options);
    persistence
        .put("q5-1", vec![&record("q5-1", b"an order")])
        .expect("put");
    Site::here(redis, registry, persistence).follow(sections);
}

fn missing_program(sections: &[&str]) {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    for key in ["c-1", "c-2", "s-7"] {
        put(
            &redis,
            "device-1:old.example:1883",
            key,
            &record(key, key.as_bytes()),
        );
    }
    let mut site = Site::here(redis, Registry::new(), MemoryPersistence::new());
    site.shell
        .set("BROKER", &broker.url().replace("mqtt://", ""));
    site.follow(sections);
    assert_eq!(broker.accepted().len(), 2);
}

fn missing_client(sections: &[&str]) {
    let (registry, _metrics) = metrics();
    Site::here(RedisServer::start(), registry, MemoryPersistence::new()).follow(sections);
}

fn row(kind: &str) -> ErrorRow {
    let mut rows = errors().into_iter();
    rows.find(|row| row.kind == kind)
        .expect("a line of the table")
}

/// A device that publishes to a broker, with a Redis of its own.
fn publishing(broker: &Broker, arguments: &[&str], user: &str) -> Site {
    let address = broker.url().replace("mqtt://", "");
    Site::device(
        RedisServer::with(arguments),
        user,
        &address,
        &["--rate", "50"],
    )
}

#[test]
fn errors_of_reaching_redis_are_mended() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("redis.conf");
    fs::write(&config, "port 0\nsave \"\"\nappendonly no\n").expect("a file");
    let broker = Broker::start();
    let address = broker.url().replace("mqtt://", "");
    let redis = RedisServer::configured(&config);
    let mut site = Site::device(redis, "", &address, &["--rate", "50"]);
    for kind in MENDED[0] {
        match *kind {
            "connection" => site.kill_redis(),
            "timeout" => site.redis.pause(),
            "out_of_memory" => site.ask(&["CONFIG", "SET", "maxmemory", "1"]),
            _ => site.ask(&["FLUSHALL"]),
        }
        if *kind != "lost" {
            site.until_down(&[kind]);
        }
        site.mend(&row(kind));
    }
    let text = fs::read_to_string(config).expect("its configuration");
    assert!(text.contains("maxmemory 128mb"), "{text}");
}

#[test]
fn errors_of_a_redis_that_refuses_are_mended() {
    let broker = Broker::start();
    let arguments = ["--save", "3600 1000000", "--busy-reply-threshold", "1"];
    let mut site = publishing(&broker, &arguments, "");
    let mut script: Option<JoinHandle<()>> = None;
    for kind in MENDED[1] {
        match *kind {
            "misconf" => {
                // A folder where the snapshot belongs, instead of a disk that is full.
                fs::create_dir(site.redis.dir().join(SNAPSHOT)).expect("a folder");
                site.ask(&["BGSAVE"]);
            }
            "read_only" => site.ask(&["REPLICAOF", "127.0.0.1", "1"]),
            _ => {
                let mut blocked = site.redis.connection();
                script = Some(thread::spawn(move || {
                    let killed = redis::cmd("EVAL")
                        .arg("while true do end")
                        .arg(0)
                        .exec(&mut blocked);
                    killed.expect_err("it is killed");
                }));
            }
        }
        site.until_down(&[kind, "timeout"]);
        site.mend(&row(kind));
    }
    script.expect("it ran").join().expect("no panic");
}

#[test]
fn aof_that_is_switched_off_is_mended() {
    let broker = Broker::start();
    let address = broker.url().replace("mqtt://", "");
    let redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let options = ["--rate", "50", "--durability", "synced"];
    let mut site = Site::device(redis, "", &address, &options);
    for kind in MENDED[5] {
        site.ask(&["CONFIG", "SET", "appendfsync", "everysec"]);
        site.ask(&["CONFIG", "SET", "appendonly", "no"]);
        site.until_down(&[kind]);
        site.mend(&row(kind));
    }
}

#[test]
fn refusal_without_replicas_is_mended() {
    let broker = Broker::start();
    let mut site = publishing(&broker, &[], "");
    for kind in MENDED[6] {
        site.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
        site.until_down(&[kind]);
        site.mend(&row(kind));
    }
}

#[test]
fn errors_of_rights_and_keys_are_mended() {
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("users.acl");
    let text = "user default on nopass ~* &* +@all\nuser device on >secret ~* &* +@all\n";
    fs::write(&users, text).expect("a file");
    let broker = Broker::start();
    let arguments = ["--aclfile", users.to_str().expect("UTF-8")];
    let mut site = publishing(&broker, &arguments, "?user=device&pass=secret");
    for kind in MENDED[2] {
        match *kind {
            "authentication" => {
                site.ask(&["ACL", "SETUSER", "device", "resetpass", ">another"]);
                site.ask(&["CLIENT", "KILL", "USER", "device"]);
            }
            "permission" => site.ask(&["ACL", "SETUSER", "device", "-hset"]),
            _ => {
                let key = site.key.clone();
                site.ask(&[
                    "EVAL",
                    "redis.call('DEL', KEYS[1]); redis.call('SET', KEYS[1], 'x')",
                    "1",
                    &key,
                ]);
            }
        }
        site.until_down(&[kind]);
        site.mend(&row(kind));
    }
}

#[test]
fn user_without_acl_file_is_mended() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    let address = broker.url().replace("mqtt://", "");
    let user = ["device", "on", ">secret", "~*", "&*", "+@all"];
    let created = redis::cmd("ACL")
        .arg("SETUSER")
        .arg(&user)
        .exec(&mut redis.connection());
    created.expect("a user");
    let login = "?user=device&pass=secret";
    let mut site = Site::device(redis, login, &address, &["--rate", "50"]);
    for kind in ["authentication", "permission"] {
        if kind == "authentication" {
            site.ask(&["ACL", "SETUSER", "device", "resetpass", ">another"]);
            site.ask(&["CLIENT", "KILL", "USER", "device"]);
        } else {
            site.ask(&["ACL", "SETUSER", "device", "-hset"]);
        }
        site.until_down(&[kind]);
        let mut row = row(kind);
        row.does.retain(|command| !command.ends_with("ACL LOAD"));
        assert_eq!(row.does.len(), 2, "{kind}");
        site.mend(&row);
    }
}

#[test]
fn probe_of_broker_wants_an_answer() {
    let broker = Broker::start();
    // The kernel accepts connections for it, as for a broker that is stopped.
    let frozen = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = frozen.local_addr().expect("an address");
    let steps = sections().into_values().flatten().map(|step| step.command);
    let probes: Vec<String> = steps.filter(|step| step.contains("/dev/tcp/")).collect();
    assert_eq!(probes.len(), 4);
    assert_eq!(probes.iter().collect::<BTreeSet<_>>().len(), 1);
    for (address, code, shown) in [
        (broker.url().replace("mqtt://", ""), 0, "20 02 00 00"),
        (silent.to_string(), 124, ""),
        (unused_address(), 1, "refused"),
    ] {
        let mut shell = Shell::new(&[("BROKER", address)], &[]);
        let (ended, text, _) = shell.run(&probes[0]);
        assert_eq!(ended, Some(code), "{text}");
        assert!(text.contains(shown), "{text}");
    }
}

#[test]
fn errors_of_a_start_are_mended() {
    const FILL: &str = "for i = 1, 8000 do redis.call('SET', 'filler:' .. i, 'x') end";
    let durable = [
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--key-load-delay",
        "100",
    ];
    let redis = RedisServer::with(&durable);
    let (registry, persistence) = opened(&redis, |options| options);
    let mut site = Site::here(redis, registry, persistence);

    // Another client of the same records.
    let url = site.redis.url();
    let second = RedisPersistence::builder()
        .url(&url)
        .open_timeout(Duration::from_millis(200));
    let mut second = second.build().expect("valid");
    let refused = second.open(CLIENT, "broker:1883").expect_err("in use");
    let kind = paho_mqtt_redis::Error::in_mqtt(&refused).map(|error| error.kind().as_str());
    assert_eq!(kind, Some("in_use"));
    site.mend(&row("in_use"));

    site.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    site.ask(&["CONFIG", "SET", "maxmemory", "128mb"]);
    let refusing = || {
        let options = RedisPersistence::builder()
            .url(&url)
            .eviction_check(EvictionCheck::Refuse);
        options
            .build()
            .expect("valid")
            .connect("another", "broker:1883")
    };
    assert_eq!(
        refusing().expect_err("it may evict").kind().as_str(),
        "eviction"
    );
    site.mend(&row("eviction"));
    refusing().expect("it evicts nothing");

    site.ask(&["EVAL", FILL, "0"]);
    site.redis.kill();
    let row = row("loading");
    thread::scope(|scope| {
        let Site { redis, shell, .. } = &mut site;
        let on_call = scope.spawn(move || {
            let (command, shown) = &row.sees[0];
            let shown = shown.as_deref().expect("what it shows");
            eventually(LIMIT, "Redis loads", || {
                shell.run(command).1.contains(shown).then_some(())
            });
            let (code, text, _) = shell.run(&row.does[0]);
            assert!(code == Some(0) && text.contains("loading:"), "{text}");
        });
        // It ends with the thread that starts it.
        redis.restart();
        on_call.join().expect("no panic");
    });
}

#[test]
fn errors_of_a_wrong_address_are_shown() {
    let redis = RedisServer::tcp();
    let urls = [
        redis.tcp_url().replace("redis://", "rediss://"),
        String::new(),
        format!("{}?db=99", redis.url()),
    ];
    let mut site = Site::here(redis, Registry::new(), MemoryPersistence::new());
    let metrics = MetricsServer::bind("127.0.0.1:0", Registry::new()).expect("a port");
    for (kind, url) in MENDED[4].iter().zip(urls) {
        let another = format!("redis://{}", metrics.local_addr().expect("TCP"));
        site.shell.set(
            "MQTT_BACKLOG_URL",
            if url.is_empty() { &another } else { &url },
        );
        site.mend(&row(kind));
    }
}

#[test]
fn order_of_alerts_is_asked_of_the_program() {
    let redis = RedisServer::start();
    let (registry, persistence) = opened(&redis, |options| options);
    let site = &mut Site::here(redis, registry, persistence);
    site.shell.follow(
        "Which alert comes first",
        |_| (),
        |asked| panic!("systemctl {asked}"),
    );
}
