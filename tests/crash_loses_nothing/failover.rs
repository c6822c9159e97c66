//! A program and its Redis die together, or only that one does: the replica takes over, and every message that the program had
//! accepted arrives.
//!
//! The replica has nothing but what was waited for. Some points of each kind; `scripts/crash-table` tries them all.

use testkit::harness::{
    ClientKind::Bare,
    Versions::{self, V3, V5},
    Victim,
    crash_table::{Crash, Row, Store},
};

use super::crash_table::assert_clean;

/// Tries every `stride`-th point, and at most `most` of them.
fn loses_nothing(victim: Victim, versions: Versions, crash: Crash, (stride, most): (usize, usize)) {
    let row = Row {
        victim,
        ..Row::of_program((Bare, Store::Replicated), versions, false, crash)
    };
    assert_clean(row, stride, most);
}

/// Each of the first calls, with which records of inbound messages come and go.
#[test]
fn crash_with_redis_at_call_loses_nothing() {
    loses_nothing(Victim::Board, V5, Crash::Call, (1, 48));
}

#[test]
fn crash_with_redis_in_two_runs_loses_nothing() {
    loses_nothing(Victim::Board, V3, Crash::Twice, (41, 8));
}

#[test]
fn crash_with_redis_within_request_loses_nothing() {
    loses_nothing(Victim::Board, V3, Crash::Request, (7, 20));
}

#[test]
fn crash_with_redis_at_packet_loses_nothing() {
    loses_nothing(Victim::Board, V5, Crash::Packet, (6, 8));
}

#[test]
fn crash_of_redis_at_call_loses_nothing() {
    loses_nothing(Victim::Redis, V3, Crash::Call, (7, 12));
}

#[test]
fn crash_of_redis_within_request_loses_nothing() {
    loses_nothing(Victim::Redis, V5, Crash::Request, (9, 15));
}

#[test]
fn crash_of_redis_at_packet_loses_nothing() {
    loses_nothing(Victim::Redis, V3, Crash::Packet, (6, 8));
}
