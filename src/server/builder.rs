//! What can be set before a [`MetricsServer`] binds its address.

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
}

/// What can be set before a [`MetricsServer`] binds its address.
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

    /// How many connections have a place at a time. For one more another loses its place, unless all
    /// of them are being served: then it is answered with 503.
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

    /// How long reading the registry may take, which is answered with 503 then, and how long the peer
    /// may take to read the answer, before the connection is closed.
    ///
    /// Defaults to 5 s. Zero is refused.
    #[must_use]
    pub fn response_timeout(mut self, response_timeout: Duration) -> Self {
        self.limits.response_timeout = response_timeout;
        self
    }

    /// The token that every request has to bring, in a header `Authorization: Bearer TOKEN`.
    ///
    /// Nothing is served without it. Where several of these four options are used, a request has to
    /// bring what one of them says. Without TLS whoever can listen on the network can read it.
    ///
    /// Defaults to none. An empty one, or one with a space, is refused.
    #[must_use]
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.sources.secrets.push(SecretSource::Token(token.into()));
        self
    }

    /// The same from a file, without an end of line. It is read when the address is bound and, while the
    /// server runs, again when it has changed: a token that can be used counts from the next connection on
    /// that comes a second later.
    ///
    /// Defaults to none.
    #[must_use]
    pub fn bearer_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources
            .secrets
            .push(SecretSource::TokenFile(path.into()));
        self
    }

    /// The user and password that every request has to bring, as browsers ask for them.
    ///
    /// Defaults to none. An empty one, and a user with a colon, is refused.
    #[must_use]
    pub fn basic_auth(mut self, user: &str, password: &str) -> Self {
        let pair = if user.contains(':') {
            String::new()
        } else {
            format!("{user}:{password}")
        };
        self.sources.secrets.push(SecretSource::Basic(pair));
        self
    }

    /// The same from a file, as `USER:PASSWORD`, which is read when the address is bound, and again when
    /// it has changed.
    ///
    /// Defaults to none.
    #[must_use]
    pub fn basic_auth_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources
            .secrets
            .push(SecretSource::BasicFile(path.into()));
        self
    }

    /// The certificate of this server, with those between it and its authority, and its key, both in
    /// PEM. They are read when the address is bound and, while the server runs, again when one of them has
    /// changed, so that a renewed certificate takes no restart. Only TLS is spoken then, 1.2 or 1.3.
    ///
    /// Defaults to none.
    #[cfg(feature = "server-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "server-tls")))]
    #[must_use]
    pub fn tls(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        let [certificate, key] = [certificate.as_ref(), key.as_ref()].map(Path::to_owned);
        self.sources.tls.identity = Some((certificate, key));
        self
    }

    /// The authorities, in PEM, of which every client has to have a certificate. It takes TLS, and is read
    /// when that is.
    ///
    /// Defaults to none: clients need no certificate.
    #[cfg(feature = "server-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "server-tls")))]
    #[must_use]
    pub fn tls_client_authority(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.tls.client_authority = Some(path.into());
        self
    }

    /// Binds the first of the addresses that can be bound, and serves from now on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for a limit of zero, for a secret or certificate that cannot be used,
    /// and for a file that cannot be read; [`ErrorKind::Bind`](crate::ErrorKind::Bind) where none of the addresses can be bound.
    pub fn bind(self, address: impl ToSocketAddrs) -> Result<MetricsServer, Error> {
        let (registry, config) = self.check()?;
        let (listener, address) = Listener::bind(address)?;
        MetricsServer::start(listener, ListenAddress::Address(address), registry, config)
    }

    /// The same on a Unix socket with these permissions, such as `0o660`.
    ///
    /// A socket that is there and on which nobody listens is replaced; the server removes its own when
    /// it is dropped.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind); [`ErrorKind::Bind`](crate::ErrorKind::Bind) also where somebody listens there, or where there is
    /// something that is not a socket.
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
