//! [`Durability`]: what `put` waits for.

use crate::error::option_words::option_words;

/// Decides what `put` waits for, and so which records a crash of the store can cost.
///
/// While the store takes writes, a crash of the program alone loses no record with any of them. Records that
/// it does not take, in an outage or because it refuses them, exist only in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Waits until the store has confirmed the record.
    #[default]
    Confirmed,
    /// Waits until the operating system has accepted the record for the store.
    ///
    /// The store is asked for confirmation after at most 256 writes, 256 KiB or 0.1 s. Until then the
    /// record is lost if the program dies and the store crashes too, or refuses the write unnoticed, for
    /// example because it is full or read-only. A power cut loses it as well.
    ///
    /// Over TCP the kernel coalesces small writes until then, which saves Redis most of its work. It still
    /// sends them if the program dies.
    Pipelined,
    /// Waits until the disk of Redis has the record, so that a power cut does not lose it.
    ///
    /// Redis needs the settings `appendonly yes`, `appendfsync always` and `no-appendfsync-on-rewrite no`, with which
    /// it calls `fsync` before it replies, and the user the right `+config|get`. Connecting checks it, and fails with
    /// [`ErrorKind::NotSynced`](crate::ErrorKind::NotSynced) otherwise. A change of these settings is noticed
    /// within about a second, and counts as an outage. So does a disk that takes longer than `operation_timeout`.
    Synced,
}

option_words!(Durability, "durability": Confirmed = "confirmed", Pipelined = "pipelined", Synced = "synced");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn option_word_is_parsed_and_shown() {
        assert_eq!(
            "Confirmed".parse::<Durability>().expect("a word"),
            Durability::Confirmed
        );
        for durability in Durability::ALL {
            let parsed = durability.to_string().parse::<Durability>();
            assert_eq!(parsed.expect("its word"), *durability);
        }
        let error = "sync".parse::<Durability>().expect_err("no such word");
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert_eq!(
            error.to_string(),
            "cannot use the option durability: expected one of: confirmed, pipelined, synced"
        );
    }
}
