//! Where Redis is, and as whom to go there: what a URL says.

use std::{fmt, path::PathBuf};

use ::redis::{ConnectionAddr, IntoConnectionInfo};

use super::url_error;
use crate::error::{Error, ErrorKind};

pub(super) enum Endpoint {
    Tcp(String, u16),
    Unix(PathBuf),
}

pub(super) struct RedisAddress {
    pub(super) endpoint: Endpoint,
    pub(super) tls: bool,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: i64,
}

impl Default for RedisAddress {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::Tcp("127.0.0.1".to_owned(), 6379),
            tls: false,
            user: None,
            password: None,
            database: 0,
        }
    }
}

impl RedisAddress {
    /// Understands a URL. Nothing of its user or password gets into the error.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let invalid = |reason: &'static str| {
            Error::new(ErrorKind::InvalidOption, "use the option url").with_reason(reason)
        };
        let (scheme, rest) = url_error::split(url).map_err(invalid)?;
        let tls = matches!(scheme.as_str(), "rediss" | "valkeys");
        let is_unix = scheme.ends_with("unix");
        // The handshake is none of the parser's business.
        let plain = if tls {
            format!("redis://{rest}")
        } else {
            url.to_owned()
        };
        if tls && !cfg!(feature = "tls") {
            return Err(invalid(
                "it asks for TLS, which is not built in; build with the feature `tls`, or use \
                 redis:// or unix://",
            ));
        }
        // The parser would pass over these, and take what is in front of them for all there is.
        if url.contains('#') {
            return Err(invalid("it has a #; in a user or password write %23"));
        }
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let known = |pair: &str| {
            let name = pair.split_once('=').map_or(pair, |(name, _)| name);
            is_unix && ["db", "user", "pass"].contains(&name)
        };
        if !query.split('&').all(|pair| pair.is_empty() || known(pair)) {
            // What looks like parameters may be the end of a password.
            if let (false, Some(reason)) = (is_unix, url_error::of_tcp(rest)) {
                return Err(invalid(reason));
            }
            return Err(invalid(
                "it has a parameter that is not known; unix:// takes db, user and pass, and \
                 redis:// none",
            ));
        }
        let not_understood = || {
            let reason = if is_unix {
                url_error::of_unix(rest)
            } else {
                url_error::of_tcp(rest)
            };
            invalid(reason.unwrap_or(
                "it cannot be understood; write redis://USER:PASSWORD@HOST:PORT/DATABASE or \
                 unix:///PATH?db=DATABASE&user=USER&pass=PASSWORD",
            ))
        };
        let info = plain
            .as_str()
            .into_connection_info()
            .map_err(|error| not_understood().with_source(error))?;
        let settings = info.redis_settings();
        if settings.db() < 0 {
            return Err(invalid("its database is negative; databases count from 0"));
        }
        if settings.username().is_some() && settings.password().is_none() {
            return Err(invalid(
                "it has a user and no password; a user is only asked for with one",
            ));
        }
        Ok(Self {
            endpoint: match info.addr() {
                ConnectionAddr::Tcp(host, port) => Endpoint::Tcp(host.clone(), *port),
                ConnectionAddr::Unix(path) => Endpoint::Unix(path.clone()),
                _ => return Err(not_understood()),
            },
            tls,
            user: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
            database: settings.db(),
        })
    }
}

/// The address without user and password.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.database;
        match &self.endpoint {
            Endpoint::Unix(path) if database == 0 => write!(f, "unix://{}", path.display()),
            Endpoint::Unix(path) => write!(f, "unix://{}?db={database}", path.display()),
            Endpoint::Tcp(host, port) => {
                let scheme = if self.tls { "rediss" } else { "redis" };
                let (open, close) = if host.contains(':') {
                    ("[", "]")
                } else {
                    ("", "")
                };
                write!(f, "{scheme}://{open}{host}{close}:{port}/{database}")
            }
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
        ] {
            assert_eq!(RedisAddress::parse(url).expect(url).to_string(), shown);
        }
        assert_eq!(
            RedisAddress::default().to_string(),
            "redis://127.0.0.1:6379/0"
        );
    }

    #[test]
    fn user_and_password_are_decoded() {
        let target = RedisAddress::parse("redis://us%40er:se%2Fcret@host/").expect("valid");
        assert_eq!(target.user.as_deref(), Some("us@er"));
        assert_eq!(target.password.as_deref(), Some("se/cret"));
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
            let error = RedisAddress::parse(url).map(drop).expect_err(url);
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
            ("redis://0.0.0.0/", "every address"),
            ("redis://[::]/", "every address"),
            ("redis://u:secret@host/zero", "its database"),
            ("redis://host:6379/0/1", "its database"),
            ("redis://host/-1", "negative"),
            ("unix:///redis.sock?db=x&pass=secret", "its database"),
            ("redis://u:1/secret@host/", "%2F"),
            ("redis://u:secret?@host/", "%3F"),
            ("redis://u:#secret@host/", "%23"),
            ("redis://host/?secret=1", "parameter"),
        ] {
            let error = RedisAddress::parse(url).map(drop).expect_err(url);
            let text = error.to_string();
            assert!(text.contains(named), "{url}: {text}");
            let all = format!("{text} {error:?} {:?}", error.source());
            assert!(!all.contains("secret"), "{all}");
        }
    }

    #[test]
    fn scheme_in_capitals_is_accepted() {
        for url in ["REDIS://host/", "Unix:///run/redis.sock"] {
            RedisAddress::parse(url).map(drop).expect(url);
        }
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_url_without_feature_tls_is_named() {
        let error = RedisAddress::parse("rediss://host/")
            .map(drop)
            .expect_err("no TLS");
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(error.to_string().contains("feature `tls`"), "{error}");
    }
}
