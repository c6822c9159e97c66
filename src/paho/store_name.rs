//! The name under which a store keeps the records of one client.

use crate::error::{Error, ErrorKind};

/// The name that paho-mqtt-redis 0.3.2 gives the hash.
pub(crate) fn record_set_name(client_id: &str, server_uri: &str) -> Result<String, Error> {
    if client_id.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidClientId,
            "find the records of the client",
        ));
    }
    Ok(format!("{client_id}:{server_uri}"))
}

/// The URI as Paho C passes it to `open`: it cuts off exactly these.
pub(crate) fn strip_scheme(server_uri: &str) -> &str {
    const SCHEMES: [&str; 8] = [
        "tcp://", "mqtt://", "unix://", "ws://", "ssl://", "tls://", "mqtts://", "wss://",
    ];
    let bare = SCHEMES
        .iter()
        .find_map(|scheme| server_uri.strip_prefix(scheme));
    bare.unwrap_or(server_uri)
}
