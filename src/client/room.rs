//! [`Room`]: counts how many messages may be published before what waits has to be counted again.

/// The number of messages that surely have room.
///
/// What waits grows by published messages alone. So once it was counted, as many messages have room as were missing to
/// the limit, and only then it must be counted again, which takes the mutex of the persistence.
#[derive(Debug)]
pub(super) struct Room {
    limit: usize,
    left: usize,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, left: 0 }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes the place of one message. `count` returns the number of messages that wait; it is the error if
    /// there is no room.
    pub(super) fn take(&mut self, count: impl FnOnce() -> usize) -> Result<(), usize> {
        if self.left == 0 {
            let waiting = count();
            self.left = self.limit.saturating_sub(waiting);
            if self.left == 0 {
                return Err(waiting);
            }
        }
        self.left = self.left.saturating_sub(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_never_exceeded() {
        let mut room = Room::new(10);
        let (mut waiting, mut counts) = (0, 0);
        // Two messages are acknowledged after each three that are published.
        for step in 0..200 {
            let taken = room.take(|| {
                counts += 1;
                waiting
            });
            if taken.is_ok() {
                waiting += 1;
            } else {
                assert_eq!((waiting, taken), (10, Err(10)));
            }
            assert!(waiting <= 10);
            if step % 3 == 2 {
                waiting = waiting.saturating_sub(2);
            }
        }
        assert!(counts > 1);
    }

    #[test]
    fn waiting_messages_are_not_counted_each_time() {
        let mut room = Room::new(10_000);
        let mut counts = 0;
        for _ in 0..10_000 {
            let taken = room.take(|| {
                counts += 1;
                0
            });
            assert_eq!(taken, Ok(()));
        }
        assert_eq!(counts, 1);
        assert_eq!(room.take(|| 10_000), Err(10_000));
        assert_eq!(room.take(|| 12_000), Err(12_000));
    }
}
