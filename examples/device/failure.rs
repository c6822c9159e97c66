//! Failures that end the program, with their exit codes.

use std::{error::Error, fmt, process::ExitCode};

/// Exit codes, as `--help` lists them.
#[derive(Clone, Copy)]
pub enum Exit {
    Runtime = 1,
    Usage = 2,
    Redis = 3,
    Listen = 4,
}

/// Failure that ends the program. Its `Display` includes the causes.
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// Creates a failure from an error and its causes.
    pub fn from_error(exit: Exit, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self { exit, message }
    }

    /// Does the same for an error that does not name what was attempted.
    pub fn of(exit: Exit, attempt: &str, error: &dyn Error) -> Self {
        let Self { exit, message } = Self::from_error(exit, error);
        Self {
            exit,
            message: format!("{attempt}: {message}"),
        }
    }

    /// Creates a failure that has no further cause.
    pub fn plain(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// Exit code for the shell.
    pub fn exit_code(&self) -> ExitCode {
        self.code().into()
    }

    /// Exit code as a number.
    pub fn code(&self) -> u8 {
        self.exit as u8
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if matches!(self.exit, Exit::Usage) {
            f.write_str("\nTry 'device --help'.")?;
        }
        Ok(())
    }
}
