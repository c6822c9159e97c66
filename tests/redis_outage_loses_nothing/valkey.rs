//! Valkey, which some distributions have in place of Redis.

use testkit::child::assert_passes_with_valkey;

#[test]
fn valkey_syncs_before_it_replies() {
    assert_passes_with_valkey("synced::");
}
