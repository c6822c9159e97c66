//! The validated options of the endpoint.

use std::time::Duration;

use super::credentials::Credentials;
use crate::error::Error;

/// Limits on the time and memory that one peer can claim.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_connections: usize,
    pub(super) max_head_bytes: usize,
    pub(super) request_timeout: Duration,
    pub(super) response_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 16,
            max_head_bytes: 8 * 1024,
            request_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
        }
    }
}

impl Limits {
    pub(super) fn check(self) -> Result<(), Error> {
        let Self {
            max_connections,
            max_head_bytes,
            request_timeout,
            response_timeout,
        } = self;
        for (option, is_zero) in [
            ("max_connections", max_connections == 0),
            ("max_head_bytes", max_head_bytes == 0),
            ("request_timeout", request_timeout.is_zero()),
            ("response_timeout", response_timeout.is_zero()),
        ] {
            if is_zero {
                return Err(
                    Error::invalid_option(option).with_reason("zero would refuse every request")
                );
            }
        }
        Ok(())
    }
}

/// The part of the options that every connection reads.
pub(super) struct Config {
    pub(super) limits: Limits,
    pub(super) credentials: Credentials,
}
