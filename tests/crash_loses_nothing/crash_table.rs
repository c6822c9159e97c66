//! A program is killed at a call, in a request or at a packet, and every message that it had accepted arrives.
//!
//! Some points of each row; `scripts/crash-table` tries them all.

use testkit::harness::{
    ClientKind::{self, Bare, Session},
    Versions::{self, Default3, V3, V5},
    crash_table::{Crash, Row, Store},
};

const SOCKET: Store = Store::Redis {
    tcp: false,
    pipelined: false,
};
const SOCKET_PIPELINED: Store = Store::Redis {
    tcp: false,
    pipelined: true,
};
const TCP: Store = Store::Redis {
    tcp: true,
    pipelined: false,
};
const TCP_PIPELINED: Store = Store::Redis {
    tcp: true,
    pipelined: true,
};

const SYNCED: Store = Store::Synced;

/// Defines a module per combination of client, store, versions and session, with a test per kind of crash.
macro_rules! groups {
    ($($group:ident: $client:ident, $store:ident, $versions:ident, $forgets:literal;)*) => {
        const GROUPS: &[(ClientKind, Store, Versions, bool)] = &[$(($client, $store, $versions, $forgets)),*];

        $(mod $group {
            use super::*;

            #[test]
            fn crash_at_call_loses_nothing() {
                loses_nothing(($client, $store), $versions, $forgets, Crash::Call);
            }

            #[test]
            fn crash_at_call_in_two_runs_loses_nothing() {
                loses_nothing(($client, $store), $versions, $forgets, Crash::Twice);
            }

            #[test]
            fn crash_within_request_loses_nothing() {
                loses_nothing(($client, $store), $versions, $forgets, Crash::Request);
            }

            #[test]
            fn crash_at_packet_loses_nothing() {
                loses_nothing(($client, $store), $versions, $forgets, Crash::Packet);
            }
        })*
    };
}

groups! {
    mqtt5_session_kept: Bare, SOCKET, V5, false;
    mqtt5_session_forgotten: Bare, SOCKET, V5, true;
    mqtt3_session_kept: Bare, SOCKET, V3, false;
    mqtt3_session_forgotten: Bare, SOCKET, V3, true;
    mqtt3_created_for_5_session_kept: Bare, SOCKET, Default3, false;
    mqtt3_created_for_5_session_forgotten: Bare, SOCKET, Default3, true;
    pipelined: Bare, SOCKET_PIPELINED, V5, false;
    tcp: Bare, TCP, V5, false;
    tcp_pipelined: Bare, TCP_PIPELINED, V5, false;
    synced: Bare, SYNCED, V5, false;
    client_that_reconnects: Session, SOCKET, V5, false;
    client_that_reconnects_pipelined: Session, SOCKET_PIPELINED, V3, false;
}

fn loses_nothing(
    (client, store): (ClientKind, Store),
    versions: Versions,
    forgets: bool,
    crash: Crash,
) {
    let row = Row::of_program((client, store), versions, forgets, crash);
    let stride = match crash {
        Crash::Call => 13,
        Crash::Twice => 41,
        Crash::Request => 20,
        Crash::Packet => 2,
    };
    // A few for the client that reconnects: the calls are the same.
    let (stride, most) = match client {
        Bare => (stride, 40),
        Session => (stride * 4, 8),
    };
    assert_clean(row, stride, most);
}

/// Asserts that every `stride`-th point of the row, and at most `most` of them, has no unknown error.
pub(super) fn assert_clean(row: Row, stride: usize, most: usize) {
    let tally = row.run(stride, most, 1);
    assert!(
        tally.points >= most.min(20),
        "{row}: {} points only",
        tally.points
    );
    for (wrong, trace) in tally.traces {
        assert!(
            !row.is_unknown(&wrong),
            "{row}: {}\n{trace}",
            wrong.join("; ")
        );
    }
}

#[test]
fn every_row_over_unix_socket_is_tested() {
    let tested: Vec<Row> = GROUPS
        .iter()
        .filter(|(client, ..)| *client == Bare)
        .flat_map(|&(client, store, versions, forgets)| {
            Crash::ALL.map(|crash| Row::of_program((client, store), versions, forgets, crash))
        })
        .collect();
    let mut expected = Row::all(Bare);
    expected.retain(|row| match row.store {
        Store::Redis {
            tcp: false,
            pipelined: false,
        }
        | Store::Synced => true,
        Store::Redis { .. } => row.versions == V5 && !row.forgets,
        Store::Files | Store::Replicated => false,
    });
    assert_eq!(tested, expected);
}

#[test]
fn client_that_reconnects_has_rows_of_both_versions() {
    let rows = Row::all(Session);
    for versions in [V5, V3] {
        assert!(rows.iter().any(|row| row.versions == versions));
    }
    for &(client, store, versions, forgets) in GROUPS {
        let is_it =
            |row: &&Row| (row.store, row.versions, row.forgets) == (store, versions, forgets);
        let crashes = rows.iter().filter(is_it).count();
        assert!(client == Bare || crashes == Crash::ALL.len());
    }
}
