//! Calls that Paho makes of its persistence, as the design relies on them, observed in a running client.

use std::{mem, sync::mpsc, time::Duration};

use paho_mqtt as mqtt;
use testkit::{
    LIMIT,
    broker::{Broker, Direction, Kind, Packet},
    command_token,
    intercepted::Intercepted,
    publish_command_of,
    recording::{CLIENT, Client, Recording, alone, options},
};

const V3: u32 = mqtt::MQTT_VERSION_3_1_1;
const V5: u32 = mqtt::MQTT_VERSION_5;
/// Each version and the suffix of its stems.
const VERSIONS: [(u32, &str); 2] = [(V3, ""), (V5, "5")];

/// Connects a client and discards the calls so far.
fn connected(recording: &Recording, broker: &Broker, version: u32) -> Client {
    let client = Client::create(recording.clone(), broker, version);
    client.connect(version);
    recording.forget_calls();
    client
}

#[test]
fn create_reads_packets_commands_then_undelivered() {
    let _alone = alone();
    let broker = Broker::start();
    let recording = Recording::with_keys(&["c5-1", "s5-2", "s5-3", "sc5-3", "r5-4", "q5-1"]);
    let client = Client::create(recording.clone(), &broker, V5);
    let open = format!(
        "open {CLIENT} {}",
        broker.url().trim_start_matches("mqtt://")
    );
    recording.expect(&[
        &open,
        "keys",
        "get r5-4",
        "get s5-2",
        "contains sc5-2",
        "get s5-3",
        "contains sc5-3",
        "get sc5-3",
        "contains s5-3",
        "keys",
        "get c5-1",
        "keys",
        "get q5-1",
    ]);
    // Keeps the restored messages from being sent.
    drop(client);
}

/// The key belongs to no message unless one waits under that number.
#[test]
fn connect_and_disconnect_remove_command_zero() {
    let _alone = alone();
    for (version, five) in VERSIONS {
        let (broker, recording) = (Broker::start(), Recording::default());
        let client = Client::create(recording.clone(), &broker, version);
        recording.forget_calls();
        client.connect(version);
        // The broker has no session, so Paho lists the records in flight to remove them.
        let remove = format!("remove c{five}-0");
        recording.expect(&[&remove, "keys"]);
        client
            .disconnect(None)
            .wait_for(LIMIT)
            .expect("disconnects");
        recording.expect(&[&remove, "keys", &remove]);
    }
}

/// Publishes at `qos` with each version and asserts the calls, in which `c*` stands for `c` or `c5`, and so on.
#[track_caller]
fn assert_calls_of_publish(qos: i32, calls: &[&str]) {
    let _alone = alone();
    for (version, five) in VERSIONS {
        let (broker, recording) = (Broker::start(), Recording::default());
        let client = connected(&recording, &broker, version);
        client.accept("x", qos).wait_for(LIMIT).expect("is sent");
        let calls: Vec<String> = calls.iter().map(|call| call.replace('*', five)).collect();
        recording.expect(&calls.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn publish_at_qos_0_is_put_read_and_removed() {
    assert_calls_of_publish(0, &["put c*-1", "get c*-1", "remove c*-1"]);
}

#[test]
fn publish_at_qos_1_has_no_record_between_two_calls() {
    assert_calls_of_publish(
        1,
        &[
            "put c*-1",
            "get c*-1",
            "remove c*-1",
            "put s*-1",
            "remove s5-1",
            "remove sc5-1",
            "remove s-1",
            "remove sc-1",
        ],
    );
}

#[test]
fn publish_at_qos_2_keeps_record_beside_pubrel() {
    assert_calls_of_publish(
        2,
        &[
            "put c*-1",
            "get c*-1",
            "remove c*-1",
            "put s*-1",
            "put sc*-1",
            "remove s5-1",
            "remove sc5-1",
            "remove s-1",
            "remove sc-1",
        ],
    );
}

#[test]
fn message_received_at_qos_2_is_removed_twice() {
    let _alone = alone();
    for (version, five) in VERSIONS {
        let (broker, recording) = (Broker::start(), Recording::default());
        let client = connected(&recording, &broker, version);
        let (received, messages) = mpsc::channel();
        client.set_message_callback(move |_, message| drop(received.send(message)));
        broker.deliver(CLIENT, "commands", b"payload", 2);
        messages.recv_timeout(LIMIT).expect("is received");
        broker.wait_acknowledged(CLIENT);
        recording.expect(&[&format!("put r{five}-1"), "remove r5-1", "remove r-1"]);
    }
}

#[test]
fn subscription_is_removed_without_being_read() {
    let _alone = alone();
    for (version, five) in VERSIONS {
        let (broker, recording) = (Broker::start(), Recording::default());
        let client = connected(&recording, &broker, version);
        client
            .subscribe("commands", 2)
            .wait_for(LIMIT)
            .expect("subscribes");
        client
            .unsubscribe("commands")
            .wait_for(LIMIT)
            .expect("unsubscribes");
        let call = |name: &str, number: usize| format!("{name} c{five}-{number}");
        let [put1, put2] = [1, 2].map(|number| call("put", number));
        let [remove1, remove2] = [1, 2].map(|number| call("remove", number));
        recording.expect(&[&put1, &remove1, &put2, &remove2]);
    }
}

#[test]
fn offline_publish_is_only_put_until_connected() {
    let _alone = alone();
    let (broker, recording) = (Broker::start(), Recording::default());
    let client = Client::create(recording.clone(), &broker, V5);
    recording.forget_calls();
    let token = client.accept("x", 1);
    assert_eq!(recording.calls(), ["put c5-1"]);
    client.connect(V5);
    token.wait_for(LIMIT).expect("is sent");
    assert!(recording.calls().contains(&"get c5-1".to_owned()));
}

/// The library uses this to join the remove of a command with the put of its PUBLISH.
#[test]
fn packet_id_of_publish_is_token_of_its_command() {
    let _alone = alone();
    let (broker, recording) = (Broker::start(), Recording::default());
    let client = Client::create(recording.clone(), &broker, V5);
    let tokens: Vec<_> = (0..5)
        .map(|number| client.accept("x", 1 + number % 2))
        .collect();
    for number in 1..=5_i32 {
        let value = recording.value(&format!("c5-{number}")).expect("waits");
        assert_eq!(command_token(&value), number);
    }
    client.connect(V5);
    for token in tokens {
        token.wait_for(LIMIT).expect("is sent");
    }
    let calls = recording.calls();
    for number in 1..=5 {
        let place = |call: &str| {
            calls
                .iter()
                .position(|called| *called == format!("{call}-{number}"))
        };
        assert!(place("remove c5") < place("put s5"), "{calls:?}");
    }
}

#[test]
fn reconnect_puts_records_in_flight_again() {
    let _alone = alone();
    for (version, five) in VERSIONS {
        let (broker, recording) = (Broker::start(), Recording::default());
        let client = connected(&recording, &broker, version);
        let losses = client.losses();
        broker.withhold(Kind::Puback);
        broker.withhold(Kind::Pubcomp);
        client.accept("x", 1);
        client.accept("y", 2);
        broker.wait_for(Direction::Withheld, Kind::Puback, 1);
        broker.wait_for(Direction::Withheld, Kind::Pubcomp, 1);
        broker.drop_connections();
        losses.recv_timeout(LIMIT).expect("is lost");
        recording.forget_calls();
        client.connect(version);
        broker.wait_for(Direction::Withheld, Kind::Pubcomp, 2);
        recording.expect(&[
            &format!("remove c{five}-0"),
            &format!("put s{five}-1"),
            &format!("put sc{five}-2"),
        ]);
    }
}

/// Consequence: `open` does not indicate a new connection, nor `clear` the end of a session.
#[test]
fn client_opens_and_closes_once_and_never_clears() {
    let _alone = alone();
    let (broker, recording) = (Broker::start(), Recording::default());
    let client = Client::create(recording.clone(), &broker, V3);
    let losses = client.losses();
    for _ in 0..2 {
        let mut options = mqtt::ConnectOptionsBuilder::new_v3();
        // The first address has no listener.
        let uris = ["mqtt://127.0.0.1:1".to_owned(), broker.url()];
        options.clean_session(true).server_uris(&uris);
        mqtt::AsyncClient::connect(&client, options.finalize())
            .wait_for(LIMIT)
            .expect("connects");
        broker.drop_connections();
        losses.recv_timeout(LIMIT).expect("is lost");
    }
    drop(client);
    let calls = recording.calls();
    let count = |name: &str| calls.iter().filter(|call| call.starts_with(name)).count();
    assert_eq!(
        (count("open"), count("close"), count("clear")),
        (1, 1, 0),
        "{calls:?}"
    );
    assert_eq!(calls.last().map(String::as_str), Some("close"));
}

#[test]
fn failed_open_is_not_closed() {
    let _alone = alone();
    let (broker, recording) = (Broker::start(), Recording::default());
    let open = format!(
        "open {CLIENT} {}",
        broker.url().trim_start_matches("mqtt://")
    );
    recording.fail(&open);
    let created = options(&broker, V5, recording.clone()).create_client();
    assert!(created.is_err());
    drop(created);
    recording.expect(&[&open]);
}

/// With MQTT 5 and no session expiry, which is the default, a dropped client deletes the session that it restored.
#[test]
fn dropped_client_of_mqtt_5_deletes_records_in_flight() {
    let _alone = alone();
    let broker = Broker::start();
    let recording = Recording::with_keys(&["c5-1", "s5-2", "s5-3", "sc5-3", "r5-4", "q5-1"]);
    let created = options(&broker, V5, recording.clone()).create_client();
    drop(created.expect("a client"));
    assert_eq!(recording.stored_keys(), ["c5-1", "q5-1"]);
}

#[test]
fn error_of_first_pass_deletes_records_in_flight() {
    let _alone = alone();
    let broker = Broker::start();
    let recording = Recording::with_keys(&["s5-1", "s5-2", "s5-3", "s5-4"]);
    recording.fail("get s5-3");
    let created = options(&broker, V5, recording.clone()).create_client();
    assert!(created.is_err());
    drop(created);
    assert_eq!(recording.stored_keys(), Vec::<String>::new());
}

#[test]
fn error_of_later_pass_lets_new_message_overwrite() {
    let _alone = alone();
    let broker = Broker::start();
    let recording = Recording::with_keys(&["c5-1", "c5-2", "c5-3"]);
    recording.fail("get c5-2");
    let client = Client::create(recording.clone(), &broker, V5);
    let before = recording.value("c5-2");
    client.accept("new", 1);
    assert_ne!(recording.value("c5-2"), before);
}

/// Consequence: `put c` must never return an error, or the program would publish the message again.
#[test]
fn message_with_failed_put_is_sent() {
    let _alone = alone();
    let (broker, recording) = (Broker::start(), Recording::default());
    let client = connected(&recording, &broker, V5);
    // The token is freed by then, so Paho must not reach its callback.
    broker.withhold(Kind::Puback);
    recording.fail("put c5-1");
    let message = mqtt::Message::new("a/topic", "x", 1);
    assert!(client.try_publish(message).is_err());
    broker.wait_for(Direction::FromClient, Kind::Publish, 1);
    mem::forget(client);
}

#[test]
fn error_of_get_drops_command_without_ending_token() {
    let _alone = alone();
    let (broker, recording) = (Broker::start(), Recording::default());
    let client = connected(&recording, &broker, V5);
    recording.fail("get c5-1");
    let mut first = mqtt::Token::from(client.accept("first", 1));
    client.accept("second", 1).wait_for(LIMIT).expect("is sent");
    assert!(first.try_wait().is_none());
    assert_eq!(broker.count(Direction::FromClient, Kind::Publish), 1);
}

#[test]
fn at_most_hundred_messages_wait_by_default() {
    let _alone = alone();
    let (broker, recording) = (Broker::start(), Recording::default());
    let client = Client::create(recording.clone(), &broker, V5);
    let accepted = (0..200)
        .map_while(|_| {
            client
                .try_publish(mqtt::Message::new("a/topic", "x", 1))
                .ok()
        })
        .count();
    assert_eq!((accepted, recording.stored_keys().len()), (100, 100));
}

#[test]
fn pubrec_for_unknown_id_leaves_pubrel_behind() {
    let _alone = alone();
    let (broker, recording) = (Broker::start(), Recording::default());
    let client = connected(&recording, &broker, V3);
    broker.send(CLIENT, Packet::new(Kind::Pubrec, 77));
    broker.wait_for(Direction::ToClient, Kind::Pubcomp, 1);
    // Answered after the PUBCOMP, so the client has read that.
    client.accept("x", 1).wait_for(LIMIT).expect("is sent");
    assert_eq!(recording.stored_keys(), ["sc-77"]);
}

/// Consequence: a stalled store stops every client, and a publish from inside a call deadlocks.
#[test]
fn call_blocks_every_client_of_process() {
    let _alone = alone();
    let broker = Broker::start();
    let ((inside, enters), (go_on, goes_on)) = (mpsc::channel(), mpsc::channel());
    let slow = Intercepted::new(Recording::default(), move |call| {
        if call == "get" {
            inside.send(()).expect("the test receives");
            goes_on.recv_timeout(LIMIT).expect("the test continues");
        }
        Ok(())
    });
    let (first, second) = (
        Client::create(slow, &broker, V5),
        Client::create(Recording::default(), &broker, V5),
    );
    first.connect(V5);
    let token = first.accept("x", 1);
    enters.recv_timeout(LIMIT).expect("the call has started");
    let (done, is_done) = mpsc::channel();
    let other = second.clone();
    let waiting = std::thread::spawn(move || {
        let connected = other.is_connected();
        done.send(()).expect("the test receives");
        connected
    });
    is_done
        .recv_timeout(Duration::from_millis(100))
        .expect_err("waits for the call of the other client");
    go_on.send(()).expect("the call receives");
    is_done.recv_timeout(LIMIT).expect("continues");
    assert!(!waiting.join().expect("no panic"));
    token.wait_for(LIMIT).expect("is sent");
}

#[test]
fn command_numbers_wrap_to_zero() {
    let _alone = alone();
    let broker = Broker::start();
    for (version, five) in VERSIONS {
        let keys = [format!("c{five}-999999"), format!("c{five}-0")];
        let records = keys
            .each_ref()
            .map(|key| (key.clone(), publish_command_of(key, 1, 1)));
        let recording = Recording::with(records.clone());
        let client = Client::create(recording.clone(), &broker, version);
        client.accept("new", 1);
        assert_eq!(
            recording.stored_keys().len(),
            2,
            "the new one overwrites a record"
        );
        assert_ne!(recording.value(&keys[1]), Some(records[1].1.clone()));
    }
}

#[test]
fn connect_deletes_waiting_message_zero() {
    let _alone = alone();
    let broker = Broker::start();
    let recording = Recording::with([("c-0".to_owned(), publish_command_of("c-0", 1, 1))]);
    let client = Client::create(recording.clone(), &broker, V3);
    client.connect(V3);
    recording.wait_for("remove c-0");
    // If it had been sent, then after the restored message.
    client.accept("new", 1).wait_for(LIMIT).expect("is sent");
    let payloads: Vec<_> = broker
        .accepted()
        .into_iter()
        .map(|message| message.payload)
        .collect();
    assert_eq!(payloads, [b"new"]);
}

#[test]
fn client_without_restore_reuses_command_numbers() {
    let _alone = alone();
    let broker = Broker::start();
    let recording = Recording::with_keys(&["c5-1"]);
    let before = recording.value("c5-1");
    let created = options(&broker, V5, recording.clone())
        .restore_messages(false)
        .create_client();
    let client = Client::from(created.expect("a client"));
    client.accept("new", 1);
    assert!(recording.value("c5-1").is_some());
    assert_ne!(recording.value("c5-1"), before);
}
