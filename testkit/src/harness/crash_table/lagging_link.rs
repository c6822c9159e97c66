//! Replication that is as late as it may be.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::listening::serve_each;

/// End of the command with which a master asks its replicas for their acknowledgment, after all that they are to have.
const REQUEST: &[u8] = b"$6\r\nGETACK\r\n$1\r\n*\r\n";

/// Forwards the connection of a replica to its master, and passes on no write that no `WAIT` has asked for.
///
/// Bytes that it has not passed on are lost with the master.
pub struct LaggingLink {
    port: u16,
    lags: Arc<AtomicBool>,
}

impl LaggingLink {
    /// Listens on a free port, for the master on `master_port`. It does not lag yet.
    pub fn start(master_port: u16) -> Self {
        let lags = Arc::<AtomicBool>::default();
        let state = Arc::clone(&lags);
        let port = serve_each(move |replica| {
            let Ok(master) = TcpStream::connect((Ipv4Addr::LOCALHOST, master_port)) else {
                return;
            };
            let (mut from, mut to) = (second(&replica), second(&master));
            thread::spawn(move || {
                // Fails if one of the two has ended.
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            forward(master, replica, &state);
        });
        Self { port, lags }
    }

    /// Port for the replica.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Begins to lag, or ends it with the next bytes.
    pub fn set_lagging(&self, lags: bool) {
        self.lags.store(lags, Ordering::SeqCst);
    }
}

fn second(stream: &TcpStream) -> TcpStream {
    stream.set_nodelay(true).expect("a TCP socket");
    stream.try_clone().expect("a second handle")
}

fn forward(mut from: TcpStream, mut to: TcpStream, lags: &AtomicBool) {
    let mut pending = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        pending.extend_from_slice(&buffer[..read]);
        let passed = if lags.load(Ordering::SeqCst) {
            let last = pending
                .windows(REQUEST.len())
                .rposition(|part| part == REQUEST);
            last.map_or(0, |start| start + REQUEST.len())
        } else {
            pending.len()
        };
        if to.write_all(&pending[..passed]).is_err() {
            break;
        }
        pending.drain(..passed);
    }
    // Both directions end together. Fails if they have ended.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
