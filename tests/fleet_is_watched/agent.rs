//! An unreachable device writes its metrics to a central Prometheus through a link that breaks, with the configuration of
//! `dashboards/provisioning/`, adapted as its comments describe.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    LIMIT, Prometheus, body,
    breaking::{Breaking, Direction},
    dashboard::{array, text},
    eventually_queried,
    fleet::{
        agent::{Agent, Kind, PASSWORD, written},
        device::Device,
        outages::moments,
    },
    now,
    rules::yaml,
    sent,
    serving::serve,
    status,
};

const USER: &str = "example-device";
const CREDENTIALS: &str = "Basic ZXhhbXBsZS1kZXZpY2U6VSpV";
/// Bcrypt hash of the password, at the minimum cost.
const HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
const INTERVAL: Duration = Duration::from_millis(500);
/// Longer than the agent needs to time out and retry.
const OUTAGE: Duration = Duration::from_secs(6);

/// Starts the central Prometheus. It accepts remote writes with the password, and scrapes itself, so that it has current samples. Its
/// limit for late samples is that of the provisioned configuration, or the default.
fn central(dir: &TempDir, takes_late: bool) -> Prometheus {
    let mut config = json!({
        "global": { "scrape_interval": "250ms", "scrape_timeout": "250ms" },
        "scrape_configs": [{
            "job_name": "itself",
            "http_sd_configs": [{ "url": "", "refresh_interval": "1s" }],
            "basic_auth": { "username": USER, "password": PASSWORD },
        }],
    });
    let targets = json!([{ "targets": [] }]).to_string();
    let own = Arc::new(Mutex::new(targets));
    let served = Arc::clone(&own);
    let discovery = serve("application/json", move || served.lock().unwrap().clone());
    config["scrape_configs"][0]["http_sd_configs"][0]["url"] =
        json!(format!("http://{discovery}/targets"));
    if takes_late {
        config["storage"] = yaml("provisioning/prometheus/prometheus.yml")["storage"].clone();
    }
    let config = written(dir.path(), "central.yml", &config);
    let web = json!({ "basic_auth_users": { USER: HASH } });
    let web = written(dir.path(), "web.yml", &web);
    let web = format!("--web.config.file={}", web.display());
    let flags = ["--web.enable-remote-write-receiver", &web];
    let prometheus = Prometheus::with_flags(&config, &flags).authorized(CREDENTIALS);
    *own.lock().unwrap() = json!([{ "targets": [prometheus.address()] }]).to_string();
    prometheus
}

#[test]
fn samples_of_link_outage_arrive_after_it() {
    const STATE: &str = r#"mqtt_persistence_records{instance="example-device",kind="command"}"#;
    let dir = TempDir::new().expect("a folder");
    let mut device = Device::start("a", true);
    device.switches.link_is_down.store(true, Ordering::Relaxed);
    device.step();
    let central = central(&dir, true);
    let link = Breaking::start(central.port());
    let way = Breaking::start(device.address().port());
    let address = format!("127.0.0.1:{}", way.port());
    let agent = Agent {
        kind: Kind::Prometheus,
        dir: dir.path(),
        instance: USER,
        interval: INTERVAL,
        device: &address,
        central: link.port(),
        factor: 1,
    };
    let agent = agent.start();
    eventually_queried(LIMIT, "samples arrive", || {
        (central.value(STATE) == Some(1.0)).then_some(())
    });
    // Its samples are labeled as pushed, and include only series that the boards read.
    assert_eq!(central.value(r#"up{via="remote_write"}"#), Some(1.0));
    assert_eq!(
        central.value(r#"{via="remote_write",__name__!~"up|mqtt_persistence_.*"}"#),
        None
    );

    link.set(Some(Direction::ToServer));
    let broken = now();
    thread::park_timeout(OUTAGE);
    let during = moments(&central, STATE);
    // Samples in transit may have arrived, but none that was scraped later.
    assert!(
        during.iter().all(|moment| *moment < broken + 1.0),
        "{during:?}"
    );
    link.set(None);
    let (scrapes, _) = way.passed();
    let restored = now();
    let up = r#"up{via="remote_write"}"#;
    let all = eventually_queried(LIMIT, "it catches up", || {
        let all = moments(&central, up);
        (*all.last()? > restored).then_some(all)
    });
    // Each scrape has its sample, except perhaps the last one, still in transit.
    let arrived = all.iter().filter(|moment| **moment < restored).count();
    assert!(
        arrived + 1 >= usize::try_from(scrapes).unwrap(),
        "{arrived} of {scrapes} in {all:?}, with {}",
        agent.log()
    );
    let in_outage = moments(&central, STATE);
    let in_outage = in_outage
        .iter()
        .filter(|moment| **moment > broken + 1.0 && **moment < restored);
    assert!(in_outage.count() >= 5, "{all:?}");
}

/// Encodes a sample as an agent does: a `WriteRequest` of Prometheus's remote write 1.0 in the format of snappy, as one literal.
fn write_request(labels: &[(&str, &str)], value: f64, milliseconds: u64) -> Vec<u8> {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).ok().filter(|n| *n < 128);
        let head = [number << 3 | 2, length.expect("short")];
        [&head[..], content].concat()
    }
    fn varint(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number >= 128 {
            bytes.push(u8::try_from(number & 127).expect("seven bits") | 128);
            number >>= 7;
        }
        bytes.push(u8::try_from(number).expect("seven bits"));
        bytes
    }
    let labels = labels
        .iter()
        .map(|(name, value)| [field(1, name.as_bytes()), field(2, value.as_bytes())].concat());
    let labels: Vec<u8> = labels.flat_map(|label| field(1, &label)).collect();
    let time = varint(milliseconds);
    let sample = [&[9], &value.to_le_bytes()[..], &[16], &time].concat();
    let series = field(1, &[labels, field(2, &sample)].concat());
    // Length, and one literal of up to 256 bytes.
    let literal = [60 << 2, u8::try_from(series.len() - 1).expect("short")];
    [varint(series.len() as u64), literal.to_vec(), series].concat()
}

/// Response to a request to write.
fn post(prometheus: &Prometheus, body: &[u8]) -> String {
    let head = format!(
        "POST /api/v1/write HTTP/1.0\r\nAuthorization: {CREDENTIALS}\r\nContent-Encoding: snappy\r\n\
         Content-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let address = prometheus.address().parse().expect("an address");
    sent(address, &[head.as_bytes(), body].concat())
}

/// Writes a sample of some hours ago to a Prometheus with or without the provisioned limit for late samples, and returns the status
/// of the response, its reason, and the series that it has then.
fn write_late_sample(takes_late: bool, hours: u64) -> (String, String, Vec<Value>) {
    const NAME: &str = "mqtt_persistence_records";
    let dir = TempDir::new().expect("a folder");
    let central = central(&dir, takes_late);
    eventually_queried(LIMIT, "it has samples of this moment", || {
        central.value(r#"up{job="itself"} == 1"#)
    });
    let late = SystemTime::now() - Duration::from_secs(hours * 3600);
    let late = late.duration_since(UNIX_EPOCH).expect("a clock");
    let labels = [("__name__", NAME), ("instance", "late")];
    let request = write_request(&labels, 7.0, u64::try_from(late.as_millis()).expect("soon"));
    let answer = post(&central, &request);
    let found = central.query(&format!("{NAME}[10d]"));
    let (status, reason) = (status(&answer).to_owned(), body(&answer).to_owned());
    (status, reason, array(&found["data"]["result"]).to_vec())
}

#[test]
fn samples_days_late_need_provisioned_limit() {
    let (status, reason, found) = write_late_sample(true, 6 * 24);
    assert_eq!(status, "204", "{reason}");
    assert_eq!(text(&found[0]["values"][0][1]), "7");
}

#[test]
fn samples_hours_late_are_refused_by_default() {
    let (status, reason, found) = write_late_sample(false, 5);
    assert_eq!(status, "400");
    assert!(reason.contains("out of bounds"), "{reason}");
    assert!(found.is_empty());
}

/// Prometheus 2.42 returns a status that makes an agent try again, for ever: the limit must be longer than any outage.
#[test]
fn samples_beyond_provisioned_limit_block_agent() {
    let (status, reason, found) = write_late_sample(true, 8 * 24);
    assert_eq!((&*status, reason.trim()), ("500", "too old sample"));
    assert!(found.is_empty());
}
