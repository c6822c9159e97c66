//! The listening socket, TCP or Unix.

use std::{
    fmt::Display,
    fs, io,
    net::{IpAddr, TcpListener, ToSocketAddrs},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::Path,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::error::{Error, ErrorKind};

/// Connections that the kernel queues until they are accepted.
///
/// A flood fills this queue within a few milliseconds. A peer that finds it full retries only after a second.
const LISTEN_BACKLOG: i32 = 1024;

/// A nonblocking listening socket, closed on drop.
pub(super) struct Listener {
    socket: Socket,
    pub(super) address: SockAddr,
    /// Of a Unix socket's file, which is removed on drop, unless another one has replaced it since.
    inode: Option<(u64, u64)>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let (Some(path), Some(bound)) = (self.address.as_pathname(), self.inode)
            && inode(path).is_ok_and(|found| found == bound)
        {
            // Another program may remove it at the same moment.
            drop(fs::remove_file(path));
        }
    }
}

impl Listener {
    /// Binds the first of the addresses that can be bound, and listens on it.
    pub(super) fn bind(addresses: impl ToSocketAddrs) -> Result<Self, Error> {
        let addresses = addresses.to_socket_addrs().map_err(|error| {
            Error::new(ErrorKind::Bind, "serve metrics")
                .with_reason("invalid address; write HOST:PORT with a port up to 65535")
                .with_source(error)
        })?;
        let mut failure =
            Error::new(ErrorKind::Bind, "serve metrics").with_reason("no address given");
        for address in addresses {
            match TcpListener::bind(address).and_then(|socket| Self::new(socket.into(), None)) {
                Ok(listener) => return Ok(listener),
                Err(error) => failure = serve_error(&address, error),
            }
        }
        Err(failure)
    }

    /// Listens on a Unix socket with these permissions, and replaces a stale one.
    pub(super) fn bind_unix(path: &Path, mode: u32) -> Result<Self, Error> {
        let failed = |error| serve_error(&path.display(), error);
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(failed(io::Error::other(
                    "the path exists and is not a socket",
                )));
            }
            // Only a connection shows whether a program still listens.
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                Ok(_) => return Err(failed(io::ErrorKind::AddrInUse.into())),
                Err(error) => return Err(failed(error)),
            },
        }
        let bind = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            let inode = inode(path)?;
            // Set before `listen`, since until then nobody can connect.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            Self::new(socket, Some(inode))
        };
        bind().map_err(failed)
    }

    fn new(socket: Socket, inode: Option<(u64, u64)>) -> io::Result<Self> {
        socket.listen(LISTEN_BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            address: socket.local_addr()?,
            socket,
            inode,
        })
    }

    /// Accepts a connection. The kernel drops it if sent bytes stay unacknowledged for `send_timeout`.
    pub(super) fn accept(&self, send_timeout: Duration) -> io::Result<(Socket, PeerNetwork)> {
        let (socket, peer) = self.socket.accept()?;
        if self.inode.is_none() {
            // Responses are written whole, so Nagle's delay gains nothing. A failure costs only time.
            drop(socket.set_tcp_nodelay(true));
            // Otherwise the kernel retransmits to a vanished peer for minutes after the close.
            #[cfg(any(target_os = "android", target_os = "linux"))]
            drop(socket.set_tcp_user_timeout(Some(send_timeout)));
        }
        Ok((socket, PeerNetwork::of(&peer)))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The network of a peer, as a proxy for its owner: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct PeerNetwork(u128);

impl PeerNetwork {
    fn of(peer: &SockAddr) -> Self {
        match peer.as_socket().map(|address| address.ip().to_canonical()) {
            None => Self(0),
            Some(IpAddr::V4(address)) => Self(address.to_ipv6_mapped().to_bits()),
            // A host of a /64 can use all of its addresses.
            Some(IpAddr::V6(address)) => Self(address.to_bits() >> 64),
        }
    }
}

/// Builds the error of a server that cannot start, with the cure if the kind of error implies one.
pub(super) fn serve_error(address: &dyn Display, error: io::Error) -> Error {
    let attempt = Error::new(ErrorKind::Bind, format!("serve metrics at {address}"));
    let attempt = match error.kind() {
        io::ErrorKind::AddrInUse => attempt.with_reason("another program listens there"),
        io::ErrorKind::AddrNotAvailable => attempt.with_reason("this machine has no such address"),
        io::ErrorKind::NotFound => attempt.with_reason("its directory does not exist"),
        io::ErrorKind::PermissionDenied => attempt.with_reason(
            "this user may not bind it; ports below 1024 need CAP_NET_BIND_SERVICE, a Unix socket the right to \
             write to its directory",
        ),
        _ => attempt.with_reason(error.to_string()),
    };
    attempt.with_source(error)
}

/// Returns the device and the inode number of a file.
fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
