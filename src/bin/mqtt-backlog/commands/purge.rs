//! `purge`: removes messages for good.

use std::{ops::ControlFlow, time::SystemTime};

use paho_mqtt_redis::{
    Error,
    backlog::{Message, Record, Selection},
};
use serde_json::json;

use super::{each_client::for_each_client, show::action};
use crate::{
    args::{ClientsArgs, SelectionArgs, require_choice},
    context::Context,
    exit::{Exit, Failure, complain},
    output::{Progress, bytes, confirm, count, escape},
};

// Each is an option without a value.
#[expect(clippy::struct_excessive_bools)]
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    clients: ClientsArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Only messages whose expiry (MQTT 5) has passed
    #[arg(long, help_heading = "Selection")]
    expired: bool,
    /// Every message; what is set aside and foreign entries stay
    #[arg(long, help_heading = "Selection")]
    all: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// The messages that would be removed.
#[derive(Default)]
struct Doomed {
    messages: Vec<Message>,
    records: usize,
    bytes: usize,
    first: Option<String>,
    last: Option<String>,
}

impl Args {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        let selection = self.selection.selection();
        require_choice(selection.is_all() && !self.expired, self.all)?;
        let names = self.clients.resolve(&mut context.server)?;
        for_each_client(context, names.iter(), |context, name| {
            self.purge(context, name, &selection)
        })
    }

    fn purge(
        &self,
        context: &mut Context,
        name: &str,
        selection: &Selection,
    ) -> Result<Option<Exit>, Failure> {
        if self.dry_run {
            let server = &mut context.server;
            let all = server.listing(name)?.messages;
            let doomed = self.select(&all, selection, |messages, on_message| {
                server.read_messages(name, messages, on_message)
            })?;
            self.describe(context, name, &doomed)?;
            Self::report(context, name, &doomed, 0)?;
            return Ok(Some(Exit::Done));
        }
        let mut backlog = context.own_to_remove(name)?;
        let all = backlog.messages()?;
        let doomed = self.select(&all, selection, |messages, on_message| {
            backlog.read_messages(messages, on_message)
        })?;
        self.describe(context, name, &doomed)?;
        let mut removed = 0;
        let mut exit = None;
        if !doomed.messages.is_empty() {
            let keep_alive = || Ok(backlog.keep_alive()?);
            if self.yes || confirm("Remove them for good?", keep_alive)? {
                let progress = Progress::new(doomed.messages.len());
                backlog.remove(&doomed.messages, |messages| {
                    progress.add(messages);
                    removed += messages;
                })?;
                exit = Some(Exit::Done);
            } else {
                exit = Some(Exit::Declined);
            }
        }
        if self.all && exit != Some(Exit::Declined) {
            // They are about records that are gone.
            backlog.forget_arrivals()?;
        }
        Self::report(context, name, &doomed, removed)?;
        Ok(exit)
    }

    /// Writes what would be removed, before a question about it.
    fn describe(&self, context: &mut Context, name: &str, doomed: &Doomed) -> Result<(), Failure> {
        let lines = doomed.describe(&escape(name.as_bytes()));
        if !context.out.is_json() {
            for line in lines {
                context.out.line(&line)?;
            }
        } else if !self.yes && !self.dry_run && !doomed.messages.is_empty() {
            for line in &lines {
                complain(line);
            }
        }
        context.out.flush()
    }

    fn report(
        context: &mut Context,
        name: &str,
        doomed: &Doomed,
        removed: usize,
    ) -> Result<(), Failure> {
        let out = &mut context.out;
        if out.is_json() {
            out.json(&json!({
                "client": name,
                "messages": doomed.messages.len(),
                "records": doomed.records,
                "bytes": doomed.bytes,
                "first": doomed.first,
                "last": doomed.last,
                "removed": removed,
            }))?;
        } else if removed > 0 {
            out.line(&format!("removed {}", count(removed, "message")))?;
        }
        Ok(())
    }

    fn select(
        &self,
        all: &[Message],
        selection: &Selection,
        read: impl FnOnce(
            &mut dyn Iterator<Item = &Message>,
            &mut dyn FnMut(Vec<Record>) -> ControlFlow<()>,
        ) -> Result<(), Error>,
    ) -> Result<Doomed, Failure> {
        let now = SystemTime::now();
        let limit = selection.limit.unwrap_or(usize::MAX);
        let mut doomed = Doomed::default();
        let mut listed = all.iter().filter(|message| selection.may_match(message));
        read(&mut listed, &mut |records| {
            if doomed.messages.len() >= limit {
                return ControlFlow::Break(());
            }
            let is_expired = records
                .iter()
                .any(|record| record.view().expires.is_some_and(|time| time <= now));
            if selection.matches(&records, now) && (!self.expired || is_expired) {
                doomed.add(&records);
            }
            ControlFlow::Continue(())
        })?;
        Ok(doomed)
    }
}

impl Doomed {
    fn add(&mut self, records: &[Record]) {
        self.records += records.len();
        self.bytes += records
            .iter()
            .map(|record| record.value.len())
            .sum::<usize>();
        let description = describe(records);
        self.first.get_or_insert_with(|| description.clone());
        self.last = Some(description);
        let keys = records.iter().map(|record| record.key);
        self.messages.push(keys.collect());
    }

    fn describe(&self, client: &str) -> Vec<String> {
        let (Some(first), Some(last)) = (&self.first, &self.last) else {
            return vec![format!("{client}: no such messages")];
        };
        let mut lines = vec![
            format!(
                "{client}: {} in {}, {}",
                count(self.messages.len(), "message"),
                count(self.records, "record"),
                bytes(self.bytes)
            ),
            format!("  first  {}", escape(first.as_bytes())),
        ];
        if self.messages.len() > 1 {
            lines.push(format!("  last   {}", escape(last.as_bytes())));
        }
        lines
    }
}

/// The keys of a message, what it is, its topics and its size.
fn describe(records: &[Record]) -> String {
    let keys = records.iter().map(|record| record.key.to_string());
    let keys = keys.collect::<Vec<_>>().join("+");
    let Some(record) = records.first() else {
        return keys;
    };
    let view = record.view();
    let topics = view.content.topics().iter();
    let topics = topics.map(|topic| String::from_utf8_lossy(topic));
    let topics = topics.collect::<Vec<_>>().join(" ");
    let size = bytes(record.value.len());
    let action = action(record, &view.content);
    let words = [keys.as_str(), action, &topics, &size];
    let words = words.iter().filter(|word| !word.is_empty());
    words.copied().collect::<Vec<_>>().join("  ")
}
