//! What [`Persistence`](crate::Persistence) asks of the place where records are kept.

mod memory;

pub use memory::MemoryStore;

use crate::Error;

/// One change of one record.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// The record is written, or written over, with these parts one after the other.
    Put {
        /// The key of the record.
        key: &'a str,
        /// The value, in parts.
        value: &'a [&'a [u8]],
    },
    /// The record is removed; it need not be there.
    Remove {
        /// The key of the record.
        key: &'a str,
    },
    /// A copy of a record is put where Paho does not look and a person can.
    SetAside {
        /// The key of the record.
        key: &'a str,
        /// The value that it has.
        value: &'a [u8],
    },
}

/// A place for records, which knows its backend and nothing of Paho.
///
/// The records of one client live under one name. Sending and confirming are apart from one
/// another, so that several changes can be under way before their answers are waited for. After an
/// error of the connection the next call connects again by itself.
pub trait Store {
    /// The value of the `store` label of the metrics and of `db.system.name` in spans.
    const NAME: &'static str;

    /// Connects to the records under `name` and checks that they can be read and written.
    ///
    /// A store that is full gives that error as its answer: what is in there can be read and
    /// removed, and so make room.
    ///
    /// # Errors
    ///
    /// Whatever keeps the records from being used, at the earliest moment.
    fn connect(&mut self, name: &str) -> Result<Option<Error>, Error>;

    /// The keys of everything under the name, other programs' included, in any order.
    ///
    /// # Errors
    ///
    /// Whatever keeps the keys from being read; never an incomplete list.
    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error>;

    /// The values of these records in their order, and nothing for those that are not there.
    ///
    /// # Errors
    ///
    /// Whatever keeps one of them from being read.
    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error>;

    /// Sends a group of changes, of which all happen or none, in this order, behind everything
    /// that was sent before.
    ///
    /// # Errors
    ///
    /// Whatever keeps them from being sent. Whether they happened is then unknown.
    fn send(&mut self, changes: &[Change<'_>]) -> Result<(), Error>;

    /// Waits until everything that was sent has happened.
    ///
    /// # Errors
    ///
    /// The first answer that is an error, or whatever kept the answers from being read, a
    /// connection that broke meanwhile included.
    fn confirm(&mut self) -> Result<(), Error>;

    /// Ends the connection. The records stay.
    fn close(&mut self);
}
