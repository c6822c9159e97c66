//! A store that panics.

use std::time::Duration;

use super::bench::{Bench, command};
use crate::{error::ErrorKind, persistence::simulated::Settings};

#[test]
fn panic_of_store_is_outage() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.content().panics = true;
    bench.put("c-1", &command(1, 1, b"during a call"));
    assert!(!bench.is_up());
    bench.run(Duration::from_secs(3));
    let error = bench.persistence.health().last_error().expect("an outage");
    assert_eq!(error.kind(), ErrorKind::Other);
    bench.content().panics = false;
    bench.run(Duration::from_secs(3));
    assert!(bench.is_up());
    assert_eq!(bench.stored_keys(), ["c-1"]);
}
