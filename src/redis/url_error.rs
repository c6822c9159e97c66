//! The reason why a URL is invalid.
//!
//! A reason never has a part of the URL in it: a password that is not percent-encoded may end up in
//! any of them.

use std::net::IpAddr;

/// The schemes that name Redis; the suffix `s` means TLS, `unix` a Unix socket, `sentinel` that sentinels are
/// asked for the address, and `cluster` that nodes of a cluster are.
const URL_SCHEMES: [&str; 15] = [
    "redis",
    "rediss",
    "valkey",
    "valkeys",
    "unix",
    "redis+unix",
    "valkey+unix",
    "redis-cluster",
    "rediss-cluster",
    "valkey-cluster",
    "valkeys-cluster",
    "redis-sentinel",
    "rediss-sentinel",
    "valkey-sentinel",
    "valkeys-sentinel",
];

const MISPLACED_AT: &str = "an @ follows the host; percent-encode / as %2F, ? as %3F and @ as %40 \
                            in user and password";

const UNIX_PATH_REASON: &str = "a Unix socket path is absolute; write unix:///PATH";

/// Splits a URL into its scheme, in lower case, and the part after `://`.
///
/// The error is the reason why there is no known scheme.
pub(super) fn split_scheme(url: &str) -> Result<(String, &str), &'static str> {
    let Some((scheme, rest)) = url.split_once("://") else {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        return Err(match known_scheme(scheme) {
            Some(scheme) if scheme.ends_with("unix") => UNIX_PATH_REASON,
            Some(_) => "its scheme lacks the two slashes; write redis://HOST:PORT/",
            None => "it has no scheme; write redis://HOST:PORT/ or unix:///PATH",
        });
    };
    let scheme = known_scheme(scheme).ok_or(
        "unknown scheme; use redis, rediss (TLS), unix, redis-sentinel or redis-cluster, or the same with valkey",
    )?;
    Ok((scheme, rest))
}

/// Refuses a URL with TLS in a program that was built without it.
pub(super) fn check_tls(is_wanted: bool, is_built_in: bool) -> Result<(), &'static str> {
    match (is_wanted, is_built_in) {
        (true, false) => {
            Err("TLS needs the feature `redis-tls`; enable it, or use redis:// or unix://")
        }
        _ => Ok(()),
    }
}

fn known_scheme(scheme: &str) -> Option<String> {
    let scheme = scheme.to_ascii_lowercase();
    URL_SCHEMES.contains(&scheme.as_str()).then_some(scheme)
}

/// Returns why the part after `redis://` and the like is invalid, if this function can tell.
///
/// The checks follow the order of the parts, so that the first mistake is the one reported.
pub(super) fn tcp_reason(rest: &str) -> Option<&'static str> {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path_and_query) = rest.split_at_checked(end)?;
    if path_and_query.contains('@') {
        return Some(MISPLACED_AT);
    }
    let host_and_port = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host_and_port)| host_and_port);
    // The colons inside the brackets of an IPv6 address do not start a port.
    let (host, port) = match host_and_port.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => return Some("its host lacks the closing bracket; write [::1]:PORT"),
        },
        None => match host_and_port.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host_and_port, None),
        },
    };
    if host.is_empty() {
        return Some("it has no host; write redis://HOST:PORT/");
    }
    if host
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_unspecified())
    {
        return Some("an unspecified address cannot be connected to; use one such as 127.0.0.1");
    }
    if port.is_some_and(|port| !port.is_empty() && port.parse::<u16>().is_err()) {
        return Some("its port is not a number up to 65535");
    }
    let path = path_and_query.split('?').next().unwrap_or_default();
    database_reason(path.trim_matches('/'))
}

/// The parts of a URL after `redis-sentinel://`.
pub(super) struct SentinelParts<'a> {
    /// User and password, with the `@` that follows them.
    pub(super) credentials: &'a str,
    pub(super) hosts: Vec<&'a str>,
    pub(super) service: &'a str,
    pub(super) database: &'a str,
}

/// Splits the part after `redis-sentinel://` and the like, whose hosts are not checked.
pub(super) fn split_sentinels(rest: &str) -> Result<SentinelParts<'_>, &'static str> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if path.contains('@') {
        return Err(MISPLACED_AT);
    }
    let at = authority.rfind('@').map_or(0, |at| at.saturating_add(1));
    let (credentials, hosts) = authority.split_at_checked(at).unwrap_or_default();
    let (service, database) = path.split_once('/').unwrap_or((path, ""));
    if service.contains('?') || database.contains('?') {
        return Err("unknown parameter; redis-sentinel:// takes none");
    }
    if service.is_empty() {
        return Err(
            "it names no service; write redis-sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE",
        );
    }
    // The characters that a sentinel permits.
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if !service.bytes().all(is_allowed) {
        return Err("the name of its service has other characters than A-Z a-z 0-9 . - _");
    }
    Ok(SentinelParts {
        credentials,
        hosts: hosts.split(',').collect(),
        service,
        database,
    })
}

/// Returns why the part after `unix://` is invalid, if this function can tell.
pub(super) fn unix_reason(rest: &str) -> Option<&'static str> {
    if !rest.starts_with('/') {
        return Some(UNIX_PATH_REASON);
    }
    let (_, query) = rest.split_once('?')?;
    database_reason(query.split('&').find_map(|pair| pair.strip_prefix("db="))?)
}

fn database_reason(database: &str) -> Option<&'static str> {
    let is_number = database.is_empty() || database.parse::<i64>().is_ok();
    (!is_number).then_some("its database is not a number, such as 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_url_without_feature_tls_is_named() {
        let reason = check_tls(true, false).expect_err("no TLS");
        assert!(reason.contains("the feature `redis-tls`"), "{reason}");
        for (is_wanted, is_built_in) in [(true, true), (false, false), (false, true)] {
            assert_eq!(check_tls(is_wanted, is_built_in), Ok(()));
        }
    }
}
