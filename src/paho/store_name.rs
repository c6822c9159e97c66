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
