//! A program dies while Redis lags behind: what `put` had answered is in Redis when that has caught up, and a successor sees all of it,
//! waits, or says why it cannot.

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
use paho_mqtt_redis::{Durability, Error, ErrorKind, RedisOptions, RedisPersistence};
use testkit::{LIMIT, RedisServer, child::ignored_test, eventually, record};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";

fn options(url: &str) -> RedisOptions {
    RedisPersistence::builder()
        .url(url)
        .connect_timeout(LIMIT)
        .open_timeout(LIMIT)
}

fn kind<T: std::fmt::Debug>(result: paho_mqtt::Result<T>) -> ErrorKind {
    let error = result.expect_err("is refused");
    Error::in_mqtt(&error).expect("an error of ours").kind()
}

/// Does what the environment says, as a program of its own; nothing where it says nothing.
#[test]
#[ignore = "it is started by the other tests"]
fn the_program() {
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
    // So that it stands still with Redis, and does not go on without.
    let options = options(&url).operation_timeout(LIMIT * 10);
    let mut persistence = options
        .durability(durability)
        .build()
        .expect("good options");
    persistence.open(CLIENT, SERVER).expect("opens");
    let tell = |key: &str| {
        println!("answered {key}");
        io::stdout().flush().expect("the test reads");
    };
    let payload = vec![b'x'; size];
    let put = |persistence: &mut RedisPersistence, key: &str, value: &[u8]| {
        persistence.put(key, vec![value]).expect("puts");
        tell(key);
    };
    let command = |number: i32| record(&format!("c5-{number}"), &payload);
    let numbers = 1..=40;
    if durability == Durability::Confirmed {
        for number in numbers.clone() {
            put(&mut persistence, &format!("c5-{number}"), &command(number));
        }
    }
    tell("ready");
    io::stdin()
        .read_exact(&mut [0])
        .expect("a word of the test");
    for number in numbers {
        match durability {
            // What is not waited for: the PUBLISH in the place of its command.
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
        testkit::crash::kill_self();
    }
    thread::park();
}

/// That program, and what it has been answered.
struct Program {
    child: Child,
    input: ChildStdin,
    answered: Receiver<String>,
}

impl Program {
    /// It stands still in the end, or dies.
    fn start(url: &str, size: usize, durability: &str, dies: bool) -> Self {
        let mut child = ignored_test(module_path!(), "the_program")
            .env("DYING_URL", url)
            .env("DYING_SIZE", size.to_string())
            .env("DYING_DURABILITY", durability)
            .envs(dies.then_some(("DYING_AT_ONCE", "1")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test can be run once more");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (tell, answered) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, key)) = line.split_once("answered ") {
                    drop(tell.send(key.to_owned()));
                }
            }
        });
        Self {
            input: child.stdin.take().expect("piped"),
            child,
            answered,
        }
    }

    /// What it is answered until that, or as long as there is more.
    fn until(&self, last: &str) -> Vec<String> {
        let mut keys = Vec::new();
        while let Ok(key) = self.answered.recv_timeout(LIMIT) {
            if key == last {
                return keys;
            }
            keys.push(key);
        }
        panic!("{last} is not answered, after {keys:?}");
    }

    /// What it is answered until it has killed itself.
    fn until_its_death(&mut self) -> Vec<String> {
        let mut keys = Vec::new();
        loop {
            match self.answered.recv_timeout(LIMIT) {
                Ok(key) => keys.push(key),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it lives, after {keys:?}"),
            }
        }
        let status = self.child.wait().expect("it ends");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
        keys
    }

    fn go_on(&mut self) {
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
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program had been answered when it died, and the way to the Redis that had not read all of it.
fn died(redis: &RedisServer, url: &str, size: usize, durability: &str) -> BTreeSet<String> {
    let mut program = Program::start(url, size, durability, false);
    let mut answered = program.until("ready");
    redis.pause();
    program.go_on();
    // Redis stands still, so in the end the program does: the large values fill the socket.
    while let Ok(key) = program.answered.recv_timeout(Duration::from_millis(700)) {
        answered.push(key);
    }
    answered.extend(program.kill());
    answered.into_iter().collect()
}

#[test]
fn what_was_answered_is_there_when_redis_has_caught_up_and_a_successor_waits_for_it() {
    for (durability, size) in [
        ("confirmed", 100),
        ("confirmed", 5_000),
        ("pipelined", 100),
        ("pipelined", 5_000),
    ] {
        for tcp in [true, false] {
            let redis = RedisServer::tcp();
            let url = if tcp { redis.tcp_url() } else { redis.url() };
            let answered = died(&redis, &url, size, durability);
            assert!(
                answered.len() > 20,
                "{durability} {size} {tcp}: {answered:?}"
            );
            redis.resume();
            // At once, and so in a race with what Redis has not read yet.
            assert_found(&url, &answered, &format!("{durability} {size} {tcp}"));
        }
    }
}

/// Over TCP, what nobody waits for is then most likely still with the system of the program.
#[test]
fn what_was_answered_is_there_when_the_program_dies_before_redis_was_asked_for_it() {
    for durability in ["confirmed", "pipelined"] {
        for tcp in [true, false] {
            let redis = RedisServer::tcp();
            let url = if tcp { redis.tcp_url() } else { redis.url() };
            let mut program = Program::start(&url, 100, durability, true);
            let mut answered: BTreeSet<String> = program.until("ready").into_iter().collect();
            let before = answered.len();
            program.go_on();
            answered.extend(program.until_its_death());
            let about = format!("{durability} {tcp}");
            assert_eq!(answered.len() - before, 40, "{about}: {answered:?}");
            assert_found(&url, &answered, &about);
        }
    }
}

/// A successor finds each message once: its PUBLISH, or the command where that had not been answered.
fn assert_found(url: &str, answered: &BTreeSet<String>, about: &str) {
    let mut successor = options(url).build().expect("good options");
    successor.open(CLIENT, SERVER).expect("waits, and opens");
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
fn a_successor_that_finds_redis_standing_still_says_so_and_opens_later() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let redis = RedisServer::start();
    let answered = died(&redis, &redis.url(), 100, "confirmed");
    let mut successor = options(&redis.url())
        .connect_timeout(TIMEOUT)
        .open_timeout(TIMEOUT)
        .build()
        .expect("good options");
    let started = Instant::now();
    let error = successor.connect(CLIENT, SERVER).expect_err("stands still");
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
fn a_second_program_is_refused_as_long_as_the_first_one_runs() {
    let redis = RedisServer::start();
    let mut first = options(&redis.url()).build().expect("good options");
    first.open(CLIENT, SERVER).expect("opens");
    let mut second = RedisPersistence::builder()
        .url(redis.url())
        .connect_timeout(Duration::from_millis(400))
        .open_timeout(Duration::from_millis(100))
        .build()
        .expect("good options");
    let error = second.connect(CLIENT, SERVER).expect_err("is in use");
    assert_eq!(error.kind(), ErrorKind::InUse);
    for part in [
        &redis.url(),
        "another program uses these records",
        "id of its own",
    ] {
        assert!(
            error.to_string().contains(part),
            "{part} is not in: {error}"
        );
    }
    assert_eq!(kind(second.open(CLIENT, SERVER)), ErrorKind::InUse);
    // The first one noticed nothing, and another client is none of its business.
    first.put("q-1", vec![&record("q-1", b"x")]).expect("puts");
    assert!(first.health().snapshot().up);
    second.open("device-2", SERVER).expect("opens");
    drop(second);

    // One that is patient waits for the end of the first one.
    let mut second = options(&redis.url()).build().expect("good options");
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            eventually(LIMIT, "the second one", || {
                (named(&redis) > 1).then_some(())
            });
            ended.store(true, Ordering::SeqCst);
            drop(first);
        });
        second.open(CLIENT, SERVER).expect("opens");
        assert!(ended.load(Ordering::SeqCst), "it has not waited");
    });
    assert_eq!(second.keys().expect("lists"), ["q-1"]);
}

/// How many connections say whose records they are for.
fn named(redis: &RedisServer) -> usize {
    let list: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query(&mut redis.connection())
        .expect("CLIENT LIST");
    list.matches(" name=paho-mqtt-redis:").count()
}
