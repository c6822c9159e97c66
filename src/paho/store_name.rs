//! The name under which a store keeps the records of one client.

use crate::error::{Error, ErrorKind};

/// Returns the name of a client's set of records, which paho-mqtt-redis 0.3.2 uses for its hash too.
pub(crate) fn record_set_name(client_id: &str, server_uri: &str) -> Result<String, Error> {
    if client_id.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidClientId,
            "find the records of this client",
        ));
    }
    Ok(format!("{client_id}:{server_uri}"))
}

/// Returns the URI as Paho C passes it to `open`, which is without these schemes.
pub(crate) fn strip_scheme(server_uri: &str) -> &str {
    const PAHO_SCHEMES: [&str; 8] = [
        "tcp://", "mqtt://", "unix://", "ws://", "ssl://", "tls://", "mqtts://", "wss://",
    ];
    let bare = PAHO_SCHEMES
        .iter()
        .find_map(|scheme| server_uri.strip_prefix(scheme));
    bare.unwrap_or(server_uri)
}

/// What the names of hashes end with that hold no records of Paho, but belong to such a hash.
const COMPANIONS: [&str; 2] = [":quarantine", ":discarded"];

/// Returns true for the name of a companion, which is no backlog.
pub(crate) fn is_companion_name(name: &str) -> bool {
    COMPANIONS.iter().any(|companion| name.ends_with(companion))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_has_client_and_server() {
        assert_eq!(
            record_set_name("device", "broker").expect("a name"),
            "device:broker"
        );
        let error = record_set_name("", "broker").expect_err("no client id");
        assert_eq!(error.kind(), ErrorKind::InvalidClientId);
    }

    #[test]
    fn companion_is_no_backlog() {
        for (name, is_companion) in [
            ("device:broker:1883", false),
            ("device:broker:1883:quarantine", true),
            ("device:broker:1883:discarded", true),
            ("device:quarantine", true),
            ("quarantine:broker:1883", false),
        ] {
            assert_eq!(is_companion_name(name), is_companion, "{name}");
        }
    }

    #[test]
    fn only_scheme_known_to_paho_is_stripped() {
        for scheme in ["tcp", "mqtt", "unix", "ws", "ssl", "tls", "mqtts", "wss"] {
            assert_eq!(
                strip_scheme(&format!("{scheme}://broker:1883")),
                "broker:1883"
            );
        }
        for uri in ["http://broker:1883", "broker:1883"] {
            assert_eq!(strip_scheme(uri), uri);
        }
    }
}
