//! A store that reads, and only notes what it should write.

use crate::{
    error::{Error, ErrorKind},
    paho::Key,
    redis::RedisReader,
    store::{Change, Connected, Group, Place, Sent, Store},
};

/// The records of a client, for a trial of what opening would do with them.
pub(super) struct DryRun {
    reader: RedisReader,
    name: String,
    /// Receives each value that [`Store::read_each`] passes.
    on_value: OnValue,
    /// The records that opening would remove, those that it would set aside included.
    removed: Vec<Key>,
}

type OnValue = Box<dyn FnMut(Key, &[u8]) + Send>;

impl DryRun {
    pub(super) fn new(
        reader: RedisReader,
        name: &str,
        on_value: impl FnMut(Key, &[u8]) + Send + 'static,
    ) -> Self {
        Self {
            reader,
            name: name.to_owned(),
            on_value: Box::new(on_value),
            removed: Vec::new(),
        }
    }

    /// The records that opening would remove.
    pub(super) fn removed(&self) -> &[Key] {
        &self.removed
    }

    /// The names of what is set aside.
    fn names(&mut self, place: Place) -> Result<Vec<Vec<u8>>, Error> {
        self.reader.keys(&self.name, Some(place))
    }
}

impl Store for DryRun {
    const NAME: &'static str = "dry run";

    fn connect(&mut self, _name: &str) -> Result<Connected, Error> {
        Ok(Connected::default())
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        self.reader.keys(&self.name, None)
    }

    fn check(&mut self) -> Result<usize, Error> {
        Err(Error::new(ErrorKind::ReadOnly, "write to a dry run"))
    }

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.reader.values(&self.name, None, keys)
    }

    fn read_each(
        &mut self,
        keys: &[&str],
        on_value: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), Error> {
        let Self {
            reader,
            name,
            on_value: note,
            ..
        } = self;
        let mut rest = keys.iter();
        reader.values_each(name, None, keys, &mut |value| {
            let key = rest.next().and_then(|key| Key::parse(key));
            if let (Some(key), Some(value)) = (key, &value) {
                note(key, value);
            }
            on_value(value);
        })
    }

    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        for change in groups.iter().copied().flatten() {
            if let Change::Remove { key } = change {
                self.removed.extend(Key::parse(key));
            }
        }
        Ok(())
    }

    fn confirm(&mut self, _sent: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error> {
        self.send(groups)
    }

    fn set_aside_names(&mut self, place: Place) -> Result<Vec<Vec<u8>>, Error> {
        self.names(place)
    }

    fn close(&mut self) {}
}
