//! Dies in the middle of a request to Redis.
//!
//! Redis gets everything that the kernel has taken, also from a process that is dead by then. So a request is cut in two before the
//! kernel gets it: by a `send` that takes the place of the C library's.

// There is no safe way to stand in for a function of the C library.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    sync::atomic::{AtomicU16, AtomicUsize, Ordering},
};

use super::killing::kill_self;

/// The requests until one is cut, and the quarters of that one which get through.
static LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);
static QUARTERS: AtomicUsize = AtomicUsize::new(0);

/// The port of Redis, unless it is a Unix socket.
static PORT: AtomicU16 = AtomicU16::new(0);

/// Lets this process die in the n-th request that it sends to the Redis at this URL from now on.
pub fn arm(url: &str, nth: usize, quarters: usize) {
    let port = url.trim_end_matches('/').rsplit_once(':');
    let port = port.and_then(|(_, port)| port.parse().ok());
    PORT.store(port.unwrap_or_default(), Ordering::SeqCst);
    QUARTERS.store(quarters, Ordering::SeqCst);
    LEFT.store(nth, Ordering::SeqCst);
}

/// # Safety
///
/// As that of the C library, which does nothing else if nothing is armed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(
    socket: libc::c_int,
    bytes: *const c_void,
    length: libc::size_t,
    flags: libc::c_int,
) -> libc::ssize_t {
    // SAFETY: these are the arguments that the caller answers for, or fewer of its bytes.
    let send = |length: usize| unsafe {
        let no_address = std::ptr::null::<c_void>();
        libc::syscall(
            libc::SYS_sendto,
            socket,
            bytes,
            length,
            flags,
            no_address,
            0,
        )
    };
    if LEFT.load(Ordering::SeqCst) != usize::MAX
        && is_to_redis(socket)
        && LEFT.fetch_sub(1, Ordering::SeqCst) == 1
    {
        send(length * QUARTERS.load(Ordering::SeqCst) / 4);
        kill_self();
    }
    libc::ssize_t::try_from(send(length)).expect("no more than was sent")
}

fn is_to_redis(socket: libc::c_int) -> bool {
    // SAFETY: all zeros is an address of no family, and the length is its own.
    let (found, address) = unsafe {
        let mut address: libc::sockaddr_storage = std::mem::zeroed();
        let mut length = libc::socklen_t::try_from(size_of_val(&address)).expect("small");
        let found = libc::getpeername(socket, (&raw mut address).cast(), &raw mut length);
        (found == 0, address)
    };
    let port = PORT.load(Ordering::SeqCst);
    match libc::c_int::from(address.ss_family) {
        libc::AF_UNIX => found && port == 0,
        libc::AF_INET => {
            // SAFETY: it is an address of that family, for which there is room.
            let address = unsafe { &*(&raw const address).cast::<libc::sockaddr_in>() };
            found && u16::from_be(address.sin_port) == port
        }
        _ => false,
    }
}
