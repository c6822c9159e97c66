//! One connection: its request, its answer and its end, whatever the peer does.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    config::Config,
    request::RequestHead,
    response::Response,
    router::{CollectRequest, Route, route},
    stream::NonblockingStream,
};
use crate::net::deadline_after;

/// How long the peer has to close when its answer is sent, and how much it may still send.
const LETTING_GO: Duration = Duration::from_secs(1);
const MOST_PASSED_OVER: usize = 64 * 1024;

/// A peer that has not read for so long can lose its place to another.
const STALLED: Duration = Duration::from_millis(500);

pub(super) struct HttpConnection<S> {
    stream: S,
    state: ConnectionState,
    /// When it came.
    since: Instant,
    /// When it is to end, or its peer to be told that it is too slow.
    pub(super) deadline: Instant,
}

enum ConnectionState {
    /// The head is on its way.
    ReadingHead(RequestHead),
    /// The answer is being looked up.
    Collecting,
    Writing(PendingResponse),
    /// What the peer still sends is passed over: unread, it would make it lose the answer.
    Draining {
        passed_over: usize,
    },
}

/// What is left of an answer.
struct PendingResponse {
    head: Vec<u8>,
    body: Arc<Vec<u8>>,
    written: usize,
    last_written: Instant,
}

/// What is to be done about a connection.
pub(super) enum Action {
    /// Wait until something can be read or written.
    Wait,
    Collect(CollectRequest),
    Close,
}

/// Who can lose its place when there is none left, most easily first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvictionRank {
    /// It has its answer.
    Draining,
    /// It has not sent its request.
    NoRequest,
    /// It does not read.
    Stalled,
    /// It reads, as far as one can tell yet.
    Sending,
    /// Its answer is being looked up.
    Collecting,
}

impl<S: NonblockingStream> HttpConnection<S> {
    pub(super) fn new(stream: S, config: &Config) -> Self {
        Self {
            stream,
            state: ConnectionState::ReadingHead(RequestHead::default()),
            since: Instant::now(),
            deadline: deadline_after(config.limits.request_timeout),
        }
    }

    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    pub(super) fn wants_read(&self) -> bool {
        matches!(
            self.state,
            ConnectionState::ReadingHead(_) | ConnectionState::Draining { .. }
        )
    }

    pub(super) fn wants_write(&self) -> bool {
        matches!(self.state, ConnectionState::Writing(_)) || self.stream.wants_write()
    }

    pub(super) fn standing(&self, now: Instant) -> EvictionRank {
        match &self.state {
            ConnectionState::ReadingHead(_) => EvictionRank::NoRequest,
            ConnectionState::Writing(outgoing)
                if now.duration_since(outgoing.last_written) >= STALLED =>
            {
                EvictionRank::Stalled
            }
            ConnectionState::Writing(_) => EvictionRank::Sending,
            ConnectionState::Collecting => EvictionRank::Collecting,
            ConnectionState::Draining { .. } => EvictionRank::Draining,
        }
    }

    /// Since when nothing has come of it.
    pub(super) fn idle_since(&self) -> Instant {
        match &self.state {
            ConnectionState::Writing(outgoing) => outgoing.last_written,
            _ => self.since,
        }
    }

    /// The memory that its answer takes, which others may share.
    pub(super) fn body(&self) -> Option<&Arc<Vec<u8>>> {
        match &self.state {
            ConnectionState::Writing(outgoing) => Some(&outgoing.body),
            _ => None,
        }
    }

    /// Does what can be done without waiting.
    pub(super) fn advance(&mut self, config: &Config) -> Action {
        loop {
            let done = match &mut self.state {
                ConnectionState::ReadingHead(_) => self.read(config),
                ConnectionState::Collecting => self.stream.flush().map(|()| Some(Action::Wait)),
                ConnectionState::Writing(_) => self.write(),
                ConnectionState::Draining { .. } => self.pass_over(),
            };
            match done {
                Ok(Some(next)) => return next,
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Action::Wait,
                Err(_) => return Action::Close,
            }
        }
    }

    /// The answer to what was asked.
    pub(super) fn answer(&mut self, response: Response, config: &Config) {
        let (head, body) = response.into_parts();
        self.deadline = deadline_after(config.limits.response_timeout);
        self.state = ConnectionState::Writing(PendingResponse {
            head,
            body,
            written: 0,
            last_written: Instant::now(),
        });
    }

    /// Its deadline has passed.
    pub(super) fn expire(&mut self, config: &Config) -> Action {
        let status = match &self.state {
            ConnectionState::ReadingHead(_) => 408,
            // A collector takes its time.
            ConnectionState::Collecting => 503,
            ConnectionState::Writing(_) => {
                self.stream.abandon();
                return Action::Close;
            }
            ConnectionState::Draining { .. } => return Action::Close,
        };
        self.answer(Response::refusal(status), config);
        self.advance(config)
    }

    /// Another one gets its place. It is told so as far as that takes no waiting, unless it has an answer,
    /// which is over then.
    pub(super) fn give_way(mut self, config: &Config) {
        match self.state {
            ConnectionState::ReadingHead(_) => self.answer(Response::refusal(503), config),
            ConnectionState::Writing(_) => return self.stream.abandon(),
            ConnectionState::Collecting | ConnectionState::Draining { .. } => {}
        }
        // Until it would have to wait.
        let _ = self.advance(config);
        if let ConnectionState::Writing(_) = self.state {
            self.stream.abandon();
        }
    }

    fn read(&mut self, config: &Config) -> io::Result<Option<Action>> {
        let ConnectionState::ReadingHead(head) = &mut self.state else {
            return Ok(None);
        };
        let mut chunk = [0; 1024];
        let read = self.stream.read(&mut chunk)?;
        if read == 0 {
            if head.is_empty() {
                return Ok(Some(Action::Close));
            }
            self.answer(Response::refusal(400), config);
            return Ok(None);
        }
        let bytes = chunk.get(..read).unwrap_or_default();
        match head.push(bytes, config.limits.max_head_bytes) {
            Ok(None) => Ok(None),
            Ok(Some(request)) => match route(&request, &config.credentials.auth) {
                Route::Respond(response) => {
                    self.answer(response, config);
                    Ok(None)
                }
                Route::Collect(ask) => {
                    self.state = ConnectionState::Collecting;
                    self.deadline = deadline_after(config.limits.response_timeout);
                    Ok(Some(Action::Collect(ask)))
                }
            },
            Err(status) => {
                self.answer(Response::refusal(status), config);
                Ok(None)
            }
        }
    }

    fn write(&mut self) -> io::Result<Option<Action>> {
        let ConnectionState::Writing(outgoing) = &mut self.state else {
            return Ok(None);
        };
        let rest = outgoing.rest();
        if !rest.is_empty() {
            let written = self.stream.write(rest)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            outgoing.written = outgoing.written.saturating_add(written);
            outgoing.last_written = Instant::now();
            return Ok(None);
        }
        self.stream.flush()?;
        self.stream.finish()?;
        self.state = ConnectionState::Draining { passed_over: 0 };
        self.deadline = deadline_after(LETTING_GO);
        Ok(None)
    }

    fn pass_over(&mut self) -> io::Result<Option<Action>> {
        let ConnectionState::Draining { passed_over } = &mut self.state else {
            return Ok(None);
        };
        let read = self.stream.read(&mut [0; 4096])?;
        *passed_over = passed_over.saturating_add(read);
        let is_over = read == 0 || *passed_over > MOST_PASSED_OVER;
        Ok(is_over.then_some(Action::Close))
    }
}

impl PendingResponse {
    /// What is to be written next; nothing at the end.
    fn rest(&self) -> &[u8] {
        match self.head.get(self.written..) {
            Some(head) if !head.is_empty() => head,
            _ => {
                let written = self.written.saturating_sub(self.head.len());
                self.body.get(written..).unwrap_or_default()
            }
        }
    }
}
