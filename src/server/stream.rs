//! A connection as bytes, never waited for.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::Socket;

/// What a connection reads from and writes to. A call that would have to wait fails with
/// [`WouldBlock`](io::ErrorKind::WouldBlock).
pub(super) trait NonblockingStream: Read + Write {
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
        // A peer that is gone must not end a program that has not switched SIGPIPE off.
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

    fn abandon(&mut self) {
        // Otherwise the system keeps it for minutes, of every connection of one that never reads.
        drop(self.0.set_linger(Some(Duration::ZERO)));
    }
}
