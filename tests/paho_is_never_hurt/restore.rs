//! What Paho makes of the records that it finds, of either version: what the design relies on, watched in a running client.

use std::{env, os::unix::process::ExitStatusExt, sync::mpsc};

use paho_mqtt as mqtt;
use testkit::{
    LIMIT,
    broker::{Broker, Direction, Kind},
    child::ignored_test,
    command_token, publish_command, publish_command_of, publish_packet, record,
    recording::{CLIENT, Client, Recording, alone, options},
    unsubscribe_command,
};

const V3: u32 = mqtt::MQTT_VERSION_3_1_1;
const V5: u32 = mqtt::MQTT_VERSION_5;

/// A broker that knows the client, as it does after a restart of the program.
fn broker_with_session() -> Broker {
    let broker = Broker::start();
    broker.remember(CLIENT);
    broker
}

fn payloads(broker: &Broker) -> Vec<String> {
    let text = |payload: Vec<u8>| payload.escape_ascii().to_string();
    broker
        .accepted()
        .into_iter()
        .map(|accepted| text(accepted.payload))
        .collect()
}

/// Waits until everything is sent that Paho has restored: it is before this.
fn send_a_last_one(client: &Client) {
    client.accept("last", 1).wait_for(LIMIT).expect("is sent");
}

/// Which paho-mqtt 0.14 makes of an honest answer, with which a message is lost in silence.
#[test]
fn an_answer_that_is_heard_the_wrong_way_round_loses_a_message() {
    let _alone = alone();
    for (arrived, honest) in [(&["payload"][..], false), (&[], true)] {
        let broker = broker_with_session();
        let recording = Recording::with_keys(&["s5-7"]);
        if honest {
            recording.answer_by_name();
        }
        let client = Client::create(recording, &broker, V5);
        client.connect(V5);
        broker.wait_for(Direction::FromClient, Kind::Pubrel, 1);
        assert_eq!(payloads(&broker), arrived);
    }
}

#[test]
fn a_publish_with_its_pubrel_is_sent_as_a_pubrel_alone() {
    let _alone = alone();
    for (version, keys) in [(V3, ["s-7", "sc-7"]), (V5, ["s5-7", "sc5-7"])] {
        let broker = broker_with_session();
        let recording = Recording::with_keys(&keys);
        let client = Client::create(recording.clone(), &broker, version);
        client.connect(version);
        broker.wait_for(Direction::ToClient, Kind::Pubcomp, 1);
        send_a_last_one(&client);
        assert_eq!(payloads(&broker), ["last"]);
        assert_eq!(recording.left(), Vec::<String>::new());
    }
}

/// So a PUBREL that a message left behind must not outlive it.
#[test]
fn a_pubrel_of_an_earlier_message_has_a_new_one_of_its_id_lost() {
    let _alone = alone();
    let broker = broker_with_session();
    let recording = Recording::with([
        ("s5-7".to_owned(), record("s5-7", b"new")),
        ("sc5-7".to_owned(), record("sc5-7", b"")),
    ]);
    let client = Client::create(recording.clone(), &broker, V5);
    client.connect(V5);
    broker.wait_for(Direction::ToClient, Kind::Pubcomp, 1);
    send_a_last_one(&client);
    assert_eq!(payloads(&broker), ["last"]);
}

/// Paho asks with the stem of the version that the client was created for.
#[test]
fn a_pubrel_whose_publish_is_of_the_other_version_is_deleted() {
    let _alone = alone();
    let broker = Broker::start();
    let recording = Recording::with_keys(&["s-7", "sc-7"]);
    let _client = Client::create(recording.clone(), &broker, V5);
    let calls = recording.calls();
    for call in ["contains sc5-7", "contains s5-7", "remove sc-7"] {
        assert!(calls.contains(&call.to_owned()), "{calls:?}");
    }
    assert_eq!(recording.left(), ["s-7"]);
}

#[test]
fn a_publish_of_the_other_version_is_put_again_beside_itself() {
    let _alone = alone();
    let broker = broker_with_session();
    broker.withhold(Kind::Pubrec);
    let recording = Recording::with_keys(&["s-7"]);
    let client = Client::create(recording.clone(), &broker, V5);
    client.connect(V5);
    broker.wait_for(Direction::FromClient, Kind::Publish, 1);
    recording.wait_for("put s5-7");
    assert_eq!(recording.left(), ["s-7", "s5-7"]);
}

#[test]
fn a_publish_of_3_1_1_gets_a_byte_in_front_from_a_client_created_for_5() {
    let _alone = alone();
    let broker = broker_with_session();
    let client = Client::create(Recording::with_keys(&["s-7"]), &broker, V5);
    client.connect(V3);
    broker.wait_for(Direction::ToClient, Kind::Pubcomp, 1);
    assert_eq!(payloads(&broker), [r"\x00payload"]);
}

#[test]
fn a_client_for_3_1_1_is_not_created_over_packets_of_5() {
    let _alone = alone();
    let broker = Broker::start();
    for key in ["s5-7", "sc5-7", "r5-7"] {
        let recording = Recording::with_keys(&[key]);
        let created = options(&broker, V3, recording.clone()).create_client();
        assert!(created.is_err(), "{key}");
    }
}

/// So what replaces the command and what replaces it must change in one step.
#[test]
fn a_message_that_is_there_as_a_command_and_as_a_publish_is_sent_twice() {
    let _alone = alone();
    let broker = broker_with_session();
    // At QoS 1, at which the broker accepts each of the two.
    let publish = publish_packet("s5-7", 1, b"payload");
    let command = publish_command_of("c5-1", 7, 1);
    let recording = Recording::with([("c5-1".to_owned(), command), ("s5-7".to_owned(), publish)]);
    let client = Client::create(recording.clone(), &broker, V5);
    client.connect(V5);
    broker.wait_for(Direction::ToClient, Kind::Puback, 2);
    assert_eq!(payloads(&broker), ["payload", "payload"]);
}

/// Of the same version they do no harm: a PUBLISH arrives once more, a PUBREL is sent for nothing, and both are removed.
#[test]
fn what_a_message_at_qos_1_left_behind_is_sent_again_and_removed() {
    let _alone = alone();
    let broker = broker_with_session();
    let stale = publish_packet("s-7", 1, b"stale");
    let recording = Recording::with([("s-7".to_owned(), stale)]);
    let client = Client::create(recording.clone(), &broker, V3);
    client.connect(V3);
    send_a_last_one(&client);
    assert_eq!(payloads(&broker), ["stale", "last"]);
    assert_eq!(recording.left(), Vec::<String>::new());
}

#[test]
fn ids_of_restored_messages_are_not_given_to_new_ones() {
    let _alone = alone();
    let broker = Broker::start();
    let recording = Recording::with_keys(&["s5-1", "s5-2", "s5-4"]);
    let client = Client::create(recording.clone(), &broker, V5);
    client.accept("x", 1);
    let value = recording.value("c5-1").expect("waits");
    let token = command_token(&value);
    assert!(![1, 2, 4].contains(&token), "{token}");
}

/// Whether it is what is sent again after a crash between `put r` and the callback, or another message under its id.
#[test]
fn a_message_whose_received_record_is_there_is_not_handed_over_with_mqtt_5() {
    let _alone = alone();
    let broker = broker_with_session();
    let recording = Recording::with_keys(&["r5-1"]);
    let client = Client::create(recording.clone(), &broker, V5);
    let (received, messages) = mpsc::channel();
    client.set_message_callback(move |_, message| drop(received.send(message)));
    client.connect(V5);
    for payload in [b"first", b"other"] {
        broker.deliver(CLIENT, "t", payload, 2);
    }
    let message = messages.recv_timeout(LIMIT).expect("is received");
    assert_eq!(message.expect("a message").payload(), b"other");
}

#[test]
fn a_received_message_of_3_1_1_is_handed_over_at_its_pubrel_unless_created_for_5() {
    let _alone = alone();
    for (created, payload) in [(V3, b"first"), (V5, b"after")] {
        let broker = broker_with_session();
        let first = Recording::default();
        // Killed, as far as Paho is concerned, when the broker has its PUBREC: it has the message to be released.
        broker.withhold(Kind::Pubrel);
        {
            let client = Client::create(first.clone(), &broker, V3);
            client.connect(V3);
            broker.deliver(CLIENT, "t", b"first", 2);
            broker.wait_for(Direction::Withheld, Kind::Pubrel, 1);
        }
        assert_eq!(first.left(), ["r-1"]);
        let second = Recording::with([("r-1".to_owned(), first.value("r-1").expect("is there"))]);
        let client = Client::create(second, &broker, created);
        let (received, messages) = mpsc::channel();
        client.set_message_callback(move |_, message| drop(received.send(message)));
        broker.release(Kind::Pubrel);
        client.connect(V3);
        broker.wait_acknowledged(CLIENT);
        broker.deliver(CLIENT, "t", b"after", 2);
        let message = messages.recv_timeout(LIMIT).expect("is received");
        assert_eq!(message.expect("a message").payload(), payload);
    }
}

/// It is there for ever, and removed at no start.
#[test]
fn an_unsubscribe_of_3_1_1_that_waited_through_a_restart_is_never_sent() {
    let _alone = alone();
    let broker = broker_with_session();
    let unsubscribe = unsubscribe_command(7, "commands");
    let recording = Recording::with([("c-1".to_owned(), unsubscribe)]);
    let client = Client::create(recording.clone(), &broker, V3);
    client.connect(V3);
    send_a_last_one(&client);
    assert_eq!(broker.count(Direction::FromClient, Kind::Unsubscribe), 0);
    assert_eq!(recording.left(), ["c-1"]);
}

#[test]
fn a_command_is_read_under_one_version_and_removed_under_the_other() {
    let _alone = alone();
    let broker = broker_with_session();
    let recording = Recording::with([("c5-5".to_owned(), publish_command_of("c5-5", 7, 1))]);
    let client = Client::create(recording.clone(), &broker, V5);
    client.connect(V3);
    broker.wait_for(Direction::ToClient, Kind::Puback, 1);
    let calls = recording.calls();
    let position = |call: &str| calls.iter().rposition(|called| called == call);
    assert!(position("get c5-5") < position("remove c-5"), "{calls:?}");
    assert!(position("remove c-5").is_some(), "{calls:?}");
    assert_eq!(
        recording.value("c5-5"),
        Some(publish_command_of("c5-5", 7, 1))
    );
}

#[test]
fn what_is_in_flight_goes_out_by_its_id_and_what_waits_by_its_number() {
    let _alone = alone();
    for descends in [false, true] {
        let broker = broker_with_session();
        let sent = [9, 70, 8].map(|id| {
            let key = format!("s-{id}");
            let value = record(&key, format!("s{id}").as_bytes());
            (key, value)
        });
        let waiting = [(10, 3), (2, 4), (1, 5)].map(|(number, id)| {
            let value = publish_command(id, 1, "t", format!("c{number}").as_bytes());
            (format!("c-{number}"), value)
        });
        let recording = Recording::with(sent.into_iter().chain(waiting));
        if descends {
            recording.descend();
        }
        let client = Client::create(recording, &broker, V3);
        client.connect(V3);
        send_a_last_one(&client);
        assert_eq!(
            payloads(&broker),
            ["s8", "s9", "s70", "c1", "c2", "c10", "last"]
        );
    }
}

/// It is why a session that the broker has lost has to be told from one that goes on.
#[test]
fn what_is_in_flight_is_deleted_where_the_broker_has_no_session() {
    let _alone = alone();
    for (version, five) in [(V3, ""), (V5, "5")] {
        let broker = Broker::start();
        let keys = ["c", "r", "s", "sc"].map(|stem| format!("{stem}{five}-7"));
        let recording = Recording::with_keys(&keys.each_ref().map(String::as_str));
        let client = Client::create(recording.clone(), &broker, version);
        client.connect(version);
        client
            .disconnect(None)
            .wait_for(LIMIT)
            .expect("disconnects");
        let calls = recording.calls();
        for key in &keys[1..] {
            assert!(calls.contains(&format!("remove {key}")), "{calls:?}");
        }
    }
}

#[test]
fn the_connect_of_a_client_with_messages_in_flight_sends_those_of_all_clients_again() {
    let _alone = alone();
    let (broker, other) = (Broker::start(), broker_with_session());
    let recording = Recording::default();
    let first = Client::create(recording.clone(), &broker, V5);
    first.connect(V5);
    broker.withhold(Kind::Puback);
    first.accept("x", 1);
    broker.wait_for(Direction::Withheld, Kind::Puback, 1);
    recording.forget_calls();
    let second = Client::create(Recording::with_keys(&["s5-9"]), &other, V5);
    second.connect(V5);
    broker.wait_for(Direction::FromClient, Kind::Publish, 2);
    recording.expect(&["put s5-1"]);
}

/// A key without a dash: what crashes is run in a process of its own.
#[test]
#[ignore = "the child of the other test"]
fn child() {
    let Ok(key) = env::var("PAHO_KEY") else {
        return;
    };
    let broker = Broker::start();
    // It crashes where it compares two keys; the other pass deletes what is no packet.
    let keys = [key, "c-2".to_owned()];
    let recording = Recording::with(keys.map(|key| (key, record("s-1", b"x"))));
    drop(Client::create(recording, &broker, V3));
}

#[test]
fn a_key_without_a_dash_crashes_the_process() {
    for (key, signal) in [("c", Some(libc::SIGSEGV)), ("c-1", None)] {
        let output = ignored_test(module_path!(), "child")
            .env("PAHO_KEY", key)
            .output()
            .expect("the child runs");
        assert_eq!(output.status.signal(), signal, "{key}");
    }
}
