//! Minimal HTTP client, and raw connections for requests that no client would send.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
};

use super::LIMIT;

/// Status, headers with their names in lower case, and body.
pub type HttpResponse = (u16, Vec<(String, String)>, String);

/// Gets `path` from `address`.
///
/// Panics if there is no valid answer.
#[track_caller]
pub fn http_get(address: impl ToSocketAddrs, path: &str) -> HttpResponse {
    try_http_get(address, path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// Gets `path` from `address`.
///
/// Uses HTTP/1.0, so that a server neither keeps the connection open nor sends chunks.
pub fn try_http_get(address: impl ToSocketAddrs, path: &str) -> io::Result<HttpResponse> {
    http_get_with(address, path, "")
}

/// Does the same with further lines in the head, each with its line end.
pub fn http_get_with(
    address: impl ToSocketAddrs,
    path: &str,
    lines: &str,
) -> io::Result<HttpResponse> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let host = stream.peer_addr()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n{lines}\r\n").as_bytes())?;
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

/// Request of a scrape.
pub const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: device\r\n\r\n";

/// Connects with timeouts for reading and writing.
pub fn connected(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a listener");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream.set_write_timeout(Some(LIMIT)).expect("a limit");
    stream
}

/// Reads until the other side closes.
#[track_caller]
pub fn answer_bytes(stream: &mut impl Read) -> Vec<u8> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // The server closed without reading the whole request; the answer before that counts.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no answer: {error}"),
    }
    answer
}

/// Does the same as text.
#[track_caller]
pub fn answer(stream: &mut impl Read) -> String {
    String::from_utf8(answer_bytes(stream)).expect("text")
}

/// Does the same and drops the connection.
#[track_caller]
pub fn answer_of(mut stream: impl Read) -> String {
    answer(&mut stream)
}

/// Sends these bytes on a new connection and returns the answer.
#[track_caller]
pub fn sent(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connected(address);
    stream.write_all(bytes).expect("sent");
    answer(&mut stream)
}

/// Status of an answer; empty if there is none.
pub fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// First header of an answer with this name.
pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = answer.split_once("\r\n\r\n")?;
    head.split("\r\n").skip(1).find_map(|line| {
        let (header, value) = line.split_once(':')?;
        header.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Body of an answer.
pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}
