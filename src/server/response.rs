//! What is answered to which request.

use std::io;

use prometheus::{Encoder, Registry, TextEncoder};
use tiny_http::{HTTPVersion, Header};
use tracing::warn;

use super::request::Request;

/// An answer, complete before its first byte is sent.
pub(super) struct Response {
    status: u16,
    content_type: &'static str,
    allow: bool,
    body: Vec<u8>,
    head_only: bool,
}

const PLAIN: &str = "text/plain; charset=utf-8";

/// Routes the request.
pub(super) fn to(request: &Request, registry: &Registry) -> Response {
    let head_only = request.method == "HEAD";
    let response = match (request.path.as_str(), request.method.as_str()) {
        ("/metrics", "GET" | "HEAD") => metrics(registry),
        ("/metrics", _) => Response {
            allow: true,
            ..refusal(405)
        },
        _ => Response {
            body: b"404 Not Found\nThe metrics are at /metrics.\n".to_vec(),
            ..refusal(404)
        },
    };
    Response {
        head_only,
        ..response
    }
}

fn metrics(registry: &Registry) -> Response {
    let mut body = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut body) {
        Ok(()) => Response {
            content_type: TEXT_FORMAT_UTF8,
            body,
            ..refusal(200)
        },
        Err(error) => {
            warn!(%error, "the metrics cannot be written as text");
            refusal(500)
        }
    }
}

/// The prometheus crate's own constant leaves out the character set.
const TEXT_FORMAT_UTF8: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A status and its name, nothing of the request.
pub(super) fn refusal(status: u16) -> Response {
    let reason = tiny_http::StatusCode(status).default_reason_phrase();
    Response {
        status,
        content_type: PLAIN,
        allow: false,
        body: format!("{status} {reason}\n").into_bytes(),
        head_only: false,
    }
}

impl Response {
    pub(super) fn into_bytes(self) -> io::Result<Vec<u8>> {
        let Self {
            status,
            content_type,
            allow,
            body,
            head_only,
        } = self;
        let mut headers = vec![
            ("Server", "paho-mqtt-redis"),
            ("Content-Type", content_type),
            ("X-Content-Type-Options", "nosniff"),
        ];
        if allow {
            headers.push(("Allow", "GET, HEAD"));
        }
        let headers = headers
            .into_iter()
            .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
            .collect();
        let length = body.len();
        let response = tiny_http::Response::new(status.into(), headers, &*body, Some(length), None)
            .with_chunked_threshold(usize::MAX);
        let mut bytes = Vec::with_capacity(length.saturating_add(512));
        response.raw_print(&mut bytes, HTTPVersion(1, 1), &[], head_only, None)?;
        // tiny_http keeps this header to itself, but a connection serves one request only.
        if let Some(line) = bytes.windows(2).position(|window| window == b"\r\n") {
            bytes.splice(line..line, *b"\r\nConnection: close");
        }
        Ok(bytes)
    }
}
