//! [`MetricsServer`]: a registry over HTTP, and nothing of MQTT.

mod access;
mod auth;
mod connection;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gather;
mod listen;
mod options;
mod page;
mod ready;
mod request;
mod response;
mod route;
mod serving;
#[cfg(feature = "server-tls")]
mod tls;
mod transport;

use std::{
    fmt,
    io::Write,
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs},
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

pub use self::options::MetricsServerBuilder;
use self::{
    connection::Terms,
    gather::Gatherer,
    listen::{Listener, bind_error},
    serving::Serving,
};
use crate::Error;

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
    place: Place,
    stopping: Arc<AtomicBool>,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// Where it listens.
#[derive(Clone, Debug)]
enum Place {
    Address(SocketAddr),
    Path(PathBuf),
}

impl MetricsServer {
    /// Serves the registry on the first of the addresses that can be bound, with default options.
    ///
    /// Port 0 takes a free one, which [`local_addr`](Self::local_addr) tells. Nobody is asked who he
    /// is: bind an address of the loopback interface, or let the [`builder`](Self::builder) ask for a
    /// token, unless everybody on the network may read the metrics.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Bind`](crate::ErrorKind::Bind) where none of the addresses can be bound.
    pub fn bind(address: impl ToSocketAddrs, registry: Registry) -> Result<Self, Error> {
        Self::builder(registry).bind(address)
    }

    /// The options, to be set before an address is bound.
    #[must_use]
    pub fn builder(registry: Registry) -> MetricsServerBuilder {
        MetricsServerBuilder::new(registry)
    }

    /// The address that is served, with the real port; `0.0.0.0:0` where that is a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        match &self.place {
            Place::Address(address) => *address,
            Place::Path(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        }
    }

    /// The path of the Unix socket that is served, where it is one.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.place {
            Place::Address(_) => None,
            Place::Path(path) => Some(path),
        }
    }

    fn start(
        listener: Listener,
        place: Place,
        registry: Registry,
        terms: Terms,
    ) -> Result<Self, Error> {
        let failed = |error| bind_error(&place.to_string(), error);
        let stopping = Arc::new(AtomicBool::new(false));
        let (waker, wakeups) = UnixStream::pair().map_err(failed)?;
        for end in [&waker, &wakeups] {
            end.set_nonblocking(true).map_err(failed)?;
        }
        let gatherer =
            Gatherer::start(registry, waker.try_clone().map_err(failed)?).map_err(failed)?;
        let serving = Serving::new(listener, terms, gatherer, Arc::clone(&stopping), wakeups);
        let thread = thread::Builder::new()
            .name("metrics-server".to_owned())
            .spawn(move || serving.run())
            .map_err(failed)?;
        info!("metrics are served at {place}");
        Ok(Self {
            place,
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

impl fmt::Display for Place {
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
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
