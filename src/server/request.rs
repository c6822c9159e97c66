//! Parses the head of a request within a size limit.

use httparse::Header;

/// The parts of a request that decide the response.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without the query, and without the host of an absolute-form target.
    pub(super) path: String,
    pub(super) authorization: Option<Vec<u8>>,
    pub(super) accepts_gzip: bool,
}

/// The bytes of a head received so far. A body behind it is ignored.
#[derive(Debug, Default)]
pub(super) struct RequestHead(Vec<u8>);

impl RequestHead {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the request once its head is complete, or the status for an invalid head.
    pub(super) fn push(&mut self, bytes: &[u8], limit: usize) -> Result<Option<Request>, u16> {
        self.0.extend_from_slice(bytes);
        if let Some(request) = parse(self.0.get(..limit).unwrap_or(&self.0))? {
            return Ok(Some(request));
        }
        if self.0.len() >= limit {
            return Err(431);
        }
        Ok(None)
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
            let is_gzip = name.trim().eq_ignore_ascii_case("gzip");
            // A weight has up to three decimals, so zero is also written 0.000.
            let is_refused = weight.trim().split_once('=').is_some_and(|(_, weight)| {
                !weight.is_empty()
                    && weight
                        .trim()
                        .chars()
                        .all(|digit| matches!(digit, '0' | '.'))
            });
            is_gzip && !is_refused
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &[u8], limit: usize) -> Result<Option<Request>, u16> {
        RequestHead::default().push(head, limit)
    }

    fn status(head: &[u8], limit: usize) -> u16 {
        match read(head, limit) {
            Ok(Some(_)) => 200,
            Ok(None) => 0,
            Err(status) => status,
        }
    }

    fn with(headers: &str) -> u16 {
        status(
            format!("GET / HTTP/1.1\r\nHost: device\r\n{headers}\r\n\r\n").as_bytes(),
            8192,
        )
    }

    #[test]
    fn query_is_ignored() {
        let head = b"GET /metrics?name=x HTTP/1.1\r\nHost: device\r\n\r\nbody";
        let request = read(head, 8192).expect("valid").expect("complete");
        assert_eq!(request.method, "GET");
        assert_eq!(request.path, "/metrics");
        assert_eq!(request.authorization, None);
        assert!(!request.accepts_gzip);
    }

    #[test]
    fn split_head_parses() {
        let text = b"GET /metrics HTTP/1.1\r\nHost: device\r\n\r\n";
        let (last, rest) = text.split_last().expect("bytes");
        let mut head = RequestHead::default();
        for byte in rest {
            assert_eq!(head.push(&[*byte], 8192), Ok(None));
        }
        assert!(head.push(&[*last], 8192).expect("valid").is_some());
    }

    #[test]
    fn absolute_form_target_parses() {
        for (target, expected) in [
            ("http://device:9464/metrics?x", "/metrics"),
            ("https://device", "/"),
            ("ftp://device/metrics", "ftp://device/metrics"),
            ("*", "*"),
        ] {
            assert_eq!(path(target), expected, "{target}");
        }
    }

    #[test]
    fn invalid_head_sets_status() {
        assert_eq!(status(b"GET / HTTP/1.1\r\nHost", 100), 0);
        assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\x00", 100), 400);
        assert_eq!(status(b"GET / HTTP/1.1\r\nHost: device\r\n\r\n", 20), 431);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        assert_eq!(status(many.as_bytes(), 8192), 431);
    }

    #[test]
    fn ambiguous_body_length_is_rejected() {
        for good in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
            assert_eq!(with(good), 200, "{good}");
        }
        for bad in [
            "Host: another",
            "Content-Length: 4\r\nContent-Length: 5",
            "Content-Length: 4\r\nContent-Length: 4",
            "Content-Length: 4, 4",
            "Content-Length: +4",
            "Content-Length: 0x4",
            "Content-Length:",
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding : chunked",
            " Transfer-Encoding: chunked",
            "Authorization: Bearer a\r\nAuthorization: Bearer b",
        ] {
            assert_eq!(with(bad), 400, "{bad}");
        }
    }

    #[test]
    fn accept_encoding_gzip_parses() {
        for (value, expected) in [
            ("gzip", true),
            ("GZIP", true),
            ("deflate, gzip;q=0.5, br", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("gzip;q=0.001", true),
            ("deflate", false),
            ("xgzip", false),
            ("", false),
        ] {
            let head =
                format!("GET / HTTP/1.1\r\nHost: device\r\nAccept-Encoding: {value}\r\n\r\n");
            let request = read(head.as_bytes(), 8192)
                .expect("valid")
                .expect("complete");
            assert_eq!(request.accepts_gzip, expected, "{value}");
        }
    }
}
