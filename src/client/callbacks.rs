//! The callbacks that the client gives to Paho.

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
};

use paho_mqtt as mqtt;

use super::{connection::ConnectionError, log, signal::Signal};
use crate::persistence::catch_panic;

thread_local! {
    static IS_IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Runs code of the program on a thread that the end of the client depends on.
pub(super) fn in_callback<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_IN_CALLBACK.set(self.0);
        }
    }
    let _restore = Restore(IS_IN_CALLBACK.replace(true));
    work()
}

/// Returns true on a thread that waits for its own end if it waits for the end of the client.
pub(super) fn is_in_callback() -> bool {
    IS_IN_CALLBACK.get()
}

/// Receives the messages that arrive.
pub(super) type Receive = Box<dyn FnMut(mqtt::Message) + Send>;

/// The receiver of a client.
pub(super) struct Receiver {
    receive: Mutex<Option<Receive>>,
    is_closing: AtomicBool,
    signal: Arc<Signal>,
}

impl Receiver {
    pub(super) fn new(client_id: &str, receive: Option<Receive>, signal: Arc<Signal>) -> Self {
        let receive = receive.unwrap_or_else(|| drop_messages(client_id.to_owned()));
        Self {
            receive: Mutex::new(Some(receive)),
            is_closing: AtomicBool::new(false),
            signal,
        }
    }

    fn receive(&self, message: mqtt::Message) {
        let receive = self.receive.lock();
        if let Some(receive) = &mut *receive.unwrap_or_else(PoisonError::into_inner) {
            // A panic would unwind into Paho's C code.
            catch_panic(|| in_callback(|| receive(message)));
        }
        // After the lock.
        if self.is_closing.load(Ordering::SeqCst) {
            self.signal.look();
        }
    }

    /// Drops the callback of the program, which may own a client. Returns false while it runs, and has the worker look
    /// again once it has returned.
    pub(super) fn close(&self) -> bool {
        self.is_closing.store(true, Ordering::SeqCst);
        let receive = match self.receive.try_lock() {
            Ok(mut receive) => receive.take(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
            Err(TryLockError::WouldBlock) => return false,
        };
        catch_panic(|| drop(receive));
        true
    }
}

/// Drops messages for which the program has no receiver, and logs the first one.
fn drop_messages(client_id: String) -> Receive {
    let mut has_dropped = false;
    Box::new(move |message| {
        if !has_dropped {
            has_dropped = true;
            log::message_dropped(&client_id, message.topic());
        }
    })
}

/// Sets the callbacks. They run on Paho's threads, while others of the same client wait for them.
pub(super) fn set_callbacks(
    client: &mqtt::AsyncClient,
    signal: &Arc<Signal>,
    receiver: &Arc<Receiver>,
) {
    let lost = Arc::clone(signal);
    client.set_connection_lost_callback(move |_| lost.look());
    let disconnected = Arc::clone(signal);
    client.set_disconnected_callback(move |_, properties, code| {
        let reason = properties.get_string(mqtt::PropertyCode::ReasonString);
        disconnected.disconnected(ConnectionError::disconnected(code, reason.as_deref()));
    });
    // Without a callback Paho would keep each message that arrives, without a limit.
    let receiver = Arc::clone(receiver);
    client.set_message_callback(move |_, message| {
        // Paho passes `None` when a connection ends.
        if let Some(message) = message {
            receiver.receive(message);
        }
    });
}
