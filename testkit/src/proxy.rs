//! Forwarder to the broker that can drop answers.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

/// Types of MQTT packets that tests use.
pub mod packet {
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
}

#[derive(Default)]
struct State {
    /// Types of packets that are not forwarded to the client.
    withheld: HashSet<u8>,
    /// Types of the packets that were dropped.
    lost: Vec<u8>,
    /// Number of packets per type that clients have sent.
    sent: HashMap<u8, usize>,
    /// Both ends of each connection so far.
    streams: Vec<TcpStream>,
}

/// Forwards MQTT between a client and a broker, packet by packet.
pub struct Proxy {
    port: u16,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Proxy {
    /// Listens on a free port, for the broker on `broker_port`.
    pub fn start(broker_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::<(Mutex<State>, Condvar)>::default();
        let state = Arc::clone(&shared);
        // The thread ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(broker)) = (
                    client,
                    TcpStream::connect((Ipv4Addr::LOCALHOST, broker_port)),
                ) else {
                    continue;
                };
                let ends = [&client, &broker].map(|end| end.try_clone().expect("a second handle"));
                state.0.lock().unwrap().streams.extend(ends);
                forward(&client, &broker, &state, |state, kind| {
                    *state.sent.entry(kind).or_default() += 1;
                    true
                });
                forward(&broker, &client, &state, |state, kind| {
                    let lost = state.withheld.contains(&kind);
                    if lost {
                        state.lost.push(kind);
                    }
                    !lost
                });
            }
        });
        Self { port, shared }
    }

    /// URL for a client.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Drops packets of this type to the client from now on.
    pub fn withhold(&self, kind: u8) {
        self.shared.0.lock().unwrap().withheld.insert(kind);
    }

    /// Forwards every packet again.
    pub fn release(&self) {
        self.shared.0.lock().unwrap().withheld.clear();
    }

    /// Breaks every connection, even within a packet.
    pub fn cut(&self) {
        for stream in self.shared.0.lock().unwrap().streams.drain(..) {
            // Fails if it has already ended.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits until a packet of this type was dropped.
    #[track_caller]
    pub fn wait_lost(&self, kind: u8, limit: Duration) {
        let (state, changed) = &*self.shared;
        let state = state.lock().unwrap();
        let (state, waited) = changed
            .wait_timeout_while(state, limit, |state| !state.lost.contains(&kind))
            .unwrap();
        drop(state);
        assert!(
            !waited.timed_out(),
            "the broker sent no packet of type {kind} within {limit:?}"
        );
    }

    /// Number of packets of this type that clients have sent.
    pub fn sent(&self, kind: u8) -> usize {
        self.shared
            .0
            .lock()
            .unwrap()
            .sent
            .get(&kind)
            .copied()
            .unwrap_or_default()
    }
}

/// Forwards the packets that `passes` selects in one direction, on a thread of its own.
fn forward(
    from: &TcpStream,
    to: &TcpStream,
    shared: &Arc<(Mutex<State>, Condvar)>,
    passes: fn(&mut State, u8) -> bool,
) {
    let from = from.try_clone().expect("a second handle");
    let mut to = to.try_clone().expect("a second handle");
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let mut reader = io::BufReader::new(&from);
        while let Ok(packet) = read_packet(&mut reader) {
            let (state, changed) = &*shared;
            let goes_on = passes(&mut state.lock().unwrap(), packet[0] >> 4);
            changed.notify_all();
            if goes_on && to.write_all(&packet).is_err() {
                break;
            }
        }
        // Both directions end together, like those of one connection.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}

fn read_packet(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut packet = vec![0];
    reader.read_exact(&mut packet)?;
    let mut length = 0_usize;
    for shift in (0..28).step_by(7) {
        let mut digit = [0];
        reader.read_exact(&mut digit)?;
        packet.extend(digit);
        length |= usize::from(digit[0] & 0x7f) << shift;
        if digit[0] & 0x80 == 0 {
            break;
        }
    }
    let head = packet.len();
    packet.resize(head + length, 0);
    reader.read_exact(&mut packet[head..])?;
    Ok(packet)
}
