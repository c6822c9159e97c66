//! Messages that move between Paho's files and Redis: measured, and with a program that is killed.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use tempfile::TempDir;

use super::{
    Records, checked,
    client::{Client, Place, TOPIC, Work, number_of, payload},
    directory, in_files, in_redis, into_files, run, tool,
};
use crate::{
    Mosquitto, RedisServer, Subscriber,
    broker::{Broker, Kind},
    eventually, publish_command,
    random::Random,
};

const CLIENT: &str = "device";
/// Bytes of each payload.
const BYTES: usize = 1024;
/// Factor by which a move has to be faster than Paho's restore.
const FACTOR: f64 = 10.0;
/// Time after which Paho's restore is given up, and counts as this long.
const RESTORE_LIMIT: Duration = Duration::from_secs(60);

/// State of the messages that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    InFlight,
}

/// Seconds that a measured part has taken.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Paho's restore from files; at least this long if it was given up.
    pub restore: f64,
    pub was_given_up: bool,
    pub from_files: f64,
    pub to_files: f64,
    /// Removal of the files and nothing else, one after the other.
    pub remove: f64,
}

/// Prints a table about this many messages and kills; returns false if one of them was lost, doubled or out of order.
pub fn print(messages: usize, kills: usize) -> bool {
    println!("## Messages of 1 KiB that move between files and Redis\n");
    println!(
        "| {messages} messages | restore by Paho, s | to Redis, s | faster by | to files, s | removing files alone, s |"
    );
    println!("|---|--:|--:|--:|--:|--:|");
    for state in [State::Waiting, State::InFlight] {
        let measured = measure(state, messages);
        let Measured {
            restore,
            from_files,
            to_files,
            remove,
            ..
        } = measured;
        let more = if measured.was_given_up { "> " } else { "" };
        let ratio = restore / from_files;
        let name = match state {
            State::Waiting => "waiting",
            State::InFlight => "in flight",
        };
        println!(
            "| {name} | {more}{restore:.2} | {from_files:.2} | {more}{ratio:.1} | {to_files:.2} | {remove:.2} |"
        );
        if state == State::InFlight && ratio < FACTOR {
            eprintln!("messages in flight move in more than a tenth of Paho's time");
            return false;
        }
    }
    let killed = kill(messages.min(5000), kills, 1);
    println!("\nKilled {killed} times at random moments: 0 lost, 0 doubled, in order.");
    true
}

/// Fills files with a real client, and measures the ways there and back. At the end real clients have sent all, with Redis and, if
/// they were waiting, with files: each message has arrived once and in order.
pub fn measure(state: State, messages: usize) -> Measured {
    let redis = RedisServer::start();
    let mosquitto = Mosquitto::start();
    let folder = TempDir::new().expect("a folder");
    let client = fill(&folder, &mosquitto, state, messages);
    let (restore, was_given_up) = restore(&client);
    let files = directory(folder.path(), CLIENT, mosquitto.port());
    let original = in_files(&files);
    assert_eq!(original.len(), messages, "not all messages are in files");

    let remove = time_of_removal(&folder.path().join("copy"), &original);
    sync();
    let from_files = time(|| migrate(&redis, &mosquitto, "--from-files", &folder));
    assert!(in_files(&files).is_empty(), "files have stayed");
    let hash = format!("{CLIENT}:127.0.0.1:{}", mosquitto.port());
    assert!(in_redis(&redis, &hash) == original, "records have changed");
    let to_files = time(|| migrate(&redis, &mosquitto, "--to-files", &folder));
    assert!(in_redis(&redis, &hash).is_empty(), "records have stayed");
    assert!(in_files(&files) == original, "records have changed");

    // Of those in flight, Paho restores sixty thousand from files in the better part of an hour.
    if state == State::Waiting {
        send_all(&client, &mosquitto, messages, || {
            in_files(&files).is_empty()
        });
        into_files(&files, &original);
    }
    migrate(&redis, &mosquitto, "--from-files", &folder);
    let client = client.at(Place::Redis(redis.url()));
    send_all(&client, &mosquitto, messages, || {
        in_redis(&redis, &hash).is_empty()
    });
    Measured {
        restore,
        was_given_up,
        from_files,
        to_files,
        remove,
    }
}

/// Returns the seconds that it takes to remove a copy of these files.
fn time_of_removal(directory: &Path, records: &Records) -> f64 {
    into_files(directory, records);
    sync();
    time(|| fs::remove_dir_all(directory).expect("a folder"))
}

/// Waits until all files are on the disk. A file that is not there yet is removed faster.
fn sync() {
    let synced = Command::new("sync").status().expect("sync runs");
    assert!(synced.success());
}

fn fill(folder: &TempDir, mosquitto: &Mosquitto, state: State, messages: usize) -> Client {
    let client = Client {
        id: CLIENT.to_owned(),
        broker: mosquitto.url(),
        version: mqtt::MQTT_VERSION_3_1_1,
        place: Place::Files(folder.path().to_owned()),
        work: Work::Restore,
    };
    match state {
        State::Waiting => {
            let work = Work::Fill {
                messages,
                bytes: BYTES,
                qos: 1,
            };
            client.with(work).run();
        }
        State::InFlight => {
            let nothing = TempDir::new().expect("a folder");
            let place = Place::Files(nothing.path().to_owned());
            client.at(place).with(Work::Begin).run();
            let broker = Broker::start();
            broker.withhold(Kind::Puback);
            let silent = Client {
                broker: broker.url(),
                ..client.with(Work::Leave {
                    messages,
                    bytes: BYTES,
                })
            };
            silent.run();
            // The name has the address of the broker in it.
            let port = broker
                .url()
                .rsplit(':')
                .next()
                .and_then(|port| port.parse().ok());
            let port: u16 = port.expect("a port");
            let left = directory(folder.path(), CLIENT, port);
            let wanted = directory(folder.path(), CLIENT, mosquitto.port());
            fs::rename(left, wanted).expect("a folder with records");
        }
    }
    client
}

/// Returns the seconds in which Paho restores the records, and true if it was given up.
fn restore(client: &Client) -> (f64, bool) {
    let mut command = client.with(Work::Restore).command();
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
    let started = Instant::now();
    let ended = crate::poll(RESTORE_LIMIT, || child.try_wait().expect("a child"));
    if ended.is_none() {
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
        return (started.elapsed().as_secs_f64(), true);
    }
    let output = child.wait_with_output().expect("it has ended");
    let seconds = String::from_utf8_lossy(&output.stdout).trim().parse();
    (seconds.expect("a number of seconds"), false)
}

/// Runs a move to its end.
#[track_caller]
pub fn migrate(redis: &RedisServer, mosquitto: &Mosquitto, way: &str, folder: &TempDir) {
    let name = format!("{CLIENT}:127.0.0.1:{}", mosquitto.port());
    let base = folder.path().to_str().expect("UTF-8");
    checked(&run(redis, &["migrate", &name, way, base]), 0);
}

fn time(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

/// Connects a real client, which sends all that is there: each number once, in order.
pub fn send_all(
    client: &Client,
    mosquitto: &Mosquitto,
    messages: usize,
    is_done: impl Fn() -> bool,
) {
    let subscriber = Subscriber::start(&mosquitto.url(), TOPIC, 2);
    let mut command = client.with(Work::Send).command();
    let mut child = command.stdout(Stdio::null()).spawn().expect("it runs");
    let limit = Duration::from_secs(240);
    subscriber.wait_for(messages, limit);
    eventually(limit, "the last message is acknowledged", || {
        is_done().then_some(())
    });
    drop(child.stdin.take());
    child.wait().expect("it ends");
    let numbers = subscriber.messages().into_iter();
    let numbers: Vec<usize> = numbers.map(|(_, payload)| number_of(&payload)).collect();
    let expected: Vec<usize> = (0..messages).collect();
    assert!(
        numbers == expected,
        "messages are lost, doubled or out of order"
    );
}

/// Moves messages to and fro, kills the program this many times at random moments, after which it goes on or back, and has a real
/// client send what is there at the end. Returns the number of kills that came before the end of a move.
pub fn kill(messages: usize, kills: usize, seed: u64) -> usize {
    let redis = RedisServer::start();
    let mosquitto = Mosquitto::start();
    let folder = TempDir::new().expect("a folder");
    let files = directory(folder.path(), CLIENT, mosquitto.port());
    let hash = format!("{CLIENT}:127.0.0.1:{}", mosquitto.port());
    let original: Records = (0..messages)
        .map(|number| {
            let id = i32::try_from(number % 65_535 + 1).expect("small");
            let value = publish_command(id, 1, TOPIC, &payload(number, BYTES));
            (format!("c-{}", number + 1), value)
        })
        .collect();
    into_files(&files, &original);

    // Moves without a kill show how long the others may live.
    let whole = ["--from-files", "--to-files"].map(|way| {
        let seconds = time(|| migrate(&redis, &mosquitto, way, &folder));
        (way, Duration::from_secs_f64(seconds).as_micros())
    });
    let whole = HashMap::from(whole);
    let mut random = Random::of(seed);
    let mut way = "--from-files";
    let mut killed = 0;
    while killed < kills {
        let base = folder.path().to_str().expect("UTF-8");
        let mut child = tool(&redis, &["migrate", &hash, way, base])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let whole = usize::try_from(whole[way]).expect("short");
        let life = Duration::from_micros(random.below(whole).try_into().expect("short"));
        thread::park_timeout(life);
        let was_alive = child.try_wait().expect("a child").is_none();
        if was_alive {
            child.kill().expect("a child can be killed");
        }
        let output = child.wait_with_output().expect("it has ended");
        let (in_files, in_redis) = (in_files(&files), in_redis(&redis, &hash));
        let union: Records = in_files
            .iter()
            .chain(&in_redis)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        assert!(
            union == original,
            "a message is lost or has changed after {killed} kills"
        );
        if output.status.success() {
            let (full, empty) = if way == "--to-files" {
                (&in_files, &in_redis)
            } else {
                (&in_redis, &in_files)
            };
            assert!(
                full == &original && empty.is_empty(),
                "a message is in both places"
            );
            way = if way == "--to-files" {
                "--from-files"
            } else {
                "--to-files"
            };
        } else if was_alive {
            killed += 1;
            // It goes on, or back.
            way = ["--to-files", "--from-files"][random.below(2)];
        } else {
            // The last kill came after the end of the move.
            let words = String::from_utf8_lossy(&output.stderr);
            let has_moved = in_files.is_empty() || in_redis.is_empty();
            assert!(output.status.code() == Some(2) && has_moved, "{words}");
            way = if in_redis.is_empty() {
                "--from-files"
            } else {
                "--to-files"
            };
        }
    }
    if !in_redis(&redis, &hash).is_empty() {
        migrate(&redis, &mosquitto, "--to-files", &folder);
    }
    migrate(&redis, &mosquitto, "--from-files", &folder);
    let client = Client {
        id: CLIENT.to_owned(),
        broker: mosquitto.url(),
        version: mqtt::MQTT_VERSION_3_1_1,
        place: Place::Redis(redis.url()),
        work: Work::Send,
    };
    send_all(&client, &mosquitto, messages, || {
        in_redis(&redis, &hash).is_empty()
    });
    killed
}
