//! One connection: reads a request, writes the response, and waits until the peer has it.
//!
//! Every step has an absolute deadline, so no peer can keep its thread for longer.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use socket2::Socket;

use super::{
    collector::Ticket,
    credentials::Access,
    places::{Places, Stage},
    request::read_request,
    response::{Response, route},
    stream::Stream,
};
use crate::net::{DeadlineStream, deadline_after};

/// Time that the peer has to close the connection after its response, and bytes that it may still send.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_DRAINED_BYTES: u64 = 64 * 1024;

/// Limits on the time and memory that one peer can claim.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_connections: usize,
    pub(super) max_head_bytes: usize,
    pub(super) request_timeout: Duration,
    pub(super) response_timeout: Duration,
}

/// A connection with a place.
pub(super) struct Connection {
    pub(super) socket: Arc<Socket>,
    pub(super) limits: Limits,
    pub(super) access: Arc<Access>,
    pub(super) collector: SyncSender<Ticket>,
    pub(super) places: Arc<Places>,
}

impl Connection {
    pub(super) fn serve(self) {
        let deadline = deadline_after(self.limits.request_timeout);
        let Ok(mut stream) = self.access.open(Arc::clone(&self.socket), deadline) else {
            return;
        };
        let request = read_request(&mut *stream, self.limits.max_head_bytes);
        let (sender, collected) = sync_channel(1);
        let stage = Stage::Serving(sender.clone());
        if self.places.enter(stage).is_err() {
            return refuse(&mut *stream);
        }
        let (routed, head_only) = match request {
            Ok(Some(request)) => (route(&request, &self.access), request.method == "HEAD"),
            Ok(None) => return,
            Err(status) => (Err(Response::status_only(status)), false),
        };
        let response = routed.map(|request| {
            // Fails if a collector has been hanging for long.
            let submitted = self.collector.try_send((request, sender)).ok();
            let timeout = self.limits.response_timeout;
            let response = submitted.and_then(|()| collected.recv_timeout(timeout).ok());
            response.unwrap_or_else(|| Response::status_only(503))
        });
        let response = response.unwrap_or_else(|response| response);
        if self.write(&mut *stream, &response, head_only).is_err() {
            return stream.socket().reset_on_close();
        }
        drop(response);
        drain(stream.socket(), DRAIN_TIMEOUT);
    }

    fn write(
        &self,
        stream: &mut dyn Stream,
        response: &Response,
        head_only: bool,
    ) -> io::Result<()> {
        let deadline = deadline_after(self.limits.response_timeout);
        stream.socket().set_deadline(deadline);
        let (head, body) = (response.head(), Arc::clone(&response.body));
        self.places.enter(Stage::Writing(body))?;
        for mut rest in [&*head, if head_only { &[] } else { &*response.body }] {
            while !rest.is_empty() {
                let written = stream.write(rest)?;
                rest = rest.get(written..).unwrap_or_default();
                self.places.note_progress();
            }
        }
        stream.flush()?;
        // Before the peer sees the end: it may connect again at once.
        self.places.enter(Stage::Sent)?;
        stream.finish()
    }
}

/// Sends a 503 and ends the response, if that takes no waiting.
pub(super) fn refuse(stream: &mut dyn Stream) {
    let response = Response::status_only(503);
    let response = [&*response.head(), &*response.body].concat();
    stream.socket().set_deadline(Instant::now());
    // The peer may be gone.
    let _ = stream.write_all(&response).and_then(|()| stream.finish());
    drain(stream.socket(), Duration::ZERO);
}

/// Reads until the peer closes.
///
/// Closing a socket with unread bytes resets it, which could cost the peer the response.
fn drain(socket: &mut DeadlineStream, timeout: Duration) {
    socket.set_deadline(deadline_after(timeout));
    let _ = io::copy(&mut socket.take(MAX_DRAINED_BYTES), &mut io::sink());
}
