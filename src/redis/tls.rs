//! TLS to Redis, with the certificates that the system trusts.

use std::{error::Error as StdError, io, sync::Arc};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};

use super::exchange_error::ExchangeError;
use crate::{error::ErrorKind, net::DeadlineStream};

pub(super) type TlsClientStream = StreamOwned<ClientConnection, DeadlineStream>;

/// Makes the handshake on a socket.
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
                io::ErrorKind::InvalidData => ExchangeError::Unusable(ErrorKind::Tls, error.into()),
                _ => ExchangeError::from(error),
            })?;
    }
    Ok(StreamOwned::new(session, socket))
}

fn session(host: &str) -> Result<ClientConnection, Box<dyn StdError + Send + Sync>> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = found.errors.first().map(ToString::to_string);
        let reason = reason.unwrap_or_else(|| "none is installed".to_owned());
        return Err(format!("the system has no certificates to trust: {reason}").into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())?;
    Ok(ClientConnection::new(Arc::new(config), name)?)
}
