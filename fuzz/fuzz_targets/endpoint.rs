//! Fuzzes the endpoint: for any bytes in any pieces, the response is complete and one of a known set, or empty.

#![no_main]

use std::{
    collections::HashSet,
    io::{self, Read},
    sync::LazyLock,
};

use libfuzzer_sys::fuzz_target;
use paho_mqtt_redis::{
    fuzzing,
    prometheus::{IntCounter, Registry},
};

const TOKEN: &str = "t0ken";

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let counter = IntCounter::new("readings_total", "Readings.").unwrap();
    let registry = Registry::new();
    registry.register(Box::new(counter)).unwrap();
    registry
});

/// The behavior of a scripted peer.
#[derive(Clone, Copy)]
struct PeerBehavior {
    /// Bytes per read.
    read_size: usize,
    /// Set if the peer ends its side after its last byte; otherwise the time is over then.
    closes: bool,
    requires_token: bool,
    max_head_bytes: usize,
}

/// The peer's side of a connection.
struct ScriptedPeer<'a>(&'a [u8], PeerBehavior);

impl Read for ScriptedPeer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self(bytes, behavior) = self;
        if bytes.is_empty() && !behavior.closes {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let length = behavior.read_size.max(1).min(buffer.len());
        bytes.read(&mut buffer[..length])
    }
}

/// Returns all bytes that the peer receives, without the date.
fn exchange(sent: &[u8], behavior: PeerBehavior) -> Vec<u8> {
    let token = behavior.requires_token.then_some(TOKEN);
    let mut peer = ScriptedPeer(sent, behavior);
    let mut response =
        fuzzing::exchange(&mut peer, &REGISTRY, token, behavior.max_head_bytes);
    let line = b"\r\nDate: ";
    if let Some(start) = response.windows(line.len()).position(|bytes| bytes == line) {
        // Behind the name, the fixed length of a date.
        response.drain(start..start + line.len() + "Sun, 06 Nov 1994 08:49:37 GMT".len());
    }
    response
}

/// All possible responses, collected from well-formed requests.
///
/// A response with a byte of the fuzzed request is not among them, so this also finds injection.
static RESPONSES: LazyLock<HashSet<Vec<u8>>> = LazyLock::new(|| {
    let mut responses = HashSet::from([Vec::new()]);
    for requires_token in [false, true] {
        for max_head_bytes in [10, 8192] {
            for closes in [false, true] {
                let behavior = PeerBehavior {
                    read_size: usize::MAX,
                    closes,
                    requires_token,
                    max_head_bytes,
                };
                for request in requests() {
                    responses.insert(exchange(request.as_bytes(), behavior));
                }
            }
        }
    }
    responses
});

fn requests() -> Vec<String> {
    let mut requests = vec!["GET".to_owned(), "\0".to_owned()];
    for method in ["GET", "HEAD", "POST"] {
        for path in ["/metrics", "/-/ready", "/-/healthy", "/", "/other"] {
            for coding in ["", "Accept-Encoding: gzip\r\n"] {
                for token in [String::new(), format!("Authorization: Bearer {TOKEN}\r\n")] {
                    requests.push(format!("{method} {path} HTTP/1.1\r\n{coding}{token}\r\n"));
                }
            }
        }
    }
    requests
}

fuzz_target!(|data: &[u8]| {
    // The third byte is unused, so that the corpus keeps its meaning.
    let [flags, read, _, request @ ..] = data else {
        return;
    };
    let behavior = PeerBehavior {
        read_size: usize::from(*read),
        closes: flags & 1 == 1,
        requires_token: flags & 2 == 2,
        max_head_bytes: [8192, 8192, 200, 40][usize::from(flags >> 2 & 3)],
    };
    let response = exchange(request, behavior);
    assert!(
        RESPONSES.contains(&response),
        "{}",
        String::from_utf8_lossy(&response)
    );
});
