//! The [`Store`] trait: what [`Persistence`](crate::Persistence) needs of a backend.

use crate::error::{Error, ErrorKind};

/// A change of one record.
///
/// Later versions may add changes; a store returns an error for one that it does not know.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Change<'a> {
    /// Writes a record, and overwrites an existing one.
    Put {
        /// The key of the record.
        key: &'a str,
        /// The new value.
        value: &'a [u8],
    },
    /// Removes a record; a missing one is not an error.
    Remove {
        /// The key of the record.
        key: &'a str,
    },
    /// Copies a record to a place that Paho never reads, but a program or a person can.
    ///
    /// The record itself stays, unless another change of the group removes it.
    SetAside {
        /// The place.
        place: Place,
        /// Its name there, which no other record has.
        name: &'a str,
        /// Its value.
        value: &'a [u8],
    },
    /// Removes a record from such a place; a missing one is not an error.
    RemoveSetAside {
        /// The place.
        place: Place,
        /// Its name there.
        name: &'a str,
    },
}

/// A place for records that Paho never reads.
///
/// Each client has its own, beside its records. Later versions may add places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Place {
    /// Records that Paho could not read, and records of another origin.
    Quarantine,
    /// Records that Paho dropped although their messages were not delivered.
    Discarded,
}

impl Place {
    /// Every place.
    pub const ALL: &'static [Self] = &Self::BOTH;

    pub(crate) const BOTH: [Self; 2] = [Self::Quarantine, Self::Discarded];

    /// Returns the value of the label `place` of the metrics, which is also the end of the key of the
    /// hash in Redis.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::Discarded => "discarded",
        }
    }
}

/// Changes that are applied in order, all or none.
pub type Group<'a> = &'a [Change<'a>];

/// The properties of a new connection to a store.
///
/// Later versions may add fields, so a store sets those that it knows in `Connected::default()`.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Connected {
    /// Why the store accepts no new records at present, if so; for example, it is full.
    ///
    /// Its records can be read and removed all the same, which may make room.
    pub write_error: Option<Error>,
    /// Identity of the data, such as the `run_id` and the `master_replid` of a Redis.
    ///
    /// If it is the same after a reconnect, the store has what it had confirmed, unless somebody removed
    /// it: only missing records are written again. If it differs, or there is none, every stored value
    /// is read and compared, and records that this process has never known are quarantined.
    pub instance_id: Option<String>,
    /// Name and version of the server for the log and the metrics, such as `Valkey 9.1.2`.
    pub server: Option<String>,
    /// The crashes that records survive, in a few words for the log; for example, if Redis has an AOF.
    pub durability_note: Option<&'static str>,
    /// Faults that the user can correct and that do not prevent operation, for the log.
    pub warnings: Vec<Error>,
}

/// A record that was changed with [`Store::send`] and is not confirmed yet. Later versions may add fields.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Sent<'a> {
    /// The key of the record.
    pub key: &'a str,
    /// Length of its value in bytes; `None` if the record was removed.
    pub length: Option<usize>,
}

impl<'a> Sent<'a> {
    /// Names a record that was put with a value of this length, or removed; for tests of a store.
    #[must_use]
    pub fn new(key: &'a str, length: Option<usize>) -> Self {
        Self { key, length }
    }
}

/// A set of records under another name than the connected one. Later versions may add fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherRecords {
    /// The name under which the store has them.
    pub name: String,
    /// Their number, foreign entries included.
    pub records: usize,
}

impl OtherRecords {
    /// Names a set of records, and their number.
    #[must_use]
    pub fn new(name: impl Into<String>, records: usize) -> Self {
        Self {
            name: name.into(),
            records,
        }
    }
}

/// A record that moves here from another name. Later versions may add fields.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Adopted<'a> {
    /// Its key under the other name, where it is removed.
    pub from: &'a str,
    /// Its key here.
    pub key: &'a str,
    /// Its value here.
    pub value: &'a [u8],
}

impl<'a> Adopted<'a> {
    /// Describes the move of a record, for tests of a store.
    #[must_use]
    pub fn new(from: &'a str, key: &'a str, value: &'a [u8]) -> Self {
        Self { from, key, value }
    }
}

/// A backend for records, which need not know Paho.
///
/// The records of one client are stored under one name. Sending and confirming are separate calls, so
/// that not every change is waited for. After any error the persistence keeps all unconfirmed changes,
/// connects again, and repeats them.
///
/// Methods run on Paho's threads and on the worker thread. Except while it opens and in the steps of a
/// recovery, the persistence holds a lock during them that all calls of Paho need, so each must return
/// within a bounded time. A panic counts as an error of the kind [`Other`](crate::ErrorKind::Other).
pub trait Store: Send + 'static {
    /// The value of the label `store` of the metrics and of `db.system.name` in spans.
    const NAME: &'static str;

    /// Connects to the records under `name`, and checks that they can be read and written.
    ///
    /// Once it has returned, nothing that an earlier connection sent there may still arrive. Otherwise an old
    /// write could overwrite a new one.
    ///
    /// # Errors
    ///
    /// Any reason why the records cannot be used, including another program that uses them at the same
    /// time.
    fn connect(&mut self, name: &str) -> Result<Connected, Error>;

    /// Returns all keys under the name, foreign entries included, in any order.
    ///
    /// # Errors
    ///
    /// Any reason why a key cannot be read. An incomplete list is never returned.
    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error>;

    /// Checks that a record could be written now, and returns the number of keys.
    ///
    /// # Errors
    ///
    /// Any reason why a record could not be written or the keys could not be counted.
    fn check(&mut self) -> Result<usize, Error>;

    /// Returns the values of these records, in the same order; `None` for a missing record.
    ///
    /// # Errors
    ///
    /// Any reason why one of them cannot be read.
    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error>;

    /// Passes the values of many records to `on_value`, in the same order; `None` for a missing record.
    ///
    /// Each value is passed as soon as it has been read. Unlike [`read`](Self::read), the whole may take
    /// longer than a call of Paho may wait. By default it reads 64 records at a time.
    ///
    /// # Errors
    ///
    /// Any reason why one of them cannot be read. The values before it have been passed.
    fn read_each(
        &mut self,
        keys: &[&str],
        on_value: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), Error> {
        const READ_CHUNK: usize = 64;
        for chunk in keys.chunks(READ_CHUNK) {
            self.read(chunk)?.into_iter().for_each(&mut *on_value);
        }
        Ok(())
    }

    /// Requests records in advance that the next [`read`](Self::read) will probably ask for with the same
    /// keys, and does not wait for them. By default it does nothing.
    ///
    /// That read must return nothing older than what was sent before the prefetch.
    ///
    /// # Errors
    ///
    /// Any reason why the store cannot be used any more.
    fn prefetch(&mut self, keys: &[&str]) -> Result<(), Error> {
        let _ = keys;
        Ok(())
    }

    /// Sends groups of changes, which are applied after everything sent before.
    ///
    /// Once it has returned, the changes survive the death of this process. Only the next
    /// [`confirm`](Self::confirm) shows whether they were applied.
    ///
    /// # Errors
    ///
    /// Any reason why they cannot be sent. It is then unknown which of them are applied.
    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error>;

    /// Sends groups of changes, possibly none, and waits until these and all that were [sent](Self::send)
    /// before have been applied.
    ///
    /// `sent` lists the records that have been sent since the last `confirm`, in their final state. A
    /// store that receives no replies to `send` verifies its records against it.
    ///
    /// # Errors
    ///
    /// The first reply that is an error, any reason why the replies cannot be read, or a record that
    /// differs from `sent`. It is then unknown which of the changes were applied.
    fn confirm(&mut self, sent: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error>;

    /// Repeats groups of changes after an outage, and waits until they have been applied.
    ///
    /// No call of Paho waits for it, so it may take longer if there is more to write. By default it calls
    /// [`confirm`](Self::confirm).
    ///
    /// # Errors
    ///
    /// The same as [`confirm`](Self::confirm).
    fn rewrite(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.confirm(&[], groups)
    }

    /// Finds sets of records whose names begin with `prefix`, but for the connected one.
    ///
    /// The search may be limited in time and number, so the list need not be complete. By default it
    /// finds none.
    ///
    /// # Errors
    ///
    /// Any reason why the names cannot be listed. The connection to the records stays usable or is made
    /// again by the next call.
    fn find_others(&mut self, prefix: &str) -> Result<Vec<OtherRecords>, Error> {
        let _ = prefix;
        Ok(Vec::new())
    }

    /// Creates a store for the same backend, not connected, which can be connected to another name.
    ///
    /// By default there is none, so records cannot be [adopted](Self::adopt).
    fn another(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// Moves groups of records here from another name, and waits until that is done: each group is put here
    /// and removed there in one step.
    ///
    /// # Errors
    ///
    /// Any reason why a group cannot be moved. It is then unknown which of them were.
    fn adopt(&mut self, from: &str, groups: &[&[Adopted<'_>]]) -> Result<(), Error> {
        let _ = groups;
        Err(Error::new(
            ErrorKind::InvalidOption,
            format!("adopt the records of {from}"),
        )
        .with_reason("this store cannot move records from one name to another"))
    }

    /// Returns the names of all records in a place, in any order, including what others put there.
    ///
    /// By default there are none, as for a store that drops what is set aside.
    ///
    /// # Errors
    ///
    /// Any reason why a name cannot be read.
    fn set_aside_names(&mut self, place: Place) -> Result<Vec<Vec<u8>>, Error> {
        let _ = place;
        Ok(Vec::new())
    }

    /// Returns the values of these records of a place, in the same order; `None` for a missing one, and
    /// for all of them by default.
    ///
    /// # Errors
    ///
    /// Any reason why one of them cannot be read.
    fn read_set_aside(
        &mut self,
        place: Place,
        names: &[&str],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let _ = place;
        Ok(vec![None; names.len()])
    }

    /// Returns what was saved last with [`save_send_counts`](Self::save_send_counts), and `None` if nothing
    /// was.
    ///
    /// By default there is nothing, as for a store that drops it: sends are then counted per run.
    ///
    /// # Errors
    ///
    /// Any reason why it cannot be read.
    fn read_send_counts(&mut self) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }

    /// Saves how often messages in flight were sent, beside the records, in place of what was saved before;
    /// `None` removes that.
    ///
    /// # Errors
    ///
    /// Any reason why it cannot be written.
    fn save_send_counts(&mut self, counts: Option<&[u8]>) -> Result<(), Error> {
        let _ = counts;
        Ok(())
    }

    /// Closes the connection. The records stay.
    fn close(&mut self);
}
