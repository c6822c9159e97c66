//! TLS to Redis, with the certificates that the system trusts, or with those of a file, and with a
//! certificate of the client if Redis wants one.

use std::{
    error::Error as StdError,
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject},
};

use super::exchange_error::ExchangeError;
use crate::{error::ErrorKind, net::DeadlineStream};

pub(super) type TlsClientStream = StreamOwned<ClientConnection, DeadlineStream>;

/// The files of TLS, which are read for each connection.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsFiles {
    /// The only authorities that are trusted, in place of those of the system.
    pub(super) ca: Option<PathBuf>,
    /// The certificate of the client, with those between it and an authority of Redis.
    pub(super) certificate: Option<PathBuf>,
    /// The private key of that certificate.
    pub(super) key: Option<PathBuf>,
}

impl TlsFiles {
    /// Returns the name of an option that cannot work, with the reason.
    pub(super) fn validate(&self, url_has_tls: bool) -> Result<(), (&'static str, &'static str)> {
        for (option, file) in [
            ("ca_file", &self.ca),
            ("client_certificate_file", &self.certificate),
            ("client_key_file", &self.key),
        ] {
            if file.is_some() && !url_has_tls {
                let reason = "the URL is one without TLS; use rediss://, or leave it out";
                return Err((option, reason));
            }
        }
        match (&self.certificate, &self.key) {
            (Some(_), None) => Err((
                "client_certificate_file",
                "its private key is missing; set client_key_file too",
            )),
            (None, Some(_)) => Err((
                "client_key_file",
                "its certificate is missing; set client_certificate_file too",
            )),
            _ => Ok(()),
        }
    }
}

/// Makes the TLS handshake on a connected socket, within the socket's deadline.
pub(super) fn handshake(
    mut socket: DeadlineStream,
    host: &str,
    files: &TlsFiles,
) -> Result<TlsClientStream, ExchangeError> {
    let mut session =
        session(host, files).map_err(|error| ExchangeError::Unusable(ErrorKind::Tls, error))?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

type BoxedError = Box<dyn StdError + Send + Sync>;

/// Prepares a client session that trusts the issuers in the file, or those of the system.
fn session(host: &str, files: &TlsFiles) -> Result<ClientConnection, BoxedError> {
    let roots = match &files.ca {
        Some(path) => file_roots(path).map_err(|error| unusable("ca_file", path, &error))?,
        None => system_roots()?,
    };
    // The provider is named, so that one that the application installs process-wide is not needed.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)
                .map_err(|error| unusable("client_certificate_file", certificate, &error))?;
            let unusable_key = |error: &dyn Display| unusable("client_key_file", key, error);
            let private = private_key(key).map_err(|error| unusable_key(&error))?;
            config
                .with_client_auth_cert(chain, private)
                .map_err(|error| unusable_key(&error))?
        }
        _ => config.with_no_client_auth(),
    };
    let name = ServerName::try_from(host.to_owned())?;
    Ok(ClientConnection::new(Arc::new(config), name)?)
}

fn unusable(option: &str, path: &Path, error: &dyn Display) -> BoxedError {
    format!("cannot use the {option} {}: {error}", path.display()).into()
}

/// Reads the authorities in a PEM file.
fn file_roots(path: &Path) -> Result<RootCertStore, BoxedError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// Reads the certificates in a PEM file, of which there is at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BoxedError> {
    let certificates = CertificateDer::pem_file_iter(path)?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() {
        return Err("it has no certificate".into());
    }
    Ok(certificates)
}

/// Reads the first private key in a PEM file.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, BoxedError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::NoItemsFound => "it has no private key that is not encrypted".into(),
        error => error.into(),
    })
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
