//! The main job: a device that publishes readings through Redis, with metrics, a log and a clean stop.
//!
//! `cargo run --example device --features server -- --help` lists the options and exit codes.

mod args;
mod backlog;
mod deliveries;
mod failure;
mod link;
mod log;
mod readings;

use std::{
    io::{self, Write},
    mem,
    net::SocketAddr,
    process::{self, ExitCode},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    time::{Duration, Instant},
};

use paho_mqtt_redis::{
    ErrorKind, Health, MetricsServer, PersistenceMetrics, RedisPersistence, StoreObserver,
    paho_mqtt as mqtt, prometheus::Registry,
};
use tracing::{info, warn};

use crate::{
    args::{Args, Command, LogFormat, Metrics},
    backlog::Backlog,
    deliveries::Deliveries,
    failure::{Exit, Failure},
    link::Link,
    readings::{Ledger, Readings},
};

/// How often the connection and the acknowledgements are looked at.
const TICK: Duration = Duration::from_millis(100);
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Readings that are further behind than this, after a suspend for example, are skipped rather than sent in a burst.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(1);
/// At a high rate, readings that are due within this time go together, rather than with a sleep between any two.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// How long a Redis that is away is waited for at the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut format = LogFormat::Text;
    let outcome = match args::parse(lexopt::Parser::from_env()) {
        Ok(Command::Run(args)) => {
            format = args.log;
            run(&args)
        }
        Ok(Command::Help) => {
            say(args::HELP.trim_end());
            Ok(())
        }
        Ok(Command::Version) => {
            say(concat!(
                "device (paho-mqtt-redis ",
                env!("CARGO_PKG_VERSION"),
                ")"
            ));
            Ok(())
        }
        Err(message) => Err(Failure::plain(Exit::Usage, message)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log::end(format, &failure);
            failure.exit_code()
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    log::init(args.log)?;
    let stop = stop_signals()?;
    let ledger = match &args.ledger {
        Some(path) => Some(Ledger::open(path).map_err(|error| {
            Failure::of(
                Exit::Usage,
                &format!("--ledger: '{}'", path.display()),
                &error,
            )
        })?),
        None => None,
    };

    let registry = Registry::new();
    let metrics = match args.metrics {
        Metrics::Full => PersistenceMetrics::builder(),
        Metrics::Lean => PersistenceMetrics::builder().lean(),
    };
    let metrics = metrics
        .register(&registry)
        .map_err(|error| Failure::because(Exit::Runtime, &error))?;
    // Before anything else that may take time, so that even a device that waits for Redis can be looked at.
    let server = args
        .listen
        .map(|address| serve(args, address, &registry))
        .transpose()?;
    if let Some(server) = &server {
        let scheme = if args.listen_tls.is_some() {
            "https"
        } else {
            "http"
        };
        let address = server.local_addr();
        say(&format!("metrics at {scheme}://{address}/metrics"));
    }

    let (client, health) = create_client(args, &metrics)?;
    let link = Link::start(&client, args.mqtt)
        .map_err(|error| Failure::of(Exit::Runtime, "cannot connect", &error))?;
    let readings = Readings::new(args.payload);
    say(&format!(
        "run {}, restored {:.0} messages from Redis",
        readings.run(),
        backlog::restored(&registry, &args.client_id)
    ));

    let device = Device {
        args,
        registry,
        client,
        health,
        link,
        readings,
        ledger,
        deliveries: Deliveries::default(),
        published: 0,
        refused: 0,
        full: false,
    };
    device.run(&stop)
}

/// Serves the metrics, and a page for people, to whom the options say.
fn serve(args: &Args, address: SocketAddr, registry: &Registry) -> Result<MetricsServer, Failure> {
    let mut server = MetricsServer::builder(registry.clone());
    if let Some(file) = &args.listen_token {
        server = server.bearer_token_file(file);
    }
    #[cfg(feature = "server-tls")]
    if let Some(file) = &args.listen_tls {
        server = server.tls(file, file);
    }
    server.bind(address).map_err(|error| {
        let exit = match error.kind() {
            ErrorKind::InvalidOption => Exit::Usage,
            _ => Exit::Listen,
        };
        Failure::because(exit, &error)
    })
}

/// A client whose messages live in Redis, each call measured, and what tells how Redis is.
fn create_client(
    args: &Args,
    metrics: &PersistenceMetrics,
) -> Result<(mqtt::AsyncClient, Health), Failure> {
    let guard = Arc::new(Guard {
        format: args.log,
        health: OnceLock::new(),
    });
    let mut persistence = RedisPersistence::builder()
        .url(args.redis.as_str())
        .key_prefix(args.key_prefix.as_str())
        .observer(guard.clone())
        .build()
        .map_err(|error| Failure::of(Exit::Usage, "--redis", &error))?;
    // When it creates a client, Paho drops the reason why a persistence could not be opened; here it can be shown.
    persistence
        .connect(&args.client_id, &args.broker)
        .map_err(|error| Failure::because(Exit::Redis, &error))?;

    let health = guard.health.get_or_init(|| persistence.health()).clone();
    let client = mqtt::CreateOptionsBuilder::new()
        .server_uri(args.broker.as_str())
        .client_id(args.client_id.as_str())
        // Paho restores records in the form of this version, so it must be the one that the client connects with.
        .mqtt_version(args.mqtt)
        .max_buffered_messages(args.buffer)
        // Readings are accepted while the broker is away, and before it was ever reached.
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .user_persistence(persistence.instrument(metrics))
        .create_client()
        .map_err(|error| {
            let exit = match error {
                mqtt::Error::PersistenceError => Exit::Redis,
                _ => Exit::Runtime,
            };
            Failure::of(exit, "cannot create the client", &error)
        })?;
    Ok((client, health))
}

/// Ends the program before Paho sends a message that it has damaged: no token tells of one that was restored.
struct Guard {
    format: LogFormat,
    health: OnceLock<Health>,
}

impl StoreObserver for Guard {
    fn on_damaged(&self, _client_id: &str, _key: &str) {
        let written = self.health.get().map_or(Ok(()), write_everything);
        let failure = written.err().unwrap_or_else(broken_off);
        log::end(self.format, &failure);
        process::exit(failure.code().into());
    }
}

/// Waits until Redis has what only this program has.
fn write_everything(health: &Health) -> Result<(), Failure> {
    health.flush(FLUSH_LIMIT).map_err(|error| {
        let held = health.snapshot().held_records;
        let what = format!("{held} records are lost with this program");
        Failure::of(Exit::Runtime, &what, &error)
    })
}

fn broken_off() -> Failure {
    Failure::plain(
        Exit::Runtime,
        "a write to the broker was broken off, after which Paho would send damaged messages; every \
         reading is in Redis, and the next start sends it",
    )
}

/// A device that runs.
struct Device<'a> {
    args: &'a Args,
    registry: Registry,
    client: mqtt::AsyncClient,
    health: Health,
    link: Link,
    readings: Readings,
    ledger: Option<Ledger>,
    deliveries: Deliveries,
    published: u64,
    refused: u64,
    /// Whether it was said that the buffer is full.
    full: bool,
}

impl Device<'_> {
    fn run(mut self, stop: &Receiver<()>) -> Result<(), Failure> {
        let start = Instant::now();
        let (mut next_reading, mut next_tick, mut next_status) = (start, start, start);
        // Once it is set no more readings are taken.
        let mut stop_at = None;
        loop {
            let now = Instant::now();
            if stop_at.is_none() {
                if now > next_reading + CATCH_UP_LIMIT {
                    next_reading = now;
                }
                // More than can be published is never caught up with; signals and the status must have their turn.
                let burst_end = now + TICK;
                while next_reading <= now && Instant::now() < burst_end && !self.is_complete() {
                    if let Err(failure) = self.publish() {
                        // Paho has the message all the same, with a token that paho-mqtt has freed, and
                        // would come back to it when it is closed.
                        mem::forget(self);
                        return Err(failure);
                    }
                    next_reading += self.args.interval;
                }
                if self.is_complete() {
                    stop_at = Some(now + self.args.stop_timeout);
                }
            }
            if next_tick <= now {
                self.deliveries.poll();
                if self.is_damaged() {
                    return Err(self.abandon());
                }
                self.link.tick();
                next_tick = now + TICK;
            }
            if next_status <= now {
                self.print_status();
                next_status = now + STATUS_INTERVAL;
            }

            let mut wake_at = next_tick.min(next_status);
            if let Some(stop_at) = stop_at {
                let all_done = self.deliveries.are_done() && self.backlog().waiting <= 0.0;
                if all_done || stop_at <= now {
                    break;
                }
                wake_at = wake_at.min(stop_at);
            } else {
                wake_at = wake_at.min(next_reading);
            }
            let sleep = wake_at.saturating_duration_since(Instant::now());
            if stop.recv_timeout(sleep.max(SHORTEST_SLEEP)).is_ok() {
                info!("stopping, waiting for acknowledgements");
                stop_at.get_or_insert(Instant::now() + self.args.stop_timeout);
            }
        }
        self.deliveries.poll();
        if self.is_damaged() {
            return Err(self.abandon());
        }
        self.finish()
    }

    fn is_complete(&self) -> bool {
        self.args.count.is_some_and(|count| self.published >= count)
    }

    fn publish(&mut self) -> Result<(), Failure> {
        let reading = self.readings.take();
        let message = mqtt::Message::new(
            self.args.topic.as_str(),
            reading.payload.as_bytes(),
            self.args.qos,
        );
        match self.client.try_publish(message) {
            Ok(token) => {
                if let Some(ledger) = &mut self.ledger {
                    ledger.write(&reading).map_err(|error| {
                        Failure::of(Exit::Runtime, "cannot write to the ledger", &error)
                    })?;
                }
                self.published += 1;
                self.deliveries.add(token);
                Ok(())
            }
            Err(mqtt::Error::Publish(code, _)) if is_full(code) => {
                self.refused += 1;
                if !self.full {
                    warn!("the buffer is full, readings are dropped until the broker takes some");
                    self.full = true;
                }
                Ok(())
            }
            Err(error) => Err(Failure::of(Exit::Runtime, "cannot publish", &error)),
        }
    }

    /// Whether Paho's memory is damaged.
    ///
    /// When writing a message is broken off by an error, Paho 1.3.16 frees topic and payload and yet keeps the message
    /// to send it again, unless at QoS 0: after the next connect it would send what happens to be there by then.
    fn is_damaged(&self) -> bool {
        self.args.qos != mqtt::QoS::AtMostOnce && self.deliveries.was_broken_off()
    }

    /// Gives Paho up without closing it, which would free the same memory twice.
    fn abandon(mut self) -> Failure {
        self.print_status();
        let written = write_everything(&self.health);
        mem::forget(self);
        written.err().unwrap_or_else(broken_off)
    }

    fn backlog(&self) -> Backlog {
        Backlog::read(&self.registry, &self.args.client_id)
    }

    fn print_status(&mut self) {
        self.deliveries.poll();
        let Backlog { waiting, oldest } = self.backlog();
        if waiting < f64::from(self.args.buffer) / 2.0 {
            self.full = false;
        }
        let held = self.health.snapshot().held_records;
        let count_of = |name: &str, count: u64| match count {
            0 => String::new(),
            count => format!(", {name} {count}"),
        };
        say(&format!(
            "published {}, acknowledged {}, waiting {waiting:.0}, oldest {oldest:.1} s, broker {}{}{}{}",
            self.published,
            self.deliveries.acknowledged(),
            if self.link.is_up() { "up" } else { "down" },
            count_of("refused", self.refused),
            count_of("failed", self.deliveries.failed()),
            count_of(
                "held without Redis",
                u64::try_from(held).unwrap_or(u64::MAX)
            ),
        ));
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.print_status();
        let waiting = self.backlog().waiting;
        self.link.close();
        write_everything(&self.health)?;
        say(&if waiting > 0.0 {
            format!("stopped, {waiting:.0} messages stay in Redis for the next start")
        } else {
            "stopped, nothing is left in Redis".to_owned()
        });
        Ok(())
    }
}

/// Whether Paho refused a message for want of room, which passes.
fn is_full(code: i32) -> bool {
    matches!(
        mqtt::Error::from(code),
        mqtt::Error::MaxBufferedMessages | mqtt::Error::NoMoreMsgIds
    )
}

/// Ctrl-C and SIGTERM: the first one arrives at the receiver, the second one ends the program.
fn stop_signals() -> Result<Receiver<()>, Failure> {
    static ASKED: AtomicBool = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    ctrlc::set_handler(move || {
        if ASKED.swap(true, Ordering::Relaxed) {
            process::exit(130);
        }
        // The receiver is gone when the program is about to end anyway.
        let _ = sender.send(());
    })
    .map_err(|error| Failure::of(Exit::Runtime, "cannot catch signals", &error))?;
    Ok(receiver)
}

/// Prints a line; `println!` would end the device when nobody reads its output any more.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
