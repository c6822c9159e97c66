//! Real devices, a real outage, and what a real Prometheus and Alertmanager make of it with the rules and boards of
//! `dashboards/`, all times of the rules a hundredth of what they are.

#![cfg(all(feature = "redis", feature = "server"))]

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{MetricsServer, PersistenceMetrics, RedisPersistence, prometheus::Registry};
use serde_json::Value;
use support::{
    Alertmanager, Mosquitto, Prometheus, RedisServer, Server,
    dashboard::{Dashboard, Query, array, fill, path, text},
    device::Device,
    eventually,
    rules::load,
};

/// What the times of the rules are divided by.
const FACTOR: u32 = 100;
/// An alert waits for up to 30 minutes, divided by the factor; the rest is for a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(90);
/// What Grafana takes for `$__rate_interval` at a scrape interval of 250 ms: four of them.
const RATE_INTERVAL: &str = "1s";
const STEP: Duration = Duration::from_millis(500);

/// The queries that may answer with nothing but zeros in this outage, and why.
const MAY_BE_ZERO: [(&str, &str); 1] = [(
    "Calls under way",
    "a scrape rarely meets a call that takes less than a millisecond",
)];

/// Two devices whose broker will go away, one that ends again and again since its store is full, and a gateway whose store
/// will be full.
struct Fleet {
    started: Instant,
    broker: Mosquitto,
    a: (Device, Server, String),
    b: (Device, Server, String),
    gateway: Gateway,
    crashing: Crashing,
    // Last, since the devices end before their stores.
    _stores: [RedisServer; 2],
}

impl Fleet {
    fn start() -> Self {
        let broker = Mosquitto::start();
        let stores = [RedisServer::start(), RedisServer::start()];
        let start = |store: &RedisServer, id: &str| {
            let options = ["--rate", "200", "--client-id", id];
            let device = Device::new(&broker.url(), &store.url(), &options);
            // No connection comes from this address of the loopback, so that none has the port when b starts again.
            let mut run = device.start(&["--listen", "127.0.0.2:0"]);
            device.wait_accepted(&mut run, 50);
            let address = address(&run);
            (device, run, address)
        };
        Self {
            started: Instant::now(),
            a: start(&stores[0], "a"),
            b: start(&stores[1], "b"),
            crashing: Crashing::start(broker.url()),
            broker,
            gateway: Gateway::start(),
            _stores: stores,
        }
    }

    fn targets(&self) -> [&str; 4] {
        let crashing = &self.crashing.address;
        [&self.a.2, &self.b.2, &self.gateway.address, crashing]
    }

    /// Kills device b, and starts it again at the same address.
    fn restart_b(&mut self) {
        let (device, run, address) = &mut self.b;
        run.kill();
        *run = device.start(&["--listen", address]);
    }
}

/// Where a device serves its metrics, as it says itself.
fn address(run: &Server) -> String {
    let log = run.log();
    let address = log.lines().find_map(|line| {
        line.strip_prefix("metrics at http://")?
            .strip_suffix("/metrics")
    });
    address
        .unwrap_or_else(|| panic!("no address in {log}"))
        .to_owned()
}

/// Work that goes on until this value is dropped.
struct Background {
    stop: Arc<AtomicBool>,
    work: Option<JoinHandle<()>>,
}

impl Background {
    /// Does `first`, and then `again` over and over.
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

/// A device that ends when it cannot publish, as the README advises, and a supervisor that starts it again at once.
struct Crashing {
    address: String,
    _supervisor: Background,
}

impl Crashing {
    fn start(broker: String) -> Self {
        let (sender, addresses) = mpsc::channel();
        // Device and store live as long as the thread that starts them.
        let first = move || {
            let store = RedisServer::start();
            let options = ["--client-id", "crashing", "--rate", "200"];
            let device = Device::new(&broker, &store.url(), &options);
            let run = device.start(&["--listen", "127.0.0.3:0"]);
            let address = address(&run);
            sender.send(address.clone()).expect("somebody waits for it");
            set_max_memory(&store, "1");
            (run, device, address, store)
        };
        let supervisor = Background::repeat(first, |(run, device, address, _store)| {
            assert!(!run.wait().success());
            *run = device.start(&["--listen", address]);
        });
        Self {
            address: addresses.recv().expect("an address"),
            _supervisor: supervisor,
        }
    }
}

fn set_max_memory(store: &RedisServer, bytes: &str) {
    let mut command = redis::cmd("CONFIG");
    command.arg("SET").arg("maxmemory").arg(bytes);
    let mut connection = store.connection();
    command.exec(&mut connection).expect("configured");
}

/// A program with two clients, whose calls are made here as Paho would make them: one puts all the time, also when its Redis
/// is full, after which a real client would be gone; the other has a message that nobody takes.
struct Gateway {
    address: String,
    store: RedisServer,
    _puts: Background,
}

impl Gateway {
    fn start() -> Self {
        let store = RedisServer::start();
        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).expect("registers");
        let open = |id: &str| {
            let options = RedisPersistence::builder().url(store.url());
            let mut persistence = options.build().expect("valid").instrument(&metrics);
            persistence.open(id, "broker").expect("opens");
            persistence
        };
        let mut idle = open("idle");
        idle.put("q5-1", vec![b"a message"]).expect("put");
        let mut busy = open("busy");
        let server = MetricsServer::bind("127.0.0.1:0", registry).expect("a port");
        let address = server.local_addr().to_string();
        let puts = Background::repeat(
            move || (server, idle),
            move |_| {
                // It fails while Redis is full, which is what the metrics are to show.
                let _ = busy.put("c5-1", vec![b"a reading"]);
                let _ = busy.remove("c5-1");
                thread::park_timeout(Duration::from_millis(20));
            },
        );
        Self {
            address,
            store,
            _puts: puts,
        }
    }
}

/// What is wrong with the answer to a query.
fn complaint(
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
    let lives = numbers.any(|number| number != 0.0 && !number.is_nan());
    if series.is_empty() {
        Some(format!("{}: no series: {expression}", query.of))
    } else if !lives && !may_be_zero {
        Some(format!("{}: nothing but zeros: {expression}", query.of))
    } else {
        None
    }
}

fn may_be_zero(query: &Query) -> bool {
    MAY_BE_ZERO.iter().any(|(of, _)| *of == query.of)
}

/// The alerts that are firing, by name, device and severity.
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
    eventually(LIMIT, &format!("{name} of '{instance}' fires"), || {
        fires(prometheus, name, instance).then_some(())
    });
}

#[track_caller]
fn until_quiet(prometheus: &Prometheus, name: &str, instance: &str) {
    eventually(LIMIT, &format!("{name} of '{instance}' resolves"), || {
        (!fires(prometheus, name, instance)).then_some(())
    });
}

/// Asks until nothing is wrong, since a scrape that is late on a busy machine leaves a gap.
#[track_caller]
fn until_right(what: &str, mut look: impl FnMut() -> Vec<String>) {
    let mut wrong = Vec::new();
    let started = Instant::now();
    while started.elapsed() < LIMIT {
        wrong = look();
        if wrong.is_empty() {
            return;
        }
        thread::park_timeout(STEP);
    }
    panic!("{what}: {wrong:#?}");
}

/// What is wrong with every query of both boards with 'All' selected, and with the lists of the variables.
fn look_at_all(prometheus: &Prometheus, last: Duration) -> Vec<String> {
    let mut wrong = Vec::new();
    for board in Dashboard::all() {
        for query in board.queries() {
            let complaint = complaint(prometheus, &query, &[], last, may_be_zero(&query));
            wrong.extend(complaint.map(|complaint| format!("{}: {complaint}", board.file)));
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

/// What is wrong with the board of a device, come upon by the link from the fleet's: one job, one instance, one client.
fn look_at_one(prometheus: &Prometheus, instance: &str, last: Duration) -> Vec<String> {
    let selected: [(&str, &[&str]); 3] = [
        ("job", &["device"]),
        ("instance", &[instance]),
        ("client_id", &["a"]),
    ];
    // It has not been started again, nothing has failed, and it restored nothing.
    let without_series = ["Errors", "Restarts"];
    let zeros = ["Store", "Application", "Restarts", "Restored records"];
    let board = Dashboard::load("device");
    let queries = board.queries().into_iter();
    let mut wrong: Vec<String> = queries
        .filter(|query| !without_series.contains(&query.of.as_str()))
        .filter_map(|query| {
            let may_be_zero = may_be_zero(&query) || zeros.contains(&query.of.as_str());
            complaint(prometheus, &query, &selected, last, may_be_zero)
        })
        .collect();

    // The three tiles say that it is the link.
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

/// What is wrong where two devices are selected, which Grafana makes alternatives of one expression.
fn look_at_two(prometheus: &Prometheus, instances: [&str; 2], last: Duration) -> Vec<String> {
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

/// That a query which finds nothing, or nothing but zeros, would have been noticed.
fn look_at_nothing(prometheus: &Prometheus, last: Duration) {
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
            let complaint = complaint(prometheus, &query, &[], last, false);
            assert!(
                complaint.is_some_and(|complaint| complaint.contains(expected)),
                "{expression}"
            );
        }
    }
}

/// Every rule is there and none has failed.
fn look_at_rules(prometheus: &Prometheus) {
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

/// Whether Alertmanager keeps an alert back because of another; nothing, while it does not have it.
fn is_inhibited(alertmanager: &Alertmanager, name: &str, instance: &str) -> Option<bool> {
    let alerts = alertmanager.get("alerts");
    let alert = array(&alerts).iter().find(|alert| {
        let labels = &alert["labels"];
        labels["alertname"] == name && text(&labels["instance"]) == instance
    })?;
    Some(!array(&alert["status"]["inhibitedBy"]).is_empty())
}

#[test]
fn an_outage_is_on_the_boards_and_fires_alerts_that_resolve() {
    let mut fleet = Fleet::start();
    let alertmanager = Alertmanager::start(&path("provisioning/alertmanager/alertmanager.yml"));
    let prometheus = Prometheus::with_rules(&fleet.targets(), FACTOR, &alertmanager.address());
    let (a, b) = (fleet.a.2.clone(), fleet.b.2.clone());
    let gateway = fleet.gateway.address.clone();
    eventually(LIMIT, "all is scraped, and messages get through", || {
        let through = "count(instance_client_id:mqtt_persistence_delivered_messages:rate2m > 5)";
        (prometheus.value(through) == Some(3.0)).then_some(())
    });
    let devices = prometheus.value("job:mqtt_persistence_devices:count");
    assert!(devices.is_some_and(|devices| devices >= 3.0), "{devices:?}");

    fleet.broker.stop();
    set_max_memory(&fleet.gateway.store, "1");
    fleet.b.0.wait_accepted(&mut fleet.b.1, 200);
    fleet.restart_b();
    for (name, instance) in [
        ("MqttPersistenceBacklogOld", &*a),
        ("MqttPersistenceBacklogOld", &b),
        ("MqttPersistenceBacklogGrowing", &a),
        ("MqttPersistencePutsFailing", &gateway),
        ("MqttPersistenceUndeliveredOld", &gateway),
        ("MqttPersistenceTargetDown", &fleet.crashing.address),
        ("MqttPersistenceFleetBacklogOld", ""),
    ] {
        until_firing(&prometheus, name, instance);
    }

    let last = fleet.started.elapsed();
    look_at_rules(&prometheus);
    until_right("all devices", || look_at_all(&prometheus, last));
    until_right("one device", || look_at_one(&prometheus, &a, last));
    until_right("two devices", || look_at_two(&prometheus, [&a, &b], last));
    look_at_nothing(&prometheus, last);
    for (name, instance, expected) in [
        ("MqttPersistenceFleetBacklogOld", "", false),
        ("MqttPersistenceBacklogOld", &*a, true),
        ("MqttPersistencePutsFailing", &gateway, false),
    ] {
        let what = format!("Alertmanager has {name}, inhibited: {expected}");
        eventually(LIMIT, &what, || {
            let inhibited = is_inhibited(&alertmanager, name, instance);
            (inhibited == Some(expected)).then_some(())
        });
    }

    set_max_memory(&fleet.gateway.store, "0");
    fleet.broker.restart();
    for (name, instance) in [
        ("MqttPersistenceFleetBacklogOld", ""),
        ("MqttPersistenceBacklogOld", &*a),
        ("MqttPersistenceBacklogOld", &b),
        ("MqttPersistenceBacklogGrowing", &a),
        ("MqttPersistencePutsFailing", &gateway),
    ] {
        until_quiet(&prometheus, name, instance);
    }
    eventually(LIMIT, "nothing waits any more", || {
        let waiting = "sum(instance_client_id:mqtt_persistence_waiting_messages:sum)";
        let waiting = prometheus.value(waiting)?;
        (waiting < 20.0).then_some(())
    });

    // Connected, and yet nothing gets through: messages are sent and never acknowledged.
    fleet.broker.pause();
    eventually(LIMIT, "the link is the suspect", || {
        let suspects = prometheus.query(&format!(
            "instance_client_id_suspect:mqtt_persistence_backlog:group{{instance=\"{a}\"}}"
        ));
        let suspects = array(&suspects["data"]["result"]).iter();
        let mut names = suspects.map(|suspect| text(&suspect["metric"]["suspect"]).to_owned());
        names.next().filter(|name| name == "link")
    });
    fleet.broker.resume();
}
