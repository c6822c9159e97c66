//! Real devices in a real outage, watched by a real Prometheus and Alertmanager with the rules and boards of `dashboards/`. All times
//! of the rules are divided by a hundred.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use paho_mqtt_redis::{
    Instrumented, MemoryPersistence, MetricsServer, PersistenceMetrics, RedisPersistence,
    prometheus::Registry,
};
use serde_json::Value;
use testkit::{
    Alertmanager, Mosquitto, Prometheus, RedisServer, Server,
    dashboard::{Dashboard, Query, array, fill, path, text},
    device::{Device, address},
    eventually_queried, publish_command_of, record,
    rules::load,
    runbook::Shell,
};

/// Divisor of the times of the rules.
const FACTOR: u32 = 100;
/// Limit on an alert, which waits for up to 30 minutes divided by the factor; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// Value of `$__rate_interval`: twelve scrape intervals, while Grafana takes at least four. With four, one late scrape on a busy
/// machine could hide an increase.
const RATE_INTERVAL: &str = "3s";
/// Time between two points of a graph, short because some gauges are zero most of the time.
const STEP: Duration = Duration::from_millis(500);

/// Queries that may return only zeros in this outage, and the reason.
const MAY_BE_ZERO: [(&str, &str); 4] = [
    (
        "Calls under way",
        "few scrapes coincide with a call, which takes less than a millisecond",
    ),
    (
        "Suspected of poison",
        "no message is sent on many connections in vain",
    ),
    (
        "Connections and failed attempts",
        "no connection is made while the broker is away, and none is tried during a backoff",
    ),
    (
        "Refused messages",
        "not every device publishes as much as its limit before its broker is back",
    ),
];

/// Panels, and metrics in a query of another panel, that stay empty, and the reason.
const EMPTY: [(&str, &str); 2] = [
    (
        "Backlogs without a program",
        "no redis_exporter runs beside these devices",
    ),
    (
        "mqtt_persistence_store_earlier_records",
        "no program starts without its store",
    ),
];

fn stays_empty(query: &Query) -> bool {
    EMPTY
        .iter()
        .any(|(name, _)| *name == query.of || query.expression.contains(name))
}

/// Two devices whose broker will stop, one whose store will be full too, a gateway whose store will be down, and a device that is
/// off.
struct Fleet {
    started: Instant,
    broker: Mosquitto,
    a: (Device, Server, String),
    b: (Device, Server, String),
    full: (Device, Server, String),
    gateway: Gateway,
    off: String,
    // Dropped last: the devices end before their stores.
    stores: [RedisServer; 3],
}

impl Fleet {
    fn start() -> Self {
        let broker = Mosquitto::start();
        let stores = [(); 3].map(|()| RedisServer::start());
        let start = |store: &RedisServer, id: &str, options: &[&str]| {
            let options = [options, &["--client-id", id]].concat();
            let device = Device::new(&broker.url(), &store.url(), &options);
            // No connection uses this loopback address as its source, so the port is free when b starts again.
            let mut run = device.start(&["--listen", "127.0.0.2:0"]);
            device.wait_accepted(&mut run, 50);
            let address = address(&run);
            (device, run, address)
        };
        // So large that more than a megabyte waits within seconds.
        let large = ["--rate", "100", "--payload", "8000"];
        Self {
            started: Instant::now(),
            // Its backlog grows for as long as a busy machine needs to notice.
            a: start(&stores[0], "a", &["--rate", "100", "--buffer", "60000"]),
            b: start(&stores[1], "b", &["--rate", "100"]),
            full: start(&stores[2], "full", &large),
            broker,
            gateway: Gateway::start(),
            off: unused_address(),
            stores,
        }
    }

    fn targets(&self) -> [&str; 5] {
        let [a, b, full] = [&self.a, &self.b, &self.full].map(|device| &*device.2);
        [a, b, full, &self.gateway.address, &self.off]
    }

    fn stop_the_broker(&mut self) {
        self.broker.stop();
        for (device, run, address) in [&mut self.a, &mut self.b, &mut self.full] {
            device.wait_cut_off(run, &["--listen", address]);
        }
    }

    /// Kills device b, and restarts it at the same address once no interval of a rate has a sample of it.
    fn restart_b(&mut self, prometheus: &Prometheus) {
        let (device, run, address) = &mut self.b;
        run.kill();
        let up = format!("max_over_time(up{{instance=\"{address}\"}}[{RATE_INTERVAL}])");
        eventually_queried(LIMIT, "b is gone", || {
            (prometheus.value(&up) == Some(0.0)).then_some(())
        });
        *run = device.start(&["--listen", address]);
    }

    fn fill_store(&self) {
        set_max_memory(&self.stores[2], "1");
    }

    fn make_room_in_store(&self) {
        set_max_memory(&self.stores[2], "0");
    }
}

/// Loopback address on which nothing listens, and which nothing else uses.
fn unused_address() -> String {
    let listener = TcpListener::bind("127.0.0.3:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// Work that continues until this value is dropped.
struct Background {
    stop: Arc<AtomicBool>,
    work: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs `first` once, and then `again` repeatedly.
    fn repeat<T>(
        first: impl FnOnce() -> T + Send + 'static,
        mut again: impl FnMut(&mut T) + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = thread::spawn(move || {
            let mut state = first();
            while !stopped.load(Ordering::Relaxed) {
                again(&mut state);
            }
        });
        Self {
            stop,
            work: Some(work),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.work.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

fn set_max_memory(store: &RedisServer, bytes: &str) {
    let mut command = redis::cmd("CONFIG");
    command.arg("SET").arg("maxmemory").arg(bytes);
    let mut connection = store.connection();
    command.exec(&mut connection).expect("configured");
}

/// Program with three clients, whose calls are made here as Paho would make them. `busy` puts continuously, and each time a message
/// of it is discarded. `idle` has waiting messages of which only Redis has a copy, and has found one that Paho cannot read.
/// `refused` has a custom persistence, which returns an error if its store refuses a put.
struct Gateway {
    address: String,
    refuses: Arc<AtomicBool>,
    _calls: Background,
    // Dropped after the calls, which need it.
    store: RedisServer,
}

impl Gateway {
    fn start() -> Self {
        let store = RedisServer::start();
        let mut unreadable = redis::cmd("HSET");
        unreadable.arg("idle:broker").arg("c5-9").arg("nonsense");
        unreadable.exec(&mut store.connection()).expect("a record");

        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).expect("registers");
        let open = |id: &str, cache_limit: usize| {
            let options = RedisPersistence::builder().url(store.url());
            let options = options.cache_limit(cache_limit);
            let mut persistence = options.build().expect("valid").instrument(&metrics);
            persistence.open(id, "broker").expect("opens");
            persistence
        };
        let mut idle = open("idle", 0);
        // The cache has a copy of the youngest record, so Redis can only lose the others.
        for key in ["c5-1", "q5-1", "q5-2"] {
            idle.put(key, vec![&record(key, b"a message")])
                .expect("put");
        }
        let mut busy = open("busy", 1024 * 1024);
        let refuses = Arc::new(AtomicBool::new(false));
        let refusing = Refusing {
            records: MemoryPersistence::new(),
            refuses: Arc::clone(&refuses),
        };
        let mut foreign = Instrumented::new(refusing, &metrics);
        foreign.open("refused", "broker").expect("opens");

        let server = MetricsServer::bind("127.0.0.1:0", registry).expect("a port");
        let address = server.local_addr().unwrap().to_string();
        let calls = Background::repeat(
            move || (server, idle),
            move |_| {
                accept_and_send(&mut busy).expect("accepted during an outage too");
                discard(&mut busy).expect("accepted during an outage too");
                // Fails while it is refused, which the metrics must show.
                let _ = accept_and_send(&mut foreign);
                thread::park_timeout(Duration::from_millis(20));
            },
        );
        Self {
            address,
            refuses,
            _calls: calls,
            store,
        }
    }

    fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }
}

/// Puts and removes a message at QoS 0, which waits and is sent.
fn accept_and_send(persistence: &mut impl ClientPersistence) -> mqtt::Result<()> {
    persistence.put("c5-1", vec![&publish_command_of("c5-1", 0, 0)])?;
    persistence.get("c5-1")?;
    persistence.remove("c5-1")
}

/// Puts and removes a message in flight, as Paho does if its session is gone.
fn discard(persistence: &mut impl ClientPersistence) -> mqtt::Result<()> {
    persistence.put("s5-1", vec![&record("s5-1", b"a reading")])?;
    persistence.keys()?;
    persistence.remove("s5-1")
}

/// Custom persistence for the metrics: it reports no store and returns its errors.
struct Refusing {
    records: MemoryPersistence,
    refuses: Arc<AtomicBool>,
}

impl ClientPersistence for Refusing {
    fn open(&mut self, client_id: &str, server_uri: &str) -> mqtt::Result<()> {
        self.records.open(client_id, server_uri)
    }

    fn close(&mut self) -> mqtt::Result<()> {
        self.records.close()
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> mqtt::Result<()> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(mqtt::Error::PersistenceError);
        }
        self.records.put(key, buffers)
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

/// Fault of the answer to a query, if it has one.
fn fault_of(
    prometheus: &Prometheus,
    query: &Query,
    selected: &[(&str, &[&str])],
    last: Duration,
    may_be_zero: bool,
) -> Option<String> {
    let range = format!("{}ms", last.as_millis());
    let expression = fill(&query.expression, selected, RATE_INTERVAL, &range);
    let answer = if query.instant {
        prometheus.query(&expression)
    } else {
        prometheus.query_range(&expression, last, STEP)
    };
    let series = array(&answer["data"]["result"]);
    let samples = series.iter().flat_map(|series| {
        let instant = series.get("value");
        array(&series["values"]).iter().chain(instant)
    });
    let mut numbers = samples.map(|sample| text(&sample[1]).parse::<f64>().expect("a number"));
    let has_value = numbers.any(|number| number != 0.0 && !number.is_nan());
    if series.is_empty() {
        Some(format!("{}: no series: {expression}", query.of))
    } else if !has_value && !may_be_zero {
        Some(format!("{}: nothing but zeros: {expression}", query.of))
    } else {
        None
    }
}

fn may_be_zero(query: &Query) -> bool {
    MAY_BE_ZERO.iter().any(|(of, _)| *of == query.of)
}

/// Firing alerts, by name, device and severity.
fn firing(prometheus: &Prometheus) -> BTreeMap<(String, String, String), Value> {
    let answer = prometheus.query(r#"ALERTS{alertstate="firing"}"#);
    let alerts = array(&answer["data"]["result"]).iter();
    let labels = |alert: &Value, name: &str| text(&alert["metric"][name]).to_owned();
    alerts
        .map(|alert| {
            let key = (
                labels(alert, "alertname"),
                labels(alert, "instance"),
                labels(alert, "severity"),
            );
            (key, alert["metric"].clone())
        })
        .collect()
}

fn fires(prometheus: &Prometheus, name: &str, instance: &str) -> bool {
    let firing = firing(prometheus);
    firing
        .keys()
        .any(|(alert, device, _)| alert == name && device == instance)
}

#[track_caller]
fn until_firing(prometheus: &Prometheus, name: &str, instance: &str) {
    eventually_queried(LIMIT, &format!("{name} of '{instance}' fires"), || {
        fires(prometheus, name, instance).then_some(())
    });
}

#[track_caller]
fn until_quiet(prometheus: &Prometheus, name: &str, instance: &str) {
    eventually_queried(LIMIT, &format!("{name} of '{instance}' resolves"), || {
        (!fires(prometheus, name, instance)).then_some(())
    });
}

/// Repeats until there is no fault: a late scrape on a busy machine leaves a gap.
#[track_caller]
fn until_faultless(selection: &str, mut find: impl FnMut() -> Vec<String>) {
    let started = Instant::now();
    let mut least = find();
    while !least.is_empty() {
        assert!(started.elapsed() < LIMIT, "{selection}: {least:#?}");
        thread::park_timeout(STEP);
        let wrong = find();
        if wrong.len() < least.len() {
            least = wrong;
        }
    }
}

/// Faults of every query of both boards with 'All' selected, and of the lists of the variables.
fn faults_of_boards(prometheus: &Prometheus, last: Duration) -> Vec<String> {
    let mut wrong = Vec::new();
    for board in Dashboard::all() {
        let mut queries = board.queries();
        queries.retain(|query| !stays_empty(query));
        for query in queries {
            let fault = fault_of(prometheus, &query, &[], last, may_be_zero(&query));
            wrong.extend(fault.map(|fault| format!("{}: {fault}", board.file)));
        }
        let variables = board.variables().iter();
        for variable in variables.filter(|variable| variable["type"] == "query") {
            let query = fill(text(&variable["query"]), &[], RATE_INTERVAL, "1h");
            let (selector, label) = query
                .strip_prefix("label_values(")
                .and_then(|query| query.strip_suffix(')')?.rsplit_once(", "))
                .unwrap_or_else(|| panic!("not label_values: {query}"));
            if prometheus.label_values(label, selector).is_empty() {
                wrong.push(format!("{}: no values: {query}", board.file));
            }
        }
    }
    wrong
}

/// Faults of the device board as the link from the fleet board selects it: one job, one instance, one client.
fn faults_of_device(prometheus: &Prometheus, instance: &str, last: Duration) -> Vec<String> {
    let selected: [(&str, &[&str]); 3] = [
        ("job", &["device"]),
        ("instance", &[instance]),
        ("client_id", &["a"]),
    ];
    // It was not restarted, no call has failed, it restored nothing, nothing was dropped, and its store was up throughout.
    let without_series = [
        "Errors",
        "Restarts",
        "Errors of the store",
        "Dropped records",
        "Set aside and gone",
    ];
    let zeros = [
        "Store",
        "Application",
        "Restarts",
        "Restored records",
        "Records held or unconfirmed",
        "Bytes held or unconfirmed",
        "Reconnects",
        "Lost records",
        "Quarantined records",
        "Suspected of poison",
        "Records set aside",
        "Bytes set aside",
    ];
    let board = Dashboard::load("device");
    let queries = board.queries().into_iter();
    let mut wrong: Vec<String> = queries
        .filter(|query| !without_series.contains(&query.of.as_str()) && !stays_empty(query))
        .filter_map(|query| {
            let may_be_zero = may_be_zero(&query) || zeros.contains(&query.of.as_str());
            fault_of(prometheus, &query, &selected, last, may_be_zero)
        })
        .collect();

    // The three tiles point to the link.
    for (title, expected) in [("Link", 1.0), ("Store", 0.0), ("Application", 0.0)] {
        let queries = board.queries();
        let tile = queries.iter().find(|query| query.of == title);
        let tile = tile.unwrap_or_else(|| panic!("no tile {title}"));
        let expression = fill(&tile.expression, &selected, RATE_INTERVAL, "1h");
        let value = prometheus.value(&expression);
        if value != Some(expected) {
            wrong.push(format!("{title}: {value:?}"));
        }
    }
    wrong
}

/// Faults with two devices selected, which Grafana makes alternatives in one expression.
fn faults_of_two_devices(
    prometheus: &Prometheus,
    instances: [&str; 2],
    last: Duration,
) -> Vec<String> {
    let board = Dashboard::load("device");
    let queries = board.queries();
    let reachable = queries
        .iter()
        .find(|query| query.of == "Reachable")
        .expect("a panel");
    let range = format!("{}ms", last.as_millis());
    let selected: [(&str, &[&str]); 1] = [("instance", &instances)];
    let expression = fill(&reachable.expression, &selected, RATE_INTERVAL, &range);
    let answer = prometheus.query(&expression);
    let series = array(&answer["data"]["result"]).len();
    if series == 2 {
        Vec::new()
    } else {
        vec![format!("{series} series: {expression}")]
    }
}

/// Checks that a query without results, or with only zeros, is reported.
fn assert_empty_answers_are_faults(prometheus: &Prometheus, last: Duration) {
    for (expression, expected) in [
        (r#"up{job=~"$job", site="nowhere"}"#, "no series"),
        (r#"0 * up{job=~"$job"}"#, "nothing but zeros"),
    ] {
        for instant in [true, false] {
            let query = Query {
                of: "Doctored".to_owned(),
                expression: expression.to_owned(),
                instant,
            };
            let fault = fault_of(prometheus, &query, &[], last, false);
            assert!(
                fault.is_some_and(|fault| fault.contains(expected)),
                "{expression}"
            );
        }
    }
}

/// Checks that Prometheus has every rule and that none has failed.
fn assert_rules_are_healthy(prometheus: &Prometheus) {
    let groups = prometheus.get("rules");
    let groups = array(&groups["data"]["groups"]);
    let rules: Vec<&Value> = groups
        .iter()
        .flat_map(|group| array(&group["rules"]))
        .collect();
    assert_eq!(rules.len(), load().len());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}

/// Returns once Alertmanager has an alert, true if another one inhibits it.
fn is_inhibited(alertmanager: &Alertmanager, name: &str, instance: &str) -> Option<bool> {
    let alerts = alertmanager.get("alerts");
    let alert = array(&alerts).iter().find(|alert| {
        let labels = &alert["labels"];
        labels["alertname"] == name && text(&labels["instance"]) == instance
    })?;
    Some(!array(&alert["status"]["inhibitedBy"]).is_empty())
}

/// Waits until Redis has every record, and few messages wait for the broker.
fn until_caught_up(prometheus: &Prometheus) {
    eventually_queried(
        LIMIT,
        "no message waits, and no record is only in memory",
        || {
            let waiting = "sum(instance_client_id:mqtt_persistence_waiting_messages:sum)";
            let in_memory = "sum(instance_client_id:mqtt_persistence_store_held_bytes:sum)";
            let waiting = prometheus.value(waiting)?;
            (waiting < 20.0 && prometheus.value(in_memory) == Some(0.0)).then_some(())
        },
    );
}

/// Waits until the board names the link as what holds up the backlog of a device.
fn until_link_is_suspected(prometheus: &Prometheus, device: &str) {
    eventually_queried(LIMIT, "the link is the suspect", || {
        let suspects = prometheus.query(&format!(
            "instance_client_id_suspect:mqtt_persistence_backlog:group{{instance=\"{device}\"}}"
        ));
        let suspects = array(&suspects["data"]["result"]).iter();
        let mut names = suspects.map(|suspect| text(&suspect["metric"]["suspect"]).to_owned());
        names.next().filter(|name| name == "link")
    });
}

/// Follows the sections of the runbooks for somebody who is logged in on the Prometheus of the fleet.
fn follow_runbooks(prometheus: &Prometheus, broker: &str) {
    let config = path("provisioning/prometheus/prometheus.yml");
    let variables = [
        ("PROMETHEUS", format!("http://{}", prometheus.address())),
        ("CONFIG", config.display().to_string()),
        ("BROKER", broker.to_owned()),
    ];
    let mut shell = Shell::new(&variables, &[]);
    for alert in [
        "FleetStoresFailing",
        "FleetBacklogOld",
        "FleetTargetsDown",
        "Absent",
    ] {
        let section = format!("MqttPersistence{alert}");
        shell.follow(&section, |_| (), |asked| panic!("systemctl {asked}"));
    }
}

#[test]
fn outage_shows_on_boards_and_its_alerts_resolve() {
    let mut fleet = Fleet::start();
    let alertmanager = Alertmanager::start(&path("provisioning/alertmanager/alertmanager.yml"));
    let prometheus = Prometheus::with_rules(&fleet.targets(), FACTOR, &alertmanager.address());
    let (a, b) = (fleet.a.2.clone(), fleet.b.2.clone());
    let (full, off) = (fleet.full.2.clone(), fleet.off.clone());
    let gateway = fleet.gateway.address.clone();
    eventually_queried(LIMIT, "all is scraped, and messages get through", || {
        let through = "count(instance_client_id:mqtt_persistence_delivered_messages:rate2m > 5)";
        (prometheus.value(through) == Some(5.0)).then_some(())
    });
    // This alert is in another group of rules, which is evaluated at another time.
    eventually_queried(LIMIT, "the devices are counted", || {
        let devices = prometheus.value("job:mqtt_persistence_devices:count")?;
        (devices >= 4.0).then_some(())
    });
    let down = "sum(instance_client_id:mqtt_persistence_store_down:bool)";
    assert_eq!(prometheus.value(down), Some(0.0));
    until_firing(&prometheus, "MqttPersistenceRecordsQuarantined", &gateway);

    fleet.stop_the_broker();
    fleet.fill_store();
    fleet.gateway.refuse(true);
    fleet.gateway.store.kill();
    fleet.b.0.wait_accepted(&mut fleet.b.1, 100);
    fleet.restart_b(&prometheus);
    for (name, instance) in [
        ("MqttPersistenceStoreDown", &*full),
        ("MqttPersistenceStoreDown", &gateway),
        ("MqttPersistenceStoreHeldLarge", &full),
        ("MqttPersistencePutsFailing", &gateway),
        ("MqttPersistenceFleetStoresFailing", ""),
        ("MqttPersistenceBacklogOld", &a),
        ("MqttPersistenceBacklogOld", &b),
        ("MqttPersistenceUndeliveredOld", &gateway),
        ("MqttPersistenceTargetDown", &off),
        ("MqttPersistenceFleetBacklogOld", ""),
    ] {
        until_firing(&prometheus, name, instance);
    }
    // A device whose store is full continues, and its calls do not fail.
    assert!(!fleet.full.1.has_ended(), "{}", fleet.full.1.log());
    let errors = "sum(mqtt_persistence_operation_errors_total{client_id!=\"refused\"})";
    assert_eq!(prometheus.value(errors), Some(0.0));

    // The store comes back empty, and every record with a copy is written again.
    fleet.gateway.store.restart();
    until_firing(&prometheus, "MqttPersistenceRecordsLost", &gateway);
    until_quiet(&prometheus, "MqttPersistenceStoreDown", &gateway);
    until_firing(&prometheus, "MqttPersistenceMessagesDropped", &gateway);

    follow_runbooks(&prometheus, &unused_address());

    let since = || fleet.started.elapsed();
    assert_rules_are_healthy(&prometheus);
    until_faultless("all devices", || faults_of_boards(&prometheus, since()));
    until_faultless("one device", || faults_of_device(&prometheus, &a, since()));
    until_faultless("two devices", || {
        faults_of_two_devices(&prometheus, [&a, &b], since())
    });
    assert_empty_answers_are_faults(&prometheus, since());
    // The longest hold time, which has passed meanwhile.
    until_firing(&prometheus, "MqttPersistenceBacklogGrowing", &a);
    for (name, instance, expected) in [
        ("MqttPersistenceFleetBacklogOld", "", false),
        ("MqttPersistenceBacklogOld", &*a, true),
        ("MqttPersistenceFleetStoresFailing", "", false),
        ("MqttPersistenceStoreDown", &full, true),
        ("MqttPersistencePutsFailing", &gateway, true),
        ("MqttPersistenceTargetDown", &off, false),
    ] {
        let expectation = format!("Alertmanager has {name}, inhibited: {expected}");
        eventually_queried(LIMIT, &expectation, || {
            let inhibited = is_inhibited(&alertmanager, name, instance);
            (inhibited == Some(expected)).then_some(())
        });
    }

    fleet.gateway.refuse(false);
    fleet.make_room_in_store();
    fleet.broker.restart();
    for (name, instance) in [
        ("MqttPersistenceFleetStoresFailing", ""),
        ("MqttPersistenceStoreDown", &*full),
        ("MqttPersistenceStoreHeldLarge", &full),
        ("MqttPersistencePutsFailing", &gateway),
        ("MqttPersistenceFleetBacklogOld", ""),
        ("MqttPersistenceBacklogOld", &a),
        ("MqttPersistenceBacklogOld", &b),
        ("MqttPersistenceBacklogGrowing", &a),
    ] {
        until_quiet(&prometheus, name, instance);
    }
    assert!(!fleet.full.1.has_ended(), "{}", fleet.full.1.log());
    until_caught_up(&prometheus);

    // The connection is up, but messages are sent and never acknowledged.
    fleet.broker.pause();
    until_link_is_suspected(&prometheus, &a);
    fleet.broker.resume();
}
