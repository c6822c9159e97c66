//! Sends what waits for a broker, in place of the client.

mod link;
mod pace;
mod sendable;

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant, SystemTime},
};

use paho_mqtt::{self as mqtt, ServerResponse, Token};

pub use self::{link::BrokerOptions, sendable::LeftReason};
use self::{
    link::{Link, PublishError},
    pace::Pace,
    sendable::sendable,
};
use super::{
    order::Message,
    owned::{OwnedBacklog, PER_EXCHANGE},
    record::Record,
    selection::Selection,
};
use crate::{
    error::{Error, ErrorKind},
    paho::{Key, RecordKind},
};

/// The way in which messages are sent.
#[derive(Clone, Debug)]
pub struct DrainOptions {
    /// The broker that gets them.
    pub broker: BrokerOptions,
    /// The most messages per second.
    pub rate: Option<f64>,
    /// Sends those in flight of the client's session, too.
    pub sends_in_flight: bool,
    /// Ends with an error if nothing is acknowledged for this long.
    pub give_up: Duration,
}

/// An event while messages are sent.
#[derive(Debug)]
pub enum DrainEvent<'a> {
    /// The broker has acknowledged the message with these records, and they are removed.
    Sent(&'a [Key]),
    /// The message with these records stays.
    Left(&'a [Key], &'a LeftReason),
    /// The connection broke; it is made again.
    Disconnected,
    /// It is made again, and what the broker had not acknowledged is sent anew.
    Reconnected,
}

/// The longest wait for an acknowledgment before other work is looked for.
const TICK: Duration = Duration::from_millis(50);
/// Interval of attempts to connect again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of exchanges with Redis, so that its connection does not count as gone.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// A message that the broker has not acknowledged.
struct Sending {
    keys: Message,
    message: mqtt::Message,
    /// `None` until it is sent, or sent anew.
    token: Option<Token>,
    /// The result that the token has returned.
    outcome: Option<mqtt::Result<ServerResponse>>,
}

/// A drain in progress.
struct Drain<'a> {
    backlog: &'a mut OwnedBacklog,
    options: &'a DrainOptions,
    selection: &'a Selection,
    on_event: &'a mut dyn FnMut(DrainEvent<'_>),
    /// The messages that have not been read, and those that have.
    unread: VecDeque<Message>,
    read: VecDeque<Vec<Record>>,
    /// Number of messages that were taken to be sent.
    taken: usize,
    is_exhausted: bool,
    window: VecDeque<Sending>,
    pace: Pace,
    last_progress: Instant,
    last_exchange: Instant,
}

/// Attempts to connect again.
#[derive(Default)]
struct Outage {
    last_attempt: Option<Instant>,
    last_error: Option<Error>,
}

impl OwnedBacklog {
    /// Sends the selected messages in order, and removes each when the broker has acknowledged it: at QoS
    /// 0, when Paho has sent it.
    ///
    /// At any moment a message is in Redis or with the broker, or in both while it is in the window. If the
    /// connection or this program ends then, it arrives twice.
    ///
    /// # Errors
    ///
    /// Any reason why the records or the broker cannot be used any more. The rest stays in Redis.
    pub fn drain(
        &mut self,
        selection: &Selection,
        options: &DrainOptions,
        on_event: &mut dyn FnMut(DrainEvent<'_>),
    ) -> Result<(), Error> {
        let mut messages = self.messages()?;
        messages.retain(|message| selection.may_match(message));
        let sends_mqtt_5 =
            |key: &Key| key.v5 && matches!(key.kind, RecordKind::Command | RecordKind::SentPublish);
        let is_mqtt_5 = options.broker.is_mqtt_5;
        let is_mqtt_5 = is_mqtt_5.unwrap_or_else(|| messages.iter().flatten().any(sends_mqtt_5));
        let now = Instant::now();
        let drain = Drain {
            backlog: self,
            options,
            selection,
            on_event,
            unread: messages.into(),
            read: VecDeque::new(),
            taken: 0,
            is_exhausted: false,
            window: VecDeque::new(),
            pace: Pace::new(options.rate, now),
            last_progress: now,
            last_exchange: now,
        };
        drain.run(is_mqtt_5)
    }
}

impl Drain<'_> {
    fn run(mut self, is_mqtt_5: bool) -> Result<(), Error> {
        // Without a message the broker is not needed.
        let Some(first) = self.next_message()? else {
            return Ok(());
        };
        self.window.push_back(first);
        let options = self.options;
        let new_link = || Link::new(&options.broker, is_mqtt_5);
        let mut link = new_link()?;
        link.connect()?;
        self.last_progress = Instant::now();
        let sent = self.send_all(&mut link, new_link);
        link.close();
        sent
    }

    fn send_all<'a>(
        &mut self,
        link: &mut Link<'a>,
        new_link: impl Fn() -> Result<Link<'a>, Error>,
    ) -> Result<(), Error> {
        let mut outage = Outage::default();
        loop {
            self.remove_acknowledged()?;
            if link.is_lost() {
                *link = new_link()?;
                (self.on_event)(DrainEvent::Disconnected);
                for sending in &mut self.window {
                    sending.token = None;
                }
            } else if link.is_connected() {
                outage.last_error = None;
                self.fill(link)?;
                if self.window.is_empty() && self.is_exhausted {
                    return Ok(());
                }
                self.wait_for_acknowledgment();
            } else {
                self.reconnect(link, &mut outage);
            }
            if self.last_exchange.elapsed() >= KEEP_ALIVE_INTERVAL {
                self.backlog.keep_alive()?;
                self.last_exchange = Instant::now();
            }
            self.check_progress(&mut outage)?;
        }
    }

    /// Takes the next message that is to be sent, and reports those that are left before it.
    fn next_message(&mut self) -> Result<Option<Sending>, Error> {
        let limit = self.selection.limit.unwrap_or(usize::MAX);
        while self.taken < limit {
            let Some(records) = self.read.pop_front() else {
                let count = self.unread.len().min(PER_EXCHANGE);
                if count == 0 {
                    break;
                }
                let chunk: Vec<Message> = self.unread.drain(..count).collect();
                let chunk: Vec<&Message> = chunk.iter().collect();
                self.read = self.backlog.read_chunk(&chunk)?;
                self.last_exchange = Instant::now();
                continue;
            };
            let now = SystemTime::now();
            if !self.selection.matches(&records, now) {
                continue;
            }
            let keys: Message = records.iter().map(|record| record.key).collect();
            match sendable(&records, self.options.sends_in_flight, now) {
                Ok(message) => {
                    self.taken = self.taken.saturating_add(1);
                    return Ok(Some(Sending {
                        keys,
                        message,
                        token: None,
                        outcome: None,
                    }));
                }
                Err(reason) => (self.on_event)(DrainEvent::Left(&keys, &reason)),
            }
        }
        self.is_exhausted = true;
        Ok(None)
    }

    /// Removes what the broker has acknowledged from Redis.
    fn remove_acknowledged(&mut self) -> Result<(), Error> {
        let mut acknowledged: Vec<Message> = Vec::new();
        let mut rest = VecDeque::with_capacity(self.window.len());
        for mut sending in self.window.drain(..) {
            let outcome = sending.outcome.take();
            let outcome = outcome.or_else(|| sending.token.as_mut()?.try_wait());
            match outcome {
                None => rest.push_back(sending),
                Some(Ok(_)) => acknowledged.push(sending.keys),
                Some(Err(error)) if is_refusal(&error) => {
                    let reason = LeftReason::Refused(error.to_string());
                    (self.on_event)(DrainEvent::Left(&sending.keys, &reason));
                    self.last_progress = Instant::now();
                }
                // It is sent anew.
                Some(Err(_)) => {
                    sending.token = None;
                    rest.push_back(sending);
                }
            }
        }
        self.window = rest;
        if acknowledged.is_empty() {
            return Ok(());
        }
        self.backlog.remove(&acknowledged, |_| {})?;
        self.last_exchange = Instant::now();
        self.last_progress = self.last_exchange;
        for keys in &acknowledged {
            (self.on_event)(DrainEvent::Sent(keys));
        }
        Ok(())
    }

    /// Sends messages while there is room in the window.
    fn fill(&mut self, link: &Link<'_>) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            if !self.pace.wait(now).is_zero() {
                return Ok(());
            }
            if self.window.iter().all(|sending| sending.token.is_some()) {
                if self.window.len() >= self.options.broker.window.into() {
                    return Ok(());
                }
                let Some(next) = self.next_message()? else {
                    return Ok(());
                };
                if self.window.is_empty() {
                    self.last_progress = now;
                }
                self.window.push_back(next);
            }
            let unsent = self
                .window
                .iter()
                .position(|sending| sending.token.is_none());
            let Some((index, sending)) =
                unsent.and_then(|index| Some((index, self.window.get_mut(index)?)))
            else {
                return Ok(());
            };
            match link.publish(sending.message.clone()) {
                Ok(token) => {
                    sending.token = Some(token);
                    self.pace.sent(now);
                }
                Err(PublishError::Later) => return Ok(()),
                Err(PublishError::Refused(reason)) => {
                    if let Some(sending) = self.window.remove(index) {
                        let reason = LeftReason::Refused(reason);
                        (self.on_event)(DrainEvent::Left(&sending.keys, &reason));
                    }
                }
            }
        }
    }

    fn wait_for_acknowledgment(&mut self) {
        let until_next = self.pace.wait(Instant::now());
        let limit = if until_next.is_zero() {
            TICK
        } else {
            until_next.min(TICK)
        };
        let first = self.window.front_mut();
        let Some((token, outcome)) =
            first.and_then(|first| Some((first.token.clone()?, &mut first.outcome)))
        else {
            thread::sleep(limit);
            return;
        };
        match token.wait_for(limit) {
            Err(mqtt::Error::Timeout) => {}
            result => *outcome = Some(result),
        }
    }

    /// Tries to connect again, with pauses.
    fn reconnect(&mut self, link: &mut Link<'_>, outage: &mut Outage) {
        let last = outage.last_attempt;
        if last.is_some_and(|last| last.elapsed() < RETRY_INTERVAL) {
            thread::sleep(TICK);
            return;
        }
        let connected = link.connect();
        outage.last_attempt = Some(Instant::now());
        match connected {
            Ok(()) => (self.on_event)(DrainEvent::Reconnected),
            Err(error) => outage.last_error = Some(error),
        }
    }

    fn check_progress(&self, outage: &mut Outage) -> Result<(), Error> {
        if self.window.is_empty() || self.last_progress.elapsed() < self.options.give_up {
            return Ok(());
        }
        if let Some(error) = outage.last_error.take() {
            return Err(error);
        }
        let uri = &self.options.broker.uri;
        let first = self.window.front().and_then(|sending| sending.keys.first());
        let first = first.map(Key::to_string).unwrap_or_default();
        let seconds = self.options.give_up.as_secs_f64();
        let error = Error::new(ErrorKind::Timeout, format!("send to the broker {uri}"));
        Err(error.with_reason(format!(
            "it has acknowledged nothing for {seconds} s; the first message in flight is {first}"
        )))
    }
}

/// Returns true if the broker has refused the message, and not merely the connection broken.
fn is_refusal(error: &mqtt::Error) -> bool {
    matches!(error, mqtt::Error::ReasonCode(..))
}
