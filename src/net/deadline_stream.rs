//! A socket whose reads and writes share one absolute deadline.

use std::{
    ffi::c_int,
    io::{self, IoSlice, Read, Write},
    mem,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

use super::deadline::time_left;

/// A socket whose calls end at an absolute deadline, with an error of the kind `TimedOut`.
///
/// The timeouts of a socket apply to each system call, so a peer that sends one byte now and then
/// could keep the caller waiting forever. Here each call gets only the time that remains.
pub(crate) struct DeadlineStream {
    socket: Arc<Socket>,
    deadline: Instant,
    /// A call has begun after the deadline.
    is_overdue: bool,
    /// Time for which a call retries before it sleeps.
    spin_time: Duration,
    /// The kernel may hold written bytes back until more follow.
    may_coalesce: bool,
}

/// Flags of send(2): for a write that goes out at once, and for one that may be coalesced.
///
/// Without `MSG_NOSIGNAL`, writing to a closed peer would end a program that does not ignore
/// SIGPIPE. Apple's systems have an option of the socket for it, which `std` and `socket2` set.
#[cfg(any(target_os = "android", target_os = "linux"))]
const SEND_FLAGS: (c_int, c_int) = (libc::MSG_NOSIGNAL, libc::MSG_NOSIGNAL | libc::MSG_MORE);
#[cfg(not(any(target_os = "android", target_os = "linux", target_vendor = "apple")))]
const SEND_FLAGS: (c_int, c_int) = (libc::MSG_NOSIGNAL, libc::MSG_NOSIGNAL);
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: (c_int, c_int) = (0, 0);

impl DeadlineStream {
    /// Makes the socket nonblocking, for every holder of it.
    pub(crate) fn new(socket: Arc<Socket>, deadline: Instant) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            deadline,
            is_overdue: false,
            spin_time: Duration::ZERO,
            may_coalesce: false,
        })
    }

    /// Makes calls retry for this long before they sleep: a peer nearby may answer sooner than a
    /// sleeping thread is woken up.
    #[cfg(feature = "redis")]
    pub(crate) fn spinning(mut self, spin_time: Duration) -> Self {
        self.spin_time = spin_time;
        self
    }

    /// Repeats the call until it can proceed, or until the deadline.
    ///
    /// The deadline does not stop the first call after it: that may be for a reply which arrived in
    /// time, if this thread was not scheduled in time. It stops the second one even if that would
    /// not wait, so a peer that never pauses is cut off too.
    fn complete(
        &mut self,
        readiness: PollFlags,
        mut call: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if Instant::now() >= self.deadline && mem::replace(&mut self.is_overdue, true) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut spin_until = None;
        loop {
            match call(&self.socket) {
                Err(error) if is_retryable(&error) => {}
                done => return done,
            }
            let now = Instant::now();
            if now < *spin_until.get_or_insert(now.checked_add(self.spin_time).unwrap_or(now)) {
                // The peer may need this very processor to reply.
                thread::yield_now();
                continue;
            }
            let timeout = time_left(self.deadline)?;
            let timeout = Timespec {
                tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: timeout.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&*self.socket, readiness)], Some(&timeout)) {
                Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
                _ => {}
            }
        }
    }

    /// Lets the kernel coalesce later writes over TCP (`MSG_MORE` in send(2)).
    ///
    /// The bytes stay in the kernel until a write without coalescing, an acknowledgment of the peer, or
    /// 0.2 s later. The kernel also sends them when the socket is closed or this process dies, but drops
    /// them if received bytes are still unread.
    #[cfg(feature = "redis")]
    pub(crate) fn set_coalescing(&mut self, may_coalesce: bool) {
        self.may_coalesce = may_coalesce;
    }

    fn send_flags(&self) -> c_int {
        let (at_once, coalesced) = SEND_FLAGS;
        if self.may_coalesce {
            coalesced
        } else {
            at_once
        }
    }

    /// Sets the deadline of all later calls.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.is_overdue = false;
    }

    /// Moves the deadline of all later calls.
    #[cfg(feature = "redis")]
    pub(crate) fn extend_deadline(&mut self, extra: Duration) {
        self.deadline = self.deadline.checked_add(extra).unwrap_or(self.deadline);
    }

    /// Ends the writing side, so that the peer reads the end after the last byte.
    #[cfg(feature = "server")]
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Write)
    }

    /// Makes the close a reset, which discards bytes that the peer has not read.
    ///
    /// Otherwise the kernel keeps them for minutes, for every connection that never reads.
    #[cfg(feature = "server")]
    pub(crate) fn reset_on_close(&self) {
        drop(self.socket.set_linger(Some(Duration::ZERO)));
    }
}

impl Read for DeadlineStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.complete(PollFlags::IN, |mut socket| socket.read(buffer))
    }
}

impl Write for DeadlineStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = self.send_flags();
        self.complete(PollFlags::OUT, |socket| {
            socket.send_with_flags(bytes, flags)
        })
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // The kernel refuses more at a time.
        const MAX_SLICES: usize = 1024;
        let (slices, _) = slices.split_at(slices.len().min(MAX_SLICES));
        let flags = self.send_flags();
        self.complete(PollFlags::OUT, |socket| {
            socket.send_vectored_with_flags(slices, flags)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        // Nothing is buffered here; coalesced bytes wait in the kernel on purpose.
        Ok(())
    }
}

fn is_retryable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
        thread,
    };

    use super::*;
    use crate::net::deadline_after;

    fn pair(timeout: Duration) -> (DeadlineStream, UnixStream) {
        let (one, other) = UnixStream::pair().expect("a pair of sockets");
        (
            DeadlineStream::new(Arc::new(one.into()), deadline_after(timeout))
                .expect("a nonblocking socket"),
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
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
        drop(socket);
        sender.join().expect("no panic");
    }

    #[test]
    fn peer_that_never_pauses_is_cut_off_at_deadline() {
        let (mut socket, mut peer) = pair(Duration::ZERO);
        peer.write_all(&[0; 4]).expect("fits into the buffer");
        let mut byte = [0];
        // What had arrived by the deadline.
        assert_eq!(socket.read(&mut byte).expect("has arrived"), 1);
        let error = socket.read(&mut byte).expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = socket.write(&byte).expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        socket.extend_deadline(Duration::from_secs(20));
        socket.read_exact(&mut byte).expect("in time");
        socket.set_deadline(deadline_after(Duration::ZERO));
        assert_eq!(socket.write(&byte).expect("has room"), 1);
        let error = socket.write(&byte).expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[cfg(any(target_os = "android", target_os = "linux"))]
    #[test]
    #[allow(unsafe_code)]
    fn write_to_closed_peer_fails_without_signal() {
        let (mut socket, peer) = pair(Duration::from_secs(20));
        drop(peer);
        // SAFETY: an all-zero signal set is valid, and the mask is that of this test's own thread.
        let mut signals = unsafe {
            let mut signals: libc::sigset_t = mem::zeroed();
            libc::sigaddset(&raw mut signals, libc::SIGPIPE);
            // Rust ignores SIGPIPE. A blocked signal becomes pending even then, so it can be seen.
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
            signals
        };
        let error = socket.write_all(b"x").expect_err("the peer is closed");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        // SAFETY: `sigpending` initializes the set that `sigismember` reads.
        let is_pending = unsafe {
            libc::sigpending(&raw mut signals);
            libc::sigismember(&raw const signals, libc::SIGPIPE)
        };
        assert_eq!(is_pending, 0);
    }

    #[cfg(any(target_os = "android", target_os = "linux"))]
    #[test]
    fn deferred_bytes_go_with_next_write_or_after_delay() {
        /// Less than the 0.2 s after which the kernel sends by itself.
        const SHORT: Duration = Duration::from_millis(100);
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let one = TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
        one.set_nodelay(true).expect("TCP");
        let (mut peer, _) = listener.accept().expect("the other end");
        let timeout = Duration::from_secs(20);
        peer.set_read_timeout(Some(timeout)).expect("a timeout");
        let mut socket = DeadlineStream::new(Arc::new(one.into()), deadline_after(timeout))
            .expect("a nonblocking socket");
        let mut bytes = [0; 2];

        let started = Instant::now();
        socket.set_coalescing(true);
        socket.write_all(b"a").expect("written");
        peer.set_nonblocking(true).expect("nonblocking");
        let received = peer.read(&mut bytes).unwrap_or_default();
        // On a busy machine the kernel may have sent it by now.
        assert!(received == 0 || started.elapsed() > SHORT);
        peer.set_nonblocking(false).expect("blocking");
        socket.set_coalescing(false);
        socket.write_all(b"b").expect("written");
        peer.read_exact(&mut bytes[received..]).expect("both bytes");
        assert_eq!(bytes, *b"ab");

        socket.set_coalescing(true);
        socket.write_all(b"cd").expect("written");
        peer.read_exact(&mut bytes).expect("sent after the delay");
        assert_eq!(bytes, *b"cd");

        socket.write_all(b"e").expect("written");
        drop(socket);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).expect("the byte, then the end");
        assert_eq!(rest, b"e");
    }

    #[test]
    // The id of a thread is as large as a pointer, and with musl it is one.
    #[allow(unsafe_code, clippy::cast_possible_truncation)]
    fn signal_does_not_interrupt_wait() {
        extern "C" fn handle(_: c_int) {}
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGUSR1, handle as *const () as libc::sighandler_t) };
        let (mut socket, mut peer) = pair(Duration::from_secs(20));
        let reader = thread::spawn(move || {
            // SAFETY: it only returns the id of this thread.
            let this = unsafe { libc::pthread_self() };
            peer.write_all(&(this as usize).to_ne_bytes())
                .expect("sent");
            let mut reply = [0; 1];
            let mut waiting = DeadlineStream::new(
                Arc::new(peer.into()),
                deadline_after(Duration::from_secs(20)),
            )
            .expect("a nonblocking socket");
            waiting.read(&mut reply).map(|_| reply)
        });
        let mut thread = [0; size_of::<libc::pthread_t>()];
        socket.read_exact(&mut thread).expect("received");
        for _ in 0..1_000 {
            // SAFETY: the thread is alive: it waits for the byte that is sent after this loop.
            unsafe {
                libc::pthread_kill(
                    usize::from_ne_bytes(thread) as libc::pthread_t,
                    libc::SIGUSR1,
                )
            };
            thread::yield_now();
        }
        socket.write_all(b"!").expect("sent");
        assert_eq!(reader.join().expect("no panic").expect("read"), *b"!");
    }
}
