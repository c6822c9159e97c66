//! docs/redis.md matches the options, the rights that are needed, and examples/redis.conf.

use std::fs;

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::RedisPersistence;
use testkit::{RedisServer, log::Log, publish_command};

use super::page::{REDIS, code, setters};

const MARKER: &str = "`RedisPersistence::builder()`:";

#[test]
fn redis_option_table_matches_builder() {
    assert_eq!(
        REDIS.first_column(MARKER, "option"),
        setters(include_str!("../../src/redis/builder.rs"))
    );
}

#[test]
fn redis_option_defaults_match_table() {
    let defaults = format!("{:?}", RedisPersistence::builder());
    for row in REDIS.table(MARKER, "option") {
        let option = code(&row[0]).remove(0);
        let Some(default) = code(&row[1]).pop() else {
            assert_eq!(row[1], "none", "{option}");
            continue;
        };
        let plain = format!("{option}: {default}");
        let quoted = format!("{option}: \"{default}\"");
        assert!(
            defaults.contains(&plain) || defaults.contains(&quoted),
            "{plain} in {defaults}"
        );
    }
}

/// Arguments of `ACL SETUSER` from the line of rights, and their password.
fn rights() -> (Vec<String>, String) {
    let line = REDIS
        .0
        .lines()
        .find(|line| line.starts_with("user mqtt on"))
        .expect("an ACL line");
    let words: Vec<String> = line.split(' ').skip(1).map(str::to_owned).collect();
    let password = words
        .iter()
        .find_map(|word| word.strip_prefix('>'))
        .expect("a password");
    (words.clone(), password.to_owned())
}

/// Does everything that a persistence does, as a user with these rights.
fn exercise(redis: &RedisServer, rights: &[String], password: &str) -> paho_mqtt::Result<()> {
    let mut raw = redis.connection();
    redis::cmd("ACL")
        .arg("DELUSER")
        .arg("mqtt")
        .exec(&mut raw)
        .expect("ACL DELUSER");
    redis::cmd("ACL")
        .arg("SETUSER")
        .arg(rights)
        .exec(&mut raw)
        .expect("ACL SETUSER");
    let url = format!("{}?user=mqtt&pass={password}", redis.url());
    let mut persistence = RedisPersistence::builder()
        .url(url)
        .key_prefix("mqtt:")
        .build()?;
    persistence.connect("device-1", "mqtt://127.0.0.1:1883")?;
    persistence.open("device-1", "127.0.0.1:1883")?;
    persistence.put("c-1", vec![&publish_command(7, 1, "topic", b"")])?;
    persistence.get("c-1")?;
    persistence.remove("c-1")?;
    persistence.put("s-7", vec![b"PUBLISH"])?;
    persistence.keys()?;
    persistence.remove("s-7")?;
    persistence.put("q-1", vec![b"x"])?;
    persistence.put("q-2", vec![b"x"])?;
    persistence.clear()?;
    persistence.close()
}

#[test]
fn acl_rights_are_sufficient_and_minimal() {
    let redis = RedisServer::start();
    let (all, password) = rights();
    let lacks_something = |rights: &[String]| {
        let log = Log::default();
        let done = log.during(|| exercise(&redis, rights, &password));
        // The persistence works without some rights, and logs the consequence.
        done.is_err() || log.text().contains("has the ACL line")
    };
    assert!(!lacks_something(&all), "these rights are not enough");
    exercise(&redis, &all, &password).expect("these rights are enough");
    let commands: Vec<_> = all.iter().filter(|word| word.starts_with('+')).collect();
    assert!(commands.len() >= 5, "{commands:?}");
    for right in commands {
        let fewer: Vec<String> = all.iter().filter(|word| *word != right).cloned().collect();
        assert!(lacks_something(&fewer), "{right} is not needed");
    }
}

#[test]
fn acl_file_admits_documented_url_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users.acl");
    let users = REDIS.between("```text\nuser", "```");
    fs::write(&file, format!("user{users}")).expect("a file");
    let redis = RedisServer::with(&["--aclfile", file.to_str().expect("UTF-8")]);
    let socket = redis.socket().display().to_string();
    let user = REDIS.between(".url(\"unix:///run/redis/redis.sock?", "\")");
    for (user, prefix, is_admitted) in [
        (user, "mqtt:", true),
        (user, "", false),
        ("", "mqtt:", false),
    ] {
        let mut persistence = RedisPersistence::builder()
            .url(format!("unix://{socket}?{user}"))
            .key_prefix(prefix)
            .build()
            .expect("valid");
        let connected = persistence.connect("device-1", "mqtt://127.0.0.1:1883");
        assert_eq!(
            connected.is_ok(),
            is_admitted,
            "{user} {prefix}: {connected:?}"
        );
    }
}

#[test]
fn redis_configuration_works_with_documented_settings() {
    let conf = testkit::repository().join("examples/redis.conf");
    let redis = RedisServer::configured(&conf);
    let mut raw = redis.connection();
    for (option, value) in [
        ("maxmemory-policy", "noeviction"),
        ("appendonly", "no"),
        ("save", ""),
        ("port", "0"),
    ] {
        let pair: Vec<String> = redis::cmd("CONFIG")
            .arg("GET")
            .arg(option)
            .query(&mut raw)
            .expect("CONFIG GET");
        assert_eq!(pair, [option, value]);
    }
    let mode = fs::metadata(redis.socket())
        .expect("a socket")
        .permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o770
    );
    let mut persistence = RedisPersistence::builder()
        .url(redis.url())
        .build()
        .expect("valid");
    persistence
        .connect("device-1", "mqtt://127.0.0.1:1883")
        .expect("connects");
}
