//! Writes of the program as the store applies them, with the checks of what they take away.

use std::sync::Arc;

use paho_mqtt_redis::ErrorKind;

use super::{
    sabotage::Sabotage,
    values::{Key, Value, message_of},
    world::{OwnedGroup, State, Write, show_group},
};

impl State {
    /// Returns the error reply for a group, if the store refuses it. The whole group is refused with one of its writes.
    fn refusal_of(&self, group: &[Write]) -> Option<ErrorKind> {
        let refusal = self.refusal()?;
        let is_refused = |write: &Write| match write {
            Write::Put(_, value) | Write::Quarantine(_, value) | Write::Discard { value, .. } => {
                refusal.kind != ErrorKind::OutOfMemory
                    || refusal.above.is_none_or(|above| value.len() > above)
            }
            Write::Remove(_) | Write::RemoveSetAside { .. } => {
                refusal.kind != ErrorKind::OutOfMemory
            }
            Write::Stray(_) => true,
        };
        group.iter().any(is_refused).then_some(refusal.kind)
    }

    /// Returns true if the server breaks the connection over a write of this group.
    pub(super) fn hangs_up_on(&self, groups: &[OwnedGroup]) -> bool {
        let Some(refusal) = self.refusal().filter(|refusal| refusal.hangs_up) else {
            return false;
        };
        groups
            .iter()
            .any(|group| self.refusal_of(group) == Some(refusal.kind))
    }

    /// Applies one group, all or nothing.
    pub(super) fn apply(&mut self, group: &[Write]) -> Result<(), ErrorKind> {
        if let Some(kind) = self.refusal_of(group) {
            self.note(|| format!("  store: refused ({kind}): {}", show_group(group)));
            let quarantined = group.iter().filter_map(|write| match write {
                Write::Quarantine(key, _) => Some(*key),
                _ => None,
            });
            self.unquarantined.extend(quarantined);
            return Err(kind);
        }
        let sabotaged = self.sabotage_group(group);
        let group = sabotaged.as_deref().unwrap_or(group);
        let mut touched: Vec<(u32, Key, Value)> = Vec::new();
        let mut overwritten: Vec<(Key, Value)> = Vec::new();
        for write in group {
            match write {
                Write::Put(key, value) => {
                    self.note_put(*key, value);
                    self.lost_at.remove(key);
                    if let Some(message) = message_of(*key, value) {
                        self.ledger.add_copy(message, self.clock.now());
                    }
                    if let Some(old) = self.data.records.insert(*key, Arc::clone(value)) {
                        if let Some(message) = message_of(*key, &old) {
                            self.ledger.remove_copy(message);
                            touched.push((message, *key, Arc::clone(&old)));
                        }
                        if old != *value {
                            overwritten.push((*key, old));
                        }
                    }
                }
                Write::Remove(key) => {
                    if let Some(old) = self.data.records.remove(key) {
                        if let Some(message) = message_of(*key, &old) {
                            self.ledger.remove_copy(message);
                            touched.push((message, *key, Arc::clone(&old)));
                        }
                        overwritten.push((*key, old));
                    }
                }
                Write::Quarantine(key, value) => {
                    let values = self.data.quarantine.entry(*key).or_default();
                    if !values.contains(value) {
                        values.push(Arc::clone(value));
                    }
                    self.unquarantined.remove(key);
                }
                Write::Discard { name, .. } => {
                    self.data.discarded.insert(name.clone());
                    self.set_aside.insert(name.clone());
                }
                Write::RemoveSetAside { name, .. } => {
                    self.data.discarded.remove(name);
                }
                Write::Stray(key) => self.violate("foreign_untouched", || {
                    format!("the store was asked to write the field {key:?}")
                }),
            }
        }
        for (message, key, value) in touched {
            // An older state of a lost message is kept there.
            if self.data.has_quarantined(key, &value) {
                continue;
            }
            let copies = self.ledger.get(message).map_or(0, |message| message.copies);
            if copies == 0 && self.ledger.is_outstanding(message) {
                // A remove may be followed by a put of another record of the message; a crash between the two loses it.
                let is_removed = group
                    .iter()
                    .any(|write| matches!(write, Write::Remove(removed) if *removed == key));
                let name = if is_removed { "no_gap" } else { "nothing_lost" };
                self.violate(name, || {
                    let group = show_group(group);
                    format!("m{message} was removed with {key}, its only record, by {group}")
                });
            }
        }
        self.check_kept(&overwritten, group);
        Ok(())
    }

    /// Returns what a store with a deliberate defect applies instead of a group.
    fn sabotage_group(&mut self, group: &[Write]) -> Option<OwnedGroup> {
        match self.sabotage {
            Sabotage::StoreForgets => {
                self.sabotaged += 1;
                self.sabotaged.is_multiple_of(50).then(Vec::new)
            }
            Sabotage::StoreSplitsGroups => {
                let mut applied = std::mem::take(&mut self.owed);
                let is_put = |write: &Write| matches!(write, Write::Put(..));
                for write in group {
                    if is_put(write) && group.len() > 1 {
                        self.owed.push(write.clone());
                    } else {
                        applied.push(write.clone());
                    }
                }
                Some(applied)
            }
            Sabotage::StoreDropsQuarantine => {
                let is_kept = |write: &&Write| !matches!(write, Write::Quarantine(..));
                Some(group.iter().filter(is_kept).cloned().collect())
            }
            Sabotage::StoreDropsDiscarded => {
                let is_kept = |write: &&Write| !matches!(write, Write::Discard { .. });
                Some(group.iter().filter(is_kept).cloned().collect())
            }
            _ => None,
        }
    }

    /// Checks that no record that the program never knew was deleted.
    fn check_kept(&mut self, gone: &[(Key, Value)], group: &[Write]) {
        if self.kept.is_empty() {
            return;
        }
        for (key, value) in gone {
            // A program that opens the records may renumber them.
            let is_moved = group.iter().any(|write| {
                matches!(write, Write::Put(new, moved) if new.kind == key.kind && moved == value)
            });
            // Or convert them to its version of MQTT.
            let other = key.other_version();
            let is_same =
                |converted: &Value| message_of(other, converted) == message_of(*key, value);
            let is_converted = self.data.records.get(&other).is_some_and(is_same);
            // A full store refused to quarantine it, and Paho chose its packet id for another message.
            let is_overwritten = self.unquarantined.contains(key)
                && !key.is_queue_record()
                && group
                    .iter()
                    .any(|write| matches!(write, Write::Put(new, _) if new == key));
            let is_kept = !is_moved
                && !is_converted
                && !is_overwritten
                && self
                    .kept
                    .get(key)
                    .is_some_and(|values| values.contains(value));
            if is_kept && !self.has_somewhere(*key, value) {
                self.violate("nothing_foreign_deleted", || {
                    let group = show_group(group);
                    format!("{key}, which the program had never known, was deleted by {group}")
                });
            }
        }
    }

    fn has_somewhere(&self, key: Key, value: &Value) -> bool {
        self.data.records.get(&key) == Some(value) || self.data.has_quarantined(key, value)
    }
}
