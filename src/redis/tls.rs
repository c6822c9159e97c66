//! TLS to Redis, with the certificates that the system trusts.

use std::{io, sync::Arc};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};

use crate::timed::TimedSocket;

pub(super) type Stream = StreamOwned<ClientConnection, TimedSocket>;

/// Starts TLS on a socket. The handshake is made by the first exchange, within its deadline.
pub(super) fn connect(socket: TimedSocket, host: &str) -> io::Result<Stream> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the system has no certificates to trust; SSL_CERT_FILE can name a file with some",
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(session, socket))
}
