//! [`MetricsServer`]: a registry over HTTP, and nothing of MQTT.

mod accept;
mod request;
mod response;

use std::{
    fmt,
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use prometheus::Registry;
use socket2::{Domain, Socket, Type};
use tracing::info;

use crate::{Error, ErrorKind};

/// Serves `/metrics` of a registry to a Prometheus, until it is dropped.
///
/// It takes one thread, and one more for each connection, of which there are at most 16 by default;
/// a connection serves one request. Everything that a peer can make it wait for, or keep, has a
/// limit.
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
    local_addr: SocketAddr,
    listener: Arc<Socket>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Serves the registry on the first of the addresses that can be bound, with default limits.
    ///
    /// Port 0 takes a free one, which [`local_addr`](Self::local_addr) tells. There is no
    /// authentication: bind an address of the loopback interface, unless everybody on the network
    /// may read the metrics.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Bind`] where none of the addresses can be bound.
    pub fn bind(address: impl ToSocketAddrs, registry: Registry) -> Result<Self, Error> {
        Self::builder(registry).bind(address)
    }

    /// The limits, to be set before an address is bound.
    #[must_use]
    pub fn builder(registry: Registry) -> MetricsServerBuilder {
        MetricsServerBuilder {
            registry,
            limits: Limits::default(),
        }
    }

    /// The address that is served, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

/// Ends every connection and frees the port before it returns.
impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // On Linux this wakes the thread; elsewhere one more connection does.
        drop(self.listener.shutdown(Shutdown::Both));
        drop(TcpStream::connect_timeout(
            &self.local_addr,
            Duration::from_millis(100),
        ));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl fmt::Debug for MetricsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsServer")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

/// What a peer can make the server wait for or keep.
#[derive(Clone, Copy, Debug)]
struct Limits {
    max_connections: usize,
    max_head_bytes: usize,
    request_timeout: Duration,
    response_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 16,
            max_head_bytes: 8 * 1024,
            request_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
        }
    }
}

/// What can be set before a [`MetricsServer`] binds its address.
#[derive(Clone)]
pub struct MetricsServerBuilder {
    registry: Registry,
    limits: Limits,
}

impl MetricsServerBuilder {
    /// How many connections there may be at a time; one more is answered with 503 and closed.
    ///
    /// Defaults to 16. Zero is refused.
    #[must_use]
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.limits.max_connections = max_connections;
        self
    }

    /// How long the head of a request may be; a longer one is answered with 431.
    ///
    /// Defaults to 8 KiB. Zero is refused.
    #[must_use]
    pub fn max_head_bytes(mut self, max_head_bytes: usize) -> Self {
        self.limits.max_head_bytes = max_head_bytes;
        self
    }

    /// How long the head of a request may take to arrive; a slower one is answered with 408.
    ///
    /// Defaults to 5 s. Zero is refused.
    #[must_use]
    pub fn request_timeout(mut self, request_timeout: Duration) -> Self {
        self.limits.request_timeout = request_timeout;
        self
    }

    /// How long the peer may take to read the answer; then the connection is closed.
    ///
    /// Defaults to 5 s. Zero is refused.
    #[must_use]
    pub fn response_timeout(mut self, response_timeout: Duration) -> Self {
        self.limits.response_timeout = response_timeout;
        self
    }

    /// Binds the first of the addresses that can be bound, and serves from now on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`] for a limit of zero, [`ErrorKind::Bind`] where none of the
    /// addresses can be bound.
    pub fn bind(self, address: impl ToSocketAddrs) -> Result<MetricsServer, Error> {
        let Self { registry, limits } = self;
        check(limits)?;
        let (listener, local_addr) = listen(address)?;
        let failed = |error| bind_error(&local_addr.to_string(), error);
        let listener = Arc::new(listener);
        let stopping = Arc::new(AtomicBool::new(false));
        let accepting = accept::Acceptor::new(
            Arc::clone(&listener),
            Arc::clone(&stopping),
            registry,
            limits,
        );
        let thread = thread::Builder::new()
            .name("metrics-server".to_owned())
            .spawn(move || accepting.run())
            .map_err(failed)?;
        info!(%local_addr, "metrics are served at http://{local_addr}/metrics");
        Ok(MetricsServer {
            local_addr,
            listener,
            stopping,
            thread: Some(thread),
        })
    }
}

impl fmt::Debug for MetricsServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsServerBuilder")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

fn check(limits: Limits) -> Result<(), Error> {
    let Limits {
        max_connections,
        max_head_bytes,
        request_timeout,
        response_timeout,
    } = limits;
    for (option, is_zero) in [
        ("max_connections", max_connections == 0),
        ("max_head_bytes", max_head_bytes == 0),
        ("request_timeout", request_timeout.is_zero()),
        ("response_timeout", response_timeout.is_zero()),
    ] {
        if is_zero {
            return Err(
                Error::new(ErrorKind::InvalidOption, format!("use the option {option}"))
                    .because("it is zero, so that nothing could ever be served"),
            );
        }
    }
    Ok(())
}

fn bind_error(address: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Bind, format!("serve metrics at {address}")).caused_by(error)
}

/// Listens on the first address that can be bound.
fn listen(address: impl ToSocketAddrs) -> Result<(Socket, SocketAddr), Error> {
    let addresses = address.to_socket_addrs().map_err(|error| {
        Error::new(ErrorKind::Bind, "serve metrics")
            .because("the address cannot be understood; write HOST:PORT, and a port up to 65535")
            .caused_by(error)
    })?;
    let mut failure = Error::new(ErrorKind::Bind, "serve metrics").because("there is no address");
    for address in addresses {
        match listen_on(address) {
            Ok(listening) => return Ok(listening),
            Err(error) => failure = bind_error(&address.to_string(), error),
        }
    }
    Err(failure)
}

fn listen_on(address: SocketAddr) -> std::io::Result<(Socket, SocketAddr)> {
    const BACKLOG: i32 = 64;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections that were served before must not keep the port from being used again.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let local_addr = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, local_addr))
}
