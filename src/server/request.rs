//! The head of a request, read within limits.

use std::io::{self, Read};

/// What of a request decides about its answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
}

/// Why there is no request.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The peer is told so.
    Status(u16),
    /// There is nobody to tell.
    Gone(io::Error),
}

/// Reads one head of at most `limit` bytes. What comes behind it is not looked at.
pub(super) fn read(stream: &mut impl Read, limit: usize) -> Result<Request, Refusal> {
    const CHUNK: usize = 1024;
    let mut head = Vec::with_capacity(CHUNK);
    let mut chunk = [0; CHUNK];
    loop {
        let read = match stream.read(&mut chunk) {
            Ok(0) if head.is_empty() => {
                return Err(Refusal::Gone(io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(0) => return Err(Refusal::Status(400)),
            Ok(read) => read,
            Err(error) => {
                return Err(match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Refusal::Status(408),
                    _ => Refusal::Gone(error),
                });
            }
        };
        head.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if let Some(request) = parse(head.get(..limit).unwrap_or(&head))? {
            return Ok(request);
        }
        if head.len() >= limit {
            return Err(Refusal::Status(431));
        }
    }
}

/// The request, once its head is whole.
fn parse(head: &[u8]) -> Result<Option<Request>, Refusal> {
    const MOST_HEADERS: usize = 64;
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(_)) => {
            let (Some(method), Some(target)) = (request.method, request.path) else {
                return Err(Refusal::Status(400));
            };
            let path = target.split_once('?').map_or(target, |(path, _)| path);
            Ok(Some(Request {
                method: method.to_owned(),
                path: path.to_owned(),
            }))
        }
        Err(httparse::Error::TooManyHeaders) => Err(Refusal::Status(431)),
        Err(_) => Err(Refusal::Status(400)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(head: &[u8], limit: usize) -> u16 {
        match read(&mut &*head, limit) {
            Ok(_) => 200,
            Err(Refusal::Status(status)) => status,
            Err(Refusal::Gone(_)) => 0,
        }
    }

    #[test]
    fn a_head_is_understood_without_its_query() {
        let head = b"GET /metrics?name=x HTTP/1.1\r\nHost: device\r\n\r\nbody";
        let request = read(&mut &head[..], 8192).expect("valid");
        assert_eq!(request.method, "GET");
        assert_eq!(request.path, "/metrics");
    }

    #[test]
    fn what_is_wrong_with_a_head_is_told_by_the_status() {
        assert_eq!(status(b"", 100), 0);
        assert_eq!(status(b"GET / HTTP/1.1\r\nHost", 100), 400);
        assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\x00", 100), 400);
        assert_eq!(status(b"GET / HTTP/1.1\r\nHost: device\r\n\r\n", 20), 431);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        assert_eq!(status(many.as_bytes(), 8192), 431);
    }
}
