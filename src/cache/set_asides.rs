//! The index of the records that are set aside, and their bounds.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::store::{Place, SetAsideLimits, SetAsideLoss, SetAsideName};

/// What is set aside, by place. Values are only in the store, or pending.
pub(crate) struct SetAsides {
    quarantine: PlaceIndex,
    discarded: PlaceIndex,
    /// Records to be removed from their place at the next tick.
    pub(super) removals: Vec<(Place, String)>,
    /// The device's time at the last step, for the names.
    time: SystemTime,
    /// The time since boot at the last step, for the ages.
    now: Duration,
}

/// The records of one place.
struct PlaceIndex {
    limits: SetAsideLimits,
    /// Nothing is set aside here: the program does not want it, or the store refuses to list it.
    is_off: bool,
    /// By time, and then by name.
    entries: BTreeMap<(u64, String), PlaceEntry>,
    /// Names of another form. They are listed, and never removed for a limit.
    others: HashSet<Vec<u8>>,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct PlaceEntry {
    length: usize,
    /// The time since boot at which this process learned of it.
    known_since: Duration,
}

/// The number of records in a place, and the bytes of their values as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlaceTotals {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// The options of the places.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SetAsideOptions {
    pub(crate) without_dead_letters: bool,
    pub(crate) quarantine: SetAsideLimits,
    pub(crate) discarded: SetAsideLimits,
}

impl PlaceIndex {
    fn new(limits: SetAsideLimits, is_off: bool) -> Self {
        Self {
            limits,
            is_off,
            entries: BTreeMap::new(),
            others: HashSet::new(),
            bytes: 0,
        }
    }

    fn insert(&mut self, name: &str, now: Duration) -> bool {
        let Some(SetAsideName { millis, length, .. }) = SetAsideName::parse(name) else {
            return self.others.insert(name.as_bytes().to_vec());
        };
        let entry = PlaceEntry {
            length,
            known_since: now,
        };
        let id = (millis, name.to_owned());
        if self.entries.contains_key(&id) {
            return false;
        }
        self.entries.insert(id, entry);
        self.bytes = self.bytes.saturating_add(length);
        true
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some(SetAsideName { millis, .. }) = SetAsideName::parse(name) else {
            return self.others.remove(name.as_bytes());
        };
        let removed = self.entries.remove(&(millis, name.to_owned()));
        let length = removed.map_or(0, |entry| entry.length);
        self.bytes = self.bytes.saturating_sub(length);
        removed.is_some()
    }

    /// Returns the oldest record if a limit is exceeded, and which.
    ///
    /// With `keeps_last`, the only one leaves for its age alone.
    fn excess(
        &self,
        keeps_last: bool,
        time: SystemTime,
        now: Duration,
    ) -> Option<(String, SetAsideLoss)> {
        let ((millis, name), entry) = self.entries.first_key_value()?;
        let is_kept = keeps_last && self.entries.len() == 1;
        let loss = if self.bytes > self.limits.bytes && !is_kept {
            SetAsideLoss::Bytes
        } else if self.entries.len() > self.limits.records && !is_kept {
            SetAsideLoss::Number
        } else if age_of(*millis, entry.known_since, time, now) > self.limits.age {
            SetAsideLoss::Age
        } else {
            return None;
        };
        Some((name.clone(), loss))
    }
}

/// Returns the age of a record.
///
/// A device without a battery for its clock starts in 1970. What it has set aside before it learned the
/// time must not look old all at once, so its age counts from when this process knew of it.
fn age_of(millis: u64, known_since: Duration, time: SystemTime, now: Duration) -> Duration {
    /// The first day of 2024: a time before that is none.
    const PLAUSIBLE: Duration = Duration::from_secs(1_704_067_200);
    let known_for = now.saturating_sub(known_since);
    let created = Duration::from_millis(millis);
    let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    if created < PLAUSIBLE || time < PLAUSIBLE {
        return known_for;
    }
    time.saturating_sub(created)
}

impl SetAsides {
    pub(crate) fn new(options: &SetAsideOptions) -> Self {
        Self {
            quarantine: PlaceIndex::new(options.quarantine, false),
            discarded: PlaceIndex::new(options.discarded, options.without_dead_letters),
            removals: Vec::new(),
            time: UNIX_EPOCH,
            now: Duration::ZERO,
        }
    }

    fn index(&self, place: Place) -> &PlaceIndex {
        match place {
            Place::Quarantine => &self.quarantine,
            Place::Discarded => &self.discarded,
        }
    }

    fn index_mut(&mut self, place: Place) -> &mut PlaceIndex {
        match place {
            Place::Quarantine => &mut self.quarantine,
            Place::Discarded => &mut self.discarded,
        }
    }

    /// Notes the time, for the names and ages of what comes.
    pub(crate) fn note_time(&mut self, time: SystemTime, now: Duration) {
        (self.time, self.now) = (time, now);
    }

    /// Returns true if records are set aside in this place.
    pub(crate) fn is_on(&self, place: Place) -> bool {
        !self.index(place).is_off
    }

    /// Sets nothing aside in this place from now on.
    pub(crate) fn turn_off(&mut self, place: Place) {
        self.index_mut(place).is_off = true;
    }

    pub(crate) fn totals(&self, place: Place) -> PlaceTotals {
        let index = self.index(place);
        PlaceTotals {
            records: index.entries.len().saturating_add(index.others.len()),
            bytes: index.bytes,
        }
    }

    /// Returns a name that no record of the place has.
    pub(super) fn new_name(&self, place: Place, mut name: SetAsideName<'_>) -> String {
        name.millis = self.millis();
        let index = self.index(place);
        loop {
            let id = (name.millis, name.to_string());
            if !index.entries.contains_key(&id) {
                return id.1;
            }
            name.millis = name.millis.saturating_add(1);
        }
    }

    /// Returns the name that this record has in the place already.
    pub(super) fn known_name(&self, place: Place, name: &SetAsideName<'_>) -> Option<&str> {
        let is_same = |other: &SetAsideName<'_>| {
            (other.key, other.hash, other.length) == (name.key, name.hash, name.length)
        };
        let names = self.index(place).entries.keys().map(|(_, known)| &**known);
        let mut names =
            names.filter(|known| SetAsideName::parse(known).is_some_and(|n| is_same(&n)));
        names.next()
    }

    /// Returns the name that this record has in the place already, or a new one.
    ///
    /// An attempt that is repeated then adds nothing.
    pub(super) fn name_of_record(&self, place: Place, name: SetAsideName<'_>) -> String {
        let known = self.known_name(place, &name).map(str::to_owned);
        known.unwrap_or_else(|| self.new_name(place, name))
    }

    fn millis(&self) -> u64 {
        let time = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns true if a value of this length exceeds the limit alone.
    pub(super) fn is_too_large(&self, place: Place, length: usize) -> bool {
        length > self.index(place).limits.bytes
    }

    /// Returns how many records of these lengths, the newest first, fit into the limits of a place, and why
    /// no more do.
    pub(super) fn newest_within_limits(
        &self,
        place: Place,
        lengths: impl Iterator<Item = usize>,
    ) -> (usize, SetAsideLoss) {
        let PlaceIndex { limits, is_off, .. } = self.index(place);
        let (mut records, mut bytes) = (0_usize, 0_usize);
        for length in lengths.take(if *is_off { 0 } else { usize::MAX }) {
            bytes = bytes.saturating_add(length);
            if records >= limits.records {
                return (records, SetAsideLoss::Number);
            }
            if bytes > limits.bytes {
                break;
            }
            records = records.saturating_add(1);
        }
        (records, SetAsideLoss::Bytes)
    }

    /// Adds a record, and returns false if it was there.
    pub(super) fn add(&mut self, place: Place, name: &str) -> bool {
        let now = self.now;
        self.index_mut(place).insert(name, now)
    }

    /// Forgets a record, and returns false if there was none.
    pub(super) fn forget(&mut self, place: Place, name: &str) -> bool {
        self.index_mut(place).remove(name)
    }

    /// Takes the oldest record out of the index if a limit is exceeded.
    pub(super) fn take_excess(&mut self) -> Option<(Place, String, SetAsideLoss)> {
        for place in Place::BOTH {
            // A record of another origin is removed from its place once it is here, however large it is.
            let keeps_last = place == Place::Quarantine;
            let excess = self.index(place).excess(keeps_last, self.time, self.now);
            if let Some((name, loss)) = excess {
                self.forget(place, &name);
                return Some((place, name, loss));
            }
        }
        None
    }

    /// Takes over what the store has in a place at open.
    pub(crate) fn load(&mut self, place: Place, stored: &[Vec<u8>]) {
        self.refresh(place, stored, &HashSet::new());
    }

    /// Takes over what the store has in a place, and returns how many records are gone from there.
    ///
    /// The store may or may not have those that are `pending`, and the index knows better.
    pub(super) fn refresh(
        &mut self,
        place: Place,
        stored: &[Vec<u8>],
        pending: &HashSet<&str>,
    ) -> usize {
        let in_store: HashSet<&[u8]> = stored.iter().map(Vec::as_slice).collect();
        let is_pending =
            |name: &&Vec<u8>| str::from_utf8(name).is_ok_and(|name| pending.contains(name));
        let added = stored.iter().filter(|name| !is_pending(name));
        let now = self.now;
        let index = match place {
            Place::Quarantine => &mut self.quarantine,
            Place::Discarded => &mut self.discarded,
        };
        let gone = index.entries.keys().filter(|(_, name)| {
            let is_there = in_store.contains(name.as_bytes());
            !is_there && !pending.contains(name.as_str())
        });
        let gone: Vec<String> = gone.map(|(_, name)| name.clone()).collect();
        for name in &gone {
            index.remove(name);
        }
        index.others.clear();
        for name in added {
            match str::from_utf8(name) {
                Ok(name) => drop(index.insert(name, now)),
                Err(_) => drop(index.others.insert(name.clone())),
            }
        }
        gone.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place::Discarded;
    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn name(millis: u64, length: usize) -> SetAsideName<'static> {
        SetAsideName {
            millis,
            reason: "session_lost",
            length,
            key: "s-1",
            hash: 7,
        }
    }

    fn set_asides(limits: SetAsideLimits) -> SetAsides {
        let mut set_asides = SetAsides::new(&SetAsideOptions {
            discarded: limits,
            ..SetAsideOptions::default()
        });
        set_asides.note_time(UNIX_EPOCH + NOW, Duration::from_secs(100));
        set_asides
    }

    fn take_all(set_asides: &mut SetAsides) -> Vec<(u64, SetAsideLoss)> {
        let mut taken = Vec::new();
        while let Some((place, name, loss)) = set_asides.take_excess() {
            assert_eq!(place, PLACE);
            taken.push((SetAsideName::parse(&name).expect("a name").millis, loss));
        }
        taken
    }

    #[test]
    fn oldest_leave_first_by_each_limit() {
        let now = u64::try_from(NOW.as_millis()).expect("a time");
        let ages = |seconds: u64| now - 1000 * seconds;
        let defaults = SetAsideLimits::default();
        for (limits, expected) in [
            (defaults, vec![]),
            (
                defaults.records(1),
                vec![
                    (ages(30), SetAsideLoss::Number),
                    (ages(20), SetAsideLoss::Number),
                ],
            ),
            (defaults.bytes(200), vec![(ages(30), SetAsideLoss::Bytes)]),
            (
                defaults.age(Duration::from_secs(25)),
                vec![(ages(30), SetAsideLoss::Age)],
            ),
        ] {
            let mut set_asides = set_asides(limits);
            for seconds in [20, 30, 10] {
                assert!(set_asides.add(PLACE, &name(ages(seconds), 100).to_string()));
            }
            assert_eq!(take_all(&mut set_asides), expected, "{limits:?}");
            let records = 3 - expected.len();
            let bytes = records * 100;
            assert_eq!(set_asides.totals(PLACE), PlaceTotals { records, bytes });
        }
    }

    #[test]
    fn unset_clock_makes_nothing_old() {
        let mut set_asides = set_asides(SetAsideLimits::default().age(Duration::from_secs(60)));
        // By a clock that starts in 1970.
        set_asides.add(PLACE, &name(5000, 1).to_string());
        assert_eq!(take_all(&mut set_asides), []);
        set_asides.note_time(UNIX_EPOCH + NOW, Duration::from_secs(161));
        assert_eq!(take_all(&mut set_asides), [(5000, SetAsideLoss::Age)]);
    }

    #[test]
    fn equal_records_get_names_of_their_own() {
        let mut set_asides = set_asides(SetAsideLimits::default());
        for _ in 0..3 {
            let new = set_asides.new_name(PLACE, name(0, 1));
            assert!(set_asides.add(PLACE, &new));
        }
        assert_eq!(set_asides.totals(PLACE).records, 3);
        // The same record again, as in a repeated attempt.
        let known = set_asides.name_of_record(PLACE, name(0, 1));
        assert!(!set_asides.add(PLACE, &known));
        let other = set_asides.name_of_record(PLACE, name(0, 2));
        assert!(set_asides.add(PLACE, &other));
    }

    #[test]
    fn names_of_others_stay_whatever_the_limits() {
        let mut set_asides = set_asides(SetAsideLimits::default().records(0).bytes(0));
        let own = name(1, 1).to_string();
        let names = ["s-1", "s-1:00000000000000ab", &own].map(|name| name.as_bytes().to_vec());
        let names = [&names[..], &[b"\xff".to_vec()]].concat();
        assert_eq!(set_asides.refresh(PLACE, &names, &HashSet::new()), 0);
        assert_eq!(set_asides.totals(PLACE).records, 4);
        assert_eq!(take_all(&mut set_asides), [(1, SetAsideLoss::Bytes)]);
        assert_eq!(set_asides.totals(PLACE).records, 3);
    }

    #[test]
    fn refresh_finds_what_is_gone() {
        let mut set_asides = set_asides(SetAsideLimits::default());
        let names = [1, 2, 3, 4].map(|millis| name(millis, 1).to_string());
        for name in &names[..3] {
            set_asides.add(PLACE, name);
        }
        // The first is there, the second is gone, the third is not written, the fourth is to be removed.
        let stored = [&names[0], &names[3]].map(|name| name.as_bytes().to_vec());
        let pending = [&names[2], &names[3]].map(String::as_str).into();
        let gone = set_asides.refresh(PLACE, &stored, &pending);
        assert_eq!(gone, 1);
        let totals = PlaceTotals {
            records: 2,
            bytes: 2,
        };
        assert_eq!(set_asides.totals(PLACE), totals);
    }
}
