//! Losses, repetitions and disorder that no persistence can prevent, and that the invariants allow.
//!
//! Each reason excuses single messages, and only where it applies. Everything else is a violation.
//!
//! Without a reason of their own:
//!
//! - QoS 1 messages and PUBRELs may be repeated, as MQTT has it: their removes are deferred for a tick, and a crash drops them.
//! - Paho sorts what it restores in flight by packet id, so two messages that were both in flight may change places.
//! - Inbound messages are not counted. A crash between `put r` and the callback loses one, and a stale `r`, as a program leaves it that
//!   dies in an outage, swallows the next one of its packet id.

/// The program died in an outage: what only its memory had is lost, and what it had removed is still in the store.
pub const DIED_IN_OUTAGE: &str = "the program died in an outage";

/// The store lost the record while the program was dead, or died before it could write the record again.
pub const STORE_LOST: &str = "the store lost it, and nobody had a copy";

/// The store lost the record, the program had evicted its value, and the loss was counted.
pub const COUNTED_AS_LOST: &str = "the store lost it, and it was counted as lost";

/// `Durability::Pipelined`: the store refused or lost what had been sent in the last tick, unseen, and the program died.
pub const PIPELINED: &str = "pipelined, lost by the store before it was confirmed";

/// `Durability::Confirmed` and `Pipelined`: the power failed before the disk of the store had the record.
pub const POWER_CUT: &str = "the power failed before the disk had it";

/// Without `replicas`: program and primary died before the replica had the record.
pub const FAILOVER: &str = "the primary died before its replica had it";

/// The store came back with older data while the program was dead: what it repeats or lacks follows from them.
pub const OLDER_DATA: &str = "older data came back";

/// Paho removed the message itself: `delete_oldest_messages`, or a session that ended.
pub const DISCARDED: &str = "Paho discarded it";

/// The broker lost its session: it no longer knows which messages it has delivered.
pub const SESSION_LOST: &str = "the broker lost its session";

/// Created for one version and connected with the other: Paho damages what it restores.
pub const VERSIONS_DIFFER: &str = "created for another version than it connects with";

/// `get` failed in an outage, so Paho forgot the command until the next start.
pub const FORGOTTEN: &str = "Paho forgot it, since its value could not be read";

/// A message got the packet id of another one that a dead program had in flight and lost: the broker takes it for that one.
pub const PACKET_ID_OF_LOST: &str = "its packet id is that of a message in flight that was lost";
