//! The backlog of a client under another server URI.

use std::{collections::HashSet, ops::ControlFlow};

use super::{client_name::client_id_of, server::Server};
use crate::{
    Adoption,
    cache::plan_moves,
    error::{Error, ErrorKind},
    paho::{Key, record_set_name, strip_scheme},
    persistence::adopt_all,
    store::Store,
};

/// The effect that an adoption would have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AdoptionPlan {
    /// Number of messages that would move.
    pub messages: usize,
    /// Number of their records.
    pub records: usize,
    /// Number of messages that would get another number, or packet id.
    pub renumbered: usize,
    /// Records that would stay, since Paho could not read them.
    pub unreadable: Vec<Key>,
    /// Inbound messages that would stay, since their packet ids are in use there.
    pub in_use: Vec<Key>,
    /// Number of entries that would stay, since Paho did not write them.
    pub foreign: usize,
}

impl Server {
    /// Returns the client id of the records `name`, which [`resolve`](Self::resolve) has found for `client`.
    #[must_use]
    pub fn client_id<'a>(&self, client: &'a str, name: &'a str) -> &'a str {
        client_id_of(client, name)
    }

    /// Returns the name of the records of the same client under another server URI.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`] if it is the same.
    pub fn name_under(&self, client_id: &str, from: &str, uri: &str) -> Result<String, Error> {
        let name = record_set_name(client_id, strip_scheme(uri))?;
        if name == from {
            let attempt = format!("adopt the records of {from}");
            let error = Error::new(ErrorKind::InvalidOption, attempt);
            return Err(error.with_reason("they have this server URI already"));
        }
        Ok(name)
    }

    /// Plans to move the records of `from` to those of `name`, and changes nothing.
    ///
    /// # Errors
    ///
    /// Any reason why one of the two cannot be read.
    pub fn plan_adoption(&mut self, name: &str, from: &str) -> Result<AdoptionPlan, Error> {
        let source = self.listing(from)?;
        let old: Vec<Key> = source.keys().collect();
        let present: Vec<Key> = self.listing(name)?.keys().collect();
        let mut unreadable = HashSet::new();
        self.read_messages(from, &source.messages, |records| {
            let damaged = records.iter().filter(|record| !record.is_valid());
            unreadable.extend(damaged.map(|record| record.key));
            ControlFlow::Continue(())
        })?;
        let mut plan = AdoptionPlan {
            foreign: source.foreign.len(),
            ..AdoptionPlan::default()
        };
        let mut planned = HashSet::new();
        for message in plan_moves(&old, &present) {
            planned.extend(message.iter().map(|(old, _)| *old));
            let moves = message.iter().filter(|(old, _)| !unreadable.contains(old));
            let moves: Vec<_> = moves.collect();
            plan.records = plan.records.saturating_add(moves.len());
            plan.messages = plan.messages.saturating_add(usize::from(!moves.is_empty()));
            let is_renumbered = moves.iter().any(|(old, new)| old != new);
            plan.renumbered = plan.renumbered.saturating_add(usize::from(is_renumbered));
        }
        let in_order = old;
        plan.in_use = in_order
            .iter()
            .copied()
            .filter(|key| !planned.contains(key))
            .collect();
        plan.unreadable = in_order
            .into_iter()
            .filter(|key| planned.contains(key) && unreadable.contains(key))
            .collect();
        Ok(plan)
    }

    /// Moves the records of `from` to those of `name`, in front of what waits there, each message in one
    /// step. A further call moves the rest.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InUse`] while a program is connected with one of the two, and any reason why the
    /// records cannot be read or written.
    pub fn adopt(&self, name: &str, from: &str) -> Result<Adoption, Error> {
        let mut target = self.own(name)?;
        let mut source = self.own_to_remove(from)?;
        let adoption = adopt_all(target.live_store()?, source.live_store()?, from);
        source.store().close();
        adoption
    }
}
