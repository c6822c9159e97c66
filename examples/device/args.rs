//! The command line.

use std::{
    fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration,
};

use lexopt::Arg;
use paho_mqtt_redis::paho_mqtt as mqtt;

/// Text that `--help` prints.
pub const HELP: &str = "\
Publishes readings at a fixed rate. At QoS 1 and 2 each reading that the client accepts stays in Redis until the broker
acknowledges it, across broker outages and crashes of this program. Readings are lost at QoS 0, if the buffer is full
(counted as refused), and if this program dies while Redis is unavailable. The backlog and every call to Redis are served
as metrics.

Usage: device [OPTION]...

  --broker URI         MQTT broker: mqtt://HOST[:PORT] or tcp://HOST[:PORT] (default mqtt://127.0.0.1:1883)
  --redis URL          redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE] or
                       unix:///PATH[?db=DATABASE&user=USER&pass=PASSWORD] (default redis://127.0.0.1:6379/0)
  --key-prefix TEXT    prefix of the Redis key, before client id and broker (default: none)
  --client-id ID       MQTT client id, also part of the Redis key (default example-device)
  --topic TOPIC        topic of the readings (default example/readings)
  --qos 0|1|2          0: at most once, 1: at least once, 2: exactly once (default 1)
  --mqtt 3.1.1|5       MQTT version (default 5)
  --rate NUMBER        readings per second, 0.001 to 1000000 (default 1)
  --payload BYTES      message size in bytes, 0 to 16777216, at least what the reading needs (default 64)
  --count NUMBER       stop after NUMBER readings (default: run until stopped)
  --listen ADDRESS     address for /metrics, such as 127.0.0.1:9464 or [::1]:9464; port 0 picks a free port,
                       'none' disables it (default 127.0.0.1:9464)
  --metrics full|lean  all series, or only those that the fleet board, recording rules and alerts use (default full)
  --listen-token FILE  require the bearer token in this file
  --listen-tls FILE    serve over TLS with certificate and key from this PEM file (feature server-tls)
  --buffer NUMBER      max_buffered_messages, 4 to 65535; readings beyond it are dropped and counted as refused. Its fill
                       is among the metrics (default 10000)
  --stop-timeout SECONDS
                       time that a clean stop waits for acknowledgments, 0 to 86400 (default 10)
  --ledger FILE        append the id of each accepted reading to FILE, one per line
  --log text|json      log format on stderr, final error included (default text)
  -h, --help           print this help
  -V, --version        print the version

A message is '<run id> <number> <value>' and dots up to the size; the run id is new at each start.
Once per second a status line shows how many readings this run has published, how many of them the broker has
acknowledged, how many messages wait in all, those of earlier runs included, and the age of the oldest one; and, if not
zero, how many readings were refused, how many deliveries failed, and how many records exist only in memory because
Redis is unavailable.

RUST_LOG sets what is logged (default info); paho_mqtt_redis=debug logs every call to Redis.
Ctrl-C and SIGTERM stop cleanly: no new readings, wait for acknowledgments, disconnect. What still waits then stays in
Redis, and the next start with the same --client-id, --broker and --key-prefix sends it. A second Ctrl-C ends at once.

Exit codes:
  0    clean stop, also with messages waiting in Redis
  1    runtime failure; a supervisor should restart it, stored readings are kept
  2    wrong option or value
  3    Redis is unavailable
  4    cannot listen on the /metrics address
  130  ended by a second Ctrl-C
An unreachable broker is not an error: the device retries.
";

/// Action that the command line selects.
pub enum Command {
    /// Publish.
    Run(Box<Args>),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// The options of a run.
pub struct Args {
    pub broker: String,
    pub redis: String,
    pub key_prefix: String,
    pub client_id: String,
    pub topic: String,
    pub qos: mqtt::QoS,
    pub mqtt: mqtt::MqttVersion,
    /// Time from one reading to the next.
    pub interval: Duration,
    pub payload: usize,
    pub count: Option<u64>,
    pub listen: Option<SocketAddr>,
    pub metrics: Metrics,
    pub listen_token: Option<PathBuf>,
    pub listen_tls: Option<PathBuf>,
    pub buffer: u16,
    pub stop_timeout: Duration,
    pub ledger: Option<PathBuf>,
    pub log: LogFormat,
}

/// Series that are served.
#[derive(Clone, Copy)]
pub enum Metrics {
    Full,
    Lean,
}

/// Format of the log.
#[derive(Clone, Copy)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One object per line.
    Json,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            broker: "mqtt://127.0.0.1:1883".to_owned(),
            redis: "redis://127.0.0.1:6379/0".to_owned(),
            key_prefix: String::new(),
            client_id: "example-device".to_owned(),
            topic: "example/readings".to_owned(),
            qos: mqtt::QoS::AtLeastOnce,
            mqtt: mqtt::MqttVersion::V5,
            interval: Duration::from_secs(1),
            payload: 64,
            count: None,
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9464))),
            metrics: Metrics::Full,
            buffer: 10_000,
            listen_token: None,
            listen_tls: None,
            stop_timeout: Duration::from_secs(10),
            ledger: None,
            log: LogFormat::Text,
        }
    }
}

/// Reads the command line; the error is a message for the user.
pub fn parse(mut parser: lexopt::Parser) -> Result<Command, String> {
    let mut args = Args::default();
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        let option = match arg {
            Arg::Short('h') => "help".to_owned(),
            Arg::Short('V') => "version".to_owned(),
            Arg::Long(name) => name.to_owned(),
            other => return Err(other.unexpected().to_string()),
        };
        let mut value = || Value::take(&mut parser, &option);
        match option.as_str() {
            "broker" => args.broker = value()?.broker()?,
            "redis" => args.redis = value()?.text("a URL such as redis://127.0.0.1:6379/0")?,
            "key-prefix" => {
                args.key_prefix =
                    value()?.text("a text of 1 to 65535 bytes without control characters")?;
            }
            "client-id" => {
                args.client_id =
                    value()?.text("a name of 1 to 65535 bytes without control characters")?;
            }
            "topic" => args.topic = value()?.topic()?,
            "qos" => {
                args.qos = value()?.choice(&[
                    ("0", mqtt::QoS::AtMostOnce),
                    ("1", mqtt::QoS::AtLeastOnce),
                    ("2", mqtt::QoS::ExactlyOnce),
                ])?;
            }
            "mqtt" => {
                args.mqtt = value()?.choice(&[
                    ("3.1.1", mqtt::MqttVersion::V3_1_1),
                    ("5", mqtt::MqttVersion::V5),
                ])?;
            }
            "rate" => {
                let rate = value()?.number(0.001..=1_000_000.0)?;
                args.interval = Duration::from_secs_f64(1.0 / rate);
            }
            "payload" => args.payload = value()?.number(0..=16_777_216)?,
            "count" => args.count = Some(value()?.number(1..=u64::MAX)?),
            "listen" => args.listen = value()?.listen()?,
            "metrics" => {
                args.metrics =
                    value()?.choice(&[("full", Metrics::Full), ("lean", Metrics::Lean)])?;
            }
            "listen-token" => {
                args.listen_token = Some(value()?.text("the name of a file")?.into());
            }
            "listen-tls" if cfg!(feature = "server-tls") => {
                args.listen_tls = Some(value()?.text("the name of a file")?.into());
            }
            "listen-tls" => {
                return Err(
                    "--listen-tls: this was built without the feature server-tls".to_owned(),
                );
            }
            "buffer" => args.buffer = value()?.number(4..=u16::MAX)?,
            "stop-timeout" => {
                args.stop_timeout = Duration::from_secs_f64(value()?.number(0.0..=86_400.0)?);
            }
            "ledger" => args.ledger = Some(value()?.text("the name of a file")?.into()),
            "log" => {
                args.log =
                    value()?.choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)])?;
            }
            "help" => return Ok(Command::Help),
            "version" => return Ok(Command::Version),
            _ => return Err(format!("unknown option --{option}")),
        }
    }
    Ok(Command::Run(Box::new(args)))
}

/// Value of an option, with the name of the option for error messages.
struct Value {
    option: String,
    text: String,
}

impl Value {
    fn take(parser: &mut lexopt::Parser, option: &str) -> Result<Self, String> {
        let text = parser
            .value()
            .map_err(|_| format!("--{option} needs a value"))?;
        match text.into_string() {
            Ok(text) => Ok(Self {
                option: option.to_owned(),
                text,
            }),
            Err(text) => Err(format!("--{option}: '{}' is not UTF-8", text.display())),
        }
    }

    fn invalid(&self, allowed: impl Display) -> String {
        format!(
            "--{}: '{}' is not valid; expected {allowed}",
            self.option,
            self.text.escape_debug()
        )
    }

    fn number<T: FromStr + PartialOrd + Display>(
        self,
        range: RangeInclusive<T>,
    ) -> Result<T, String> {
        match self.text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(self.invalid(format_args!(
                "a number from {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }

    fn choice<T: Copy>(self, choices: &[(&str, T)]) -> Result<T, String> {
        let chosen = choices.iter().find(|(name, _)| *name == self.text);
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.invalid(format_args!("one of {}", names.join(", ")))
        })
    }

    /// Returns a text that MQTT can carry.
    fn text(self, allowed: &str) -> Result<String, String> {
        let fits = (1..=65_535).contains(&self.text.len());
        if fits && !self.text.contains(char::is_control) {
            Ok(self.text)
        } else {
            Err(self.invalid(allowed))
        }
    }

    fn topic(self) -> Result<String, String> {
        const ALLOWED: &str = "a topic of 1 to 65535 bytes without +, # and control characters";
        if self.text.contains(['+', '#']) {
            return Err(self.invalid(ALLOWED));
        }
        self.text(ALLOWED)
    }

    fn broker(self) -> Result<String, String> {
        const ALLOWED: &str =
            "mqtt://HOST[:PORT] or tcp://HOST[:PORT] (TLS is left out of this example)";
        let address = ["mqtt://", "tcp://"]
            .iter()
            .find_map(|scheme| self.text.strip_prefix(scheme));
        // The brackets of an IPv6 address hold colons that start no port.
        let is_usable = address.is_some_and(|address| {
            let host_end = address.rfind(']').unwrap_or(0);
            match address[host_end..].split_once(':') {
                Some((host, port)) => {
                    host_end + host.len() > 0 && port.parse().is_ok_and(|port: u16| port > 0)
                }
                None => !address.is_empty(),
            }
        });
        if is_usable {
            self.text(ALLOWED)
        } else {
            Err(self.invalid(ALLOWED))
        }
    }

    fn listen(self) -> Result<Option<SocketAddr>, String> {
        if self.text == "none" {
            return Ok(None);
        }
        self.text.parse().map(Some).map_err(|_| {
            self.invalid("an address and a port such as 127.0.0.1:9464 or [::1]:9464, or none")
        })
    }
}
