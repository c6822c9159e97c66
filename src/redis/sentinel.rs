//! Asks sentinels for the server that is the master of a service.

use std::time::Instant;

use ::redis::Value;

use super::{
    address::{Endpoint, RedisAddress, Sentinels},
    connection::RedisConnection,
    exchange_error::ExchangeError,
    login::encode_auth,
    password::Password,
    preflight::{Preflight, ServerInfo},
    resolver::Resolver,
};
use crate::{
    error::{Error, ErrorKind},
    net::{deadline_after, time_left},
};

/// Opens a connection to Redis; if the URL has sentinels, to the master that they name.
pub(super) fn open(
    address: &RedisAddress,
    resolver: &mut Resolver,
    deadline: Instant,
) -> Result<RedisConnection, Error> {
    let Some(sentinels) = &address.sentinels else {
        return RedisConnection::open(address, resolver, deadline);
    };
    let master = sentinels.find_master(address, resolver, deadline)?;
    RedisConnection::open(&master, resolver, deadline)
}

impl Sentinels {
    /// Returns the address of the master, from the first sentinel that knows it.
    ///
    /// Each attempt begins with the sentinel after the one that answered last. One that is cut off from
    /// the others does not know of a failover, and must not be asked again and again.
    fn find_master(
        &self,
        address: &RedisAddress,
        resolver: &mut Resolver,
        deadline: Instant,
    ) -> Result<RedisAddress, Error> {
        let password = address.password.as_ref().map(Password::read).transpose()?;
        let password = password.as_deref();
        let count = self.endpoints.len();
        let at = |endpoint: &Endpoint| RedisAddress {
            endpoint: endpoint.clone(),
            sentinels: None,
            ..address.clone()
        };
        let mut failure = None;
        for untried in (1..=count).rev() {
            let next = resolver.next_endpoint;
            resolver.next_endpoint = next.wrapping_add(1);
            let index = next.checked_rem(count).unwrap_or_default();
            let Some(endpoint) = self.endpoints.get(index) else {
                break;
            };
            // One that never answers must leave time for the others, and for the master.
            let shares = u32::try_from(untried.saturating_add(1)).unwrap_or(u32::MAX);
            let answer = time_left(deadline).map_err(ExchangeError::from);
            let answer = answer.and_then(|left| {
                let until = deadline_after(left.checked_div(shares).unwrap_or_default());
                self.ask(&at(endpoint), password, resolver, until)
            });
            match answer {
                Ok(master) => return Ok(at(&master)),
                Err(error) => failure = Some((endpoint, error)),
            }
        }
        let service = &self.service;
        Err(match failure {
            Some((endpoint, failure)) => failure.into_error(|| {
                format!("ask the sentinel at {endpoint} for the master of {service}")
            }),
            None => Error::new(ErrorKind::InvalidOption, "find a sentinel"),
        })
    }

    /// Asks one sentinel.
    ///
    /// It gets the user and the password of Redis. If it has none itself, it refuses them, and answers
    /// the question behind them nevertheless.
    fn ask(
        &self,
        sentinel: &RedisAddress,
        password: Option<&str>,
        resolver: &mut Resolver,
        deadline: Instant,
    ) -> Result<Endpoint, ExchangeError> {
        let mut connection = RedisConnection::connect(sentinel, None, resolver, deadline)?;
        let answer = connection.exchange(
            |commands| {
                encode_auth(commands, sentinel.user.as_deref(), password);
                commands.push_words(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.service]);
            },
            |replies| {
                if password.is_some() {
                    match replies.read_reply() {
                        Ok(_) | Err(ExchangeError::ErrorReply(..)) => {}
                        Err(failure) => return Err(failure),
                    }
                }
                match replies.read_reply() {
                    Err(ExchangeError::ErrorReply(ErrorKind::Server, _)) => Err(
                        ExchangeError::Disconnected(NO_SENTINEL, "SENTINEL was refused".into()),
                    ),
                    reply => reply,
                }
            },
        );
        let answer = answer.map_err(|failure| match password {
            Some(_) => failure.without_secrets(),
            None => failure,
        })?;
        match answer {
            Value::Nil => Err(ExchangeError::Disconnected(
                "it knows no such service; check the name in the URL, and `sentinel monitor` in the \
                 configuration of the sentinel",
                "the answer is nil".into(),
            )),
            answer => endpoint_of(&answer).ok_or(ExchangeError::protocol(
                "SENTINEL GET-MASTER-ADDR-BY-NAME returned an unexpected reply",
            )),
        }
    }
}

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

const NO_SENTINEL: &str = "it does not answer as a sentinel; check that host and port are those of \
                           one";

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
