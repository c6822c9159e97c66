//! TLS connections, with certificate and key from files.

use std::{
    fmt::Display,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use super::stream::{NonblockingStream, PlainStream};
use crate::error::Error;

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
        let identity = self
            .identity
            .iter()
            .flat_map(|(certificate, key)| [certificate, key]);
        identity.chain(&self.client_authority).map(PathBuf::as_path)
    }

    /// Builds the configuration from the files; `None` without a certificate.
    pub(super) fn read(&self) -> Result<Option<Arc<ServerConfig>>, Error> {
        let Self {
            identity,
            client_authority,
        } = self;
        let Some((certificate, key)) = identity else {
            return match client_authority {
                Some(_) => Err(Error::invalid_option("tls_client_authority")
                    .with_reason("client certificates need TLS; set the option tls too")),
                None => Ok(None),
            };
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::invalid_option("tls").with_source(error))?;
        let builder = match client_authority {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let unusable = |error: &dyn Display| {
                    let name = path.display();
                    Error::invalid_option("tls_client_authority").with_reason(format!(
                        "{name} is not a usable certificate authority: {error}"
                    ))
                };
                let mut roots = RootCertStore::empty();
                for root in certificates("tls_client_authority", path)? {
                    roots
                        .add(root)
                        .map_err(|error| unusable(&error).with_source(error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| unusable(&error).with_source(error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates("tls", certificate)?;
        let secret =
            PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable_pem("tls", key, error))?;
        let mut config = builder.with_single_cert(chain, secret).map_err(|error| {
            Error::invalid_option("tls")
                .with_reason(format!(
                    "{} does not match certificate {}: {error}",
                    key.display(),
                    certificate.display()
                ))
                .with_source(error)
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // No session state, so that memory does not grow with the number of connections.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Some(Arc::new(config)))
    }
}

/// Names the file in the error, and distinguishes an unreadable file from an invalid one.
///
/// The text of a PEM error is left to the source, since it shows lines as lists of bytes.
fn unreadable_pem(option: &str, path: &Path, error: pem::Error) -> Error {
    let name = path.display();
    let reason = match &error {
        pem::Error::Io(error) => format!("cannot read {name}: {error}"),
        pem::Error::NoItemsFound => format!("{name} has no private key"),
        _ => format!("{name} is not valid PEM"),
    };
    Error::invalid_option(option)
        .with_reason(reason)
        .with_source(error)
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable_pem(option, path, error))?;
    if certificates.is_empty() {
        let reason = format!("{} has no certificate", path.display());
        return Err(Error::invalid_option(option).with_reason(reason));
    }
    Ok(certificates)
}

/// A nonblocking TLS stream.
pub(super) struct TlsStream {
    session: ServerConnection,
    socket: PlainStream,
}

impl TlsStream {
    pub(super) fn new(config: &Arc<ServerConfig>, socket: PlainStream) -> io::Result<Self> {
        let mut session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        Ok(Self { session, socket })
    }

    /// Writes the encrypted bytes that wait, as far as the socket takes them.
    fn send(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            if self.session.write_tls(&mut self.socket)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

impl AsFd for TlsStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Each round feeds ciphertext to the session until it yields plaintext.
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The peer closed without `close_notify`; HTTP shows whether its request was complete.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            // The peer may wait for our part of the handshake before it sends its own.
            self.send()?;
            self.session.read_tls(&mut self.socket)?;
            if let Err(error) = self.session.process_new_packets() {
                // Best effort: the alert shows the peer the reason.
                let _ = self.send();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send()?;
        if self.session.is_handshaking() {
            // Early plaintext could not be decrypted by the peer.
            return Err(io::ErrorKind::NotConnected.into());
        }
        let written = self.session.writer().write(bytes)?;
        // The session has taken the bytes, so a full socket is no reason to report an error.
        match self.send() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

impl NonblockingStream for TlsStream {
    fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.session.send_close_notify();
        // Best effort: without room for it, the end of the connection serves the same purpose.
        let _ = self.send();
        self.socket.finish()
    }

    fn reset_on_close(&mut self) {
        self.socket.reset_on_close();
    }
}
