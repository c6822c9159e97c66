//! The state machine of one connection: request head, response, drain.
//!
//! Every state has a deadline, so no peer can keep a connection for longer.

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

/// Time that the peer has to close the connection after its response.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes that the peer may still send in that time.
const MAX_DRAINED_BYTES: usize = 64 * 1024;

/// Time without a byte written after which a peer counts as stalled.
const STALL_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection that serves one request.
pub(super) struct HttpConnection<S> {
    stream: S,
    state: ConnectionState,
    accepted_at: Instant,
    /// End of the current state: then the peer gets an error, or the connection is closed.
    pub(super) deadline: Instant,
}

enum ConnectionState {
    /// The head is incomplete.
    ReadingHead(RequestHead),
    /// The collector thread prepares the response.
    Collecting,
    Writing(PendingResponse),
    /// The response is sent, and further bytes of the peer are discarded. Closing a socket with unread bytes resets
    /// it, which could cost the peer the response.
    Draining {
        drained_bytes: usize,
    },
}

/// A response that is being written.
struct PendingResponse {
    head: Vec<u8>,
    body: Arc<Vec<u8>>,
    written: usize,
    last_written: Instant,
}

/// The next step that the event loop takes for a connection.
pub(super) enum Action {
    /// Wait until the socket is ready.
    Wait,
    /// Submit the request to the collector.
    Collect(CollectRequest),
    Close,
}

/// The order of eviction when all places are taken, first one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvictionRank {
    /// The response is sent completely.
    Draining,
    /// The request has not arrived completely.
    NoRequest,
    /// The peer does not read its response.
    Stalled,
    /// The peer reads its response, or has not stalled for long enough yet.
    Sending,
    /// The collector thread prepares the response; never evicted.
    Collecting,
}

impl<S: NonblockingStream> HttpConnection<S> {
    pub(super) fn new(stream: S, config: &Config) -> Self {
        Self {
            stream,
            state: ConnectionState::ReadingHead(RequestHead::default()),
            accepted_at: Instant::now(),
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

    pub(super) fn eviction_rank(&self, now: Instant) -> EvictionRank {
        match &self.state {
            ConnectionState::ReadingHead(_) => EvictionRank::NoRequest,
            ConnectionState::Writing(pending)
                if now.duration_since(pending.last_written) >= STALL_TIMEOUT =>
            {
                EvictionRank::Stalled
            }
            ConnectionState::Writing(_) => EvictionRank::Sending,
            ConnectionState::Collecting => EvictionRank::Collecting,
            ConnectionState::Draining { .. } => EvictionRank::Draining,
        }
    }

    /// Returns the time of the last progress.
    pub(super) fn idle_since(&self) -> Instant {
        match &self.state {
            ConnectionState::Writing(pending) => pending.last_written,
            _ => self.accepted_at,
        }
    }

    /// Returns the body that is being written, which other connections may share.
    pub(super) fn body(&self) -> Option<&Arc<Vec<u8>>> {
        match &self.state {
            ConnectionState::Writing(pending) => Some(&pending.body),
            _ => None,
        }
    }

    /// Runs the state machine until it would block.
    pub(super) fn advance(&mut self, config: &Config) -> Action {
        loop {
            let step = match &mut self.state {
                ConnectionState::ReadingHead(_) => self.read_head(config),
                ConnectionState::Collecting => {
                    // A TLS handshake may have bytes left to send.
                    self.stream.flush().map(|()| Some(Action::Wait))
                }
                ConnectionState::Writing(_) => self.write_response(),
                ConnectionState::Draining { .. } => self.drain(),
            };
            match step {
                Ok(Some(action)) => return action,
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Action::Wait,
                Err(_) => return Action::Close,
            }
        }
    }

    /// Starts to write the response.
    pub(super) fn respond(&mut self, response: Response, config: &Config) {
        let (head, body) = response.into_parts();
        self.deadline = deadline_after(config.limits.response_timeout);
        self.state = ConnectionState::Writing(PendingResponse {
            head,
            body,
            written: 0,
            last_written: Instant::now(),
        });
    }

    /// Ends the current state after its deadline.
    pub(super) fn expire(&mut self, config: &Config) -> Action {
        let status = match &self.state {
            ConnectionState::ReadingHead(_) => 408,
            // A collector is slow.
            ConnectionState::Collecting => 503,
            ConnectionState::Writing(_) => {
                self.stream.reset_on_close();
                return Action::Close;
            }
            ConnectionState::Draining { .. } => return Action::Close,
        };
        self.respond(Response::status_only(status), config);
        self.advance(config)
    }

    /// Closes the connection to free its place.
    ///
    /// A peer without a response gets a 503 if that takes no waiting. A response that is being written is cut off.
    pub(super) fn evict(mut self, config: &Config) {
        match self.state {
            ConnectionState::ReadingHead(_) => self.respond(Response::status_only(503), config),
            ConnectionState::Writing(_) => return self.stream.reset_on_close(),
            ConnectionState::Collecting | ConnectionState::Draining { .. } => {}
        }
        // Best effort; what the socket does not take now is dropped.
        let _ = self.advance(config);
        if let ConnectionState::Writing(_) = self.state {
            self.stream.reset_on_close();
        }
    }

    fn read_head(&mut self, config: &Config) -> io::Result<Option<Action>> {
        let ConnectionState::ReadingHead(head) = &mut self.state else {
            return Ok(None);
        };
        let mut chunk = [0; 1024];
        let read = self.stream.read(&mut chunk)?;
        // The peer ended its side: normal before a request, an error within one.
        if read == 0 {
            if head.is_empty() {
                return Ok(Some(Action::Close));
            }
            self.respond(Response::status_only(400), config);
            return Ok(None);
        }
        let bytes = chunk.get(..read).unwrap_or_default();
        match head.push(bytes, config.limits.max_head_bytes) {
            Ok(None) => Ok(None),
            Ok(Some(request)) => match route(&request, &config.credentials.auth) {
                Route::Respond(response) => {
                    self.respond(response, config);
                    Ok(None)
                }
                Route::Collect(request) => {
                    self.state = ConnectionState::Collecting;
                    self.deadline = deadline_after(config.limits.response_timeout);
                    Ok(Some(Action::Collect(request)))
                }
            },
            Err(status) => {
                self.respond(Response::status_only(status), config);
                Ok(None)
            }
        }
    }

    fn write_response(&mut self) -> io::Result<Option<Action>> {
        let ConnectionState::Writing(pending) = &mut self.state else {
            return Ok(None);
        };
        let rest = pending.rest();
        if !rest.is_empty() {
            let written = self.stream.write(rest)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            pending.written = pending.written.saturating_add(written);
            pending.last_written = Instant::now();
            return Ok(None);
        }
        // TLS may still have encrypted bytes of the response.
        self.stream.flush()?;
        self.stream.finish()?;
        self.state = ConnectionState::Draining { drained_bytes: 0 };
        self.deadline = deadline_after(DRAIN_TIMEOUT);
        Ok(None)
    }

    fn drain(&mut self) -> io::Result<Option<Action>> {
        let ConnectionState::Draining { drained_bytes } = &mut self.state else {
            return Ok(None);
        };
        let read = self.stream.read(&mut [0; 4096])?;
        *drained_bytes = drained_bytes.saturating_add(read);
        let is_done = read == 0 || *drained_bytes > MAX_DRAINED_BYTES;
        Ok(is_done.then_some(Action::Close))
    }
}

impl PendingResponse {
    /// Returns the bytes to write next, empty at the end.
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
