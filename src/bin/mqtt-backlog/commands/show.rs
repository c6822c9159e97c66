//! `show`: the messages of a client, in the order in which they will go out.

use std::{
    fmt::Write,
    ops::ControlFlow,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::ValueEnum;
use paho_mqtt_redis::backlog::{Content, Property, PropertyData, Record, View};
use serde_json::{Value, json};

use crate::{
    args::{ClientArgs, SelectionArgs},
    context::Context,
    exit::{Exit, Failure},
    output::{Align, Table, age, bytes, escape},
};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Show the first 256 bytes of the payloads, as text with escapes or in hexadecimal; as text if no form is
    /// given. All of it with --json
    #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    payload: Option<PayloadForm>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PayloadForm {
    Text,
    Hex,
}

impl Args {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        let name = self.client.resolve(&mut context.server)?;
        let listing = context.server.listing(&name)?;
        let selection = self.selection.selection();
        let now = SystemTime::now();
        let limit = selection.limit.unwrap_or(usize::MAX);
        let mut shown = 0_usize;
        let mut printer = Printer::new(self.payload, context.out.is_json());
        let mut unreadable = Vec::new();
        let mut failure = None;
        let messages = listing.messages.iter();
        let messages = messages.filter(|message| selection.may_match(message));
        let Context { server, out, .. } = context;
        if limit > 0 {
            server.read_messages(&name, messages, |records| {
                if !selection.matches(&records, now) {
                    return ControlFlow::Continue(());
                }
                for record in &records {
                    if !record.is_valid() {
                        unreadable.push(record.key);
                    }
                    if let Err(error) = printer.print(out, record, now) {
                        failure = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                shown += 1;
                if shown < limit {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        printer.finish(out)?;
        for key in unreadable {
            context.complain(&format!("{key} is no record that Paho can read"));
        }
        if selection.is_all() {
            context.complain_foreign(&name, &listing.foreign);
        }
        Ok(Exit::Done)
    }
}

struct Printer {
    payload: Option<PayloadForm>,
    /// `None` if the output is JSON.
    table: Option<Table>,
    position: usize,
}

impl Printer {
    fn new(payload: Option<PayloadForm>, is_json: bool) -> Self {
        let mut columns = vec![
            ("#", Align::Right),
            ("KEY", Align::Left),
            ("KIND", Align::Left),
            ("ID", Align::Right),
            ("QOS", Align::Right),
            ("RETAIN", Align::Left),
            ("SIZE", Align::Right),
            ("EXPIRES", Align::Right),
            ("TOPIC", Align::Left),
            ("PROPERTIES", Align::Left),
        ];
        if payload.is_some() {
            columns.push(("PAYLOAD", Align::Left));
        }
        Self {
            payload,
            table: (!is_json).then(|| Table::new(&columns)),
            position: 0,
        }
    }

    fn print(
        &mut self,
        out: &mut crate::output::Output,
        record: &Record,
        now: SystemTime,
    ) -> Result<(), Failure> {
        self.position += 1;
        let view = record.view();
        if let Some(table) = &mut self.table {
            let row = row(self.position, record, &view, self.payload, now);
            return table.row(out, row);
        }
        let mut object = to_json(record, &view, self.payload.is_some());
        object["position"] = json!(self.position);
        out.json(&object)
    }

    fn finish(self, out: &mut crate::output::Output) -> Result<(), Failure> {
        match self.table {
            Some(table) if self.position > 0 => table.finish(out),
            Some(_) => out.line("no such messages"),
            None => Ok(()),
        }
    }
}

fn row(
    position: usize,
    record: &Record,
    view: &View<'_>,
    payload: Option<PayloadForm>,
    now: SystemTime,
) -> Vec<String> {
    let dash = || "-".to_owned();
    let expires = view.expires.map(|time| match time.duration_since(now) {
        Ok(left) => age(left),
        Err(_) => "expired".to_owned(),
    });
    let (qos, retained, size, properties) = match &view.content {
        Content::Message {
            payload,
            qos,
            retained,
            properties,
            ..
        } => (
            qos.to_string(),
            if *retained { "yes" } else { "no" }.to_owned(),
            bytes(payload.len()),
            properties
                .iter()
                .map(property)
                .collect::<Vec<_>>()
                .join(" "),
        ),
        _ => (dash(), dash(), dash(), String::new()),
    };
    let topics = view.content.topics().iter().map(|topic| escape(topic));
    let mut row = vec![
        position.to_string(),
        record.key.to_string(),
        action(record, &view.content).to_owned(),
        view.packet_id.map_or_else(dash, |id| id.to_string()),
        qos,
        retained,
        size,
        expires.unwrap_or_else(dash),
        topics.collect::<Vec<_>>().join(" "),
        if properties.is_empty() {
            dash()
        } else {
            properties
        },
    ];
    if let Some(form) = payload {
        row.push(match &view.content {
            Content::Message { payload, .. } => payload_cell(payload, form),
            _ => String::new(),
        });
    }
    row
}

/// The use that Paho will make of the record, in a word.
pub fn action(record: &Record, content: &Content<'_>) -> &'static str {
    use paho_mqtt_redis::backlog::RecordKind::{Command, ReceivedPublish, SentPublish, SentPubrel};
    match (content, record.key.kind()) {
        (Content::Unreadable, _) => "unreadable",
        (Content::Subscribe(_), _) => "subscribe",
        (Content::Unsubscribe(_), _) => "unsubscribe",
        (Content::Pubrel, _) | (_, SentPubrel) => "pubrel",
        (_, Command) => "publish",
        (_, SentPublish) => "sent",
        (_, ReceivedPublish) => "received",
        (_, kind) => kind.as_str(),
    }
}

/// The beginning of a payload, so that a large one does not hide the rest of the table.
fn payload_cell(payload: &[u8], form: PayloadForm) -> String {
    match payload.get(..cut(payload, form)) {
        Some(start) if payload.len() > SHOWN => format!(
            "{}… (the first {SHOWN} bytes; all with --json --payload)",
            shown_payload(start, form)
        ),
        _ => shown_payload(payload, form),
    }
}

/// The number of bytes of a payload that are shown.
const SHOWN: usize = 256;

/// Returns the last position at which a long payload can be cut; never within a character of a text.
fn cut(payload: &[u8], form: PayloadForm) -> usize {
    let is_start = |at: &usize| payload.get(*at).is_none_or(|byte| byte & 0xC0 != 0x80);
    // A character has four bytes at most.
    let mut near = (SHOWN - 3..=SHOWN).rev();
    match form {
        PayloadForm::Text => near.find(is_start).unwrap_or(SHOWN),
        PayloadForm::Hex => SHOWN,
    }
}

pub fn shown_payload(payload: &[u8], form: PayloadForm) -> String {
    match form {
        PayloadForm::Text => escape(payload),
        PayloadForm::Hex => payload.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
    }
}

pub fn property(property: &Property<'_>) -> String {
    let name = property_name(property);
    match property.data {
        PropertyData::Number(number) => format!("{name}={number}"),
        PropertyData::Text(text) if property.is_binary() => {
            format!("{name}={}", shown_payload(text, PayloadForm::Hex))
        }
        PropertyData::Text(text) => format!("{name}={}", escape(text)),
        PropertyData::Pair(key, value) => format!("{name}={}:{}", escape(key), escape(value)),
    }
}

fn property_name(property: &Property<'_>) -> String {
    match property.name() {
        "" => format!("property_{}", property.id),
        name => name.to_owned(),
    }
}

/// The record with stable names. Text that is not UTF-8 has replacement characters; `--payload` adds the
/// payload, exactly.
pub fn to_json(record: &Record, view: &View<'_>, with_payload: bool) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut object = json!({
        "key": record.key.to_string(),
        "kind": record.key.kind().as_str(),
        "action": action(record, &view.content),
        "number": record.key.number(),
        "mqtt_version": record.key.version(),
        "packet_id": view.packet_id,
        "bytes": record.value.len(),
        "topics": view.content.topics().iter().map(|topic| text(topic)).collect::<Vec<_>>(),
        "expires_at": view.expires.and_then(|time| {
            Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
        }),
    });
    if let Content::Message {
        payload,
        qos,
        retained,
        properties,
        ..
    } = &view.content
    {
        let properties = properties.iter().map(|property| {
            let value = match property.data {
                PropertyData::Number(number) => json!(number),
                PropertyData::Text(value) if property.is_binary() => json!(STANDARD.encode(value)),
                PropertyData::Text(value) => json!(text(value)),
                PropertyData::Pair(key, value) => json!([text(key), text(value)]),
            };
            json!({"name": property_name(property), "value": value})
        });
        object["qos"] = json!(qos);
        object["retained"] = json!(retained);
        object["payload_bytes"] = json!(payload.len());
        object["properties"] = properties.collect();
        if with_payload {
            object["payload"] = json!(STANDARD.encode(payload));
        }
    }
    object
}
