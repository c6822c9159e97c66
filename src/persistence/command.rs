//! What a stored command says of itself, as `MQTTAsync_persistCommand` of Paho C writes it.

/// MQTT's packet type of a PUBLISH, with which Paho marks a publish command.
const PUBLISH: i32 = 3;

/// A command that waits to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Publish {
        packet_id: Option<u32>,
    },
    /// Another one, or one that cannot be read.
    Other,
}

impl Command {
    pub(super) fn read(value: &[u8]) -> Self {
        publish(value).unwrap_or(Self::Other)
    }

    /// What it will be sent under, where it is a PUBLISH that is acknowledged.
    pub(super) fn packet_id(&self) -> Option<u32> {
        match self {
            Self::Publish { packet_id } => *packet_id,
            Self::Other => None,
        }
    }
}

fn publish(value: &[u8]) -> Option<Command> {
    let mut rest = value;
    if int(&mut rest)? != PUBLISH {
        return None;
    }
    let token = int(&mut rest)?;
    let topic = rest.iter().position(|&byte| byte == 0)?;
    rest = rest.get(topic.checked_add(1)?..)?;
    let payload = usize::try_from(int(&mut rest)?).ok()?;
    rest = rest.get(payload..)?;
    let qos = int(&mut rest)?;
    let packet_id = u32::try_from(token).ok().filter(|_| qos == 1 || qos == 2);
    Some(Command::Publish { packet_id })
}

/// Takes a C `int` from the front.
fn int(rest: &mut &[u8]) -> Option<i32> {
    let (int, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(i32::from_ne_bytes(*int))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A publish command as Paho C 1.3.16 writes it for MQTT 3.1.1.
    fn stored(token: i32, qos: i32, payload: &[u8]) -> Vec<u8> {
        let length = i32::try_from(payload.len()).expect("short");
        [
            &PUBLISH.to_ne_bytes()[..],
            &token.to_ne_bytes(),
            b"a/topic\0",
            &length.to_ne_bytes(),
            payload,
            &qos.to_ne_bytes(),
            &0_i32.to_ne_bytes(),
        ]
        .concat()
    }

    #[test]
    fn only_a_publish_with_an_acknowledgement_has_a_packet_id() {
        let with = |packet_id| Command::Publish { packet_id };
        assert_eq!(Command::read(&stored(7, 1, b"payload")), with(Some(7)));
        assert_eq!(Command::read(&stored(65_535, 2, b"")), with(Some(65_535)));
        assert_eq!(Command::read(&stored(7, 0, b"payload")), with(None));
        let mut subscribe = stored(7, 1, b"");
        subscribe[..4].copy_from_slice(&8_i32.to_ne_bytes());
        assert_eq!(Command::read(&subscribe), Command::Other);
    }

    #[test]
    fn a_cut_command_is_none_that_is_known() {
        let whole = stored(7, 1, b"payload");
        let needed = whole.len() - 4;
        for length in 0..needed {
            assert_eq!(Command::read(&whole[..length]), Command::Other, "{length}");
        }
        let mut wrong = stored(7, 1, b"payload");
        wrong[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(Command::read(&wrong), Command::Other);
    }
}
