//! A program is killed at a call, in a request or at a packet, and every message that it had accepted arrives.
//!
//! Some points of each row; `scripts/crash-table` tries them all.

use testkit::harness::{
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

/// Defines a module per combination of store, versions and session, with a test per kind of crash.
macro_rules! groups {
    ($($group:ident: $store:ident, $versions:ident, $forgets:literal;)*) => {
        const GROUPS: &[(Store, Versions, bool)] = &[$(($store, $versions, $forgets)),*];

        $(mod $group {
            use super::*;

            #[test]
            fn crash_at_call_loses_nothing() {
                loses_nothing($store, $versions, $forgets, Crash::Call);
            }

            #[test]
            fn crash_at_call_in_two_runs_loses_nothing() {
                loses_nothing($store, $versions, $forgets, Crash::Twice);
            }

            #[test]
            fn crash_within_request_loses_nothing() {
                loses_nothing($store, $versions, $forgets, Crash::Request);
            }

            #[test]
            fn crash_at_packet_loses_nothing() {
                loses_nothing($store, $versions, $forgets, Crash::Packet);
            }
        })*
    };
}

groups! {
    mqtt5_session_kept: SOCKET, V5, false;
    mqtt5_session_forgotten: SOCKET, V5, true;
    mqtt3_session_kept: SOCKET, V3, false;
    mqtt3_session_forgotten: SOCKET, V3, true;
    mqtt3_created_for_5_session_kept: SOCKET, Default3, false;
    mqtt3_created_for_5_session_forgotten: SOCKET, Default3, true;
    pipelined: SOCKET_PIPELINED, V5, false;
    tcp: TCP, V5, false;
    tcp_pipelined: TCP_PIPELINED, V5, false;
}

fn loses_nothing(store: Store, versions: Versions, forgets: bool, crash: Crash) {
    let row = Row {
        store,
        versions,
        forgets,
        crash,
    };
    let stride = match crash {
        Crash::Call => 13,
        Crash::Twice => 41,
        Crash::Request => 20,
        Crash::Packet => 2,
    };
    let tally = row.run(stride, 40, 1);
    assert!(tally.points >= 20, "{row}: {} points only", tally.points);
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
        .flat_map(|&(store, versions, forgets)| {
            Crash::ALL.map(|crash| Row {
                store,
                versions,
                forgets,
                crash,
            })
        })
        .collect();
    let mut expected = Row::all();
    expected.retain(|row| match row.store {
        Store::Redis {
            tcp: false,
            pipelined: false,
        } => true,
        Store::Redis { .. } => row.versions == V5 && !row.forgets,
        Store::Files => false,
    });
    assert_eq!(tested, expected);
}
