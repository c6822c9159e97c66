//! [`Delivery`]: the way of one message to the broker.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::{
    error::{Error, ErrorKind},
    persistence::catch_panic,
};

/// The way of one message to the broker: a future, which ends when the broker has acknowledged the message.
///
/// At QoS 0 it ends when Paho has sent the message. A delivery that is dropped changes nothing: the message is on its
/// way all the same. It needs no runtime and can be awaited on any executor, or with [`wait`](Self::wait) from a
/// thread.
///
/// Do not wait in a callback of the client: the acknowledgment arrives on the same thread.
///
/// If the store has lost the record of a message before it was sent, and this process has no copy, Paho skips the message
/// without a report: the delivery is pending until the client ends. [`StoreEvent::RecordLost`](crate::StoreEvent::RecordLost)
/// reports it.
///
/// # Errors
///
/// [`ErrorKind::Broker`] if the broker refuses the message, or has lost the session that it was in;
/// [`ErrorKind::NotOpen`] if the client was stopped before, in which case the message is in the store and the next start
/// sends it.
pub struct Delivery(Arc<DeliveryCell>);

/// The outcome of a delivery, and whoever waits for it.
#[derive(Debug, Default)]
pub(super) struct DeliveryCell {
    state: Mutex<CellState>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct CellState {
    /// `None` before the end.
    outcome: Option<Result<(), Failure>>,
    waker: Option<Waker>,
}

/// Why a delivery failed. Each question gets an error of its own, since an error cannot be copied.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) reason: String,
}

impl CellState {
    fn is_done(&self) -> bool {
        self.outcome.is_some()
    }

    fn result(&self) -> Result<(), Error> {
        match &self.outcome {
            None | Some(Ok(())) => Ok(()),
            Some(Err(Failure { kind, reason })) => {
                Err(Error::new(*kind, "deliver a message").with_reason(reason.clone()))
            }
        }
    }
}

impl DeliveryCell {
    fn lock(&self) -> MutexGuard<'_, CellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn complete(&self, outcome: Result<(), Failure>) {
        let waker = {
            let mut state = self.lock();
            state.outcome = Some(outcome);
            state.waker.take()
        };
        self.done.notify_all();
        if let Some(waker) = waker {
            // It is code of the program.
            catch_panic(|| waker.wake());
        }
    }
}

impl Delivery {
    pub(super) fn new(cell: Arc<DeliveryCell>) -> Self {
        Self(cell)
    }

    /// Returns `true` if the delivery has ended, with success or not.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.lock().is_done()
    }

    /// Waits until the broker has acknowledged the message, however long that takes.
    ///
    /// # Errors
    ///
    /// Those of the delivery.
    pub fn wait(self) -> Result<(), Error> {
        let state = self.0.lock();
        let done = self.0.done.wait_while(state, |state| !state.is_done());
        let state = done.unwrap_or_else(PoisonError::into_inner);
        state.result()
    }

    /// Waits for up to `limit`. The message stays on its way if the time passes, and this may be called again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] if the time passes, and those of the delivery.
    pub fn wait_for(&mut self, limit: Duration) -> Result<(), Error> {
        let until = Instant::now().checked_add(limit);
        let mut state = self.0.lock();
        while !state.is_done() {
            let left = match until {
                Some(until) => until.saturating_duration_since(Instant::now()),
                None => limit,
            };
            if left.is_zero() {
                return Err(
                    Error::new(ErrorKind::Timeout, "deliver a message").with_reason(
                        "the broker has not acknowledged it in time; it stays on its way",
                    ),
                );
            }
            let waited = self.0.done.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.result()
    }
}

impl Future for Delivery {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        if state.is_done() {
            return Poll::Ready(state.result());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("is_done", &self.is_done())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn delivery() -> (Arc<DeliveryCell>, Delivery) {
        let cell = Arc::<DeliveryCell>::default();
        (Arc::clone(&cell), Delivery::new(cell))
    }

    fn failure() -> Failure {
        Failure {
            kind: ErrorKind::Broker,
            reason: "refused".to_owned(),
        }
    }

    #[test]
    fn failed_delivery_never_turns_into_success() {
        let (cell, mut delivery) = delivery();
        cell.complete(Err(failure()));
        for _ in 0..2 {
            let error = delivery.wait_for(Duration::ZERO).unwrap_err();
            assert_eq!(error.to_string(), "cannot deliver a message: refused");
        }
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            let polled = Pin::new(&mut delivery).poll(&mut context);
            assert!(matches!(polled, Poll::Ready(Err(_))), "{polled:?}");
        }
        assert!(delivery.wait().is_err());
    }

    #[test]
    fn wait_ends_with_outcome() {
        for outcome in [Ok(()), Err(failure())] {
            let (cell, delivery) = delivery();
            let kind = outcome.as_ref().err().map(|failure| failure.kind);
            let waiting = thread::spawn(move || delivery.wait());
            cell.complete(outcome);
            let waited = waiting.join().expect("no panic");
            assert_eq!(waited.err().map(|error| error.kind()), kind);
        }
    }

    #[test]
    fn delivery_can_be_waited_for_again() {
        let (cell, mut delivery) = delivery();
        let error = delivery.wait_for(Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!delivery.is_done());
        cell.complete(Ok(()));
        assert!(delivery.is_done());
        assert!(delivery.wait_for(Duration::ZERO).is_ok());
    }

    #[test]
    fn future_is_woken_once_done() {
        struct Unpark(thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let (cell, mut delivery) = delivery();
        let waiting = thread::spawn(move || {
            let waker = Waker::from(Arc::new(Unpark(thread::current())));
            let mut context = Context::from_waker(&waker);
            loop {
                match Pin::new(&mut delivery).poll(&mut context) {
                    Poll::Ready(outcome) => return outcome,
                    Poll::Pending => thread::park(),
                }
            }
        });
        cell.complete(Ok(()));
        assert!(waiting.join().expect("no panic").is_ok());
    }
}
