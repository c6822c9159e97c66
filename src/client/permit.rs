//! [`Permit`]: bounds the attempts to connect that clients of this process make at the same time.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Duration,
};

/// The attempts to connect that may run at the same time.
///
/// Paho writes a byte to a socket pair for each connection that is pending and for each that it closes. It does so under
/// its global lock, and the thread that reads these bytes needs the lock. The 279th that is not read blocks, and with it
/// every client of the process, for ever (docs/upstream/interrupt-socket.md). An attempt takes two at most.
const MAX_ATTEMPTS: usize = 100;

/// The time for which a permit stays in use after an attempt has ended, so that Paho reads what it has written.
pub(super) const TIME_AFTER_ATTEMPT: Duration = Duration::from_secs(1);

/// The permits of this process.
static PERMITS: Permits = Permits(Mutex::new(State {
    used: 0,
    waiting: VecDeque::new(),
}));

struct Permits(Mutex<State>);

struct State {
    used: usize,
    /// Whoever has asked, in order.
    waiting: VecDeque<Weak<Permit>>,
}

/// The permission to connect, once it is granted. Dropping it grants another one.
pub(super) struct Permit {
    permits: &'static Permits,
    is_granted: AtomicBool,
    waker: Waker,
}

impl Permit {
    /// Asks for a permit. If it has to be waited for, wakes this once it is granted.
    pub(super) fn ask(waker: &Waker) -> Arc<Self> {
        PERMITS.ask(waker)
    }

    pub(super) fn is_granted(&self) -> bool {
        self.is_granted.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_granted() {
            self.permits.release();
        }
    }
}

impl Permits {
    fn ask(&'static self, waker: &Waker) -> Arc<Permit> {
        let mut state = self.lock();
        let is_free = state.used < MAX_ATTEMPTS;
        let permit = Arc::new(Permit {
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

    /// Grants a permit that is free to the first who waits for it.
    fn release(&self) {
        let mut state = self.lock();
        // Who has asked may be gone.
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
        static PERMITS: Permits = Permits(Mutex::new(State {
            used: 0,
            waiting: VecDeque::new(),
        }));
        let woken = Arc::<Count>::default();
        let ask = || PERMITS.ask(&Waker::from(Arc::clone(&woken)));
        let mut granted: Vec<_> = (0..MAX_ATTEMPTS).map(|_| ask()).collect();
        assert!(granted.iter().all(|permit| permit.is_granted()));
        let (first, gone, second) = (ask(), ask(), ask());
        drop(gone);
        granted.pop();
        assert!(first.is_granted() && !second.is_granted());
        drop(first);
        assert!(second.is_granted());
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        drop((granted, second));
        let state = PERMITS.lock();
        assert_eq!((state.used, state.waiting.len()), (0, 0));
    }
}
