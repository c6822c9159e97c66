//! `quarantine` and `discarded`: the records that are set aside.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::builder::PossibleValuesParser;
use paho_mqtt_redis::{
    Error,
    backlog::{
        Content, DeadLetter, Key, OwnedBacklog, Place, Record, Refusal, Selection, SetAside,
        set_aside_reasons,
    },
};
use serde_json::{Value, json};

use super::show::{PayloadForm, action, property, shown_payload, to_json};
use crate::{
    args::{AnyClientsArgs, ClientArgs, SelectionArgs, parse_age, require_choice},
    context::Context,
    exit::{Exit, Failure},
    output::{Align, Table, age, bytes, confirm, count, escape},
};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the records
    List(List),
    /// Show records with everything that is in them
    Show(Show),
    /// Make them records of the client again, under their own keys, if those are free
    PutBack(Change),
    /// Let the client publish the messages again at its next start, after what waits
    PublishAgain(Change),
    /// Remove the records for good
    Delete(Delete),
}

#[derive(clap::Args, Debug)]
struct List {
    #[command(flatten)]
    clients: AnyClientsArgs,
    #[command(flatten)]
    filter: Filter,
}

#[derive(clap::Args, Debug)]
struct Show {
    #[command(flatten)]
    client: ClientArgs,
    /// Records, by the NAME or the KEY that `list` shows; all without one
    #[arg(value_name = "RECORD")]
    records: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// The form of payloads
    #[arg(long, value_name = "FORM", default_value = "text")]
    payload: PayloadForm,
}

#[derive(clap::Args, Debug)]
struct Change {
    #[command(flatten)]
    client: ClientArgs,
    /// Records, by the NAME or the KEY that `list` shows
    #[arg(value_name = "RECORD")]
    records: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Every record
    #[arg(long, help_heading = "Selection")]
    all: bool,
}

#[derive(clap::Args, Debug)]
struct Delete {
    #[command(flatten)]
    change: Change,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Conditions that a record has to meet, all of them.
#[derive(clap::Args, Debug)]
struct Filter {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Only records with this reason
    #[arg(
        long,
        value_name = "REASON",
        value_parser = PossibleValuesParser::new(set_aside_reasons()),
        value_delimiter = ',',
        help_heading = "Selection"
    )]
    reason: Vec<String>,
    /// Only records that were set aside at least this long ago, such as 90s, 15m, 12h or 7d
    #[arg(long, value_name = "AGE", value_parser = parse_age, help_heading = "Selection")]
    older_than: Option<Duration>,
}

impl Args {
    pub fn run(&self, context: &mut Context, place: Place) -> Result<Exit, Failure> {
        match &self.action {
            Action::List(args) => args.run(context, place),
            Action::Show(args) => args.run(context, place),
            Action::PutBack(args) => args.put_back(context, place),
            Action::PublishAgain(args) => args.publish_again(context, place),
            Action::Delete(args) => args.run(context, place),
        }
    }
}

impl Filter {
    fn selection(&self) -> Selection {
        Selection {
            older_than: self.older_than,
            ..self.selection.selection()
        }
    }

    fn is_all(&self) -> bool {
        self.reason.is_empty() && self.selection().is_all()
    }

    fn choose<'a>(&self, letters: impl IntoIterator<Item = &'a DeadLetter>) -> Vec<&'a DeadLetter> {
        let selection = self.selection();
        let now = SystemTime::now();
        let is_chosen = |letter: &&DeadLetter| {
            let has_reason = self.reason.is_empty()
                || self.reason.iter().any(|reason| reason == letter.reason());
            let record = Record::of_letter(letter);
            has_reason
                && match record {
                    Some(record) => selection.matches(std::slice::from_ref(&record), now),
                    // Nothing is known about it.
                    None => self.is_all(),
                }
        };
        let chosen = letters.into_iter().filter(is_chosen);
        chosen.take(selection.limit.unwrap_or(usize::MAX)).collect()
    }
}

/// Finds the records that a person names; all if none is named.
fn named<'a>(letters: &'a [DeadLetter], names: &[String]) -> Result<Vec<&'a DeadLetter>, Failure> {
    if names.is_empty() {
        return Ok(letters.iter().collect());
    }
    let mut found: Vec<&DeadLetter> = Vec::new();
    for name in names {
        let exact = letters.iter().find(|letter| letter.name() == name);
        let by_key = letters
            .iter()
            .filter(|letter| letter.key() == Some(name.as_str()));
        let by_key: Vec<&DeadLetter> = by_key.collect();
        let shown = escape(name.as_bytes());
        let letter = match (exact, by_key.as_slice()) {
            (Some(letter), _) => letter,
            (None, [letter]) => letter,
            (None, []) => {
                return Err(Failure::usage(format!(
                    "there is no record {shown}; `list` shows the names"
                )));
            }
            (None, several) => {
                let names = several
                    .iter()
                    .map(|letter| escape(letter.name().as_bytes()));
                return Err(Failure::usage(format!(
                    "{} records have the key {shown}, so name one: {}",
                    several.len(),
                    names.collect::<Vec<_>>().join(", ")
                )));
            }
        };
        if !found.contains(&letter) {
            found.push(letter);
        }
    }
    Ok(found)
}

fn complain_about_nameless(context: &mut Context, set_aside: &SetAside) {
    if set_aside.nameless > 0 {
        let nameless = set_aside.nameless;
        context.complain(&format!("{nameless} entries have names that are no text"));
    }
}

impl List {
    fn run(&self, context: &mut Context, place: Place) -> Result<Exit, Failure> {
        let names = match self.clients.one(&mut context.server)? {
            Some(name) => vec![name],
            None => context.server.clients(self.clients.prefix())?,
        };
        let mut table = (!context.out.is_json()).then(|| {
            Table::new(&[
                ("CLIENT", Align::Left),
                ("KEY", Align::Left),
                ("REASON", Align::Left),
                ("AGE", Align::Right),
                ("KIND", Align::Left),
                ("SIZE", Align::Right),
                ("TOPIC", Align::Left),
                ("NAME", Align::Left),
            ])
        });
        let mut is_empty = true;
        for name in names {
            let set_aside = context.server.set_aside(&name, place)?;
            complain_about_nameless(context, &set_aside);
            for letter in self.filter.choose(&set_aside.letters) {
                is_empty = false;
                let out = &mut context.out;
                match &mut table {
                    Some(table) => table.row(out, row(&name, letter))?,
                    None => out.json(&letter_to_json(&name, letter, false))?,
                }
            }
        }
        match table {
            Some(table) if !is_empty => table.finish(&mut context.out)?,
            Some(_) => context.out.line("no such records")?,
            None => {}
        }
        Ok(Exit::Done)
    }
}

fn row(client: &str, letter: &DeadLetter) -> Vec<String> {
    let dash = || "-".to_owned();
    let record = Record::of_letter(letter);
    let view = record.as_ref().map(|record| (record, record.view()));
    let (kind, topics) = match &view {
        Some((record, view)) => {
            let topics = view.content.topics().iter().map(|topic| escape(topic));
            let topics = topics.collect::<Vec<_>>().join(" ");
            (action(record, &view.content).to_owned(), topics)
        }
        None => (dash(), String::new()),
    };
    vec![
        escape(client.as_bytes()),
        letter.key().map_or_else(dash, str::to_owned),
        escape(letter.reason().as_bytes()),
        letter_age(letter).map_or_else(dash, age),
        kind,
        bytes(letter.value().len()),
        if topics.is_empty() { dash() } else { topics },
        escape(letter.name().as_bytes()),
    ]
}

fn letter_age(letter: &DeadLetter) -> Option<Duration> {
    SystemTime::now().duration_since(letter.time()?).ok()
}

pub fn letter_to_json(client: &str, letter: &DeadLetter, with_payload: bool) -> Value {
    let record = Record::of_letter(letter);
    let mut object = match &record {
        Some(record) => to_json(record, &record.view(), with_payload),
        None => json!({"bytes": letter.value().len()}),
    };
    let time = letter.time();
    let time = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    object["client"] = json!(client);
    object["name"] = json!(letter.name());
    object["reason"] = json!(letter.reason());
    object["set_aside_at"] = json!(time.map(|time| time.as_secs_f64()));
    if with_payload {
        object["value"] = json!(STANDARD.encode(letter.value()));
    }
    object
}

impl Show {
    fn run(&self, context: &mut Context, place: Place) -> Result<Exit, Failure> {
        let name = self.client.resolve(&mut context.server)?;
        let set_aside = context.server.set_aside(&name, place)?;
        complain_about_nameless(context, &set_aside);
        let out = &mut context.out;
        let chosen = self
            .filter
            .choose(named(&set_aside.letters, &self.records)?);
        for (index, letter) in chosen.iter().enumerate() {
            if out.is_json() {
                out.json(&letter_to_json(&name, letter, true))?;
                continue;
            }
            if index > 0 {
                out.line("")?;
            }
            for (field, value) in fields(letter, self.payload) {
                out.line(&format!("{field:<10} {value}"))?;
            }
        }
        if chosen.is_empty() && !out.is_json() {
            out.line("no such records")?;
        }
        Ok(Exit::Done)
    }
}

/// Everything about a record, as lines with their names.
fn fields(letter: &DeadLetter, form: PayloadForm) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("name", escape(letter.name().as_bytes())),
        ("key", letter.key().unwrap_or("-").to_owned()),
        ("reason", escape(letter.reason().as_bytes())),
        (
            "age",
            letter_age(letter).map_or_else(|| "-".to_owned(), age),
        ),
        ("size", bytes(letter.value().len())),
    ];
    let record = Record::of_letter(letter);
    let Some((record, view)) = record.as_ref().map(|record| (record, record.view())) else {
        fields.push(("value", shown_payload(letter.value(), form)));
        return fields;
    };
    fields.push(("kind", action(record, &view.content).to_owned()));
    if let Some(id) = view.packet_id {
        fields.push(("packet id", id.to_string()));
    }
    for topic in view.content.topics() {
        fields.push(("topic", escape(topic)));
    }
    if let Some(expires) = view.expires {
        let left = expires.duration_since(SystemTime::now()).map(age);
        fields.push(("expires", left.unwrap_or_else(|_| "expired".to_owned())));
    }
    match &view.content {
        Content::Message {
            payload,
            qos,
            retained,
            properties,
            ..
        } => {
            fields.push(("QoS", qos.to_string()));
            fields.push(("retain", if *retained { "yes" } else { "no" }.to_owned()));
            let properties = properties.iter();
            fields.extend(properties.map(|found| ("property", property(found))));
            fields.push(("payload", shown_payload(payload, form)));
        }
        Content::Unreadable => fields.push(("value", shown_payload(letter.value(), form))),
        Content::Subscribe(_) | Content::Unsubscribe(_) | Content::Pubrel => {}
    }
    fields
}

impl Change {
    /// Returns an error unless a record or a condition is named, or all records are meant.
    fn require_choice(&self) -> Result<(), Failure> {
        require_choice(self.records.is_empty() && self.filter.is_all(), self.all)
    }

    fn choose<'a>(&self, letters: &'a [DeadLetter]) -> Result<Vec<&'a DeadLetter>, Failure> {
        Ok(self.filter.choose(named(letters, &self.records)?))
    }

    fn put_back(&self, context: &mut Context, place: Place) -> Result<Exit, Failure> {
        self.restore(
            context,
            place,
            "put back as",
            |backlog, letters, on_letter| backlog.put_back(letters, on_letter),
        )
    }

    fn publish_again(&self, context: &mut Context, place: Place) -> Result<Exit, Failure> {
        self.restore(context, place, "waits as", |backlog, letters, on_letter| {
            backlog.publish_again(letters, on_letter)
        })
    }

    fn restore(
        &self,
        context: &mut Context,
        place: Place,
        verb: &str,
        work: impl FnOnce(
            &mut OwnedBacklog,
            &[&DeadLetter],
            &mut dyn FnMut(&DeadLetter, Result<Key, Refusal>),
        ) -> Result<(), Error>,
    ) -> Result<Exit, Failure> {
        self.require_choice()?;
        let name = self.client.resolve(&mut context.server)?;
        let mut backlog = context.own(&name)?;
        let set_aside = backlog.set_aside(place)?;
        let letters = self.choose(&set_aside.letters)?;
        if letters.is_empty() && !context.out.is_json() {
            context.out.line("no such records")?;
        }
        let mut results = Vec::new();
        let done = work(&mut backlog, &letters, &mut |letter, result| {
            results.push((letter.name().to_owned(), result));
        });
        for (letter, result) in results {
            let shown = escape(letter.as_bytes());
            match result {
                Ok(key) if context.out.is_json() => {
                    let object = json!({"client": name, "name": letter, "key": key.to_string()});
                    context.out.json(&object)?;
                }
                Ok(key) => context.out.line(&format!("{shown} {verb} {key}"))?,
                Err(refusal) => context.complain(&format!("{shown} stays: {refusal}")),
            }
        }
        done?;
        Ok(Exit::Done)
    }
}

impl Delete {
    fn run(&self, context: &mut Context, place: Place) -> Result<Exit, Failure> {
        self.change.require_choice()?;
        let name = self.change.client.resolve(&mut context.server)?;
        let mut backlog = context.own_to_remove(&name)?;
        let set_aside = backlog.set_aside(place)?;
        let letters = self.change.choose(&set_aside.letters)?;
        let size: usize = letters.iter().map(|letter| letter.value().len()).sum();
        let number = letters.len();
        let client = escape(name.as_bytes());
        let place = place.as_str();
        let records = count(number, "record");
        if !context.out.is_json() {
            let size = bytes(size);
            let line = format!("{client}: {records} of {place}, {size}");
            context.out.line(&line)?;
            context.out.flush()?;
        }
        let is_confirmed = number == 0 || self.yes || {
            let question = format!("Remove {records} for good?");
            confirm(&question, || Ok(backlog.keep_alive()?))?
        };
        if is_confirmed {
            backlog.delete(&letters)?;
        }
        let removed = if is_confirmed { number } else { 0 };
        if context.out.is_json() {
            let object =
                json!({"client": name, "records": number, "bytes": size, "removed": removed});
            context.out.json(&object)?;
        } else if removed > 0 {
            context.out.line(&format!("removed {records}"))?;
        }
        Ok(if is_confirmed {
            Exit::Done
        } else {
            Exit::Declined
        })
    }
}
