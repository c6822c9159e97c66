//! One connection: reads a request, writes the response, and waits until the peer has it.
//!
//! Every step has an absolute deadline, so no peer can keep its thread for longer.

use std::{
    io::{self, Read, Write},
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
    request::read_request,
    response::{CollectRequest, Response, route},
    slots::{Progress, Slots},
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

/// An accepted connection.
pub(super) struct Connection {
    pub(super) socket: Arc<Socket>,
    pub(super) limits: Limits,
    pub(super) access: Arc<Access>,
    pub(super) collector: SyncSender<Ticket>,
}

impl Connection {
    /// Serves one request, in a slot.
    pub(super) fn serve(self, slots: &Slots) {
        let Self { socket, limits, .. } = &self;
        let deadline = deadline_after(limits.request_timeout);
        let Ok(mut stream) = self.access.open(Arc::clone(socket), deadline) else {
            return;
        };
        let stream = &mut *stream;
        let request = read_and_route(stream, &self.access, limits.max_head_bytes);
        let (sender, collected) = sync_channel(1);
        let serving = Progress::Serving(sender.clone());
        if slots.enter(socket, serving).is_err() {
            return send_refusal(stream);
        }
        let Some((routed, head_only)) = request else {
            return;
        };
        let response = routed.map(|request| {
            // Fails if a collector has been hanging for long.
            let submitted = self.collector.try_send((request, sender)).ok();
            let response =
                submitted.and_then(|()| collected.recv_timeout(limits.response_timeout).ok());
            response.unwrap_or_else(|| Response::status_only(503))
        });
        let response = response.unwrap_or_else(|response| response);
        let deadline = deadline_after(limits.response_timeout);
        stream.socket().set_deadline(deadline);
        let writing = Progress::Writing(Arc::clone(&response.body));
        if slots.enter(socket, writing).is_err() {
            return send_refusal(stream);
        }
        let written = write_response(stream, &response, head_only, || {
            slots.note_progress(socket);
        });
        // Before the peer sees the end: it may connect again at once.
        let sent = written.and_then(|()| slots.enter(socket, Progress::Sent));
        if sent.and_then(|()| stream.finish()).is_err() {
            return stream.socket().reset_on_close();
        }
        drop(response);
        drain(stream.socket(), DRAIN_TIMEOUT);
    }
}

/// Reads a request, and returns its response or what to collect for it, and true if only the head is sent.
///
/// Returns `None` if the peer is gone.
pub(super) fn read_and_route(
    stream: &mut dyn Read,
    access: &Access,
    limit: usize,
) -> Option<(Result<CollectRequest, Response>, bool)> {
    match read_request(stream, limit) {
        Ok(request) => request.map(|request| (route(&request, access), request.method == "HEAD")),
        Err(status) => Some((Err(Response::status_only(status)), false)),
    }
}

pub(super) fn write_response(
    stream: &mut dyn Write,
    response: &Response,
    head_only: bool,
    mut note_progress: impl FnMut(),
) -> io::Result<()> {
    let body = if head_only { &[] } else { &**response.body };
    for mut rest in [&*response.head(), body] {
        while !rest.is_empty() {
            let written = stream.write(rest)?;
            rest = rest.get(written..).unwrap_or_default();
            note_progress();
        }
    }
    stream.flush()
}

/// Refuses a connection with a 503, without waiting for its request.
pub(super) fn refuse(access: &Access, socket: Arc<Socket>) {
    if let Ok(mut stream) = access.open(socket, Instant::now()) {
        send_refusal(&mut *stream);
    }
}

/// Sends a 503 and ends the response, if that takes no waiting.
fn send_refusal(stream: &mut dyn Stream) {
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
