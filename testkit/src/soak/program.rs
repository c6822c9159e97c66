//! The program: some clients that publish at a rate, and do as they are told on standard input.

use std::{
    collections::VecDeque,
    env,
    io::{self, BufRead, Write},
    process,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{Health, PersistenceMetrics, RedisPersistence, prometheus::Registry};

use super::TOPIC;
use crate::{
    LIMIT,
    crash::{kill_self, payload, qos},
    kills::exit,
    timed::Timed,
};

/// How long the MQTT connection may be silent.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How many messages of one client may wait.
const MOST_WAITING: usize = 2_000;

/// What a program is told in its environment.
pub struct Orders {
    pub broker: String,
    pub redis: String,
    /// The number of its first client, and the number of the first message of each.
    pub first: usize,
    pub numbers: Vec<usize>,
    /// Between two messages.
    pub pause: Duration,
}

const VARIABLE: &str = "SOAK_ORDERS";

impl Orders {
    pub fn variable(&self) -> (&'static str, String) {
        let Self {
            broker,
            redis,
            first,
            numbers,
            pause,
        } = self;
        let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        let words = [
            broker.clone(),
            redis.clone(),
            first.to_string(),
            pause.as_micros().to_string(),
            numbers.join(","),
        ];
        (VARIABLE, words.join(" "))
    }

    fn read() -> Option<Self> {
        let text = env::var(VARIABLE).ok()?;
        let words: Vec<&str> = text.split(' ').collect();
        let [broker, redis, first, pause, numbers] = words[..] else {
            return None;
        };
        let numbers: Option<Vec<usize>> =
            numbers.split(',').map(|word| word.parse().ok()).collect();
        Some(Self {
            broker: broker.to_owned(),
            redis: redis.to_owned(),
            first: first.parse().ok()?,
            numbers: numbers?,
            pause: Duration::from_micros(pause.parse().ok()?),
        })
    }
}

/// Does what the environment says; nothing where it says nothing.
pub fn run() {
    let Some(orders) = Orders::read() else { return };
    let (told, words) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            drop(told.send(line));
        }
        // The driver has gone.
        kill_self();
    });
    Program::create(&orders).run(&words, orders.pause);
}

struct Program {
    clients: Vec<Client>,
    longest: Arc<Mutex<Duration>>,
    next: usize,
    is_held: bool,
}

struct Client {
    number: usize,
    published: usize,
    mqtt: mqtt::AsyncClient,
    health: Health,
    under_way: VecDeque<mqtt::Token>,
}

impl Program {
    fn create(orders: &Orders) -> Self {
        let longest = Arc::<Mutex<Duration>>::default();
        let metrics = PersistenceMetrics::register(&Registry::new()).expect("a new registry");
        let numbered = orders.numbers.iter().enumerate();
        let clients = numbered.map(|(place, published)| {
            let number = orders.first + place;
            let persistence = RedisPersistence::builder()
                .url(&orders.redis)
                .open_timeout(LIMIT)
                .build()
                .expect("good options");
            let health = persistence.health();
            let client = mqtt::CreateOptionsBuilder::new()
                .server_uri(&orders.broker)
                .client_id(format!("soak-{number}"))
                .mqtt_version(mqtt::MQTT_VERSION_5)
                .max_buffered_messages(100_000)
                .send_while_disconnected(true)
                .allow_disconnected_send_at_anytime(true)
                .user_persistence(Timed::new(persistence.instrument(&metrics), &longest))
                .create_client()
                .unwrap_or_else(|_| process::exit(exit::NOT_CREATED));
            let link = client.clone();
            thread::spawn(move || keep_connected(&link));
            Client {
                number,
                published: *published,
                mqtt: client,
                health,
                under_way: VecDeque::new(),
            }
        });
        Self {
            clients: clients.collect(),
            longest,
            next: 0,
            is_held: false,
        }
    }

    fn run(mut self, words: &Receiver<String>, pause: Duration) -> ! {
        let mut due = Instant::now();
        loop {
            due = (due + pause).max(Instant::now());
            match words.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(word) => self.obey(&word),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => kill_self(),
            }
            if !self.is_held {
                self.publish_one();
            }
        }
    }

    fn obey(&mut self, word: &str) {
        match word {
            // Nothing is on its way to a broker that is about to go.
            "hold" => {
                self.is_held = true;
                self.settle();
                say("held");
            }
            "go" => self.is_held = false,
            "flush" => {
                let flushed = self
                    .clients
                    .iter()
                    .try_for_each(|client| client.health.flush(LIMIT));
                match flushed {
                    Ok(()) => say("flushed"),
                    Err(error) => say(&format!("unflushed {error}")),
                }
            }
            "memory" => say(&format!("memory {}", allocated())),
            "report" => {
                let longest = self.longest.lock().unwrap().as_micros();
                let lost: u64 = self
                    .clients
                    .iter()
                    .map(|client| client.health.snapshot().lost_records)
                    .sum();
                say(&format!("report {longest} {lost}"));
            }
            "end" => {
                self.settle();
                for client in &self.clients {
                    // It may be without a connection at this moment.
                    let _ = client.mqtt.disconnect(None).wait_for(LIMIT);
                    // What Redis still has is found.
                    let _ = client.health.flush(LIMIT);
                }
                process::exit(exit::DONE);
            }
            other => panic!("{other:?} is no word of the driver"),
        }
    }

    fn publish_one(&mut self) {
        self.next = (self.next + 1) % self.clients.len();
        self.look_after_tokens();
        let client = &mut self.clients[self.next];
        if client.under_way.len() >= MOST_WAITING {
            return;
        }
        let text = payload(client.published, client.number);
        let level = i32::try_from(qos(&text)).expect("0 to 2");
        let message = mqtt::Message::new(TOPIC, text.as_bytes(), level);
        if let Ok(token) = client.mqtt.try_publish(message) {
            say(&format!("accepted {} {}", client.number, client.published));
            client.published += 1;
            client.under_way.push_back(token.into());
        } else {
            process::exit(exit::STUCK);
        }
    }

    /// Gives up where it has to, when Redis has everything.
    fn look_after_tokens(&mut self) {
        let mut is_well = true;
        for client in &mut self.clients {
            is_well &= client.look_after_tokens();
        }
        if !is_well {
            for client in &self.clients {
                // What cannot be saved is found to be lost.
                let _ = client.health.flush(LIMIT);
            }
            process::exit(exit::GIVEN_UP);
        }
    }

    fn settle(&mut self) {
        let started = Instant::now();
        while self
            .clients
            .iter()
            .any(|client| !client.under_way.is_empty())
        {
            self.look_after_tokens();
            if started.elapsed() > LIMIT * 2 {
                process::exit(exit::STUCK);
            }
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

impl Client {
    /// Forgets those that are through. Where one tells that Paho has freed what it is yet to send, it is not.
    fn look_after_tokens(&mut self) -> bool {
        let mut is_well = true;
        self.under_way.retain_mut(|token| match token.try_wait() {
            None => true,
            Some(ended) => {
                is_well &= !matches!(ended, Err(mqtt::Error::Failure));
                false
            }
        });
        is_well
    }
}

/// Connects whenever there is no connection.
fn keep_connected(client: &mqtt::AsyncClient) {
    let mut session = mqtt::Properties::new();
    session
        .push_u32(mqtt::PropertyCode::SessionExpiryInterval, 3600)
        .expect("a property of CONNECT");
    let options = mqtt::ConnectOptionsBuilder::new_v5()
        .clean_start(false)
        .keep_alive_interval(KEEP_ALIVE)
        .connect_timeout(Duration::from_secs(3))
        .properties(session)
        .finalize();
    loop {
        if !client.is_connected() {
            // It is tried again.
            let _ = client.connect(options.clone()).wait_for(LIMIT);
        }
        thread::park_timeout(Duration::from_millis(50));
    }
}

/// What the program has asked for and not given back, in bytes; what the C library keeps for later is not in it.
// The C library tells it in no other way.
#[allow(unsafe_code)]
fn allocated() -> usize {
    // SAFETY: it touches nothing but what it answers.
    let about = unsafe { libc::mallinfo2() };
    about.uordblks + about.hblkhd
}

/// In one write, since a kill may come at any time.
fn say(words: &str) {
    io::stdout()
        .write_all(format!("soak {words}\n").as_bytes())
        .expect("the driver reads");
}
