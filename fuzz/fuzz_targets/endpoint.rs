//! Whatever a peer of the endpoint sends, and however it comes, the answer is one of a few, whole or none.

#![no_main]

use std::{collections::HashSet, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use paho_mqtt_redis::fuzzing::{PeerBehavior, TOKEN, exchange};

/// Every answer that there is. Nothing of a request can be in them, since they come from other requests.
static ANSWERS: LazyLock<HashSet<Vec<u8>>> = LazyLock::new(|| {
    let mut answers = HashSet::from([Vec::new()]);
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
                    answers.insert(exchange(request.as_bytes(), behavior));
                }
            }
        }
    }
    answers
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
        // Zero is as much as there is, so that most of the time goes into reading.
        write_size: match write % 8 {
            0 => usize::from(*write) + 1,
            _ => usize::MAX,
        },
        closes: flags & 1 == 1,
        requires_token: flags & 2 == 2,
        max_head_bytes: [8192, 8192, 200, 40][usize::from(flags >> 2 & 3)],
    };
    let answer = exchange(request, behavior);
    assert!(
        ANSWERS.contains(&answer),
        "{}",
        String::from_utf8_lossy(&answer)
    );
});
