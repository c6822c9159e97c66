//! A minimal HTTP server that answers with a text.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

/// Timeout for the arrival of a request.
const LIMIT: Duration = Duration::from_secs(5);

/// Answers each request with the current result of `body` until the process ends; returns the address.
pub fn serve(
    content_type: &'static str,
    mut body: impl FnMut() -> String + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // A silent client must not block the others.
            let limit = stream.set_read_timeout(Some(LIMIT));
            limit.expect("a socket");
            let head = BufReader::new(&stream).lines().map_while(Result::ok);
            // An empty line ends the head.
            if head.take_while(|line| !line.is_empty()).count() == 0 {
                continue;
            }
            let body = body();
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{body}"
            );
            // Fails if the client is gone.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}
