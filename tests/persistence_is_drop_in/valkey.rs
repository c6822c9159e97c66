//! Valkey, which some distributions have in place of Redis.

use testkit::child::assert_passes_with_valkey;

#[test]
fn valkey_gives_same_answers() {
    assert_passes_with_valkey("conformance::redis_unix");
}
