//! [`ConnectPermit`]: bounds the attempts to connect that clients of this process make at the same time.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Duration,
};

use super::unread_bytes::most_unread_bytes;

/// The most attempts to connect that run at the same time, however many bytes Paho may leave unread.
const MAX_ATTEMPTS: usize = 100;
/// The bytes that an attempt may leave unread: one when it is pending, and one when its connection is closed.
const BYTES_PER_ATTEMPT: usize = 2;
/// The bytes that are left for connections that are lost.
const SPARE_BYTES: usize = 50;

/// The time for which a permit stays in use after its attempt has ended, so that Paho reads what it has written.
pub(super) const TIME_AFTER_ATTEMPT: Duration = Duration::from_secs(1);

/// The permits of this process. One that was forked from it has no thread of Paho to connect with.
static PERMITS: Permits = Permits::new();

struct Permits(Mutex<State>);

struct State {
    used: usize,
    /// Those who have asked, in order.
    waiting: VecDeque<Weak<ConnectPermit>>,
}

/// The permission to make one attempt to connect, once it is granted. Dropping it grants another one.
pub(super) struct ConnectPermit {
    permits: &'static Permits,
    is_granted: AtomicBool,
    waker: Waker,
}

impl ConnectPermit {
    /// Asks for a permit. If it has to be waited for, wakes this once it is granted.
    pub(super) fn ask(waker: &Waker) -> Arc<Self> {
        PERMITS.ask(waker, max_attempts(most_unread_bytes()))
    }

    pub(super) fn is_granted(&self) -> bool {
        self.is_granted.load(Ordering::Acquire)
    }
}

impl Drop for ConnectPermit {
    fn drop(&mut self) {
        if self.is_granted() {
            self.permits.release();
        }
    }
}

/// Returns the attempts that may run at the same time, if Paho may leave so many bytes unread.
fn max_attempts(unread_bytes: usize) -> usize {
    let attempts = unread_bytes.saturating_sub(SPARE_BYTES) / BYTES_PER_ATTEMPT;
    attempts.clamp(1, MAX_ATTEMPTS)
}

impl Permits {
    const fn new() -> Self {
        Self(Mutex::new(State {
            used: 0,
            waiting: VecDeque::new(),
        }))
    }

    fn ask(&'static self, waker: &Waker, max_attempts: usize) -> Arc<ConnectPermit> {
        let mut state = self.lock();
        let is_free = state.used < max_attempts;
        let permit = Arc::new(ConnectPermit {
            permits: self,
            is_granted: AtomicBool::new(is_free),
            waker: waker.clone(),
        });
        if is_free {
            state.used = state.used.saturating_add(1);
        } else {
            state.waiting.push_back(Arc::downgrade(&permit));
        }
        permit
    }

    /// Grants a permit that is free to the first one that waits.
    fn release(&self) {
        let mut state = self.lock();
        // A client that has asked may be gone.
        let next = loop {
            match state.waiting.pop_front() {
                None => break None,
                Some(waiting) => {
                    if let Some(permit) = waiting.upgrade() {
                        break Some(permit);
                    }
                }
            }
        };
        let Some(next) = next else {
            state.used = state.used.saturating_sub(1);
            return;
        };
        next.is_granted.store(true, Ordering::Release);
        // Dropped after the lock, since it may be the last one that has it.
        drop(state);
        next.waker.wake_by_ref();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, task::Wake};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn permits_are_granted_in_order_up_to_their_number() {
        static PERMITS: Permits = Permits::new();
        let woken = Arc::<Count>::default();
        let ask = || PERMITS.ask(&Waker::from(Arc::clone(&woken)), 2);
        let (first, second) = (ask(), ask());
        assert!(first.is_granted() && second.is_granted());
        let (third, gone, fourth) = (ask(), ask(), ask());
        drop(gone);
        drop(first);
        assert!(third.is_granted() && !fourth.is_granted());
        drop(third);
        assert!(fourth.is_granted());
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        drop((second, fourth));
        let state = PERMITS.lock();
        assert_eq!((state.used, state.waiting.len()), (0, 0));
    }

    #[test]
    fn attempts_leave_no_more_bytes_than_fit() {
        for (bytes, attempts) in [(0, 1), (60, 5), (86, 18), (278, 100), (usize::MAX, 100)] {
            assert_eq!(max_attempts(bytes), attempts, "{bytes}");
        }
    }
}
