//! Responses, each complete before its first byte is sent.
//!
//! No byte of the request appears in one, so a peer cannot inject anything.

use std::{
    io::{self, Write},
    sync::Arc,
};

use flate2::{Compression, write::GzEncoder};
use tiny_http::{HTTPVersion, Header, StatusCode};

use super::{credentials::Access, page, request::Request};

/// A response that needs the contents of the registry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CollectRequest {
    pub(super) resource: Resource,
    pub(super) accepts_gzip: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    Metrics,
    Page,
    Readiness,
}

/// Returns what to collect, or else the response.
///
/// Credentials come first: without one, not even the paths are disclosed.
pub(super) fn route(request: &Request, access: &Access) -> Result<CollectRequest, Response> {
    if !access.is_authorized(request.authorization.as_deref()) {
        let extra = Some(("WWW-Authenticate", access.challenge));
        let text = page::unauthorized(access.challenge);
        return Err(Response::text(401, text).with(extra));
    }
    let resource = match request.path.as_str() {
        "/metrics" => Some(Resource::Metrics),
        "/" => Some(Resource::Page),
        "/-/ready" => Some(Resource::Readiness),
        "/-/healthy" => None,
        _ => {
            let text = "404 Not Found\nThe metrics are at /metrics.\n";
            return Err(Response::text(404, text));
        }
    };
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Err(Response::status_only(405).with(Some(("Allow", "GET, HEAD"))));
    }
    let accepts_gzip = request.accepts_gzip;
    let request = resource.map(|resource| CollectRequest {
        resource,
        accepts_gzip,
    });
    request.ok_or_else(|| Response::text(200, "healthy\n"))
}

#[derive(Clone)]
pub(super) struct Response {
    status: u16,
    content_type: &'static str,
    security_policy: &'static str,
    /// An additional header, such as `Allow`.
    extra: Option<(&'static str, &'static str)>,
    /// Shared by the responses of one collection.
    pub(super) body: Arc<Vec<u8>>,
}

impl Response {
    pub(super) fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            security_policy: "default-src 'none'; frame-ancestors 'none'",
            extra: None,
            body: Arc::new(body.into()),
        }
    }

    /// A response whose body is the status line in words.
    pub(super) fn status_only(status: u16) -> Self {
        let reason = StatusCode(status).default_reason_phrase();
        Self::text(status, format!("{status} {reason}\n"))
    }

    pub(super) fn metrics(body: impl Into<Vec<u8>>) -> Self {
        Self {
            // The prometheus crate's own constant leaves out the character set.
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            ..Self::text(200, body)
        }
    }

    pub(super) fn page(body: impl Into<Vec<u8>>) -> Self {
        Self {
            content_type: "text/html; charset=utf-8",
            security_policy: page::SECURITY_POLICY,
            ..Self::text(200, body)
        }
    }

    pub(super) fn compressed(self) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory does not fail.
        drop(encoder.write_all(&self.body));
        Self {
            body: Arc::new(encoder.finish().unwrap_or_default()),
            ..self.with(Some(("Content-Encoding", "gzip")))
        }
    }

    fn with(self, extra: Option<(&'static str, &'static str)>) -> Self {
        Self { extra, ..self }
    }

    /// Returns everything before the body.
    pub(super) fn head(&self) -> Vec<u8> {
        let headers = [
            ("Server", "paho-mqtt-redis"),
            ("Content-Type", self.content_type),
            ("Content-Security-Policy", self.security_policy),
            ("Cache-Control", "no-store"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("Vary", "Accept-Encoding"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
        ];
        let headers = headers.into_iter().chain(self.extra);
        // All of them are ASCII, so none is left out.
        let headers = headers.filter_map(|(name, value)| Header::from_bytes(name, value).ok());
        let (status, length) = (StatusCode(self.status), Some(self.body.len()));
        let mut head = Vec::new();
        let response =
            tiny_http::Response::new(status, headers.collect(), io::empty(), length, None)
                .with_chunked_threshold(usize::MAX);
        // Writing to memory does not fail.
        drop(response.raw_print(&mut head, HTTPVersion(1, 1), &[], true, None));
        // `tiny_http` leaves this header to its own accept loop. It goes before the empty line.
        head.truncate(head.len().saturating_sub(2));
        head.extend_from_slice(b"Connection: close\r\n\r\n");
        head
    }
}
