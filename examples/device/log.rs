//! The log on standard error, and the failures that end the program.

use std::{env, error::Error, io};

use tracing::{Level, enabled, error, level_filters::LevelFilter};
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

/// Exit codes, as `--help` lists them.
#[derive(Clone, Copy)]
pub enum Exit {
    Runtime = 1,
    Usage = 2,
    Redis = 3,
    Listen = 4,
}

/// Failure that ends the program.
pub struct Failure(pub Exit, pub String);

impl Failure {
    /// Creates a failure from what was tried, an error and its causes.
    pub fn of(exit: Exit, attempt: &str, error: &dyn Error) -> Self {
        let mut texts = vec![attempt.to_owned()];
        let mut cause = Some(error);
        while let Some(error) = cause {
            texts.push(error.to_string());
            cause = error.source();
        }
        Self(exit, texts.join(": "))
    }

    /// Reports it, as JSON if that is the log, unless it is off or not yet set up. Returns the exit code.
    pub fn report(&self, is_json: bool) -> u8 {
        let Self(exit, message) = self;
        let code = *exit as u8;
        if is_json && enabled!(target: "device", Level::ERROR) {
            error!(target: "device", exit_code = code, "{message}");
        } else {
            eprintln!("device: {message}");
        }
        code
    }
}

/// Sends events and spans of this program, of the persistence and of Paho to standard error.
///
/// A custom subscriber must not publish: Paho holds its lock during every call of the persistence.
pub fn init(is_json: bool) -> Result<(), Failure> {
    let directives = env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| Failure::of(Exit::Usage, &format!("RUST_LOG: '{directives}'"), &error))?;
    // At debug level each call is a line with its duration, written when its span closes.
    let spans = match filter.max_level_hint() {
        Some(level) if level < LevelFilter::DEBUG => FmtSpan::NONE,
        _ => FmtSpan::CLOSE,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    let log = log.with_writer(io::stderr).with_span_events(spans);
    if is_json {
        log.json().init();
    } else {
        log.with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .init();
    }
    Ok(())
}
