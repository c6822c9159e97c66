//! Arguments that several commands share.

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    Args, Parser,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
#[cfg(feature = "redis-tls")]
use paho_mqtt_redis::backlog::ServerTls;
use paho_mqtt_redis::backlog::{
    KindFilter, RecordKind, Selection, Server, ServerOptions, TopicFilter, Unresolved,
    is_explicit_server_uri,
};

use crate::{
    commands::Command,
    exit::{Exit, Failure},
    output::escape,
};

/// See, check and move the messages that paho-mqtt-redis keeps in Redis
#[derive(Debug, Parser)]
#[command(name = "mqtt-backlog", version, after_help = Exit::table(), max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
pub struct GlobalArgs {
    /// Address of Redis: redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE], rediss:// or unix:///PATH
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "MQTT_BACKLOG_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379/0",
        help_heading = "Redis"
    )]
    pub url: String,
    /// File whose first line is the password, instead of one in the URL
    #[arg(long, global = true, value_name = "FILE", help_heading = "Redis")]
    pub password_file: Option<PathBuf>,
    /// The key_prefix of the programs
    #[arg(
        long,
        global = true,
        value_name = "TEXT",
        env = "MQTT_BACKLOG_KEY_PREFIX",
        default_value = "",
        hide_default_value = true,
        help_heading = "Redis"
    )]
    pub key_prefix: String,
    #[cfg(feature = "redis-tls")]
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Seconds for connecting, and for each exchange
    #[arg(long, global = true, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds, help_heading = "Redis")]
    pub timeout: Duration,
    /// One JSON object per line
    #[arg(long, global = true)]
    pub json: bool,
}

/// Files for a Redis with TLS.
#[cfg(feature = "redis-tls")]
#[derive(Args, Debug)]
pub struct TlsArgs {
    /// PEM file with the authorities that rediss:// trusts, instead of those of the system
    #[arg(
        long = "redis-ca-file",
        global = true,
        value_name = "FILE",
        env = "MQTT_BACKLOG_REDIS_CA_FILE",
        help_heading = "Redis"
    )]
    pub redis_ca: Option<PathBuf>,
    /// PEM file with the certificate for a Redis that asks for one
    #[arg(
        long = "client-certificate-file",
        global = true,
        value_name = "FILE",
        env = "MQTT_BACKLOG_CLIENT_CERTIFICATE_FILE",
        help_heading = "Redis"
    )]
    pub client_certificate: Option<PathBuf>,
    /// PEM file with the private key of that certificate
    #[arg(
        long = "client-key-file",
        global = true,
        value_name = "FILE",
        env = "MQTT_BACKLOG_CLIENT_KEY_FILE",
        help_heading = "Redis"
    )]
    pub client_key: Option<PathBuf>,
}

impl GlobalArgs {
    /// Prepares to use the Redis.
    pub fn server(&self) -> Result<Server, Failure> {
        let password = self.password_file.as_deref().map(first_line);
        let options = ServerOptions {
            url: self.url.clone(),
            password: password.transpose()?,
            key_prefix: self.key_prefix.clone(),
            #[cfg(feature = "redis-tls")]
            tls: ServerTls {
                ca_file: self.tls.redis_ca.clone(),
                client_certificate_file: self.tls.client_certificate.clone(),
                client_key_file: self.tls.client_key.clone(),
            },
            timeout: self.timeout,
        };
        Ok(Server::new(&options)?)
    }
}

/// Returns the first line of a file, which is a password.
pub fn first_line(path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// One client.
#[derive(Args, Debug)]
pub struct ClientArgs {
    /// Client id, or CLIENT_ID:SERVER_URI if it has records under several
    #[arg(value_name = "CLIENT")]
    pub client: String,
}

impl ClientArgs {
    /// Returns the name of the records.
    pub fn resolve(&self, server: &mut Server) -> Result<String, Failure> {
        resolve(server, &self.client)
    }
}

/// One client, or all whose id begins with a prefix.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct ClientsArgs {
    /// Client id, or CLIENT_ID:SERVER_URI if it has records under several
    #[arg(value_name = "CLIENT")]
    pub client: Option<String>,
    /// All clients whose id begins with this; all with ''
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
}

impl ClientsArgs {
    /// Returns the names of the records.
    pub fn resolve(&self, server: &mut Server) -> Result<Vec<String>, Failure> {
        match (&self.client, &self.prefix) {
            (Some(client), _) => Ok(vec![resolve(server, client)?]),
            (None, prefix) => Ok(server.clients(prefix.as_deref().unwrap_or_default())?),
        }
    }
}

/// One client, all whose id begins with a prefix, or all.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub struct AnyClientsArgs {
    /// Client id, or CLIENT_ID:SERVER_URI if it has records under several; all clients if there is none
    #[arg(value_name = "CLIENT")]
    client: Option<String>,
    /// All clients whose id begins with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
}

impl AnyClientsArgs {
    /// Returns the name of the records, if one client is meant.
    pub fn one(&self, server: &mut Server) -> Result<Option<String>, Failure> {
        let client = self.client.as_deref();
        client.map(|client| resolve(server, client)).transpose()
    }

    /// The beginning of the client ids, if several are meant.
    pub fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default()
    }
}

/// Returns the name of the records that `client` means.
pub fn resolve(server: &mut Server, client: &str) -> Result<String, Failure> {
    let list = |names: Vec<String>| {
        let names = names.iter().map(|name| escape(name.as_bytes()));
        names.collect::<Vec<_>>().join(", ")
    };
    let shown = escape(client.as_bytes());
    server.resolve(client)?.map_err(|unresolved| {
        let address = server.address();
        Failure::usage(match unresolved {
            Unresolved::Ambiguous(names) => format!(
                "{shown} has records under {} server URIs, so name one: {}",
                names.len(),
                list(names)
            ),
            Unresolved::Unknown(names) if names.is_empty() => format!(
                "{shown} has no records, and no other client at {address}; check --url and --key-prefix"
            ),
            Unresolved::Unknown(names) => format!(
                "{shown} has no records at {address}; there are: {}",
                list(names)
            ),
        })
    })
}

/// Conditions that a message has to meet, all of them.
#[derive(Args, Clone, Debug)]
pub struct SelectionArgs {
    /// Only messages whose topic matches, with the wildcards + and #; several are alternatives
    #[arg(long, value_name = "FILTER", value_parser = parse_topic, help_heading = "Selection")]
    topic: Vec<TopicFilter>,
    /// Only messages with a record of this kind, or of a word in the column KIND of show; command is publish,
    /// subscribe and unsubscribe
    #[arg(long, value_name = "KIND", value_parser = kind_parser(), value_delimiter = ',', help_heading = "Selection")]
    kind: Vec<KindFilter>,
    /// Only messages with this number in their key, or in this range
    #[arg(long, value_name = "N[-M]", value_parser = parse_range, value_delimiter = ',', help_heading = "Selection")]
    number: Vec<RangeInclusive<u32>>,
    /// At most this many messages
    #[arg(long, value_name = "N", help_heading = "Selection")]
    limit: Option<usize>,
}

impl SelectionArgs {
    pub fn selection(&self) -> Selection {
        Selection {
            topics: self.topic.clone(),
            kinds: self.kind.clone(),
            numbers: self.number.clone(),
            older_than: None,
            limit: self.limit,
        }
    }
}

/// Returns an error unless there is a condition, or everything is meant.
pub fn require_choice(is_unconditional: bool, all: bool) -> Result<(), Failure> {
    match (is_unconditional, all) {
        (true, false) => Err(Failure::usage(
            "choose what is meant by conditions such as --topic, --kind or --number, or write --all",
        )),
        (false, true) => Err(Failure::usage("--all goes with no other condition")),
        _ => Ok(()),
    }
}

/// The names of the kinds of records, and the words that the column KIND of `show` has for them.
const KINDS: [(&[&str], KindFilter); 9] = [
    (&["command"], KindFilter::Key(RecordKind::Command)),
    (&["publish"], KindFilter::Publish),
    (&["subscribe"], KindFilter::Subscribe),
    (&["unsubscribe"], KindFilter::Unsubscribe),
    (
        &["sent_publish", "sent"],
        KindFilter::Key(RecordKind::SentPublish),
    ),
    (
        &["sent_pubrel", "pubrel"],
        KindFilter::Key(RecordKind::SentPubrel),
    ),
    (
        &["received_publish", "received"],
        KindFilter::Key(RecordKind::ReceivedPublish),
    ),
    (&["undelivered"], KindFilter::Key(RecordKind::Undelivered)),
    (&["unreadable"], KindFilter::Unreadable),
];

fn kind_parser() -> impl TypedValueParser<Value = KindFilter> {
    let values = KINDS.iter().filter_map(|(names, _)| {
        let (name, aliases) = names.split_first()?;
        Some(PossibleValue::new(*name).aliases(aliases.iter().copied()))
    });
    PossibleValuesParser::new(values).try_map(|name| {
        let mut kinds = KINDS.iter();
        let found = kinds.find(|(names, _)| names.contains(&name.as_str()));
        found.map(|(_, kind)| *kind).ok_or("there is no such kind")
    })
}

fn parse_topic(text: &str) -> Result<TopicFilter, String> {
    TopicFilter::parse(text).map_err(str::to_owned)
}

fn parse_range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let number = |text: &str| {
        let number = text.trim().parse::<u32>();
        number.map_err(|_| format!("'{text}' is no number; write N or N-M"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!(
            "the range ends before it begins; write {last}-{first}"
        ));
    }
    Ok(first..=last)
}

/// Parses a number of seconds above zero.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "a number of seconds above zero".to_owned())
}

/// Parses the server URI that a program creates its client with.
pub fn parse_server_uri(text: &str) -> Result<String, String> {
    if is_explicit_server_uri(text) {
        return Ok(text.to_owned());
    }
    Err("write it as the program creates its client with, as in tcp://broker:1883".to_owned())
}

/// Parses an age such as `90s`, `15m`, `12h` or `7d`.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    let invalid = || "write a number with its unit, such as 90s, 15m, 12h or 7d".to_owned();
    let unit = text.chars().last().ok_or_else(invalid)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(invalid()),
    };
    let number: u64 = text
        .strip_suffix(unit)
        .and_then(|number| number.parse().ok())
        .ok_or_else(invalid)?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_of_arguments_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ranges_are_parsed() {
        assert_eq!(parse_range("7"), Ok(7..=7));
        assert_eq!(parse_range("7-9"), Ok(7..=9));
        for text in ["", "-", "7-", "-7", "9-7", "a", "1-2-3"] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_parsed() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7_200), ("7d", 604_800)] {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "s", "5", "-5s", "5w", "99999999999999999999d", "ä"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "x", "NaN", "inf"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn kinds_are_selected_by_name() {
        for (names, kind) in KINDS {
            for name in names {
                let cli = Cli::try_parse_from(["mqtt-backlog", "show", "a", "--kind", name]);
                let Command::Show(args) = cli.expect("valid").command else {
                    panic!("another command");
                };
                assert_eq!(args.selection.selection().kinds, [kind], "{name}");
            }
        }
        let cli = Cli::try_parse_from(["mqtt-backlog", "show", "a", "--kind", "x"]);
        assert!(cli.is_err());
    }
}
