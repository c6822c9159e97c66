//! [`MetricsServer`]: serves a registry over HTTP.

use std::{
    fmt,
    io::{self, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use prometheus::Registry;
use tracing::info;

use super::{
    collector::CollectorHandle,
    config::Config,
    event_loop::EventLoop,
    listener::{Listener, serve_error},
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
/// The server is built for networks with hostile peers. It has two threads, one for all connections and one that collects
/// the registry. A connection serves one request. Time and memory per connection are limited, and so is the number of
/// connections, 16 by default. If all places are taken, the next connection evicts one that already has its response, or
/// else one that has not sent its request or does not read. If every connection is being served, the new one gets a 503.
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
    address: ListenAddress,
    stopping: Arc<AtomicBool>,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// The address of the server, as log and errors show it.
#[derive(Clone, Debug)]
pub(super) enum ListenAddress {
    Address(SocketAddr),
    Path(PathBuf),
}

impl MetricsServer {
    /// Returns the bound address with the real port; `None` for a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.address {
            ListenAddress::Address(address) => Some(*address),
            ListenAddress::Path(_) => None,
        }
    }

    /// Returns the path of the Unix socket; `None` for a TCP address.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.address {
            ListenAddress::Address(_) => None,
            ListenAddress::Path(path) => Some(path),
        }
    }

    pub(super) fn start(
        listener: Listener,
        address: ListenAddress,
        registry: Registry,
        config: Config,
    ) -> Result<Self, Error> {
        // A lack of file descriptors or threads, so the text of the error is the best reason.
        let failed = |error: io::Error| serve_error(&address, error.to_string(), error);
        let stopping = Arc::new(AtomicBool::new(false));
        let (waker, wakeups) = UnixStream::pair().map_err(failed)?;
        for end in [&waker, &wakeups] {
            end.set_nonblocking(true).map_err(failed)?;
        }
        let collector =
            CollectorHandle::start(registry, waker.try_clone().map_err(failed)?).map_err(failed)?;
        let event_loop =
            EventLoop::new(listener, config, collector, Arc::clone(&stopping), wakeups);
        let thread = thread::Builder::new()
            .name("metrics-server".to_owned())
            .spawn(move || event_loop.run())
            .map_err(failed)?;
        info!("serving metrics at {address}");
        Ok(Self {
            address,
            stopping,
            waker,
            thread: Some(thread),
        })
    }
}

/// Closes every connection and frees the port, or removes the Unix socket, before it returns.
impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // A full buffer is fine: its bytes wake the thread.
        drop(self.waker.write(&[1]));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for MetricsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
