//! Resolves the host names of Redis and of its sentinels.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::Instant,
};

use super::exchange_error::ExchangeError;
use crate::net::time_left;

pub(super) const HOST_NOT_FOUND: &str = "host name not found; check the URL and this device's DNS";

/// Resolves each host name on a thread of its own, since the system's resolver takes no timeout.
///
/// A look-up that outlasts its attempt is not given up: the next attempt waits for it. So a resolver
/// that hangs holds one thread per host name, however often a connection is tried.
///
/// Clones share the look-ups. While one waits for a look-up, the others fail at once: a sentinel whose name
/// server is slow is skipped until that look-up ends or is abandoned.
#[derive(Clone, Default)]
pub(super) struct Resolver {
    running: Arc<Mutex<HashMap<Place, RunningLookUp>>>,
}

type Place = (String, u16);

enum RunningLookUp {
    /// A call waits for it.
    Awaited,
    /// It outlasted the call that began it.
    Abandoned(Receiver<LookUp>),
}

type LookUp = io::Result<Vec<SocketAddr>>;

impl Resolver {
    /// Returns the addresses of the host.
    pub(super) fn resolve(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, ExchangeError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let place = (host.to_owned(), port);
        let name = place.clone();
        let look_up = move || {
            (name.0.as_str(), name.1)
                .to_socket_addrs()
                .map(Iterator::collect)
        };
        self.wait_for(place, look_up, deadline)?
            .map_err(|error| ExchangeError::Disconnected(HOST_NOT_FOUND, error.into()))
    }

    /// Waits for the look-up of this place that is running, or starts this one.
    fn wait_for(
        &self,
        place: Place,
        look_up: impl FnOnce() -> LookUp + Send + 'static,
        deadline: Instant,
    ) -> io::Result<LookUp> {
        // Before the look-up is taken, which an error would give up.
        let limit = time_left(deadline)?;
        let timed_out = |reason| Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        let earlier = self.running().insert(place.clone(), RunningLookUp::Awaited);
        let receiver = match earlier {
            Some(RunningLookUp::Awaited) => {
                return timed_out("an earlier attempt is still resolving the host name");
            }
            Some(RunningLookUp::Abandoned(running)) => Ok(running),
            None => start(look_up),
        };
        let result = receiver.map(|receiver| (receiver.recv_timeout(limit), receiver));
        let mut running = self.running();
        running.remove(&place);
        match result? {
            (Ok(addresses), _) => Ok(addresses),
            (Err(RecvTimeoutError::Timeout), receiver) => {
                running.insert(place, RunningLookUp::Abandoned(receiver));
                timed_out("resolving the host name timed out")
            }
            (Err(RecvTimeoutError::Disconnected), _) => {
                Err(io::Error::other("the resolver panicked"))
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Place, RunningLookUp>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a look-up on a thread of its own.
fn start(look_up: impl FnOnce() -> LookUp + Send + 'static) -> io::Result<Receiver<LookUp>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("redis-host-name".to_owned())
        // The receiver is gone if the store is.
        .spawn(move || drop(sender.send(look_up())))?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use super::*;
    use crate::net::deadline_after;

    const SHORT: Duration = Duration::from_millis(20);
    const AMPLE: Duration = Duration::from_secs(20);

    fn place(host: &str) -> (String, u16) {
        (host.to_owned(), 6379)
    }

    #[test]
    fn hanging_look_up_is_shared_by_all_attempts() {
        let (gate, opened) = mpsc::channel::<LookUp>();
        let mut opened = Some(opened);
        let started = Arc::new(AtomicUsize::new(0));
        let resolver = Resolver::default();
        let mut attempt = |timeout| {
            let (started, opened) = (Arc::clone(&started), opened.take());
            let look_up = move || {
                started.fetch_add(1, Ordering::SeqCst);
                opened.expect("the first look-up").recv().expect("a result")
            };
            resolver.wait_for(place("a"), look_up, deadline_after(timeout))
        };
        for timeout in [SHORT, Duration::ZERO, SHORT, SHORT] {
            let error = attempt(timeout).expect_err("hangs");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        let address = SocketAddr::from(([127, 0, 0, 1], 6379));
        gate.send(Ok(vec![address])).expect("the look-up waits");
        let addresses = attempt(AMPLE).expect("ends").expect("has a result");
        assert_eq!(addresses, [address]);
        assert_eq!(started.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn look_up_that_clone_waits_for_is_not_repeated() {
        let (gate, opened) = mpsc::channel::<LookUp>();
        let (begun, has_begun) = mpsc::channel();
        let resolver = Resolver::default();
        let clone = resolver.clone();
        let first = thread::spawn(move || {
            let look_up = move || {
                begun.send(()).expect("the test waits");
                opened.recv().expect("a result")
            };
            clone.wait_for(place("a"), look_up, deadline_after(AMPLE))
        });
        has_begun.recv().expect("begins");
        let again = || unreachable!("one thread per host name");
        let error = resolver.wait_for(place("a"), again, deadline_after(AMPLE));
        let error = error.expect_err("is busy");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let address = SocketAddr::from(([127, 0, 0, 1], 6379));
        gate.send(Ok(vec![address])).expect("the look-up waits");
        let found = first.join().expect("no panic").expect("ends");
        assert_eq!(found.expect("has a result"), [address]);
        assert!(resolver.running().is_empty());
    }

    #[test]
    fn hanging_look_up_holds_up_no_other_host() {
        let (_gate, opened) = mpsc::channel::<LookUp>();
        let resolver = Resolver::default();
        let hangs = move || opened.recv().expect("a result");
        let hanging = resolver.wait_for(place("a"), hangs, deadline_after(SHORT));
        let error = hanging.expect_err("hangs");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let address = SocketAddr::from(([127, 0, 0, 1], 6379));
        let look_up = move || Ok(vec![address]);
        let found = resolver.wait_for(place("b"), look_up, deadline_after(AMPLE));
        assert_eq!(found.expect("ends").expect("has a result"), [address]);
    }

    #[test]
    fn each_result_is_used_once() {
        let resolver = Resolver::default();
        for port in 1..=3 {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let look_up = move || Ok(vec![address]);
            let found = resolver.wait_for(place("a"), look_up, deadline_after(AMPLE));
            assert_eq!(found.expect("ends").expect("has a result"), [address]);
        }
        let failed = resolver.wait_for(
            place("a"),
            || Err(io::ErrorKind::NotFound.into()),
            deadline_after(AMPLE),
        );
        assert!(failed.expect("ends").is_err());
        let found = resolver.resolve("localhost", 6379, deadline_after(AMPLE));
        assert!(!found.unwrap_or_default().is_empty());
    }
}
