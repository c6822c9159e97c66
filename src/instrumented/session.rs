//! [`Session`]: the measurements since the last open, shared with the observer of the store.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::backlog::Backlog;
use crate::{
    error::ErrorKind,
    metrics::{MissLabel, OperationLabel},
    paho::{Key, RecordKind},
};

/// The open session, if Paho has opened the persistence.
///
/// Locked for the updates alone, never during a call to the persistence: a call may wait for the
/// store, and the thread that delivers the events needs the session too.
#[derive(Clone, Default)]
pub(super) struct Session(Arc<Mutex<Option<OpenState>>>);

impl Session {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<OpenState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The measurements since the last open.
pub(super) struct OpenState {
    pub(super) backlog: Backlog,
    pub(super) opened: Duration,
    pub(super) stage: Stage,
}

/// The progress of Paho in restoring the records of an earlier run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Opened; Paho has not listed the keys yet.
    Opened,
    /// Paho lists and reads records.
    Restoring,
    /// Paho has made its first call that is not part of restoring.
    Running,
}

/// The outcome of a call, as its span and the counters have it.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Ok,
    Miss,
    Error(ErrorKind),
}

impl OpenState {
    /// Updates the measurements after a call, and publishes what it has changed in the backlog.
    pub(super) fn record_call(
        &mut self,
        operation: OperationLabel,
        key: &str,
        outcome: Outcome,
        start: Duration,
        end: Duration,
    ) {
        self.count_call(operation, key, outcome, end.saturating_sub(start));
        self.update_restore(operation, key, end);
        if let Outcome::Error(kind) = outcome {
            self.note_failure(operation, key, kind);
        }
        self.backlog.publish();
    }

    /// Updates the counters and the histogram of the operation.
    fn count_call(&self, operation: OperationLabel, key: &str, outcome: Outcome, took: Duration) {
        let series = self.backlog.series();
        series
            .calls
            .operation_duration_seconds
            .of(operation)
            .observe(took.as_secs_f64());
        // `get` reports a missing record as an error, so the backlog distinguishes a miss from a failure.
        let missed = match outcome {
            Outcome::Ok | Outcome::Error(ErrorKind::Lost) => false,
            Outcome::Miss => true,
            Outcome::Error(_) => operation == OperationLabel::Get && !self.backlog.contains(key),
        };
        let counters = &series.calls.operation_misses_total;
        if missed && let Some(counter) = counters.get(MissLabel(operation)) {
            counter.inc();
        }
        if let Outcome::Error(kind) = outcome
            && let Some(errors) = series.error(operation, kind)
        {
            errors.inc();
        }
    }

    /// Extends the restore duration to this call, unless restoring is over.
    ///
    /// Paho reads every record when a client is created. The first call afterwards is a change, or the
    /// removal of a command.
    fn update_restore(&mut self, operation: OperationLabel, key: &str, now: Duration) {
        if self.stage == Stage::Running {
            return;
        }
        let is_command = || Key::parse(key).is_some_and(|key| key.kind == RecordKind::Command);
        match operation {
            OperationLabel::Open => {}
            OperationLabel::Put | OperationLabel::Close | OperationLabel::Clear => {
                self.stage = Stage::Running;
            }
            OperationLabel::Remove if is_command() => self.stage = Stage::Running,
            OperationLabel::Get
            | OperationLabel::Remove
            | OperationLabel::Keys
            | OperationLabel::ContainsKey => {
                let took = now.saturating_sub(self.opened);
                let series = &self.backlog.series().calls;
                series.restore_duration_seconds.set(took.as_secs_f64());
            }
        }
    }

    /// Updates the backlog after a call that failed.
    fn note_failure(&mut self, operation: OperationLabel, key: &str, kind: ErrorKind) {
        match operation {
            OperationLabel::Get => {
                self.backlog.look_up();
                // The store lost it, and no `remove` may ever come for it.
                if matches!(kind, ErrorKind::Lost | ErrorKind::NotFound) {
                    self.backlog.lose(key);
                }
            }
            OperationLabel::Put if kind == ErrorKind::Damaged => self.backlog.put_damaged(key),
            OperationLabel::Remove => self.backlog.remove_failed(key),
            _ => {}
        }
    }

    /// Reconciles the backlog with the listed keys; the first list after an open gives the restored records.
    pub(super) fn reconcile(&mut self, keys: &[String]) {
        self.backlog.list();
        self.backlog.reconcile(keys);
        if self.stage == Stage::Opened {
            self.backlog.note_restored();
            self.stage = Stage::Restoring;
        }
    }
}
