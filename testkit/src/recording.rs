//! Minimal persistence in memory that records the calls of Paho, and a client over it.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{self, Receiver},
    },
};

use paho_mqtt as mqtt;

use super::{LIMIT, broker::Broker, eventually, harness::connect_options, record};

/// Client id of every [`Client`].
pub const CLIENT: &str = "client";

/// Records in memory, and the calls that Paho made; clones share both.
#[derive(Clone, Default)]
pub struct Recording(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    records: BTreeMap<String, Vec<u8>>,
    calls: Vec<String>,
    /// Calls that return an error.
    failing: Vec<String>,
    descending: bool,
    answers_by_name: bool,
}

impl Recording {
    /// Starts with these records.
    pub fn with(records: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let recording = Self::default();
        recording.state().records.extend(records);
        recording
    }

    /// Starts with a record under each key.
    pub fn with_keys(keys: &[&str]) -> Self {
        Self::with(
            keys.iter()
                .map(|key| ((*key).to_owned(), record(key, b"payload"))),
        )
    }

    /// Makes each call of this name and key fail.
    pub fn fail(&self, call: &str) {
        self.state().failing.push(call.to_owned());
    }

    /// Lists the keys in descending order.
    pub fn descend(&self) {
        self.state().descending = true;
    }

    /// Makes `contains_key` return what its name suggests, which paho-mqtt 0.14 inverts on its way to the C library.
    pub fn answer_by_name(&self) {
        self.state().answers_by_name = true;
    }

    /// Returns the keys of the records.
    pub fn stored_keys(&self) -> Vec<String> {
        self.state().records.keys().cloned().collect()
    }

    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.state().records.get(key).cloned()
    }

    /// Returns the calls so far.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        self.state().calls.clear();
    }

    /// Waits for as many calls as given, and asserts that they are equal.
    #[track_caller]
    pub fn expect(&self, calls: &[&str]) {
        let called = eventually(LIMIT, &format!("{calls:?} are called"), || {
            let called = self.calls();
            (called.len() >= calls.len()).then_some(called)
        });
        assert_eq!(called, calls);
    }

    /// Waits for a call.
    #[track_caller]
    pub fn wait_for(&self, call: &str) {
        eventually(LIMIT, call, || {
            self.calls()
                .iter()
                .any(|called| called == call)
                .then_some(())
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, call: String) -> mqtt::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let fails = state.failing.contains(&call);
        state.calls.push(call);
        if fails {
            Err(mqtt::Error::PersistenceError)
        } else {
            Ok(state)
        }
    }
}

impl mqtt::ClientPersistence for Recording {
    fn open(&mut self, client_id: &str, server_uri: &str) -> mqtt::Result<()> {
        self.note(format!("open {client_id} {server_uri}"))
            .map(drop)
    }

    fn close(&mut self) -> mqtt::Result<()> {
        self.note("close".to_owned()).map(drop)
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> mqtt::Result<()> {
        let mut state = self.note(format!("put {key}"))?;
        state.records.insert(key.to_owned(), buffers.concat());
        Ok(())
    }

    fn get(&mut self, key: &str) -> mqtt::Result<Vec<u8>> {
        let state = self.note(format!("get {key}"))?;
        let value = state.records.get(key).cloned();
        value.ok_or(mqtt::Error::PersistenceError)
    }

    fn remove(&mut self, key: &str) -> mqtt::Result<()> {
        self.note(format!("remove {key}"))?.records.remove(key);
        Ok(())
    }

    fn keys(&mut self) -> mqtt::Result<Vec<String>> {
        let state = self.note("keys".to_owned())?;
        let keys = state.records.keys().cloned();
        Ok(if state.descending {
            keys.rev().collect()
        } else {
            keys.collect()
        })
    }

    fn clear(&mut self) -> mqtt::Result<()> {
        self.note("clear".to_owned())?.records.clear();
        Ok(())
    }

    /// Returns the opposite by default, since paho-mqtt 0.14 inverts it on its way to the C library.
    fn contains_key(&mut self, key: &str) -> bool {
        let Ok(state) = self.note(format!("contains {key}")) else {
            return true;
        };
        state.records.contains_key(key) == state.answers_by_name
    }
}

/// Admits one test at a time: the reconnect of a client makes Paho resend the messages of every client in the process.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static ANOTHER: OnceLock<(Broker, mqtt::AsyncClient)> = OnceLock::new();
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Paho takes a second to end its threads with the last connection, and starts them with the next.
    ANOTHER.get_or_init(|| {
        let broker = Broker::start();
        let client = mqtt::CreateOptionsBuilder::new()
            .server_uri(broker.url())
            .persistence(mqtt::PersistenceType::None)
            .create_client()
            .expect("a client");
        client
            .connect(connect_options(mqtt::MQTT_VERSION_5, LIMIT))
            .wait_for(LIMIT)
            .expect("connects");
        (broker, client)
    });
    alone
}

/// Client that disconnects before it is dropped: paho-mqtt deadlocks if a callback runs meanwhile.
pub struct Client(mqtt::AsyncClient);

impl Client {
    /// Creates a client without a connection.
    pub fn create(
        persistence: impl mqtt::ClientPersistence + Send + 'static,
        broker: &Broker,
        version: u32,
    ) -> Self {
        Self(
            options(broker, version, persistence)
                .create_client()
                .expect("a client"),
        )
    }

    /// Connects with a session that the broker keeps.
    pub fn connect(&self, version: u32) {
        self.0
            .connect(connect_options(version, LIMIT))
            .wait_for(LIMIT)
            .expect("connects");
    }

    /// Returns a channel that receives each loss of the connection.
    pub fn losses(&self) -> Receiver<()> {
        let (lost, losses) = mpsc::channel();
        self.0.set_connection_lost_callback(move |_| {
            // A test that has ended has no receiver.
            let _ = lost.send(());
        });
        losses
    }

    /// Publishes a message, which Paho accepts and may send later.
    pub fn accept(&self, payload: &str, qos: i32) -> mqtt::DeliveryToken {
        let message = mqtt::Message::new("a/topic", payload, qos);
        self.0.try_publish(message).expect("accepted")
    }
}

/// Options of such a client.
pub fn options(
    broker: &Broker,
    version: u32,
    persistence: impl mqtt::ClientPersistence + Send + 'static,
) -> mqtt::CreateOptionsBuilder {
    mqtt::CreateOptionsBuilder::new()
        .server_uri(broker.url())
        .client_id(CLIENT)
        .mqtt_version(version)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .user_persistence(persistence)
}

impl From<mqtt::AsyncClient> for Client {
    fn from(client: mqtt::AsyncClient) -> Self {
        Self(client)
    }
}

impl Deref for Client {
    type Target = mqtt::AsyncClient;

    fn deref(&self) -> &mqtt::AsyncClient {
        &self.0
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Fails if it is not connected, and then no callback runs.
        let _ = self.0.disconnect(None).wait_for(LIMIT);
    }
}
