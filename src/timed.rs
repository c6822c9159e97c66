//! A socket on which everything that is done has one absolute deadline.

use std::{
    io::{self, Read, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::Socket;

/// Limits on a socket apply to each system call, so that a peer which sends a byte now and then
/// would be waited for without end; here each call has what is left of the whole.
pub(crate) struct TimedSocket {
    socket: Arc<Socket>,
    deadline: Instant,
}

impl TimedSocket {
    pub(crate) fn new(socket: Arc<Socket>, deadline: Instant) -> Self {
        Self { socket, deadline }
    }

    /// Until when what follows must be over.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }
}

impl Read for TimedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket
            .set_read_timeout(Some(remaining(self.deadline)?))?;
        (&*self.socket).read(buffer)
    }
}

impl Write for TimedSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket
            .set_write_timeout(Some(remaining(self.deadline)?))?;
        (&*self.socket).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The moment so long from now.
pub(crate) fn deadline(limit: Duration) -> Instant {
    /// Beyond this a limit is none, and the clock may not be able to count it.
    const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(limit.min(A_YEAR)).unwrap_or(now)
}

/// What is left until the deadline, as long as there is something.
pub(crate) fn remaining(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(remaining)
}
