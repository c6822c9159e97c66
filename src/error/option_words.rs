//! The words for the values of an option, as in a variable of the environment or an argument.

use super::Error;

/// Implements `ALL`, `as_str`, `Display` and `FromStr` for an option with a word for each of its values.
macro_rules! option_words {
    ($type:ident, $option:literal: $($value:ident = $word:literal),+) => {
        impl $type {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            /// Returns the word for the value, which `FromStr` accepts.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $word),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        /// Parses the word, in capitals or not.
        ///
        /// # Errors
        ///
        /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption), with the allowed words in its text.
        impl std::str::FromStr for $type {
            type Err = $crate::Error;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                $crate::error::option_words::find($option, word, Self::ALL, Self::as_str)
            }
        }
    };
}
pub(crate) use option_words;

/// Returns the value with this word.
pub(crate) fn find<T: Copy>(
    option: &str,
    word: &str,
    all: &[T],
    as_str: impl Fn(T) -> &'static str,
) -> Result<T, Error> {
    let found = all.iter().copied();
    let mut found = found.filter(|value| as_str(*value).eq_ignore_ascii_case(word));
    found.next().ok_or_else(|| {
        let words: Vec<&str> = all.iter().map(|value| as_str(*value)).collect();
        Error::invalid_option(option).with_reason(format!("expected one of: {}", words.join(", ")))
    })
}
