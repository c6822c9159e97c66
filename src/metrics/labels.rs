//! Label values: closed lists, each value with its text.

use crate::paho::RecordKind;

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
}

/// Values of the `qos` label.
pub(crate) const QOS_LABELS: [&str; 3] = ["0", "1", "2"];

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::ErrorKind,
        paho::DropReason,
        store::{Place, SetAsideLoss},
    };

    /// The prometheus crate hashes the concatenated label values without a separator. A free text
    /// before values of closed lists is safe only if no value is a suffix of another.
    #[test]
    fn client_ids_never_make_series_collide() {
        let kinds = KindLabel::ALL.map(KindLabel::as_str);
        let operations = OperationLabel::ALL.map(OperationLabel::as_str);
        let errors = operations.iter().flat_map(|operation| {
            ErrorKind::ALL
                .iter()
                .map(move |error| format!("{operation}{error}"))
        });
        let drops = kinds.iter().flat_map(|kind| {
            let reasons = DropReason::ALL.iter();
            reasons.map(move |reason| format!("{kind}{}", reason.as_str()))
        });
        let places = Place::BOTH.map(Place::as_str);
        let losses = places.iter().flat_map(|place| {
            let reasons = SetAsideLoss::ALL.iter();
            reasons.map(move |reason| format!("{place}{}", reason.as_str()))
        });
        let lists: [Vec<String>; 7] = [
            losses.collect(),
            places.map(str::to_owned).to_vec(),
            drops.collect(),
            QOS_LABELS.map(str::to_owned).to_vec(),
            kinds.map(str::to_owned).to_vec(),
            operations.map(str::to_owned).to_vec(),
            errors.collect(),
        ];
        for list in lists {
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
}
