//! The callbacks that the client gives to Paho.

use std::sync::Arc;

use paho_mqtt as mqtt;

use super::signal::Signal;
use crate::persistence::catch_panic;

/// Receives the messages that arrive.
pub(super) type OnMessage = Box<dyn FnMut(mqtt::Message) + Send>;

/// Sets the callbacks. They run on Paho's threads, while others of the same client wait for them.
pub(super) fn set_callbacks(
    client: &mqtt::AsyncClient,
    signal: &Arc<Signal>,
    on_message: Option<OnMessage>,
) {
    let lost = Arc::clone(signal);
    client.set_connection_lost_callback(move |_| lost.look());
    let disconnected = Arc::clone(signal);
    client.set_disconnected_callback(move |_, _, _| disconnected.look());
    if let Some(mut on_message) = on_message {
        client.set_message_callback(move |_, message| {
            // Paho passes `None` when a connection ends.
            if let Some(message) = message {
                // A panic would unwind into Paho's C code.
                catch_panic(|| on_message(message));
            }
        });
    }
}
