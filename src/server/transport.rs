//! A connection as bytes, never waited for.

#[cfg(feature = "server-tls")]
use std::sync::Arc;
use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::Socket;

#[cfg(feature = "server-tls")]
use super::tls::Tls;

/// What a connection reads from and writes to. A call that would have to wait fails with
/// [`WouldBlock`](io::ErrorKind::WouldBlock).
pub(super) trait Stream: Read + Write {
    /// Whether there is something to write before more can be read.
    fn wants_write(&self) -> bool {
        false
    }

    /// Nothing more is written; the peer is told so.
    fn finish(&mut self) -> io::Result<()>;

    /// What has been written, and is not read, is not kept for the peer when this is closed.
    fn abandon(&mut self) {}
}

/// A socket that does not block.
pub(super) struct Plain(Socket);

impl Plain {
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }
}

impl AsFd for Plain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, _) = recv(&self.0, buffer, RecvFlags::empty())?;
        Ok(read)
    }
}

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A peer that is gone must not end a program that has not switched SIGPIPE off.
        Ok(send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Plain {
    fn finish(&mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    fn abandon(&mut self) {
        // Otherwise the system keeps it for minutes, of every connection of one that never reads.
        drop(self.0.set_linger(Some(Duration::ZERO)));
    }
}

/// How connections are spoken over.
pub(super) enum Transport {
    Plain,
    #[cfg(feature = "server-tls")]
    Tls(Arc<rustls::ServerConfig>),
}

impl Transport {
    pub(super) fn open(&self, socket: Socket) -> io::Result<Wire> {
        let socket = Plain::new(socket)?;
        match self {
            Self::Plain => Ok(Wire::Plain(socket)),
            #[cfg(feature = "server-tls")]
            Self::Tls(config) => Ok(Wire::Tls(Box::new(Tls::new(config, socket)?))),
        }
    }
}

/// A connection of either kind.
pub(super) enum Wire {
    Plain(Plain),
    #[cfg(feature = "server-tls")]
    Tls(Box<Tls>),
}

impl Wire {
    fn stream(&mut self) -> &mut dyn Stream {
        match self {
            Self::Plain(stream) => stream,
            #[cfg(feature = "server-tls")]
            Self::Tls(stream) => &mut **stream,
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) => stream.as_fd(),
            #[cfg(feature = "server-tls")]
            Self::Tls(stream) => stream.as_fd(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream().read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream().flush()
    }
}

impl Stream for Wire {
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

    fn abandon(&mut self) {
        self.stream().abandon();
    }
}
