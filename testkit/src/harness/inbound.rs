//! Account of the messages that the program should receive at QoS 2.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{Kill, Versions, ledger::named, lines};

/// End of a run, as far as it matters here.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub kill: Kill,
    /// It completed, so nothing was between two of its steps.
    pub done: bool,
}

/// Names of the messages that did not arrive exactly once, by the reason.
///
/// Paho delivers a message to the program without an acknowledgment, so it cannot do so exactly once across a crash. The fields
/// name the lines of Paho C 1.3.16 that decide between loss and repetition.
#[derive(Debug, Default)]
pub struct Inbound {
    pub lost: Vec<String>,
    pub twice: Vec<String>,
    /// Lost because the run ended between `put r` and the callback, which comes at once with MQTT 5 and at the PUBREL with 3.1.1.
    /// With 5, `MQTTProtocol_handlePublishes` takes one that is sent again for one that the program had (`already_received`), and so
    /// does, for a client that was created for 5 and restores it as of that version, `MQTTProtocol_handlePubrels`, which hands over
    /// only messages that are not of MQTT 5.
    pub lost_by_paho: Vec<String>,
    /// Delivered twice because the run ended between the callback and `remove r`. With MQTT 3.1.1 `MQTTProtocol_handlePubrels` delivers
    /// first, and removes the record then.
    pub twice_by_paho: Vec<String>,
    /// Delivered twice because the broker repeated its PUBLISH after its PUBREL, at which the record was removed. Mosquitto 2.0.11 does so
    /// if a connection ends before it has sent again the PUBREL that was due: `db__message_reconnect_reset_outgoing` in its
    /// database.c looks for `mosq_ms_wait_for_pubcomp` alone, and has all others published.
    pub twice_by_broker: Vec<String>,
    /// Discarded by the broker with the session.
    pub discarded: Vec<String>,
}

/// Calls of the runs.
#[derive(Default)]
struct Calls {
    /// Run of the first `put r` of a message, unless another one had that record by then.
    put: HashMap<String, usize>,
    /// Run in which the record of a message was removed.
    removed: HashMap<String, usize>,
    /// Messages that were put after that.
    again: HashSet<String>,
}

impl Inbound {
    /// Compares the `sent` messages with those that the runs in this folder have received.
    pub(super) fn account(
        versions: Versions,
        folder: &Path,
        ends: &[End],
        sent: &[String],
        discarded: &HashSet<String>,
    ) -> Self {
        let mut received: HashMap<String, Vec<usize>> = HashMap::new();
        for line in lines(&folder.join("received")) {
            let (run, text) = line.split_once(' ').expect("a run and a payload");
            let run = run.parse().expect("a number");
            received.entry(text.to_owned()).or_default().push(run);
        }
        let calls = Calls::read(folder, ends);
        let mut account = Self::default();
        for text in sent {
            let name = text.trim_end_matches('|').to_owned();
            match received.remove(text).as_deref() {
                None if discarded.contains(text) => account.discarded.push(name),
                None if calls.was_between_put_and_callback(versions, &name, ends) => {
                    account.lost_by_paho.push(name);
                }
                None => account.lost.push(name),
                Some([_]) => {}
                Some(runs)
                    if calls.was_between_callback_and_remove(versions, &name, runs, ends) =>
                {
                    account.twice_by_paho.push(name);
                }
                Some(_) if calls.again.contains(&name) => account.twice_by_broker.push(name),
                Some(_) => account.twice.push(name),
            }
        }
        // A message that nobody sent was altered in transit.
        account.lost.extend(received.into_keys());
        account
    }

    /// Errors that Paho did not cause, with their messages; a repetition by the broker does not count.
    pub(super) fn wrong(&self) -> Vec<String> {
        named([
            ("inbound lost", self.lost.clone()),
            ("inbound twice", self.twice.clone()),
        ])
    }
}

impl Calls {
    fn read(folder: &Path, ends: &[End]) -> Self {
        let mut calls = Self::default();
        // Messages of the present records, and of the records at the start of the run.
        let mut contents: HashMap<String, String> = HashMap::new();
        let mut before: HashMap<String, String> = HashMap::new();
        for (run, end) in ends.iter().enumerate() {
            let trace = lines(&folder.join(format!("trace-{run}")));
            for (position, line) in trace.iter().enumerate() {
                let mut words = line.split(' ');
                let number = words.next().and_then(|number| number.parse().ok());
                let (call, key, name) = (words.next(), words.next(), words.next());
                if call == Some("open") {
                    before.extend(contents.drain());
                }
                let Some(key) = key.filter(|key| key.starts_with("r-") || key.starts_with("r5-"))
                else {
                    continue;
                };
                match (call, name) {
                    (Some("put"), Some(name)) => {
                        if calls.removed.contains_key(name) {
                            calls.again.insert(name.to_owned());
                        }
                        let other = match key.strip_prefix("r5-") {
                            Some(id) => contents.remove(&format!("r-{id}")),
                            None => contents.remove(&key.replace("r-", "r5-")),
                        };
                        let replaced = contents.insert(key.to_owned(), name.to_owned()).or(other);
                        if replaced.is_none_or(|replaced| replaced == name) {
                            calls.put.entry(name.to_owned()).or_insert(run);
                        }
                    }
                    (Some("get"), _) => {
                        let restored = before.get(key).cloned();
                        contents.extend(restored.map(|name| (key.to_owned(), name)));
                    }
                    (Some("remove"), _) => {
                        let returned = end.done
                            || position + 1 < trace.len()
                            || number.is_some_and(|number| end.kill == Kill::After(number));
                        if returned && let Some(name) = contents.remove(key) {
                            calls.removed.entry(name).or_insert(run);
                        }
                    }
                    _ => {}
                }
            }
        }
        calls
    }

    fn was_between_put_and_callback(&self, versions: Versions, name: &str, ends: &[End]) -> bool {
        let Some(run) = self.put.get(name) else {
            return false;
        };
        let outlived = self.removed.get(name) != Some(run);
        match versions {
            Versions::V5 => outlived && !ends[*run].done,
            // Also if the run completed before the PUBREL.
            Versions::Default3 => outlived,
            Versions::V3 => false,
        }
    }

    fn was_between_callback_and_remove(
        &self,
        versions: Versions,
        name: &str,
        received: &[usize],
        ends: &[End],
    ) -> bool {
        let removed = self.removed.get(name).copied().unwrap_or(usize::MAX);
        // Only the last one may be of a run that completed or removed the record.
        versions != Versions::V5
            && received
                .windows(2)
                .all(|runs| runs[0] < runs[1] && !ends[runs[0]].done && runs[0] < removed)
    }
}
