//! `drain`: sends what waits, in place of the client.

use std::{path::PathBuf, time::Duration};

use paho_mqtt_redis::backlog::{BrokerOptions, DrainEvent, DrainOptions, Key, LeftReason};
use serde_json::json;

use crate::{
    args::{ClientArgs, SelectionArgs, first_line, parse_seconds},
    context::Context,
    exit::{Exit, Failure, complain},
    output::{Progress, count, escape},
};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
A message is removed from Redis when the broker has acknowledged it, and at QoS 0 when it is sent. None at QoS 1 or 2 is lost, \
however this program ends. What was sent and not acknowledged when it ends, or when the connection breaks, is sent again: \
at most --window messages arrive twice, also at QoS 2.

Messages in flight stay, since the broker may have them in the open session of the client. --in-flight sends them too, and \
then each of them may arrive twice. A message whose expiry has passed stays, and is named.")]
pub struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// The broker: mqtt://HOST[:PORT], mqtts://, ws:// or wss://
    #[arg(long, value_name = "URI", help_heading = "Broker")]
    to: String,
    /// The client id to connect with [default: that of CLIENT, and -backlog]
    #[arg(long, value_name = "ID", help_heading = "Broker")]
    client_id: Option<String>,
    /// The user of the broker
    #[arg(long, value_name = "NAME", help_heading = "Broker")]
    user: Option<String>,
    /// File whose first line is the password of that user
    #[arg(long, value_name = "FILE", requires = "user", help_heading = "Broker")]
    user_password_file: Option<PathBuf>,
    /// File with the certificates to trust, with mqtts:// and wss://
    #[arg(long, value_name = "FILE", help_heading = "Broker")]
    ca_file: Option<PathBuf>,
    /// The version of MQTT [default: 5 if a message is in its form, else 3.1.1]
    #[arg(long, value_name = "VERSION", value_parser = ["3.1.1", "5"], help_heading = "Broker")]
    mqtt_version: Option<String>,
    /// At most this many messages per second
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Number of messages that are sent before the first of them is acknowledged
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u16).range(1..=1000))]
    window: u16,
    /// Send those in flight, too; each may arrive twice
    #[arg(long)]
    in_flight: bool,
    /// End with an error if nothing is acknowledged for this long
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    give_up: Duration,
    #[command(flatten)]
    selection: SelectionArgs,
}

/// Numbers of messages, by what became of them.
#[derive(Default)]
struct Counts {
    sent: usize,
    in_flight: usize,
    inbound: usize,
    subscriptions: usize,
    failed: usize,
}

impl Args {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        let name = self.client.resolve(&mut context.server)?;
        let id = context.server.client_id(&self.client.client, &name);
        let options = self.options(id)?;
        let selection = self.selection.selection();
        let mut backlog = context.own_to_remove(&name)?;
        let listed = backlog.messages()?;
        let listed = listed.iter().filter(|message| selection.may_match(message));
        let progress = Progress::new(listed.count());
        let mut counts = Counts::default();
        let drained = backlog.drain(&selection, &options, &mut |event| {
            if let DrainEvent::Sent(_) | DrainEvent::Left(..) = event {
                progress.add(1);
            }
            counts.add(&event);
            if let Some(line) = line_about(&event, &options.broker.uri) {
                progress.suspend(|| complain(&line));
            }
        });
        drop(progress);
        let out = &mut context.out;
        if out.is_json() {
            out.json(&json!({
                "client": name,
                "broker": options.broker.uri,
                "sent": counts.sent,
                "left_in_flight": counts.in_flight,
                "left_inbound": counts.inbound,
                "left_subscriptions": counts.subscriptions,
                "left_failed": counts.failed,
            }))?;
        } else {
            out.line(&counts.describe())?;
        }
        drained?;
        Ok(if counts.failed > 0 {
            Exit::Partial
        } else {
            Exit::Done
        })
    }

    fn options(&self, id: &str) -> Result<DrainOptions, Failure> {
        if self.to.contains('@') {
            return Err(Failure::usage(
                "write the user of the broker as --user, and the password into a --user-password-file",
            ));
        }
        let client_id = match &self.client_id {
            Some(own) if own == id => {
                return Err(Failure::usage(
                    "--client-id is that of the client itself, whose session would be taken over; choose another",
                ));
            }
            Some(own) => own.clone(),
            None => format!("{id}-backlog"),
        };
        let password = self.user_password_file.as_deref().map(first_line);
        let broker = BrokerOptions {
            uri: self.to.clone(),
            client_id,
            user: self.user.clone(),
            password: password.transpose()?,
            ca_file: self.ca_file.clone(),
            is_mqtt_5: self.mqtt_version.as_deref().map(|version| version == "5"),
            window: self.window,
        };
        if broker.is_secure() && !cfg!(any(feature = "mqtt-tls", feature = "mqtt-tls-vendored")) {
            return Err(Failure::usage(
                "this program was built without TLS to the broker; build it with --features cli,mqtt-tls",
            ));
        }
        Ok(DrainOptions {
            broker,
            rate: self.rate,
            sends_in_flight: self.in_flight,
            give_up: self.give_up,
        })
    }
}

impl Counts {
    fn add(&mut self, event: &DrainEvent<'_>) {
        let count = match event {
            DrainEvent::Sent(_) => &mut self.sent,
            DrainEvent::Left(_, LeftReason::InFlight | LeftReason::Released) => &mut self.in_flight,
            DrainEvent::Left(_, LeftReason::Inbound) => &mut self.inbound,
            DrainEvent::Left(_, LeftReason::Subscription) => &mut self.subscriptions,
            DrainEvent::Left(..) => &mut self.failed,
            DrainEvent::Disconnected | DrainEvent::Reconnected => return,
        };
        *count += 1;
    }

    fn describe(&self) -> String {
        let left = [
            (self.in_flight, "in flight"),
            (self.inbound, "for the application"),
            (self.subscriptions, "of subscriptions"),
            (self.failed, "that could not be sent"),
        ];
        let left = left.iter().filter(|(number, _)| *number > 0);
        let left = left.map(|(number, kind)| format!("{number} {kind}"));
        let left = left.collect::<Vec<_>>().join(", ");
        let sent = count(self.sent, "message");
        if left.is_empty() {
            return format!("sent {sent}");
        }
        format!("sent {sent}; left {left}")
    }
}

fn line_about(event: &DrainEvent<'_>, uri: &str) -> Option<String> {
    let uri = escape(uri.as_bytes());
    match event {
        DrainEvent::Left(keys, reason) if reason.is_failure() => {
            let key = keys.first().map(Key::to_string).unwrap_or_default();
            Some(format!("{key} stays: {reason}"))
        }
        DrainEvent::Disconnected => {
            Some(format!("the connection to {uri} broke; connecting again"))
        }
        DrainEvent::Reconnected => Some(format!(
            "connected to {uri} again; what it had not acknowledged is sent again"
        )),
        DrainEvent::Sent(_) | DrainEvent::Left(..) => None,
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok();
    rate.filter(|rate| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| "a number of messages per second above zero".to_owned())
}
