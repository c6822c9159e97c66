//! Connects to Redis: resolves the host, connects a socket, and makes the TLS handshake if the URL
//! has one.

use std::{
    io::{self, IoSlice, Read, Write},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    address::{Endpoint, RedisAddress},
    exchange_error::ExchangeError,
    resp::ReplyStream,
};
use crate::net::{DeadlineStream, LookUp, time_left};

/// Time for which a call polls before it sleeps.
///
/// Most replies of a local Redis arrive sooner than a sleeping thread is woken up.
const SPIN_TIME: Duration = Duration::from_micros(50);

const HOST_NOT_FOUND: &str = "host name not found; check the URL and this device's DNS";

/// Connects a socket to the first address of the endpoint that accepts.
pub(super) fn connect_socket(
    endpoint: &Endpoint,
    deadline: Instant,
) -> Result<DeadlineStream, ExchangeError> {
    let addresses: Vec<(SockAddr, Domain)> = match endpoint {
        Endpoint::Unix(path) => vec![(SockAddr::unix(path)?, Domain::UNIX)],
        Endpoint::Tcp(host, port) => resolve(host, *port, deadline)?
            .into_iter()
            .map(|address| (address.into(), Domain::for_address(address)))
            .collect(),
    };
    let mut failure =
        ExchangeError::Disconnected(HOST_NOT_FOUND, "the host name has no address".into());
    for (tried, (address, domain)) in addresses.iter().enumerate() {
        // An address that never answers must leave time for the next one.
        let untried = u32::try_from(addresses.len().saturating_sub(tried)).unwrap_or(u32::MAX);
        let limit = time_left(deadline)?
            .checked_div(untried)
            .unwrap_or_default();
        match connect_address(address, *domain, limit.max(Duration::from_micros(1))) {
            Ok(socket) => {
                let stream = DeadlineStream::new(Arc::new(socket), deadline)?;
                return Ok(stream.spinning(SPIN_TIME));
            }
            Err(error) => failure = connect_error(address, error),
        }
    }
    Err(failure)
}

/// Returns the addresses of a host, with this port.
fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, ExchangeError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let answer = LookUp::of(host)?.wait(deadline)?;
    let mut addresses =
        answer.map_err(|error| ExchangeError::Disconnected(HOST_NOT_FOUND, error.into()))?;
    for address in &mut addresses {
        address.set_port(port);
    }
    Ok(addresses)
}

/// Converts an error of `connect` into one with a reason that fits a Redis, and what to do.
fn connect_error(address: &SockAddr, error: io::Error) -> ExchangeError {
    let reason = match (error.kind(), address.is_unix()) {
        (io::ErrorKind::ConnectionRefused, true) => {
            "nothing listens on this socket; the file may be stale, check that Redis runs"
        }
        (io::ErrorKind::ConnectionRefused, false) => {
            "connection refused; check that Redis runs on this host and port"
        }
        (io::ErrorKind::NotFound, true) => {
            "no such socket; check that Redis runs and that `unixsocket` in its configuration is \
             this path"
        }
        (io::ErrorKind::PermissionDenied, true) => {
            "permission denied on the socket; add the user to its group, as in `usermod -aG redis \
             USER`, and set `unixsocketperm 770`"
        }
        _ => return error.into(),
    };
    ExchangeError::Disconnected(reason, error.into())
}

fn connect_address(address: &SockAddr, domain: Domain, limit: Duration) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.connect_timeout(address, limit)?;
    if domain != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}

/// Returns by how much longer an exchange may take that carries this many bytes of values.
///
/// A value that is too large for the timeout on a slow network could otherwise never be written again
/// after an outage, and one that was written could never be read again.
pub(super) fn transfer_time(bytes: usize) -> Duration {
    const TIME_PER_BYTE: Duration = Duration::from_micros(1);
    TIME_PER_BYTE.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// The stream to Redis, with TLS or without.
pub(super) enum RedisStream {
    Plain(DeadlineStream),
    #[cfg(feature = "redis-tls")]
    Tls(Box<super::tls::TlsClientStream>),
}

impl RedisStream {
    /// Makes the TLS handshake if the URL has one.
    #[cfg_attr(
        not(feature = "redis-tls"),
        expect(clippy::unnecessary_wraps, reason = "only a handshake can fail")
    )]
    pub(super) fn new(
        socket: DeadlineStream,
        address: &RedisAddress,
    ) -> Result<Self, ExchangeError> {
        #[cfg(feature = "redis-tls")]
        if let (true, Endpoint::Tcp(host, _)) = (address.tls, &address.endpoint) {
            let stream = super::tls::handshake(socket, host, &address.tls_files)?;
            return Ok(Self::Tls(Box::new(stream)));
        }
        debug_assert!(
            !address.tls,
            "parsing a URL refuses TLS without the feature"
        );
        Ok(Self::Plain(socket))
    }

    /// The socket below TLS, which has the deadline.
    pub(super) fn socket(&mut self) -> &mut DeadlineStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "redis-tls")]
            Self::Tls(stream) => stream.get_mut(),
        }
    }
}

impl Read for RedisStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            #[cfg(feature = "redis-tls")]
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl ReplyStream for RedisStream {
    fn allow_bytes(&mut self, bytes: usize) {
        self.socket().extend_deadline(transfer_time(bytes));
    }
}

impl Write for RedisStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "redis-tls")]
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write_vectored(slices),
            #[cfg(feature = "redis-tls")]
            Self::Tls(stream) => stream.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            #[cfg(feature = "redis-tls")]
            Self::Tls(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::error::ErrorKind;

    /// The error is made up, because a test that runs as root may use every socket.
    #[test]
    fn forbidden_socket_error_names_remedy() {
        let unix = SockAddr::unix("/run/redis.sock").expect("short");
        let tcp = SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 6379)));
        for (address, is_advised) in [(unix, true), (tcp, false)] {
            let denied = io::ErrorKind::PermissionDenied.into();
            let error = connect_error(&address, denied).into_error(|| "connect".to_owned());
            assert_eq!(error.kind(), ErrorKind::Connection);
            let text = error.to_string();
            assert_eq!(text.contains("usermod -aG redis"), is_advised, "{text}");
        }
    }
}
