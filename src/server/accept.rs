//! The loop that accepts connections, never more than its limit.

use std::{
    io::{self, Read},
    net::Shutdown,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use prometheus::Registry;
use socket2::Socket;
use tracing::{debug, warn};

use super::{Limits, request, response};
use crate::timed::{TimedSocket, deadline};

pub(super) struct Acceptor {
    listener: Arc<Socket>,
    stopping: Arc<AtomicBool>,
    registry: Registry,
    limits: Limits,
}

/// A connection that is being served on a thread of its own.
struct Serving {
    socket: Weak<Socket>,
    thread: JoinHandle<()>,
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
            registry,
            limits,
        }
    }

    /// Serves until told to stop, then ends every connection.
    pub(super) fn run(self) {
        let mut serving: Vec<Serving> = Vec::new();
        while !self.stopping.load(Ordering::Acquire) {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    serving.retain(|one| !one.thread.is_finished());
                    self.admit(socket, &mut serving);
                }
                Err(error) if is_quiet(&error) => {}
                Err(error) => {
                    if !self.stopping.load(Ordering::Acquire) {
                        warn!(%error, "the metrics server cannot accept a connection");
                        // Out of file descriptors, say: they come back when others close theirs.
                        thread::sleep(Duration::from_millis(100));
                    }
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
        if serving.len() >= self.limits.max_connections {
            debug!(
                limit = self.limits.max_connections,
                "a metrics connection is refused"
            );
            drop(refuse(&socket));
            return;
        }
        let socket = Arc::new(socket);
        let observed = Arc::downgrade(&socket);
        let registry = self.registry.clone();
        let limits = self.limits;
        let thread = thread::Builder::new()
            .name("metrics-request".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                if let Err(error) = serve(&socket, &registry, limits) {
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
    response::busy().write(socket)?;
    socket.shutdown(Shutdown::Write)
}

/// One request and its answer.
fn serve(socket: &Arc<Socket>, registry: &Registry, limits: Limits) -> io::Result<()> {
    let mut stream = TimedSocket::new(Arc::clone(socket), deadline(limits.request_timeout));
    let response = match request::read(&mut stream, limits.max_head_bytes) {
        Ok(request) => response::to(&request, registry),
        Err(request::Refusal::Gone(error)) => return Err(error),
        Err(request::Refusal::Status(status)) => response::refusal(status),
    };
    stream.set_deadline(deadline(limits.response_timeout));
    response.write(&mut stream)?;
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
