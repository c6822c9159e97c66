//! Messages of real clients move there and back, and are sent.

use testkit::backlog::migration::{State, kill, measure};

#[test]
fn waiting_messages_move_to_redis_and_back() {
    measure(State::Waiting, 1_100);
}

#[test]
fn messages_in_flight_move_faster_than_restore() {
    let measured = measure(State::InFlight, 400);
    assert!(measured.restore > measured.from_files, "{measured:?}");
}

#[test]
fn killed_move_loses_and_doubles_nothing() {
    assert_eq!(kill(1_100, 5, 1), 5);
}
