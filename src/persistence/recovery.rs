//! Recovery from an outage: decides, step by step, how the store is brought up to date.
//!
//! Nothing here waits, locks or reads a clock. The worker makes each step's exchange while calls go on
//! in memory, and returns with the answer.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::exchange::{Answer, Step};
use crate::{
    cache::{Relocation, RewriteBatch, WriteBehindCache},
    clock::Clock,
    error::ErrorKind,
    paho::Key,
};

/// Maximum size of a batch of pending writes, in bytes.
const WRITE_BATCH_BYTES: usize = 256 * 1024;
/// Bytes of key and protocol per write, roughly.
const WRITE_OVERHEAD: usize = 64;
/// Number of values that are compared per exchange.
const VERIFY_BATCH: usize = 64;
/// First backoff; it doubles with each failed attempt.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// The recovery from one outage, over all its attempts.
pub(super) struct Recovery {
    needs_reconnect: bool,
    /// The store has no memory for puts, so removes go first.
    removes_first: bool,
    resync: Resync,
    /// A relocation whose move is planned.
    relocation: Option<((Key, Key), RewriteBatch, Vec<u8>)>,
    /// The store has shown that it takes writes.
    is_checked: bool,
    backoff: Duration,
    /// Halved after each timeout.
    batch_bytes: usize,
    /// Time since boot at which the next step is due.
    pub(super) due: Duration,
    /// Number of writes that it has made.
    pub(super) rewritten: u64,
}

/// The comparison of the store with the cache.
enum Resync {
    NotNeeded,
    /// The keys are to be listed.
    Due(ResyncReason),
    /// The values of these keys are to be compared.
    Comparing(Vec<Key>),
}

/// The reason why the content of the store may differ from what it confirmed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ResyncReason {
    /// The same instance, which may have lost records.
    MayHaveLess,
    /// Another instance, or an unknown one, which may have loaded an older state.
    MayBeOlder,
}

impl Recovery {
    /// Begins the recovery from an outage of this kind.
    pub(super) fn new(kind: ErrorKind, now: Duration) -> Self {
        let resync = match kind {
            ErrorKind::Lost | ErrorKind::Unconfirmed => Resync::Due(ResyncReason::MayHaveLess),
            _ => Resync::NotNeeded,
        };
        Self {
            needs_reconnect: needs_new_connection(kind),
            removes_first: kind == ErrorKind::OutOfMemory,
            resync,
            relocation: None,
            is_checked: false,
            backoff: MIN_BACKOFF,
            batch_bytes: WRITE_BATCH_BYTES,
            due: now,
            rewritten: 0,
        }
    }

    /// Returns the next step; `None` if only what calls add meanwhile may be left to write.
    pub(super) fn next_step(&mut self, cache: &mut WriteBehindCache, name: &str) -> Option<Step> {
        if self.needs_reconnect {
            return Some(Step::Connect(name.to_owned()));
        }
        if self.removes_first {
            self.removes_first = false;
            let batch = cache.next_batch(self.batch_bytes, true);
            if !batch.is_empty() {
                return Some(Step::Write(batch));
            }
        }
        // Before all other writes, which may overwrite the old keys.
        if let Some((keys, batch, value)) = self.relocation.take() {
            return Some(Step::Relocate { keys, batch, value });
        }
        if let Some((old, new)) = cache.next_relocation() {
            return Some(Step::ReadRelocation(old, new));
        }
        match &mut self.resync {
            Resync::Due(_) => return Some(Step::List),
            Resync::Comparing(keys) => {
                if !keys.is_empty() {
                    let rest = keys.split_off(VERIFY_BATCH.min(keys.len()));
                    return Some(Step::Compare(std::mem::replace(keys, rest)));
                }
                self.resync = Resync::NotNeeded;
            }
            Resync::NotNeeded => {}
        }
        // What is left after the check is written under the mutex, so it must be little.
        let left = cache.unsent_totals();
        let size = left.records.saturating_mul(WRITE_OVERHEAD);
        let size = size.saturating_add(left.bytes);
        if size > self.batch_bytes || !self.is_checked && left.records > 0 {
            let batch = cache.next_batch(self.batch_bytes, false);
            if !batch.is_empty() {
                return Some(Step::Write(batch));
            }
        }
        // If nothing was pending, no exchange has shown yet that the store takes writes.
        (!self.is_checked).then_some(Step::Check)
    }

    /// Notes the answer to a step.
    pub(super) fn note_answer(
        &mut self,
        cache: &mut WriteBehindCache,
        instance_id: &mut Option<String>,
        (step, answer): (Step, Answer),
        clock: &Clock,
    ) {
        match (step, answer) {
            (Step::Connect(_), Answer::Connected(connected)) => {
                self.needs_reconnect = false;
                let is_same =
                    connected.instance_id.is_some() && connected.instance_id == *instance_id;
                // The same instance may have been flushed, or have evicted records, meanwhile.
                self.resync = Resync::Due(match self.resync {
                    Resync::Due(ResyncReason::MayBeOlder) | Resync::Comparing(_) => {
                        ResyncReason::MayBeOlder
                    }
                    _ if !is_same => ResyncReason::MayBeOlder,
                    _ => ResyncReason::MayHaveLess,
                });
                *instance_id = connected.instance_id;
            }
            (Step::List, Answer::Listed(keys, foreign)) => {
                let may_be_older = matches!(self.resync, Resync::Due(ResyncReason::MayBeOlder));
                self.resync = Resync::Comparing(cache.resync(&keys, foreign, may_be_older));
            }
            (Step::Compare(keys), Answer::Values(values)) => {
                for (key, value) in keys.into_iter().zip(values) {
                    cache.verify_value(key, value.as_deref());
                }
            }
            (Step::ReadRelocation(old, new), Answer::Values(values)) => {
                let mut values = values.into_iter();
                let (old_value, new_value) = (values.next().flatten(), values.next().flatten());
                match cache.plan_relocation((old, new), old_value, new_value) {
                    Relocation::Move { batch, value } => {
                        self.relocation = Some(((old, new), batch, value));
                    }
                    Relocation::Moved { value } => {
                        cache.finish_relocation((old, new), Some(&value));
                    }
                    Relocation::Lost => cache.finish_relocation((old, new), None),
                }
            }
            (Step::Relocate { keys, value, .. }, Answer::Done) => {
                cache.finish_relocation(keys, Some(&value));
            }
            (Step::Write(_), Answer::Done) => {
                let confirmed = cache.confirm_batch(clock);
                self.rewritten = self.rewritten.saturating_add(confirmed);
            }
            (Step::Check, _) => self.is_checked = true,
            _ => debug_assert!(false, "a step has an answer of its own kind"),
        }
    }

    /// Adapts the next attempt to the error of this one, and puts it off.
    pub(super) fn note_failure(&mut self, kind: ErrorKind, now: Duration, random: u8) {
        self.needs_reconnect |= needs_new_connection(kind);
        self.removes_first = kind == ErrorKind::OutOfMemory;
        self.is_checked = false;
        if let Resync::Comparing(_) = self.resync {
            self.resync = Resync::Due(ResyncReason::MayBeOlder);
        }
        if kind == ErrorKind::Timeout {
            self.batch_bytes = (self.batch_bytes / 2).max(1);
        }
        // Up to a quarter more, so that clients of one store do not all reconnect at the same time.
        let jitter = self.backoff.mul_f64(f64::from(random) / 1024.0);
        self.due = now.saturating_add(self.backoff).saturating_add(jitter);
        self.backoff = self.backoff.saturating_mul(2).min(MAX_BACKOFF);
    }
}

/// Returns `true` unless the error is a reply that leaves the connection usable.
fn needs_new_connection(kind: ErrorKind) -> bool {
    use ErrorKind::{
        Busy, Loading, Lost, Misconf, OutOfMemory, Permission, Server, Unconfirmed, WrongType,
    };
    // `ReadOnly` is not listed: after a failover another server may be the primary.
    !matches!(
        kind,
        Busy | Loading
            | Lost
            | Misconf
            | OutOfMemory
            | Permission
            | Server
            | Unconfirmed
            | WrongType
    )
}
