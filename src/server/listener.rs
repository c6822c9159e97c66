//! The listening socket, TCP or Unix.

use std::{
    borrow::Cow,
    fmt::Display,
    fs, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
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
    /// The file of a Unix socket, removed on drop.
    file: Option<SocketFile>,
}

/// The file of a Unix socket, removed on drop.
///
/// The inode distinguishes it from a file that replaced it since.
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // Another program may remove it at the same moment.
            drop(fs::remove_file(&self.path));
        }
    }
}

impl Listener {
    /// Binds the first of the addresses that can be bound, and listens on it.
    pub(super) fn bind(addresses: impl ToSocketAddrs) -> Result<(Self, SocketAddr), Error> {
        let addresses = addresses.to_socket_addrs().map_err(|error| {
            Error::new(ErrorKind::Bind, "serve metrics")
                .with_reason("invalid address; write HOST:PORT with a port up to 65535")
                .with_source(error)
        })?;
        let mut failure =
            Error::new(ErrorKind::Bind, "serve metrics").with_reason("no address given");
        for address in addresses {
            match bind_address(address) {
                Ok((socket, address)) => return Ok((Self { socket, file: None }, address)),
                Err(error) => {
                    failure = serve_error(&address, address_reason(&error), error);
                }
            }
        }
        Err(failure)
    }

    /// Listens on a Unix socket with these permissions, and replaces a stale one.
    pub(super) fn bind_unix(path: &Path, mode: u32) -> Result<Self, Error> {
        let failed = |error| serve_error(&path.display(), path_reason(&error), error);
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.file_type().is_socket() => {
                let attempt = format!("serve metrics at {}", path.display());
                return Err(Error::new(ErrorKind::Bind, attempt)
                    .with_reason("the path exists and is not a socket"));
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
        bind_path(path, mode).map_err(failed)
    }

    /// Accepts a connection. The kernel drops it if sent bytes stay unacknowledged for `send_timeout`.
    pub(super) fn accept(&self, send_timeout: Duration) -> io::Result<(Socket, PeerNetwork)> {
        let (socket, peer) = self.socket.accept()?;
        if self.file.is_none() {
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PeerNetwork(u128);

impl PeerNetwork {
    fn of(peer: &SockAddr) -> Self {
        match peer.as_socket().map(|address| address.ip().to_canonical()) {
            None => Self::default(),
            Some(IpAddr::V4(address)) => Self(address.to_ipv6_mapped().to_bits()),
            // A host of a /64 can use all of its addresses.
            Some(IpAddr::V6(address)) => Self(address.to_bits() >> 64),
        }
    }
}

/// Builds the error of a server that cannot start.
pub(super) fn serve_error(
    address: &dyn Display,
    reason: impl Into<Cow<'static, str>>,
    error: io::Error,
) -> Error {
    Error::new(ErrorKind::Bind, format!("serve metrics at {address}"))
        .with_reason(reason)
        .with_source(error)
}

/// Explains why a TCP address cannot be bound, with the cure if the kind of error implies one.
fn address_reason(error: &io::Error) -> Cow<'static, str> {
    Cow::Borrowed(match error.kind() {
        io::ErrorKind::AddrInUse => "another program uses this port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        io::ErrorKind::PermissionDenied => {
            "this user may not use this port; ports below 1024 need CAP_NET_BIND_SERVICE"
        }
        _ => return error.to_string().into(),
    })
}

/// Explains why a Unix socket cannot be bound, with the cure if the kind of error implies one.
fn path_reason(error: &io::Error) -> Cow<'static, str> {
    Cow::Borrowed(match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens on this socket",
        io::ErrorKind::NotFound => "its directory does not exist",
        io::ErrorKind::PermissionDenied => "this user may not write to this path",
        _ => return error.to_string().into(),
    })
}

fn bind_address(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Otherwise connections in TIME_WAIT block the port after a restart.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    let local_addr = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, local_addr))
}

fn bind_path(path: &Path, mode: u32) -> io::Result<Listener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile {
        path: path.to_owned(),
        inode: inode(path)?,
    };
    // Set before `listen`, since until then nobody can connect.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Listener {
        socket,
        file: Some(file),
    })
}

/// Returns the device and the inode number of a file.
fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_error_reason_follows_its_cause() {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable, NotFound, PermissionDenied};
        for (kind, expected) in [
            (AddrInUse, "another program"),
            (AddrNotAvailable, "no such address"),
            (PermissionDenied, "CAP_NET_BIND_SERVICE"),
        ] {
            let reason = address_reason(&kind.into());
            assert!(reason.contains(expected), "{kind}: {reason}");
        }
        for (kind, expected) in [
            (AddrInUse, "another program"),
            (NotFound, "directory"),
            (PermissionDenied, "may not write"),
        ] {
            let reason = path_reason(&kind.into());
            assert!(reason.contains(expected), "{kind}: {reason}");
        }
        let other = io::Error::other("something else");
        assert_eq!(address_reason(&other), "something else");
        assert_eq!(path_reason(&other), "something else");
    }

    #[test]
    fn nonlocal_address_is_not_reported_as_used_port() {
        // Reserved for documentation, so no machine has it.
        let Err(error) = Listener::bind("192.0.2.1:0") else {
            panic!("bound a reserved address");
        };
        assert_eq!(
            error.to_string(),
            "cannot serve metrics at 192.0.2.1:0: this machine has no such address"
        );
    }
}
