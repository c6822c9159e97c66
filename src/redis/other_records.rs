//! Finds hashes of the same client id under another server URI.

use std::collections::BTreeSet;

use ::redis::Value;

use super::{
    acl, connection::RedisConnection, exchange_error::ExchangeError, write_commands::is_companion,
};
use crate::{error::ErrorKind, store::OtherRecords};

/// The number of keys that Redis looks at per `SCAN`, which takes it about a millisecond.
const KEYS_PER_SCAN: &str = "10000";
/// The number of scans, each of which is a round trip. The Redis of a device needs one.
const MAX_SCANS: usize = 10;
/// The number of hashes that are counted and reported.
const MAX_FOUND: usize = 64;

/// Finds hashes whose keys begin with both prefixes, except `own` and the companions of hashes, such as
/// their quarantine; returns their names, which are without the key prefix.
///
/// Keys that are no hash, or that the user may not access, are skipped.
pub(super) fn find(
    connection: &mut RedisConnection,
    key_prefix: &str,
    prefix: &str,
    own: &str,
) -> Result<Vec<OtherRecords>, ExchangeError> {
    let pattern = pattern_of(key_prefix, prefix);
    // A scan may return a key twice.
    let mut hashes = BTreeSet::new();
    let mut cursor = START.to_owned();
    for _ in 0..MAX_SCANS {
        let (next, keys) = scan(connection, &cursor, &pattern)?;
        let is_other = |key: &String| key != own && !is_companion(key);
        hashes.extend(keys.into_iter().filter(is_other));
        cursor = next;
        if cursor == START || hashes.len() >= MAX_FOUND {
            break;
        }
    }
    let hashes: Vec<String> = hashes.into_iter().take(MAX_FOUND).collect();
    let counts = count_records(connection, &hashes)?;
    let counted = hashes.iter().zip(counts);
    let found = counted.filter_map(|(hash, records)| {
        let name = hash.strip_prefix(key_prefix)?.to_owned();
        let records = records.filter(|records| *records > 0)?;
        Some(OtherRecords { name, records })
    });
    Ok(found.collect())
}

/// The cursor with which a scan starts, and which the last step of it returns.
pub(super) const START: &str = "0";

/// Returns the pattern of `SCAN` for keys that begin with both prefixes.
pub(super) fn pattern_of(key_prefix: &str, prefix: &str) -> String {
    format!("{}*", acl::escape_pattern(&format!("{key_prefix}{prefix}")))
}

/// Makes one step of a scan; returns the next cursor, and the keys that it has found.
pub(super) fn scan(
    connection: &mut RedisConnection,
    cursor: &str,
    pattern: &str,
) -> Result<(String, Vec<String>), ExchangeError> {
    let words = ["SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_PER_SCAN];
    connection.exchange(
        |commands| commands.push_words(&words),
        |replies| scan_reply(replies.read_reply()?),
    )
}

/// Counts the entries of each hash; `None` for a key that is no hash, or that the user may not access.
pub(super) fn count_records(
    connection: &mut RedisConnection,
    hashes: &[String],
) -> Result<Vec<Option<usize>>, ExchangeError> {
    if hashes.is_empty() {
        return Ok(Vec::new());
    }
    connection.exchange(
        |commands| {
            for hash in hashes {
                commands.push_words(&["HLEN", hash]);
            }
        },
        |replies| {
            let counts = hashes.iter().map(|_| match replies.read_reply() {
                Ok(Value::Int(records)) => Ok(Some(usize::try_from(records).unwrap_or_default())),
                Ok(_) => Err(ExchangeError::protocol("expected an integer")),
                Err(ExchangeError::ErrorReply(ErrorKind::WrongType | ErrorKind::Permission, _)) => {
                    Ok(None)
                }
                Err(failure) => Err(failure),
            });
            counts.collect()
        },
    )
}

/// Parses the reply to `SCAN`: the next cursor, and keys; those that are not UTF-8 are skipped.
fn scan_reply(reply: Value) -> Result<(String, Vec<String>), ExchangeError> {
    let text = |value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    };
    if let Value::Array(parts) = reply
        && let Ok([cursor, Value::Array(keys)]) = <[Value; 2]>::try_from(parts)
        && let Some(cursor) = text(cursor)
    {
        return Ok((cursor, keys.into_iter().filter_map(text).collect()));
    }
    Err(ExchangeError::protocol("SCAN returned an unexpected reply"))
}
