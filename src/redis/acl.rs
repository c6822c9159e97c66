//! Which right a user of Redis lacks, as far as the words of its `NOPERM` name it.

/// Why Redis refuses a command, and what to do, where the words name the command.
pub(super) fn missing_command(words: &str) -> Option<String> {
    // "… has no permissions to run the 'hset' command", since Redis 6.
    let (_, rest) = words.split_once("to run the '")?;
    let (command, _) = rest.split_once("' command")?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"|-_.".contains(&byte);
    command.bytes().all(is_name).then(|| {
        format!(
            "the user may not run the command {command}; grant it +{command}, or all of the ACL \
             line in the README"
        )
    })
}

/// Why Redis refuses the hash, and what to do, where the words are about a key.
pub(super) fn missing_key(words: &str, key_prefix: &str, hash: &str) -> Option<String> {
    // "No permissions to access a key", and before Redis 7 "… to access one of the keys used …".
    if !words.contains("to access") || !words.contains("key") {
        return None;
    }
    let (whose, pattern) = if key_prefix.is_empty() {
        ("this key", format!("{}*", literal(hash)))
    } else {
        ("this key_prefix", format!("{}*", literal(key_prefix)))
    };
    Some(format!(
        "the user may not use this key; grant it ~{pattern}, the pattern of {whose}, as in the ACL \
         line in the README"
    ))
}

/// A pattern that stands for this text only.
fn literal(text: &str) -> String {
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
            let told = missing_command(words).expect(words);
            assert!(told.contains("the command hset;"), "{told}");
            assert!(told.contains("+hset,"), "{told}");
            assert_eq!(missing_key(words, "", "hash"), None);
        }
        assert_eq!(missing_command("NOPERM to run the 'a b' command"), None);
        assert_eq!(missing_command("NOPERM"), None);
    }

    #[test]
    fn key_pattern_is_prefix_or_key() {
        for words in [
            "NOPERM No permissions to access a key",
            "NOPERM this user has no permissions to access one of the keys used as arguments",
        ] {
            let told = missing_key(words, "mqtt:", "mqtt:a:b").expect(words);
            assert!(told.contains("~mqtt:*,"), "{told}");
            let told = missing_key(words, "", "a:[::1]:1883").expect(words);
            assert!(told.contains(r"~a:\[::1\]:1883*,"), "{told}");
            assert_eq!(missing_command(words), None);
        }
        assert_eq!(missing_key("NOPERM", "", "a:b"), None);
    }
}
