//! Opens connections with or without TLS.

#[cfg(feature = "server-tls")]
use std::sync::Arc;
use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
};

use socket2::Socket;

use super::stream::{NonblockingStream, PlainStream};
#[cfg(feature = "server-tls")]
use super::tls::TlsStream;

/// The protocol below HTTP, the same for every connection.
pub(super) enum Transport {
    Plain,
    #[cfg(feature = "server-tls")]
    Tls(Arc<rustls::ServerConfig>),
}

impl Transport {
    pub(super) fn open(&self, socket: Socket) -> io::Result<ServerStream> {
        let socket = PlainStream::new(socket)?;
        match self {
            Self::Plain => Ok(ServerStream::Plain(socket)),
            #[cfg(feature = "server-tls")]
            Self::Tls(config) => Ok(ServerStream::Tls(Box::new(TlsStream::new(config, socket)?))),
        }
    }
}

/// A stream with or without TLS.
pub(super) enum ServerStream {
    Plain(PlainStream),
    #[cfg(feature = "server-tls")]
    Tls(Box<TlsStream>),
}

impl ServerStream {
    fn stream(&mut self) -> &mut dyn NonblockingStream {
        match self {
            Self::Plain(stream) => stream,
            #[cfg(feature = "server-tls")]
            Self::Tls(stream) => &mut **stream,
        }
    }
}

impl AsFd for ServerStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) => stream.as_fd(),
            #[cfg(feature = "server-tls")]
            Self::Tls(stream) => stream.as_fd(),
        }
    }
}

impl Read for ServerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream().read(buffer)
    }
}

impl Write for ServerStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream().flush()
    }
}

impl NonblockingStream for ServerStream {
    fn wants_write(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.wants_write(),
            #[cfg(feature = "server-tls")]
            Self::Tls(stream) => stream.wants_write(),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.stream().finish()
    }

    fn reset_on_close(&mut self) {
        self.stream().reset_on_close();
    }
}
