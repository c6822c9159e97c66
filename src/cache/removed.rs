//! The records that were removed or replaced lately, recognized by a hash.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasherDefault,
};

use crate::paho::KeyHasher;

/// Hashes of records that this process knew and that are gone.
///
/// A store that comes back with older data has some of them again. They are removed once more; any
/// other record that is not live has never been known here and must not be deleted.
#[derive(Default)]
pub(crate) struct RemovedRecords {
    order: VecDeque<u64>,
    /// The number of times that each hash is in `order`.
    counts: HashMap<u64, u32, BuildHasherDefault<KeyHasher>>,
}

/// The number of records that are remembered, in up to 300 KB.
///
/// An AOF with `appendfsync everysec` may lose a second, in which a busy client removes a few thousand
/// records. A record that was removed earlier goes to the quarantine if it comes back.
const MAX_REMEMBERED: usize = 8 * 1024;

impl RemovedRecords {
    /// Remembers a record, and forgets the oldest one if there are too many.
    pub(crate) fn add(&mut self, hash: u64) {
        self.order.push_back(hash);
        let count = self.counts.entry(hash).or_default();
        *count = count.saturating_add(1);
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
    }

    pub(crate) fn contains(&self, hash: u64) -> bool {
        self.counts.contains_key(&hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_record_is_forgotten_first() {
        let mut removed = RemovedRecords::default();
        let last = u64::try_from(MAX_REMEMBERED).expect("small");
        removed.add(0);
        for hash in 0..last {
            removed.add(hash);
        }
        // One of two equal hashes is left.
        assert!(removed.contains(0) && removed.contains(last - 1));
        removed.add(last);
        assert!(!removed.contains(0) && removed.contains(1) && removed.contains(last));
        assert_eq!(removed.order.len(), MAX_REMEMBERED);
        assert_eq!(removed.counts.len(), MAX_REMEMBERED);
    }
}
