//! A question before something is done for good.

use std::{
    io::{self, IsTerminal, Write},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use crate::exit::{Failure, complain};

/// The time after which an owner of records shows a sign of life again.
const INTERVAL: Duration = Duration::from_secs(5);

/// Asks on the terminal; calls `keep_alive` while there is no answer. Without a terminal the answer is no.
pub fn confirm(
    question: &str,
    mut keep_alive: impl FnMut() -> Result<(), Failure>,
) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        complain(
            "there is no terminal to ask on, so nothing was done; --yes goes on without a question",
        );
        return Ok(false);
    }
    // A question that nobody can see.
    if write!(io::stderr(), "{question} [y/N] ").is_err() {
        return Ok(false);
    }
    let (sender, answers) = mpsc::channel();
    thread::spawn(move || {
        let mut answer = String::new();
        let read = io::stdin().read_line(&mut answer);
        // Nobody waits any more if the records cannot be used.
        let _ = sender.send(read.map(|_| answer));
    });
    loop {
        match answers.recv_timeout(INTERVAL) {
            Ok(answer) => return Ok(is_yes(&answer?)),
            Err(RecvTimeoutError::Timeout) => keep_alive()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (answer, expected) in [
            ("y\n", true),
            ("Yes\n", true),
            ("\n", false),
            ("", false),
            ("n\n", false),
            ("yy\n", false),
        ] {
            assert_eq!(is_yes(answer), expected, "{answer:?}");
        }
    }
}
