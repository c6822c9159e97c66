//! Publishes all the time, on a thread of its own.

use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;

use super::MESSAGES;
use crate::{
    LIMIT,
    crash::{payload, qos},
    eventually,
};

pub const TOPIC: &str = "readings";
/// How many messages wait for an acknowledgement at most while there is a connection.
const WINDOW: usize = 30;

pub struct Publisher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    client: Arc<mqtt::AsyncClient>,
    accepted: Mutex<Vec<String>>,
    refused: AtomicUsize,
    is_over: AtomicBool,
    under_way: Mutex<Vec<mqtt::DeliveryToken>>,
}

impl Publisher {
    pub fn new(client: &Arc<mqtt::AsyncClient>) -> Self {
        Self {
            shared: Arc::new(Shared {
                client: Arc::clone(client),
                accepted: Mutex::default(),
                refused: AtomicUsize::new(0),
                is_over: AtomicBool::new(false),
                under_way: Mutex::default(),
            }),
            thread: None,
        }
    }

    pub fn start(&mut self) {
        self.shared.is_over.store(false, Ordering::Relaxed);
        let shared = Arc::clone(&self.shared);
        self.thread = Some(thread::spawn(move || shared.publish()));
    }

    /// Waits until some more messages have been accepted.
    pub fn advance(&self) {
        let count = || self.shared.accepted.lock().unwrap().len();
        let enough = count() + MESSAGES;
        eventually(LIMIT, "messages are accepted", || {
            (count() >= enough).then_some(())
        });
    }

    /// Publishes nothing more, for now. Tells whether it has come to that.
    pub fn pause(&mut self) -> bool {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            return true;
        };
        let started = Instant::now();
        while !thread.is_finished() {
            if started.elapsed() > LIMIT {
                return false;
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        thread.join().expect("no panic");
        true
    }

    /// The same, and waits until everything is acknowledged, or will not be.
    pub fn stop(&mut self) -> bool {
        let has_ended = self.pause();
        if has_ended {
            self.shared.settle();
        }
        has_ended
    }

    /// What was accepted.
    pub fn accepted(&self) -> Vec<String> {
        self.shared.accepted.lock().unwrap().clone()
    }

    /// How many of them are not acknowledged yet.
    pub fn waiting(&self) -> usize {
        self.shared.under_way.lock().unwrap().len()
    }

    /// What was refused or not acknowledged.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn publish(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let text = payload(self.accepted.lock().unwrap().len(), 0);
            let level = i32::try_from(qos(&text)).expect("0 to 2");
            let message = mqtt::Message::new(TOPIC, text.as_bytes(), level);
            if let Ok(token) = self.client.try_publish(message) {
                self.accepted.lock().unwrap().push(text);
                self.under_way.lock().unwrap().push(token);
            } else {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            let is_full = self.under_way.lock().unwrap().len() >= WINDOW;
            if is_full && self.client.is_connected() {
                self.settle();
            }
            thread::park_timeout(Duration::from_micros(500));
        }
    }

    fn settle(&self) {
        let under_way = mem::take(&mut *self.under_way.lock().unwrap());
        for token in under_way {
            if token.wait_for(LIMIT / 2).is_err() {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
