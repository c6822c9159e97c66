//! TLS to Redis, with the certificates that the system trusts, or with those of a file.

use std::{error::Error as StdError, io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use super::exchange_error::ExchangeError;
use crate::{error::ErrorKind, net::DeadlineStream};

pub(super) type TlsClientStream = StreamOwned<ClientConnection, DeadlineStream>;

/// Makes the TLS handshake on a connected socket, within the socket's deadline.
pub(super) fn handshake(
    mut socket: DeadlineStream,
    host: &str,
    ca_file: Option<&Path>,
) -> Result<TlsClientStream, ExchangeError> {
    let mut session =
        session(host, ca_file).map_err(|error| ExchangeError::Unusable(ErrorKind::Tls, error))?;
    while session.is_handshaking() {
        session
            .complete_io(&mut socket)
            .map_err(|error| match error.kind() {
                // rustls reports its own errors, such as an untrusted issuer, with this kind.
                io::ErrorKind::InvalidData => ExchangeError::Unusable(ErrorKind::Tls, error.into()),
                _ => ExchangeError::from(error),
            })?;
    }
    Ok(StreamOwned::new(session, socket))
}

type BoxedError = Box<dyn StdError + Send + Sync>;

/// Prepares a client session that trusts the issuers in the file, or those of the system.
fn session(host: &str, ca_file: Option<&Path>) -> Result<ClientConnection, BoxedError> {
    let roots = match ca_file {
        Some(path) => file_roots(path)
            .map_err(|error| format!("cannot use the ca_file {}: {error}", path.display()))?,
        None => system_roots()?,
    };
    // The provider is named, so that one that the application installs process-wide is not needed.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())?;
    Ok(ClientConnection::new(Arc::new(config), name)?)
}

/// Reads the authorities in a PEM file.
fn file_roots(path: &Path) -> Result<RootCertStore, BoxedError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path)? {
        roots.add(certificate?)?;
    }
    if roots.is_empty() {
        return Err("it has no certificate".into());
    }
    Ok(roots)
}

/// Loads the authorities of the system, or of `SSL_CERT_FILE`.
fn system_roots() -> Result<RootCertStore, BoxedError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let reason = loaded.errors.first().map(ToString::to_string);
        let reason = reason.unwrap_or_else(|| "none is installed".to_owned());
        return Err(format!("no trusted certificates found: {reason}").into());
    }
    Ok(roots)
}
