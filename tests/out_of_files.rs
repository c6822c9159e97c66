//! A program without a free file descriptor can still be scraped, and recovers once it has some again.
//!
//! The limit applies to the process, so this is the only test of its binary.

use std::{
    fs::File,
    io::{Read, Write},
    net::SocketAddr,
};

use paho_mqtt_redis::{
    MetricsServer,
    prometheus::{IntCounter, Registry},
};
use socket2::{Domain, Socket, Type};
use testkit::{LIMIT, REQUEST, eventually};

/// Limits the number of files that the process may open.
#[allow(unsafe_code)]
fn limit_files(limit: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: limit,
    };
    // SAFETY: setrlimit only reads its argument.
    assert_eq!(
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) },
        0
    );
}

/// Scrapes over a socket that was created before.
fn scrape(mut socket: Socket, address: SocketAddr) -> String {
    socket.connect(&address.into()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.write_all(REQUEST).unwrap();
    let mut answer = String::new();
    // The connection may be closed without an answer.
    let _ = socket.read_to_string(&mut answer);
    answer
}

fn socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
}

#[test]
fn endpoint_without_file_descriptors_is_scraped() {
    limit_files(256);
    let registry = Registry::new();
    let counter = IntCounter::new("readings_total", "Readings.").unwrap();
    registry.register(Box::new(counter)).unwrap();
    let server = MetricsServer::bind("127.0.0.1:0", registry).unwrap();
    let address = server.local_addr().unwrap();
    assert!(scrape(socket(), address).contains("readings_total"));

    let mut sockets: Vec<Socket> = (0..40).map(|_| socket()).collect();
    let mut files: Vec<File> = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    assert!(files.len() > 100, "{}", files.len());
    for turn in 0..10 {
        let answer = scrape(sockets.pop().unwrap(), address);
        assert!(answer.contains("readings_total"), "{turn}: {answer}");
    }
    // Silent connections do not occupy descriptors forever.
    let silent: Vec<Socket> = sockets.split_off(20);
    for socket in &silent {
        socket.connect(&address.into()).unwrap();
    }
    for turn in 0..10 {
        let answer = scrape(sockets.pop().unwrap(), address);
        assert!(answer.contains("readings_total"), "{turn}: {answer}");
    }

    drop((files, silent));
    eventually(LIMIT, "it serves as before", || {
        let all = (0..20).all(|_| scrape(socket(), address).contains("readings_total"));
        all.then_some(())
    });
}
