//! Broker that acknowledges nothing but connections, so that messages stay in flight.

use std::{
    io::{self, BufReader, BufWriter, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

/// Serves until the process ends.
pub struct Sink {
    port: u16,
}

impl Sink {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Fails if the client disconnects.
                thread::spawn(move || drop(serve(&stream)));
            }
        });
        Self { port }
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

fn serve(stream: &TcpStream) -> io::Result<()> {
    const CONNECT: u8 = 1;
    const PINGREQ: u8 = 12;
    let mut input = BufReader::new(stream);
    let mut output = BufWriter::new(stream);
    loop {
        let (kind, body) = read_packet(&mut input)?;
        match kind {
            // The level follows the six bytes of the protocol's name. MQTT 5 needs a list of properties, which is empty.
            CONNECT if body.get(6) == Some(&5) => output.write_all(&[0x20, 3, 0, 0, 0])?,
            CONNECT => output.write_all(&[0x20, 2, 0, 0])?,
            PINGREQ => output.write_all(&[0xd0, 0])?,
            _ => continue,
        }
        output.flush()?;
    }
}

/// Reads the type of the next packet, and the bytes after its length.
fn read_packet(input: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    input.read_exact(&mut byte)?;
    let kind = byte[0] >> 4;
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        input.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    Ok((kind, body))
}
