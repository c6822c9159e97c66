//! The plan by which records that were set aside become records of the client again.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    time::{Duration, SystemTime},
};

use crate::{
    DeadLetter,
    paho::{
        Key, RecordKind, StoredMessage, is_expired, is_valid_record, set_expiry_time,
        sort_by_sequence,
    },
};

/// The reason why a record stays where it was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its name has no key of Paho.
    NoKey,
    /// Paho could not read it.
    Unreadable,
    /// The client has this record, or one that would be mistaken for the same message.
    KeyInUse(Key),
    /// It has expired, so the client would remove it at its next start.
    Expired,
    /// There is no message for the broker in it, or one with only an alias in place of its topic.
    NoMessage,
    /// Every packet id or sequence number is in use.
    NoNumber,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => f.write_str("its name has no key of Paho"),
            Self::Unreadable => f.write_str("Paho could not read it"),
            Self::KeyInUse(key) => write!(f, "the client has {key}"),
            Self::Expired => {
                f.write_str("it has expired, so the client would remove it at its next start")
            }
            Self::NoMessage => f.write_str("it has no message for the broker"),
            Self::NoNumber => f.write_str("every packet id or sequence number is in use"),
        }
    }
}

/// A record that is set aside, and the record that it becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Restored<'a> {
    pub(super) letter: &'a DeadLetter,
    pub(super) key: Key,
    pub(super) value: Vec<u8>,
}

/// The records that are restored, each message in one step, and those that stay.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan<'a> {
    pub(super) messages: Vec<Vec<Restored<'a>>>,
    pub(super) refused: Vec<(&'a DeadLetter, Refusal)>,
}

/// A PUBLISH and a PUBREL that were set aside within this time are of one message.
const TOGETHER: Duration = Duration::from_secs(1);

/// Plans to put records back under their own keys, if these are free.
///
/// The key must be free in both versions of MQTT. In flight, a PUBREL of an earlier message with the same
/// packet id would take the place of the PUBLISH, so no record may have the id.
pub(super) fn plan_put_back<'a>(
    letters: &[&'a DeadLetter],
    present: &[Key],
    now: SystemTime,
) -> Plan<'a> {
    let mut plan = Plan::default();
    let mut taken: HashSet<Key> = present.iter().copied().collect();
    // The message that is put back in flight under each packet id.
    let mut in_flight: BTreeMap<u32, usize> = BTreeMap::new();
    for letter in letters {
        let key = match key_to_put_back(letter, now) {
            Ok(key) => key,
            Err(refusal) => {
                plan.refused.push((letter, refusal));
                continue;
            }
        };
        let restored = Restored {
            letter,
            key,
            value: letter.value().to_vec(),
        };
        let partner = in_flight.get(&key.number).filter(|_| key.is_outbound());
        let partner = partner.and_then(|index| plan.messages.get_mut(*index));
        if let Some(message) = partner
            && let [other] = message.as_slice()
            && other.key.kind != key.kind
            && were_together(other.letter, letter)
        {
            taken.insert(key);
            message.push(restored);
            continue;
        }
        let both = |key: Key| [key, key.other_version()];
        let mut needed = key.message_keys().flat_map(both);
        if let Some(used) = needed.find(|key| taken.contains(key)) {
            plan.refused.push((letter, Refusal::KeyInUse(used)));
            continue;
        }
        taken.insert(key);
        if key.is_outbound() {
            in_flight.insert(key.number, plan.messages.len());
        }
        plan.messages.push(vec![restored]);
    }
    plan
}

fn key_to_put_back(letter: &DeadLetter, now: SystemTime) -> Result<Key, Refusal> {
    let key = letter.key().and_then(Key::parse).ok_or(Refusal::NoKey)?;
    if !is_valid_record(key, letter.value()) {
        return Err(Refusal::Unreadable);
    }
    if is_expired(key, letter.value(), || now) {
        return Err(Refusal::Expired);
    }
    Ok(key)
}

fn were_together(one: &DeadLetter, other: &DeadLetter) -> bool {
    let (Some(one), Some(other)) = (one.time(), other.time()) else {
        return false;
    };
    let gap = one
        .duration_since(other)
        .unwrap_or_else(|error| error.duration());
    gap <= TOGETHER
}

/// Plans to publish messages again: as waiting commands behind those that wait, with packet ids that
/// neither they nor messages in flight have.
pub(super) fn plan_publish_again<'a>(
    letters: &[&'a DeadLetter],
    present: &[Key],
    waiting_ids: &HashSet<u16>,
    now: SystemTime,
) -> Plan<'a> {
    let mut plan = Plan::default();
    let mut numbers = free_numbers(present);
    let mut ids = free_packet_ids(present, waiting_ids);
    for letter in letters {
        match publish_again(letter, now, &mut numbers, &mut ids) {
            Ok(restored) => plan.messages.push(vec![restored]),
            Err(refusal) => plan.refused.push((letter, refusal)),
        }
    }
    plan
}

fn publish_again<'a>(
    letter: &'a DeadLetter,
    now: SystemTime,
    numbers: &mut impl Iterator<Item = u32>,
    ids: &mut impl Iterator<Item = u16>,
) -> Result<Restored<'a>, Refusal> {
    let from = key_to_put_back(letter, now)?;
    let message = StoredMessage::parse(from, letter.value()).filter(|_| letter.is_outbound());
    let message = message.ok_or(Refusal::NoMessage)?;
    // Asks before it takes numbers.
    message.to_command(from.v5, 1).ok_or(Refusal::NoMessage)?;
    let number = numbers.next().ok_or(Refusal::NoNumber)?;
    let packet_id = match message.qos {
        0 => 0,
        _ => ids.next().ok_or(Refusal::NoNumber)?,
    };
    let mut value = message
        .to_command(from.v5, packet_id)
        .ok_or(Refusal::NoMessage)?;
    let key = Key {
        kind: RecordKind::Command,
        number,
        ..from
    };
    // As in every waiting record. The interval of one that had been sent starts anew.
    set_expiry_time(key, &mut value, || now);
    Ok(Restored { letter, key, value })
}

/// Returns the sequence numbers behind the newest command that no command has, but for 0: Paho removes
/// command 0 whenever it connects.
fn free_numbers(present: &[Key]) -> impl Iterator<Item = u32> + use<> {
    let commands = present.iter().filter(|key| key.kind == RecordKind::Command);
    let mut commands: Vec<Key> = commands.copied().collect();
    sort_by_sequence(&mut commands);
    let range = RecordKind::Command.number_range();
    let newest = commands.last().map_or(0, |key| key.number);
    let used: HashSet<u32> = commands.iter().map(|key| key.number).collect();
    let behind = newest.saturating_add(1)..range.end;
    let wrapped = 1..newest;
    behind
        .chain(wrapped)
        .filter(move |number| !used.contains(number))
}

/// Returns packet ids that nothing has. Paho assigns ids upwards, so the highest stay free longest.
fn free_packet_ids(
    present: &[Key],
    waiting_ids: &HashSet<u16>,
) -> impl Iterator<Item = u16> + use<> {
    let in_flight = present.iter().filter(|key| key.is_outbound());
    let in_flight = in_flight.filter_map(|key| u16::try_from(key.number).ok());
    let used: HashSet<u16> = in_flight.chain(waiting_ids.iter().copied()).collect();
    (1..=u16::MAX).rev().filter(move |id| !used.contains(id))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::{
        Place,
        paho::{command_packet_id, sample_record},
    };

    /// A moment in 2026.
    const NOW: u64 = 1_795_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn letter_of(millis: u64, key: &str, value: Vec<u8>) -> DeadLetter {
        let length = value.len();
        let name = format!("{millis}:session_lost:{length}:{key}:0000000000000001");
        DeadLetter::new(Place::Discarded, name, value)
    }

    /// Parses `KEY` or `KEY@MILLIS`.
    fn letters(names: &str) -> Vec<DeadLetter> {
        let names = names.split_whitespace().map(|name| {
            let (key, millis) = name.split_once('@').unwrap_or((name, "1"));
            letter_of(millis.parse().expect("a time"), key, sample_record(key))
        });
        names.collect()
    }

    fn keys(names: &str) -> Vec<Key> {
        let names = names.split_whitespace();
        names.map(|name| Key::parse(name).expect("a key")).collect()
    }

    /// Shows messages, whose records are joined by `+`, and refusals.
    fn shown(plan: &Plan<'_>) -> String {
        let messages = plan.messages.iter().map(|message| {
            let keys = message.iter().map(|restored| restored.key.to_string());
            keys.collect::<Vec<_>>().join("+")
        });
        let refused = plan
            .refused
            .iter()
            .map(|(letter, refusal)| format!("{}:{refusal:?}", letter.key().unwrap_or_default()));
        messages.chain(refused).collect::<Vec<_>>().join(" ")
    }

    fn put_back(set_aside: &str, present: &str) -> String {
        let letters = letters(set_aside);
        let letters: Vec<&DeadLetter> = letters.iter().collect();
        let shown = shown(&plan_put_back(&letters, &keys(present), now()));
        let mut lines = shown.replace("KeyInUse(Key { kind: ", "used(");
        lines.retain(|character| character != '}');
        lines
    }

    #[test]
    fn record_is_put_back_under_free_key() {
        assert_eq!(
            put_back("c-4 s5-7 r-2 q-9", "c-3 c-5 s-8"),
            "c-4 s5-7 r-2 q-9"
        );
        assert_eq!(put_back("", "c-3"), "");
    }

    #[test]
    fn key_in_use_in_either_version_is_refused() {
        for (set_aside, present) in [
            ("c-4", "c-4"),
            ("c-4", "c5-4"),
            ("q5-4", "q-4"),
            ("r-4", "r5-4"),
            ("s-4", "s5-4"),
            ("s-4", "sc-4"),
            ("sc5-4", "s-4"),
        ] {
            let put_back = put_back(set_aside, present);
            assert!(
                put_back.contains("used("),
                "{set_aside} {present} {put_back}"
            );
        }
        // Numbers of other kinds are no hindrance.
        assert_eq!(put_back("c-4", "s-4 q-4 r-4"), "c-4");
    }

    #[test]
    fn second_record_with_same_key_is_refused() {
        assert!(put_back("c-4@1 c-4@2", "").starts_with("c-4 c-4:used("));
    }

    #[test]
    fn publish_and_pubrel_set_aside_together_return() {
        assert_eq!(put_back("s-7@1 sc-7@900 s-8@1", ""), "s-7+sc-7 s-8");
        // The PUBREL is of another message with this id.
        assert!(put_back("s-7@1 sc-7@9000", "").starts_with("s-7 sc-7:used("));
        assert!(put_back("s-7@1 s5-7@2", "").starts_with("s-7 s5-7:used("));
    }

    #[test]
    fn record_that_client_could_not_use_stays() {
        let expired = [
            &3_i32.to_ne_bytes()[..],
            &7_i32.to_ne_bytes(),
            b"t\0",
            &[0; 4],
            &1_i32.to_ne_bytes(),
            &[0; 4],
            b"\x05\x02",
            &u32::try_from(NOW).expect("fits").to_be_bytes(),
        ];
        let letters = [
            letter_of(1, "c5-1", expired.concat()),
            letter_of(1, "s-1", b"\x32".to_vec()),
            DeadLetter::new(Place::Quarantine, "note".to_owned(), Vec::new()),
        ];
        let letters: Vec<&DeadLetter> = letters.iter().collect();
        for plan in [
            plan_put_back(&letters, &[], now()),
            plan_publish_again(&letters, &[], &HashSet::new(), now()),
        ] {
            assert_eq!(shown(&plan), "c5-1:Expired s-1:Unreadable :NoKey");
        }
    }

    fn published(set_aside: &str, present: &str, ids: &[u16]) -> String {
        let letters = letters(set_aside);
        let letters: Vec<&DeadLetter> = letters.iter().collect();
        let ids = ids.iter().copied().collect();
        let plan = plan_publish_again(&letters, &keys(present), &ids, now());
        for restored in plan.messages.iter().flatten() {
            assert!(is_valid_record(restored.key, &restored.value));
        }
        let messages = plan.messages.iter().flatten().map(|restored| {
            let id = command_packet_id(&restored.value, restored.key.v5);
            format!("{}/{}", restored.key, id.expect("a packet id"))
        });
        let refused = plan
            .refused
            .iter()
            .map(|(letter, refusal)| format!("{}:{refusal:?}", letter.key().unwrap_or_default()));
        messages.chain(refused).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn message_is_published_again_behind_what_waits() {
        assert_eq!(published("c-1 s5-2", "", &[]), "c-1/65535 c5-2/65534");
        assert_eq!(
            published("c-1 c-2", "c-1 c5-7 s-65535", &[65_534]),
            "c-8/65533 c-9/65532"
        );
        assert_eq!(published("c-1 c-2", "c-999999", &[]), "c-1/65535 c-2/65534");
        // The sequence has wrapped, and 0 is never used.
        assert_eq!(
            published("s-1 s-2", "c-999998 c-999999 c-0 c5-1", &[]),
            "c-2/65535 c-3/65534"
        );
    }

    #[test]
    fn only_outbound_message_is_published_again() {
        assert_eq!(
            published("sc-1 r-1 q-1", "", &[]),
            "sc-1:NoMessage r-1:NoMessage q-1:NoMessage"
        );
    }

    #[test]
    fn message_without_free_packet_id_stays() {
        let all: Vec<u16> = (1..=u16::MAX).filter(|id| *id != 9).collect();
        assert_eq!(published("s-1 s-2", "", &all), "c-1/9 s-2:NoNumber");
    }

    #[test]
    fn interval_of_sent_message_starts_anew() {
        let body = [b"\0\x01t\0\x07", &b"\x05\x02\0\0\0\x3c"[..], b"x"].concat();
        let packet = [&[0x32, u8::try_from(body.len()).expect("short")], &body[..]].concat();
        let letters = [letter_of(1, "s5-7", packet)];
        let letters: Vec<&DeadLetter> = letters.iter().collect();
        let plan = plan_publish_again(&letters, &[], &HashSet::new(), now());
        let [restored] = plan.messages[0].as_slice() else {
            panic!("{plan:?}");
        };
        let after = |seconds| move || now() + Duration::from_secs(seconds);
        assert!(!is_expired(restored.key, &restored.value, after(59)));
        assert!(is_expired(restored.key, &restored.value, after(60)));
    }
}
