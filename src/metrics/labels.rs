//! Label values: closed lists, each value with its text.

use std::iter;

use crate::{
    error::ErrorKind,
    paho::{DropReason, RecordKind},
    store::{Place, SetAsideLoss},
};

/// The values of one label, or of several, beside `client_id`.
pub(crate) trait LabelSet: PartialEq + 'static {
    const NAMES: &'static [&'static str];

    /// Returns every value that can occur, so that no series exists that can never move.
    fn all() -> impl Iterator<Item = Self>;

    /// Returns the text of each label.
    fn values(&self) -> Vec<&str>;

    /// Returns the label values of a series of a client.
    fn of_client<'a>(&'a self, label: &'a str) -> Vec<&'a str> {
        [&[label], &*self.values()].concat()
    }
}

/// Implements [`LabelSet`]: the type, the names, every value, and the text of one.
macro_rules! label_sets {
    ($($type:ty, $names:expr, $all:expr, |$labels:pat_param| $values:expr;)+) => {
        $(impl LabelSet for $type {
            const NAMES: &'static [&'static str] = &$names;

            fn all() -> impl Iterator<Item = Self> {
                $all
            }

            fn values(&self) -> Vec<&str> {
                let $labels = self;
                $values.to_vec()
            }
        })+

        #[cfg(test)]
        fn all_values() -> Vec<Vec<String>> {
            vec![$(<$type>::all().map(|labels| labels.values().concat()).collect(),)+]
        }
    };
}

label_sets! {
    OperationLabel, ["operation"], Self::ALL.into_iter(), |operation| [operation.as_str()];
    MissLabel, ["operation"], Self::ALL.into_iter(), |MissLabel(operation)| [operation.as_str()];
    KindLabel, ["kind"], Self::ALL.into_iter(), |kind| [kind.as_str()];
    QosLabel, ["qos"], Self::ALL.into_iter(), |QosLabel(qos)| [*qos];
    Place, ["place"], Self::BOTH.into_iter(), |place| [place.as_str()];
    // The errors of a store.
    ErrorKind, ["error"], Self::ALL.iter().copied().filter(|kind| a_store_returns(*kind)), |kind| [kind.as_str()];
    (OperationLabel, ErrorKind), ["operation", "error"],
        pairs(&OperationLabel::ALL, ErrorKind::ALL).filter(|(operation, kind)| operation.can_return(*kind)),
        |(operation, kind)| [operation.as_str(), kind.as_str()];
    (RecordKind, DropReason), ["kind", "reason"],
        pairs(&RECORD_KINDS, DropReason::ALL).filter(|(kind, reason)| reason.applies_to(*kind)),
        |(kind, reason)| [kind.as_str(), reason.as_str()];
    (Place, SetAsideLoss), ["place", "reason"],
        pairs(&Place::BOTH, SetAsideLoss::ALL).filter(|pair| *pair != (Place::Quarantine, SetAsideLoss::Unreadable)),
        |(place, reason)| [place.as_str(), reason.as_str()];
    // A store names itself and its server.
    BuildLabels, ["version", "store", "server"], iter::empty(),
        |BuildLabels { store, server }| [env!("CARGO_PKG_VERSION"), store, server];
}

/// A label whose values all occur, in the order of [`all`](LabelSet::all).
pub(crate) trait IndexedLabel: LabelSet {
    fn index(self) -> usize;
}

impl IndexedLabel for OperationLabel {
    fn index(self) -> usize {
        self as usize
    }
}

impl IndexedLabel for KindLabel {
    fn index(self) -> usize {
        self as usize
    }
}

impl IndexedLabel for Place {
    fn index(self) -> usize {
        self as usize
    }
}

/// Returns each value of one list with each of another.
fn pairs<A: Copy, B: Copy>(
    ones: &'static [A],
    others: &'static [B],
) -> impl Iterator<Item = (A, B)> {
    let ones = ones.iter().copied();
    ones.flat_map(|one| others.iter().map(move |other| (one, *other)))
}

/// Returns true if a store can return the error.
fn a_store_returns(kind: ErrorKind) -> bool {
    use ErrorKind::{
        Bind, Broker, Damaged, File, Full, InvalidClientId, InvalidKey, InvalidOption, NotFound,
        NotOpen, Registration, Render,
    };
    !matches!(
        kind,
        Bind | Broker
            | Damaged
            | File
            | Full
            | InvalidClientId
            | InvalidKey
            | InvalidOption
            | NotFound
            | NotOpen
            | Registration
            | Render
    )
}

/// Values of the `operation` label, one per call of Paho.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OperationLabel {
    Open,
    Close,
    Put,
    Get,
    Remove,
    Keys,
    Clear,
    ContainsKey,
}

impl OperationLabel {
    pub(crate) const ALL: [Self; 8] = [
        Self::Open,
        Self::Close,
        Self::Put,
        Self::Get,
        Self::Remove,
        Self::Keys,
        Self::Clear,
        Self::ContainsKey,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Put => "put",
            Self::Get => "get",
            Self::Remove => "remove",
            Self::Keys => "keys",
            Self::Clear => "clear",
            Self::ContainsKey => "contains_key",
        }
    }

    /// Returns true if the call can return the error.
    fn can_return(self, error: ErrorKind) -> bool {
        match error {
            _ if self == Self::ContainsKey => false,
            ErrorKind::InvalidOption
            | ErrorKind::Registration
            | ErrorKind::Bind
            | ErrorKind::Render
            | ErrorKind::Full
            | ErrorKind::Broker
            | ErrorKind::File => false,
            ErrorKind::InvalidClientId => self == Self::Open,
            ErrorKind::InvalidKey => matches!(self, Self::Put | Self::Get | Self::Remove),
            ErrorKind::NotOpen => !matches!(self, Self::Open | Self::Close),
            ErrorKind::NotFound | ErrorKind::Lost => self == Self::Get,
            ErrorKind::Damaged => self == Self::Put,
            _ => true,
        }
    }
}

/// An operation that may find no record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct MissLabel(pub(crate) OperationLabel);

impl MissLabel {
    const ALL: [Self; 2] = [Self(OperationLabel::Get), Self(OperationLabel::Remove)];
}

/// A value of the `qos` label.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct QosLabel(&'static str);

impl QosLabel {
    pub(crate) const ALL: [Self; 3] = [Self("0"), Self("1"), Self("2")];
}

/// The labels of `build_info` that differ between stores.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BuildLabels {
    pub(crate) store: &'static str,
    /// Name and version; empty until a server is known, and for a store without one.
    pub(crate) server: String,
}

/// Values of the `kind` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KindLabel {
    Command,
    SentPublish,
    SentPubrel,
    ReceivedPublish,
    Undelivered,
    /// A record under a key that Paho does not write.
    Other,
}

impl From<RecordKind> for KindLabel {
    fn from(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Command => Self::Command,
            RecordKind::SentPublish => Self::SentPublish,
            RecordKind::SentPubrel => Self::SentPubrel,
            RecordKind::ReceivedPublish => Self::ReceivedPublish,
            RecordKind::Undelivered => Self::Undelivered,
        }
    }
}

impl KindLabel {
    pub(crate) const ALL: [Self; 6] = [
        Self::Command,
        Self::SentPublish,
        Self::SentPubrel,
        Self::ReceivedPublish,
        Self::Undelivered,
        Self::Other,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Command => RecordKind::Command.as_str(),
            Self::SentPublish => RecordKind::SentPublish.as_str(),
            Self::SentPubrel => RecordKind::SentPubrel.as_str(),
            Self::ReceivedPublish => RecordKind::ReceivedPublish.as_str(),
            Self::Undelivered => RecordKind::Undelivered.as_str(),
            Self::Other => "other",
        }
    }
}

/// The kinds of record that Paho writes.
const RECORD_KINDS: [RecordKind; 5] = [
    RecordKind::Command,
    RecordKind::SentPublish,
    RecordKind::SentPubrel,
    RecordKind::ReceivedPublish,
    RecordKind::Undelivered,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The prometheus crate hashes the concatenated label values without a separator. A free text
    /// before values of closed lists is safe only if no value is a suffix of another.
    #[test]
    fn client_ids_never_make_series_collide() {
        let errors = ErrorKind::ALL.iter().map(|kind| kind.as_str().to_owned());
        for list in all_values().into_iter().chain([errors.collect()]) {
            for (position, one) in list.iter().enumerate() {
                for (other_position, other) in list.iter().enumerate() {
                    assert!(
                        position == other_position || !one.ends_with(other.as_str()),
                        "{one} {other}"
                    );
                }
            }
        }
    }

    fn check_index<L: IndexedLabel>() {
        assert!(L::all().map(L::index).eq(0..L::all().count()));
    }

    #[test]
    fn index_of_label_is_its_position() {
        check_index::<OperationLabel>();
        check_index::<KindLabel>();
        check_index::<Place>();
    }
}
