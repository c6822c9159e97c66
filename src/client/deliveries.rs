//! [`Deliveries`]: the messages of this run that the broker has not acknowledged.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use paho_mqtt as mqtt;

use super::{
    connection::ConnectionError,
    delivery::{DeliveryCell, Failure},
    signal::{Signal, waker_of_delivery},
    token::poll,
};
use crate::error::ErrorKind;

/// The tokens of the messages on their way, and what became of the others.
///
/// Their number is bounded by the limit of the client.
pub(super) struct Deliveries {
    signal: Arc<Signal>,
    state: Mutex<DeliveryState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct DeliveryState {
    on_their_way: HashMap<u64, OnItsWay>,
    next: u64,
    counts: DeliveryCounts,
    /// The first failure of this run, until it is in the log.
    first_failure: Option<Failure>,
    has_broken_write: bool,
    /// Nobody reads tokens any more.
    has_ended: bool,
}

struct OnItsWay {
    token: mqtt::Token,
    qos: mqtt::QoS,
    cell: Arc<DeliveryCell>,
}

impl std::fmt::Debug for OnItsWay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnItsWay").finish_non_exhaustive()
    }
}

/// Messages of this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeliveryCounts {
    pub(super) pending: usize,
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
}

impl Deliveries {
    pub(super) fn new(signal: Arc<Signal>) -> Self {
        Self {
            signal,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, DeliveryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a message that Paho has accepted.
    pub(super) fn add(&self, token: mqtt::DeliveryToken, qos: mqtt::QoS) -> Arc<DeliveryCell> {
        let cell = Arc::<DeliveryCell>::default();
        let mut state = self.lock();
        if state.has_ended {
            drop(state);
            cell.complete(Err(given_up()));
            return cell;
        }
        let number = state.next;
        state.next = number.wrapping_add(1);
        let on_its_way = OnItsWay {
            // A delivery token has the message as well, which would keep every payload in memory.
            token: token.into(),
            qos,
            cell: Arc::clone(&cell),
        };
        state.on_their_way.insert(number, on_its_way);
        // A token that has ended before is read at once, and one that ends from now on notes its number.
        let waker = waker_of_delivery(&self.signal, number);
        drop(state);
        self.settle(number, &waker);
        cell
    }

    /// Reads the tokens that have ended.
    pub(super) fn complete(&self, completed: &[u64]) {
        for number in completed {
            self.settle(*number, Waker::noop());
        }
    }

    /// Returns true if a write to the broker was broken off.
    pub(super) fn has_broken_write(&self) -> bool {
        self.lock().has_broken_write
    }

    /// Reads one token.
    fn settle(&self, number: u64, waker: &Waker) {
        let mut state = self.lock();
        let Some(on_its_way) = state.on_their_way.get_mut(&number) else {
            return;
        };
        let Poll::Ready(result) = poll(&mut on_its_way.token, waker) else {
            return;
        };
        let Some(on_its_way) = state.on_their_way.remove(&number) else {
            return;
        };
        let outcome = match result {
            Ok(_) => {
                state.counts.acknowledged = state.counts.acknowledged.saturating_add(1);
                Ok(())
            }
            Err(error) => {
                let failure = failure(&error, on_its_way.qos);
                if state.counts.failed == 0 {
                    state.first_failure = Some(failure.clone());
                }
                state.counts.failed = state.counts.failed.saturating_add(1);
                // At QoS 0 nothing is sent again, so nothing can be damaged.
                if is_broken_write(&error) && on_its_way.qos != mqtt::QoS::AtMostOnce {
                    state.has_broken_write = true;
                    self.signal.look();
                }
                Err(failure)
            }
        };
        drop(state);
        on_its_way.cell.complete(outcome);
        self.changed.notify_all();
    }

    pub(super) fn counts(&self) -> DeliveryCounts {
        let state = self.lock();
        DeliveryCounts {
            pending: state.on_their_way.len(),
            ..state.counts
        }
    }

    /// Takes the first failure of this run, once.
    pub(super) fn take_first_failure(&self) -> Option<Failure> {
        self.lock().first_failure.take()
    }

    /// Waits until a delivery ends, for up to `limit`.
    pub(super) fn wait(&self, limit: Duration) {
        let state = self.lock();
        drop(self.changed.wait_timeout(state, limit));
    }

    /// Ends all that are pending and all that are added later, since the client ends.
    pub(super) fn give_up(&self) {
        let on_their_way = {
            let mut state = self.lock();
            state.has_ended = true;
            std::mem::take(&mut state.on_their_way)
        };
        for on_its_way in on_their_way.into_values() {
            on_its_way.cell.complete(Err(given_up()));
        }
    }
}

fn given_up() -> Failure {
    Failure {
        kind: ErrorKind::NotOpen,
        reason: "the client ended before the broker acknowledged it; it stays in the store, and the next start sends it"
            .to_owned(),
    }
}

/// Returns true for the error of a message whose write to the broker was broken off: Paho has freed its topic and
/// payload, and would send what is in that memory by the next connection.
fn is_broken_write(error: &mqtt::Error) -> bool {
    matches!(error, mqtt::Error::Failure)
}

/// Returns the reason of a failure, and what becomes of the message.
fn failure(error: &mqtt::Error, qos: mqtt::QoS) -> Failure {
    let reason = match error {
        mqtt::Error::ReasonCode(code, _) => format!("the broker refused it: {code}"),
        mqtt::Error::OperationIncomplete => {
            "the broker has lost the session that it was in, or the client has discarded it"
                .to_owned()
        }
        error if is_broken_write(error) => "the connection broke while it was written".to_owned(),
        error => ConnectionError::from(error).to_string(),
    };
    let fate = match error {
        _ if qos == mqtt::QoS::AtMostOnce => "at QoS 0 it is not sent again",
        mqtt::Error::ReasonCode(..) | mqtt::Error::OperationIncomplete => {
            "it is not sent again, but kept as a dead letter unless those are off"
        }
        error if is_broken_write(error) => "it stays in the store, and the next start sends it",
        _ => "if Paho drops its record, the log has a line about that",
    };
    Failure {
        kind: ErrorKind::Broker,
        reason: format!("{reason}; {fate}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::delivery::Delivery, *};

    fn deliveries() -> (Arc<Signal>, Deliveries) {
        let signal = Arc::<Signal>::default();
        (Arc::clone(&signal), Deliveries::new(signal))
    }

    fn message() -> mqtt::Message {
        mqtt::Message::new("t", "x", mqtt::QOS_1)
    }

    fn ended(code: i32) -> mqtt::DeliveryToken {
        mqtt::DeliveryToken::from_error(message(), code)
    }

    #[test]
    fn broken_write_is_seen_but_at_qos_0() {
        const FAILURE: i32 = -1;
        const DISCONNECTED: i32 = -3;
        for (code, qos, is_broken) in [
            (FAILURE, mqtt::QoS::AtLeastOnce, true),
            (FAILURE, mqtt::QoS::ExactlyOnce, true),
            (FAILURE, mqtt::QoS::AtMostOnce, false),
            (DISCONNECTED, mqtt::QoS::AtLeastOnce, false),
        ] {
            let (_, deliveries) = deliveries();
            deliveries.add(ended(code), qos);
            assert_eq!(deliveries.has_broken_write(), is_broken, "{code} {qos:?}");
            assert_eq!(deliveries.counts().failed, 1);
        }
    }

    #[test]
    fn first_failure_has_reason_and_fate_of_message() {
        const FAILURE: i32 = -1;
        const INCOMPLETE: i32 = -11;
        for (code, qos, reason) in [
            (
                FAILURE,
                mqtt::QoS::ExactlyOnce,
                "the connection broke while it was written; it stays in the store, and the next start sends it",
            ),
            (
                FAILURE,
                mqtt::QoS::AtMostOnce,
                "the connection broke while it was written; at QoS 0 it is not sent again",
            ),
            (
                INCOMPLETE,
                mqtt::QoS::AtLeastOnce,
                "the broker has lost the session that it was in, or the client has discarded it; it is not sent again, \
                 but kept as a dead letter unless those are off",
            ),
        ] {
            let (_, deliveries) = deliveries();
            deliveries.add(ended(code), qos);
            deliveries.add(ended(-3), qos);
            let first = deliveries.take_first_failure().expect("it failed");
            assert_eq!(first.reason, reason);
            deliveries.add(ended(code), qos);
            assert!(deliveries.take_first_failure().is_none());
        }
    }

    #[test]
    fn client_that_ends_ends_its_deliveries() {
        let (_, deliveries) = deliveries();
        let cell = deliveries.add(mqtt::DeliveryToken::new(message()), mqtt::QoS::AtLeastOnce);
        assert_eq!(deliveries.counts().pending, 1);
        deliveries.give_up();
        assert_eq!(deliveries.counts().pending, 0);
        let error = Delivery::new(cell).wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotOpen);
    }

    #[test]
    fn delivery_that_races_end_of_client_ends_too() {
        let (_, deliveries) = deliveries();
        deliveries.give_up();
        let cell = deliveries.add(mqtt::DeliveryToken::new(message()), mqtt::QoS::AtLeastOnce);
        let error = Delivery::new(cell).wait_for(Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotOpen);
        assert_eq!(deliveries.counts().pending, 0);
    }
}
