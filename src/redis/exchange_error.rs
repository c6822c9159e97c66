//! The error of an exchange with Redis: an error reply, or a connection that failed.

use std::io;

use ::redis::{RedisError, ServerError};

use super::acl;
use crate::error::{Error, ErrorKind};

/// The reason why an exchange returned no value.
pub(super) enum ExchangeError {
    /// Redis replied with an error, which has this text; the connection stays usable.
    ErrorReply(ErrorKind, String),
    /// The connection is no longer usable: it broke, or a reply is missing or malformed.
    Unusable(ErrorKind, BoxedError),
    /// The connection is no longer usable, and this reason is more exact than that of the kind.
    Disconnected(&'static str, BoxedError),
    /// Another node of the cluster has the slot, as these words say; the connection is of no more use.
    Moved(String),
    /// The connection is no longer usable: Redis refused the password or the database.
    NotConnected(Error),
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl ExchangeError {
    /// Converts this into an error whose `attempt` completes the sentence "cannot …".
    pub(super) fn into_error(self, attempt: impl FnOnce() -> String) -> Error {
        match self {
            // This kind has no explanation of its own, so the words of Redis are the reason. They
            // are quoted with escapes: a server must not put line breaks into a log.
            Self::ErrorReply(kind @ ErrorKind::Server, words) => {
                Error::new(kind, attempt()).with_reason(format!("Redis answered {words:?}"))
            }
            Self::ErrorReply(kind @ ErrorKind::Permission, words) => {
                let mut error = Error::new(kind, attempt());
                if let Some(reason) = acl::missing_command_reason(&words) {
                    error = error.with_reason(reason);
                }
                error.with_source(words)
            }
            Self::ErrorReply(kind, words) => Error::new(kind, attempt()).with_source(words),
            Self::Unusable(kind, source) => Error::new(kind, attempt()).with_source(source),
            Self::Disconnected(reason, source) => Error::new(ErrorKind::Connection, attempt())
                .with_reason(reason)
                .with_source(source),
            Self::Moved(words) => Error::new(ErrorKind::Connection, attempt())
                .with_reason(
                    "another node of the cluster has the records; a URL with redis-cluster:// finds it \
                     with the next attempt",
                )
                .with_source(words),
            Self::NotConnected(error) => error,
        }
    }

    /// The error for an unanswered write that had no effect; the connection stays usable.
    pub(super) fn unconfirmed(reason: &'static str) -> Self {
        Self::ErrorReply(ErrorKind::Unconfirmed, reason.to_owned())
    }

    /// The error for a reply that the protocol does not allow.
    pub(super) fn protocol(reason: &'static str) -> Self {
        Self::Unusable(ErrorKind::Protocol, reason.into())
    }

    /// Makes an error reply one that leaves the connection unusable.
    pub(super) fn into_unusable(self) -> Self {
        match self {
            Self::ErrorReply(kind, words) => Self::Unusable(kind, words.into()),
            other => other,
        }
    }

    /// Removes from the reply to a command that carried a password everything that the server chose.
    ///
    /// Redis repeats the arguments of an unknown command, and a server that is not Redis may repeat
    /// any command. Error texts and the log never have a password in them.
    pub(super) fn without_secrets(self) -> Self {
        match self {
            Self::ErrorReply(kind, words) => Self::ErrorReply(kind, known_words(kind, &words)),
            Self::Unusable(ErrorKind::Protocol, _) | Self::Moved(_) => {
                Self::protocol("the reply to AUTH is malformed")
            }
            other => other,
        }
    }
}

/// The causes that a reply to `AUTH` may name: a part of the reply, and the text shown for it.
const AUTH_CAUSES: [(&str, &str); 6] = [
    ("without any password", NO_PASSWORD_SET),
    ("no password is set", NO_PASSWORD_SET),
    ("invalid password", "invalid password"),
    (
        "wrong number of arguments",
        "wrong number of arguments for AUTH",
    ),
    ("max number of clients", "max number of clients reached"),
    ("protected mode", "Redis is running in protected mode"),
];
const NO_PASSWORD_SET: &str = "AUTH called without a password configured";

/// Rewrites the words of a reply to `AUTH` from constants alone.
fn known_words(kind: ErrorKind, words: &str) -> String {
    let code = words.split(' ').next().unwrap_or_default();
    // A code with a kind of its own has been compared with a constant, so it is no argument.
    let code = match kind {
        ErrorKind::Server | ErrorKind::Authentication => ["ERR", "NOAUTH", "WRONGPASS", "DENIED"]
            .into_iter()
            .find(|known| *known == code)
            .unwrap_or("an unknown error"),
        _ => code,
    };
    let cause = AUTH_CAUSES.iter().find(|(part, _)| words.contains(part));
    match cause {
        Some((_, cause)) => format!("{code} {cause}"),
        None => format!("{code} in reply to AUTH"),
    }
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        if is_hung_up(error.kind()) {
            return Self::Disconnected(SERVER_HUNG_UP, error.into());
        }
        Self::Unusable(kind_of_io(error.kind()), error.into())
    }
}

/// Converts the errors of the decoder. An error reply is a value to it, not an error.
impl From<RedisError> for ExchangeError {
    fn from(error: RedisError) -> Self {
        // Its text has several lines.
        let text = error.to_string();
        let words = text.lines().collect::<Vec<_>>().join(": ");
        Self::Unusable(ErrorKind::Protocol, words.into())
    }
}

impl From<ServerError> for ExchangeError {
    fn from(error: ServerError) -> Self {
        match error.details() {
            Some(details) => error_reply(&format!("{} {details}", error.code())),
            None => error_reply(error.code()),
        }
    }
}

/// Classifies an error reply with this text.
pub(super) fn error_reply(words: &str) -> ExchangeError {
    // The arguments of an unknown command may be a payload or a password.
    let words = words
        .split_once(", with args")
        .map_or(words, |(words, _arguments)| words);
    // An error goes into the log, and no server needs more for one.
    let mut ends = (0..=words.len().min(MAX_WORDS_BYTES)).rev();
    let cut = ends.find_map(|end| words.get(..end));
    let words = cut.unwrap_or_default();
    let (code, details) = words.split_once(' ').unwrap_or((words, ""));
    match code {
        "MOVED" => ExchangeError::Moved(words.to_owned()),
        "ASK" | "TRYAGAIN" | "CLUSTERDOWN" => {
            ExchangeError::Disconnected(NO_NODE, words.to_owned().into())
        }
        _ => ExchangeError::ErrorReply(kind_of_reply(code, details), words.to_owned()),
    }
}

const NO_NODE: &str = "no node of the cluster takes the records now: their slot moves to another one, or its \
                       node is down; check CLUSTER INFO";

/// The most bytes of an error reply that are kept.
const MAX_WORDS_BYTES: usize = 1_024;

const SERVER_HUNG_UP: &str = "the server closed the connection; check its log: was it stopped, or \
                              do URL and port disagree on TLS?";

fn is_hung_up(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        kind,
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

fn kind_of_io(kind: io::ErrorKind) -> ErrorKind {
    match kind {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ErrorKind::Timeout,
        // rustls reports its own errors with this kind, such as an untrusted issuer, or that the other
        // side refuses the certificate, which shows only after the handshake.
        io::ErrorKind::InvalidData => ErrorKind::Tls,
        _ => ErrorKind::Connection,
    }
}

/// Returns the kind for the code with which every error reply starts.
fn kind_of_reply(code: &str, details: &str) -> ErrorKind {
    match code {
        "NOAUTH" | "WRONGPASS" => ErrorKind::Authentication,
        "NOPERM" => ErrorKind::Permission,
        "WRONGTYPE" => ErrorKind::WrongType,
        "LOADING" => ErrorKind::Loading,
        "OOM" => ErrorKind::OutOfMemory,
        // A replica without a connection to its master, or a master that has become a replica meanwhile.
        "READONLY" | "MASTERDOWN" | "UNBLOCKED" => ErrorKind::ReadOnly,
        "NOREPLICAS" => ErrorKind::NotReplicated,
        "MISCONF" => ErrorKind::Misconf,
        "BUSY" => ErrorKind::Busy,
        // The cause of a discarded transaction follows these words, with a code of its own.
        "EXECABORT" => match details.split_once("because of: ").map(|(_, cause)| cause) {
            Some(cause) => {
                let (code, details) = cause.split_once(' ').unwrap_or((cause, ""));
                kind_of_reply(code, details)
            }
            None => ErrorKind::Server,
        },
        // A server without a password replies to `AUTH` with the general code.
        "ERR" if details.contains("AUTH") => ErrorKind::Authentication,
        _ => ErrorKind::Server,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn text_and_source(error: ExchangeError) -> (ErrorKind, String, Option<String>) {
        let error = error.into_error(|| "try".to_owned());
        let source = error.source().map(ToString::to_string);
        (error.kind(), error.to_string(), source)
    }

    #[test]
    fn unclassified_reply_is_reason_and_not_source() {
        let (kind, text, source) = text_and_source(error_reply("ERR no\nline"));
        assert_eq!(kind, ErrorKind::Server);
        assert_eq!(text, r#"cannot try: Redis answered "ERR no\nline""#);
        assert_eq!(source, None);
    }

    #[test]
    fn arguments_of_unknown_command_are_dropped() {
        for words in [
            "ERR unknown command 'HSET', with args beginning with: 'hash' 'c-1' 'Zq7xKv2w'",
            "ERR unknown command `HSET`, with args beginning with: `hash`, `c-1`, `Zq7xKv2w`, ",
        ] {
            let (kind, text, source) = text_and_source(error_reply(words));
            assert_eq!(kind, ErrorKind::Server);
            assert!(text.contains("unknown command"), "{text}");
            assert!(!text.contains("Zq7xKv2w") && source.is_none(), "{text}");
        }
    }

    #[test]
    fn decoded_error_keeps_its_words() {
        for words in [
            "ERR no such key",
            "LOADING Redis is loading the dataset in memory",
            "READONLY You can't write against a read only replica.",
            "NOPERM no",
            "EXECABORT Transaction discarded because of: OOM full",
            "OOM full",
            "NOREPLICAS Not enough good replicas to write.",
            "MASTERDOWN Link with MASTER is down",
            "MISCONF",
            "ERR",
        ] {
            let reply = ::redis::parse_redis_value(format!("-{words}\r\n").as_bytes());
            let Ok(::redis::Value::ServerError(decoded)) = reply else {
                panic!("{words} is no error reply");
            };
            let (decoded, expected) = (decoded.into(), error_reply(words));
            assert_eq!(text_and_source(decoded), text_and_source(expected));
        }
    }

    #[test]
    fn malformed_reply_is_reported_on_one_line() {
        let error = ::redis::parse_redis_value(b":x\r\n").expect_err("no integer");
        let (kind, _, source) = text_and_source(error.into());
        assert_eq!(kind, ErrorKind::Protocol);
        let source = source.expect("the words of the decoder");
        assert!(
            source.ends_with(": Expected integer, got garbage"),
            "{source:?}"
        );
    }

    #[test]
    fn long_error_reply_is_cut_off() {
        let words = format!("ERR {}", "ü".repeat(1_000_000));
        let (kind, text, _) = text_and_source(error_reply(&words));
        assert_eq!(kind, ErrorKind::Server);
        assert!((1_000..1_200).contains(&text.len()), "{}", text.len());
    }

    #[test]
    fn reply_to_auth_never_shows_its_arguments() {
        for (words, shown) in [
            (
                "ERR unknown command 'AUTH', with args beginning with: 'Zq7xKv2w'",
                "ERR in",
            ),
            ("ERR unknown command AUTH Zq7xKv2w", "ERR in reply to AUTH"),
            ("Zq7xKv2w", "an unknown error in reply to AUTH"),
            ("WRONGPASS Zq7xKv2w is not it", "WRONGPASS in reply to AUTH"),
            ("LOADING Zq7xKv2w", "LOADING in reply to AUTH"),
            (
                "ERR max number of clients reached",
                "ERR max number of clients reached",
            ),
            ("ERR invalid password", "ERR invalid password"),
            (
                "ERR wrong number of arguments for 'auth' command",
                "ERR wrong number of arguments for AUTH",
            ),
            (
                "ERR AUTH <password> called without any password configured for the default user",
                "ERR AUTH called without a password configured",
            ),
        ] {
            let (_, text, source) = text_and_source(error_reply(words).without_secrets());
            let all = format!("{text}: {}", source.unwrap_or_default());
            assert!(all.contains(shown), "{all}");
            assert!(!all.contains("Zq7xKv2w"), "{all}");
        }
        let malformed = ExchangeError::Unusable(ErrorKind::Protocol, "Zq7xKv2w".into());
        let (_, _, source) = text_and_source(malformed.without_secrets());
        assert_eq!(source.as_deref(), Some("the reply to AUTH is malformed"));
    }
}
