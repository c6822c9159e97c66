//! Network between a program and a server of this machine: with latency, little bandwidth, or bytes that arrive late.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// Properties of the network, the same in both directions.
#[derive(Clone, Copy, Default)]
pub struct Link {
    /// Time that each byte is on its way.
    pub delay: Duration,
    /// Unlimited if it is `None`.
    pub bytes_per_second: Option<u32>,
}

#[derive(Default)]
struct State {
    /// Number of connections so far.
    connections: usize,
    /// Connections before this one do not deliver to the server.
    held_before: usize,
    /// Number of connections over which nothing more reaches the server.
    delivered: usize,
    /// Number of times that the server has answered, and of connections.
    round_trips: usize,
    /// The program has sent something since the last answer.
    has_asked: bool,
}

/// Forwards bytes over a [`Link`].
pub struct Network {
    port: u16,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Network {
    /// Listens on a free port, for the server on `server_port`.
    pub fn start(server_port: u16, link: Link) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::<(Mutex<State>, Condvar)>::default();
        let state = Arc::clone(&shared);
        // The thread ends with the test's process.
        thread::spawn(move || {
            for program in listener.incoming() {
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port));
                let (Ok(program), Ok(server)) = (program, server) else {
                    continue;
                };
                let connection = {
                    let mut state = state.0.lock().unwrap();
                    state.connections += 1;
                    state.round_trips += 1;
                    state.connections - 1
                };
                let asked = Arc::clone(&state);
                let shared = Arc::clone(&state);
                carry(
                    (&program, &server),
                    link,
                    move |chunk| asked.0.lock().unwrap().has_asked |= !chunk.is_empty(),
                    move |chunk| {
                        let (state, changed) = &*shared;
                        let is_held = |state: &mut State| connection < state.held_before;
                        let mut state = changed.wait_while(state.lock().unwrap(), is_held).unwrap();
                        state.delivered += usize::from(chunk.is_empty());
                    },
                );
                let answered = Arc::clone(&state);
                carry(
                    (&server, &program),
                    link,
                    |_| {},
                    move |chunk| {
                        let mut state = answered.0.lock().unwrap();
                        if !chunk.is_empty() && std::mem::take(&mut state.has_asked) {
                            state.round_trips += 1;
                        }
                    },
                );
            }
        });
        Self { port, shared }
    }

    /// URL of the Redis behind it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Port for programs.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Delivers nothing more to the server over the present connections, not even their end.
    pub fn hold(&self) {
        let mut state = self.shared.0.lock().unwrap();
        state.held_before = state.connections;
    }

    /// Delivers what was held.
    pub fn release(&self) {
        self.shared.0.lock().unwrap().held_before = 0;
        self.shared.1.notify_all();
    }

    /// Number of connections that the program has ended, and all of whose bytes have been delivered or refused.
    pub fn delivered(&self) -> usize {
        self.shared.0.lock().unwrap().delivered
    }

    /// Number of times that programs have waited for the network so far: for each connection, and for each answer of
    /// the server to what was sent since its last one.
    ///
    /// The delay must be longer than a program takes to send all that it sends before it waits.
    pub fn round_trips(&self) -> usize {
        self.shared.0.lock().unwrap().round_trips
    }
}

/// Carries bytes in one direction. Calls `take` with each chunk that has been sent, and `pass` before it delivers the
/// chunk; an empty one is the end.
fn carry(
    (from, to): (&TcpStream, &TcpStream),
    link: Link,
    take: impl Fn(&[u8]) + Send + 'static,
    pass: impl Fn(&[u8]) + Send + 'static,
) {
    let mut from = from.try_clone().expect("a second handle");
    let mut to = to.try_clone().expect("a second handle");
    to.set_nodelay(true).expect("a TCP socket");
    let (sender, receiver): (Sender<(Instant, Vec<u8>)>, Receiver<_>) = mpsc::channel();
    thread::spawn(move || {
        // A program can send something once it is connected, which takes a round trip.
        let mut free_at = Instant::now() + link.delay * 2;
        // Small, so that a slow network is slow evenly.
        let mut buffer = vec![0; 8 * 1024];
        loop {
            let read = from.read(&mut buffer).unwrap_or_default();
            let length = u32::try_from(read).expect("small");
            let taken = link.bytes_per_second.map_or(Duration::ZERO, |rate| {
                Duration::from_secs(1) * length / rate
            });
            free_at = free_at.max(Instant::now()) + taken;
            take(&buffer[..read]);
            let chunk = (free_at + link.delay, buffer[..read].to_vec());
            if sender.send(chunk).is_err() || read == 0 {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, chunk) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            pass(&chunk);
            // A peer that is gone refuses both.
            let _ = if chunk.is_empty() {
                to.shutdown(Shutdown::Write)
            } else {
                to.write_all(&chunk)
            };
        }
    });
}
