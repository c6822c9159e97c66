//! Connects to Redis: resolves the host, connects a socket, and makes the TLS handshake if the URL asks for it.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    address::{Endpoint, RedisAddress},
    exchange_error::ExchangeError,
};
use crate::net::{DeadlineStream, time_left};

/// Connects to the first address that answers.
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
    let mut failure = ExchangeError::Disconnected(NO_HOST, "the host name has no address".into());
    for (tried, (address, domain)) in addresses.iter().enumerate() {
        // One that never answers must leave time for the next.
        let left = u32::try_from(addresses.len().saturating_sub(tried)).unwrap_or(u32::MAX);
        let limit = time_left(deadline)?.checked_div(left).unwrap_or_default();
        match connect_to(address, *domain, limit.max(Duration::from_micros(1))) {
            Ok(socket) => return Ok(DeadlineStream::new(Arc::new(socket), deadline)),
            Err(error) => failure = refusal(address, error),
        }
    }
    Err(failure)
}

const NO_HOST: &str = "the host name is not found; check how it is written in the URL, and that \
                       this device can look names up";

/// Why there is no connection to that address, and what to do.
fn refusal(address: &SockAddr, error: io::Error) -> ExchangeError {
    let reason = match (error.kind(), address.is_unix()) {
        (io::ErrorKind::ConnectionRefused, true) => {
            "nothing listens on this socket; check that it runs, since the file may be left from \
             before"
        }
        (io::ErrorKind::ConnectionRefused, false) => {
            "nothing listens there; check that it runs, and that host and port in the URL are its \
             own"
        }
        (io::ErrorKind::NotFound, true) => {
            "there is no such socket file; check that it runs, and that `unixsocket` in its \
             configuration is this path"
        }
        (io::ErrorKind::PermissionDenied, true) => {
            "this user has no permission on the socket; make the user a member of its group, as in \
             `usermod -aG redis USER`, and see that `unixsocketperm` is 770"
        }
        _ => return error.into(),
    };
    ExchangeError::Disconnected(reason, error.into())
}

fn connect_to(address: &SockAddr, domain: Domain, limit: Duration) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.connect_timeout(address, limit)?;
    if domain != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}

/// The addresses of a host. The system's look-up of a name knows no limit, so it is left behind on
/// a thread of its own when it takes too long.
fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, ExchangeError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (found, answer) = mpsc::channel();
    let host = host.to_owned();
    thread::Builder::new()
        .name("redis-host-name".to_owned())
        .spawn(move || {
            let addresses = (host.as_str(), port)
                .to_socket_addrs()
                .map(Iterator::collect);
            // Nobody listens any more where it took too long.
            drop(found.send(addresses));
        })?;
    let found = answer.recv_timeout(time_left(deadline)?).map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            "the look-up of the host name took too long",
        )
    })?;
    found.map_err(|error| ExchangeError::Disconnected(NO_HOST, error.into()))
}

/// What the bytes go through.
pub(super) enum RedisStream {
    Plain(DeadlineStream),
    #[cfg(feature = "tls")]
    Tls(Box<super::tls::TlsClientStream>),
}

impl RedisStream {
    #[cfg_attr(
        not(feature = "tls"),
        expect(clippy::unnecessary_wraps, reason = "only a handshake can fail")
    )]
    pub(super) fn new(
        socket: DeadlineStream,
        target: &RedisAddress,
    ) -> Result<Self, ExchangeError> {
        #[cfg(feature = "tls")]
        if let (true, Endpoint::Tcp(host, _)) = (target.tls, &target.endpoint) {
            return Ok(Self::Tls(Box::new(super::tls::handshake(socket, host)?)));
        }
        debug_assert!(!target.tls, "refused when the URL was read");
        Ok(Self::Plain(socket))
    }

    pub(super) fn socket(&mut self) -> &mut DeadlineStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_mut(),
        }
    }
}

impl Read for RedisStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for RedisStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A test that runs as root has every permission, so that this can only be made up.
    #[test]
    fn forbidden_socket_error_names_remedy() {
        let unix = SockAddr::unix("/run/redis.sock").expect("short");
        let tcp = SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 6379)));
        for (address, told) in [(unix, true), (tcp, false)] {
            let denied = io::ErrorKind::PermissionDenied.into();
            let error = refusal(&address, denied).into_error(|| "connect".to_owned());
            assert_eq!(error.kind(), ErrorKind::Connection);
            let text = error.to_string();
            assert_eq!(text.contains("usermod -aG redis"), told, "{text}");
        }
    }
}
