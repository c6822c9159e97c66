//! A message on which the broker hangs up each time is counted across restarts, and can be quarantined.

use std::sync::{Arc, Mutex};

use paho_mqtt::MQTT_VERSION_3_1_1 as V3;
use paho_mqtt::MQTT_VERSION_5 as V5;
use paho_mqtt_redis::{DeadLetters, Health, Place, RedisPersistence, StoreEvent, StoreObserver};
use redis::Commands;
use testkit::{
    LIMIT, RedisServer,
    broker::{Action, Broker, Kind, Packet},
    eventually,
    recording::{CLIENT, Client, alone},
};

const MAX_SENDS: u32 = 4;
const POISON: &[u8] = b"poison";

/// Keeps the keys of messages that are suspected, and on how many connections they were sent.
#[derive(Default)]
struct Suspects(Mutex<Vec<(String, u32)>>);

impl StoreObserver for Suspects {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        if let StoreEvent::PoisonSuspect {
            key, connections, ..
        } = event
        {
            let mut suspects = self.0.lock().expect("no panic");
            suspects.push((key.clone(), *connections));
        }
    }
}

struct Device {
    redis: RedisServer,
    broker: Broker,
    suspects: Arc<Suspects>,
}

impl Device {
    fn create(&self, version: u32, quarantines: bool) -> (Client, Health, DeadLetters) {
        let options = RedisPersistence::builder().url(self.redis.url());
        let options = options.observer(Arc::<Suspects>::clone(&self.suspects));
        let options = options.max_sends(MAX_SENDS).quarantine_poison(quarantines);
        let persistence = options.build().expect("valid");
        let (health, letters) = (persistence.health(), persistence.dead_letters());
        let client = Client::create(persistence, &self.broker, version);
        (client, health, letters)
    }

    /// Connects, and waits until the broker has hung up.
    ///
    /// It does not answer the poison, and hangs up when the message behind it has arrived: Paho sends a message
    /// from freed memory later if a write breaks off.
    fn connect_in_vain(&self, client: &Client, version: u32) {
        let is = |payload: &'static [u8]| {
            move |packet: &Packet| packet.kind == Kind::Publish && packet.payload == payload
        };
        let ignore = Action::Run(Box::new(|| ()));
        self.broker.when(is(POISON), vec![ignore]);
        self.broker.when(is(b"behind"), vec![Action::Drop]);
        let losses = client.losses();
        client.connect(version);
        losses.recv_timeout(LIMIT).expect("the broker hangs up");
    }

    fn counts(&self) -> Option<String> {
        let address = self.broker.url().replace("mqtt://", "");
        let hash = format!("{CLIENT}:{address}:sends");
        self.redis.connection().hget(hash, "counts").expect("HGET")
    }

    /// Number of PUBLISH packets with the poison that the broker has got.
    fn poison_arrivals(&self) -> usize {
        let seen = self.broker.seen().into_iter();
        let is_poison = |packet: &Packet| packet.kind == Kind::Publish && packet.payload == POISON;
        seen.filter(|seen| is_poison(&seen.packet)).count()
    }
}

fn hang_up_until_quarantined(version: u32, qos: i32) {
    let device = Device {
        redis: RedisServer::start(),
        broker: Broker::start(),
        suspects: Arc::default(),
    };
    let (mut client, mut health, _) = device.create(version, false);
    for payload in ["before", "poison", "behind"] {
        client.accept(payload, qos);
    }
    device.connect_in_vain(&client, version);
    // It was sent once, as any message is.
    assert_eq!(device.counts(), None);
    for sends in 2..=MAX_SENDS + 1 {
        assert_eq!(health.snapshot().poison_suspects, 0, "{sends}");
        if sends % 2 == 0 {
            // The program dies, and the next one has the same records.
            drop(client);
            (client, health, _) = device.create(version, false);
        }
        device.connect_in_vain(&client, version);
        let counts = device.counts().expect("it was sent again");
        let counted = format!(" {sends}");
        assert!(
            counts.lines().any(|line| line.ends_with(&counted)),
            "{counts}"
        );
    }
    let suspects = eventually(LIMIT, "the suspect is reported", || {
        let suspects = device.suspects.0.lock().expect("no panic").clone();
        (!suspects.is_empty()).then_some(suspects)
    });
    assert!(health.snapshot().poison_suspects > 0);
    assert!(suspects.iter().all(|(_, sends)| *sends == MAX_SENDS + 1));
    drop(client);

    // Without the option it is sent again.
    let (client, health, _) = device.create(version, false);
    device.connect_in_vain(&client, version);
    assert!(health.snapshot().poison_suspects > 0);
    drop(client);

    let (client, health, letters) = device.create(version, true);
    let listed = letters.list().expect("lists");
    let [letter] = &listed[..] else {
        panic!("{listed:?}");
    };
    assert_eq!(
        (letter.place(), letter.reason()),
        (Place::Quarantine, "poison")
    );
    let message = letter.to_message().expect("a message");
    assert_eq!(message.payload(), POISON);
    let arrivals = device.poison_arrivals();
    client.connect(version);
    eventually(LIMIT, "the counts go with the last message", || {
        let now = health.snapshot();
        let has_left = now.waiting_messages == 0 && now.poison_suspects == 0;
        (has_left && device.counts().is_none()).then_some(())
    });
    assert_eq!(device.poison_arrivals(), arrivals);
}

#[test]
fn poison_is_counted_and_quarantined_at_qos_1() {
    let _alone = alone();
    hang_up_until_quarantined(V3, 1);
}

#[test]
fn poison_is_counted_and_quarantined_at_qos_2() {
    let _alone = alone();
    hang_up_until_quarantined(V5, 2);
}
