//! TLS on a connection, with a certificate from files.

use std::{
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

/// How much of an answer is encrypted ahead of what the peer takes.
const AHEAD: usize = 16 * 1024;

/// The files that say who this is, and whom to let in.
#[derive(Clone, Default)]
pub(super) struct TlsFiles {
    /// The certificate with those between it and its authority, and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) client_authority: Option<PathBuf>,
}

impl TlsFiles {
    /// Each of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Path> {
        let identity = self
            .identity
            .iter()
            .flat_map(|(certificate, key)| [certificate, key]);
        identity.chain(&self.client_authority).map(PathBuf::as_path)
    }

    /// Reads them; without a certificate there is no TLS.
    pub(super) fn read(&self) -> Result<Option<Arc<ServerConfig>>, Error> {
        let Self {
            identity,
            client_authority,
        } = self;
        let Some((certificate, key)) = identity else {
            return match client_authority {
                Some(_) => Err(Error::invalid_option("tls_client_authority").with_reason(
                    "there are client certificates with TLS only; set the option tls too",
                )),
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
                let unusable = || {
                    Error::invalid_option("tls_client_authority")
                        .with_reason(format!("{} cannot be used", path.display()))
                };
                let mut roots = RootCertStore::empty();
                for root in certificates("tls_client_authority", path)? {
                    roots
                        .add(root)
                        .map_err(|error| unusable().with_source(error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| unusable().with_source(error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates("tls", certificate)?;
        let secret =
            PrivateKeyDer::from_pem_file(key).map_err(|error| unread("tls", key, error))?;
        let mut config = builder.with_single_cert(chain, secret).map_err(|error| {
            Error::invalid_option("tls")
                .with_reason(format!(
                    "{} is not the key of {}",
                    key.display(),
                    certificate.display()
                ))
                .with_source(error)
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Nothing is kept of a connection, however many there are.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Some(Arc::new(config)))
    }
}

fn unread(option: &str, path: &Path, error: pem::Error) -> Error {
    Error::invalid_option(option)
        .with_reason(format!("{} cannot be read as PEM", path.display()))
        .with_source(error)
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unread(option, path, error))?;
    if certificates.is_empty() {
        let reason = format!("there is no certificate in {}", path.display());
        return Err(Error::invalid_option(option).with_reason(reason));
    }
    Ok(certificates)
}

/// A connection that is encrypted.
pub(super) struct TlsStream {
    session: ServerConnection,
    socket: PlainStream,
}

impl TlsStream {
    pub(super) fn new(config: &Arc<ServerConfig>, socket: PlainStream) -> io::Result<Self> {
        let mut session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(AHEAD));
        Ok(Self { session, socket })
    }

    /// Writes everything that is encrypted.
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
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It has closed without saying so first.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            // The peer may wait for this part of the handshake.
            self.send()?;
            self.session.read_tls(&mut self.socket)?;
            if let Err(error) = self.session.process_new_packets() {
                // It is told what is wrong, as far as that takes no waiting.
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
            // The peer could not read it.
            return Err(io::ErrorKind::NotConnected.into());
        }
        let written = self.session.writer().write(bytes)?;
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
        // Where there is no room for it, the end of the connection says the same.
        let _ = self.send();
        self.socket.finish()
    }

    fn abandon(&mut self) {
        self.socket.abandon();
    }
}
