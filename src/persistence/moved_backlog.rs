//! Finds backlogs of a client id under other server URIs.

use crate::{error::Error, store::Store};

/// Records of a client id under another server URI than that of its present client. Later versions may
/// add fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MovedBacklog {
    /// The server URI under which the records are stored, without its scheme.
    pub server_uri: String,
    /// Their number, foreign entries included.
    pub records: usize,
}

/// Finds records of this client id under other names than the connected one.
pub(super) fn find_backlogs(
    store: &mut impl Store,
    client_id: &str,
) -> Result<Vec<MovedBacklog>, Error> {
    let prefix = format!("{client_id}:");
    let others = store.find_others(&prefix)?.into_iter();
    let backlogs = others.filter_map(|other| {
        Some(MovedBacklog {
            server_uri: other.name.strip_prefix(&prefix)?.to_owned(),
            records: other.records,
        })
    });
    Ok(backlogs.collect())
}
