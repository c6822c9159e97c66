//! Parses the head of a request within a size limit.

use std::io::{self, Read};

use httparse::Header;

/// The parts of a request that decide the response.
pub(super) struct Request {
    pub(super) method: String,
    /// Without the query, and without the host of an absolute-form target.
    pub(super) path: String,
    pub(super) authorization: Option<Vec<u8>>,
    pub(super) accepts_gzip: bool,
}

/// Reads the head of a request. A body behind it is ignored.
///
/// Returns `None` if the peer is gone, and the status for a head that is invalid, too long or too late.
pub(super) fn read_request(stream: &mut dyn Read, limit: usize) -> Result<Option<Request>, u16> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) if head.is_empty() => return Ok(None),
            Ok(0) => return Err(400),
            Ok(read) => head.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(408),
            // As `Ok(0)`, over TLS: HTTP shows whether the request was complete.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !head.is_empty() => {
                return Err(400);
            }
            Err(_) => return Ok(None),
        }
        if let Some(request) = parse(head.get(..limit).unwrap_or(&head))? {
            return Ok(Some(request));
        }
        if head.len() >= limit {
            return Err(431);
        }
    }
}

fn parse(head: &[u8]) -> Result<Option<Request>, u16> {
    const MAX_HEADERS: usize = 64;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(431),
        Err(_) => return Err(400),
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(400);
    };
    check_framing(request.headers, version)?;
    let mut authorizations = values(request.headers, "Authorization");
    let authorization = authorizations.next().map(<[u8]>::to_vec);
    // A proxy may have checked the other one.
    if authorizations.next().is_some() {
        return Err(400);
    }
    Ok(Some(Request {
        method: method.to_owned(),
        path: path(target).to_owned(),
        authorization,
        accepts_gzip: accepts_gzip(request.headers),
    }))
}

fn values<'a>(headers: &'a [Header<'_>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value)
}

/// Rejects a head that a proxy in front could interpret differently: the end of the body, or the host.
///
/// Such a difference allows request smuggling. A missing `Host` is accepted, since one server has one host.
fn check_framing(headers: &[Header<'_>], version: u8) -> Result<(), u16> {
    if values(headers, "Host").count() > 1 {
        return Err(400);
    }
    let mut lengths = values(headers, "Content-Length");
    let length = lengths.next();
    let is_number = |length: &[u8]| !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    if !length.is_none_or(is_number) || lengths.next().is_some() {
        return Err(400);
    }
    // HTTP/1.0 has no chunks, and a proxy of that version would forward them as the next request.
    let mut codings = values(headers, "Transfer-Encoding");
    if let Some(coding) = codings.next() {
        let is_plain = coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        if !is_plain || length.is_some() || version == 0 {
            return Err(400);
        }
    }
    Ok(())
}

fn path(target: &str) -> &str {
    let target = target.split_once('?').map_or(target, |(path, _)| path);
    if target.starts_with('/') {
        return target;
    }
    // Absolute form, which clients send to proxies, and which RFC 9112 requires servers to accept.
    match target.split_once("://") {
        Some(("http" | "https", rest)) => {
            rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
        }
        _ => target,
    }
}

fn accepts_gzip(headers: &[Header<'_>]) -> bool {
    values(headers, "Accept-Encoding")
        .filter_map(|value| str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = weight.split_once('=').map(|(_, weight)| weight.trim());
            let is_refused = weight.is_some_and(|weight| weight.parse() == Ok(0.0));
            name.trim().eq_ignore_ascii_case("gzip") && !is_refused
        })
}
