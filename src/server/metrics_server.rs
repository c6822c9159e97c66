//! [`MetricsServer`]: a registry over HTTP, and nothing of MQTT.

use std::{
    fmt,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
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
    listener::{Listener, bind_error},
};
use crate::error::Error;

/// Serves the metrics of a registry to a Prometheus, until it is dropped.
///
/// | path | answer |
/// |---|---|
/// | `/` | a page for people, which keeps itself up to date |
/// | `/metrics` | the metrics, compressed with gzip for whoever accepts it |
/// | `/-/ready` | 200 while the store of every client can be used, else 503 and the clients |
/// | `/-/healthy` | 200 |
///
/// It takes two threads, one for all connections and one that reads the registry; a connection
/// serves one request. Everything that a peer can make it wait for, or keep, has a limit. At most
/// 16 connections have a place by default: when another comes, one that has its answer loses its
/// place, or else one that has not sent its request, or does not read; and where all are being
/// served, the new one is told 503. A collector that panics gives 500, as long as panics unwind.
///
/// ```
/// use paho_mqtt_redis::{MetricsServer, prometheus::Registry};
///
/// let server = MetricsServer::bind("127.0.0.1:0", Registry::new())?;
/// println!("http://{}/metrics", server.local_addr());
/// # Ok::<(), paho_mqtt_redis::Error>(())
/// ```
#[must_use = "it serves until it is dropped"]
pub struct MetricsServer {
    address: ListenAddress,
    stopping: Arc<AtomicBool>,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// Where it listens.
#[derive(Clone, Debug)]
pub(super) enum ListenAddress {
    Address(SocketAddr),
    Path(PathBuf),
}

impl MetricsServer {
    /// The address that is served, with the real port; `0.0.0.0:0` where that is a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        match &self.address {
            ListenAddress::Address(address) => *address,
            ListenAddress::Path(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        }
    }

    /// The path of the Unix socket that is served, where it is one.
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
        let failed = |error| bind_error(&address.to_string(), error);
        let stopping = Arc::new(AtomicBool::new(false));
        let (waker, wakeups) = UnixStream::pair().map_err(failed)?;
        for end in [&waker, &wakeups] {
            end.set_nonblocking(true).map_err(failed)?;
        }
        let collector =
            CollectorHandle::start(registry, waker.try_clone().map_err(failed)?).map_err(failed)?;
        let serving = EventLoop::new(listener, config, collector, Arc::clone(&stopping), wakeups);
        let thread = thread::Builder::new()
            .name("metrics-server".to_owned())
            .spawn(move || serving.run())
            .map_err(failed)?;
        info!("metrics are served at {address}");
        Ok(Self {
            address,
            stopping,
            waker,
            thread: Some(thread),
        })
    }
}

/// Ends every connection and frees the port, or removes the Unix socket, before it returns.
impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Where it would have to wait, there is a byte already.
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
            .field("place", &self.address)
            .finish_non_exhaustive()
    }
}
