//! `export`: records as JSON lines, byte for byte.

use std::{ops::ControlFlow, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use paho_mqtt_redis::backlog::{Message, Place, Record, Selection};
use serde_json::{Value, json};

use super::{set_aside::letter_to_json, show::to_json};
use crate::{
    args::{ClientsArgs, SelectionArgs},
    context::Context,
    exit::{Exit, Failure, complain as print_line},
    output::count,
};

const HELP: &str = "\
Each line is one record: the bytes that are stored, as base64 in \"value\", and what is in them, for people. It only reads, so the \
program may be connected. But a message that goes from one key to another meanwhile, as it is sent, can be missing then: \
records that changed give a line and the exit code 1.";

#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    clients: ClientsArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// The records in the quarantine, too
    #[arg(long)]
    quarantine: bool,
    /// The records that the client dropped, too
    #[arg(long)]
    discarded: bool,
}

/// The value of "place" for records that are not set aside.
pub const RECORDS: &str = "records";

impl Args {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        let selection = self.selection.selection();
        let mut exported = 0_usize;
        for name in self.clients.resolve(&mut context.server)? {
            exported += export_records(context, &name, &selection)?;
            for (place, is_wanted) in [
                (Place::Quarantine, self.quarantine),
                (Place::Discarded, self.discarded),
            ] {
                if is_wanted {
                    exported += export_set_aside(context, &name, place, &selection)?;
                }
            }
        }
        // The standard output may be a file that nobody looks into.
        if exported == 0 {
            print_line("no such messages");
        }
        Ok(Exit::Done)
    }
}

/// Exports messages of a client; returns their number.
fn export_records(
    context: &mut Context,
    name: &str,
    selection: &Selection,
) -> Result<usize, Failure> {
    let listing = context.server.listing(name)?;
    let now = SystemTime::now();
    let limit = selection.limit.unwrap_or(usize::MAX);
    let mut left = limit;
    let mut failure = None;
    // Records that were listed and are not there any more when they are read.
    let mut gone = 0;
    let Context { server, out, .. } = context;
    let messages = listing.messages.iter();
    let messages: Vec<&Message> = messages
        .filter(|message| selection.may_match(message))
        .collect();
    let mut unread = messages.iter();
    server.read_messages(name, messages.iter().copied(), |records| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        gone += unread_before(&mut unread, &records) - records.len();
        if !selection.matches(&records, now) {
            return ControlFlow::Continue(());
        }
        left -= 1;
        for record in &records {
            let object = with_value(
                to_json(record, &record.view(), false),
                name,
                RECORDS,
                &record.value,
            );
            if let Err(error) = out.json(&object) {
                failure = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    if left > 0 {
        gone += unread.map(|message| message.len()).sum::<usize>();
    }
    if gone > 0 {
        context.complain(&format!(
            "{} of {name} changed meanwhile, so a message may be missing here that is not delivered yet: end its program \
             and export again for all of them",
            count(gone, "record")
        ));
    }
    if selection.is_all() {
        context.complain_foreign(name, &listing.foreign);
    }
    Ok(limit - left)
}

/// Returns the number of records that were listed up to the message with these, which is the next.
fn unread_before<'a>(
    unread: &mut impl Iterator<Item = &'a &'a Message>,
    records: &[Record],
) -> usize {
    let mut listed = 0;
    for message in unread {
        listed += message.len();
        if records.iter().any(|record| message.contains(&record.key)) {
            break;
        }
    }
    listed
}

/// Exports records that are set aside; returns their number.
fn export_set_aside(
    context: &mut Context,
    name: &str,
    place: Place,
    selection: &Selection,
) -> Result<usize, Failure> {
    let mut exported = 0;
    let set_aside = context.server.set_aside(name, place)?;
    let now = SystemTime::now();
    for letter in &set_aside.letters {
        let record = Record::of_letter(letter);
        let is_selected = record.map_or(selection.is_all(), |record| {
            selection.matches(std::slice::from_ref(&record), now)
        });
        if is_selected {
            let object = letter_to_json(name, letter, false);
            let object = with_value(object, name, place.as_str(), letter.value());
            context.out.json(&object)?;
            exported += 1;
        }
    }
    if set_aside.nameless > 0 {
        context.complain(&format!(
            "{} of the {} of {name} left out, whose names are no text",
            count(set_aside.nameless, "record"),
            place.as_str()
        ));
    }
    Ok(exported)
}

/// Adds the fields by which a record is imported.
fn with_value(mut object: Value, name: &str, place: &str, value: &[u8]) -> Value {
    object["client"] = json!(name);
    object["place"] = json!(place);
    object["value"] = json!(STANDARD.encode(value));
    object
}
