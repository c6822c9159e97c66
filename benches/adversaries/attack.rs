//! Adversaries. Each one attacks until the end of the measurement, and opens new connections when it has lost the old ones.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use testkit::random::Random;

use crate::child::{EXHAUST, RELEASE};

pub struct Attack {
    pub name: &'static str,
    /// Description in the table.
    pub about: &'static str,
    pub threads: u64,
    /// Commands to the server's process before and after the attack.
    pub before: &'static str,
    pub after: &'static str,
    pub run: fn(SocketAddr, &AtomicBool, &mut Random),
}

const fn attack(
    name: &'static str,
    about: &'static str,
    threads: u64,
    run: fn(SocketAddr, &AtomicBool, &mut Random),
) -> Attack {
    Attack {
        name,
        about,
        threads,
        before: "",
        after: "",
        run,
    }
}

pub const ALL: &[Attack] = &[
    attack("silent", "2,000 connections that send nothing", 4, silent),
    attack("half", "2,000 connections with half a head", 4, half),
    attack("slow", "1,000 connections, a byte a second each", 4, slow),
    attack("endless", "heads without end", 8, endless),
    attack(
        "pipelining",
        "1,000 requests at once, on 8 connections",
        8,
        pipelining,
    ),
    attack(
        "lengths",
        "wrong lengths, and bodies that never come",
        8,
        lengths,
    ),
    attack("smuggling", "two requests that look like one", 8, smuggling),
    attack("garbage", "random bytes", 8, garbage),
    attack(
        "unread",
        "200 connections that ask and never read",
        4,
        unread,
    ),
    attack("reset", "opened and reset as fast as possible", 2, reset),
    Attack {
        before: EXHAUST,
        after: RELEASE,
        ..attack(
            "files",
            "no file descriptor left in the process",
            0,
            nothing,
        )
    },
    Attack {
        before: EXHAUST,
        after: RELEASE,
        ..attack(
            "both",
            "the same, and 200 connections with half a head",
            1,
            half_few,
        )
    },
];

fn open(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    let limit = Some(Duration::from_millis(500));
    stream.set_write_timeout(limit).ok()?;
    stream.set_read_timeout(limit).ok()?;
    Some(stream)
}

/// Returns true if the other side has neither closed the connection nor sent anything.
fn is_silent(stream: &TcpStream) -> bool {
    let waits = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    stream.set_nonblocking(true).is_ok()
        && stream.peek(&mut [0]).is_err_and(waits)
        && stream.set_nonblocking(false).is_ok()
}

/// Keeps `number` connections open on which `first` was sent, and replaces those that it loses.
fn hold(
    address: SocketAddr,
    number: usize,
    first: &[u8],
    is_over: &AtomicBool,
    mut each: impl FnMut(&mut TcpStream),
) {
    let mut connections: Vec<TcpStream> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        connections.retain(is_silent);
        for stream in &mut connections {
            each(stream);
        }
        for _ in connections.len()..number {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let Some(mut stream) = open(address) else {
                break;
            };
            if stream.write_all(first).is_ok() {
                connections.push(stream);
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn silent(address: SocketAddr, is_over: &AtomicBool, _: &mut Random) {
    hold(address, 500, b"", is_over, |_| ());
}

const HALF: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: device\r\n";

fn half(address: SocketAddr, is_over: &AtomicBool, _: &mut Random) {
    hold(address, 500, HALF, is_over, |_| ());
}

fn half_few(address: SocketAddr, is_over: &AtomicBool, _: &mut Random) {
    hold(address, 200, HALF, is_over, |_| ());
}

fn slow(address: SocketAddr, is_over: &AtomicBool, _: &mut Random) {
    let mut last = Instant::now();
    let mut is_due = false;
    let mut remaining = 0_usize;
    hold(
        address,
        250,
        b"GET /metrics HTTP/1.1\r\nX: ",
        is_over,
        |stream| {
            if remaining == 0 {
                remaining = 250;
                is_due = last.elapsed() >= Duration::from_secs(1);
                if is_due {
                    last = Instant::now();
                }
            }
            remaining -= 1;
            if is_due {
                let _ = stream.write(b"x");
            }
        },
    );
}

fn endless(address: SocketAddr, is_over: &AtomicBool, _: &mut Random) {
    // A limit, so that the machine survives a server that buffers everything.
    const MOST: usize = 64 << 20;
    let Some(mut stream) = open(address) else {
        return;
    };
    let piece = [b'x'; 16 * 1024];
    let mut sent = stream
        .write(b"GET /metrics HTTP/1.1\r\nX-Endless: ")
        .unwrap_or(MOST);
    while sent < MOST && !is_over.load(Ordering::Relaxed) {
        match stream.write(&piece) {
            Ok(written) if written > 0 => sent += written,
            _ => return,
        }
    }
}

fn pipelining(address: SocketAddr, _: &AtomicBool, _: &mut Random) {
    let request = b"GET /metrics HTTP/1.1\r\nHost: device\r\n\r\n".repeat(1_000);
    if let Some(mut stream) = open(address) {
        let _ = stream.write_all(&request);
        let _ = stream.read(&mut [0; 4096]);
    }
}

/// Sends these bytes and reads the answer, with a timeout.
fn provoke(address: SocketAddr, bytes: &[u8]) {
    if let Some(mut stream) = open(address) {
        let _ = stream.write_all(bytes);
        let mut chunk = [0; 4096];
        while stream.read(&mut chunk).is_ok_and(|read| read > 0) {}
    }
}

fn lengths(address: SocketAddr, _: &AtomicBool, random: &mut Random) {
    let length = random.pick(&[
        "Content-Length: 1000000000",
        "Content-Length: 18446744073709551616",
        "Content-Length: -1",
        "Content-Length: 4\r\nContent-Length: 400",
        "Content-Length:",
        "Transfer-Encoding: chunked",
        "Expect: 100-continue\r\nContent-Length: 1000000",
    ]);
    provoke(
        address,
        format!("POST /metrics HTTP/1.1\r\nHost: device\r\n{length}\r\n\r\nbody").as_bytes(),
    );
}

fn smuggling(address: SocketAddr, _: &AtomicBool, random: &mut Random) {
    let shape = random.pick(&[
            "Content-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: device\r\n\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "Transfer-Encoding : chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n",
            " folded: line\r\n\r\n",
            "Content-Length: 0\n\nGET /metrics HTTP/1.1\r\n\r\n",
            "Host: other\r\n\r\n",
            "X: a\0b\r\n\r\n",
        ]);
    provoke(
        address,
        format!("GET /metrics HTTP/1.1\r\nHost: device\r\n{shape}").as_bytes(),
    );
}

fn garbage(address: SocketAddr, _: &AtomicBool, random: &mut Random) {
    let bytes: Vec<u8> = (0..2_000)
        .flat_map(|_| random.draw().to_ne_bytes())
        .collect();
    provoke(address, &bytes);
}

fn unread(address: SocketAddr, is_over: &AtomicBool, _: &mut Random) {
    let mut sockets: Vec<Socket> = Vec::new();
    let request = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
        // The smallest receive buffer that the system allows.
        socket.set_recv_buffer_size(1).ok()?;
        socket
            .connect_timeout(&address.into(), Duration::from_secs(1))
            .ok()?;
        socket
            .set_write_timeout(Some(Duration::from_millis(100)))
            .ok()?;
        // This many answers fill every buffer of a server that sends them one after another.
        (&socket)
            .write_all(&b"GET /metrics HTTP/1.1\r\nHost: device\r\n\r\n".repeat(200))
            .ok()?;
        Some(socket)
    };
    while !is_over.load(Ordering::Relaxed) {
        if sockets.len() == 50 {
            sockets.remove(0);
        }
        sockets.extend(request());
    }
}

fn reset(address: SocketAddr, is_over: &AtomicBool, _: &mut Random) {
    while !is_over.load(Ordering::Relaxed) {
        if let Some(stream) = open(address) {
            let _ = Socket::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

fn nothing(_: SocketAddr, _: &AtomicBool, _: &mut Random) {
    thread::sleep(Duration::from_millis(10));
}
