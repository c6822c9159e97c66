//! The right that a user of Redis lacks, parsed from the text of a `NOPERM` reply.
//!
//! `preflight.rs` lists the commands that the ACL must permit, and `store.rs` those without which the
//! store works with less.

/// Returns the reason for an error and what to do, if the reply names the denied command.
pub(super) fn missing_command_reason(words: &str) -> Option<String> {
    // "… has no permissions to run the 'hset' command", since Redis 6.
    let (_, rest) = words.split_once("to run the '")?;
    let (command, _) = rest.split_once("' command")?;
    // Only what looks like a command is repeated in the error.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"|-_.".contains(&byte);
    command.bytes().all(is_name).then(|| {
        format!(
            "the user may not run {command}; grant +{command}, or use the ACL line in docs/redis.md"
        )
    })
}

/// Returns the reason for an error and what to do, if the reply is about the right to a key.
///
/// Without a `key_prefix` the user's ACL usually has a pattern for one, so the advice starts with
/// the option and not with another pattern.
pub(super) fn missing_key_reason(words: &str, key_prefix: &str, hash: &str) -> Option<String> {
    // "No permissions to access a key", and before Redis 7 "… to access one of the keys used …".
    if !words.contains("to access") || !words.contains("key") {
        return None;
    }
    Some(if key_prefix.is_empty() {
        format!(
            "the user may not access this key, and no key_prefix is set; if the ACL line has a \
             pattern such as ~mqtt:*, set key_prefix to mqtt:, otherwise grant ~{}*",
            escape_pattern(hash)
        )
    } else {
        format!(
            "the user may not access this key; grant ~{}*, or set key_prefix to a prefix that its \
             ACL line allows",
            escape_pattern(key_prefix)
        )
    })
}

/// Escapes a text, so that as a pattern of an ACL or of `SCAN` it matches only itself.
pub(super) fn escape_pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if "*?[]^\\".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_command_is_named_for_each_redis_version() {
        for words in [
            "NOPERM User meter has no permissions to run the 'hset' command",
            "NOPERM this user has no permissions to run the 'hset' command or its subcommand",
            "EXECABORT Transaction discarded because of: NOPERM User meter has no permissions to \
             run the 'hset' command",
        ] {
            let reason = missing_command_reason(words).expect(words);
            assert!(reason.contains("may not run hset;"), "{reason}");
            assert!(reason.contains("+hset,"), "{reason}");
            assert_eq!(missing_key_reason(words, "", "hash"), None);
        }
        assert_eq!(
            missing_command_reason("NOPERM to run the 'a b' command"),
            None
        );
        assert_eq!(missing_command_reason("NOPERM"), None);
    }

    #[test]
    fn key_pattern_is_prefix_or_key() {
        for words in [
            "NOPERM No permissions to access a key",
            "NOPERM this user has no permissions to access one of the keys used as arguments",
        ] {
            let reason = missing_key_reason(words, "mqtt:", "mqtt:a:b").expect(words);
            assert!(reason.contains("grant ~mqtt:*,"), "{reason}");
            let reason = missing_key_reason(words, "", "a:[::1]:1883").expect(words);
            assert!(reason.contains("no key_prefix is set"), "{reason}");
            assert!(
                reason.ends_with(r"otherwise grant ~a:\[::1\]:1883*"),
                "{reason}"
            );
            assert_eq!(missing_command_reason(words), None);
        }
        assert_eq!(missing_key_reason("NOPERM", "", "a:b"), None);
    }
}
