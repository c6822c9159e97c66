//! The program, in this process.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{
    Health, PersistenceMetrics, RedisPersistence,
    prometheus::{
        Registry,
        proto::{Metric, MetricFamily},
    },
};

use super::{KEEP_ALIVE, Keeper};
use crate::{LIMIT, Mosquitto, direct::Direct, eventually, timed::Timed};

pub const CLIENT: &str = "device";

pub struct App {
    pub client: Arc<mqtt::AsyncClient>,
    pub health: Option<Health>,
    registry: Registry,
    longest: Arc<Mutex<Duration>>,
    has_lost_connection: Arc<AtomicBool>,
}

impl App {
    /// Waits for a Redis that is not there yet, where it is ours to.
    pub fn start(redis: &str, broker: &Mosquitto, keeper: Keeper) -> Self {
        let registry = Registry::new();
        let longest = Arc::<Mutex<Duration>>::default();
        let options = mqtt::CreateOptionsBuilder::new()
            .server_uri(broker.url())
            .client_id(CLIENT)
            .mqtt_version(mqtt::MQTT_VERSION_5)
            .send_while_disconnected(true)
            .max_buffered_messages(100_000);
        let (options, health) = match keeper {
            Keeper::Ours => {
                let metrics = PersistenceMetrics::register(&registry).expect("a new registry");
                let mut persistence = RedisPersistence::builder()
                    .url(redis)
                    .open_timeout(LIMIT)
                    .build()
                    .expect("good options");
                persistence
                    .connect(CLIENT, &broker.url())
                    .expect("Redis can be used");
                let health = persistence.health();
                let persistence = Timed::new(persistence.instrument(&metrics), &longest);
                (options.user_persistence(persistence), Some(health))
            }
            Keeper::Direct => {
                let persistence = Timed::new(Direct::new(redis), &longest);
                (options.user_persistence(persistence), None)
            }
        };
        let client = options.create_client().expect("a client");
        let has_lost_connection = Arc::<AtomicBool>::default();
        let lost = Arc::clone(&has_lost_connection);
        client.set_connection_lost_callback(move |_| lost.store(true, Ordering::Relaxed));
        let app = Self {
            client: Arc::new(client),
            health,
            registry,
            longest,
            has_lost_connection,
        };
        app.connect();
        app
    }

    /// As often as it takes.
    pub fn connect(&self) {
        let mut session = mqtt::Properties::new();
        session
            .push_u32(mqtt::PropertyCode::SessionExpiryInterval, 600)
            .expect("a property");
        let options = mqtt::ConnectOptionsBuilder::new_v5()
            .clean_start(false)
            .keep_alive_interval(KEEP_ALIVE)
            .properties(session)
            .finalize();
        eventually(LIMIT, "the client connects", || {
            let connecting = self.client.connect(options.clone());
            connecting.wait_for(LIMIT).ok()
        });
    }

    pub fn has_never_lost_connection(&self) -> bool {
        self.client.is_connected() && !self.has_lost_connection.load(Ordering::Relaxed)
    }

    pub fn longest_call(&self) -> Duration {
        *self.longest.lock().unwrap()
    }

    /// The kinds of error that are counted.
    pub fn told(&self) -> Vec<String> {
        let families = self.registry.gather();
        let errors = families
            .iter()
            .find(|family| family.name() == "mqtt_persistence_store_errors_total");
        let counted = errors.into_iter().flat_map(MetricFamily::get_metric);
        let counted = counted.filter(|metric| metric.get_counter().get_value() > 0.0);
        counted
            .flat_map(Metric::get_label)
            .filter(|label| label.name() == "error")
            .map(|label| label.value().to_owned())
            .collect()
    }

    pub fn disconnect(&self) {
        let disconnecting = self.client.disconnect(None);
        // A persistence that failed may have left nothing to disconnect.
        let _ = disconnecting.wait_for(LIMIT / 4);
    }
}
