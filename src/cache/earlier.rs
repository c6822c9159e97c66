//! Loads the records of an earlier run after open, if the store was unavailable then.

use super::write_behind::WriteBehindCache;
use crate::paho::{Key, RecordKind, is_valid_record};

impl WriteBehindCache {
    /// Begins to load what the store has under these keys. Until that is finished, nothing is written.
    pub(crate) fn begin_load(&mut self, stored: &[Key], foreign_entries: usize) {
        // Those that an attempt before has loaded may be missing now.
        self.begin_comparison(stored, foreign_entries);
        let in_flight = stored.iter().filter(|key| key.is_outbound());
        self.earlier_ids = in_flight.map(|key| key.number).collect();
    }

    /// Loads records of an earlier run, under keys that this run does not use; Paho does not know them.
    /// Returns those that it cannot keep, for the quarantine.
    ///
    /// This run has already sent its messages in flight with their packet ids, so it is those of the
    /// earlier run that get others. Its queue records have been [moved](Self::rekey_unsent) behind.
    pub(crate) fn load_earlier(&mut self, records: Vec<(Key, Vec<u8>)>) -> Vec<(Key, Vec<u8>)> {
        let mut unknown = Vec::new();
        for (key, value) in records {
            let is_undecided = self.foreign.contains(&key) || self.relocations.involves(key);
            // An attempt before this one has loaded it.
            let is_loaded = self.index.is_earlier(key) && self.index.has_content(key, &value);
            if is_undecided || is_loaded {
                continue;
            }
            // A write that is pending would reach what the store has there, also after a drop.
            let is_used = self.pending.contains(key)
                || key.message_keys().any(|key| self.is_used_by_this_run(key));
            match key.kind {
                _ if !is_valid_record(key, &value) => unknown.push((key, value)),
                _ if !is_used => self.index.insert_earlier(key, value, false),
                RecordKind::SentPublish => {
                    if let Some(number) = self.number_for_earlier(key) {
                        let new = Key { number, ..key };
                        self.index.insert_earlier(new, value, true);
                        self.relocations.add(key, new);
                    } else {
                        unknown.push((key, value));
                    }
                }
                // With another packet id it would release nothing, and the message would be lost. Without
                // it, the next start sends the PUBLISH once more.
                RecordKind::SentPubrel => self.remove_from_store(key),
                RecordKind::ReceivedPublish | RecordKind::Command | RecordKind::Undelivered => {
                    unknown.push((key, value));
                }
            }
        }
        unknown.retain(|(key, value)| !self.replace_if_quarantined(*key, value));
        unknown
    }

    /// Reports what waits for the next start.
    pub(crate) fn finish_load(&mut self) {
        self.earlier_ids.clear();
        self.events.earlier_records(self.index.earlier());
    }

    /// Returns the keys of a kind under which this run was about to write, records that it has dropped
    /// again included. None was ever sent.
    pub(crate) fn unsent_keys(&self, kind: RecordKind) -> Vec<Key> {
        let keys = self.pending.keys().filter(|key| key.kind == kind);
        keys.filter(|key| self.pending.is_new(*key) && !self.index.is_earlier(*key))
            .collect()
    }

    /// Stores a record of this run, which was never sent, under another key than planned.
    pub(crate) fn rekey_unsent(&mut self, old: Key, new: Key) {
        self.index.rekey(old, new);
        self.pending.rekey(old, new);
        if self.last_put == Some(old) {
            self.last_put = Some(new);
        }
    }

    fn is_used_by_this_run(&self, key: Key) -> bool {
        !self.index.is_earlier(key) && (self.index.contains(key) || self.pending.contains(key))
    }

    /// Removes a record that only the store has, unless this run is about to write over it.
    fn remove_from_store(&mut self, key: Key) {
        if self.pending.contains(key) {
            self.pending.note_stored(key);
        } else {
            self.pending.record(key, None, None, true);
        }
    }

    /// Returns the packet id that a message of an earlier run gets: a free one, or that of its other version.
    fn number_for_earlier(&self, key: Key) -> Option<u32> {
        if let Some(other) = self.relocations.target(key.other_version()) {
            return Some(other.number);
        }
        // Paho assigns them upwards, so the highest stays free longest.
        key.kind.number_range().rev().find(|number| {
            let key = Key {
                number: *number,
                ..key
            };
            !self.earlier_ids.contains(number)
                && !key.message_keys().any(|key| self.is_number_used(key))
        })
    }
}
