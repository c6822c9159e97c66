//! The death of the program, and the losses that it may cause.

use std::{collections::BTreeMap, mem, panic};

use paho_mqtt_redis::Durability;

use super::{
    broker::Broker,
    exceptions,
    process::{Machine, Stop},
    values::{Key, Kind, Value, has_value, message_of},
};

type Records = BTreeMap<Key, Value>;

impl Machine {
    /// Takes the dead program away, and decides what its death allows.
    pub fn bury(&mut self, broker: &mut Broker) -> Result<(), Stop> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        process.clock.die();
        if let Some(seen) = process.clock.take_seen() {
            self.before = seen;
        }
        {
            let mut state = self.world.lock();
            if state.is_alive(process.incarnation) {
                state.kill();
            }
            state.blow = None;
        }
        if mem::take(&mut self.is_open) {
            self.account_for_death(broker);
        }
        // What it still asks of the store is refused.
        let dropped = panic::catch_unwind(panic::AssertUnwindSafe(move || drop(process)));
        if dropped.is_err() {
            self.world.lock().violate("paho_is_never_hurt", || {
                "dropping the persistence panics".to_owned()
            });
        }
        self.result()
    }

    /// Decides what the death of the program allows, by the health before it.
    pub fn account_for_death(&mut self, broker: &mut Broker) {
        let changing = mem::take(&mut self.changing);
        let mut state = self.world.lock();
        let in_outage = !Self::is_safe(&self.before);
        let is_dirty = state.is_dirty || !state.is_all_listed();
        let is_pipelined = self.settings.durability == Durability::Pipelined;
        let all_listed = state.is_all_listed();
        let outstanding: Vec<u32> = state.ledger.outstanding().iter().copied().collect();
        for number in outstanding {
            let Some(message) = state.ledger.get(number).copied() else {
                continue;
            };
            if (in_outage || is_dirty) && message.is_sent {
                state
                    .ledger
                    .excuse_disorder(number, exceptions::DIED_IN_OUTAGE);
            }
            if message.copies > 0 {
                continue;
            }
            if in_outage {
                state.ledger.excuse_loss(number, exceptions::DIED_IN_OUTAGE);
            } else if message.lost_at > 0 && !(all_listed && state.is_listed_since(message.lost_at))
            {
                state.ledger.excuse_loss(number, exceptions::STORE_LOST);
            } else if is_pipelined && is_dirty {
                state.ledger.excuse_loss(number, exceptions::PIPELINED);
            } else {
                state.violate("nothing_lost", || {
                    format!(
                        "m{number} was in no record when the program died, and the store was up"
                    )
                });
            }
        }
        if in_outage || is_dirty {
            let outdated: Vec<u32> = state
                .data
                .records
                .iter()
                .filter(|(key, value)| !has_value(&self.live, **key, value))
                .filter_map(|(key, value)| message_of(*key, value))
                .collect();
            let released = unmatched_pubrels(&state.data.records, &self.live, &state.data.records);
            for number in released {
                // With a PUBREL of another program the next start does not send it.
                state.ledger.excuse_all(number, exceptions::OLDER_DATA);
            }
            // Without its PUBREL it is sent again.
            let unreleased =
                unmatched_pubrels(&self.live, &state.data.records, &state.data.records);
            for number in outdated.into_iter().chain(unreleased) {
                state
                    .ledger
                    .excuse_duplicate(number, exceptions::DIED_IN_OUTAGE);
                state
                    .ledger
                    .excuse_disorder(number, exceptions::DIED_IN_OUTAGE);
            }
        } else {
            let missing = self.live.iter().find(|(key, value)| {
                let has_copy = message_of(**key, value)
                    .and_then(|message| state.ledger.get(message))
                    .is_some_and(|message| message.copies > 0);
                !has_copy
                    && !changing.contains(key)
                    && !has_value(&state.data.records, **key, value)
            });
            if let Some((key, _)) = missing {
                let key = *key;
                state.violate("nothing_lost", || {
                    format!(
                        "{key} was not in the store when the program died, and the store was up"
                    )
                });
            }
        }
        broker.forget_lost(&state.data.records);
        self.live.clear();
    }
}

/// Messages whose PUBLISH is stored, and whose PUBREL is in one set of records and not in the other.
fn unmatched_pubrels(one: &Records, other: &Records, stored: &Records) -> Vec<u32> {
    let pubrels = one.keys().filter(|key| key.kind == Kind::SentPubrel);
    let missing = pubrels.filter(|key| !other.contains_key(key));
    let publishes = missing.flat_map(|key| {
        let publish = key.with_kind(Kind::SentPublish);
        [publish, publish.other_version()]
    });
    let values = publishes.filter_map(|key| Some((key, stored.get(&key)?)));
    values
        .filter_map(|(key, value)| message_of(key, value))
        .collect()
}
