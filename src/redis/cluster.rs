//! Finds the node of a cluster that has the slot of a client's records.

use super::{
    address::{Endpoint, RedisAddress},
    exchange_error::ExchangeError,
};

/// The most nodes that one attempt to connect follows. A cluster that agrees with itself needs two.
pub(super) const MAX_HOPS: usize = 4;

/// Returns the key of the hash of this name, in braces.
///
/// A cluster chooses the slot by what the braces enclose, so that the hashes beside this one, whose keys begin
/// with it, are in the same slot.
pub(super) fn hash(key_prefix: &str, name: &str) -> String {
    format!("{key_prefix}{{{name}}}")
}

/// Returns an error for a name that no braces can enclose.
pub(super) fn check_name(key_prefix: &str, name: &str) -> Result<(), &'static str> {
    if key_prefix.contains('{') || name.starts_with('}') {
        return Err(
            "in a cluster the client id must not begin with }, and key_prefix must not have { in it",
        );
    }
    Ok(())
}

/// The choice of the node that an attempt to connect begins with.
#[derive(Default)]
pub(super) struct NodeChoice {
    /// The node that has had the records, if it has not failed since.
    pub(super) last: Option<Endpoint>,
    /// The node of the URL that is tried next, counted on without end.
    next: usize,
}

impl NodeChoice {
    /// Returns the address of the node that is tried first: the one that has had the records, or the next of
    /// the URL.
    pub(super) fn first(&mut self, address: &RedisAddress) -> RedisAddress {
        if !address.is_in_cluster() {
            return address.clone();
        }
        let node = self.last.take().or_else(|| {
            let next = self.next;
            self.next = next.wrapping_add(1);
            let index = next.checked_rem(address.cluster.len()).unwrap_or_default();
            address.cluster.get(index).cloned()
        });
        match node {
            Some(endpoint) => address.with_endpoint(endpoint),
            None => address.clone(),
        }
    }
}

/// Returns the address that a reply with these words names, such as `MOVED 866 10.0.0.1:6379`.
pub(super) fn named_node(words: &str, asked: &RedisAddress) -> Result<RedisAddress, ExchangeError> {
    let place = words.split(' ').nth(2).and_then(|place| {
        let (host, port) = place.rsplit_once(':')?;
        let host = match (host, &asked.endpoint) {
            // The node does not know its own name; it is the one that was asked.
            ("", Endpoint::Tcp(host, _)) => host,
            (host, _) => host,
        };
        // A node whose name nobody has set is shown as `?`.
        let is_shown = !host.is_empty() && host != "?" && !host.contains(char::is_control);
        is_shown.then(|| Some(Endpoint::Tcp(host.to_owned(), port.parse().ok()?)))?
    });
    match place {
        Some(endpoint) => Ok(asked.with_endpoint(endpoint)),
        None => Err(ExchangeError::protocol(
            "MOVED names no node; check cluster-preferred-endpoint-type and cluster-announce-hostname",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_names_node() {
        let asked = RedisAddress::parse("redis-cluster://a:7000,b:7001", None).expect("valid");
        for (words, named) in [
            ("MOVED 866 10.0.0.1:6379", Some("10.0.0.1:6379")),
            ("MOVED 866 node-1.example:7002", Some("node-1.example:7002")),
            ("MOVED 866 ::1:7002", Some("[::1]:7002")),
            ("MOVED 866 :7003", Some("a:7003")),
            ("MOVED 866 ?:7003", None),
            ("MOVED 866", None),
            ("MOVED 866 host", None),
            ("MOVED 866 host:port", None),
        ] {
            let node = named_node(words, &asked).ok();
            let node = node.map(|node| node.endpoint.to_string());
            assert_eq!(node.as_deref(), named, "{words}");
        }
    }

    #[test]
    fn nodes_of_url_take_turns_until_one_is_known() {
        let address = RedisAddress::parse("redis-cluster://a:1,b:2", None).expect("valid");
        let mut choice = NodeChoice::default();
        let mut next = || choice.first(&address).endpoint.to_string();
        assert_eq!([next(), next(), next()], ["a:1", "b:2", "a:1"]);
        choice.last = Some(Endpoint::Tcp("c".to_owned(), 3));
        let mut next = || choice.first(&address).endpoint.to_string();
        assert_eq!([next(), next()], ["c:3", "b:2"]);
    }
}
