//! Network that can be cut in silence: what is sent meanwhile is lost, and nobody learns of it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use super::listening::serve_each;

/// Closed, or open.
type State = Arc<(Mutex<bool>, Condvar)>;

/// Forwards TCP connections to a port while it is open.
pub struct Gate {
    port: u16,
    is_closed: State,
}

impl Gate {
    /// Listens on a free port, for the server on `server_port`.
    pub fn start(server_port: u16) -> Self {
        let is_closed = State::default();
        let state = Arc::clone(&is_closed);
        let port = serve_each(move |client| {
            wait_until_open(&state);
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)) else {
                return;
            };
            for (from, to) in [(&client, &server), (&server, &client)] {
                forward(from, to, &state);
            }
        });
        Self { port, is_closed }
    }

    /// Port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Forwards nothing any more, in either direction. Connections stay open.
    pub fn close(&self) {
        *self.is_closed.0.lock().unwrap() = true;
    }

    /// Forwards again. A connection that has lost something breaks.
    pub fn open(&self) {
        *self.is_closed.0.lock().unwrap() = false;
        self.is_closed.1.notify_all();
    }
}

/// Returns true if it was closed.
fn wait_until_open((is_closed, changed): &(Mutex<bool>, Condvar)) -> bool {
    let closed = is_closed.lock().unwrap();
    let was_closed = *closed;
    drop(changed.wait_while(closed, |is_closed| *is_closed).unwrap());
    was_closed
}

/// Forwards one direction on a thread of its own.
fn forward(from: &TcpStream, to: &TcpStream, state: &State) {
    let mut from = from.try_clone().expect("a second handle");
    let mut to = to.try_clone().expect("a second handle");
    to.set_nodelay(true).expect("a TCP socket");
    let state = Arc::clone(state);
    thread::spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer).unwrap_or_default();
            let is_lost = wait_until_open(&state);
            if is_lost || read == 0 || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        // Both directions end together. Fails if they have ended.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}
