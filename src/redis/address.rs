//! The address of Redis, with user, password and database, parsed from a URL.

use std::{fmt, path::PathBuf};

use ::redis::{ConnectionAddr, IntoConnectionInfo};

#[cfg(feature = "redis-tls")]
use super::tls::TlsFiles;
use super::{password::Password, url_error};
use crate::{
    error::{Error, ErrorKind},
    persistence::StoreAddress,
};

/// The place that a socket connects to.
#[derive(Clone)]
pub(super) enum Endpoint {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// The sentinels of a URL, and the service whose master they know.
#[derive(Clone)]
pub(super) struct Sentinels {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) service: String,
}

/// The port of a sentinel whose URL has none.
const SENTINEL_PORT: u16 = 26_379;

/// A parsed URL of Redis. Its `Display` has neither user nor password.
#[derive(Clone)]
pub(super) struct RedisAddress {
    /// The place of Redis, or of the first sentinel or node.
    pub(super) endpoint: Endpoint,
    /// The sentinels that know the place of Redis.
    pub(super) sentinels: Option<Sentinels>,
    /// Nodes of the cluster; empty without one.
    pub(super) cluster: Vec<Endpoint>,
    pub(super) tls: bool,
    pub(super) user: Option<String>,
    pub(super) password: Option<Password>,
    #[cfg(feature = "redis-tls")]
    pub(super) tls_files: TlsFiles,
    pub(super) database: i64,
}

impl Default for RedisAddress {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::Tcp("127.0.0.1".to_owned(), 6379),
            sentinels: None,
            cluster: Vec::new(),
            tls: false,
            user: None,
            password: None,
            #[cfg(feature = "redis-tls")]
            tls_files: TlsFiles::default(),
            database: 0,
        }
    }
}

impl RedisAddress {
    /// Parses a URL; `password` replaces the one that it has, and may belong to a user in it.
    ///
    /// The `redis` crate parses it, after checks for the mistakes that it accepts or reports
    /// without a cause. No part of the URL gets into the error, since a password that is not
    /// percent-encoded may end up in any part.
    pub(super) fn parse(url: &str, password: Option<Password>) -> Result<Self, Error> {
        let invalid = |reason: &'static str| {
            Error::new(ErrorKind::InvalidOption, "use the option url").with_reason(reason)
        };
        let (scheme, rest) = url_error::split_scheme(url).map_err(invalid)?;
        if let Some(scheme) = scheme.strip_suffix("-sentinel") {
            return Self::parse_sentinels(scheme, rest, password.as_ref());
        }
        if let Some(scheme) = scheme.strip_suffix("-cluster") {
            return Self::parse_cluster(scheme, rest, password.as_ref());
        }
        let tls = matches!(scheme.as_str(), "rediss" | "valkeys");
        let is_unix = scheme.ends_with("unix");
        // The parser of the `redis` crate refuses rediss:// unless its own TLS is built in.
        let plain = if tls {
            format!("redis://{rest}")
        } else {
            url.to_owned()
        };
        url_error::check_tls(tls, cfg!(feature = "redis-tls")).map_err(invalid)?;
        // The parser drops a fragment, and with it the rest of a password that has a # in it.
        if url.contains('#') {
            return Err(invalid("it contains #; percent-encode it as %23"));
        }
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let is_known = |pair: &str| {
            let name = pair.split_once('=').map_or(pair, |(name, _)| name);
            is_unix && ["db", "user", "pass"].contains(&name)
        };
        if !query
            .split('&')
            .all(|pair| pair.is_empty() || is_known(pair))
        {
            // A ? in a password makes the rest of the URL look like parameters.
            if let (false, Some(reason)) = (is_unix, url_error::tcp_reason(rest)) {
                return Err(invalid(reason));
            }
            return Err(invalid(
                "unknown parameter; unix:// takes db, user and pass, redis:// takes none",
            ));
        }
        let not_valid = || {
            let reason = if is_unix {
                url_error::unix_reason(rest)
            } else {
                url_error::tcp_reason(rest)
            };
            invalid(reason.unwrap_or(
                "not a valid URL; write redis://USER:PASSWORD@HOST:PORT/DATABASE or \
                 unix:///PATH?db=DATABASE&user=USER&pass=PASSWORD",
            ))
        };
        let info = plain
            .as_str()
            .into_connection_info()
            .map_err(|error| not_valid().with_source(error))?;
        let settings = info.redis_settings();
        if settings.db() < 0 {
            return Err(invalid("its database is negative; databases count from 0"));
        }
        let of_url = settings.password();
        let password = password.or_else(|| Some(Password::Text(of_url?.to_owned())));
        if settings.username().is_some() && password.is_none() {
            return Err(invalid(
                "it has a user but no password; add the password, or remove the user",
            ));
        }
        Ok(Self {
            endpoint: match info.addr() {
                ConnectionAddr::Tcp(host, port) => Endpoint::Tcp(host.clone(), *port),
                ConnectionAddr::Unix(path) => Endpoint::Unix(path.clone()),
                _ => return Err(not_valid()),
            },
            sentinels: None,
            cluster: Vec::new(),
            tls,
            user: settings.username().map(str::to_owned),
            password,
            #[cfg(feature = "redis-tls")]
            tls_files: TlsFiles::default(),
            database: settings.db(),
        })
    }

    /// Parses the part of a URL after `redis-sentinel://`; `scheme` is that of the servers.
    ///
    /// Each sentinel is checked as a URL of its own would be.
    fn parse_sentinels(
        scheme: &str,
        rest: &str,
        password: Option<&Password>,
    ) -> Result<Self, Error> {
        let invalid = |reason: &'static str| {
            Error::new(ErrorKind::InvalidOption, "use the option url").with_reason(reason)
        };
        let parts = url_error::split_sentinels(rest).map_err(invalid)?;
        let mut address = None;
        let mut endpoints = Vec::new();
        for host in parts.hosts {
            let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let port = if has_port || host.is_empty() {
                String::new()
            } else {
                format!(":{SENTINEL_PORT}")
            };
            let (credentials, database) = (parts.credentials, parts.database);
            let url = format!("{scheme}://{credentials}{host}{port}/{database}");
            let sentinel = Self::parse(&url, password.cloned())?;
            endpoints.push(sentinel.endpoint.clone());
            address.get_or_insert(sentinel);
        }
        let address = address.ok_or_else(|| invalid("it has no host"))?;
        Ok(Self {
            sentinels: Some(Sentinels {
                endpoints,
                service: parts.service.to_owned(),
            }),
            ..address
        })
    }
}

impl RedisAddress {
    /// Parses the part of a URL after `redis-cluster://`; each node is checked as a URL of its own would be.
    fn parse_cluster(scheme: &str, rest: &str, password: Option<&Password>) -> Result<Self, Error> {
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, rest)) => (format!("{credentials}@"), rest),
            None => (String::new(), rest),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (hosts, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let mut address = None;
        let mut cluster = Vec::new();
        for host in hosts.split(',') {
            let node = Self::parse(
                &format!("{scheme}://{credentials}{host}{path}"),
                password.cloned(),
            )?;
            cluster.push(node.endpoint.clone());
            address.get_or_insert(node);
        }
        match address {
            Some(address) if address.database == 0 => Ok(Self { cluster, ..address }),
            _ => Err(Error::new(ErrorKind::InvalidOption, "use the option url")
                .with_reason("a cluster has database 0 only; remove the database")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl RedisAddress {
    /// Returns this address with another server, whose master no sentinel names.
    pub(super) fn with_endpoint(&self, endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            sentinels: None,
            ..self.clone()
        }
    }

    pub(super) fn is_in_cluster(&self) -> bool {
        !self.cluster.is_empty()
    }

    /// Returns the parts that may be shown.
    pub(super) fn for_display(&self) -> StoreAddress {
        let (server, port) = match (&self.sentinels, &self.endpoint) {
            // The server changes with each failover, and its service does not.
            (Some(sentinels), _) => (sentinels.service.clone(), None),
            (None, Endpoint::Tcp(host, port)) => (host.clone(), Some(*port)),
            (None, Endpoint::Unix(path)) => (path.display().to_string(), None),
        };
        let target = match &self.sentinels {
            Some(sentinels) => sentinels.service.clone(),
            None => self.endpoint.to_string(),
        };
        StoreAddress {
            url: self.to_string(),
            target,
            server,
            port,
            namespace: self.database.to_string(),
        }
    }
}

/// Shows the address without user and password.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.database;
        let scheme = if self.tls { "rediss" } else { "redis" };
        let joined = |endpoints: &[Endpoint]| {
            let hosts: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            hosts.join(",")
        };
        if self.is_in_cluster() {
            return write!(f, "{scheme}-cluster://{}", joined(&self.cluster));
        }
        match (&self.sentinels, &self.endpoint) {
            (Some(Sentinels { endpoints, service }), _) => {
                let hosts = joined(endpoints);
                write!(f, "{scheme}-sentinel://{hosts}/{service}/{database}")
            }
            (None, path @ Endpoint::Unix(_)) if database == 0 => write!(f, "unix://{path}"),
            (None, path @ Endpoint::Unix(_)) => write!(f, "unix://{path}?db={database}"),
            (None, server @ Endpoint::Tcp(..)) => write!(f, "{scheme}://{server}/{database}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn url_is_shown_without_user_and_password() {
        for (url, shown) in [
            ("redis://127.0.0.1/", "redis://127.0.0.1:6379/0"),
            (
                "redis://user:secret@localhost:7000/3",
                "redis://localhost:7000/3",
            ),
            ("redis://:secret@[::1]:7000", "redis://[::1]:7000/0"),
            ("valkey://host", "redis://host:6379/0"),
            (
                "unix:///run/redis.sock?db=2&user=u&pass=secret",
                "unix:///run/redis.sock?db=2",
            ),
            ("redis+unix:///run/redis.sock", "unix:///run/redis.sock"),
            (
                "redis-sentinel://u:secret@a,b:7000,[::1]:7001,[::2]/boards/3",
                "redis-sentinel://a:26379,b:7000,[::1]:7001,[::2]:26379/boards/3",
            ),
            (
                "redis-cluster://u:secret@a,b:7000,[::1]:7001/",
                "redis-cluster://a:6379,b:7000,[::1]:7001",
            ),
            (
                "valkey-sentinel://a/the-2.boards_",
                "redis-sentinel://a:26379/the-2.boards_/0",
            ),
        ] {
            assert_eq!(
                RedisAddress::parse(url, None).expect(url).to_string(),
                shown
            );
        }
        assert_eq!(
            RedisAddress::default().to_string(),
            "redis://127.0.0.1:6379/0"
        );
    }

    #[test]
    fn user_and_password_are_decoded() {
        let address = RedisAddress::parse("redis://us%40er:se%2Fcret@host/", None).expect("valid");
        assert_eq!(address.user.as_deref(), Some("us@er"));
        assert!(address.password == Some(Password::Text("se/cret".to_owned())));
    }

    #[test]
    fn separate_password_replaces_that_of_url() {
        for (url, user) in [
            ("redis://host/", None),
            ("redis://u@host/", Some("u")),
            ("redis://u:old@host/", Some("u")),
            ("unix:///run/redis.sock?user=u", Some("u")),
        ] {
            let password = Some(Password::Text("ne w".to_owned()));
            let address = RedisAddress::parse(url, password.clone()).expect(url);
            assert_eq!(address.user.as_deref(), user, "{url}");
            assert!(address.password == password, "{url}");
        }
    }

    #[test]
    fn invalid_url_is_refused_without_showing_password() {
        for url in [
            "",
            "localhost",
            "127.0.0.1:6379",
            "http://secret@host/",
            "redis://",
            "redis://u:secret@host/zero",
            "redis://u:secret@host/-1",
            "redis://u:secret@host:99999/",
            "redis://u:secret@0.0.0.0/",
            "unix:///run/redis.sock?db=x&pass=secret",
            "unix:///run/redis.sock?database=1&pass=secret",
            "redis://host/?db=1&secret",
            "redis://user:#secret@host/",
            "redis://user@host/",
            "unix:///run/redis.sock?user=u",
        ] {
            let error = RedisAddress::parse(url, None).map(drop).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{url}");
            let all = format!("{error} {error:?} {:?}", error.source());
            assert!(!all.contains("secret"), "{all}");
        }
    }

    #[test]
    fn invalid_part_of_url_is_named() {
        for (url, named) in [
            ("localhost", "no scheme"),
            ("127.0.0.1:6379", "no scheme"),
            ("redis:localhost", "two slashes"),
            ("http://secret@host/", "scheme"),
            ("unix:/run/redis.sock?pass=secret", "write unix:///PATH"),
            ("redis+unix:/run/redis.sock", "write unix:///PATH"),
            ("unix://run/redis.sock?pass=secret", "write unix:///PATH"),
            ("unix://", "write unix:///PATH"),
            ("redis://u:secret@/", "no host"),
            ("redis://:6379/", "no host"),
            ("redis://u:secret@host:port/", "its port"),
            ("redis://u:secret@host:99999/", "its port"),
            ("redis://[::1]:port/", "its port"),
            ("redis://[::1/", "closing bracket"),
            ("redis://0.0.0.0/", "unspecified"),
            ("redis://[::]/", "unspecified"),
            ("redis://u:secret@host/zero", "its database"),
            ("redis://host:6379/0/1", "its database"),
            ("redis://host/-1", "negative"),
            ("unix:///redis.sock?db=x&pass=secret", "its database"),
            ("redis://u:1/secret@host/", "%2F"),
            ("redis://u:secret?@host/", "%3F"),
            ("redis://u:#secret@host/", "%23"),
            ("redis://host/?secret=1", "parameter"),
            ("redis-sentinel://a,b", "no service"),
            ("redis-sentinel://a,b//1", "no service"),
            ("redis-sentinel://a,,b/boards", "no host"),
            ("redis-sentinel://u:secret@/boards", "no host"),
            ("redis-sentinel://a,b:port/boards", "its port"),
            ("redis-sentinel://a,[::1/boards", "closing bracket"),
            ("redis-sentinel://a,0.0.0.0/boards", "unspecified"),
            ("redis-sentinel://u:secret@a/boards/x", "its database"),
            ("redis-sentinel://a/boards/1/2", "its database"),
            ("redis-sentinel://a/boards/-1", "negative"),
            ("redis-sentinel://a/b%20s", "its service"),
            ("redis-sentinel://u:secret@a/boards?secret=1", "parameter"),
            ("redis-sentinel://u:1/secret@a/boards", "%2F"),
            ("redis-sentinel://u:#secret@a/boards", "%23"),
            ("redis-sentinel://u@a/boards", "no password"),
            ("redis-cluster://u:secret@a,b/1", "database 0"),
            ("redis-cluster://u:secret@a,,b", "no host"),
            ("redis-cluster://a,b:port", "its port"),
            ("redis-cluster://u:1/secret@a", "%2F"),
            ("redis-cluster://u:#secret@a", "%23"),
        ] {
            let error = RedisAddress::parse(url, None).map(drop).expect_err(url);
            let text = error.to_string();
            assert!(text.contains(named), "{url}: {text}");
            let all = format!("{text} {error:?} {:?}", error.source());
            assert!(!all.contains("secret"), "{all}");
        }
    }

    #[test]
    fn scheme_in_capitals_is_accepted() {
        for url in ["REDIS://host/", "Unix:///run/redis.sock"] {
            RedisAddress::parse(url, None).map(drop).expect(url);
        }
    }
}
