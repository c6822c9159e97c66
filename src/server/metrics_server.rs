//! [`MetricsServer`], and its thread that accepts connections.

use std::{
    fmt,
    io::{
        self,
        ErrorKind::{ConnectionAborted, Interrupted, WouldBlock},
    },
    mem,
    net::{Shutdown, SocketAddr},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use prometheus::Registry;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use socket2::{SockAddr, Socket};
use tracing::{debug, error, info, warn};

use super::{
    collector::Collector,
    connection::{Connection, Limits, refuse},
    credentials::Credentials,
    files::is_exhausted,
    listener::{Listener, PeerNetwork, serve_error},
    slots::Slots,
};
use crate::error::Error;

/// Serves the metrics of a registry over HTTP until it is dropped.
///
/// | path | response |
/// |---|---|
/// | `/` | a page for people that updates itself |
/// | `/metrics` | the metrics as text, compressed with gzip if the request accepts it |
/// | `/-/ready` | 200 if every client's store is up, else 503 and the clients whose store is down |
/// | `/-/healthy` | 200 |
///
/// Any other path is a 404, and any method but GET and HEAD a 405. The [`builder`](Self::builder) sets limits,
/// credentials and TLS.
///
/// The server is built for networks with hostile peers. It has a thread that accepts connections, one that collects the
/// registry, and one per connection, with a small stack. A connection serves one request. Time and memory per connection
/// are limited, and so is the number of connections, 16 by default. If all slots are taken, the next connection evicts
/// one that already has its response, or else one that has not sent its request or does not read. If every connection is
/// being served, the new one gets a 503.
///
/// A collector that panics causes a 500. With `panic = "abort"` it ends the program.
///
/// ```
/// use paho_mqtt_redis::{MetricsServer, prometheus::Registry};
///
/// let server = MetricsServer::bind("127.0.0.1:0", Registry::new())?;
/// if let Some(address) = server.local_addr() {
///     println!("http://{address}/metrics");
/// }
/// # Ok::<(), paho_mqtt_redis::Error>(())
/// ```
#[must_use = "it serves until it is dropped"]
pub struct MetricsServer {
    address: SockAddr,
    /// Stops the thread when it is shut down.
    running: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Returns the bound address with the real port; `None` for a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address.as_socket()
    }

    /// Returns the path of the Unix socket; `None` for a TCP address.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        self.address.as_pathname()
    }

    pub(super) fn start(
        listener: Listener,
        registry: Registry,
        limits: Limits,
        credentials: Credentials,
    ) -> Result<Self, Error> {
        let address = listener.address.clone();
        let name = match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => address.to_string(),
            (None, path) => path.unwrap_or(Path::new("")).display().to_string(),
        };
        // A lack of file descriptors or threads.
        let failed = |error: io::Error| serve_error(&name, error);
        let (running, stop) = UnixStream::pair().map_err(failed)?;
        let collector = Collector::start(registry).map_err(failed)?;
        let acceptor = Acceptor {
            listener,
            limits,
            credentials,
            collector,
            slots: Arc::new(Slots::new(limits.max_connections)),
            stop,
            reserve_fd: None,
            failure_logged: false,
        };
        let thread = thread::Builder::new()
            .name("metrics-server".to_owned())
            .spawn(move || acceptor.run())
            .map_err(failed)?;
        info!("serving metrics at {name}");
        Ok(Self {
            address,
            running,
            thread: Some(thread),
        })
    }
}

/// Closes every connection and frees the port, or removes the Unix socket, before it returns.
impl Drop for MetricsServer {
    fn drop(&mut self) {
        // A child process between fork and exec has a copy, so closing it would not reach the thread.
        drop(self.running.shutdown(Shutdown::Both));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl fmt::Debug for MetricsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsServer")
            .field("local_addr", &self.local_addr())
            .field("unix_path", &self.unix_path())
            .finish_non_exhaustive()
    }
}

/// Delay after a failure of `accept` or `poll`, so that the loop does not spin.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Time between two attempts to get the reserve back.
const RESERVE_INTERVAL: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// The state of the `metrics-server` thread.
struct Acceptor {
    listener: Listener,
    limits: Limits,
    credentials: Credentials,
    collector: Collector,
    slots: Arc<Slots>,
    /// Ready once its other end is shut down: the server must stop.
    stop: UnixStream,
    /// A file descriptor in reserve, closed to accept a connection when the process has none left.
    reserve_fd: Option<OwnedFd>,
    /// Set once a failure is logged, until a connection is served again.
    failure_logged: bool,
}

impl Acceptor {
    /// Serves until the other end of `stop` is shut down, then ends every connection.
    fn run(mut self) {
        loop {
            // A panic, as in a log subscriber, must not end the endpoint for the life of the process.
            match catch_unwind(AssertUnwindSafe(|| self.turn())) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    let log = || error!("metrics server panicked; it continues");
                    // The subscriber may be what panics.
                    drop(catch_unwind(log));
                    thread::sleep(RETRY_DELAY);
                }
            }
        }
        drop(self.listener);
        self.collector.cancel();
        self.slots.close();
        self.collector.stop();
    }

    /// Waits for a connection and starts it; returns false when the server must stop.
    fn turn(&mut self) -> bool {
        if self.reserve_fd.is_none() {
            self.reserve_fd = self.stop.as_fd().try_clone_to_owned().ok();
        }
        let mut polled = [
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        // Without the reserve, it looks now and then for a file descriptor that has become free.
        let timeout = self.reserve_fd.is_none().then_some(RESERVE_INTERVAL);
        // Otherwise a signal, or a lack of memory.
        if poll(&mut polled, timeout.as_ref()).is_err_and(|error| error != Errno::INTR) {
            thread::sleep(RETRY_DELAY);
        }
        let [stop, listener] = polled.map(|polled| !polled.revents().is_empty());
        if listener && !stop {
            self.accept();
        }
        !stop
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept(self.limits.response_timeout) {
                Ok((socket, network)) => return self.admit(socket, network),
                // The connection is gone.
                Err(error)
                    if matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted) =>
                {
                    return;
                }
                // Either one frees a file descriptor for the next attempt.
                Err(error)
                    if is_exhausted(&error)
                        && (self.reserve_fd.take().is_some() || self.slots.evict_one()) => {}
                Err(error) => {
                    self.warn("metrics server cannot accept connections, retrying", &error);
                    return thread::sleep(RETRY_DELAY);
                }
            }
        }
    }

    /// Gives an accepted connection a slot and a thread, or refuses it with a 503.
    fn admit(&mut self, socket: Socket, network: PeerNetwork) {
        let socket = Arc::new(socket);
        let access = self.credentials.current();
        if !self.slots.make_room() {
            refuse(&access, socket);
            return debug!("refused a metrics connection: all slots are taken");
        }
        let connection = Connection {
            socket: Arc::clone(&socket),
            limits: self.limits,
            access: Arc::clone(&access),
            collector: self.collector.requests.clone(),
        };
        let job = Box::new(move |slots: &Slots| connection.serve(slots));
        match self.slots.serve(network, &socket, job) {
            Ok(()) => self.failure_logged = false,
            Err(error) => {
                refuse(&access, socket);
                self.warn(
                    "metrics server cannot start a thread, refusing connections",
                    &error,
                );
            }
        }
    }

    /// Logs the first of a row of failures.
    fn warn(&mut self, message: &str, error: &io::Error) {
        if !mem::replace(&mut self.failure_logged, true) {
            warn!(%error, "{message}");
        }
    }
}
