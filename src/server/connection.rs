//! One connection: its request, its answer and its end, whatever the peer does.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    access::Access,
    options::Limits,
    request::Head,
    response::Response,
    route::{Ask, Route, route},
    transport::Stream,
};
use crate::net::deadline_after;

/// How long the peer has to close when its answer is sent, and how much it may still send.
const LETTING_GO: Duration = Duration::from_secs(1);
const MOST_PASSED_OVER: usize = 64 * 1024;

/// A peer that has not read for so long can lose its place to another.
const STALLED: Duration = Duration::from_millis(500);

/// What all connections have in common.
pub(super) struct Terms {
    pub(super) limits: Limits,
    pub(super) access: Access,
}

pub(super) struct Connection<S> {
    stream: S,
    state: State,
    /// When it came.
    since: Instant,
    /// When it is to end, or its peer to be told that it is too slow.
    pub(super) deadline: Instant,
}

enum State {
    /// The head is on its way.
    Reading(Head),
    /// The answer is being looked up.
    Asking,
    Writing(Outgoing),
    /// What the peer still sends is passed over: unread, it would make it lose the answer.
    LettingGo {
        passed_over: usize,
    },
}

/// What is left of an answer.
struct Outgoing {
    head: Vec<u8>,
    body: Arc<Vec<u8>>,
    written: usize,
    last_written: Instant,
}

/// What is to be done about a connection.
pub(super) enum Next {
    /// Wait until something can be read or written.
    Wait,
    Ask(Ask),
    Close,
}

/// Who can lose its place when there is none left, most easily first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It has its answer.
    Done,
    /// It has not sent its request.
    Unasked,
    /// It does not read.
    Stalled,
    /// It reads, as far as one can tell yet.
    Sent,
    /// Its answer is being looked up.
    Served,
}

impl<S: Stream> Connection<S> {
    pub(super) fn new(stream: S, terms: &Terms) -> Self {
        Self {
            stream,
            state: State::Reading(Head::default()),
            since: Instant::now(),
            deadline: deadline_after(terms.limits.request_timeout),
        }
    }

    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    pub(super) fn wants_read(&self) -> bool {
        matches!(self.state, State::Reading(_) | State::LettingGo { .. })
    }

    pub(super) fn wants_write(&self) -> bool {
        matches!(self.state, State::Writing(_)) || self.stream.wants_write()
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        match &self.state {
            State::Reading(_) => Standing::Unasked,
            State::Writing(outgoing) if now.duration_since(outgoing.last_written) >= STALLED => {
                Standing::Stalled
            }
            State::Writing(_) => Standing::Sent,
            State::Asking => Standing::Served,
            State::LettingGo { .. } => Standing::Done,
        }
    }

    /// Since when nothing has come of it.
    pub(super) fn idle_since(&self) -> Instant {
        match &self.state {
            State::Writing(outgoing) => outgoing.last_written,
            _ => self.since,
        }
    }

    /// The memory that its answer takes, which others may share.
    pub(super) fn body(&self) -> Option<&Arc<Vec<u8>>> {
        match &self.state {
            State::Writing(outgoing) => Some(&outgoing.body),
            _ => None,
        }
    }

    /// Does what can be done without waiting.
    pub(super) fn advance(&mut self, terms: &Terms) -> Next {
        loop {
            let done = match &mut self.state {
                State::Reading(_) => self.read(terms),
                State::Asking => self.stream.flush().map(|()| Some(Next::Wait)),
                State::Writing(_) => self.write(),
                State::LettingGo { .. } => self.pass_over(),
            };
            match done {
                Ok(Some(next)) => return next,
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Wait,
                Err(_) => return Next::Close,
            }
        }
    }

    /// The answer to what was asked.
    pub(super) fn answer(&mut self, response: Response, terms: &Terms) {
        let (head, body) = response.into_parts();
        self.deadline = deadline_after(terms.limits.response_timeout);
        self.state = State::Writing(Outgoing {
            head,
            body,
            written: 0,
            last_written: Instant::now(),
        });
    }

    /// Its deadline has passed.
    pub(super) fn expire(&mut self, terms: &Terms) -> Next {
        let status = match &self.state {
            State::Reading(_) => 408,
            // A collector takes its time.
            State::Asking => 503,
            State::Writing(_) => {
                self.stream.abandon();
                return Next::Close;
            }
            State::LettingGo { .. } => return Next::Close,
        };
        self.answer(Response::refusal(status), terms);
        self.advance(terms)
    }

    /// Another one gets its place. It is told so as far as that takes no waiting, unless it has an answer,
    /// which is over then.
    pub(super) fn give_way(mut self, terms: &Terms) {
        match self.state {
            State::Reading(_) => self.answer(Response::refusal(503), terms),
            State::Writing(_) => return self.stream.abandon(),
            State::Asking | State::LettingGo { .. } => {}
        }
        // Until it would have to wait.
        let _ = self.advance(terms);
        if let State::Writing(_) = self.state {
            self.stream.abandon();
        }
    }

    fn read(&mut self, terms: &Terms) -> io::Result<Option<Next>> {
        let State::Reading(head) = &mut self.state else {
            return Ok(None);
        };
        let mut chunk = [0; 1024];
        let read = self.stream.read(&mut chunk)?;
        if read == 0 {
            if head.is_empty() {
                return Ok(Some(Next::Close));
            }
            self.answer(Response::refusal(400), terms);
            return Ok(None);
        }
        let bytes = chunk.get(..read).unwrap_or_default();
        match head.push(bytes, terms.limits.max_head_bytes) {
            Ok(None) => Ok(None),
            Ok(Some(request)) => match route(&request, &terms.access.credentials) {
                Route::Known(response) => {
                    self.answer(response, terms);
                    Ok(None)
                }
                Route::Asked(ask) => {
                    self.state = State::Asking;
                    self.deadline = deadline_after(terms.limits.response_timeout);
                    Ok(Some(Next::Ask(ask)))
                }
            },
            Err(status) => {
                self.answer(Response::refusal(status), terms);
                Ok(None)
            }
        }
    }

    fn write(&mut self) -> io::Result<Option<Next>> {
        let State::Writing(outgoing) = &mut self.state else {
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
        self.state = State::LettingGo { passed_over: 0 };
        self.deadline = deadline_after(LETTING_GO);
        Ok(None)
    }

    fn pass_over(&mut self) -> io::Result<Option<Next>> {
        let State::LettingGo { passed_over } = &mut self.state else {
            return Ok(None);
        };
        let read = self.stream.read(&mut [0; 4096])?;
        *passed_over = passed_over.saturating_add(read);
        let is_over = read == 0 || *passed_over > MOST_PASSED_OVER;
        Ok(is_over.then_some(Next::Close))
    }
}

impl Outgoing {
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
