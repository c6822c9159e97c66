//! MQTT client that collects the messages that it receives.

use std::{
    mem, process,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use paho_mqtt as mqtt;

use super::{LIMIT, poll};

/// Topic and payload.
type Received = (String, Vec<u8>);

#[derive(Default)]
struct Inbox {
    messages: Mutex<Vec<Received>>,
    arrived: Condvar,
}

/// Subscription that outlives the broker: it reconnects with its session and subscribes again.
pub struct Subscriber {
    inbox: Arc<Inbox>,
    ended: Arc<AtomicBool>,
    awake: Sender<()>,
    connection: Option<JoinHandle<()>>,
}

impl Subscriber {
    /// Subscribes to `filter` and returns when the broker has granted it.
    pub fn start(broker: &str, filter: &str, qos: i32) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let create = mqtt::CreateOptionsBuilder::new()
            .server_uri(broker)
            .client_id(format!("subscriber-{}-{number}", process::id()))
            .persistence(mqtt::PersistenceType::None)
            .finalize();
        let client = mqtt::AsyncClient::new(create).expect("a client can be created");

        let inbox = Arc::new(Inbox::default());
        let filled = Arc::clone(&inbox);
        client.set_message_callback(move |_, message| {
            if let Some(message) = message {
                let received = (message.topic().to_owned(), message.payload().to_vec());
                filled.messages.lock().unwrap().push(received);
                filled.arrived.notify_all();
            }
        });

        // Subscribes at every connection, since a killed broker has forgotten the session.
        let (subscribed, subscription) = mpsc::channel();
        let filter = filter.to_owned();
        client.set_connected_callback(move |client| {
            // Only the first subscription has a receiver.
            let _ = subscribed.send(client.subscribe(filter.as_str(), qos));
        });

        let connect = mqtt::ConnectOptionsBuilder::new_v3()
            .clean_session(false)
            .connect_timeout(Duration::from_secs(5))
            .finalize();
        let (awake, lost) = mpsc::channel();
        let on_loss = awake.clone();
        client.set_connection_lost_callback(move |_| {
            // A dropped subscriber has no receiver.
            let _ = on_loss.send(());
        });
        client
            .connect(connect.clone())
            .wait_for(LIMIT)
            .unwrap_or_else(|error| panic!("cannot connect to {broker}: {error}"));
        subscription
            .recv_timeout(LIMIT)
            .expect("the client says that it is connected")
            .wait_for(LIMIT)
            .expect("the broker grants the subscription");

        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let connection = thread::spawn(move || keep_connected(&client, &connect, &lost, &end));
        Self {
            inbox,
            ended,
            awake,
            connection: Some(connection),
        }
    }

    /// Returns the messages received so far, in order, duplicates included.
    pub fn messages(&self) -> Vec<Received> {
        self.inbox.messages.lock().unwrap().clone()
    }

    /// Returns the messages received since the last call, in order, duplicates included.
    pub fn take(&self) -> Vec<Received> {
        mem::take(&mut *self.inbox.messages.lock().unwrap())
    }

    /// Waits until at least `n` messages have arrived and returns all of them.
    ///
    /// Panics once `limit` has passed.
    #[track_caller]
    pub fn wait_for(&self, n: usize, limit: Duration) -> Vec<Received> {
        let messages = self.inbox.messages.lock().unwrap();
        let (messages, _) = self
            .inbox
            .arrived
            .wait_timeout_while(messages, limit, |messages| messages.len() < n)
            .unwrap();
        let received = messages.clone();
        // A panic under the lock would poison it for the client's thread.
        drop(messages);
        assert!(
            received.len() >= n,
            "{} of {n} messages arrived within {limit:?}: {received:?}",
            received.len()
        );
        received
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Both fail only if the thread has already ended, and a second panic would hide the first.
        let _ = self.awake.send(());
        let _ = self.connection.take().map(JoinHandle::join);
    }
}

/// Reconnects whenever the connection is lost, until the subscriber is dropped.
///
/// Paho's own reconnect takes three seconds, which would dominate tests of restarts.
fn keep_connected(
    client: &mqtt::AsyncClient,
    connect: &mqtt::ConnectOptions,
    awake: &Receiver<()>,
    ended: &AtomicBool,
) {
    while awake.recv().is_ok() && !ended.load(Ordering::Relaxed) {
        poll(Duration::MAX, || {
            let is_done = ended.load(Ordering::Relaxed)
                || client.is_connected()
                || client.connect(connect.clone()).wait_for(LIMIT).is_ok();
            is_done.then_some(())
        });
    }
}
