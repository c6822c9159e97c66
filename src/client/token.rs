//! [`poll`]: reads a token of Paho without a wait.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

/// Reads a token that may have ended, and has it wake this if not.
pub(super) fn poll<F: Future + Unpin>(token: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(token).poll(&mut Context::from_waker(waker))
}
