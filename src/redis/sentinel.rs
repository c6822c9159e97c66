//! Asks sentinels for the server that is the master of a service.

use std::{
    error::Error as _,
    sync::mpsc::{self, Receiver},
    thread,
    time::Instant,
};

use ::redis::Value;

use super::{
    address::{Endpoint, RedisAddress, Sentinels},
    connection::RedisConnection,
    exchange_error::ExchangeError,
    login::encode_auth,
    password::Password,
    preflight::{Preflight, ServerInfo},
};
use crate::{
    error::{Error, ErrorChain, ErrorKind},
    net::{deadline_after, remaining},
};

/// Opens a connection to Redis; if the URL has sentinels, to the master that they name.
pub(super) fn open(address: &RedisAddress, deadline: Instant) -> Result<RedisConnection, Error> {
    let Some(sentinels) = &address.sentinels else {
        return RedisConnection::open(address, deadline);
    };
    let master = sentinels.find_master(address, deadline)?;
    RedisConnection::open(&master, deadline)
}

/// The answer of one sentinel.
struct Master {
    endpoint: Endpoint,
    /// Each failover has a higher one; 0 if the sentinel does not report it.
    config_epoch: u64,
}

impl Sentinels {
    /// Returns the address of the master that the latest failover has chosen, as far as sentinels answer.
    ///
    /// All are asked at the same time. One that is cut off from the others names the old master, with a
    /// lower epoch. So the first answer does not decide: the other sentinels get as much time again.
    fn find_master(
        &self,
        address: &RedisAddress,
        deadline: Instant,
    ) -> Result<RedisAddress, Error> {
        let service = &self.service;
        let attempt = || format!("find the master of {service}");
        let started = Instant::now();
        let time = remaining(deadline);
        let until_asked = deadline_after(time.mul_f64(0.5));
        let answers = self.ask_all(address, until_asked)?;
        // A little later than the threads, each of which then reports its own reason.
        let mut until = deadline_after(time.mul_f64(0.6));
        let mut newest: Option<Master> = None;
        let mut failures = Vec::new();
        while let Ok(answer) = answers.recv_timeout(remaining(until)) {
            match answer {
                Ok(master) => {
                    if newest.is_none() {
                        until = deadline_after(started.elapsed().max(time.mul_f64(0.1)));
                    }
                    let is_newer = |than: &Master| than.config_epoch < master.config_epoch;
                    if newest.as_ref().is_none_or(is_newer) {
                        newest = Some(master);
                    }
                }
                Err(failure) => failures.push(failure),
            }
        }
        match newest {
            Some(master) => Ok(address.with_endpoint(master.endpoint)),
            None => Err(combined_error(failures, attempt)),
        }
    }

    /// Asks each sentinel on a thread of its own; all threads end at the deadline.
    fn ask_all(
        &self,
        address: &RedisAddress,
        deadline: Instant,
    ) -> Result<Receiver<Result<Master, Failure>>, Error> {
        let password = address.password.as_ref().map(Password::read).transpose()?;
        let (sender, answers) = mpsc::channel();
        for (place, endpoint) in self.endpoints.iter().enumerate() {
            let question = Question {
                sentinel: address.with_endpoint(endpoint.clone()),
                service: self.service.clone(),
                password: password.as_deref().map(ToOwned::to_owned),
            };
            let to_failure = {
                let (endpoint, service) = (endpoint.clone(), self.service.clone());
                move |failure: ExchangeError| {
                    let attempt =
                        format!("ask the sentinel at {endpoint} for the master of {service}");
                    let error = failure.into_error(String::new).with_attempt(attempt);
                    Failure {
                        place,
                        endpoint,
                        error,
                    }
                }
            };
            let answer = {
                let (sender, to_failure) = (sender.clone(), to_failure.clone());
                // The receiver is gone if the other sentinels have answered.
                move || drop(sender.send(question.ask(deadline).map_err(to_failure)))
            };
            let thread = thread::Builder::new().name("redis-sentinel".to_owned());
            if let Err(error) = thread.spawn(answer) {
                drop(sender.send(Err(to_failure(error.into()))));
            }
        }
        Ok(answers)
    }
}

/// The error of one sentinel.
struct Failure {
    /// Its place in the URL.
    place: usize,
    endpoint: Endpoint,
    error: Error,
}

/// Combines the errors of all sentinels.
///
/// The kind is one that another attempt may mend, if there is any: that sentinel may know the master.
fn combined_error(mut failures: Vec<Failure>, attempt: impl FnOnce() -> String) -> Error {
    if failures.len() == 1
        && let Some(Failure { error, .. }) = failures.pop()
    {
        return error;
    }
    failures.sort_by_key(|failure| failure.place);
    let kinds = || failures.iter().map(|failure| failure.error.kind());
    let kind = kinds()
        .find(|kind| kind.is_transient())
        .or_else(|| kinds().next())
        // No thread has reported in time.
        .unwrap_or(ErrorKind::Timeout);
    let reasons: Vec<String> = failures
        .iter()
        .map(
            |Failure {
                 endpoint, error, ..
             }| {
                let source = error
                    .source()
                    .map(|source| format!(" ({})", ErrorChain(source)));
                format!(
                    "{endpoint}: {}{}",
                    error.reason(),
                    source.unwrap_or_default()
                )
            },
        )
        .collect();
    Error::new(kind, attempt())
        .with_reason(format!("no sentinel names it: {}", reasons.join(" | ")))
}

/// The question to one sentinel.
struct Question {
    sentinel: RedisAddress,
    service: String,
    password: Option<String>,
}

impl Question {
    /// Asks it.
    ///
    /// The sentinel gets the user and the password of Redis. If it has none itself, it refuses them, and
    /// answers the questions behind them nevertheless. It is asked for the epoch first: so a failover
    /// between the answers makes the address newer than its epoch, and never older.
    fn ask(self, deadline: Instant) -> Result<Master, ExchangeError> {
        let mut connection = RedisConnection::connect(&self.sentinel, None, deadline)?;
        let password = self.password.as_deref();
        let exchanged = connection.exchange(
            |commands| {
                encode_auth(commands, self.sentinel.user.as_deref(), password);
                commands.push_words(&["SENTINEL", "MASTER", &self.service]);
                commands.push_words(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.service]);
            },
            |replies| {
                if password.is_some() {
                    read_unless_refused(replies)?;
                }
                let details = read_unless_refused(replies)?;
                Ok((details, replies.read_reply()?))
            },
        );
        let (details, place) = exchanged.map_err(refusal)?;
        if place == Value::Nil {
            return Err(ExchangeError::NotConnected(
                Error::invalid_option("url").with_reason(
                    "the sentinel knows no such service; check the name in the URL, and `sentinel \
                     monitor` in the configuration of the sentinel",
                ),
            ));
        }
        let endpoint = endpoint_of(&place).ok_or(ExchangeError::protocol(
            "SENTINEL GET-MASTER-ADDR-BY-NAME returned an unexpected reply",
        ))?;
        Ok(Master {
            endpoint,
            config_epoch: details.as_ref().and_then(config_epoch_of).unwrap_or(0),
        })
    }
}

/// Reads a reply, and returns `None` for an error reply, for which the last reply has the reason.
///
/// A missing permission is an error: without the epoch, an old answer could win.
fn read_unless_refused(replies: &mut RedisConnection) -> Result<Option<Value>, ExchangeError> {
    match replies.read_reply() {
        Ok(reply) => Ok(Some(reply)),
        Err(ExchangeError::ErrorReply(kind, _)) if kind != ErrorKind::Permission => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Converts the error of an exchange with a sentinel into one without the words of the server, which may
/// repeat a password.
fn refusal(failure: ExchangeError) -> ExchangeError {
    let (kind, reason) = match failure {
        ExchangeError::ErrorReply(ErrorKind::Server, _) => (ErrorKind::InvalidOption, NO_SENTINEL),
        ExchangeError::ErrorReply(ErrorKind::Permission, _) => (ErrorKind::Permission, NO_RIGHT),
        ExchangeError::ErrorReply(kind, _) => {
            return ExchangeError::ErrorReply(kind, IN_REPLY.to_owned());
        }
        ExchangeError::Unusable(ErrorKind::Protocol, _) | ExchangeError::Moved(_) => {
            return ExchangeError::protocol("the reply to SENTINEL is malformed");
        }
        ExchangeError::Disconnected(reason, _) => {
            return ExchangeError::Disconnected(reason, IN_REPLY.into());
        }
        other => return other,
    };
    ExchangeError::NotConnected(Error::new(kind, "ask a sentinel").with_reason(reason))
}

const IN_REPLY: &str = "in reply to SENTINEL";
const NO_SENTINEL: &str = "it does not answer as a sentinel; check that host and port in the URL are \
                           those of one";
const NO_RIGHT: &str = "the user lacks a permission at the sentinel; grant it \
                        +sentinel|get-master-addr-by-name and +sentinel|master";

/// Refuses a server that a sentinel has named as the master, and that replicates another one.
///
/// The sentinel has not heard of a failover yet, so it is worth another attempt, also at open.
pub(super) fn refuse_replica<T>(
    connected: Result<(T, Preflight), ExchangeError>,
) -> Result<(T, Preflight), ExchangeError> {
    let is_replica = match &connected {
        Ok((_, Preflight { info, .. })) => info.as_ref().is_some_and(ServerInfo::is_replica),
        Err(ExchangeError::ErrorReply(kind, _)) => *kind == ErrorKind::ReadOnly,
        Err(_) => false,
    };
    if is_replica {
        return Err(ExchangeError::Disconnected(
            "the server that a sentinel names as the master is a replica; a failover may be in \
             progress, or that sentinel is cut off from the others",
            "its role is not that of a master".into(),
        ));
    }
    connected
}

/// Parses an array of host and port.
fn endpoint_of(answer: &Value) -> Option<Endpoint> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [Value::BulkString(host), Value::BulkString(port)] = parts.as_slice() else {
        return None;
    };
    let (host, port) = (
        std::str::from_utf8(host).ok()?,
        std::str::from_utf8(port).ok()?,
    );
    let is_shown = !host.is_empty() && !host.chars().any(|c| c.is_control() || c.is_whitespace());
    is_shown.then(|| Some(Endpoint::Tcp(host.to_owned(), port.parse().ok()?)))?
}

/// Returns the epoch among the names and values of `SENTINEL MASTER`.
fn config_epoch_of(details: &Value) -> Option<u64> {
    let Value::Array(parts) = details else {
        return None;
    };
    let mut pairs = parts.chunks_exact(2);
    let text = pairs.find_map(|pair| match pair {
        [Value::BulkString(name), Value::BulkString(value)] if name == b"config-epoch" => {
            Some(value)
        }
        _ => None,
    })?;
    std::str::from_utf8(text).ok()?.parse().ok()
}
