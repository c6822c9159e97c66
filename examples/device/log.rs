//! Log on standard error.

use std::{
    env,
    io::{self, IsTerminal},
};

use tracing::{Level, enabled, error, level_filters::LevelFilter};
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

use crate::{
    args::LogFormat,
    failure::{Exit, Failure},
};

/// Sends events and spans of this program, of the persistence and of Paho to standard error.
///
/// A custom subscriber must not publish: Paho holds its lock during every call of the persistence.
pub fn init(format: LogFormat) -> Result<(), Failure> {
    let directives = env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| Failure::of(Exit::Usage, &format!("RUST_LOG: '{directives}'"), &error))?;
    // At debug level each call is a line with its duration, written when its span closes.
    let spans = match filter.max_level_hint() {
        Some(level) if level < LevelFilter::DEBUG => FmtSpan::NONE,
        _ => FmtSpan::CLOSE,
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_span_events(spans);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Reports the failure that ends the program: as JSON if the log is JSON, unless it is off or not yet set up.
pub fn end(format: LogFormat, failure: &Failure) {
    if matches!(format, LogFormat::Json) && enabled!(target: "device", Level::ERROR) {
        error!(target: "device", exit_code = failure.code(), "{failure}");
    } else {
        eprintln!("device: {failure}");
    }
}
