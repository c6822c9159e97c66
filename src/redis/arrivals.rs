//! Records that arrive from a place that shares no transaction with Redis.
//!
//! There a record is removed only after it has been written here. If the program dies between the two, the
//! next one has to know what has arrived: each transaction that writes records also notes them, in a hash
//! beside that of the records.

use super::{
    command_buffer::CommandBuffer,
    connect::transfer_time,
    exchange_error::ExchangeError,
    reader::RedisReader,
    store::{RedisStore, check_reply, hash_error},
    write_commands::arrivals_hash,
};
use crate::error::Error;

impl RedisStore {
    /// Writes records, and a note for this source that replaces its last one, in one transaction; waits
    /// until that is done.
    pub(crate) fn put_arrivals(
        &mut self,
        records: &[(&str, &[u8])],
        source: &str,
        note: &[u8],
    ) -> Result<(), Error> {
        let lengths = records.iter().map(|(_, value)| value.len());
        let bytes = lengths.fold(note.len(), usize::saturating_add);
        self.change_arrivals(bytes, |commands, hash, arrivals| {
            commands.push_words(&["MULTI"]);
            for (key, value) in records {
                commands.push_record(&["HSET", hash], key, value);
            }
            commands.push_record(&["HSET", arrivals], source, note);
            commands.push_words(&["EXEC"]);
        })
    }

    /// Removes records, and replaces or removes the note for this source, in one transaction; waits until
    /// that is done.
    pub(crate) fn remove_departed(
        &mut self,
        keys: &[&str],
        source: &str,
        note: Option<&str>,
    ) -> Result<(), Error> {
        self.change_arrivals(0, |commands, hash, arrivals| {
            commands.push_words(&["MULTI"]);
            commands.push_list(&["HDEL", hash], keys.iter().copied());
            match note {
                Some(note) => commands.push_words(&["HSET", arrivals, source, note]),
                None => commands.push_words(&["HDEL", arrivals, source]),
            }
            commands.push_words(&["EXEC"]);
        })
    }

    /// Returns the note of the last records that arrived from this source.
    pub(crate) fn arrivals(&mut self, source: &str) -> Result<Option<Vec<u8>>, Error> {
        let limit = self.config.operation_timeout;
        let config = self.config.clone();
        let mut note = None;
        let read = self.with_connection("read from", limit, |connection, hash| {
            let arrivals = arrivals_hash(hash);
            let read = connection.values(&arrivals, &[source], None, &mut |value| note = value);
            // The error names the key to which a right is missing.
            Ok(match read {
                Err(failure @ ExchangeError::ErrorReply(..)) => {
                    Err(hash_error(failure, "read from", &arrivals, &config))
                }
                done => Ok(done?),
            })
        })?;
        read?;
        Ok(note)
    }

    /// Lists the sources that have a note.
    pub(crate) fn arrival_sources(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let limit = self.config.operation_timeout;
        self.with_connection("list the arrivals of", limit, |connection, hash| {
            connection.keys(&["HKEYS", &arrivals_hash(hash)])
        })
    }

    /// Removes the notes of these sources.
    pub(crate) fn forget_arrivals(&mut self, sources: &[&str]) -> Result<(), Error> {
        if sources.is_empty() {
            return Ok(());
        }
        self.change_arrivals(0, |commands, _, arrivals| {
            commands.push_words(&[&["HDEL", arrivals], sources].concat());
        })
    }

    /// Makes an exchange with commands about the hash of the records and that of their arrivals.
    fn change_arrivals<'v>(
        &mut self,
        bytes: usize,
        encode: impl FnOnce(&mut CommandBuffer<'v>, &str, &str),
    ) -> Result<(), Error> {
        let limit = self.config.operation_timeout;
        let limit = limit.saturating_add(transfer_time(bytes));
        self.with_connection("write to", limit, |connection, hash| {
            connection.exchange(
                |commands| encode(commands, hash, &arrivals_hash(hash)),
                |replies| {
                    while replies.has_replies_due() {
                        check_reply(replies.read_reply()?)?;
                    }
                    Ok(())
                },
            )
        })
    }
}

impl RedisReader {
    /// Removes the notes of these sources beside the records with this name, which need no owner: no program
    /// reads them.
    pub(crate) fn forget_arrivals(&mut self, name: &str, sources: &[&str]) -> Result<(), Error> {
        let arrivals = arrivals_hash(&self.hash(name, None));
        self.with_hash("write to", &arrivals, |connection| {
            connection.exchange(
                |commands| commands.push_words(&[&["HDEL", &arrivals], sources].concat()),
                |replies| check_reply(replies.read_reply()?),
            )
        })
    }
}
