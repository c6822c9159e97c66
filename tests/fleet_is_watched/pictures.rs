//! Pictures of both boards during a real outage, for the README. `scripts/board-pictures` takes them.

use std::{
    fs,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    Chromium, Mosquitto, Prometheus, RedisServer, Server,
    dashboard::{DASHBOARDS, path},
    device::{Device, address},
    eventually, eventually_queried, on_free_port, repository, rules,
};

/// Divisor of all times of rules and boards: an hour is a minute.
const FACTOR: u32 = 60;
/// Limit on each step of the outage. An alert waits for up to an hour, divided by the factor.
const STEP_LIMIT: Duration = Duration::from_secs(180);
/// The longest scrape interval that docs/monitoring.md allows. With half of it, a busy machine would miss scrapes.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(30);
const WIDTH: u32 = 1500;

/// Device with a Redis of its own.
struct Unit {
    instance: String,
    device: Device,
    run: Server,
    address: String,
    is_off: bool,
    // Dropped after the device, which needs it.
    store: RedisServer,
}

impl Unit {
    fn start(instance: String, broker: &Mosquitto, options: &[&str]) -> Self {
        // Redis restarts with the records that it had. A busy disk must not delay it, which would show as a slow store.
        let store = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "no"]);
        let options = [options, &["--key-prefix", "mqtt:"]].concat();
        let device = Device::new(&broker.url(), &store.url(), &options);
        // No connection uses this loopback address as its source, so the port is free when the device starts again.
        let run = device.start(&["--listen", "127.0.0.2:0"]);
        let address = address(&run);
        Self {
            instance,
            device,
            run,
            address,
            is_off: false,
            store,
        }
    }

    fn restart(&mut self) {
        self.run.kill();
        self.run = self.device.start(&["--listen", &self.address]);
    }

    fn turn_off(&mut self) {
        self.run.kill();
        self.is_off = true;
    }
}

/// Devices with one broker, scraped under one job.
struct Site {
    job: &'static str,
    broker: Mosquitto,
    units: Vec<Unit>,
}

impl Site {
    /// Starts a device per line of options.
    fn start(job: &'static str, options: &[&str]) -> Self {
        let broker = Mosquitto::start();
        let units = options.iter().zip(1..).map(|(options, number)| {
            let options: Vec<&str> = options.split(' ').collect();
            Unit::start(format!("{job}-{number}"), &broker, &options)
        });
        let units = units.collect();
        Self { job, broker, units }
    }

    fn scrape_config(&self) -> Value {
        let targets = self.units.iter().map(
            |unit| json!({ "targets": [unit.address], "labels": { "instance": unit.instance } }),
        );
        json!({ "job_name": self.job, "static_configs": targets.collect::<Vec<_>>() })
    }
}

/// Two sites and the Prometheus that watches them.
struct Scene {
    mill: Site,
    mine: Site,
    prometheus: Prometheus,
    _exporter: Server,
    _dir: TempDir,
}

impl Scene {
    fn start() -> Self {
        let mill = Site::start(
            "mill",
            &[
                "--client-id press --rate 40 --payload 2000 --qos 2 --buffer 6000",
                "--client-id camera --rate 20 --payload 8000",
                "--client-id pump --rate 20",
                "--client-id meter --rate 15 --buffer 1500",
                "--client-id boiler --rate 10",
                "--client-id scale --rate 5",
            ],
        );
        let mine = Site::start(
            "mine",
            &[
                "--client-id press --rate 20",
                "--client-id kiln --rate 20",
                "--client-id pump --rate 10",
                "--client-id meter --rate 10",
                "--client-id boiler --rate 5",
                "--client-id scale --rate 5",
            ],
        );
        let (port, exporter) = export(&mill.units[2].store);
        let exporter_config = json!({
            "job_name": "mqtt-redis",
            "static_configs": [{
                "targets": [format!("127.0.0.1:{port}")],
                "labels": { "instance": mill.units[2].instance },
            }],
        });
        let dir = TempDir::new().expect("a folder");
        rules::shorten(FACTOR, dir.path());
        let interval = format!("{}ms", (SCRAPE_INTERVAL / FACTOR).as_millis());
        let config = json!({
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": interval,
            },
            "rule_files": [dir.path().join("*.yml")],
            "scrape_configs": [mill.scrape_config(), mine.scrape_config(), exporter_config],
        });
        // JSON is valid YAML.
        let file = dir.path().join("prometheus.json");
        fs::write(&file, config.to_string()).expect("written");
        Self {
            mill,
            mine,
            prometheus: Prometheus::configured(&file),
            _exporter: exporter,
            _dir: dir,
        }
    }

    /// Waits until a query has a result, and restarts each device that ends by design after a broken write.
    fn until(&mut self, query: &str) {
        println!("waiting for {query}");
        eventually_queried(STEP_LIMIT, query, || {
            for unit in self.mill.units.iter_mut().chain(&mut self.mine.units) {
                if !unit.is_off && unit.run.has_ended() {
                    unit.restart();
                }
            }
            self.prometheus.value(query)
        });
    }

    fn until_waiting(&mut self, instance: &str, messages: &str) {
        self.until(&format!(
            "sum(mqtt_persistence_waiting_messages{{instance=~\"{instance}\"}}) {messages}"
        ));
    }

    fn until_firing(&mut self, alert: &str, label: &str) {
        self.until(&format!(
            "ALERTS{{alertname=\"MqttPersistence{alert}\", alertstate=\"firing\", {label}}}"
        ));
    }

    /// Waits until this many times have been scraped.
    fn until_scraped(&mut self, times: u32) {
        self.until(&format!("min(count_over_time(up[3m])) > {times}"));
    }

    /// Brings the outage to the moment at which all its alerts fire.
    fn run(&mut self) {
        self.until_scraped(80);

        // The mine's broker crashes and loses its sessions, with messages in flight.
        self.mine.broker.pause();
        self.until("sum(mqtt_persistence_records{job=\"mine\", kind=\"sent_publish\"}) > 20");
        self.mine.broker.restart();
        self.until_firing("MessagesDropped", "job=\"mine\"");

        // A first outage of the mill's broker, after which every message arrives.
        self.mill.broker.stop();
        self.until_waiting("mill-1", "> 400");
        self.mill.broker.restart();
        self.until_waiting("mill-.", "< 20");
        self.until_scraped(200);

        // The second one lasts. Meanwhile stores and programs fail.
        self.mill.broker.stop();
        self.mine.units[1].turn_off();
        self.until_waiting("mill-3", "> 200");
        self.mill.units[2].turn_off();
        for number in [0, 1, 5] {
            self.mill.units[number].store.kill();
        }
        self.mine.units[0].store.kill();
        self.until_firing("StoreHeldLarge", "instance=\"mill-1\"");
        self.mill.units[0].store.restart();
        self.until("mqtt_persistence_store_held_bytes{instance=\"mill-1\"} == 0");
        self.mill.units[0].restart();
        for (alert, label) in [
            ("BacklogGrowing", "instance=\"mill-1\""),
            ("BacklogOld", "instance=\"mill-1\""),
            ("StoreDown", "instance=\"mill-2\""),
            ("StoreDown", "instance=\"mine-1\""),
            ("TargetDown", "instance=\"mine-2\""),
            ("BacklogUnattended", "instance=\"mill-3\""),
            ("NearlyFull", "instance=\"mill-4\""),
            ("FleetStoresFailing", "job=\"mill\""),
            ("FleetBacklogOld", "job=\"mill\""),
        ] {
            self.until_firing(alert, label);
        }
        // The limit from which the boards show an age in red.
        let age = "max(mqtt_persistence_oldest_record_age_seconds{instance=\"mill-1\"})";
        self.until(&format!("{age} > 3600 / {FACTOR}"));
    }

    /// Saves a picture of a board, drawn by the page of `dashboards/preview/`.
    fn draw(&self, board: &str, theme: &str, to: Duration) {
        let device = "&job=mill&instance=mill-1";
        let url = format!(
            "file://{}?board={board}&theme={theme}&factor={FACTOR}&prometheus=http://{}&to={}{}",
            path("preview/index.html").display(),
            self.prometheus.address(),
            to.as_millis(),
            if board == "device" { device } else { "" }
        );
        let mut browser = Chromium::start(WIDTH, 900);
        browser.limit = STEP_LIMIT;
        browser.open(&url);
        let state = eventually(STEP_LIMIT, "the board is drawn", || {
            let state = browser.evaluate("document.body.dataset.state");
            state.as_str().map(str::to_owned)
        });
        assert_eq!(state, "drawn", "{url}");
        assert_eq!(
            browser.evaluate("document.body.innerText.includes('No data')"),
            false,
            "an empty panel of {board} does not say why"
        );
        let height = browser.evaluate("document.documentElement.scrollHeight");
        let height = height.as_u64().and_then(|height| height.try_into().ok());
        browser.resize(WIDTH, height.expect("a height"));
        let file = format!("images/board-{board}-{theme}.png");
        browser.screenshot(&repository().join(file));
    }
}

/// Starts a `redis_exporter` beside the Redis of a device, and returns its port.
fn export(store: &RedisServer) -> (u16, Server) {
    on_free_port(|port| {
        let mut command = Command::new("prometheus-redis-exporter");
        command
            .args(["-check-keys", "db0=mqtt:*", "-redis-only-metrics"])
            .args(["-redis.addr", &store.url()])
            .args(["-web.listen-address", &format!("127.0.0.1:{port}")]);
        Server::start(command, "prometheus-redis-exporter", "Providing metrics")
    })
}

#[test]
#[ignore = "takes four minutes, and people check its pictures"]
fn pictures_of_boards_during_outage() {
    let mut scene = Scene::start();
    scene.run();
    let to = SystemTime::now().duration_since(UNIX_EPOCH);
    let to = to.expect("a clock");
    for board in DASHBOARDS {
        for theme in ["light", "dark"] {
            scene.draw(board, theme, to);
        }
    }
}
