//! Scrapes of the programs of a soak, each of which must account for every message.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use crate::{LIMIT, accounting::accounts_in, body, header, status};

/// Interval between two scrapes of a program.
const INTERVAL: Duration = Duration::from_secs(1);

/// Thread that scrapes the programs until it is dropped.
pub(super) struct Scraper {
    scrapes: Arc<Mutex<Scrapes>>,
    /// Dropped to end the thread.
    _running: Sender<()>,
}

/// Result of the scrapes.
#[derive(Debug, Default)]
pub(super) struct Scrapes {
    pub checked: usize,
    /// Clients whose messages did not add up, with their accounts.
    pub wrong: Vec<String>,
}

impl Scraper {
    /// Scrapes every program that listens on one of these sockets.
    pub fn start(sockets: Vec<PathBuf>) -> Self {
        let scrapes = Arc::<Mutex<Scrapes>>::default();
        let (running, ended) = mpsc::channel();
        let results = Arc::clone(&scrapes);
        thread::spawn(move || {
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                for socket in &sockets {
                    // A program that is killed or starts gives no answer, or a part of one.
                    if let Ok(Some(text)) = scrape(socket) {
                        results.lock().unwrap().check(&text);
                    }
                }
            }
        });
        Self {
            scrapes,
            _running: running,
        }
    }

    /// Returns the result since the last call.
    pub fn take(&self) -> Scrapes {
        std::mem::take(&mut *self.scrapes.lock().unwrap())
    }
}

impl Scrapes {
    fn check(&mut self, text: &str) {
        self.checked += 1;
        for (client, account) in accounts_in(text) {
            if !account.is_balanced() {
                self.wrong.push(format!("{client}: {account:?}"));
            }
        }
    }
}

/// Returns the metrics, or `None` if they are not complete.
fn scrape(socket: &Path) -> io::Result<Option<String>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: program\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let length = header(&answer, "content-length").and_then(|length| length.parse().ok());
    let is_complete = status(&answer) == "200" && length == Some(body(&answer).len());
    Ok(is_complete.then(|| body(&answer).to_owned()))
}

#[cfg(test)]
mod tests {
    use paho_mqtt::{self as mqtt, ClientPersistence};
    use paho_mqtt_redis::{Instrumented, MetricsServer, PersistenceMetrics, prometheus::Registry};

    use super::*;
    use crate::{eventually, publish_command};

    /// Persistence that loses what it is given and does not report it.
    struct Forgetful;

    impl ClientPersistence for Forgetful {
        fn open(&mut self, _: &str, _: &str) -> mqtt::Result<()> {
            Ok(())
        }

        fn close(&mut self) -> mqtt::Result<()> {
            Ok(())
        }

        fn put(&mut self, _: &str, _: Vec<&[u8]>) -> mqtt::Result<()> {
            Ok(())
        }

        fn get(&mut self, _: &str) -> mqtt::Result<Vec<u8>> {
            Err(mqtt::Error::PersistenceError)
        }

        fn remove(&mut self, _: &str) -> mqtt::Result<()> {
            Ok(())
        }

        fn keys(&mut self) -> mqtt::Result<Vec<String>> {
            Ok(Vec::new())
        }

        fn clear(&mut self) -> mqtt::Result<()> {
            Ok(())
        }

        fn contains_key(&mut self, _: &str) -> bool {
            false
        }
    }

    #[test]
    fn message_that_leaves_in_silence_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("metrics");
        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).unwrap();
        let _server = MetricsServer::builder(registry).bind_unix(&socket, 0o600);
        let mut persistence = Instrumented::new(Forgetful, &metrics);
        persistence.open("device", "uri").unwrap();
        persistence.keys().unwrap();
        let command = publish_command(1, 1, "topic", b"x");
        persistence.put("c5-1", vec![&command]).unwrap();
        let scraper = Scraper::start(vec![socket]);
        let next = || Some(scraper.take()).filter(|scrapes| scrapes.checked > 0);
        let before = eventually(LIMIT, "it is scraped", next);
        assert_eq!(before.wrong, Vec::<String>::new());
        persistence.keys().unwrap();
        let found = || Some(scraper.take()).filter(|scrapes| !scrapes.wrong.is_empty());
        let after = eventually(LIMIT, "the loss is found", found);
        assert!(after.wrong[0].starts_with("device: "), "{after:?}");
    }
}
