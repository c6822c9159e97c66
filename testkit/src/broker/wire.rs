//! Encoding of MQTT packets, as far as a broker for tests needs it.

use std::{
    fmt,
    io::{self, Read},
};

/// Type of a packet, with its number in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
}

impl Kind {
    fn from_number(number: u8) -> io::Result<Self> {
        const ALL: [Kind; 14] = [
            Kind::Connect,
            Kind::Connack,
            Kind::Publish,
            Kind::Puback,
            Kind::Pubrec,
            Kind::Pubrel,
            Kind::Pubcomp,
            Kind::Subscribe,
            Kind::Suback,
            Kind::Unsubscribe,
            Kind::Unsuback,
            Kind::Pingreq,
            Kind::Pingresp,
            Kind::Disconnect,
        ];
        ALL.into_iter()
            .find(|kind| *kind as u8 == number)
            .ok_or_else(|| malformed("a packet type that a client does not send"))
    }
}

/// Packet. Fields that its type does not have are empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    pub kind: Kind,
    pub id: u16,
    pub qos: u8,
    pub dup: bool,
    pub topic: String,
    pub payload: Vec<u8>,
    /// Reason code or return code.
    pub code: u8,
    /// Flag of a CONNACK.
    pub session_present: bool,
    /// Topic filters of a SUBSCRIBE or UNSUBSCRIBE.
    pub filters: Vec<String>,
}

impl Packet {
    /// Creates a packet with nothing but a packet id, 0 for none.
    pub fn new(kind: Kind, id: u16) -> Self {
        Self {
            kind,
            id,
            qos: 0,
            dup: false,
            topic: String::new(),
            payload: Vec::new(),
            code: 0,
            session_present: false,
            filters: Vec::new(),
        }
    }

    /// Encodes a packet of a type that a broker sends.
    pub fn bytes(&self, version: Version) -> Vec<u8> {
        let v5 = version == Version::V5;
        // An empty list of properties is a length of zero.
        let properties: &[u8] = if v5 { &[0] } else { &[] };
        let id = self.id.to_be_bytes();
        let code = [self.code];
        let mut flags = 0;
        let body = match self.kind {
            Kind::Connack => [&[u8::from(self.session_present)][..], &code, properties].concat(),
            Kind::Publish => {
                flags = u8::from(self.dup) << 3 | self.qos << 1;
                let length = u16::try_from(self.topic.len()).expect("a short topic");
                let id: &[u8] = if self.qos > 0 { &id } else { &[] };
                let head = [&length.to_be_bytes()[..], self.topic.as_bytes()].concat();
                [&head[..], id, properties, &self.payload].concat()
            }
            Kind::Pubrel => {
                flags = 0b0010;
                id.to_vec()
            }
            Kind::Suback => {
                let granted = vec![self.qos; self.filters.len()];
                [&id[..], properties, &granted].concat()
            }
            Kind::Unsuback => {
                let codes = vec![0; if v5 { self.filters.len() } else { 0 }];
                [&id[..], properties, &codes].concat()
            }
            Kind::Pingresp => Vec::new(),
            Kind::Disconnect => code.to_vec(),
            // A reason code of zero may be left out.
            _ if v5 && self.code != 0 => [&id[..], &code].concat(),
            _ => id.to_vec(),
        };
        let mut bytes = vec![(self.kind as u8) << 4 | flags];
        let mut length = body.len();
        loop {
            let digit = u8::try_from(length % 128).expect("seven bits");
            length /= 128;
            bytes.push(if length > 0 { digit | 0x80 } else { digit });
            if length == 0 {
                break;
            }
        }
        bytes.extend(body);
        bytes
    }
}

/// Formats the payload as text, so that a list of packets is readable.
impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        if self.id != 0 {
            write!(f, " {}", self.id)?;
        }
        if self.kind == Kind::Publish {
            let payload = self.payload.escape_ascii();
            write!(f, " qos {} {} \"{payload}\"", self.qos, self.topic)?;
        }
        if self.dup {
            write!(f, " dup")?;
        }
        if self.session_present {
            write!(f, " session present")?;
        }
        if self.code != 0 {
            write!(f, " code {}", self.code)?;
        }
        Ok(())
    }
}

/// Version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V3,
    V5,
}

/// Contents of a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    pub client: String,
    pub version: Version,
    /// Clean session, or clean start.
    pub clean: bool,
    /// Set if the session outlives the connection.
    pub keeps_session: bool,
}

/// Reads the packet that opens a connection.
pub fn read_connect(reader: &mut impl Read) -> io::Result<Connect> {
    let (head, body) = read_frame(reader)?;
    if Kind::from_number(head >> 4)? != Kind::Connect {
        return Err(malformed("a connection that does not start with CONNECT"));
    }
    let mut body = &body[..];
    let _name = text(&mut body)?;
    let version = match byte(&mut body)? {
        3 | 4 => Version::V3,
        5 => Version::V5,
        _ => return Err(malformed("an unknown protocol level")),
    };
    let clean = byte(&mut body)? & 0b10 != 0;
    let _keep_alive = short(&mut body)?;
    let keeps_session = match version {
        Version::V3 => !clean,
        Version::V5 => session_expiry(properties(&mut body)?)? > 0,
    };
    let client = text(&mut body)?;
    Ok(Connect {
        client,
        version,
        clean,
        keeps_session,
    })
}

/// Reads any other packet.
pub fn read(reader: &mut impl Read, version: Version) -> io::Result<Packet> {
    let (head, body) = read_frame(reader)?;
    let mut body = &body[..];
    let mut packet = Packet::new(Kind::from_number(head >> 4)?, 0);
    match packet.kind {
        Kind::Publish => {
            packet.dup = head & 0b1000 != 0;
            packet.qos = head >> 1 & 0b11;
            packet.topic = text(&mut body)?;
            if packet.qos > 2 {
                return Err(malformed("a PUBLISH at QoS 3"));
            }
            if packet.qos > 0 {
                packet.id = packet_id(&mut body)?;
            }
            if version == Version::V5 {
                properties(&mut body)?;
            }
            packet.payload = body.to_vec();
        }
        Kind::Puback | Kind::Pubrec | Kind::Pubrel | Kind::Pubcomp => {
            packet.id = packet_id(&mut body)?;
            packet.code = body.first().copied().unwrap_or_default();
        }
        Kind::Subscribe | Kind::Unsubscribe => {
            packet.id = packet_id(&mut body)?;
            if version == Version::V5 {
                properties(&mut body)?;
            }
            while !body.is_empty() {
                packet.filters.push(text(&mut body)?);
                if packet.kind == Kind::Subscribe {
                    packet.qos = byte(&mut body)? & 0b11;
                }
            }
        }
        Kind::Pingreq | Kind::Disconnect => {}
        _ => return Err(malformed("a packet that only a broker sends")),
    }
    Ok(packet)
}

fn read_frame(reader: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let head = byte(reader)?;
    let mut body = vec![0; number(reader)?];
    reader.read_exact(&mut body)?;
    Ok((head, body))
}

/// Reads a number of one to four bytes, seven bits in each.
fn number(reader: &mut impl Read) -> io::Result<usize> {
    let mut number = 0;
    for shift in (0..28).step_by(7) {
        let digit = byte(reader)?;
        number |= usize::from(digit & 0x7f) << shift;
        if digit & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(malformed("a length of more than four bytes"))
}

fn byte(reader: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    reader.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn short(reader: &mut impl Read) -> io::Result<u16> {
    let mut short = [0; 2];
    reader.read_exact(&mut short)?;
    Ok(u16::from_be_bytes(short))
}

fn packet_id(reader: &mut impl Read) -> io::Result<u16> {
    match short(reader)? {
        0 => Err(malformed("a packet id of zero")),
        id => Ok(id),
    }
}

fn text(reader: &mut impl Read) -> io::Result<String> {
    let mut text = vec![0; short(reader)?.into()];
    reader.read_exact(&mut text)?;
    String::from_utf8(text).map_err(|_| malformed("a text that is not UTF-8"))
}

fn properties<'a>(body: &mut &'a [u8]) -> io::Result<&'a [u8]> {
    let length = number(body)?;
    let (properties, rest) = body
        .split_at_checked(length)
        .ok_or_else(|| malformed("properties that are cut off"))?;
    *body = rest;
    Ok(properties)
}

/// Returns the session expiry of a CONNECT's properties in seconds, 0 if it is missing.
fn session_expiry(mut properties: &[u8]) -> io::Result<u32> {
    while !properties.is_empty() {
        match byte(&mut properties)? {
            0x11 => {
                let mut seconds = [0; 4];
                properties.read_exact(&mut seconds)?;
                return Ok(u32::from_be_bytes(seconds));
            }
            0x17 | 0x19 => drop(byte(&mut properties)?),
            0x21 | 0x22 => drop(short(&mut properties)?),
            0x27 => drop((short(&mut properties)?, short(&mut properties)?)),
            0x15 => drop(text(&mut properties)?),
            0x26 => drop((text(&mut properties)?, text(&mut properties)?)),
            _ => return Err(malformed("a property that CONNECT does not have")),
        }
    }
    Ok(0)
}

fn malformed(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
