//! Scripted broker in the test's own process, which records every packet.

mod script;
mod session;
mod wire;

use std::{
    collections::HashMap,
    io::{self, BufReader, Write},
    mem,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use super::LIMIT;
use script::Script;
use session::Session;

pub use script::Action;
pub use wire::{Kind, Packet, Version};

/// Direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    FromClient,
    ToClient,
    /// Due to the client, and withheld by the script.
    Withheld,
}

/// Packet that the broker has received, sent or withheld.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub client: String,
    pub direction: Direction,
    pub packet: Packet,
}

/// Message that the broker has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub client: String,
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
}

/// MQTT broker for 3.1.1 and 5 on a free port of 127.0.0.1, until it is dropped.
///
/// It accepts messages like a correct broker but forwards none: a client receives only the messages that the test delivers.
pub struct Broker {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    script: Script,
    sessions: HashMap<String, Session>,
    connections: HashMap<String, Connection>,
    connected: usize,
    seen: Vec<Seen>,
    accepted: Vec<Accepted>,
    faults: Vec<String>,
    ended: bool,
}

struct Connection {
    number: usize,
    version: Version,
    stream: TcpStream,
}

impl Broker {
    /// Starts a broker.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::<Shared>::default();
        let state = Arc::clone(&shared);
        let listening = thread::spawn(move || {
            for stream in listener.incoming() {
                if state.lock().ended {
                    break;
                }
                if let Ok(stream) = stream {
                    let state = Arc::clone(&state);
                    thread::spawn(move || serve(&state, &stream));
                }
            }
        });
        Self {
            address,
            shared,
            listening: Some(listening),
        }
    }

    /// URL for a client.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// Withholds packets of this kind from now on.
    pub fn withhold(&self, kind: Kind) {
        self.shared.lock().script.withhold(kind);
    }

    /// Withholds the n-th packet of this kind, counted from 1 since the start of the broker.
    pub fn withhold_nth(&self, kind: Kind, nth: usize) {
        self.shared.lock().script.withhold_nth(kind, nth);
    }

    /// Sends packets of this kind again. Withheld ones are due again when the client reconnects.
    pub fn release(&self, kind: Kind) {
        self.shared.lock().script.release(kind);
    }

    /// Executes `actions` after answering the first packet for which `condition` holds.
    pub fn when(
        &self,
        condition: impl FnMut(&Packet) -> bool + Send + 'static,
        actions: Vec<Action>,
    ) {
        let script = &mut self.shared.lock().script;
        script.when(Box::new(condition), actions);
    }

    /// Ends the connection at the n-th packet of this kind from now on, without an answer.
    pub fn drop_at(&self, kind: Kind, nth: usize) {
        let mut arrived = 0;
        let is_it = move |packet: &Packet| {
            arrived += usize::from(packet.kind == kind);
            arrived == nth
        };
        self.when(is_it, vec![Action::Drop]);
    }

    /// Ends every connection.
    pub fn drop_connections(&self) {
        self.shared.lock().drop_connections();
    }

    /// Refuses the next `times` CONNECTs with 'server unavailable'.
    pub fn refuse(&self, times: usize) {
        self.shared.lock().script.refuse = times;
    }

    /// Sets whether each CONNECT discards the session.
    pub fn discard_sessions(&self, discards: bool) {
        self.shared.lock().script.discards_sessions = discards;
    }

    /// Answers with this reason code in each packet of this kind from now on. From 0x80 on it refuses the message (MQTT 5).
    pub fn answer_with(&self, kind: Kind, code: u8) {
        self.shared.lock().script.codes.insert(kind, code);
    }

    /// Creates a session of this client, as if it had connected before.
    pub fn create_session(&self, client: &str) {
        let mut session = Session::default();
        session.is_kept = true;
        let sessions = &mut self.shared.lock().sessions;
        sessions.insert(client.to_owned(), session);
    }

    /// Sends a message to a client, and repeats it at each reconnect until the client has acknowledged it.
    pub fn deliver(&self, client: &str, topic: &str, payload: &[u8], qos: u8) {
        self.shared.lock().deliver(client, topic, payload, qos);
    }

    /// Sends a packet that the protocol does not call for.
    pub fn send(&self, client: &str, packet: Packet) {
        self.shared.lock().send(client, packet);
    }

    /// All packets, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// Number of packets of this kind and direction.
    pub fn count(&self, direction: Direction, kind: Kind) -> usize {
        count(&self.shared.lock().seen, direction, kind)
    }

    /// Messages that a correct broker accepts: at QoS 0 and 1 with each PUBLISH, at QoS 2 once per packet id until its PUBREL.
    pub fn accepted(&self) -> Vec<Accepted> {
        self.shared.lock().accepted.clone()
    }

    /// Protocol violations of clients.
    pub fn faults(&self) -> Vec<String> {
        self.shared.lock().faults.clone()
    }

    /// Waits for this many packets of this kind and direction.
    #[track_caller]
    pub fn wait_for(&self, direction: Direction, kind: Kind, times: usize) {
        let expected = format!("{times} times {kind:?} {direction:?}");
        self.wait(&expected, |state| {
            count(&state.seen, direction, kind) >= times
        });
    }

    /// Waits until a client has acknowledged every message that was delivered to it.
    #[track_caller]
    pub fn wait_acknowledged(&self, client: &str) {
        self.wait("everything is acknowledged", |state| {
            state.sessions.get(client).is_some_and(Session::is_idle)
        });
    }

    /// Returns true if a client has acknowledged every message that was delivered to it.
    pub fn has_delivered_all(&self, client: &str) -> bool {
        let state = self.shared.lock();
        state.sessions.get(client).is_none_or(Session::is_idle)
    }

    /// Waits until a client has no connection.
    #[track_caller]
    pub fn wait_gone(&self, client: &str) {
        self.wait("the client is gone", |state| {
            !state.connections.contains_key(client)
        });
    }

    #[track_caller]
    fn wait(&self, expected: &str, mut holds: impl FnMut(&State) -> bool) {
        let state = self.shared.lock();
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(state, LIMIT, |state| !holds(state))
            .unwrap();
        let seen = state.seen.clone();
        // A panic under the lock would poison it for the broker's threads.
        drop(state);
        assert!(
            !waited.timed_out(),
            "not within {LIMIT:?}: {expected}; seen: {seen:#?}"
        );
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.drop_connections();
        drop(state);
        // This wakes the listening thread; if it fails, the thread has ended.
        let _ = TcpStream::connect(self.address);
        let _ = self.listening.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(seen: &[Seen], direction: Direction, kind: Kind) -> usize {
    let is_it = |seen: &&Seen| seen.direction == direction && seen.packet.kind == kind;
    seen.iter().filter(is_it).count()
}

/// Next step of a connection.
#[derive(PartialEq, Eq)]
enum Next {
    Read,
    End,
}

/// Answers a client until its connection ends.
fn serve(shared: &Shared, stream: &TcpStream) {
    // Answers are small and awaited.
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    let Ok(connect) = wire::read_connect(&mut reader) else {
        return;
    };
    let Some(number) = shared.lock().connect(&connect, stream) else {
        shared.changed.notify_all();
        let _ = stream.shutdown(Shutdown::Both);
        return;
    };
    shared.changed.notify_all();
    loop {
        let packet = wire::read(&mut reader, connect.version);
        let mut state = shared.lock();
        // Another connection of the same client has replaced this one.
        let replaced = state
            .connections
            .get(&connect.client)
            .is_none_or(|connection| connection.number != number);
        let next = match packet {
            _ if replaced => Next::End,
            Ok(packet) => state.arrived(&connect.client, packet),
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    state.faults.push(format!("{}: {error}", connect.client));
                }
                Next::End
            }
        };
        if next == Next::End && !replaced {
            state.disconnected(&connect.client);
        }
        drop(state);
        shared.changed.notify_all();
        if next == Next::End {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

impl State {
    /// Answers a CONNECT and returns the number of the connection, or `None` if it is refused.
    fn connect(&mut self, connect: &wire::Connect, stream: &TcpStream) -> Option<usize> {
        let client = &connect.client;
        let packet = Packet::new(Kind::Connect, 0);
        self.saw(client, Direction::FromClient, packet.clone());
        let actions = self.script.actions(&packet);
        if self.ended || actions.iter().any(|action| matches!(action, Action::Drop)) {
            return None;
        }
        let mut connack = Packet::new(Kind::Connack, 0);
        if self.script.refuse > 0 {
            self.script.refuse -= 1;
            connack.code = match connect.version {
                Version::V3 => 3,
                Version::V5 => 0x88,
            };
            self.saw(client, Direction::ToClient, connack.clone());
            // Fails if the client is gone.
            let _ = (&*stream).write_all(&connack.bytes(connect.version));
            self.act(client, actions);
            return None;
        }
        if let Some(old) = self.connections.remove(client) {
            // Fails if it has already ended.
            let _ = old.stream.shutdown(Shutdown::Both);
            self.disconnected(client);
        }
        if connect.clean || self.script.discards_sessions {
            self.sessions.remove(client);
        }
        connack.session_present = self.sessions.contains_key(client);
        self.sessions.entry(client.clone()).or_default().is_kept = connect.keeps_session;
        self.connected += 1;
        let number = self.connected;
        self.connections.insert(
            client.clone(),
            Connection {
                number,
                version: connect.version,
                stream: stream.try_clone().expect("a second handle"),
            },
        );
        self.send(client, connack);
        for packet in self.sessions[client].redeliveries() {
            self.send(client, packet);
        }
        self.act(client, actions);
        Some(number)
    }

    /// Answers a packet.
    fn arrived(&mut self, client: &str, packet: Packet) -> Next {
        let mut actions = self.script.actions(&packet);
        let next = if packet.kind == Kind::Disconnect
            || actions.iter().any(|action| matches!(action, Action::Drop))
        {
            Next::End
        } else {
            Next::Read
        };
        let silent = actions
            .iter()
            .any(|action| matches!(action, Action::Drop | Action::Run(_)));
        self.saw(client, Direction::FromClient, packet.clone());
        if packet.kind == Kind::Publish && !self.script.refuses(packet.qos) {
            self.account(client, &packet);
        }
        if !silent && let Some(answer) = self.answer(client, packet) {
            self.send(client, answer);
        }
        actions.retain(|action| !matches!(action, Action::Drop));
        self.act(client, actions);
        next
    }

    fn account(&mut self, client: &str, publish: &Packet) {
        let session = self.sessions.entry(client.to_owned()).or_default();
        if session.is_new(publish) {
            self.accepted.push(Accepted {
                client: client.to_owned(),
                topic: publish.topic.clone(),
                payload: publish.payload.clone(),
                qos: publish.qos,
            });
        }
    }

    fn answer(&mut self, client: &str, packet: Packet) -> Option<Packet> {
        let session = self.sessions.entry(client.to_owned()).or_default();
        let kind = match (packet.kind, packet.qos) {
            (Kind::Publish, 1) => Kind::Puback,
            (Kind::Publish, 2) => Kind::Pubrec,
            (Kind::Pubrel, _) => {
                session.released(packet.id);
                Kind::Pubcomp
            }
            (Kind::Subscribe, _) => Kind::Suback,
            (Kind::Unsubscribe, _) => Kind::Unsuback,
            (Kind::Pingreq, _) => Kind::Pingresp,
            (Kind::Puback | Kind::Pubrec | Kind::Pubcomp, _) => return session.answered(&packet),
            _ => return None,
        };
        let mut answer = Packet::new(kind, packet.id);
        answer.qos = if kind == Kind::Suback { packet.qos } else { 0 };
        answer.filters = packet.filters;
        answer.code = self.script.codes.get(&kind).copied().unwrap_or_default();
        Some(answer)
    }

    fn act(&mut self, client: &str, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Drop => {}
                Action::Refuse(times) => self.script.refuse = times,
                Action::Deliver {
                    topic,
                    payload,
                    qos,
                } => self.deliver(client, topic, payload.as_bytes(), qos),
                Action::Release => self.script.release_all(),
                Action::Run(run) => run(),
            }
        }
    }

    fn deliver(&mut self, client: &str, topic: &str, payload: &[u8], qos: u8) {
        let session = self.sessions.entry(client.to_owned()).or_default();
        let publish = session.deliver(topic, payload, qos);
        self.send(client, publish);
    }

    fn send(&mut self, client: &str, packet: Packet) {
        let Some(connection) = self.connections.get(client) else {
            return;
        };
        if self.script.withholds(packet.kind) {
            self.saw(client, Direction::Withheld, packet);
            return;
        }
        // Fails if the connection is gone, which the reading thread notices.
        let _ = (&connection.stream).write_all(&packet.bytes(connection.version));
        self.saw(client, Direction::ToClient, packet);
    }

    fn saw(&mut self, client: &str, direction: Direction, packet: Packet) {
        self.seen.push(Seen {
            client: client.to_owned(),
            direction,
            packet,
        });
    }

    fn disconnected(&mut self, client: &str) {
        self.connections.remove(client);
        if self
            .sessions
            .get(client)
            .is_some_and(|session| !session.is_kept)
        {
            self.sessions.remove(client);
        }
    }

    fn drop_connections(&mut self) {
        for (client, connection) in mem::take(&mut self.connections) {
            // Fails if it has already ended.
            let _ = connection.stream.shutdown(Shutdown::Both);
            self.disconnected(&client);
        }
    }
}
