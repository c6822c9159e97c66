//! A way to a server that breaks in the middle of what is sent over it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use socket2::SockRef;

/// Which way what is sent goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    FromServer,
}

/// Forwards bytes between a program and a server of this machine until it is told to break.
pub struct Breaking {
    port: u16,
    breaks: Arc<Mutex<Option<Direction>>>,
}

impl Breaking {
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let breaks = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&breaks);
        // It ends with the process.
        thread::spawn(move || {
            for program in listener.incoming() {
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server));
                let (Ok(program), Ok(server)) = (program, server) else {
                    continue;
                };
                forward(&program, &server, Direction::ToServer, &shared);
                forward(&server, &program, Direction::FromServer, &shared);
            }
        });
        Self { port, breaks }
    }

    /// Where the program finds it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on half of what is sent in this direction gets through, and then the connection is reset.
    pub fn set(&self, breaks: Option<Direction>) {
        *self.breaks.lock().unwrap() = breaks;
    }
}

fn forward(
    from: &TcpStream,
    to: &TcpStream,
    direction: Direction,
    breaks: &Arc<Mutex<Option<Direction>>>,
) {
    let mut from = from.try_clone().expect("a second handle");
    let mut to = to.try_clone().expect("a second handle");
    to.set_nodelay(true).expect("a TCP socket");
    let breaks = Arc::clone(breaks);
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut buffer).unwrap_or_default();
            let is_over = read == 0 || *breaks.lock().unwrap() == Some(direction);
            let passing = if is_over { read / 2 } else { read };
            if to.write_all(&buffer[..passing]).is_err() || is_over {
                break;
            }
        }
        // With no time to linger they are reset when the other direction has ended too, which this has it do.
        for end in [&from, &to] {
            let _ = SockRef::from(end).set_linger(Some(Duration::ZERO));
            let _ = end.shutdown(Shutdown::Read);
        }
    });
}
