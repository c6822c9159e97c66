//! Recovery from an outage: decides, step by step, how the store is brought up to date.
//!
//! Nothing here waits, locks or reads a clock. The worker makes each step's exchange while calls go on
//! in memory, and returns with the answer.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use super::exchange::{Answer, Step};
use crate::{
    cache::{BatchLimits, Relocation, RewriteBatch, WriteBehindCache},
    clock::Clock,
    error::{Error, ErrorKind},
    paho::Key,
};

/// Maximum size of a batch of pending writes, in bytes.
const WRITE_BATCH_BYTES: usize = 256 * 1024;
/// Number of messages in one batch, at most.
const MAX_BATCH_PUTS: usize = 16 * 1024;
/// Bytes of key and protocol per write, roughly.
const WRITE_OVERHEAD: usize = 64;
/// Number of values that are compared per exchange, at most.
const COMPARE_BATCH: usize = 64;
/// Number of times that the write of one message alone may break the connection before the message is
/// set aside.
const MAX_BROKEN_WRITES: u8 = 3;
/// First backoff; it doubles with each failed attempt.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// The recovery from one outage, over all its attempts.
pub(super) struct Recovery {
    needs_reconnect: bool,
    /// The store has no memory for puts, so removes go first.
    removes_first: bool,
    resync: Resync,
    found_at_open: FoundAtOpen,
    /// Number of values in the next step of a comparison; that of a failed one is halved.
    compare_batch: usize,
    /// A relocation whose move is planned.
    relocation: Option<((Key, Key), RewriteBatch, Vec<u8>)>,
    /// The message whose write failed when it was alone in its batch.
    suspect: Option<Suspect>,
    /// The store has shown that it takes writes.
    is_checked: bool,
    backoff: Duration,
    /// Limits of one batch; those of a failed one are halved, and grow with each success.
    limits: BatchLimits,
    /// Time since boot at which the next step is due.
    pub(super) due: Duration,
    /// Number of writes that it has made.
    pub(super) rewritten: u64,
}

/// The records that the store had when the persistence was opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FoundAtOpen {
    Loaded,
    /// The store was unavailable, so they are loaded before anything is written.
    ToLoad,
}

/// The comparison of the store with the cache.
enum Resync {
    NotNeeded,
    /// The keys are to be listed.
    Due(ResyncReason),
    /// The values of `rest` are to be compared.
    Comparing(Comparison),
}

impl Resync {
    /// Returns the reason for a comparison that is due or in progress.
    fn reason(&self) -> Option<ResyncReason> {
        match self {
            Self::NotNeeded => None,
            Self::Due(reason) => Some(*reason),
            Self::Comparing(comparison) => Some(comparison.reason),
        }
    }
}

/// The reason why the content of the store may differ from what it confirmed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ResyncReason {
    /// The same data, which may have lost records.
    MayHaveLess,
    /// An older state, or the data of another store.
    MayBeOther,
}

struct Comparison {
    reason: ResyncReason,
    rest: Vec<Key>,
    /// Records that this process has never known, and that are to be quarantined.
    unknown: Vec<(Key, Vec<u8>)>,
}

/// A message that may be the only one that the store does not take.
struct Suspect {
    keys: Vec<Key>,
    error: Arc<Error>,
    /// Number of connections that its write has broken.
    broken: u8,
}

/// Returns true for an error that no other batch avoids.
fn is_about_store(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotReplicated | ErrorKind::NotSynced)
}

impl Recovery {
    /// Begins the recovery from an outage of this kind.
    pub(super) fn new(kind: ErrorKind, now: Duration) -> Self {
        let mut recovery = Self {
            needs_reconnect: false,
            removes_first: false,
            resync: Resync::NotNeeded,
            found_at_open: FoundAtOpen::Loaded,
            compare_batch: COMPARE_BATCH,
            relocation: None,
            suspect: None,
            is_checked: false,
            backoff: MIN_BACKOFF,
            limits: BatchLimits {
                bytes: WRITE_BATCH_BYTES,
                puts: MAX_BATCH_PUTS,
                smallest_first: false,
            },
            due: now,
            rewritten: 0,
        };
        recovery.note_kind(kind);
        recovery
    }

    /// Begins the recovery from an outage in which the persistence was opened.
    pub(super) fn of_opening(kind: ErrorKind, now: Duration) -> Self {
        Self {
            needs_reconnect: true,
            found_at_open: FoundAtOpen::ToLoad,
            ..Self::new(kind, now)
        }
    }

    /// Returns true until the records have been loaded that the store had at open.
    pub(super) fn is_loading(&self) -> bool {
        self.found_at_open == FoundAtOpen::ToLoad
    }

    /// Notes what an error says about the connection and the content of the store.
    fn note_kind(&mut self, kind: ErrorKind) {
        self.needs_reconnect |= !kind.is_refusal();
        self.removes_first = kind == ErrorKind::OutOfMemory;
        let may_be_other = matches!(
            kind,
            ErrorKind::ReadOnly | ErrorKind::Loading | ErrorKind::InUse
        );
        if may_be_other {
            self.resync = Resync::Due(ResyncReason::MayBeOther);
        }
    }

    /// Returns the next step; `None` if only what calls add meanwhile may be left to write.
    pub(super) fn next_step(&mut self, cache: &mut WriteBehindCache, name: &str) -> Option<Step> {
        if self.needs_reconnect {
            return Some(Step::Connect(name.to_owned()));
        }
        // Before all writes: they may replace records that are to be compared.
        if let Some(step) = self.next_resync_step(cache) {
            return Some(step);
        }
        if std::mem::take(&mut self.removes_first) {
            let limits = BatchLimits {
                puts: 0,
                ..self.limits
            };
            let mut batch = cache.next_batch(limits);
            // A full store takes nothing more. What Paho has dropped must not keep it full.
            if batch.is_empty() && cache.give_up_for_room() {
                batch = cache.next_batch(limits);
            }
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
        if let Some(suspect) = &self.suspect {
            if suspect.error.kind().is_refusal() {
                return Some(Step::Check);
            }
            if suspect.broken >= MAX_BROKEN_WRITES {
                cache.refuse(&suspect.keys, Arc::clone(&suspect.error));
                self.suspect = None;
            }
        }
        let batch = cache.next_stale_batch();
        if !batch.is_empty() {
            return Some(Step::RemoveStale(batch));
        }
        // What is left after the check is written under the mutex, so it must be little.
        let left = cache.unsent_totals();
        let size = left.records.saturating_mul(WRITE_OVERHEAD);
        let size = size.saturating_add(left.bytes);
        if size > WRITE_BATCH_BYTES || !self.is_checked && left.records > 0 {
            let batch = cache.next_batch(self.limits);
            if !batch.is_empty() {
                return Some(Step::Write(batch));
            }
        }
        // If nothing was pending, no exchange has shown yet that the store takes writes.
        (!self.is_checked).then_some(Step::Check)
    }

    fn next_resync_step(&mut self, cache: &mut WriteBehindCache) -> Option<Step> {
        let comparison = match &mut self.resync {
            Resync::NotNeeded => return None,
            Resync::Due(_) => return Some(Step::List),
            Resync::Comparing(comparison) => comparison,
        };
        if !comparison.unknown.is_empty() {
            let batch = cache.quarantine_batch(&comparison.unknown);
            return Some(Step::Quarantine(batch));
        }
        if !comparison.rest.is_empty() {
            let rest = &mut comparison.rest;
            let others = rest.split_off(self.compare_batch.min(rest.len()));
            return Some(Step::Compare(std::mem::replace(rest, others)));
        }
        cache.finish_comparison();
        self.resync = Resync::NotNeeded;
        if self.is_loading() {
            self.found_at_open = FoundAtOpen::Loaded;
            cache.finish_load();
        }
        None
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
                let (new, known) = (connected.instance_id.as_ref(), instance_id.as_ref());
                let is_same = new.is_some() && new == known;
                self.note_connected(is_same);
                if !is_same {
                    cache.events.connected(connected.server);
                }
                *instance_id = connected.instance_id;
            }
            (Step::List, Answer::Listed(keys, foreign, set_asides)) => {
                for (place, names) in &set_asides {
                    cache.refresh_set_asides(*place, names);
                }
                self.note_list(cache, keys, foreign);
            }
            (Step::Compare(keys), Answer::Values(values)) => {
                let records = keys.into_iter().zip(values);
                let records = records.filter_map(|(key, value)| Some((key, value?)));
                let unknown = if self.is_loading() {
                    cache.load_earlier(records.collect())
                } else {
                    cache.compare(records.collect())
                };
                if unknown.is_empty() {
                    self.grow_compare_batch();
                }
                if let Resync::Comparing(comparison) = &mut self.resync {
                    comparison.unknown = unknown;
                }
            }
            (Step::Quarantine(batch), Answer::Done) => {
                if let Resync::Comparing(comparison) = &mut self.resync {
                    let unknown = std::mem::take(&mut comparison.unknown);
                    cache.finish_quarantine(&unknown, &batch);
                }
                self.grow_compare_batch();
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
            (Step::Write(batch), Answer::Done) => {
                let confirmed = cache.confirm_batch(clock);
                self.rewritten = self.rewritten.saturating_add(confirmed);
                if batch.only_put().is_some() {
                    self.suspect = None;
                }
                let puts = self.limits.puts.saturating_mul(2);
                self.limits.puts = puts.min(MAX_BATCH_PUTS);
                self.limits.smallest_first &= puts < MAX_BATCH_PUTS;
                // Slowly, since a batch that is too large for the connection costs it.
                let growth = (self.limits.bytes / 16).saturating_add(WRITE_OVERHEAD);
                let bytes = self.limits.bytes.saturating_add(growth);
                self.limits.bytes = bytes.min(WRITE_BATCH_BYTES);
                self.backoff = MIN_BACKOFF;
            }
            (Step::RemoveStale(batch), Answer::Done) => cache.finish_stale(&batch),
            (Step::Check, _) => {
                self.is_checked = true;
                // It takes writes, so only this one is refused.
                if let Some(Suspect { keys, error, .. }) = self.suspect.take() {
                    cache.refuse(&keys, error);
                    self.is_checked = false;
                }
            }
            _ => debug_assert!(false, "a step has an answer of its own kind"),
        }
    }

    /// Slowly, since a batch that is too large for the connection costs it.
    fn grow_compare_batch(&mut self) {
        let growth = (self.compare_batch / 16).saturating_add(1);
        let batch = self.compare_batch.saturating_add(growth);
        self.compare_batch = batch.min(COMPARE_BATCH);
    }

    fn note_connected(&mut self, is_same: bool) {
        self.needs_reconnect = false;
        // It may have been flushed, or have evicted records, meanwhile.
        let reason = self.resync.reason().unwrap_or(ResyncReason::MayHaveLess);
        self.resync = Resync::Due(if is_same {
            reason
        } else {
            ResyncReason::MayBeOther
        });
    }

    fn note_list(&mut self, cache: &mut WriteBehindCache, stored: Vec<Key>, foreign: usize) {
        let reason = self.resync.reason().unwrap_or(ResyncReason::MayBeOther);
        let rest = if self.is_loading() {
            cache.begin_load(&stored, foreign);
            stored
        } else if reason == ResyncReason::MayHaveLess {
            let in_the_way = cache.restore_missing(&stored, foreign);
            if in_the_way.is_empty() {
                self.resync = Resync::NotNeeded;
                return;
            }
            in_the_way
        } else {
            cache.begin_comparison(&stored, foreign);
            stored
        };
        self.resync = Resync::Comparing(Comparison {
            reason,
            rest,
            unknown: Vec::new(),
        });
    }

    /// Adapts the next attempt to the error of a step, and puts it off unless the step can be made
    /// otherwise at once.
    pub(super) fn note_failure(
        &mut self,
        cache: &mut WriteBehindCache,
        failed: Option<&Step>,
        error: &Arc<Error>,
        (now, random): (Duration, u8),
    ) {
        let is_refusal = error.kind().is_refusal();
        self.note_kind(error.kind());
        self.is_checked = false;
        // What it was planned from may have changed meanwhile.
        self.relocation = None;
        self.due = now;
        match failed {
            // Whatever is written: its settings or replicas are the cause.
            Some(Step::Write(_)) if is_about_store(error.kind()) => {}
            Some(Step::Write(batch)) => {
                self.narrow_down(batch, error);
                // The next batch is another one. Without a put it would be the same.
                if is_refusal && batch.has_put() {
                    return;
                }
            }
            Some(Step::Quarantine(_)) if is_refusal => {
                self.leave_unknown(cache, error);
                return;
            }
            Some(Step::Check) => self.suspect = None,
            Some(Step::Quarantine(batch)) if error.kind() == ErrorKind::Timeout => {
                self.compare_batch = (batch.len() / 2).max(1);
            }
            // What it should read is compared again from the start.
            Some(Step::Compare(_)) => {
                let reason = self.resync.reason().unwrap_or(ResyncReason::MayBeOther);
                self.resync = Resync::Due(reason);
            }
            _ => {}
        }
        // Up to a quarter more, so that clients of one store do not all reconnect at the same time.
        let jitter = self.backoff.mul_f64(f64::from(random) / 1024.0);
        self.due = now.saturating_add(self.backoff).saturating_add(jitter);
        self.backoff = self.backoff.saturating_mul(2).min(MAX_BACKOFF);
    }

    /// Halves the batch after a failed write, until a single message is suspected of the failure.
    fn narrow_down(&mut self, batch: &RewriteBatch, error: &Arc<Error>) {
        if let Some(keys) = batch.only_put() {
            let known = self.suspect.take().filter(|suspect| suspect.keys == keys);
            let broken = known.map_or(0, |suspect| suspect.broken);
            self.suspect = Some(Suspect {
                keys,
                error: Arc::clone(error),
                broken: broken.saturating_add(1),
            });
        }
        self.limits.puts = (batch.len() / 2).max(1);
        self.limits.smallest_first = true;
        if error.kind() == ErrorKind::Timeout {
            self.limits.bytes = (self.limits.bytes / 2).max(1);
        }
    }

    /// Leaves the unknown records that the quarantine has refused. It may take some of them, so each is
    /// tried alone before.
    fn leave_unknown(&mut self, cache: &mut WriteBehindCache, error: &Arc<Error>) {
        let Resync::Comparing(comparison) = &mut self.resync else {
            return;
        };
        let unknown = std::mem::take(&mut comparison.unknown);
        if unknown.len() > 1 {
            let keys = unknown.iter().map(|(key, _)| *key);
            comparison.rest.splice(..0, keys);
            self.compare_batch = 1;
        } else {
            cache.leave_unknown(&unknown, Arc::clone(error));
        }
    }
}
