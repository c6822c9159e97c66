//! What is wrong with a URL that cannot be understood, told without any part of it, since a password
//! that is not percent-encoded may end up in each of them.

use std::net::IpAddr;

const SCHEMES: [&str; 7] = [
    "redis",
    "rediss",
    "valkey",
    "valkeys",
    "unix",
    "redis+unix",
    "valkey+unix",
];

const SLASHES: &str =
    "the path of a Unix socket is absolute, and has three slashes in front; write unix:///PATH";

/// The scheme and what is behind `://`, or why there is none.
pub(super) fn split(url: &str) -> Result<(String, &str), &'static str> {
    let Some((scheme, rest)) = url.split_once("://") else {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        return Err(match known(scheme) {
            Some(scheme) if scheme.ends_with("unix") => SLASHES,
            Some(_) => "its scheme lacks the two slashes; write redis://HOST:PORT/",
            None => "it has no scheme; write redis://HOST:PORT/ or unix:///PATH",
        });
    };
    let scheme = known(scheme).ok_or(
        "its scheme, in front of ://, is not known; it is redis, unix, or rediss for TLS, or the \
         same with valkey",
    )?;
    Ok((scheme, rest))
}

fn known(scheme: &str) -> Option<String> {
    let scheme = scheme.to_ascii_lowercase();
    SCHEMES.contains(&scheme.as_str()).then_some(scheme)
}

/// Why what is behind `redis://` and the like cannot be understood.
pub(super) fn of_tcp(rest: &str) -> Option<&'static str> {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at_checked(end)?;
    if behind.contains('@') {
        return Some(
            "it has an @ behind the host; in a user or password write / as %2F, ? as %3F and @ as \
             %40",
        );
    }
    let host_and_port = authority
        .rsplit_once('@')
        .map_or(authority, |(_, behind)| behind);
    // The brackets of an IPv6 address hold colons that start no port.
    let (host, port) = match host_and_port.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((host, behind)) => (host, behind.strip_prefix(':')),
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
        return Some(
            "its host stands for every address, and only a server can listen on that; write one \
             to connect to, such as 127.0.0.1",
        );
    }
    if port.is_some_and(|port| !port.is_empty() && port.parse::<u16>().is_err()) {
        return Some("its port, behind the last colon, is not a number up to 65535");
    }
    let path = behind.split('?').next().unwrap_or_default();
    of_database(path.trim_matches('/'))
}

/// Why what is behind `unix://` cannot be understood.
pub(super) fn of_unix(rest: &str) -> Option<&'static str> {
    if !rest.starts_with('/') {
        return Some(SLASHES);
    }
    let (_, query) = rest.split_once('?')?;
    of_database(query.split('&').find_map(|pair| pair.strip_prefix("db="))?)
}

fn of_database(database: &str) -> Option<&'static str> {
    let is_number = database.is_empty() || database.parse::<i64>().is_ok();
    (!is_number).then_some("its database is not a number, such as 0")
}
