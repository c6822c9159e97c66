//! [`Share`]: the part of one member in the series of its label, one of which is 1 while all members are up.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use prometheus::{Gauge, IntGauge};

use super::{
    clock::unix_seconds,
    family::Families,
    table::{ConnectionFamilies, StoreFamilies},
};

/// Families with a series that is 1 while all members of a label are up, and one with the time since when.
pub(super) trait UpFamilies: Families {
    fn up(series: &Self::Series) -> (&IntGauge, &Gauge);
}

impl UpFamilies for StoreFamilies {
    fn up(series: &Self::Series) -> (&IntGauge, &Gauge) {
        (&series.store_up, &series.store_changed_timestamp_seconds)
    }
}

impl UpFamilies for ConnectionFamilies {
    fn up(series: &Self::Series) -> (&IntGauge, &Gauge) {
        (&series.broker_up, &series.broker_changed_timestamp_seconds)
    }
}

/// Families and the members that share their series.
pub(super) struct SharedFamilies<F> {
    pub(super) families: F,
    by_label: Mutex<HashMap<String, Members>>,
}

/// The numbers of members of one label, and of those that are up.
#[derive(Default)]
struct Members {
    all: usize,
    up: usize,
}

impl<F> SharedFamilies<F> {
    pub(super) fn new(families: F) -> Arc<Self> {
        Arc::new(Self {
            families,
            by_label: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Members>> {
        // The counts are plain integers, which no panic leaves half written.
        self.by_label.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The share of one member in the series of its label.
///
/// Removes the series when the last share of the label is dropped.
pub(super) struct Share<F: UpFamilies> {
    shared: Arc<SharedFamilies<F>>,
    label: String,
    is_up: AtomicBool,
    pub(super) series: F::Series,
}

impl<F: UpFamilies> Share<F> {
    pub(super) fn new(shared: &Arc<SharedFamilies<F>>, label: &str) -> Self {
        // Under the lock, so that the last share of another member does not remove the series again.
        let mut by_label = shared.lock();
        let series = shared.families.series(label);
        let members = by_label.entry(label.to_owned()).or_default();
        members.all = members.all.saturating_add(1);
        let (up, changed) = F::up(&series);
        // A member counts as down until it is known to be up.
        if members.all == 1 || up.get() == 1 {
            up.set(0);
            changed.set(unix_seconds(SystemTime::now()));
        }
        drop(by_label);
        Self {
            shared: Arc::clone(shared),
            label: label.to_owned(),
            is_up: AtomicBool::new(false),
            series,
        }
    }

    /// Returns the state of this member.
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Sets the state of this member.
    pub(super) fn set_up(&self, is_up: bool, at: SystemTime) {
        let mut by_label = self.shared.lock();
        if self.is_up.swap(is_up, Ordering::Relaxed) == is_up {
            return;
        }
        if let Some(members) = by_label.get_mut(&self.label) {
            members.up = if is_up {
                members.up.saturating_add(1)
            } else {
                members.up.saturating_sub(1)
            };
            self.publish(members, at);
        }
    }

    /// Publishes the state of the label. The caller holds the lock, so that both series change together.
    fn publish(&self, members: &Members, at: SystemTime) {
        let (gauge, changed) = F::up(&self.series);
        let up = i64::from(members.up == members.all);
        if gauge.get() != up {
            gauge.set(up);
            changed.set(unix_seconds(at));
        }
    }
}

impl<F: UpFamilies> Drop for Share<F> {
    fn drop(&mut self) {
        let mut by_label = self.shared.lock();
        let Some(members) = by_label.get_mut(&self.label) else {
            return;
        };
        members.all = members.all.saturating_sub(1);
        if *self.is_up.get_mut() {
            members.up = members.up.saturating_sub(1);
        }
        if members.all == 0 {
            by_label.remove(&self.label);
            self.shared.families.remove(&self.label);
        } else {
            self.publish(members, SystemTime::now());
        }
    }
}
