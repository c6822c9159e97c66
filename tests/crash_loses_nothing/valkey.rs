//! Valkey, which some distributions have in place of Redis.

use testkit::child::assert_passes_with_valkey;

#[test]
fn crash_at_call_over_valkey_loses_nothing() {
    assert_passes_with_valkey("mqtt5_session_kept::crash_at_call_loses_nothing");
}
