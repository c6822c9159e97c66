//! Paho's formats and rules: pure functions without a store or a lock.

mod byte_reader;
mod command;
mod contains_key_abi;
mod conversion;
mod departure;
mod expiry;
mod key;
mod packet;
mod properties;
mod queued_message;
mod sequence;
mod store_name;
mod stored_message;
mod validation;

pub(crate) use command::{Command, command_packet_id, set_command_packet_id};
#[cfg(feature = "cli")]
pub(crate) use command::{Subscription, subscription};
pub(crate) use contains_key_abi::to_abi;
pub(crate) use conversion::convert;
pub use departure::DropReason;
pub(crate) use departure::{CallHistory, Content, Departure};
#[cfg(feature = "cli")]
pub(crate) use expiry::{expiry_time, is_same_but_for_expiry};
pub(crate) use expiry::{is_expired, set_expiry_time, set_remaining_interval};
pub use key::{Key, RecordKind};
pub(crate) use key::{KeyHasher, KeyMap, KeyName, version_name, with_key_names};
pub(crate) use packet::{Publish, qos_of_publish, set_record_number};
pub(crate) use properties::PropertyValue;
pub(crate) use sequence::sort_by_sequence;
pub(crate) use store_name::{record_set_name, strip_scheme};
pub(crate) use stored_message::StoredMessage;
pub(crate) use validation::is_valid_record;
#[cfg(all(test, feature = "metrics"))]
pub(crate) use validation::sample_record;
