//! A socket on which everything that is done has one absolute deadline.

use std::{
    ffi::c_int,
    io::{self, Read, Write},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;

use super::deadline::{deadline_after, time_left};

/// Limits on a socket apply to each system call, so that a peer which sends a byte now and then
/// would be waited for without end; here each call has what is left of the whole.
pub(crate) struct DeadlineStream {
    socket: Arc<Socket>,
    deadline: Instant,
    /// As they were set last: setting one takes a system call.
    read_limit: Duration,
    write_limit: Duration,
    /// Calls wait, where there is nothing to be read or no room.
    is_blocking: bool,
    /// What is written may wait for more.
    is_lazy: bool,
}

/// Of every call that writes, and of one whose bytes may wait for more; where the system has no such flags,
/// they do nothing. A peer that is gone must not end a program that has not switched SIGPIPE off.
#[cfg(any(target_os = "android", target_os = "linux"))]
const FLAGS: (c_int, c_int) = (libc::MSG_NOSIGNAL, libc::MSG_NOSIGNAL | libc::MSG_MORE);
#[cfg(not(any(target_os = "android", target_os = "linux")))]
const FLAGS: (c_int, c_int) = (0, 0);

/// How long an answer is looked for before it is waited for.
const SOON: Duration = Duration::from_micros(50);

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Limits are set in steps of so much, so that most are those that are set already. Something may
/// take so much longer than its deadline.
const STEP: Duration = Duration::from_millis(10);

impl DeadlineStream {
    pub(crate) fn new(socket: Arc<Socket>, deadline: Instant) -> Self {
        Self {
            socket,
            deadline,
            read_limit: Duration::ZERO,
            write_limit: Duration::ZERO,
            is_blocking: true,
            is_lazy: false,
        }
    }

    /// The limit for a call, and whether it is another one than was set last.
    fn limit(&self, last: Duration) -> io::Result<(Duration, bool)> {
        let remaining = time_left(self.deadline)?;
        let steps = remaining.as_nanos().div_ceil(STEP.as_nanos());
        let limit = STEP.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX));
        Ok((limit, limit != last))
    }

    fn set_blocking(&mut self, is_blocking: bool) -> io::Result<()> {
        if self.is_blocking != is_blocking {
            self.socket.set_nonblocking(!is_blocking)?;
            self.is_blocking = is_blocking;
        }
        Ok(())
    }

    /// Tries for a moment, in which others may have the processor: to fall asleep and be woken up takes
    /// longer than most answers.
    fn soon(
        &mut self,
        mut call: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> io::Result<Option<usize>> {
        self.set_blocking(false)?;
        let mut until = None;
        loop {
            match call(&self.socket) {
                Err(error) if is_passing(&error) => {
                    let now = Instant::now();
                    if now >= *until.get_or_insert_with(|| deadline_after(SOON)) {
                        break;
                    }
                    thread::yield_now();
                }
                done => return done.map(Some),
            }
        }
        self.set_blocking(true)?;
        Ok(None)
    }

    /// Whether what is written from now on may stay in the system, over TCP, until something is written
    /// that may not, the peer acknowledges something, or 0.2 s are over (`MSG_MORE` in send(2)). When the
    /// socket is closed or this process dies it is sent too, unless something has not been read that was
    /// received: then the system drops it.
    pub(crate) fn set_lazy(&mut self, is_lazy: bool) {
        self.is_lazy = is_lazy;
    }

    /// Until when what follows must be over.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }
}

impl Read for DeadlineStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(read) = self.soon(|mut socket| socket.read(buffer))? {
            return Ok(read);
        }
        uninterrupted(|| {
            let (limit, is_new) = self.limit(self.read_limit)?;
            if is_new {
                self.socket.set_read_timeout(Some(limit))?;
                self.read_limit = limit;
            }
            (&*self.socket).read(buffer)
        })
    }
}

impl Write for DeadlineStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (eager, lazy) = FLAGS;
        let flags = if self.is_lazy { lazy } else { eager };
        let send = |socket: &Socket| socket.send_with_flags(bytes, flags);
        if let Some(written) = self.soon(send)? {
            return Ok(written);
        }
        uninterrupted(|| {
            let (limit, is_new) = self.limit(self.write_limit)?;
            if is_new {
                self.socket.set_write_timeout(Some(limit))?;
                self.write_limit = limit;
            }
            send(&self.socket)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A signal interrupts a call on a socket that has a limit, even where others are restarted.
fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
        thread,
    };

    use super::*;

    fn pair(limit: Duration) -> (DeadlineStream, UnixStream) {
        let (one, other) = UnixStream::pair().expect("a pair of sockets");
        (
            DeadlineStream::new(Arc::new(one.into()), deadline_after(limit)),
            other,
        )
    }

    #[test]
    fn endless_sender_is_cut_off_at_deadline() {
        let (mut socket, mut peer) = pair(Duration::from_millis(200));
        let started = Instant::now();
        let sender = thread::spawn(move || while peer.write_all(b"x").is_ok() {});
        let error = loop {
            if let Err(error) = socket.read(&mut [0; 1]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(5));
        drop(socket);
        sender.join().expect("ends with the socket");
    }

    #[cfg(any(target_os = "android", target_os = "linux"))]
    #[test]
    #[allow(unsafe_code)]
    fn write_to_closed_peer_fails_without_signal() {
        let (mut socket, peer) = pair(Duration::from_secs(20));
        drop(peer);
        // SAFETY: a set of signals may be all zeros; it is of this thread, which the test alone has.
        let mut signals = unsafe {
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut signals, libc::SIGPIPE);
            // A signal that is ignored, as in this process, is kept for a thread that blocks it.
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
            signals
        };
        let error = socket.write_all(b"x").expect_err("nobody reads it");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        // SAFETY: the set is written, and then read.
        let is_pending = unsafe {
            libc::sigpending(&raw mut signals);
            libc::sigismember(&raw const signals, libc::SIGPIPE)
        };
        assert_eq!(is_pending, 0);
    }

    #[cfg(any(target_os = "android", target_os = "linux"))]
    #[test]
    fn deferred_bytes_go_with_next_write_or_after_delay() {
        /// The system's own limit is longer.
        const SHORT: Duration = Duration::from_millis(100);
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let one = TcpStream::connect(listener.local_addr().expect("its own")).expect("connects");
        one.set_nodelay(true).expect("over TCP");
        let (mut peer, _) = listener.accept().expect("the other end");
        let limit = Duration::from_secs(20);
        peer.set_read_timeout(Some(limit)).expect("a limit");
        let mut socket = DeadlineStream::new(Arc::new(one.into()), deadline_after(limit));
        let mut bytes = [0; 2];

        let started = Instant::now();
        socket.set_lazy(true);
        socket.write_all(b"a").expect("taken");
        peer.set_nonblocking(true).expect("looks only");
        let come = peer.read(&mut bytes).unwrap_or_default();
        // A machine with more to do may have let that time pass.
        assert!(come == 0 || started.elapsed() > SHORT);
        peer.set_nonblocking(false).expect("waits again");
        socket.set_lazy(false);
        socket.write_all(b"b").expect("taken");
        peer.read_exact(&mut bytes[come..]).expect("both have come");
        assert_eq!(bytes, *b"ab");

        socket.set_lazy(true);
        socket.write_all(b"cd").expect("taken");
        peer.read_exact(&mut bytes).expect("comes by itself");
        assert_eq!(bytes, *b"cd");

        socket.write_all(b"e").expect("taken");
        drop(socket);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).expect("comes, and the end");
        assert_eq!(rest, b"e");
    }

    #[test]
    #[allow(unsafe_code)]
    fn signal_does_not_interrupt_wait() {
        extern "C" fn handle(_: c_int) {}
        // SAFETY: the handler does nothing at all.
        unsafe { libc::signal(libc::SIGUSR1, handle as *const () as libc::sighandler_t) };
        let (mut socket, mut peer) = pair(Duration::from_secs(20));
        let reader = thread::spawn(move || {
            // SAFETY: it only tells which thread this is.
            let this = unsafe { libc::pthread_self() };
            peer.write_all(&this.to_ne_bytes()).expect("sent");
            let mut answer = [0; 1];
            let mut waiting = DeadlineStream::new(
                Arc::new(peer.into()),
                deadline_after(Duration::from_secs(20)),
            );
            waiting.read(&mut answer).map(|_| answer)
        });
        let mut thread = [0; size_of::<libc::pthread_t>()];
        socket.read_exact(&mut thread).expect("received");
        for _ in 0..1_000 {
            // SAFETY: the thread waits for the byte that is sent only after this.
            unsafe { libc::pthread_kill(libc::pthread_t::from_ne_bytes(thread), libc::SIGUSR1) };
            thread::yield_now();
        }
        socket.write_all(b"!").expect("sent");
        assert_eq!(reader.join().expect("no panic").expect("read"), *b"!");
    }
}
