//! The loop that accepts connections, never more than its limit.

use std::{
    io::{self, Read, Write},
    mem,
    net::Shutdown,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use prometheus::Registry;
use socket2::Socket;
use tracing::{debug, warn};

use super::{Limits, request, response};
use crate::{deadline::deadline, timed::TimedSocket};

pub(super) struct Acceptor {
    listener: Arc<Socket>,
    stopping: Arc<AtomicBool>,
    /// How many connections wait for their answer.
    taken: Arc<AtomicUsize>,
    registry: Registry,
    limits: Limits,
}

/// A connection that is being served, or let go, on a thread of its own.
struct Serving {
    socket: Weak<Socket>,
    thread: JoinHandle<()>,
}

/// One of the connections that there may be at a time, until its answer is written.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Self {
        taken.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(taken))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Acceptor {
    pub(super) fn new(
        listener: Arc<Socket>,
        stopping: Arc<AtomicBool>,
        registry: Registry,
        limits: Limits,
    ) -> Self {
        Self {
            listener,
            stopping,
            taken: Arc::default(),
            registry,
            limits,
        }
    }

    /// Serves until told to stop, then ends every connection.
    pub(super) fn run(self) {
        let mut serving: Vec<Serving> = Vec::new();
        let mut failing = false;
        loop {
            let accepted = self.listener.accept();
            if self.stopping.load(Ordering::Acquire) {
                break;
            }
            match accepted {
                Ok((socket, _)) => {
                    failing = false;
                    serving.retain(|one| !one.thread.is_finished());
                    self.admit(socket, &mut serving);
                }
                Err(error) if is_quiet(&error) => {}
                Err(error) => {
                    // Out of file descriptors, say: they come back when others close theirs.
                    if !mem::replace(&mut failing, true) {
                        warn!(%error, "the metrics server cannot accept connections; it goes on trying");
                    }
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
        for one in serving {
            if let Some(socket) = one.socket.upgrade() {
                drop(socket.shutdown(Shutdown::Both));
            }
            drop(one.thread.join());
        }
    }

    fn admit(&self, socket: Socket, serving: &mut Vec<Serving>) {
        let most = self.limits.max_connections;
        // Those that are let go take no place, but there must be an end to them too.
        if self.taken.load(Ordering::Acquire) >= most || serving.len() >= most.saturating_mul(2) {
            debug!(limit = most, "a metrics connection is refused");
            drop(refuse(&socket));
            return;
        }
        let socket = Arc::new(socket);
        let observed = Arc::downgrade(&socket);
        let registry = self.registry.clone();
        let limits = self.limits;
        let place = Place::take(&self.taken);
        let thread = thread::Builder::new()
            .name("metrics-request".to_owned())
            .spawn(move || {
                if let Err(error) = serve(&socket, &registry, limits, place) {
                    debug!(%error, "a metrics connection ended early");
                }
            });
        match thread {
            Ok(thread) => serving.push(Serving {
                socket: observed,
                thread,
            }),
            Err(error) => warn!(%error, "the metrics server cannot start a thread"),
        }
    }
}

fn is_quiet(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, TimedOut, WouldBlock};
    matches!(
        error.kind(),
        ConnectionAborted | Interrupted | TimedOut | WouldBlock
    )
}

/// Answers one more than can be served, without waiting for anything.
fn refuse(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // What is unread when a socket is closed makes the peer lose the answer.
    drop((&*socket).read(&mut [0; 1024]));
    (&*socket).write_all(&response::refusal(503).into_bytes()?)?;
    socket.shutdown(Shutdown::Write)
}

/// One request and its answer.
fn serve(
    socket: &Arc<Socket>,
    registry: &Registry,
    limits: Limits,
    place: Place,
) -> io::Result<()> {
    let mut stream = TimedSocket::new(Arc::clone(socket), deadline(limits.request_timeout));
    let response = match request::read(&mut stream, limits.max_head_bytes) {
        Ok(request) => response::to(&request, registry),
        Err(request::Refusal::Gone(error)) => return Err(error),
        Err(request::Refusal::Status(status)) => response::refusal(status),
    };
    stream.set_deadline(deadline(limits.response_timeout));
    let bytes = response.into_bytes()?;
    if let Some((last, all_but_last)) = bytes.split_last() {
        stream.write_all(all_but_last)?;
        // A peer that has seen the end may come back at once, and must find its place free.
        drop(place);
        stream.write_all(&[*last])?;
    }
    socket.shutdown(Shutdown::Write)?;
    let_go(stream)
}

/// Waits a moment for the peer to close, since what it still sends would make it lose the answer.
fn let_go(mut stream: TimedSocket) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(1);
    const MOST: u64 = 64 * 1024;
    stream.set_deadline(deadline(PATIENCE));
    io::copy(&mut stream.take(MOST), &mut io::sink()).map(drop)
}
