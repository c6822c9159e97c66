//! The limits of what waits, and the decision to warn before one is reached.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{error::option_words::option_words, store::HealthSnapshot};

/// The limits of the messages that wait. `None` if the program names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WaitingLimits {
    /// Paho's `max_buffered_messages`.
    pub(crate) messages: Option<usize>,
    /// The bytes of all waiting messages.
    pub(crate) bytes: Option<usize>,
    pub(crate) over_budget: OverBudget,
}

/// The limits of a persistence, which a session sets although handles share them.
#[derive(Debug, Default)]
pub(crate) struct SharedLimits(Mutex<WaitingLimits>);

impl SharedLimits {
    pub(crate) fn get(&self) -> WaitingLimits {
        *self.lock()
    }

    /// Sets those of a session. It has a number of messages, and may have no number of bytes.
    pub(crate) fn set(&self, messages: usize, bytes: Option<usize>) {
        let limits = &mut *self.lock();
        limits.messages = Some(messages);
        limits.bytes = bytes.or(limits.bytes);
    }

    fn lock(&self) -> MutexGuard<'_, WaitingLimits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<WaitingLimits> for SharedLimits {
    fn from(limits: WaitingLimits) -> Self {
        Self(Mutex::new(limits))
    }
}

/// A clone has limits of its own.
impl Clone for SharedLimits {
    fn clone(&self) -> Self {
        self.get().into()
    }
}

/// The decision about waiting messages that exceed the byte budget when a client is created.
///
/// Later versions may add decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverBudget {
    /// They are restored and sent.
    #[default]
    Keep,
    /// The messages at the lowest QoS are dropped, of these the oldest first, until the rest fits.
    ///
    /// Those that were sent already stay, and so do subscriptions. What is dropped is counted as
    /// [`DropReason::OverBudget`](crate::DropReason::OverBudget) and set aside.
    DropOldest,
}

option_words!(OverBudget, "over_budget": Keep = "keep", DropOldest = "drop_oldest");

/// The percentage of a limit at which a warning is raised, and below which the next one may follow.
const WARN_PERCENT: usize = 80;
const CALM_PERCENT: usize = 60;

impl WaitingLimits {
    /// Returns true if what waits is at least this percentage of one limit.
    fn is_filled(self, status: &HealthSnapshot, percent: usize) -> bool {
        let reaches = |amount: usize, limit: Option<usize>| {
            limit.is_some_and(|limit| {
                amount.saturating_mul(100) >= limit.saturating_mul(percent) && amount > 0
            })
        };
        reaches(status.queued_messages, self.messages) || reaches(status.waiting_bytes, self.bytes)
    }

    /// Returns the bytes above which waiting messages are dropped at open.
    pub(super) fn drops_above(self) -> Option<usize> {
        self.bytes
            .filter(|_| self.over_budget == OverBudget::DropOldest)
    }

    /// Returns true if a message of this size exceeds a limit.
    pub(super) fn is_exceeded_by(self, status: &HealthSnapshot, bytes: usize) -> bool {
        let exceeds = |amount: usize, more: usize, limit: Option<usize>| {
            limit.is_some_and(|limit| amount.saturating_add(more) > limit)
        };
        exceeds(status.queued_messages, 1, self.messages)
            || exceeds(status.waiting_bytes, bytes, self.bytes)
    }
}

/// Warns once when what waits comes near a limit, and again after it has been well below.
#[derive(Debug, Default)]
pub(super) struct FillWarning {
    is_raised: bool,
}

impl FillWarning {
    /// Returns true if a warning is due now.
    pub(super) fn is_due(&mut self, limits: WaitingLimits, status: &HealthSnapshot) -> bool {
        if self.is_raised {
            self.is_raised = limits.is_filled(status, CALM_PERCENT);
            return false;
        }
        self.is_raised = limits.is_filled(status, WARN_PERCENT);
        self.is_raised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(queued_messages: usize, waiting_bytes: usize) -> HealthSnapshot {
        HealthSnapshot {
            queued_messages,
            waiting_bytes,
            ..HealthSnapshot::default()
        }
    }

    const LIMITS: WaitingLimits = WaitingLimits {
        messages: Some(10),
        bytes: Some(1000),
        over_budget: OverBudget::Keep,
    };

    #[test]
    fn warning_is_raised_once_until_well_below() {
        let mut warning = FillWarning::default();
        let mut is_due = |queued, bytes| warning.is_due(LIMITS, &status(queued, bytes));
        assert!(!is_due(7, 799));
        assert!(is_due(8, 0));
        assert!(!is_due(10, 0));
        assert!(!is_due(6, 0));
        assert!(!is_due(8, 0));
        assert!(!is_due(5, 599));
        assert!(is_due(0, 800));
    }

    #[test]
    fn nothing_is_near_limit_that_is_not_set() {
        let mut warning = FillWarning::default();
        let full = status(usize::MAX, usize::MAX);
        assert!(!warning.is_due(WaitingLimits::default(), &full));
        assert!(!WaitingLimits::default().is_exceeded_by(&full, 1));
        // An empty queue is not near a limit of zero.
        let none = WaitingLimits {
            messages: Some(0),
            ..WaitingLimits::default()
        };
        assert!(!warning.is_due(none, &status(0, 0)));
    }

    #[test]
    fn message_has_room_up_to_limit() {
        for (queued, bytes, more, is_exceeded) in [
            (9, 900, 100, false),
            (9, 900, 101, true),
            (10, 0, 1, true),
            (0, 0, 1001, true),
        ] {
            let status = status(queued, bytes);
            assert_eq!(
                LIMITS.is_exceeded_by(&status, more),
                is_exceeded,
                "{queued} {bytes} {more}"
            );
        }
    }
}
