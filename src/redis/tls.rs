//! TLS to Redis, with the certificates that the system trusts.

use std::{error::Error as StdError, io, sync::Arc};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};

use super::exchange_error::ExchangeError;
use crate::{error::ErrorKind, net::DeadlineStream};

pub(super) type TlsClientStream = StreamOwned<ClientConnection, DeadlineStream>;

/// Makes the TLS handshake on a connected socket, within the socket's deadline.
pub(super) fn handshake(
    mut socket: DeadlineStream,
    host: &str,
) -> Result<TlsClientStream, ExchangeError> {
    let mut session =
        session(host).map_err(|error| ExchangeError::Unusable(ErrorKind::Tls, error))?;
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

/// Prepares a client session that trusts the issuers of the system, or of `SSL_CERT_FILE`.
fn session(host: &str) -> Result<ClientConnection, Box<dyn StdError + Send + Sync>> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let reason = loaded.errors.first().map(ToString::to_string);
        let reason = reason.unwrap_or_else(|| "none is installed".to_owned());
        return Err(format!("no trusted certificates found: {reason}").into());
    }
    // The provider is named, so that one that the application installs process-wide is not needed.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())?;
    Ok(ClientConnection::new(Arc::new(config), name)?)
}
