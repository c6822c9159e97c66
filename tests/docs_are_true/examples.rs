//! The examples work as documented, and refuse unusable options.

use std::{
    net::TcpListener,
    process::{Command, Output},
};

use testkit::{LIMIT, Mosquitto, RedisServer, Server, Subscriber, child::example, device::Device};

use super::page::ENDPOINT;

fn device(options: &[&str]) -> Output {
    Command::new(example("device"))
        .args(options)
        .output()
        .expect("the device runs")
}

/// The exit code and standard error.
fn refused(options: &[&str]) -> (Option<i32>, String) {
    let output = device(options);
    (
        output.status.code(),
        String::from_utf8(output.stderr).expect("text"),
    )
}

#[test]
fn publish_example_delivers_its_message() {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let subscriber = Subscriber::start(&broker.url(), "example/#", 1);
    let output = Command::new(example("publish"))
        .args([broker.url(), redis.url()])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let messages = subscriber.wait_for(1, LIMIT);
    assert_eq!(
        messages,
        [("example/readings".to_owned(), b"21.5".to_vec())]
    );
}

#[test]
fn device_help_names_options_and_exit_codes() {
    let output = device(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).expect("text");
    for word in [
        "--broker",
        "--redis",
        "--key-prefix",
        "--qos",
        "--mqtt",
        "--log",
        "RUST_LOG",
        "Exit codes",
        "130",
    ] {
        assert!(help.contains(word), "{word}");
    }
    let version = String::from_utf8(device(&["--version"]).stdout).expect("text");
    assert!(version.contains(&testkit::version()), "{version}");
}

#[test]
fn invalid_option_ends_device_with_2_and_is_named() {
    for (options, named) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["--qos"], "--qos"),
        (&["--qos", "3"], "--qos"),
        (&["--mqtt", "4"], "--mqtt"),
        (&["--rate", "0"], "--rate"),
        (&["--rate", "fast"], "--rate"),
        (&["--payload", "-1"], "--payload"),
        (&["--listen", "9464"], "--listen"),
        (&["--listen-token"], "--listen-token"),
        (
            &["--listen-token", "/nonexistent/token"],
            "/nonexistent/token",
        ),
        (&["--broker", "localhost"], "--broker"),
        (&["--topic", "a/#"], "--topic"),
        (&["--listen", "none", "--redis", "localhost"], "--redis"),
        (&["--log", "xml"], "--log"),
        (&["--key-prefix", ""], "--key-prefix"),
    ] {
        // The default port may be taken.
        let own_port: &[&str] = if options.contains(&"--listen") {
            &[]
        } else {
            &["--listen", "127.0.0.1:0"]
        };
        let (code, text) = refused(&[own_port, options].concat());
        assert_eq!(code, Some(2), "{options:?}: {text}");
        assert!(text.contains(named), "{options:?}: {text}");
    }
}

#[test]
fn missing_redis_ends_device_with_3_and_is_named() {
    let missing = "unix:///nonexistent/redis.sock";
    let (code, text) = refused(&["--redis", missing, "--listen", "none"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains(missing) && text.contains("No such file"),
        "{text}"
    );
}

#[test]
fn failed_device_with_json_log_ends_in_json() {
    let missing = "unix:///nonexistent/redis.sock";
    let options = ["--redis", missing, "--listen", "none", "--log", "json"];
    let (code, text) = refused(&options);
    assert_eq!(code, Some(3), "{text}");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect();
    let last = lines.last().expect("a line");
    assert_eq!(last["level"], "ERROR", "{text}");
    assert_eq!(last["fields"]["exit_code"], 3, "{text}");
    let message = last["fields"]["message"].as_str().expect("a message");
    assert!(message.contains(missing), "{message}");

    // A log that is switched off must not swallow it.
    let output = Command::new(example("device"))
        .args(options)
        .env("RUST_LOG", "off")
        .output()
        .expect("the device runs");
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(
        text.starts_with("device: ") && text.contains(missing),
        "{text}"
    );
}

/// A device that has accepted one reading and ended, without a broker.
fn one_reading(redis: &RedisServer, more: &[&str]) -> Server {
    let options = ["--listen", "none", "--count", "1", "--stop-timeout", "0"];
    let device = Device::new("mqtt://127.0.0.1:1", &redis.url(), &options);
    let mut run = device.start(more);
    assert!(run.wait().success(), "{}", run.log());
    run
}

#[test]
fn default_log_has_no_span_end_lines() {
    let redis = RedisServer::start();
    let run = one_reading(&redis, &["--log", "json"]);
    let log = testkit::eventually(LIMIT, "the log is whole", || {
        let log = run.log();
        log.contains("\nstopped").then_some(log)
    });
    assert!(log.contains("persistence opened"), "{log}");
    assert!(!log.contains(r#""message":"close""#), "{log}");
}

#[test]
fn device_stores_records_under_key_prefix() {
    let redis = RedisServer::start();
    one_reading(&redis, &["--key-prefix", "mqtt:"]);
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query(&mut redis.connection())
        .expect("KEYS");
    assert_eq!(keys, ["mqtt:example-device:127.0.0.1:1"]);
}

/// The URL of its metrics from the log of the device, without the path.
fn address_of(run: &Server) -> String {
    testkit::eventually(LIMIT, "the device logs the URL of its metrics", || {
        let log = run.log();
        let line = log
            .lines()
            .find_map(|line| line.strip_prefix("metrics at "))?;
        Some(line.trim_end_matches("/metrics").to_owned())
    })
}

#[test]
fn prometheus_scrapes_device_over_tls_with_token() {
    use std::fs;
    use testkit::{
        Prometheus,
        certificates::{make_authority, make_certificate},
    };

    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    make_authority(folder.path(), "authority");
    make_certificate(folder.path(), "authority", "server");
    let read = |name: &str| fs::read_to_string(file(name)).expect("a file");
    fs::write(file("device.pem"), read("server.crt") + &read("server.key")).expect("written");
    fs::write(file("token"), "t0ken\n").expect("written");
    let redis = RedisServer::start();
    let (token, pem) = (file("token"), file("device.pem"));
    let options = [
        "--listen",
        "127.0.0.1:0",
        "--listen-token",
        &token,
        "--listen-tls",
        &pem,
    ];
    let device = Device::new("mqtt://127.0.0.1:1", &redis.url(), &options);
    let run = device.start(&[]);
    let address = address_of(&run);
    let target = address.strip_prefix("https://").expect("TLS");

    let config = ENDPOINT.between("```yaml\nscrape_configs:", "```");
    let config = format!("scrape_configs:{config}")
        .replace("device-1.example:9464", target)
        .replace("/etc/prometheus/mqtt-devices.token", &token)
        .replace("/etc/prometheus/mqtt-devices.crt", &file("authority.crt"));
    fs::write(file("prometheus.yml"), config).expect("written");
    let prometheus = Prometheus::configured(&folder.path().join("prometheus.yml"));
    let up = "mqtt_persistence_store_up{client_id=\"example-device\"}";
    let is_up = testkit::eventually_queried(LIMIT, "it is scraped", || prometheus.value(up));
    assert!(is_up > 0.0, "{}", run.log());
}

#[test]
fn device_serves_page_to_browser_with_login() {
    let folder = tempfile::tempdir().expect("a folder");
    let [token, login] = ["token", "login"].map(|name| folder.path().join(name));
    std::fs::write(&token, "t0ken\n").expect("written");
    std::fs::write(&login, "admin:s3cret\n").expect("written");
    let redis = RedisServer::start();
    let (token, login) = (token.display().to_string(), login.display().to_string());
    let options = [
        "--listen",
        "127.0.0.1:0",
        "--listen-token",
        &token,
        "--listen-login",
        &login,
    ];
    let device = Device::new("mqtt://127.0.0.1:1", &redis.url(), &options);
    let run = device.start(&[]);
    let address = address_of(&run);
    let address = address.strip_prefix("http://").expect("no TLS");
    let status = |authorization: &str| {
        let request = format!("GET / HTTP/1.0\r\nHost: x\r\n{authorization}\r\n");
        let response = testkit::sent(address.parse().expect("an address"), request.as_bytes());
        response.lines().next().unwrap_or_default().to_owned()
    };
    assert!(status("").contains(" 401 "), "{}", run.log());
    // "admin:s3cret" in base64.
    for authorization in ["Basic YWRtaW46czNjcmV0", "Bearer t0ken"] {
        let status = status(&format!("Authorization: {authorization}\r\n"));
        assert!(status.contains(" 200 "), "{authorization}: {status}");
    }
}

#[test]
fn port_in_use_ends_device_with_4_and_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("bound").to_string();
    let (code, text) = refused(&["--listen", &address]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains(&address), "{text}");
}

#[test]
fn each_call_is_json_line_at_debug_level() {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let options = [
        "--log", "json", "--listen", "none", "--count", "3", "--rate", "100",
    ];
    let device = Device::new(&broker.url(), &redis.url(), &options);
    let mut run = device.start_with_log("paho_mqtt_redis=debug");
    assert!(run.wait().success(), "{}", run.log());
    let calls = testkit::eventually(LIMIT, "the calls are in the log", || {
        let log = run.log();
        let lines = log.lines().filter(|line| line.starts_with('{'));
        let objects: Vec<serde_json::Value> = lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let of = |operation: &str| {
            let named =
                |object: &&serde_json::Value| object["span"]["db.operation.name"] == operation;
            objects.iter().filter(named).count()
        };
        (of("put") >= 6 && of("close") >= 1).then_some(of("put"))
    });
    assert!(calls >= 6);
}

#[test]
fn status_line_counts_published_and_acknowledged() {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let options = [
        "--listen", "none", "--count", "25", "--rate", "500", "--qos", "2",
    ];
    let device = Device::new(&broker.url(), &redis.url(), &options);
    let mut run = device.start(&[]);
    assert!(run.wait().success(), "{}", run.log());
    testkit::eventually(LIMIT, "the last status line is right", || {
        let log = run.log();
        let last = log
            .lines()
            .rev()
            .find(|line| line.starts_with("published"))?;
        last.starts_with("published 25, acknowledged 25, waiting 0, oldest 0.0 s, broker up")
            .then_some(())
    });
}
