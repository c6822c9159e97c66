//! A program dies while Redis lags behind. Every answered write is in Redis once it has caught up, and a successor sees all of them,
//! waits, or reports the reason.

use std::{
    collections::BTreeSet,
    env,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdin, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{Durability, Error, ErrorKind, RedisPersistence, RedisPersistenceBuilder};
use testkit::{LIMIT, RedisServer, child::ignored_test, eventually, record};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";
/// Number of answers that every program exceeds before Redis blocks it.
const ENOUGH: usize = 20;

fn options(url: &str) -> RedisPersistenceBuilder {
    RedisPersistence::builder()
        .url(url)
        .connect_timeout(LIMIT)
        .open_timeout(LIMIT)
}

fn kind<T: std::fmt::Debug>(result: paho_mqtt::Result<T>) -> ErrorKind {
    let error = result.expect_err("is refused");
    Error::in_mqtt(&error).expect("an error of ours").kind()
}

/// Runs as a separate program, which the environment configures; returns at once if it does not.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    let Ok(url) = env::var("DYING_URL") else {
        return;
    };
    let size = env::var("DYING_SIZE")
        .expect("a size")
        .parse()
        .expect("a number");
    let durability = match env::var("DYING_DURABILITY").expect("a durability").as_str() {
        "pipelined" => Durability::Pipelined,
        _ => Durability::Confirmed,
    };
    // Makes calls block while Redis is paused, instead of declaring an outage.
    let options = options(&url).operation_timeout(LIMIT * 10);
    let mut persistence = options
        .durability(durability)
        .build()
        .expect("good options");
    persistence.open(CLIENT, SERVER).expect("opens");
    let report = |key: &str| {
        println!("answered {key}");
        io::stdout().flush().expect("the test reads");
    };
    let payload = vec![b'x'; size];
    let put = |persistence: &mut RedisPersistence, key: &str, value: &[u8]| {
        persistence.put(key, vec![value]).expect("puts");
        report(key);
    };
    let command = |number: i32| record(&format!("c5-{number}"), &payload);
    let numbers = 1..=40;
    if durability == Durability::Confirmed {
        for number in numbers.clone() {
            put(&mut persistence, &format!("c5-{number}"), &command(number));
        }
    }
    report("ready");
    io::stdin()
        .read_exact(&mut [0])
        .expect("a signal of the test");
    for number in numbers {
        match durability {
            // The replacement of a command by its PUBLISH is not confirmed.
            Durability::Confirmed => {
                let key = format!("c5-{number}");
                persistence.get(&key).expect("gets");
                persistence.remove(&key).expect("removes");
                let sent = format!("s5-{number}");
                put(&mut persistence, &sent, &record(&sent, b"payload"));
            }
            _ => put(&mut persistence, &format!("c5-{number}"), &command(number)),
        }
    }
    if env::var_os("DYING_AT_ONCE").is_some() {
        testkit::harness::kill_self();
    }
    thread::park();
}

/// Child program and the keys of its answered writes.
struct Program {
    child: Child,
    input: ChildStdin,
    answered: Receiver<String>,
}

impl Program {
    /// Starts it; after its last write it kills itself if it `dies`, and parks otherwise.
    fn start(url: &str, size: usize, durability: &str, dies: bool) -> Self {
        let mut child = ignored_test(module_path!(), "child")
            .env("DYING_URL", url)
            .env("DYING_SIZE", size.to_string())
            .env("DYING_DURABILITY", durability)
            .envs(dies.then_some(("DYING_AT_ONCE", "1")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test can be run once more");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, answered) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, key)) = line.split_once("answered ") {
                    drop(sender.send(key.to_owned()));
                }
            }
        });
        Self {
            input: child.stdin.take().expect("piped"),
            child,
            answered,
        }
    }

    /// Waits for the answer to `last` and returns the answers before it.
    fn wait_answered(&self, last: &str) -> Vec<String> {
        let mut keys = Vec::new();
        while let Ok(key) = self.answered.recv_timeout(LIMIT) {
            if key == last {
                return keys;
            }
            keys.push(key);
        }
        panic!("{last} is not answered after {keys:?}");
    }

    /// Waits until it has killed itself and returns the answers before that.
    fn wait_died(&mut self) -> Vec<String> {
        let mut keys = Vec::new();
        loop {
            match self.answered.recv_timeout(LIMIT) {
                Ok(key) => keys.push(key),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it is alive after {keys:?}"),
            }
        }
        let status = self.child.wait().expect("it ends");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
        keys
    }

    fn resume(&mut self) {
        self.input.write_all(b"!").expect("it reads");
    }

    fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        self.answered.iter().collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may already be dead.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills a program that is blocked by a paused Redis, which has not read all its writes; returns the answered ones.
fn answered_before_death(
    redis: &RedisServer,
    url: &str,
    size: usize,
    durability: &str,
) -> BTreeSet<String> {
    let mut program = Program::start(url, size, durability, false);
    let mut answered = program.wait_answered("ready");
    redis.pause();
    program.resume();
    // The program blocks too once its values fill the socket. A busy machine may delay the first answers.
    loop {
        let silence = if answered.len() > ENOUGH {
            Duration::from_millis(700)
        } else {
            LIMIT
        };
        let Ok(key) = program.answered.recv_timeout(silence) else {
            break;
        };
        answered.push(key);
    }
    answered.extend(program.kill());
    answered.into_iter().collect()
}

#[test]
fn successor_waits_for_all_answered_writes() {
    for (durability, size) in [
        ("confirmed", 100),
        ("confirmed", 5_000),
        ("pipelined", 100),
        ("pipelined", 5_000),
    ] {
        for tcp in [true, false] {
            let redis = RedisServer::tcp();
            let url = if tcp { redis.tcp_url() } else { redis.url() };
            let answered = answered_before_death(&redis, &url, size, durability);
            assert!(
                answered.len() > ENOUGH,
                "{durability} {size} {tcp}: {answered:?}"
            );
            redis.resume();
            // Without a pause, to race with the writes that Redis has not read yet.
            assert_found(&url, &answered, &format!("{durability} {size} {tcp}"));
        }
    }
}

/// Over TCP, unconfirmed writes are most likely still in the send buffer of the program.
#[test]
fn answered_writes_survive_immediate_death() {
    for durability in ["confirmed", "pipelined"] {
        for tcp in [true, false] {
            let redis = RedisServer::tcp();
            let url = if tcp { redis.tcp_url() } else { redis.url() };
            let mut program = Program::start(&url, 100, durability, true);
            let mut answered: BTreeSet<String> =
                program.wait_answered("ready").into_iter().collect();
            let before = answered.len();
            program.resume();
            answered.extend(program.wait_died());
            let about = format!("{durability} {tcp}");
            assert_eq!(answered.len() - before, 40, "{about}: {answered:?}");
            assert_found(&url, &answered, &about);
        }
    }
}

/// Asserts that a successor finds each message once: its PUBLISH if that was answered, or its command.
fn assert_found(url: &str, answered: &BTreeSet<String>, about: &str) {
    let mut successor = options(url).build().expect("good options");
    successor.open(CLIENT, SERVER).expect("waits and opens");
    let found: BTreeSet<String> = successor.keys().expect("lists").into_iter().collect();
    for key in answered {
        let number = key.split_once('-').expect("a key").1;
        let (command, sent) = (format!("c5-{number}"), format!("s5-{number}"));
        let expected = if answered.contains(&sent) {
            &sent
        } else {
            &command
        };
        assert!(found.contains(expected), "{about}: {key}: {found:?}");
        assert!(
            !(found.contains(&command) && found.contains(&sent)),
            "{about}: {key}: {found:?}"
        );
    }
}

#[test]
fn successor_of_paused_redis_times_out_and_retries() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let redis = RedisServer::start();
    let answered = answered_before_death(&redis, &redis.url(), 100, "confirmed");
    let mut successor = options(&redis.url())
        .connect_timeout(TIMEOUT)
        .open_timeout(TIMEOUT)
        .build()
        .expect("good options");
    let started = Instant::now();
    let error = successor.connect(CLIENT, SERVER).expect_err("is paused");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(started.elapsed() < Duration::from_secs(5));
    redis.resume();
    eventually(LIMIT, "a successor", || successor.open(CLIENT, SERVER).ok());
    let found = successor.keys().expect("lists").len();
    let messages: BTreeSet<_> = answered
        .iter()
        .filter_map(|key| key.split_once('-'))
        .map(|(_, number)| number)
        .collect();
    assert_eq!(found, messages.len());
}

#[test]
fn second_program_is_refused_while_first_runs() {
    let redis = RedisServer::start();
    let mut first = options(&redis.url()).build().expect("good options");
    first.open(CLIENT, SERVER).expect("opens");
    let mut second = RedisPersistence::builder()
        .url(redis.url())
        .connect_timeout(Duration::from_secs(2))
        .open_timeout(Duration::from_millis(100))
        .build()
        .expect("good options");
    let error = second.connect(CLIENT, SERVER).expect_err("is in use");
    assert_eq!(error.kind(), ErrorKind::InUse);
    for part in [
        &redis.url(),
        "another program uses these records",
        "an id of its own",
    ] {
        assert!(
            error.to_string().contains(part),
            "{part} is not in: {error}"
        );
    }
    assert_eq!(kind(second.open(CLIENT, SERVER)), ErrorKind::InUse);
    // The first is unaffected, and another client has records of its own.
    first.put("q-1", vec![&record("q-1", b"x")]).expect("puts");
    assert!(first.health().snapshot().up);
    second.open("device-2", SERVER).expect("opens");
    drop(second);

    // With a longer timeout, the second waits for the end of the first.
    let mut second = options(&redis.url()).build().expect("good options");
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            eventually(LIMIT, "the second connects", || {
                (named_connections(&redis) > 1).then_some(())
            });
            ended.store(true, Ordering::SeqCst);
            drop(first);
        });
        second.open(CLIENT, SERVER).expect("opens");
        assert!(ended.load(Ordering::SeqCst), "the second has not waited");
    });
    assert_eq!(second.keys().expect("lists"), ["q-1"]);
}

/// Number of connections that are named after a client.
fn named_connections(redis: &RedisServer) -> usize {
    let list: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query(&mut redis.connection())
        .expect("CLIENT LIST");
    list.matches(" name=paho-mqtt-redis:").count()
}
