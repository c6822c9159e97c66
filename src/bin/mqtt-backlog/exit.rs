//! Exit codes, and the failures that lead to them.

use std::{io, process::ExitCode};

use paho_mqtt_redis::{Error, ErrorKind};

use crate::output::printable;

/// The way in which a command has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Partial,
    Usage,
    Unavailable,
    InUse,
    Declined,
}

impl Exit {
    /// Every code.
    pub const ALL: [Self; 6] = [
        Self::Done,
        Self::Partial,
        Self::Usage,
        Self::Unavailable,
        Self::InUse,
        Self::Declined,
    ];

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Partial => 1,
            Self::Usage => 2,
            Self::Unavailable => 3,
            Self::InUse => 4,
            Self::Declined => 5,
        }
    }

    /// The end of work of which one part has ended so, and another so.
    pub fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Partial }
    }

    /// Its meaning, for the help and the documentation.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Partial => {
                "some records could not be handled, or a check has found something; the rest went on"
            }
            Self::Usage => "wrong arguments, or an unknown or ambiguous client",
            Self::Unavailable => "Redis, the broker or a directory cannot be reached, or refuses",
            Self::InUse => "a program is connected with these records; nothing was changed",
            Self::Declined => {
                "nothing was done: the answer was no, or there is no terminal and no --yes"
            }
        }
    }

    /// The table of all codes, for the help.
    pub fn table() -> String {
        let rows = Self::ALL.map(|exit| format!("  {}  {}", exit.code(), exit.meaning()));
        format!("Exit codes:\n{}", rows.join("\n"))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The reason why a command cannot go on.
#[derive(Debug)]
pub enum Failure {
    /// A line for the person, and the code.
    Message(Exit, String),
    /// The reader of the output has gone, which is no failure of this program.
    ClosedPipe,
}

impl Failure {
    /// A failure that the arguments cause.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Message(Exit::Usage, text.into())
    }

    /// Writes the reason, and returns the code.
    pub fn report(self) -> Exit {
        match self {
            Self::Message(exit, text) => {
                complain(&text);
                exit
            }
            Self::ClosedPipe => Exit::Done,
        }
    }
}

/// Writes one line for the person to the standard error.
pub fn complain(text: &str) {
    use io::Write;
    // Nothing is left to do if nobody reads it.
    let _ = writeln!(io::stderr(), "mqtt-backlog: {}", printable(text));
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::InvalidOption | ErrorKind::InvalidClientId => Exit::Usage,
            ErrorKind::InUse => Exit::InUse,
            _ => Exit::Unavailable,
        };
        let text = error.to_string();
        // The options of the library.
        let hint = if text.contains("operation_timeout") {
            "; --timeout sets both"
        } else {
            ""
        };
        Self::Message(exit, format!("{text}{hint}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ClosedPipe;
        }
        Self::Message(
            Exit::Unavailable,
            format!("cannot write the output: {error}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_in_table() {
        let table = Exit::table();
        for (exit, number) in Exit::ALL.into_iter().zip(0..) {
            assert_eq!(exit.code(), number);
            assert!(table.contains(&format!("  {number}  {}", exit.meaning())));
        }
    }

    #[test]
    fn different_ends_are_partial() {
        for exit in Exit::ALL {
            assert_eq!(exit.and(exit), exit);
        }
        assert_eq!(Exit::Done.and(Exit::Declined), Exit::Partial);
        assert_eq!(Exit::Declined.and(Exit::Done), Exit::Partial);
        assert_eq!(Exit::Partial.and(Exit::Done), Exit::Partial);
    }

    #[test]
    fn closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.report(), Exit::Done);
        let failure = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(failure, Failure::Message(Exit::Unavailable, _)));
    }
}
