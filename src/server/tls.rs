//! TLS connections, with certificate and key from files.

use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use super::{files::Files, stream::Stream};
use crate::{error::Error, net::DeadlineStream};

/// Encrypted bytes that may wait for the peer. It bounds the memory of a connection that does not read.
const TLS_BUFFER_BYTES: usize = 16 * 1024;

/// The PEM files of the server's identity and of the authority of its clients.
#[derive(Clone, Default)]
pub(super) struct TlsFiles {
    /// The certificate chain and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) client_authority: Option<PathBuf>,
}

impl TlsFiles {
    /// Iterates over the paths of all files.
    pub(super) fn all(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter();
        let identity = identity.flat_map(|(certificate, key)| [certificate, key]);
        identity.chain(&self.client_authority).map(PathBuf::as_path)
    }

    /// Builds the configuration from the files; `None` without a certificate.
    pub(super) fn parse(&self, files: &Files) -> Result<Option<Arc<ServerConfig>>, Error> {
        let Some((certificate, key)) = &self.identity else {
            return match self.client_authority {
                Some(_) => Err(invalid(
                    AUTHORITY,
                    "client certificates need TLS; set the option tls too",
                )),
                None => Ok(None),
            };
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::invalid_option(TLS).with_source(error))?;
        let builder = if let Some(path) = &self.client_authority {
            let mut roots = RootCertStore::empty();
            for authority in certificates(AUTHORITY, path, files)? {
                roots.add(authority).map_err(|error| {
                    let reason = format!("{} has an invalid authority: {error}", path.display());
                    invalid(AUTHORITY, reason).with_source(error)
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = verifier.build().map_err(|error| {
                let reason = format!("{} has no usable authority: {error}", path.display());
                invalid(AUTHORITY, reason).with_source(error)
            })?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let chain = certificates(TLS, certificate, files)?;
        let secret = PrivateKeyDer::from_pem_slice(files.get(TLS, key)?)
            .map_err(|error| invalid_pem(TLS, key, error))?;
        let mut config = builder.with_single_cert(chain, secret).map_err(|error| {
            let (key, certificate) = (key.display(), certificate.display());
            let reason = format!("{key} does not match certificate {certificate}: {error}");
            invalid(TLS, reason).with_source(error)
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // No session state, so that memory does not grow with the number of connections.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Some(Arc::new(config)))
    }
}

const TLS: &str = "tls";
const AUTHORITY: &str = "tls_client_authority";

fn invalid(option: &str, reason: impl Into<Cow<'static, str>>) -> Error {
    Error::invalid_option(option).with_reason(reason)
}

/// The text of a PEM error is left to the source, since it shows lines as lists of bytes.
fn invalid_pem(option: &str, path: &Path, error: pem::Error) -> Error {
    let name = path.display();
    let reason = match &error {
        pem::Error::NoItemsFound => format!("{name} has no private key"),
        _ => format!("{name} is not valid PEM"),
    };
    invalid(option, reason).with_source(error)
}

fn certificates(
    option: &str,
    path: &Path,
    files: &Files,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_slice_iter(files.get(option, path)?);
    let certificates: Vec<_> = certificates
        .collect::<Result<_, _>>()
        .map_err(|error| invalid_pem(option, path, error))?;
    if certificates.is_empty() {
        return Err(invalid(
            option,
            format!("{} has no certificate", path.display()),
        ));
    }
    Ok(certificates)
}

type TlsStream = StreamOwned<ServerConnection, DeadlineStream>;

/// Makes the handshake, within the deadline of the socket.
pub(super) fn open(
    config: &Arc<ServerConfig>,
    socket: DeadlineStream,
) -> io::Result<Box<dyn Stream>> {
    let session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, socket);
    stream.conn.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Box::new(stream))
}

impl Stream for TlsStream {
    fn socket(&mut self) -> &mut DeadlineStream {
        &mut self.sock
    }

    fn finish(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        // Best effort: without room for it, the end of the connection serves the same purpose.
        let _ = self.conn.complete_io(&mut self.sock);
        self.sock.finish()
    }
}
