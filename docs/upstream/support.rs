// A persistence in memory and a broker that prints what it gets, for the programs in this folder.

#[allow(dead_code)]
mod support {
    use std::{
        collections::BTreeMap,
        io::{self, Read, Write},
        net::{Ipv4Addr, TcpListener, TcpStream},
        sync::{Arc, Mutex},
        thread,
        time::Duration,
    };

    use paho_mqtt as mqtt;

    pub const V3: u32 = mqtt::MQTT_VERSION_3_1_1;
    pub const V5: u32 = mqtt::MQTT_VERSION_5;

    /// Records in memory; clones share them, so that a second client finds what the first one left.
    #[derive(Clone, Default)]
    pub struct Store {
        records: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
        /// Calls that return an error, such as `put c-1`.
        failing: Arc<Mutex<Vec<String>>>,
        /// Runs inside each call.
        on_call: Option<Arc<dyn Fn(&str) + Send + Sync>>,
    }

    impl Store {
        pub fn with(records: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Self {
            let store = Self::default();
            let records = records
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value));
            store.records.lock().unwrap().extend(records);
            store
        }

        pub fn on_call(mut self, run: impl Fn(&str) + Send + Sync + 'static) -> Self {
            self.on_call = Some(Arc::new(run));
            self
        }

        pub fn insert(&self, key: String, value: Vec<u8>) {
            self.records.lock().unwrap().insert(key, value);
        }

        pub fn fail(&self, call: &str) {
            self.failing.lock().unwrap().push(call.to_owned());
        }

        /// Keys of all records, and of a command its packet id too.
        pub fn stored(&self) -> Vec<String> {
            let records = self.records.lock().unwrap();
            let described = records.iter().map(|(key, value)| match value.get(4..8) {
                Some(id) if key.starts_with('c') => {
                    format!(
                        "{key} (packet id {})",
                        i32::from_ne_bytes(id.try_into().unwrap())
                    )
                }
                _ => key.clone(),
            });
            described.collect()
        }

        pub fn value(&self, key: &str) -> Option<String> {
            let records = self.records.lock().unwrap();
            records
                .get(key)
                .map(|value| value.escape_ascii().to_string())
        }

        fn call(&self, call: &str) -> mqtt::Result<()> {
            if let Some(run) = &self.on_call {
                run(call);
            }
            let fails = self
                .failing
                .lock()
                .unwrap()
                .iter()
                .any(|failing| failing == call);
            if fails {
                Err(mqtt::Error::PersistenceError)
            } else {
                Ok(())
            }
        }
    }

    impl mqtt::ClientPersistence for Store {
        fn open(&mut self, _: &str, _: &str) -> mqtt::Result<()> {
            self.call("open")
        }

        fn close(&mut self) -> mqtt::Result<()> {
            self.call("close")
        }

        fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> mqtt::Result<()> {
            self.call(&format!("put {key}"))?;
            self.insert(key.to_owned(), buffers.concat());
            Ok(())
        }

        fn get(&mut self, key: &str) -> mqtt::Result<Vec<u8>> {
            self.call(&format!("get {key}"))?;
            let value = self.records.lock().unwrap().get(key).cloned();
            value.ok_or(mqtt::Error::PersistenceError)
        }

        fn remove(&mut self, key: &str) -> mqtt::Result<()> {
            self.call(&format!("remove {key}"))?;
            self.records.lock().unwrap().remove(key);
            Ok(())
        }

        fn keys(&mut self) -> mqtt::Result<Vec<String>> {
            self.call("keys")?;
            Ok(self.records.lock().unwrap().keys().cloned().collect())
        }

        fn clear(&mut self) -> mqtt::Result<()> {
            self.call("clear")?;
            self.records.lock().unwrap().clear();
            Ok(())
        }

        fn contains_key(&mut self, key: &str) -> bool {
            self.records.lock().unwrap().contains_key(key)
        }
    }

    /// PUBLISH at `qos` to the topic `t`, as Paho stores it under `s-<id>` or `s5-<id>`.
    pub fn publish_packet(version: u32, qos: u8, id: u8, payload: &str) -> Vec<u8> {
        let properties: &[u8] = if version == V5 { &[0] } else { &[] };
        let body = [&[0, 1, b't', 0, id], properties, payload.as_bytes()].concat();
        [&[0x30 | qos << 1, body.len() as u8], &body[..]].concat()
    }

    /// Command that publishes at QoS 1 to the topic `t`, as Paho stores it under `c-<number>` or `c5-<number>`.
    pub fn publish_command(version: u32, id: i32, payload: &str) -> Vec<u8> {
        let (publish, qos, retained) = (3_i32, 1_i32, 0_i32);
        let length = payload.len() as i32;
        let properties: &[u8] = if version == V5 { &[0] } else { &[] };
        let ints = [publish, id].map(i32::to_ne_bytes).concat();
        let flags = [qos, retained].map(i32::to_ne_bytes).concat();
        [
            &ints,
            &b"t\0"[..],
            &length.to_ne_bytes(),
            payload.as_bytes(),
            &flags,
            properties,
        ]
        .concat()
    }

    pub fn options(server: &str, version: u32, store: &Store) -> mqtt::CreateOptionsBuilder {
        mqtt::CreateOptionsBuilder::new()
            .server_uri(server)
            .client_id("client")
            .mqtt_version(version)
            .send_while_disconnected(true)
            .allow_disconnected_send_at_anytime(true)
            .user_persistence(store.clone())
    }

    /// Client that publishes also without a connection.
    pub fn create(server: &str, version: u32, store: &Store) -> mqtt::AsyncClient {
        options(server, version, store)
            .create_client()
            .expect("a client")
    }

    /// Connects with a session that outlives the connection.
    pub fn connect(client: &mqtt::AsyncClient, version: u32) {
        let mut options = mqtt::ConnectOptionsBuilder::with_mqtt_version(version);
        if version == V5 {
            let mut session = mqtt::Properties::new();
            let expiry = mqtt::PropertyCode::SessionExpiryInterval;
            session.push_u32(expiry, 3600).expect("a property");
            options.clean_start(false).properties(session);
        } else {
            options.clean_session(false);
        }
        client
            .connect(options.finalize())
            .wait()
            .expect("a connection");
    }

    pub fn publish(client: &mqtt::AsyncClient, payload: &str) -> mqtt::Result<mqtt::DeliveryToken> {
        client.try_publish(mqtt::Message::new("t", payload, mqtt::QOS_1))
    }

    /// Gives Paho the time to do what it will do.
    pub fn wait() {
        thread::sleep(Duration::from_secs(2));
    }

    /// Behavior of the broker on one connection, after the CONNACK.
    #[derive(Clone, Copy)]
    pub enum Broker {
        Acknowledges,
        /// Reads and acknowledges nothing.
        OnlyReads,
        /// Does not even read.
        IsDeaf,
    }

    /// Connection of the last deaf broker.
    static DEAF: Mutex<Option<TcpStream>> = Mutex::new(None);

    /// Ends the connection of the deaf broker with a reset, since there are bytes that it has not read.
    pub fn reset_deaf() {
        drop(DEAF.lock().unwrap().take());
    }

    /// Starts a broker with a session of the client, prints what it gets, and returns its address. There is one
    /// behavior per connection; the last one is for all further connections too.
    pub fn broker(behaviors: impl IntoIterator<Item = Broker>) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let url = format!("mqtt://{}", listener.local_addr().expect("an address"));
        let behaviors: Vec<Broker> = behaviors.into_iter().collect();
        thread::spawn(move || {
            let mut behaviors = behaviors.into_iter();
            let mut behavior = Broker::Acknowledges;
            for stream in listener.incoming() {
                behavior = behaviors.next().unwrap_or(behavior);
                let stream = stream.expect("a connection");
                thread::spawn(move || serve(stream, behavior));
            }
        });
        url
    }

    fn serve(mut stream: TcpStream, behavior: Broker) -> io::Result<()> {
        let (_, connect) = read_packet(&mut stream)?;
        let is_5 = connect[6] == 5;
        // Session present, success, and no properties.
        stream.write_all(if is_5 {
            &[0x20, 3, 1, 0, 0]
        } else {
            &[0x20, 2, 1, 0]
        })?;
        if let Broker::IsDeaf = behavior {
            *DEAF.lock().unwrap() = Some(stream);
            return Ok(());
        }
        loop {
            let (head, body) = read_packet(&mut stream)?;
            let id = |at: usize| [body[at], body[at + 1]];
            let (name, id) = match head >> 4 {
                3 => {
                    let (topic, qos) = (usize::from(body[1]), head >> 1 & 3);
                    let id = if qos > 0 { id(2 + topic) } else { [0, 0] };
                    let properties = 2 + topic + if qos > 0 { 2 } else { 0 };
                    let payload = properties
                        + if is_5 {
                            1 + usize::from(body[properties])
                        } else {
                            0
                        };
                    (
                        format!("PUBLISH \"{}\"", body[payload..].escape_ascii()),
                        id,
                    )
                }
                4 => ("PUBACK".to_owned(), id(0)),
                5 => ("PUBREC".to_owned(), id(0)),
                6 => ("PUBREL".to_owned(), id(0)),
                7 => ("PUBCOMP".to_owned(), id(0)),
                8 => ("SUBSCRIBE".to_owned(), id(0)),
                10 => ("UNSUBSCRIBE".to_owned(), id(0)),
                12 => {
                    stream.write_all(&[0xd0, 0])?;
                    continue;
                }
                _ => return Ok(()),
            };
            println!("broker: {name}, packet id {}", u16::from_be_bytes(id));
            let answer = match (head >> 4, head >> 1 & 3) {
                (3, 1) => 0x40,
                (3, 2) => 0x50,
                (6, _) => 0x70,
                _ => continue,
            };
            if let Broker::Acknowledges = behavior {
                stream.write_all(&[answer, 2, id[0], id[1]])?;
            }
        }
    }

    fn read_packet(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        let head = byte[0];
        let (mut length, mut shift) = (0, 0);
        loop {
            stream.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 127) << shift;
            shift += 7;
            if byte[0] < 128 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        Ok((head, body))
    }
}

#[allow(unused_imports)]
use support::*;
