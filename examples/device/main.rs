//! Device that publishes readings with Redis as the persistence, with metrics, a log and a clean stop.
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

/// Interval at which the connection and the acknowledgments are polled.
const TICK: Duration = Duration::from_millis(100);
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Readings that are further behind than this, after a suspend for example, are skipped rather than sent in a burst.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(1);
/// At a high rate, readings that are due within this time are published together, without a sleep between them.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// Time that the end waits for a Redis that is unavailable.
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
        .map_err(|error| Failure::from_error(Exit::Runtime, &error))?;
    // The server starts first, so that the metrics of a device that waits for Redis can be read.
    let server = args
        .listen
        .map(|address| serve(args, address, &registry))
        .transpose()?;
    if let Some(address) = server.as_ref().and_then(MetricsServer::local_addr) {
        let scheme = if args.listen_tls.is_some() {
            "https"
        } else {
            "http"
        };
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
        has_reported_full: false,
    };
    device.run(&stop)
}

/// Serves the metrics and a page for people, with the access that the options set.
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
        Failure::from_error(exit, &error)
    })
}

/// Creates a client that keeps its messages in Redis, with every call measured, and the health of its store.
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
        .max_buffered_messages(usize::from(args.buffer))
        .observer(guard.clone())
        .build()
        .map_err(|error| Failure::of(Exit::Usage, "--redis", &error))?;
    // Creating a client reports only "persistence error"; connect() returns the reason.
    persistence
        .connect(&args.client_id, &args.broker)
        .map_err(|error| Failure::from_error(Exit::Redis, &error))?;

    let health = guard.health.get_or_init(|| persistence.health()).clone();
    let client = mqtt::CreateOptionsBuilder::new()
        .server_uri(args.broker.as_str())
        .client_id(args.client_id.as_str())
        // Paho restores records in the form of this version, so it must be the one that the client connects with.
        .mqtt_version(args.mqtt)
        .max_buffered_messages(i32::from(args.buffer))
        // Readings are accepted while the broker is unreachable, and before the first connection.
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

/// Ends the program before Paho sends a damaged message.
///
/// `Deliveries` cannot detect this for a restored message, which has no token.
struct Guard {
    format: LogFormat,
    health: OnceLock<Health>,
}

impl StoreObserver for Guard {
    fn on_damaged(&self, _client_id: &str, _key: &str) {
        let flushed = self.health.get().map_or(Ok(()), flush);
        let failure = flushed.err().unwrap_or_else(broken_write);
        log::end(self.format, &failure);
        process::exit(failure.code().into());
    }
}

/// Waits until Redis has every record that exists only in memory.
fn flush(health: &Health) -> Result<(), Failure> {
    health.flush(FLUSH_LIMIT).map_err(|error| {
        let consequence = match health.snapshot().held_records {
            0 => return Failure::from_error(Exit::Runtime, &error),
            1 => "1 record is lost with this process".to_owned(),
            in_memory => format!("{in_memory} records are lost with this process"),
        };
        Failure::of(Exit::Runtime, &consequence, &error)
    })
}

fn broken_write() -> Failure {
    Failure::plain(
        Exit::Runtime,
        "a write to the broker failed midway, and Paho would send damaged messages; all readings are in Redis and are \
         sent at the next start",
    )
}

/// Running device.
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
    /// Set once the log reports that the buffer is full, so that it is reported once.
    has_reported_full: bool,
}

impl Device<'_> {
    fn run(mut self, stop: &Receiver<()>) -> Result<(), Failure> {
        let start = Instant::now();
        let (mut next_reading, mut next_tick, mut next_status) = (start, start, start);
        // No more readings are taken once this is set.
        let mut stop_at = None;
        loop {
            let now = Instant::now();
            if stop_at.is_none() {
                if now > next_reading + CATCH_UP_LIMIT {
                    next_reading = now;
                }
                // A rate that cannot be met must not starve signals and the status line.
                let burst_end = now + TICK;
                while next_reading <= now && Instant::now() < burst_end && !self.is_complete() {
                    if let Err(failure) = self.publish() {
                        // Paho keeps the message although `try_publish` failed, with a token that paho-mqtt has freed; closing
                        // the client would use that token.
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
                info!("stopping, waiting for acknowledgments");
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
                if !self.has_reported_full {
                    warn!("buffer full: dropping readings until the broker takes some");
                    self.has_reported_full = true;
                }
                Ok(())
            }
            Err(error) => Err(Failure::of(Exit::Runtime, "cannot publish", &error)),
        }
    }

    /// Returns true if Paho's memory is damaged.
    ///
    /// If a write of a message fails midway, Paho 1.3.16 frees topic and payload but keeps the message to send it again,
    /// unless at QoS 0. After the next connect it would send whatever that memory contains by then.
    fn is_damaged(&self) -> bool {
        self.args.qos != mqtt::QoS::AtMostOnce && self.deliveries.has_broken_write()
    }

    /// Ends without closing Paho, which would free the same memory twice.
    fn abandon(mut self) -> Failure {
        self.print_status();
        let flushed = flush(&self.health);
        mem::forget(self);
        flushed.err().unwrap_or_else(broken_write)
    }

    fn backlog(&self) -> Backlog {
        Backlog::read(&self.registry, &self.args.client_id)
    }

    fn print_status(&mut self) {
        self.deliveries.poll();
        let Backlog { waiting, oldest } = self.backlog();
        if waiting < f64::from(self.args.buffer) / 2.0 {
            self.has_reported_full = false;
        }
        let in_memory = self.health.snapshot().held_records;
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
                "only in memory",
                u64::try_from(in_memory).unwrap_or(u64::MAX)
            ),
        ));
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.print_status();
        let waiting = self.backlog().waiting;
        self.link.close();
        flush(&self.health)?;
        say(&if waiting > 0.0 {
            format!("stopped, {waiting:.0} messages stay in Redis for the next start")
        } else {
            "stopped, nothing is left in Redis".to_owned()
        });
        Ok(())
    }
}

/// Returns true if Paho refused a message because a buffer is full, which is temporary.
fn is_full(code: i32) -> bool {
    matches!(
        mqtt::Error::from(code),
        mqtt::Error::MaxBufferedMessages | mqtt::Error::NoMoreMsgIds
    )
}

/// Catches Ctrl-C and SIGTERM: the first one is sent to the receiver, the second one ends the program.
fn stop_signals() -> Result<Receiver<()>, Failure> {
    static STOP_REQUESTED: AtomicBool = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    ctrlc::set_handler(move || {
        if STOP_REQUESTED.swap(true, Ordering::Relaxed) {
            process::exit(130);
        }
        // Sending fails only if the receiver is gone, and then the program is ending anyway.
        let _ = sender.send(());
    })
    .map_err(|error| Failure::of(Exit::Runtime, "cannot catch signals", &error))?;
    Ok(receiver)
}

/// Prints a line. `println!` would panic once nobody reads the output any more.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
