//! [`NameToResolve`]: asks the name server before Paho does, which asks it under a lock.

use std::{net::IpAddr, sync::Arc};

use super::connection::ConnectionError;
use crate::net::LookUp;

/// The host of an address, if it is a name.
///
/// Paho resolves it while it holds the lock that every `publish` of the process takes. If no name server answers, that
/// takes 10 s and more. So the client asks first, and does not let Paho connect if that fails. Paho asks once more, for
/// an answer that is a moment old.
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

    /// Asks the name server, or joins those who do.
    pub(super) fn look_up(&self) -> Result<Arc<LookUp>, ConnectionError> {
        LookUp::of(&self.0).map_err(|error| ConnectionError::unresolved(&self.0, &error))
    }

    /// Returns true once the name server has answered with an address.
    pub(super) fn is_resolved(&self, look_up: &LookUp) -> Result<bool, ConnectionError> {
        match look_up.answer() {
            None => Ok(false),
            Some(Ok(_)) => Ok(true),
            Some(Err(error)) => Err(ConnectionError::unresolved(&self.0, &error)),
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
