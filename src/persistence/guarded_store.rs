//! Keeps the panics of a store away from Paho and from the worker.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    error::{Error, ErrorKind},
    store::{Adopted, Connected, Group, OtherRecords, Place, Sent, Store},
};

/// A store whose panics are errors.
///
/// A panic under a call of Paho would end the process, since it would cross C code. In the worker it
/// would end the recovery for good.
pub(super) struct GuardedStore<S>(pub(super) S);

impl<S: Store> GuardedStore<S> {
    fn guard<T>(
        &mut self,
        attempt: &str,
        work: impl FnOnce(&mut S) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let store = &mut self.0;
        catch_unwind(AssertUnwindSafe(|| work(store))).unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Other, attempt)
                .with_reason("the store panicked; this is a defect of the store"))
        })
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for GuardedStore<S> {
    const NAME: &'static str = S::NAME;

    fn connect(&mut self, name: &str) -> Result<Connected, Error> {
        self.guard("connect to the store", |store| store.connect(name))
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        self.guard("list the records", S::keys)
    }

    fn check(&mut self) -> Result<usize, Error> {
        self.guard("check the store", S::check)
    }

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.guard("read records", |store| store.read(keys))
    }

    fn read_each(
        &mut self,
        keys: &[&str],
        on_value: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), Error> {
        self.guard("read records", |store| store.read_each(keys, on_value))
    }

    fn prefetch(&mut self, keys: &[&str]) -> Result<(), Error> {
        self.guard("read records ahead", |store| store.prefetch(keys))
    }

    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.guard("send writes", |store| store.send(groups))
    }

    fn confirm(&mut self, sent: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error> {
        self.guard("confirm writes", |store| store.confirm(sent, groups))
    }

    fn rewrite(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.guard("repeat writes", |store| store.rewrite(groups))
    }

    fn find_others(&mut self, prefix: &str) -> Result<Vec<OtherRecords>, Error> {
        self.guard("look for other records", |store| store.find_others(prefix))
    }

    fn another(&self) -> Option<Self> {
        let another = catch_unwind(AssertUnwindSafe(|| self.0.another()));
        another.ok().flatten().map(Self)
    }

    fn adopt(&mut self, from: &str, groups: &[&[Adopted<'_>]]) -> Result<(), Error> {
        self.guard("adopt records", |store| store.adopt(from, groups))
    }

    fn set_aside_names(&mut self, place: Place) -> Result<Vec<Vec<u8>>, Error> {
        self.guard("list what is set aside", |store| {
            store.set_aside_names(place)
        })
    }

    fn read_set_aside(
        &mut self,
        place: Place,
        names: &[&str],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.guard("read what is set aside", |store| {
            store.read_set_aside(place, names)
        })
    }

    fn read_send_counts(&mut self) -> Result<Option<Vec<u8>>, Error> {
        self.guard("read the counts of sends", S::read_send_counts)
    }

    fn save_send_counts(&mut self, counts: Option<&[u8]>) -> Result<(), Error> {
        self.guard("save the counts of sends", |store| {
            store.save_send_counts(counts)
        })
    }

    fn close(&mut self) {
        // The connection of a store that panics here is its own loss.
        drop(self.guard("close the store", |store| {
            store.close();
            Ok(())
        }));
    }
}
