//! The least HTTP client that reads a page.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
};

use super::LIMIT;

/// Status, headers with their names in lower case, and body.
pub type HttpResponse = (u16, Vec<(String, String)>, String);

/// Gets `path` from `address`.
///
/// Panics when there is no answer that can be read.
#[track_caller]
pub fn http_get(address: impl ToSocketAddrs, path: &str) -> HttpResponse {
    try_http_get(address, path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// Gets `path` from `address`.
///
/// It speaks HTTP/1.0, so that a server neither keeps the connection open nor sends chunks.
pub fn try_http_get(address: impl ToSocketAddrs, path: &str) -> io::Result<HttpResponse> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let host = stream.peer_addr()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    String::from_utf8(answer)
        .ok()
        .as_deref()
        .and_then(parse)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP response"))
}

fn parse(answer: &str) -> Option<HttpResponse> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_lowercase(), value.trim().to_owned()))
        })
        .collect::<Option<_>>()?;
    Some((status, headers, body.to_owned()))
}
