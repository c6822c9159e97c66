//! [`WaitingMessages`]: the number, the bytes and the age of the messages that wait.

use std::collections::VecDeque;

use crate::paho::{Content, Key, RecordKind};

/// Totals of the messages to the broker among the records, kept at each change.
#[derive(Default)]
pub(crate) struct WaitingMessages {
    totals: WaitingTotals,
    /// The number of messages that arrived in each second since boot, oldest first.
    ///
    /// A second whose messages have all left stays until it is the oldest one, or until a compaction.
    arrivals: VecDeque<(u32, usize)>,
    /// The present second since boot; the worker moves it.
    now: u32,
}

/// The messages that wait to be sent or acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WaitingTotals {
    pub(crate) messages: usize,
    /// Those of them that Paho has not sent yet.
    pub(crate) queued: usize,
    /// The size of all of them in bytes.
    pub(crate) bytes: usize,
}

/// Vacant seconds above the number of messages, from which on they are dropped.
const SLACK: usize = 64;

impl WaitingMessages {
    pub(crate) fn totals(&self) -> WaitingTotals {
        self.totals
    }

    /// Moves the clock to this second since boot.
    pub(crate) fn set_now(&mut self, second: u32) {
        self.now = self.now.max(second);
    }

    /// Returns the seconds that the oldest message has been waiting.
    pub(crate) fn oldest_age(&self) -> Option<u32> {
        let (second, _) = self.arrivals.front()?;
        Some(self.now.saturating_sub(*second))
    }

    /// Adds a record, and returns the second of its arrival: `since`, or else now.
    pub(super) fn add(
        &mut self,
        (key, content): (Key, Content),
        bytes: usize,
        since: Option<u32>,
    ) -> u32 {
        let since = since.unwrap_or(self.now);
        if content.is_message() {
            self.change(key, usize::saturating_add, bytes);
            match self.position(since) {
                Ok(index) => {
                    if let Some((_, messages)) = self.arrivals.get_mut(index) {
                        *messages = messages.saturating_add(1);
                    }
                }
                Err(index) => self.arrivals.insert(index, (since, 1)),
            }
        }
        since
    }

    /// Takes a record out that arrived in this second.
    pub(super) fn remove(&mut self, (key, content): (Key, Content), bytes: usize, since: u32) {
        if !content.is_message() {
            return;
        }
        self.change(key, usize::saturating_sub, bytes);
        if let Ok(index) = self.position(since)
            && let Some((_, messages)) = self.arrivals.get_mut(index)
        {
            *messages = messages.saturating_sub(1);
        }
        while let Some((_, 0)) = self.arrivals.front() {
            self.arrivals.pop_front();
        }
        if self.arrivals.len() > self.totals.messages.saturating_add(SLACK) {
            self.arrivals.retain(|(_, messages)| *messages > 0);
        }
    }

    fn change(&mut self, key: Key, change: impl Fn(usize, usize) -> usize, bytes: usize) {
        let totals = &mut self.totals;
        totals.messages = change(totals.messages, 1);
        totals.bytes = change(totals.bytes, bytes);
        if key.kind == RecordKind::Command {
            totals.queued = change(totals.queued, 1);
        }
    }

    /// Messages arrive in the order of time, but for those that go on under another key.
    fn position(&self, second: u32) -> Result<usize, usize> {
        self.arrivals.binary_search_by_key(&second, |(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str) -> (Key, Content) {
        let content = Content::Message { qos: 1 };
        (Key::parse(name).expect(name), content)
    }

    fn totals(messages: usize, queued: usize, bytes: usize) -> WaitingTotals {
        WaitingTotals {
            messages,
            queued,
            bytes,
        }
    }

    #[test]
    fn messages_are_counted_and_other_records_are_not() {
        let mut waiting = WaitingMessages::default();
        let since = waiting.add(message("c-1"), 10, None);
        waiting.add(message("s-1"), 20, None);
        let subscription = (Key::parse("c-2").expect("a key"), Content::Other);
        waiting.add(subscription, 40, None);
        assert_eq!(waiting.totals(), totals(2, 1, 30));
        waiting.remove(message("c-1"), 10, since);
        waiting.remove(subscription, 40, since);
        assert_eq!(waiting.totals(), totals(1, 0, 20));
    }

    #[test]
    fn age_is_that_of_oldest_message() {
        let mut waiting = WaitingMessages::default();
        assert_eq!(waiting.oldest_age(), None);
        waiting.set_now(100);
        let first = waiting.add(message("c-1"), 1, None);
        waiting.set_now(103);
        waiting.add(message("c-2"), 1, None);
        waiting.set_now(110);
        assert_eq!(waiting.oldest_age(), Some(10));
        // Sent, it goes on waiting.
        waiting.remove(message("c-1"), 1, first);
        assert_eq!(waiting.oldest_age(), Some(7));
        waiting.add(message("s-1"), 1, Some(first));
        assert_eq!(waiting.oldest_age(), Some(10));
        waiting.remove(message("s-1"), 1, first);
        waiting.set_now(50);
        assert_eq!(waiting.oldest_age(), Some(7));
        waiting.remove(message("c-2"), 1, 103);
        assert_eq!(waiting.oldest_age(), None);
    }

    #[test]
    fn one_old_message_keeps_no_place_for_each_second() {
        let mut waiting = WaitingMessages::default();
        waiting.add(message("c-1"), 1, None);
        let mut most = 0;
        for second in 1..10_000 {
            waiting.set_now(second);
            waiting.add(message("c-2"), 1, None);
            waiting.remove(message("c-2"), 1, second);
            most = most.max(waiting.arrivals.len());
        }
        assert_eq!(most, 1 + SLACK);
        assert_eq!(waiting.oldest_age(), Some(9_999));
    }
}
