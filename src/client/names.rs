//! [`NameToResolve`]: asks the name server before Paho does, which asks it under a lock.

use std::net::{IpAddr, ToSocketAddrs};

use super::connection::ConnectionError;

/// The host of an address, if it is a name.
///
/// Paho resolves it while it holds the lock that every `publish` of the process takes. If no name server answers, that
/// takes 10 s and more. So the thread of the client asks first, and does not let Paho connect if that fails. Paho asks
/// once more, for an answer that is a moment old.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NameToResolve(String);

impl NameToResolve {
    /// Returns the name in an address with a scheme; `None` for an IP address or a socket in the file system.
    pub(super) fn of(address: &str) -> Option<Self> {
        let (scheme, rest) = address.split_once("://")?;
        let authority = rest.split('/').next()?;
        if scheme == "unix" || authority.starts_with('[') {
            return None;
        }
        let host = authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host);
        let is_name = !host.is_empty() && host.parse::<IpAddr>().is_err();
        is_name.then(|| Self(host.to_owned()))
    }

    /// Waits for the name server, which may take its time.
    pub(super) fn resolve(&self) -> Result<(), ConnectionError> {
        let addresses = (self.0.as_str(), 0).to_socket_addrs();
        match addresses {
            Ok(_) => Ok(()),
            Err(error) => Err(ConnectionError::unresolved(&self.0, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_resolved() {
        for (address, name) in [
            ("mqtt://broker.example:1883", Some("broker.example")),
            ("mqtts://broker.example", Some("broker.example")),
            ("wss://broker.example:443/mqtt:1", Some("broker.example")),
            ("ws://broker.example/mqtt", Some("broker.example")),
            ("mqtt://192.0.2.1:1883", None),
            ("mqtt://192.0.2.1", None),
            ("mqtt://[2001:db8::1]:1883", None),
            ("unix:///run/broker.sock", None),
            ("mqtt://:1883", None),
        ] {
            let name = name.map(|name| NameToResolve(name.to_owned()));
            assert_eq!(NameToResolve::of(address), name, "{address}");
        }
    }
}
