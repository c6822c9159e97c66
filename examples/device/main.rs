//! Device that publishes readings with Redis as the persistence, with metrics, a log and a clean stop.
//!
//! `cargo run --example device --features server -- --help` lists the options and exit codes.

mod args;
mod log;
mod readings;

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::{self, ExitCode},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use paho_mqtt_redis::{
    Client, ErrorKind, MetricsServer, OnBrokenWrite, PersistenceMetrics, Session,
    paho_mqtt as mqtt, prometheus::Registry,
};
use tracing::info;

use crate::{
    args::Args,
    log::{Exit, Failure},
    readings::{Ledger, Readings},
};

/// Longest wait for signals and due readings.
const TICK: Duration = Duration::from_millis(100);
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Readings that are further behind than this, after a suspend for example, are skipped rather than sent in a burst.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(1);
/// At a high rate, readings that are due within this time are published together.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// Longest wait before the next attempt to connect. A fleet sets a longer one.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(args.log == "json").into(),
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    log::init(args.log == "json")?;
    let stop = stop_signals()?;
    let ledger = args.ledger.as_deref().map(Ledger::open).transpose();
    let ledger = ledger.map_err(|error| Failure::of(Exit::Usage, "--ledger", &error))?;

    let registry = Registry::new();
    let mut metrics = PersistenceMetrics::builder();
    if args.metrics == "lean" {
        metrics = metrics.lean();
    }
    let metrics = metrics.register(&registry).expect("an empty registry");
    // It starts first, so that the metrics of a device that waits for Redis can be read.
    let server = (args.listen != "none").then(|| serve(args, registry));
    let _server = server.transpose()?;

    let client = start(args, &metrics)?;
    let restored = client.health().snapshot().waiting_messages;
    let readings = Readings::new(args.payload);
    let run = &readings.run;
    say(&format!(
        "run {run}, restored {restored} messages from Redis"
    ));
    let device = Device {
        args,
        client,
        readings,
        ledger,
        published: 0,
    };
    device.run(&stop)
}

/// Serves the metrics and a page for people, with the access that the options set.
fn serve(args: &Args, registry: Registry) -> Result<MetricsServer, Failure> {
    let mut server = MetricsServer::builder(registry);
    if let Some(file) = &args.listen_token {
        server = server.bearer_token_file(file);
    }
    if let Some(file) = &args.listen_login {
        server = server.basic_auth_file(file);
    }
    if let Some(file) = &args.listen_tls {
        #[cfg(feature = "server-tls")]
        let secure = Ok(server.tls(file, file));
        #[cfg(not(feature = "server-tls"))]
        let secure = Err(format!(
            "--listen-tls {}: no feature server-tls",
            file.display()
        ));
        server = secure.map_err(|error: String| Failure(Exit::Usage, error))?;
    }
    let address: Result<SocketAddr, _> = args.listen.parse();
    let address = address.map_err(|error| Failure::of(Exit::Usage, "--listen", &error))?;
    let server = server.bind(address).map_err(|error| match error.kind() {
        ErrorKind::InvalidOption => Failure::of(Exit::Usage, "--listen", &error),
        _ => Failure::of(Exit::Listen, "--listen", &error),
    })?;
    let address = server.local_addr().unwrap_or(address);
    let secure = if args.listen_tls.is_some() { "s" } else { "" };
    say(&format!("metrics at http{secure}://{address}/metrics"));
    Ok(server)
}

/// Starts a client that keeps its messages in Redis.
fn start(args: &Args, metrics: &PersistenceMetrics) -> Result<Client, Failure> {
    let is_json = args.log == "json";
    // A supervisor starts the program again.
    let reaction = OnBrokenWrite::call(move |broken| {
        let message = "a write to the broker failed midway, and Paho would send damaged messages";
        let failure = match &broken.flushed {
            Ok(()) => Failure(Exit::Runtime, message.to_owned()),
            Err(error) => Failure::of(Exit::Runtime, message, error),
        };
        process::exit(failure.report(is_json).into());
    });
    let prefix = args.key_prefix.as_deref().unwrap_or_default();
    Session::new(args.client_id.as_str(), args.broker.as_str())
        .name(args.broker.as_str())
        .mqtt_version(args.mqtt)
        .redis(|redis| {
            let redis = redis.url(args.redis.as_str()).key_prefix(prefix);
            redis.durability(args.durability).replicas(args.replicas)
        })
        .max_messages(args.buffer.into())
        .metrics(metrics)
        .backoff(Duration::from_secs(1), MAX_BACKOFF)
        .on_broken_write(reaction)
        .start()
        .map_err(|error| match error.kind() {
            ErrorKind::InvalidOption => Failure::of(Exit::Usage, "--broker or --redis", &error),
            ErrorKind::Broker => Failure::of(Exit::Runtime, "--broker", &error),
            _ => Failure::of(Exit::Redis, "--redis", &error),
        })
}

/// Running device.
struct Device<'a> {
    args: &'a Args,
    client: Client,
    readings: Readings,
    ledger: Option<Ledger>,
    published: u64,
}

impl Device<'_> {
    fn run(mut self, stop: &Receiver<()>) -> Result<(), Failure> {
        let (mut next_reading, mut next_status) = (Instant::now(), Instant::now());
        // No more readings are taken once this is set.
        let mut stop_at = None;
        loop {
            let now = Instant::now();
            if stop_at.is_none() {
                next_reading = self.publish_due(next_reading, now)?;
                if self.is_complete() {
                    stop_at = Some(now + self.args.stop_timeout);
                }
            }
            if next_status <= now {
                self.print_status();
                next_status = now + STATUS_INTERVAL;
            }
            if stop_at.is_some_and(|stop_at| stop_at <= now || self.waiting() == 0) {
                break;
            }
            let wake_at = stop_at.unwrap_or(next_reading);
            let wake_at = wake_at.min(next_status).min(now + TICK);
            let sleep = wake_at.saturating_duration_since(Instant::now());
            if stop.recv_timeout(sleep.max(SHORTEST_SLEEP)).is_ok() {
                info!("stopping, waiting for acknowledgments");
                stop_at.get_or_insert(Instant::now() + self.args.stop_timeout);
            }
        }
        self.print_status();
        let stopped = self.client.stop(Duration::ZERO);
        let stopped = stopped.map_err(|error| Failure::of(Exit::Runtime, "end", &error))?;
        say(&match stopped.pending {
            0 => "stopped, nothing is left in Redis".to_owned(),
            pending => format!("stopped, {pending} messages stay in Redis for the next start"),
        });
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.args.count.is_some_and(|count| self.published >= count)
    }

    /// Number of messages that are not acknowledged, those of earlier runs included.
    fn waiting(&self) -> usize {
        let waiting = self.client.health().snapshot().waiting_messages;
        waiting.max(self.client.state().pending)
    }

    /// Publishes what is due, and returns the time of the next reading.
    fn publish_due(&mut self, mut next: Instant, now: Instant) -> Result<Instant, Failure> {
        if now > next + CATCH_UP_LIMIT {
            next = now;
        }
        // A rate that cannot be met must not starve signals and the status line.
        let burst_end = now + TICK;
        while next <= now && Instant::now() < burst_end && !self.is_complete() {
            self.publish()?;
            next += self.args.rate;
        }
        Ok(next)
    }

    fn publish(&mut self) -> Result<(), Failure> {
        let (id, payload) = self.readings.take();
        let message = mqtt::Message::new(self.args.topic.as_str(), payload, self.args.qos);
        match self.client.publish(message) {
            Ok(_) => self.published += 1,
            // The client counts it, and logs the first one.
            Err(error) if error.kind() == ErrorKind::Full => return Ok(()),
            Err(error) => return Err(Failure::of(Exit::Runtime, "publish", &error)),
        }
        let written = self.ledger.as_mut().map(|ledger| ledger.write(&id));
        let written = written.transpose().map(drop);
        written.map_err(|error| Failure::of(Exit::Runtime, "cannot write to the ledger", &error))
    }

    fn print_status(&self) {
        let (state, store) = (self.client.state(), self.client.health().snapshot());
        let oldest = store.oldest_waiting.unwrap_or_default().as_secs_f64();
        let broker = if state.is_connected() { "up" } else { "down" };
        let optional = [
            ("refused", state.refused),
            ("failed", state.failed),
            ("only in memory", store.held_records as u64),
        ];
        let optional = optional.into_iter().filter(|(_, count)| *count > 0);
        let optional = optional.map(|(name, count)| format!(", {name} {count}"));
        say(&format!(
            "published {}, acknowledged {}, waiting {}, oldest {oldest:.1} s, broker {broker}{}",
            self.published,
            state.acknowledged,
            store.waiting_messages,
            optional.collect::<String>()
        ));
    }
}

/// Catches Ctrl-C and SIGTERM: the first one is sent to the receiver, the second one ends the program.
fn stop_signals() -> Result<Receiver<()>, Failure> {
    static STOP_REQUESTED: AtomicBool = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let set = ctrlc::set_handler(move || {
        if STOP_REQUESTED.swap(true, Ordering::Relaxed) {
            process::exit(130);
        }
        // Sending fails only if the receiver is gone, and then the program is ending anyway.
        let _ = sender.send(());
    });
    set.map_err(|error| Failure::of(Exit::Runtime, "cannot catch signals", &error))?;
    Ok(receiver)
}

/// Prints a line. `println!` would panic once nobody reads the output any more.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
