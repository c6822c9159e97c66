//! A program is killed at random instants with a real broker, and every message that it had accepted arrives.
//!
//! Some rounds of each row; `scripts/crash-random` does hundreds.

use testkit::harness::{
    Versions,
    random_kills::{Account, Row},
};

macro_rules! rows {
    ($($test:ident: $versions:ident, $breaks:literal;)*) => {
        const ROWS: &[Row] = &[$(Row { versions: Versions::$versions, breaks: $breaks }),*];

        $(#[test]
        fn $test() {
            loses_nothing(Row { versions: Versions::$versions, breaks: $breaks });
        })*
    };
}

rows! {
    random_kill_with_mqtt5_loses_nothing: V5, false;
    random_kill_with_mqtt5_and_cuts_loses_nothing: V5, true;
    random_kill_with_mqtt3_loses_nothing: V3, false;
    random_kill_with_mqtt3_and_cuts_loses_nothing: V3, true;
}

fn loses_nothing(row: Row) {
    let account: Account = row.run(18, 1);
    assert!(account.killed >= 10, "{row}: {account:#?}");
    assert!(account.balance.accepted[2] >= 100, "{row}: {account:#?}");
    assert!(account.is_clean(), "{row}: {account:#?}");
}

#[test]
fn every_row_of_random_kills_is_tested() {
    assert_eq!(ROWS, Row::ALL);
}
