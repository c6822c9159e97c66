//! Answers a request without a socket and without a clock, for the fuzzer.

#![allow(missing_docs)]

use std::{io::Read, time::UNIX_EPOCH};

use prometheus::Registry;

use super::{
    collector::render,
    credentials::{CredentialSources, Scheme, Secret},
    files::Files,
    request::read_request,
    response::{Response, route},
};

/// Returns all bytes that a peer receives for what it sent. A request needs the token, if one is given.
pub fn exchange(
    stream: &mut dyn Read,
    registry: &Registry,
    token: Option<&str>,
    max_head_bytes: usize,
) -> Vec<u8> {
    let mut received = Vec::new();
    let mut sources = CredentialSources::default();
    let token = token.map(|token| (Scheme::Bearer, Secret::Text(token.to_owned())));
    sources.secrets.extend(token);
    let Ok(access) = sources.parse(&Files::default()) else {
        return received;
    };
    let (routed, head_only) = match read_request(stream, max_head_bytes) {
        Ok(Some(request)) => (route(&request, &access), request.method == "HEAD"),
        Ok(None) => return received,
        Err(status) => (Err(Response::status_only(status)), false),
    };
    let rendered = routed.map(|request| render(&registry.gather(), request, UNIX_EPOCH));
    if let Ok(Ok(response)) | Err(response) = rendered {
        received = response.head();
        received.extend_from_slice(if head_only { &[] } else { &response.body });
    }
    received
}
