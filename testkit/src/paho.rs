//! Values that Paho C hands to its persistence.
//!
//! The stem of a key names the kind of its record: `c` a command that waits to be sent, `s` a PUBLISH in flight, `sc` its PUBREL,
//! `r` a PUBLISH received at QoS 2, `q` a received message not yet delivered to the program. Records of MQTT 5 have a `5` after
//! the stem, and properties in their values, which are empty here.

/// Topic of every value whose builder takes none.
pub const TOPIC: &str = "t";

const PUBLISH: i32 = 3;
const SUBSCRIBE: i32 = 8;
const UNSUBSCRIBE: i32 = 10;

/// Value that Paho could have written under `key`, which carries `payload` unless it is a PUBREL.
///
/// Packets are at QoS 2 and have the number of the key as their packet id. So do commands, unless the number is no packet id.
pub fn record(key: &str, payload: &[u8]) -> Vec<u8> {
    let Key { kind, number, .. } = Key::parse(key);
    match kind {
        "c" => {
            let command = publish_command(number.max(1).into(), 1, TOPIC, payload);
            with_properties(key, command)
        }
        "sc" => [b"\x62\x02", &number.to_be_bytes()[..]].concat(),
        "q" => undelivered_message(key, payload),
        _ => publish_packet(key, 2, payload),
    }
}

/// Command that publishes with MQTT 3.1.1, as `MQTTAsync_persistCommand` writes it.
pub fn publish_command(packet_id: i32, qos: i32, topic: &str, payload: &[u8]) -> Vec<u8> {
    let length = i32::try_from(payload.len()).expect("short");
    let is_retained = 0_i32;
    [
        &PUBLISH.to_ne_bytes()[..],
        &packet_id.to_ne_bytes(),
        topic.as_bytes(),
        b"\0",
        &length.to_ne_bytes(),
        payload,
        &qos.to_ne_bytes(),
        &is_retained.to_ne_bytes(),
    ]
    .concat()
}

/// Command that publishes `payload` to [`TOPIC`] with the MQTT version of `key`.
pub fn publish_command_of(key: &str, packet_id: i32, qos: i32) -> Vec<u8> {
    with_properties(key, publish_command(packet_id, qos, TOPIC, b"payload"))
}

/// Command that subscribes to `topic` with MQTT 3.1.1 at QoS 1.
pub fn subscribe_command(packet_id: i32, topic: &str) -> Vec<u8> {
    let qos = 1_i32;
    let filters = [topic.as_bytes(), b"\0", &qos.to_ne_bytes()].concat();
    command_with_filters(SUBSCRIBE, packet_id, &filters)
}

/// Command that unsubscribes from `topic` with MQTT 3.1.1.
pub fn unsubscribe_command(packet_id: i32, topic: &str) -> Vec<u8> {
    let filters = [topic.as_bytes(), b"\0"].concat();
    command_with_filters(UNSUBSCRIBE, packet_id, &filters)
}

/// Token of a command, which is the packet id of what it sends.
pub fn command_token(command: &[u8]) -> i32 {
    i32::from_ne_bytes(command[4..8].try_into().expect("four bytes"))
}

/// PUBLISH to [`TOPIC`] with the MQTT version and the packet id of `key`, not sent before.
pub fn publish_packet(key: &str, qos: u8, payload: &[u8]) -> Vec<u8> {
    let topic_length = u16::try_from(TOPIC.len()).expect("short").to_be_bytes();
    let topic = [&topic_length[..], TOPIC.as_bytes()].concat();
    let packet_id = Key::parse(key).number.to_be_bytes();
    let head = with_properties(key, [&topic[..], &packet_id].concat());
    let body = [&head[..], payload].concat();
    let length = u8::try_from(body.len()).ok().filter(|length| *length < 128);
    let length = length.expect("one byte for the length is enough");
    [&[0x30 | qos << 1, length], &body[..]].concat()
}

fn command_with_filters(kind: i32, packet_id: i32, filters: &[u8]) -> Vec<u8> {
    let count = 1_i32;
    let head = [kind, packet_id, count].map(i32::to_ne_bytes).concat();
    [&head[..], filters].concat()
}

/// Message at QoS 2 as `MQTTPersistence_persistQueueEntry` writes it, with its number as its packet id.
fn undelivered_message(key: &str, payload: &[u8]) -> Vec<u8> {
    let length = i32::try_from(payload.len()).expect("short").to_ne_bytes();
    let (qos, is_retained, is_dup) = (2, 0, 0);
    let packet_id = Key::parse(key).number.into();
    let flags = [qos, is_retained, is_dup, packet_id].map(i32::to_ne_bytes);
    let topic_length = i32::try_from(TOPIC.len()).expect("short").to_ne_bytes();
    let value = [
        &length[..],
        payload,
        &flags.concat(),
        TOPIC.as_bytes(),
        b"\0",
        &topic_length,
    ];
    with_properties(key, value.concat())
}

fn with_properties(key: &str, mut value: Vec<u8>) -> Vec<u8> {
    if Key::parse(key).is_of_mqtt_5 {
        value.push(0);
    }
    value
}

struct Key<'a> {
    kind: &'a str,
    is_of_mqtt_5: bool,
    /// 1 if the number of a command is no packet id.
    number: u16,
}

impl<'a> Key<'a> {
    fn parse(key: &'a str) -> Self {
        let (stem, number) = key.split_once('-').expect("a key of Paho");
        Self {
            kind: stem.trim_end_matches('5'),
            is_of_mqtt_5: stem.ends_with('5'),
            number: number.parse().unwrap_or(1),
        }
    }
}
