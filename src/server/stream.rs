//! Nonblocking byte streams: the trait, and the one without TLS.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::Socket;

/// A byte stream whose calls never wait; they fail with [`WouldBlock`](io::ErrorKind::WouldBlock).
pub(super) trait NonblockingStream: Read + Write {
    /// Returns true if the stream must write before it can read on, as during a TLS handshake.
    fn wants_write(&self) -> bool {
        false
    }

    /// Ends the writing side, so that the peer reads the end of the response.
    fn finish(&mut self) -> io::Result<()>;

    /// Makes the next close a reset, which discards bytes that the peer has not read.
    fn reset_on_close(&mut self) {}
}

/// A nonblocking socket without TLS.
pub(super) struct PlainStream(Socket);

impl PlainStream {
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }
}

impl AsFd for PlainStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for PlainStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, _) = recv(&self.0, buffer, RecvFlags::empty())?;
        Ok(read)
    }
}

impl Write for PlainStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Otherwise a closed peer would kill a program that does not ignore SIGPIPE.
        Ok(send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NonblockingStream for PlainStream {
    fn finish(&mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    fn reset_on_close(&mut self) {
        // Otherwise the kernel buffers the rest for minutes, for every connection that never reads.
        drop(self.0.set_linger(Some(Duration::ZERO)));
    }
}
