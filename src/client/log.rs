//! The log of the client.

use paho_mqtt as mqtt;
use tracing::{error, info, warn};

use super::connection::ConnectionError;
use crate::error::{Error, ErrorChain};

pub(super) fn connected(client_id: &str, session_present: bool) {
    info!(
        "messaging.client.id" = client_id,
        session_present, "connected to the broker"
    );
}

pub(super) fn connect_failed(client_id: &str, error: &ConnectionError, retry_seconds: f64) {
    warn!(
        "messaging.client.id" = client_id,
        retry_seconds, "cannot connect to the broker: {error}"
    );
}

pub(super) fn address_failed(client_id: &str, error: &ConnectionError, next_address: &str) {
    warn!(
        "messaging.client.id" = client_id,
        next_address, "cannot connect to the broker: {error}; the next address is tried at once"
    );
}

pub(super) fn connection_lost(client_id: &str, error: &ConnectionError, retry_seconds: f64) {
    warn!(
        "messaging.client.id" = client_id,
        retry_seconds, "messages wait in the store: {error}"
    );
}

pub(super) fn attempt_overdue(client_id: &str, error: &ConnectionError) {
    warn!(
        "messaging.client.id" = client_id,
        "no other attempt can begin before this one ends: {error}"
    );
}

pub(super) fn panicked(client_id: &str) {
    error!(
        "messaging.client.id" = client_id,
        "the worker of the client panicked, and the client ends; the store has its messages, and the next start sends \
         them"
    );
}

pub(super) fn too_many_clients(client_id: &str, limit: usize) {
    warn!(
        "messaging.client.id" = client_id,
        limit,
        "this process has more clients than Paho survives if they lose their connections at once, as when the broker \
         restarts: then all of them freeze; set net.core.wmem_default to 1,024 bytes per client before it starts, \
         or divide the clients among several processes: docs/reliable-client.md"
    );
}

pub(super) fn message_dropped(client_id: &str, topic: &str) {
    warn!(
        "messaging.client.id" = client_id,
        topic,
        "messages arrive and are dropped, since the session has no on_message; unsubscribe from what an earlier \
         version of the program subscribed to"
    );
}

pub(super) fn session_lost(client_id: &str) {
    warn!(
        "messaging.client.id" = client_id,
        "the broker has lost the session; Paho drops what was in flight"
    );
}

pub(super) fn delivery_failed(client_id: &str, reason: &str) {
    warn!(
        "messaging.client.id" = client_id,
        "a delivery failed; further failures are only counted: {reason}"
    );
}

pub(super) fn full(client_id: &str, error: &Error) {
    warn!("messaging.client.id" = client_id, "{}", ErrorChain(error));
}

pub(super) fn not_subscribed(client_id: &str, filter: &str, error: &mqtt::Error) {
    let error = ConnectionError::from(error);
    warn!(
        "messaging.client.id" = client_id,
        filter, "cannot subscribe: {error}; tried again with the next connection"
    );
}

pub(super) fn not_disconnected(client_id: &str, error: &str) {
    warn!(
        "messaging.client.id" = client_id,
        "cannot disconnect from the broker cleanly: {error}"
    );
}

pub(super) fn starts_without_store(client_id: &str, error: &Error) {
    warn!(
        "messaging.client.id" = client_id,
        "the client starts without its store: {}",
        ErrorChain(error)
    );
}

pub(super) fn broken_write(client_id: &str, flushed: Option<&Error>, held_records: usize) {
    match flushed {
        None => error!(
            "messaging.client.id" = client_id,
            "a write to the broker failed midway, and Paho would send damaged messages; the store has all of them, \
             and the next start sends them"
        ),
        Some(error) => error!(
            "messaging.client.id" = client_id,
            held_records,
            "a write to the broker failed midway, and Paho would send damaged messages; the store lacks some of \
             them, which are lost with this process: {}",
            ErrorChain(error)
        ),
    }
}

pub(super) fn broken_write_ignored(client_id: &str) {
    error!(
        "messaging.client.id" = client_id,
        "a write to the broker failed midway; Paho sends damaged messages from now on"
    );
}
