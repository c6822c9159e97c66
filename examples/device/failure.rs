//! What ends the program, with its exit code.

use std::{error::Error, fmt, process::ExitCode};

/// The exit codes, as `--help` lists them.
#[derive(Clone, Copy)]
pub enum Exit {
    Runtime = 1,
    Usage = 2,
    Redis = 3,
    Listen = 4,
}

/// A failure; its `Display` is the whole story, causes included.
pub struct Failure {
    exit: Exit,
    story: String,
}

impl Failure {
    /// A failure that `error` tells about, with its causes.
    pub fn because(exit: Exit, error: &dyn Error) -> Self {
        let mut story = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            story.push_str(": ");
            story.push_str(&error.to_string());
            cause = error.source();
        }
        Self { exit, story }
    }

    /// The same for an error that does not say what was tried.
    pub fn of(exit: Exit, what: &str, error: &dyn Error) -> Self {
        let Self { exit, story } = Self::because(exit, error);
        Self {
            exit,
            story: format!("{what}: {story}"),
        }
    }

    /// A failure that has no further cause.
    pub fn plain(exit: Exit, story: impl Into<String>) -> Self {
        Self {
            exit,
            story: story.into(),
        }
    }

    /// The code for the shell.
    pub fn exit_code(&self) -> ExitCode {
        self.code().into()
    }

    /// The same as a number.
    pub fn code(&self) -> u8 {
        self.exit as u8
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.story)?;
        if matches!(self.exit, Exit::Usage) {
            f.write_str("\nTry 'device --help'.")?;
        }
        Ok(())
    }
}
