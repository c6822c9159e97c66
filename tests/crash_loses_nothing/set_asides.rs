//! A program dies in every request to Redis while records are set aside, or published again. Each message is in one place afterwards.

use std::{collections::BTreeMap, env, os::unix::process::ExitStatusExt, process::Stdio};

use paho_mqtt::{self as mqtt, ClientPersistence};
use paho_mqtt_redis::{RedisPersistence, RedisPersistenceBuilder};
use testkit::{
    LIMIT, RedisServer,
    child::ignored_test,
    harness::{cut_request, kill_self},
    publish_packet, record,
};

const CLIENT: &str = "device";
/// Client to which the dead letters of the other may go.
const ANOTHER: &str = "another";
/// No broker is there.
const SERVER: &str = "127.0.0.1:1";
/// Messages with their QoS. The last one waits, the others are in flight.
const MESSAGES: [(&str, u8); 5] = [
    ("message 1", 1),
    ("message 2", 2),
    ("message 3", 2),
    ("message 4", 1),
    ("message 5", 1),
];
const IN_FLIGHT: usize = 4;
/// Printed by a program that was not killed in a request.
const SURVIVED: &str = "survived";

/// What a program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// Drops the session, as Paho does if the broker has lost it.
    Drop,
    /// Publishes the dead letters with the client of the persistence.
    PublishAgain,
    /// Publishes them with another client.
    PublishElsewhere,
}

/// Request in which a program dies, of those after its preparations, and the eighths of it that Redis gets.
type Cut = (usize, usize);

const NEVER: Cut = (usize::MAX, 0);

fn options(url: &str, cache_limit: usize) -> RedisPersistenceBuilder {
    // A busy machine must not count as an outage.
    RedisPersistence::builder()
        .url(url)
        .connect_timeout(LIMIT)
        .operation_timeout(LIMIT)
        .open_timeout(LIMIT)
        .cache_limit(cache_limit)
}

fn persistence(url: &str, cache_limit: usize) -> RedisPersistence {
    options(url, cache_limit).build().expect("good options")
}

/// Client that publishes without a connection.
fn client(id: &str, persistence: RedisPersistence) -> mqtt::AsyncClient {
    mqtt::CreateOptionsBuilder::new()
        .server_uri(format!("mqtt://{SERVER}"))
        .client_id(id)
        .mqtt_version(mqtt::MQTT_VERSION_5)
        .max_buffered_messages(100)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .user_persistence(persistence)
        .create_client()
        .expect("a client")
}

/// Runs as a separate program, which the environment configures; returns at once if it does not.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    let Ok(url) = env::var("DYING_URL") else {
        return;
    };
    let number = |name| {
        let number = env::var(name).expect("a number");
        number.parse().expect("a number")
    };
    let cache_limit = number("DYING_CACHE_LIMIT");
    let die = || cut_request(&url, number("DYING_REQUEST"), number("DYING_EIGHTHS"));
    let persistence = persistence(&url, cache_limit);
    match env::var("DYING_SCENE").expect("a scene").as_str() {
        "Drop" => drop_session(persistence, die),
        "PublishAgain" => {
            let (letters, health) = (persistence.dead_letters(), persistence.health());
            let client = client(CLIENT, persistence);
            die();
            let again = letters.publish_again(&client, |_| true).expect("publishes");
            assert_eq!(again.published, IN_FLIGHT);
            health.flush(LIMIT).expect("Redis has everything");
        }
        _ => {
            let letters = persistence.dead_letters();
            let _own = client(CLIENT, persistence);
            let another = client(ANOTHER, self::persistence(&url, cache_limit));
            die();
            let again = letters
                .publish_again(&another, |_| true)
                .expect("publishes");
            assert_eq!(again.published, IN_FLIGHT);
        }
    }
    println!("{SURVIVED}");
    kill_self();
}

/// Puts the messages and drops those in flight, with the calls of Paho.
fn drop_session(mut persistence: RedisPersistence, die: impl FnOnce()) {
    let health = persistence.health();
    persistence.open(CLIENT, SERVER).expect("opens");
    persistence.keys().expect("lists");
    persistence.remove("c5-0").expect("connects");
    for (place, (payload, qos)) in MESSAGES.into_iter().enumerate() {
        let (command, sent) = (format!("c5-{}", place + 1), format!("s5-{}", place + 1));
        let put = |persistence: &mut RedisPersistence, key: &str, value: &[u8]| {
            persistence.put(key, vec![value]).expect("puts");
        };
        put(
            &mut persistence,
            &command,
            &record(&command, payload.as_bytes()),
        );
        if place < IN_FLIGHT {
            persistence.get(&command).expect("gets");
            persistence.remove(&command).expect("removes");
            let packet = publish_packet(&sent, qos, payload.as_bytes());
            put(&mut persistence, &sent, &packet);
        }
    }
    let pubrel = record("sc5-2", b"");
    persistence.put("sc5-2", vec![&pubrel]).expect("puts");
    health.flush(LIMIT).expect("Redis has everything");
    die();
    persistence.remove("c5-0").expect("connects");
    let keys = persistence.keys().expect("lists");
    for key in keys.iter().filter(|key| key.starts_with('s')) {
        persistence.remove(key).expect("removes");
        // The first two are set aside together, the others each by itself.
        if key.ends_with(['2', '3']) {
            health.flush(LIMIT).expect("Redis has everything");
        }
    }
    health.flush(LIMIT).expect("Redis has everything");
}

/// Runs a program to its death. Returns true if it died in a request.
fn dies_in_request(redis: &RedisServer, scene: Scene, cache_limit: usize, cut: Cut) -> bool {
    let output = ignored_test(module_path!(), "child")
        .env("DYING_URL", redis.url())
        .env("DYING_SCENE", format!("{scene:?}"))
        .env("DYING_CACHE_LIMIT", cache_limit.to_string())
        .env("DYING_REQUEST", cut.0.to_string())
        .env("DYING_EIGHTHS", cut.1.to_string())
        .stderr(Stdio::piped())
        .output()
        .expect("the test can be run once more");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{log}");
    !String::from_utf8_lossy(&output.stdout).contains(SURVIVED)
}

/// Places in which a successor finds each message: `w` if it waits, `d` for a dead letter.
fn places(redis: &RedisServer, id: &str) -> BTreeMap<&'static str, String> {
    let mut successor = persistence(&redis.url(), 1 << 20);
    let letters = successor.dead_letters();
    successor.open(id, SERVER).expect("opens");
    let mut places: BTreeMap<&str, String> = BTreeMap::new();
    let mut found = |value: &[u8], place: &str| {
        let is_in = |(payload, _): &(&'static str, u8)| {
            let mut parts = value.windows(payload.len());
            parts.any(|part| part == payload.as_bytes())
        };
        if let Some((payload, _)) = MESSAGES.into_iter().find(is_in) {
            places.entry(payload).or_default().push_str(place);
        }
    };
    for key in successor.keys().expect("lists") {
        found(&successor.get(&key).expect("gets"), "w");
    }
    for letter in letters.list().expect("lists") {
        found(letter.value(), "d");
    }
    places
}

/// Kills programs in each request of a scene, at each eighth, and calls `check` for every death. Returns the number of requests.
fn at_every_request(scene: Scene, cache_limit: usize, check: impl Fn(&RedisServer, &str)) -> usize {
    let redis = RedisServer::start();
    for request in 1.. {
        for eighths in 0..=8 {
            let flushed = redis::cmd("FLUSHALL").exec(&mut redis.connection());
            flushed.expect("FLUSHALL");
            if scene != Scene::Drop {
                assert!(!dies_in_request(&redis, Scene::Drop, cache_limit, NEVER));
            }
            if !dies_in_request(&redis, scene, cache_limit, (request, eighths)) {
                return request - 1;
            }
            let about =
                format!("{scene:?}, cache limit {cache_limit}, {eighths}/8 of request {request}");
            check(&redis, &about);
        }
    }
    unreachable!("the scene ends")
}

#[track_caller]
fn assert_each_is_in_one_place(redis: &RedisServer, about: &str) {
    let places = places(redis, CLIENT);
    assert_eq!(places.len(), MESSAGES.len(), "{about}: {places:?}");
    assert!(
        places.values().all(|places| places.len() == 1),
        "{about}: {places:?}"
    );
}

fn each_drop_is_in_one_place(cache_limit: usize) {
    let requests = at_every_request(Scene::Drop, cache_limit, assert_each_is_in_one_place);
    assert!(requests >= 3, "{requests}");
}

#[test]
fn crash_while_session_is_dropped_keeps_each_once() {
    each_drop_is_in_one_place(1 << 20);
}

#[test]
fn crash_while_uncached_is_dropped_keeps_each_once() {
    each_drop_is_in_one_place(0);
}

#[test]
fn crash_in_publish_again_keeps_each_once() {
    for cache_limit in [0, 1 << 20] {
        let check = assert_each_is_in_one_place;
        let requests = at_every_request(Scene::PublishAgain, cache_limit, check);
        assert!(requests > IN_FLIGHT, "{requests}");
    }
}

/// The message that the other client has just accepted may still be a dead letter, as docs/dead-letters.md has it.
#[test]
fn crash_in_publish_elsewhere_loses_nothing() {
    let check = |redis: &RedisServer, about: &str| {
        let (own, another) = (places(redis, CLIENT), places(redis, ANOTHER));
        let of = |payload| {
            let places = [&own, &another].map(|places| places.get(payload).cloned());
            places.into_iter().flatten().collect::<String>()
        };
        let all = MESSAGES.map(|(payload, _)| of(payload));
        assert!(
            all.iter().all(|places| !places.is_empty()),
            "{about}: {all:?}"
        );
        let twice = all.iter().filter(|places| places.len() > 1).count();
        assert!(twice <= 1, "{about}: {all:?}");
    };
    let requests = at_every_request(Scene::PublishElsewhere, 1 << 20, check);
    assert!(requests > IN_FLIGHT, "{requests}");
}
