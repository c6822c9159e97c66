//! An HTTP response, complete before its first byte is sent.
//!
//! No byte of the request appears in it, so a peer cannot inject anything.

use std::{fmt::Write as _, sync::Arc};

use super::page;

pub(super) struct Response {
    status: u16,
    kind: BodyKind,
    /// An additional header, such as `Allow`.
    extra: Option<(&'static str, &'static str)>,
    is_gzip: bool,
    body: Arc<Vec<u8>>,
    head_only: bool,
}

/// The content of a body, which decides its type and security policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyKind {
    Text,
    Metrics,
    Page,
}

impl BodyKind {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            // The prometheus crate's own constant leaves out the character set.
            Self::Metrics => "text/plain; version=0.0.4; charset=utf-8",
            Self::Page => "text/html; charset=utf-8",
        }
    }

    const fn security_policy(self) -> &'static str {
        match self {
            Self::Text | Self::Metrics => "default-src 'none'; frame-ancestors 'none'",
            Self::Page => page::SECURITY_POLICY,
        }
    }
}

impl Response {
    pub(super) fn new(status: u16, kind: BodyKind, body: Arc<Vec<u8>>) -> Self {
        Self {
            status,
            kind,
            extra: None,
            is_gzip: false,
            body,
            head_only: false,
        }
    }

    pub(super) fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, BodyKind::Text, Arc::new(body.into()))
    }

    /// A response whose body is the status line in words.
    pub(super) fn status_only(status: u16) -> Self {
        Self::text(status, format!("{status} {}\n", reason_phrase(status)))
    }

    pub(super) fn with_header(self, name: &'static str, value: &'static str) -> Self {
        Self {
            extra: Some((name, value)),
            ..self
        }
    }

    pub(super) fn compressed(self, is_gzip: bool) -> Self {
        Self { is_gzip, ..self }
    }

    pub(super) fn head_only(self, head_only: bool) -> Self {
        Self { head_only, ..self }
    }

    /// Encodes everything up to the body, and returns it with the body, which responses share.
    pub(super) fn into_parts(self) -> (Vec<u8>, Arc<Vec<u8>>) {
        let Self {
            status,
            kind,
            extra,
            is_gzip,
            body,
            head_only,
        } = self;
        let length = body.len();
        let mut head = format!(
            "HTTP/1.1 {status} {}\r\n\
             Server: paho-mqtt-redis\r\n\
             Connection: close\r\n\
             Content-Type: {}\r\n\
             Content-Length: {length}\r\n\
             Content-Security-Policy: {}\r\n\
             Cache-Control: no-store\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\n\
             Referrer-Policy: no-referrer\r\n\
             Vary: Accept-Encoding\r\n\
             X-Content-Type-Options: nosniff\r\n\
             X-Frame-Options: DENY\r\n",
            reason_phrase(status),
            kind.content_type(),
            kind.security_policy(),
        );
        if is_gzip {
            head.push_str("Content-Encoding: gzip\r\n");
        }
        if let Some((name, value)) = extra {
            // Writing to a string does not fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        let body = if head_only { Arc::default() } else { body };
        (head.into_bytes(), body)
    }
}

const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}
