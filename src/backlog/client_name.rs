//! Finds the records that a person means.

use std::{cmp::Reverse, collections::BTreeSet};

use crate::paho::strip_scheme;

/// The reason why a client is not one set of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// The client id has records under several server URIs: these names.
    Ambiguous(Vec<String>),
    /// There are no such records. These names are the closest.
    Unknown(Vec<String>),
}

/// A client id, and a server URI without its scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientName {
    /// The client id.
    pub id: String,
    /// The server URI with which the client is created, as Paho passes it on.
    pub server_uri: String,
}

impl ClientName {
    /// Names a client; returns `None` if a part is empty.
    #[must_use]
    pub fn new(id: &str, server_uri: &str) -> Option<Self> {
        let server_uri = strip_scheme(server_uri);
        (!id.is_empty() && !server_uri.is_empty()).then(|| Self {
            id: id.to_owned(),
            server_uri: server_uri.to_owned(),
        })
    }

    /// Parses `CLIENT_ID:SERVER_URI`. The id ends before the scheme, or at the first colon if there is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts = text.match_indices(':').filter_map(|(index, _)| {
            let (id, uri) = text.split_at_checked(index)?;
            Some((id, uri.strip_prefix(':')?))
        });
        let has_scheme = |(_, uri): &(&str, &str)| strip_scheme(uri) != *uri;
        let (id, uri) = parts
            .clone()
            .find(has_scheme)
            .or_else(|| parts.clone().next())?;
        Self::new(id, uri)
    }

    /// Splits the name of records for which a person has written `text`.
    #[must_use]
    pub fn of_records(name: &str, text: &str) -> Option<Self> {
        let id = client_id_of(text, name);
        let server_uri = name.strip_prefix(id)?.strip_prefix(':')?;
        Some(Self {
            id: id.to_owned(),
            server_uri: server_uri.to_owned(),
        })
    }

    /// The name under which Redis has the records.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}:{}", self.id, self.server_uri)
    }
}

/// Number of close names.
const MAX_CLOSE: usize = 8;

/// Returns the name of the records of `client`, which is a client id, or a client id and a server URI with a
/// colon between them.
pub(super) fn resolve(client: &str, names: &BTreeSet<String>) -> Result<String, Unresolved> {
    if let Some(name) = spellings(client).find(|name| names.contains(name)) {
        return Ok(name);
    }
    let is_of_client = |name: &&String| {
        let rest = name.strip_prefix(client);
        let rest = rest.and_then(|rest| rest.strip_prefix(':'));
        rest.is_some_and(is_server_uri)
    };
    let found = names.iter().filter(is_of_client);
    let found: Vec<String> = found.cloned().collect();
    match <[String; 1]>::try_from(found) {
        Ok([name]) => Ok(name),
        Err(found) if found.is_empty() => Err(Unresolved::Unknown(close_names(client, names))),
        Err(found) => Err(Unresolved::Ambiguous(found)),
    }
}

/// Returns true for `HOST[:PORT][/PATH]`, which is not the end of a longer client id and a server URI.
///
/// Client ids may have colons, so a name alone does not show where its client id ends. A colon in a path, and
/// a host of digits, which could be a port, count as part of an id: such records have to be named in full.
fn is_server_uri(text: &str) -> bool {
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let is_host = |host: &str| {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        !host.is_empty() && (bare.is_some() || !host.contains(':') && !is_port(host))
    };
    let is_authority = match authority.rsplit_once(':') {
        Some((host, port)) if is_port(port) => is_host(host),
        // Also the path of a Unix socket.
        _ => is_host(authority) || authority.is_empty() && !path.is_empty(),
    };
    is_authority && !path.contains(':')
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns true for a server URI that shows its form by a scheme of Paho's or by a port.
///
/// Paho takes a bare host, too. But of a person who moves records it is more often a slip, after which no
/// program finds them.
#[must_use]
pub fn is_explicit_server_uri(text: &str) -> bool {
    let bare = strip_scheme(text);
    let is_explicit = if bare == text {
        let authority = text.split('/').next().unwrap_or_default();
        let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
        is_server_uri(text) && is_port(port)
    } else {
        !bare.is_empty()
    };
    is_explicit && !text.contains(char::is_whitespace)
}

/// Returns the client id of the records `name`, which [`resolve`] has found for `client`.
///
/// Both may have colons. A server URI with its scheme shows where the id ends.
pub(super) fn client_id_of<'a>(client: &'a str, name: &'a str) -> &'a str {
    let has_name = |id: &str| {
        name.strip_prefix(id)
            .is_some_and(|rest| rest.starts_with(':'))
    };
    if has_name(client) {
        return client;
    }
    let mut ids = client.match_indices(':').filter_map(|(index, _)| {
        let (id, uri) = client.split_at_checked(index)?;
        let uri = uri.strip_prefix(':')?;
        (strip_scheme(uri) != uri && has_name(id)).then_some(id)
    });
    let with_scheme = ids.next();
    with_scheme.unwrap_or_else(|| name.split_once(':').map_or(name, |(id, _)| id))
}

/// Returns the client as it is, and without the scheme of its server URI.
fn spellings(client: &str) -> impl Iterator<Item = String> {
    let colons = client.match_indices(':');
    let stripped = colons.filter_map(|(index, _)| {
        let (id, uri) = client.split_at_checked(index)?;
        let uri = uri.strip_prefix(':')?;
        let bare = strip_scheme(uri);
        (bare != uri).then(|| format!("{id}:{bare}"))
    });
    [client.to_owned()].into_iter().chain(stripped)
}

/// Sorts the names by how much they resemble `client`.
fn close_names(client: &str, names: &BTreeSet<String>) -> Vec<String> {
    let mut close: Vec<(Reverse<bool>, usize, &String)> = names
        .iter()
        .map(|name| {
            let ends = name.match_indices(':').map(|(index, _)| index);
            let parts = ends
                .chain([name.len()])
                .filter_map(|end| Some(distance(client, name.get(..end)?)));
            let closest = parts.min().unwrap_or(usize::MAX);
            (Reverse(name.contains(client)), closest, name)
        })
        .collect();
    close.sort();
    let names = close.into_iter().map(|(_, _, name)| name.clone());
    names.take(MAX_CLOSE).collect()
}

/// Number of characters to insert, remove or replace.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (index, from) in one.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index.saturating_add(1);
        for (cell, to) in row.iter_mut().skip(1).zip(other.chars()) {
            let replaced = diagonal.saturating_add(usize::from(from != to));
            diagonal = *cell;
            left = replaced.min(left.min(*cell).saturating_add(1));
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = index.saturating_add(1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> BTreeSet<String> {
        let names = [
            "device-1:broker:1883",
            "device-1:old:1883",
            "device-2:broker:1883",
            "pump:a:1",
        ];
        names.map(str::to_owned).into_iter().collect()
    }

    #[test]
    fn client_id_ends_at_scheme_or_colon() {
        for (text, id, server_uri) in [
            ("device:broker:1883", "device", "broker:1883"),
            ("device:mqtt://broker:1883", "device", "broker:1883"),
            ("a:b:ssl://[::1]:8883", "a:b", "[::1]:8883"),
            ("device:[::1]:8883", "device", "[::1]:8883"),
        ] {
            let client = ClientName::parse(text).expect(text);
            assert_eq!((&*client.id, &*client.server_uri), (id, server_uri));
        }
        for text in ["", "device", ":broker", "device:", "device:mqtt://"] {
            assert_eq!(ClientName::parse(text), None, "{text}");
        }
    }

    #[test]
    fn client_id_or_name_is_resolved() {
        for client in [
            "device-2",
            "device-2:broker:1883",
            "device-2:mqtt://broker:1883",
            "device-2:ssl://broker:1883",
        ] {
            let name = resolve(client, &names());
            assert_eq!(name.as_deref(), Ok("device-2:broker:1883"), "{client}");
        }
    }

    #[test]
    fn client_id_is_found_in_name() {
        for (client, name, id) in [
            ("device-2", "device-2:broker:1883", "device-2"),
            ("device-2:broker:1883", "device-2:broker:1883", "device-2"),
            ("a:b", "a:b:broker:1883", "a:b"),
            ("a:b:tcp://broker:1883", "a:b:broker:1883", "a:b"),
            ("a:b:broker:1883", "a:b:broker:1883", "a"),
        ] {
            assert_eq!(client_id_of(client, name), id, "{client}");
        }
    }

    #[test]
    fn client_with_two_server_uris_is_ambiguous() {
        let both = ["device-1:broker:1883", "device-1:old:1883"].map(str::to_owned);
        assert_eq!(
            resolve("device-1", &names()),
            Err(Unresolved::Ambiguous(both.to_vec()))
        );
    }

    #[test]
    fn longer_client_id_is_not_resolved() {
        for name in [
            "site:1:host:1883",
            "site:1:1:host:1883",
            "site:1:[::1]:1883",
            "site:1:host",
            "site:1:/run/mqtt.sock",
            "site:1/x:host:1883",
            "site:host:1883:host:1883",
            "site:1883",
        ] {
            let names = BTreeSet::from([name.to_owned()]);
            let unknown = Unresolved::Unknown(vec![name.to_owned()]);
            assert_eq!(resolve("site", &names), Err(unknown), "{name}");
            assert_eq!(resolve(name, &names).as_deref(), Ok(name));
        }
        for (client, name) in [
            ("site", "site:host:1883"),
            ("site", "site:host"),
            ("site", "site:[::1]:1883"),
            ("site", "site:host:80/mqtt"),
            ("site", "site:/run/mqtt.sock"),
            ("site:1", "site:1:host:1883"),
        ] {
            let names = BTreeSet::from([name.to_owned(), "site:1:other:1883:x".to_owned()]);
            assert_eq!(resolve(client, &names).as_deref(), Ok(name), "{client}");
        }
    }

    #[test]
    fn unknown_client_gets_close_names() {
        for (client, closest) in [
            ("device-22", "device-2:broker:1883"),
            ("pmup", "pump:a:1"),
            ("old", "device-1:old:1883"),
        ] {
            let Err(Unresolved::Unknown(close)) = resolve(client, &names()) else {
                panic!("{client}");
            };
            assert_eq!(close[0], closest, "{client}");
        }
        assert_eq!(
            resolve("a", &BTreeSet::new()),
            Err(Unresolved::Unknown(Vec::new()))
        );
    }

    #[test]
    fn distance_counts_edits() {
        for (one, other, edits) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("äb", "ab", 1),
        ] {
            assert_eq!(distance(one, other), edits, "{one} {other}");
        }
    }
}
