//! Fuzzes the endpoint: for any bytes in any pieces, the response is complete and one of a known set, or empty.

#![no_main]

use std::{collections::HashSet, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use paho_mqtt_redis::fuzzing::{PeerBehavior, TOKEN, exchange};

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
                    write_size: usize::MAX,
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
    let [flags, read, write, request @ ..] = data else {
        return;
    };
    let behavior = PeerBehavior {
        read_size: usize::from(*read),
        // Mostly whole writes, so that the fuzzer spends its time on reading.
        write_size: match write % 8 {
            0 => usize::from(*write) + 1,
            _ => usize::MAX,
        },
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
