//! Death in the middle of a request to Redis.
//!
//! Redis receives everything that the kernel has accepted, even from a process that is dead by then. So the request is cut before
//! it reaches the kernel, by a `send` and a `sendmsg` that replace those of the C library.

// There is no safe way to replace a function of the C library.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    sync::atomic::{AtomicU16, AtomicUsize, Ordering},
};

use super::killing::strike;

/// Number of requests until one is cut, and the eighths of that one that get through.
static REMAINING: AtomicUsize = AtomicUsize::new(usize::MAX);
static EIGHTHS: AtomicUsize = AtomicUsize::new(0);

/// Port of Redis, unless it is a Unix socket.
static PORT: AtomicU16 = AtomicU16::new(0);

/// Makes this process, or the Redis that it aims at, die in the n-th request that it sends to the Redis at this URL from now on, of
/// which this many eighths get through.
pub fn cut_request(url: &str, nth: usize, eighths: usize) {
    let port = url.trim_end_matches('/').rsplit_once(':');
    let port = port.and_then(|(_, port)| port.parse().ok());
    PORT.store(port.unwrap_or_default(), Ordering::SeqCst);
    EIGHTHS.store(eighths, Ordering::SeqCst);
    REMAINING.store(nth, Ordering::SeqCst);
}

/// # Safety
///
/// The same as for `send` of the C library, which it calls unless a cut is armed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(
    socket: libc::c_int,
    bytes: *const c_void,
    length: libc::size_t,
    flags: libc::c_int,
) -> libc::ssize_t {
    // SAFETY: the caller guarantees these arguments; at most fewer of its bytes are passed.
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
    cut(socket, length, send)
}

/// # Safety
///
/// The same as for `sendmsg` of the C library, which it calls unless a cut is armed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendmsg(
    socket: libc::c_int,
    message: *const libc::msghdr,
    flags: libc::c_int,
) -> libc::ssize_t {
    // SAFETY: the caller guarantees that the message and its slices are valid.
    let (message, slices) = unsafe {
        let message = *message;
        // Another C library has another type for it.
        #[allow(clippy::unnecessary_cast)]
        let length = message.msg_iovlen as usize;
        let slices = std::slice::from_raw_parts(message.msg_iov, length);
        (message, slices)
    };
    let send = |length: usize| {
        let mut rest = length;
        let mut part = slices.to_vec();
        for slice in &mut part {
            slice.iov_len = slice.iov_len.min(rest);
            rest -= slice.iov_len;
        }
        let mut message = message;
        message.msg_iov = part.as_mut_ptr();
        // SAFETY: at most fewer bytes of the caller's slices are passed.
        unsafe { libc::syscall(libc::SYS_sendmsg, socket, &raw const message, flags) }
    };
    let length = slices.iter().map(|slice| slice.iov_len).sum();
    cut(socket, length, send)
}

/// Sends this many bytes, unless this is the request to cut.
fn cut(socket: libc::c_int, length: usize, send: impl Fn(usize) -> libc::c_long) -> libc::ssize_t {
    if REMAINING.load(Ordering::SeqCst) != usize::MAX
        && is_to_redis(socket)
        && REMAINING.fetch_sub(1, Ordering::SeqCst) == 1
    {
        let part = send(length * EIGHTHS.load(Ordering::SeqCst) / 8);
        strike();
        // Redis alone has died. Sending nothing would mean that the connection is closed.
        REMAINING.store(usize::MAX, Ordering::SeqCst);
        if part > 0 {
            return libc::ssize_t::try_from(part).expect("no more than was sent");
        }
    }
    libc::ssize_t::try_from(send(length)).expect("no more than was sent")
}

fn is_to_redis(socket: libc::c_int) -> bool {
    // SAFETY: all zeros is a valid address without a family, and the length is its own.
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
            // SAFETY: the family says that this is the type, and the storage has room for it.
            let address = unsafe { &*(&raw const address).cast::<libc::sockaddr_in>() };
            found && u16::from_be(address.sin_port) == port
        }
        _ => false,
    }
}
