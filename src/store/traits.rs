//! What [`Persistence`](crate::Persistence) asks of the place where records are kept.

use crate::error::Error;

/// One change of one record.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// The record is written, or written over.
    Put {
        /// The key of the record.
        key: &'a str,
        /// The value that it gets.
        value: &'a [u8],
    },
    /// The record is removed; it need not be there.
    Remove {
        /// The key of the record.
        key: &'a str,
    },
    /// A copy of a record is put where Paho does not look and a person can.
    Quarantine {
        /// The key of the record.
        key: &'a str,
        /// The value that it has.
        value: &'a [u8],
    },
}

/// Changes of which all happen or none, in this order.
pub type Group<'a> = &'a [Change<'a>];

/// What connecting found.
#[derive(Debug, Default)]
pub struct Connected {
    /// The store is full: what is in there can be read and removed, and so make room.
    pub write_error: Option<Error>,
    /// Which life of the store this is. While it stays the same, what was there still is; where
    /// there is none, nobody can tell.
    pub instance_id: Option<String>,
    /// What a record outlives, in a few words for the log.
    pub durability_note: Option<&'static str>,
    /// What the user should know of and can mend, and what works all the same.
    pub warnings: Vec<Error>,
}

/// A record that was changed and not waited for.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The key of the record.
    pub key: &'a str,
    /// How long its value is; nothing where it was removed.
    pub length: Option<usize>,
}

/// A place for records, which knows its backend and nothing of Paho.
///
/// The records of one client live under one name. Sending and confirming are apart from one
/// another, so that a change need not be waited for. Whatever goes wrong, the persistence keeps what
/// has not been confirmed, connects again, and makes those changes once more.
pub trait Store: Send + 'static {
    /// The value of the `store` label of the metrics and of `db.system.name` in spans.
    const NAME: &'static str;

    /// Connects to the records under `name` and checks that they can be read and written. Everything
    /// that an earlier connection has sent there has arrived, or never will.
    ///
    /// # Errors
    ///
    /// Whatever keeps the records from being used, at the earliest moment: another program that uses
    /// them at this moment too.
    fn connect(&mut self, name: &str) -> Result<Connected, Error>;

    /// The keys of everything under the name, other programs' included, in any order.
    ///
    /// # Errors
    ///
    /// Whatever keeps the keys from being read; never an incomplete list.
    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error>;

    /// Checks that a record could be written at this moment, and counts the keys.
    ///
    /// # Errors
    ///
    /// Whatever would keep a record from being written, or the keys from being counted.
    fn check(&mut self) -> Result<usize, Error>;

    /// The values of these records in their order, and nothing for those that are not there.
    ///
    /// # Errors
    ///
    /// Whatever keeps one of them from being read.
    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error>;

    /// The values of many records, one after the other in their order, each as soon as it is there, and
    /// nothing for those that are not there. It may take longer than a call of Paho may wait.
    ///
    /// # Errors
    ///
    /// Whatever keeps one of them from being read; those before it have been handed over.
    fn read_each(
        &mut self,
        keys: &[&str],
        on_value: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), Error> {
        const AT_A_TIME: usize = 64;
        for some in keys.chunks(AT_A_TIME) {
            self.read(some)?.into_iter().for_each(&mut *on_value);
        }
        Ok(())
    }

    /// Asks for records that are likely to be read next, by one [`read`](Self::read) with these keys, and
    /// waits for nothing. A store that cannot do that ahead does nothing.
    ///
    /// What that reads must be no older than what was sent before it.
    ///
    /// # Errors
    ///
    /// Whatever keeps the store from being used from now on.
    fn prefetch(&mut self, keys: &[&str]) -> Result<(), Error> {
        let _ = keys;
        Ok(())
    }

    /// Sends groups of changes behind everything that was sent before. They are safe from the death
    /// of this process, and whether they happen is told by the next [`confirm`](Self::confirm).
    ///
    /// # Errors
    ///
    /// Whatever keeps them from being sent. Whether they happened is then unknown.
    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error>;

    /// Sends groups of changes, of which there may be none, and waits until they have happened and
    /// everything that was [sent](Self::send) before. `sent` is what came of that, for a store that
    /// was not told when it was refused, and so has to look.
    ///
    /// # Errors
    ///
    /// The first answer that is an error, or whatever kept the answers from being read; a record that
    /// is not as it was sent. Which of the changes happened is then unknown.
    fn confirm(&mut self, sent: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error>;

    /// Makes groups of changes again, and waits until they have happened, while no call waits for
    /// the store: the more they are, the longer it may take.
    ///
    /// # Errors
    ///
    /// As those of [`confirm`](Self::confirm).
    fn rewrite(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.confirm(&[], groups)
    }

    /// Ends the connection. The records stay.
    fn close(&mut self);
}
