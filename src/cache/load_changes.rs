//! [`LoadChanges`]: what is changed in the store at open, over all attempts.

use std::collections::{BTreeMap, BTreeSet};

use super::{event_queue::EventQueue, set_asides::SetAsides};
use crate::{
    paho::{DropReason, Key},
    store::{Place, SetAsideName},
};

/// What the attempts at a load have changed in the store.
///
/// An attempt that fails, or whose reply is lost, may have changed something that the next does not find.
#[derive(Default)]
pub(crate) struct LoadChanges {
    /// Records that Paho could not read, whether or not the quarantine took them.
    pub(crate) unreadable: BTreeSet<Key>,
    /// The message that was quarantined since it may be poison.
    pub(crate) poison: Option<Key>,
    /// Messages that were dropped.
    pub(super) dropped: BTreeMap<Key, DropReason>,
    /// Records that were set aside, which was not refused.
    pub(super) set_aside: BTreeSet<(Place, String)>,
    /// Records that were to be set aside, and are gone.
    pub(super) losses: EventQueue,
}

impl LoadChanges {
    /// Notes that a record is about to be set aside, unless it is there already, and returns its name.
    pub(super) fn set_aside(
        &mut self,
        set_asides: &SetAsides,
        place: Place,
        name: SetAsideName<'_>,
    ) -> String {
        let is_known = set_asides.known_name(place, &name).is_some();
        let name = set_asides.name_of_record(place, name);
        if !is_known {
            self.set_aside.insert((place, name.clone()));
        }
        name
    }

    /// Number of records that should not reach Paho.
    pub(crate) fn quarantined(&self) -> usize {
        let poison = usize::from(self.poison.is_some());
        self.unreadable.len().saturating_add(poison)
    }

    /// Returns the events about all of them.
    pub(crate) fn into_events(self) -> EventQueue {
        let mut events = self.losses;
        for (place, _) in self.set_aside {
            events.set_aside(place);
        }
        for (key, reason) in self.dropped {
            events.dropped(key.kind, reason);
        }
        events
    }
}
