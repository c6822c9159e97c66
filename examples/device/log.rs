//! The log on standard error.

use std::{
    env,
    io::{self, IsTerminal},
};

use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

use crate::{
    args::LogFormat,
    failure::{Exit, Failure},
};

/// Sends events and spans of this program, of the persistence and of Paho to standard error.
///
/// A subscriber of one's own must not publish: Paho holds its lock during every call of the persistence.
pub fn init(format: LogFormat) -> Result<(), Failure> {
    let directives = env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| Failure::of(Exit::Usage, &format!("RUST_LOG: '{directives}'"), &error))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // A span is written when it ends, with the time that it took.
        .with_span_events(FmtSpan::CLOSE);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
