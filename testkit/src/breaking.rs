//! Forwarder to a server that breaks in the middle of a request or an answer.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use socket2::SockRef;

use super::listening::serve_each;

/// Direction of the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    FromServer,
}

/// Forwards bytes between a program and a server of this machine, and breaks on request.
pub struct Breaking {
    port: u16,
    breaks: Arc<Mutex<Option<Direction>>>,
    passed: Arc<Passed>,
}

/// Counters of both directions.
#[derive(Default)]
pub struct Passed {
    connections: AtomicU64,
    bytes: AtomicU64,
}

impl Breaking {
    pub fn start(server: u16) -> Self {
        let breaks = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&breaks);
        let passed = Arc::<Passed>::default();
        let counted = Arc::clone(&passed);
        let port = serve_each(move |program| {
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else {
                return;
            };
            counted.connections.fetch_add(1, Ordering::Relaxed);
            forward(&program, &server, Direction::ToServer, &shared, &counted);
            forward(&server, &program, Direction::FromServer, &shared, &counted);
        });
        Self {
            port,
            breaks,
            passed,
        }
    }

    /// Address for the program.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Number of connections and bytes so far.
    pub fn passed(&self) -> (u64, u64) {
        let Passed { connections, bytes } = &*self.passed;
        (
            connections.load(Ordering::Relaxed),
            bytes.load(Ordering::Relaxed),
        )
    }

    /// Makes every connection forward half of the next bytes in this direction and then reset.
    pub fn set(&self, breaks: Option<Direction>) {
        *self.breaks.lock().unwrap() = breaks;
    }
}

fn forward(
    from: &TcpStream,
    to: &TcpStream,
    direction: Direction,
    breaks: &Arc<Mutex<Option<Direction>>>,
    passed: &Arc<Passed>,
) {
    let mut from = from.try_clone().expect("a second handle");
    let mut to = to.try_clone().expect("a second handle");
    to.set_nodelay(true).expect("a TCP socket");
    let breaks = Arc::clone(breaks);
    let passed = Arc::clone(passed);
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut buffer).unwrap_or_default();
            let is_over = read == 0 || *breaks.lock().unwrap() == Some(direction);
            let passing = if is_over { read / 2 } else { read };
            passed.bytes.fetch_add(passing as u64, Ordering::Relaxed);
            if to.write_all(&buffer[..passing]).is_err() || is_over {
                break;
            }
        }
        // Without linger time the sockets are reset once the other direction has ended too, which this shutdown causes.
        for end in [&from, &to] {
            let _ = SockRef::from(end).set_linger(Some(Duration::ZERO));
            let _ = end.shutdown(Shutdown::Read);
        }
    });
}
