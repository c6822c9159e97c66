//! `import`: puts records into Redis that `export` has written.

mod lines;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use paho_mqtt_redis::{
    Error,
    backlog::{ClientName, Key, MoveEvent, Place},
};
use serde_json::json;

use self::lines::{Line, Lines, Slot};
use super::each_client::for_each_client;
use crate::{
    args::parse_server_uri,
    context::Context,
    exit::{Exit, Failure},
    output::{Progress, count, escape},
};

const HELP: &str = "\
A record gets its own key if that is free. One that is there already, with the same bytes, counts as done, so the same import can be \
run again. --url and --key-prefix choose the Redis. The records of a file are read one by one, but those of the standard input, and \
all that are set aside, are kept in memory.";

#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub struct Args {
    /// File with the lines; without one, or with -, they come from the standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Put the records under this client id
    #[arg(long, value_name = "CLIENT_ID")]
    client: Option<String>,
    /// Put the records under this server URI
    #[arg(long, value_name = "URI", value_parser = parse_server_uri)]
    server_uri: Option<String>,
    /// If another message has a key, give all that are not there yet numbers before those that are. They are
    /// sent first then. Until the exit code is 0, the same import goes on; after that, another one doubles
    /// them
    #[arg(long)]
    renumber: bool,
}

/// The records of one client.
#[derive(Default)]
struct Incoming {
    /// Positions of their lines.
    records: HashMap<Key, u64>,
    set_aside: BTreeMap<Place, BTreeMap<String, Vec<u8>>>,
}

impl Args {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        let mut lines = Lines::open(self.file.as_deref())?;
        let mut clients: BTreeMap<String, Incoming> = BTreeMap::new();
        lines.each(|number, position, line| {
            let added = line.and_then(|line| add(&mut clients, position, line));
            if let Err(reason) = added {
                context.complain(&format!("line {number}: {reason}"));
            }
        })?;
        // All of them are named before anything is changed.
        let mut named: BTreeMap<String, Incoming> = BTreeMap::new();
        let number = clients.len();
        for (client, incoming) in clients {
            let target = self.target(&client)?;
            if named.insert(target, incoming).is_some() {
                return Err(Failure::usage(format!(
                    "the lines are of {number} clients, which cannot all get this name; export one of them"
                )));
            }
        }
        let mut notes = Vec::new();
        let exit = for_each_client(context, named.iter(), |context, (name, incoming)| {
            let of_client = self.import(context, &mut lines, name, incoming)?;
            notes.push((name, of_client));
            Ok(Some(Exit::Done))
        })?;
        // Not before: this import may have to be run again, and then it finds what it has put.
        if !context.is_partial() {
            for (name, notes) in notes.iter().filter(|(_, notes)| !notes.is_empty()) {
                context.server.forget_import(name, notes)?;
            }
        }
        Ok(exit)
    }

    /// Returns the name under which the records of a client are put.
    fn target(&self, client: &str) -> Result<String, Failure> {
        let (id, uri) = match (&self.client, &self.server_uri) {
            (None, None) => return Ok(client.to_owned()),
            (Some(id), Some(uri)) => (id.clone(), uri.clone()),
            (id, uri) => {
                let parsed = ClientName::parse(client);
                let parsed = parsed.ok_or_else(|| {
                    Failure::usage(format!(
                        "{client} has no server URI; give --client and --server-uri"
                    ))
                })?;
                let id = id.clone().unwrap_or(parsed.id);
                (id, uri.clone().unwrap_or(parsed.server_uri))
            }
        };
        // The scheme of the URI is not part of the name.
        let name = ClientName::new(&id, &uri);
        let name =
            name.ok_or_else(|| Failure::usage("the client id and the URI must not be empty"))?;
        Ok(name.name())
    }

    /// Imports the records of a client; returns the names of the notes about them.
    fn import(
        &self,
        context: &mut Context,
        lines: &mut Lines,
        name: &str,
        incoming: &Incoming,
    ) -> Result<Vec<String>, Failure> {
        let mut owned = context.own(name)?;
        let keys: Vec<Key> = incoming.records.keys().copied().collect();
        let mut read = |keys: &[Key]| -> Result<Vec<Vec<u8>>, Error> {
            let positions = keys.iter().filter_map(|key| incoming.records.get(key));
            positions
                .map(|position| lines.value_at(*position))
                .collect()
        };
        let mut progress = None;
        let (mut imported, mut present, mut left) = (0, 0, 0);
        let mut done = owned.import(&keys, self.renumber, &mut read, |event| match event {
            MoveEvent::Found(records) => progress = Some(Progress::new(records)),
            MoveEvent::Moved(records) => {
                imported += records;
                if let Some(progress) = &progress {
                    progress.add(records);
                }
            }
            MoveEvent::Present(records) => present += records,
            MoveEvent::Stays(key, reason) => {
                left += 1;
                let text = format!("{key} of {name} {reason}");
                match &progress {
                    Some(progress) => progress.suspend(|| context.complain(&text)),
                    None => context.complain(&text),
                }
            }
        });
        drop(progress);
        for (place, records) in &incoming.set_aside {
            done = done.and_then(|notes| {
                let new = owned.import_set_aside(*place, records)?;
                imported += new;
                present += records.len() - new;
                Ok(notes)
            });
        }
        let out = &mut context.out;
        if out.is_json() {
            out.json(&json!({
                "client": name,
                "imported_records": imported,
                "present_records": present,
                "left_records": left,
                "is_complete": done.is_ok(),
            }))?;
        } else {
            let mut parts = vec![format!(
                "{} put to {}",
                count(imported, "record"),
                escape(name.as_bytes())
            )];
            for (number, words) in [(present, "there already"), (left, "left out")] {
                if number > 0 {
                    parts.push(format!("{number} {words}"));
                }
            }
            out.line(&parts.join(", "))?;
        }
        Ok(done?)
    }
}

/// Notes the record of a line.
fn add(clients: &mut BTreeMap<String, Incoming>, position: u64, line: Line) -> Result<(), String> {
    let incoming = clients.entry(line.client).or_default();
    match line.slot {
        Slot::Record(key) => {
            if incoming.records.contains_key(&key) {
                return Err(format!("{key} is in an earlier line, too"));
            }
            incoming.records.insert(key, position);
        }
        Slot::SetAside(place, name) => {
            let records = incoming.set_aside.entry(place).or_default();
            records.insert(name, line.value);
        }
    }
    Ok(())
}
