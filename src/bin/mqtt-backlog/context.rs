//! The things that every command uses: Redis, the output, and what went wrong on the way.

use paho_mqtt_redis::backlog::{OwnedBacklog, Server};

use crate::{
    args::GlobalArgs,
    exit::{Exit, Failure, complain},
    output::{Output, escape},
};

#[derive(Debug)]
pub struct Context {
    pub server: Server,
    pub out: Output,
    /// A record could not be handled, and a line about it has been written.
    is_partial: bool,
}

impl Context {
    pub fn new(args: &GlobalArgs) -> Result<Self, Failure> {
        Ok(Self {
            server: args.server()?,
            out: Output::new(args.json),
            is_partial: false,
        })
    }

    /// Writes a line about a record that could not be handled. The rest goes on.
    pub fn complain(&mut self, text: &str) {
        // In order, if both go to one terminal.
        let _ = self.out.flush();
        self.is_partial = true;
        complain(text);
    }

    /// Returns true if there was a record that could not be handled.
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Writes a line about entries in the hash of a client that Paho does not write, if there are any.
    pub fn complain_foreign(&mut self, name: &str, foreign: &[Vec<u8>]) {
        let first = foreign.iter().take(4).map(|entry| escape(entry));
        let first = first.collect::<Vec<_>>().join(", ");
        let more = if foreign.len() > 4 { ", …" } else { "" };
        match foreign.len() {
            0 => {}
            1 => self.complain(&format!(
                "1 entry of {name}, which Paho does not write, is left out: {first}"
            )),
            number => self.complain(&format!(
                "{number} entries of {name}, which Paho does not write, are left out: {first}{more}"
            )),
        }
    }

    /// Takes over the records of a client to change them, with or without a reader of the output.
    pub fn own(&mut self, name: &str) -> Result<OwnedBacklog, Failure> {
        self.out.outlive_reader();
        Ok(self.server.own(name)?)
    }

    /// Takes over the records of a client to remove some, with or without a reader of the output.
    pub fn own_to_remove(&mut self, name: &str) -> Result<OwnedBacklog, Failure> {
        self.out.outlive_reader();
        Ok(self.server.own_to_remove(name)?)
    }

    /// Writes what is left of the output, and returns the final code.
    pub fn finish(&mut self, exit: Exit) -> Result<Exit, Failure> {
        // The work is done, so a reader who has gone changes nothing.
        self.out.outlive_reader();
        self.out.flush()?;
        Ok(match exit {
            Exit::Done if self.is_partial => Exit::Partial,
            exit => exit,
        })
    }
}
