//! [`MetricsServerBuilder`]: the options of the endpoint.

use std::{
    fmt,
    net::ToSocketAddrs,
    path::{Path, PathBuf},
    time::Duration,
};

use prometheus::Registry;

use super::{
    auth::SecretSource,
    config::{Config, Limits},
    credentials::{CredentialSources, Credentials},
    listener::Listener,
    metrics_server::{ListenAddress, MetricsServer},
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
        MetricsServerBuilder::new(registry)
    }
}

/// Options of a [`MetricsServer`], set before it binds its address.
///
/// | option | unit | default | sets |
/// |---|---|---|---|
/// | [`max_connections`](Self::max_connections) | connections | 16 | connections at a time |
/// | [`max_head_bytes`](Self::max_head_bytes) | bytes | 8 KiB | length of a request head, else 431 |
/// | [`request_timeout`](Self::request_timeout) | duration | 5 s | time for the head to arrive, else 408 |
/// | [`response_timeout`](Self::response_timeout) | duration | 5 s | time to collect, else 503, and to read the response |
/// | [`bearer_token`](Self::bearer_token) | | none | a token that authorizes a request |
/// | [`bearer_token_file`](Self::bearer_token_file) | | none | the same from a file |
/// | [`basic_auth`](Self::basic_auth) | | none | a user and password that authorize a request |
/// | [`basic_auth_file`](Self::basic_auth_file) | | none | the same from a file, as `USER:PASSWORD` |
/// | `tls` | | none | certificate and key (feature `server-tls`) |
/// | `tls_client_authority` | | none | authority of the client certificates (feature `server-tls`) |
///
/// # Credentials
///
/// Without a token or password the server answers every request. With one or more of the four credentials, a request
/// needs any one of them, for every path. They may be combined, and each method may be called again to add another.
/// Without TLS they cross the network in clear.
///
/// # Files
///
/// Tokens, passwords, certificates and keys in files are read when the address is bound. They are reloaded after a change:
/// the server checks the files when a connection arrives, at most once per second. It takes all files or none. If one
/// of them is unusable, it keeps the previous contents, logs a warning, and tries again. If one of them is not a regular
/// file when the address is bound, such as a pipe, none of them is reloaded.
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
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            registry,
            limits: Limits::default(),
            sources: CredentialSources::default(),
        }
    }

    /// Limits the connections at a time.
    ///
    /// One more evicts a connection that has its response, has not sent its request, or does not read. If every
    /// connection is being served, the new one gets a 503.
    ///
    /// Defaults to 16. `bind` rejects zero.
    #[must_use]
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.limits.max_connections = max_connections;
        self
    }

    /// Limits the head of a request, in bytes. A longer one gets a 431.
    ///
    /// Defaults to 8 KiB. `bind` rejects zero.
    #[must_use]
    pub fn max_head_bytes(mut self, max_head_bytes: usize) -> Self {
        self.limits.max_head_bytes = max_head_bytes;
        self
    }

    /// Limits the time that the head of a request may take to arrive. A slower one gets a 408.
    ///
    /// Defaults to 5 s. `bind` rejects zero.
    #[must_use]
    pub fn request_timeout(mut self, request_timeout: Duration) -> Self {
        self.limits.request_timeout = request_timeout;
        self
    }

    /// Limits the time for collecting the registry, and again the time that the peer may take to read the response.
    ///
    /// A request whose collection takes longer gets a 503. A peer that reads more slowly is disconnected.
    ///
    /// Defaults to 5 s. `bind` rejects zero.
    #[must_use]
    pub fn response_timeout(mut self, response_timeout: Duration) -> Self {
        self.limits.response_timeout = response_timeout;
        self
    }

    /// Adds a token that a request may bring, as `Authorization: Bearer TOKEN`.
    ///
    /// If several credentials are set, any one of them is enough.
    ///
    /// Defaults to none. `bind` rejects an empty token and one with spaces or other characters than printable ASCII.
    #[must_use]
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.sources.secrets.push(SecretSource::Token(token.into()));
        self
    }

    /// Adds a token as [`bearer_token`](Self::bearer_token) does, from a file. Line ends behind it are ignored.
    ///
    /// A changed file is reloaded; connections that arrive a second later need the new token.
    ///
    /// Defaults to none. `bind` rejects a file that it cannot read, and one without a valid token.
    #[must_use]
    pub fn bearer_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources
            .secrets
            .push(SecretSource::TokenFile(path.into()));
        self
    }

    /// Adds a user and password that a request may bring. Browsers prompt for them.
    ///
    /// If several credentials are set, any one of them is enough.
    ///
    /// Defaults to none. `bind` rejects an empty user or password, control characters, and a user with a colon.
    #[must_use]
    pub fn basic_auth(mut self, user: &str, password: &str) -> Self {
        // A colon in the user would move the border to the password, so such a pair is made invalid.
        let pair = if user.contains(':') {
            String::new()
        } else {
            format!("{user}:{password}")
        };
        self.sources.secrets.push(SecretSource::Basic(pair));
        self
    }

    /// Adds a user and password as [`basic_auth`](Self::basic_auth) does, from a file with `USER:PASSWORD`.
    ///
    /// A changed file is reloaded, as for [`bearer_token_file`](Self::bearer_token_file).
    ///
    /// Defaults to none. `bind` rejects a file that it cannot read, and one without a valid pair.
    #[must_use]
    pub fn basic_auth_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources
            .secrets
            .push(SecretSource::BasicFile(path.into()));
        self
    }

    /// Serves over TLS 1.2 or 1.3 only, with this certificate and its key, both PEM files.
    ///
    /// Intermediate certificates follow the server's own in its file. Changed files are reloaded, so a renewed
    /// certificate needs no restart.
    ///
    /// Defaults to none: plain HTTP. `bind` rejects a file that it cannot read, and a key of another certificate.
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
    /// A changed file is reloaded.
    ///
    /// Defaults to none: clients need no certificate. `bind` rejects it without [`tls`](Self::tls), and a file that it
    /// cannot read or that has no certificate.
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
        let (registry, config) = self.check()?;
        let (listener, address) = Listener::bind(address)?;
        MetricsServer::start(listener, ListenAddress::Address(address), registry, config)
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
        let (registry, config) = self.check()?;
        let path = path.as_ref();
        let listener = Listener::bind_unix(path, mode)?;
        MetricsServer::start(
            listener,
            ListenAddress::Path(path.to_owned()),
            registry,
            config,
        )
    }

    fn check(self) -> Result<(Registry, Config), Error> {
        let Self {
            registry,
            limits,
            sources,
        } = self;
        limits.check()?;
        let credentials = Credentials::read(sources)?;
        Ok((
            registry,
            Config {
                limits,
                credentials,
            },
        ))
    }
}

impl fmt::Debug for MetricsServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsServerBuilder")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
