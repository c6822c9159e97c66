//! Answers a request without a socket and without a clock, for the fuzzer.

#![allow(missing_docs)]

use std::{io::Read, time::UNIX_EPOCH};

use prometheus::Registry;

use super::{
    collector::render,
    connection::{read_and_route, write_response},
    credentials::{CredentialSources, Scheme, Secret},
    files::Files,
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
    let Some((routed, head_only)) = read_and_route(stream, &access, max_head_bytes) else {
        return received;
    };
    let rendered = routed.map(|request| render(&registry.gather(), request, UNIX_EPOCH));
    if let Ok(Ok(response)) | Err(response) = rendered {
        // Writing to memory does not fail.
        let _ = write_response(&mut received, &response, head_only, || {});
    }
    received
}
