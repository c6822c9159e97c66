//! Moves the backlog that a client left under another server URI.

use tracing::info;

use super::{
    client_persistence::Persistence,
    config::PersistenceConfig,
    guarded_store::GuardedStore,
    lifecycle::Lifecycle,
    moved_backlog::{MovedBacklog, find_backlogs},
    opening::connect,
};
use crate::{
    cache::adopt_records,
    error::{Error, ErrorKind},
    paho::{record_set_name, strip_scheme},
    store::Store,
};

/// The result of an [`adopt`](Persistence::adopt). Later versions may add fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Adoption {
    /// Number of records that were moved.
    pub moved: usize,
    /// Number of entries that stay under the other server URI: foreign ones, those that Paho could not read,
    /// and inbound messages whose packet id is in use here.
    pub left: usize,
}

/// Moves all records of `source`, whose name is `from`, to `store`; both are connected.
pub(crate) fn adopt_all<S: Store>(
    store: &mut S,
    source: &mut S,
    from: &str,
) -> Result<Adoption, Error> {
    let moved = adopt_records(store, source, from)?;
    let left = source.keys()?.len();
    Ok(Adoption { moved, left })
}

impl<S: Store> Persistence<S> {
    /// Finds records of this client id under another server URI than this one.
    ///
    /// The name of the records has the server URI in it, so a client that is created with another address
    /// of its broker finds none of its backlog. [`connect`](Self::connect) looks for it too, and logs a
    /// warning. Call this before a client is created; it connects as `connect` does.
    ///
    /// # Errors
    ///
    /// The errors of [`connect`](Self::connect), and any reason why the store cannot list what it has, such
    /// as the missing right `+scan` of Redis.
    pub fn find_moved_backlogs(
        &mut self,
        client_id: &str,
        server_uri: &str,
    ) -> Result<Vec<MovedBacklog>, Error> {
        let name = record_set_name(client_id, strip_scheme(server_uri))?;
        let attempt = || format!("look for other records than {name}");
        self.with_closed_store(attempt, |store, config| {
            connect(store, &name, config)?;
            find_backlogs(store, client_id)
        })
    }

    /// Moves the records of this client id under another server URI to those under `server_uri`.
    ///
    /// Call it before a client is created, with the URI that the client is created with and then the one
    /// that it was created with before. What waited there is older, so it is sent before what waits here.
    /// Each message moves in one step. After an error or a crash nothing is lost, and a further call moves
    /// the rest. A record that is here is never written over: a message in flight whose packet id is in use
    /// here gets another one, and if it was sent at QoS 2, the broker may take it for a new message.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InUse`] while another program uses one of the two, [`ErrorKind::InvalidOption`] if both
    /// URIs are the same or the store cannot move records, and any reason why the records cannot be read
    /// or written.
    pub fn adopt(
        &mut self,
        client_id: &str,
        server_uri: &str,
        from_server_uri: &str,
    ) -> Result<Adoption, Error> {
        let name = record_set_name(client_id, strip_scheme(server_uri))?;
        let from = record_set_name(client_id, strip_scheme(from_server_uri))?;
        let attempt = || format!("adopt the records of {from}");
        let invalid = |reason| Error::new(ErrorKind::InvalidOption, attempt()).with_reason(reason);
        if name == from {
            return Err(invalid("they have this server URI already"));
        }
        let adoption = self.with_closed_store(attempt, |store, config| {
            let Some(mut source) = store.another() else {
                return Err(invalid(
                    "this store cannot move records from one name to another",
                ));
            };
            connect(store, &name, config)?;
            let adoption = connect(&mut source, &from, config)
                .and_then(|_| adopt_all(store, &mut source, &from));
            source.close();
            adoption
        })?;
        let Adoption { moved, left } = adoption;
        info!(
            "db.system.name" = S::NAME,
            "messaging.client.id" = client_id,
            server_uri,
            records = moved,
            left,
            "adopted the records of {from}"
        );
        Ok(adoption)
    }

    /// Runs `work` on the store while the persistence is closed.
    fn with_closed_store<T>(
        &mut self,
        attempt: impl FnOnce() -> String,
        work: impl FnOnce(&mut GuardedStore<S>, &PersistenceConfig) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut store = self.begin_opening(attempt)?;
        let result = work(&mut store, &self.shared().config);
        self.end_opening(Lifecycle::Closed(store));
        result
    }
}
