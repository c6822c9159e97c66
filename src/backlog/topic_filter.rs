//! Topic filters, with the wildcards of MQTT.

/// A topic filter: `+` stands for one level, and `#` at the end for any number of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFilter(String);

impl TopicFilter {
    /// Parses a filter (MQTT 5, section 4.7.1).
    ///
    /// # Errors
    ///
    /// The rule that the filter breaks.
    pub fn parse(filter: &str) -> Result<Self, &'static str> {
        if filter.is_empty() {
            return Err("a topic filter has at least one character");
        }
        let levels: Vec<&str> = filter.split('/').collect();
        let last = levels.len().saturating_sub(1);
        for (index, level) in levels.iter().enumerate() {
            if level.contains('#') && (*level != "#" || index != last) {
                return Err("# must be the whole last level, as in a/#");
            }
            if level.contains('+') && *level != "+" {
                return Err("+ must be a whole level, as in a/+/b");
            }
        }
        Ok(Self(filter.to_owned()))
    }

    /// Returns true if the filter matches this topic.
    ///
    /// As in a subscription, a wildcard in the first level matches no topic that begins with `$`.
    #[must_use]
    pub fn matches(&self, topic: &[u8]) -> bool {
        let filter = self.0.as_bytes();
        if topic.starts_with(b"$") && matches!(filter.first(), Some(b'+' | b'#')) {
            return false;
        }
        let mut levels = topic.split(|byte| *byte == b'/');
        for level in filter.split(|byte| *byte == b'/') {
            if level == b"#" {
                return true;
            }
            match levels.next() {
                Some(found) if level == b"+" || level == found => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_matches_as_in_specification() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/b", "a", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("a/+/c", "a/b/c", true),
            ("+", "a", true),
            ("+", "/a", false),
            ("/+", "/a", true),
            ("+/+", "/a", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "b", false),
            ("#", "a/b", true),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("a//b", "a//b", true),
        ] {
            let filter = TopicFilter::parse(filter).expect(filter);
            assert_eq!(
                filter.matches(topic.as_bytes()),
                expected,
                "{filter:?} {topic}"
            );
        }
        // A stored topic need not be UTF-8.
        let filter = TopicFilter::parse("a/+").expect("a filter");
        assert!(filter.matches(b"a/\xff"));
    }

    #[test]
    fn misplaced_wildcard_is_refused() {
        for filter in ["", "a#", "a/#/b", "#/a", "a+", "+a/b", "a/b+"] {
            assert!(TopicFilter::parse(filter).is_err(), "{filter}");
        }
    }
}
