//! The socket that is listened on.

use std::{
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

/// How many connections the system holds until they are accepted. As many come within a few
/// milliseconds when somebody opens them as fast as possible, and one that finds no room tries again
/// after a second.
const BACKLOG: i32 = 1024;

/// A socket that is listened on without waiting, until it is dropped.
pub(super) struct Listener {
    socket: Socket,
    /// Of a Unix socket.
    file: Option<SocketFile>,
}

/// The file of a Unix socket, as long as it is that of this socket.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // Another may have removed it by now.
            drop(fs::remove_file(&self.path));
        }
    }
}

impl Listener {
    /// Listens on the first address that can be bound.
    pub(super) fn bind(addresses: impl ToSocketAddrs) -> Result<(Self, SocketAddr), Error> {
        let addresses = addresses.to_socket_addrs().map_err(|error| {
            Error::new(ErrorKind::Bind, "serve metrics")
                .with_reason(
                    "the address cannot be understood; write HOST:PORT, and a port up to 65535",
                )
                .with_source(error)
        })?;
        let mut failure =
            Error::new(ErrorKind::Bind, "serve metrics").with_reason("there is no address");
        for address in addresses {
            match listen_on(address) {
                Ok((socket, address)) => return Ok((Self { socket, file: None }, address)),
                Err(error) => failure = bind_error(&address.to_string(), error),
            }
        }
        Err(failure)
    }

    /// Listens on a Unix socket with these permissions, in the place of one that nobody listens on.
    pub(super) fn bind_unix(path: &Path, mode: u32) -> Result<Self, Error> {
        let name = path.display().to_string();
        let failed = |error| bind_error(&name, error);
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(
                    Error::new(ErrorKind::Bind, format!("serve metrics at {name}"))
                        .with_reason("there is a file that is not a socket"),
                );
            }
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                Ok(_) => return Err(failed(io::ErrorKind::AddrInUse.into())),
                Err(error) => return Err(failed(error)),
            },
        }
        let listener = listen_at(path, mode).map_err(failed)?;
        Ok(listener)
    }

    /// One more connection, which the system gives up when its peer takes nothing for so long.
    pub(super) fn accept(&self, patience: Duration) -> io::Result<(Socket, PeerNetwork)> {
        let (socket, peer) = self.socket.accept()?;
        if self.file.is_none() {
            // What is written is complete, so there is nothing to wait for. It works without, too.
            drop(socket.set_tcp_nodelay(true));
            // A peer that vanished is not sent its answer for ever after it was closed.
            #[cfg(any(target_os = "android", target_os = "linux"))]
            drop(socket.set_tcp_user_timeout(Some(patience)));
        }
        Ok((socket, PeerNetwork::of(&peer)))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whose connection it is, as far as an address tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PeerNetwork(u128);

impl PeerNetwork {
    fn of(peer: &SockAddr) -> Self {
        match peer.as_socket().map(|address| address.ip().to_canonical()) {
            None => Self::default(),
            Some(IpAddr::V4(address)) => Self(address.to_ipv6_mapped().to_bits()),
            // Who has one address of such a network has all of them.
            Some(IpAddr::V6(address)) => Self(address.to_bits() >> 64),
        }
    }
}

pub(super) fn bind_error(address: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Bind, format!("serve metrics at {address}")).with_source(error)
}

fn listen_on(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections that were served before must not keep the port from being used again.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let local_addr = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, local_addr))
}

fn listen_at(path: &Path, mode: u32) -> io::Result<Listener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path)?,
    };
    // Nobody can connect before it is listened on.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Listener {
        socket,
        file: Some(file),
    })
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}
