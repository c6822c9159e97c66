//! [`MetricsServerBuilder`]: the options of the endpoint.

use std::{
    fmt,
    net::ToSocketAddrs,
    path::{Path, PathBuf},
    time::Duration,
};

use prometheus::Registry;

use super::{
    connection::Limits,
    credentials::{CredentialSources, Credentials, Scheme, Secret},
    listener::Listener,
    metrics_server::MetricsServer,
};
use crate::error::Error;

impl MetricsServer {
    /// Serves the registry on the first of the addresses that can be bound, with default options.
    ///
    /// Port 0 picks a free port, which [`local_addr`](Self::local_addr) returns.
    ///
    /// No request needs a credential. Bind a loopback address, or require a token through the
    /// [`builder`](Self::builder), unless everybody on the network may read the metrics.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Bind`](crate::ErrorKind::Bind) if no address can be bound; the reason is that of the last one.
    pub fn bind(address: impl ToSocketAddrs, registry: Registry) -> Result<Self, Error> {
        Self::builder(registry).bind(address)
    }

    /// Returns a builder with default options for a server of this registry.
    #[must_use]
    pub fn builder(registry: Registry) -> MetricsServerBuilder {
        MetricsServerBuilder {
            registry,
            limits: Limits {
                max_connections: 16,
                max_head_bytes: 8 * 1024,
                request_timeout: Duration::from_secs(5),
                response_timeout: Duration::from_secs(5),
            },
            sources: CredentialSources::default(),
        }
    }
}

/// Options of a [`MetricsServer`], set before it binds its address.
///
/// # Credentials
///
/// Without a token or password the server answers every request. With one or more of the four credentials, a request
/// needs any one of them, for every path. They may be combined, and each method may be called again to add another.
/// Without TLS they cross the network in clear.
///
/// # Files
///
/// Tokens, passwords, certificates and keys in files are read when the address is bound, and again after a change: the
/// server compares the contents when a connection arrives, at most once per second. It takes all files or none. If one
/// of them is unusable, it keeps the previous contents and logs a warning. If one of them is not a regular file when the
/// address is bound, such as a pipe, none of them is reloaded.
///
/// # Errors
///
/// The setters accept every value. [`bind`](Self::bind) and [`bind_unix`](Self::bind_unix) return an error of the kind
/// [`InvalidOption`](crate::ErrorKind::InvalidOption) that names the option and, if there is one, the file.
///
/// ```
/// use paho_mqtt_redis::{MetricsServer, prometheus::Registry};
///
/// let server = MetricsServer::builder(Registry::new())
///     .bearer_token("a long random text")
///     .max_connections(4)
///     .bind("[::1]:0");
/// assert!(server.is_err(), "a token has no spaces");
/// ```
#[derive(Clone)]
pub struct MetricsServerBuilder {
    registry: Registry,
    limits: Limits,
    sources: CredentialSources,
}

impl MetricsServerBuilder {
    /// Limits the connections at a time. Defaults to 16; `bind` rejects zero.
    ///
    /// One more evicts a connection that has its response, has not sent its request, or does not read. If every
    /// connection is being served, the new one gets a 503.
    #[must_use]
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.limits.max_connections = max_connections;
        self
    }

    /// Limits the bytes in the head of a request, else 431. Defaults to 8 KiB; `bind` rejects zero.
    #[must_use]
    pub fn max_head_bytes(mut self, max_head_bytes: usize) -> Self {
        self.limits.max_head_bytes = max_head_bytes;
        self
    }

    /// Limits the time that the head of a request may take, else 408. Defaults to 5 s; `bind` rejects zero.
    #[must_use]
    pub fn request_timeout(mut self, request_timeout: Duration) -> Self {
        self.limits.request_timeout = request_timeout;
        self
    }

    /// Limits the time for collecting the registry, else 503, and again the time that the peer may take to read the
    /// response, else it is disconnected. Defaults to 5 s; `bind` rejects zero.
    #[must_use]
    pub fn response_timeout(mut self, response_timeout: Duration) -> Self {
        self.limits.response_timeout = response_timeout;
        self
    }

    /// Adds a token that a request may bring, as `Authorization: Bearer TOKEN`.
    ///
    /// Defaults to none. `bind` rejects an empty token and one with spaces or other characters than printable ASCII.
    #[must_use]
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        let secret = (Scheme::Bearer, Secret::Text(token.into()));
        self.sources.secrets.push(secret);
        self
    }

    /// Adds a token as [`bearer_token`](Self::bearer_token) does, from a file. Line ends behind it are ignored.
    ///
    /// Defaults to none. `bind` rejects a file that it cannot read, and one without a valid token.
    #[must_use]
    pub fn bearer_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        let secret = (Scheme::Bearer, Secret::File(path.into()));
        self.sources.secrets.push(secret);
        self
    }

    /// Adds a user and password that a request may bring. Browsers prompt for them.
    ///
    /// Defaults to none. `bind` rejects an empty user or password, control characters, and a user with a colon.
    #[must_use]
    pub fn basic_auth(mut self, user: &str, password: &str) -> Self {
        // A colon in the user would move the border to the password, so such a pair is made invalid.
        let user = if user.contains(':') { "" } else { user };
        let secret = Secret::Text(format!("{user}:{password}"));
        self.sources.secrets.push((Scheme::Basic, secret));
        self
    }

    /// Adds a user and password as [`basic_auth`](Self::basic_auth) does, from a file with `USER:PASSWORD`.
    ///
    /// Defaults to none. `bind` rejects a file that it cannot read, and one without a valid pair.
    #[must_use]
    pub fn basic_auth_file(mut self, path: impl Into<PathBuf>) -> Self {
        let secret = (Scheme::Basic, Secret::File(path.into()));
        self.sources.secrets.push(secret);
        self
    }

    /// Serves over TLS 1.2 or 1.3 only, with this certificate and its key, both PEM files.
    ///
    /// Intermediate certificates follow the server's own in its file. Defaults to none: plain HTTP. `bind` rejects a
    /// file that it cannot read, and a key of another certificate.
    #[cfg(feature = "server-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "server-tls")))]
    #[must_use]
    pub fn tls(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        let [certificate, key] = [certificate.as_ref(), key.as_ref()].map(Path::to_owned);
        self.sources.tls.identity = Some((certificate, key));
        self
    }

    /// Requires a client certificate of one of the authorities in this PEM file.
    ///
    /// Defaults to none: clients need no certificate. `bind` rejects it without [`tls`](Self::tls), and a file that it
    /// cannot read, that has no certificate, or that has an invalid one.
    #[cfg(feature = "server-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "server-tls")))]
    #[must_use]
    pub fn tls_client_authority(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.tls.client_authority = Some(path.into());
        self
    }

    /// Binds the first of the addresses that can be bound, and starts to serve.
    ///
    /// Port 0 picks a free port, which [`MetricsServer::local_addr`] returns.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for a limit of zero, an invalid credential or
    /// certificate, and a file that cannot be read; [`ErrorKind::Bind`](crate::ErrorKind::Bind) if no address can be
    /// bound, or if the process has no file descriptor or thread left.
    pub fn bind(self, address: impl ToSocketAddrs) -> Result<MetricsServer, Error> {
        self.start(|| Listener::bind(address))
    }

    /// Binds a Unix socket with these permissions, such as `0o660`, and starts to serve.
    ///
    /// Replaces a socket on which no program listens. The server removes its socket when it is dropped.
    ///
    /// # Errors
    ///
    /// The same as [`bind`](Self::bind); [`ErrorKind::Bind`](crate::ErrorKind::Bind) also if a program listens on the
    /// socket, or if the path is not a socket.
    pub fn bind_unix(self, path: impl AsRef<Path>, mode: u32) -> Result<MetricsServer, Error> {
        self.start(|| Listener::bind_unix(path.as_ref(), mode))
    }

    fn start(self, bind: impl FnOnce() -> Result<Listener, Error>) -> Result<MetricsServer, Error> {
        let limits = self.limits;
        for (option, is_zero) in [
            ("max_connections", limits.max_connections == 0),
            ("max_head_bytes", limits.max_head_bytes == 0),
            ("request_timeout", limits.request_timeout.is_zero()),
            ("response_timeout", limits.response_timeout.is_zero()),
        ] {
            if is_zero {
                return Err(
                    Error::invalid_option(option).with_reason("zero would refuse every request")
                );
            }
        }
        let credentials = Credentials::read(self.sources)?;
        MetricsServer::start(bind()?, self.registry, limits, credentials)
    }
}

impl fmt::Debug for MetricsServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsServerBuilder")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
