//! Whatever Redis does, the program continues to publish, no message is lost or duplicated, no call waits long, and Redis catches up
//! by itself.
//!
//! Every fault with a program that publishes, and some in the other settings; `scripts/faults` tries them all.

use std::collections::BTreeSet;

use testkit::harness::faults::{
    FAULTS, Run,
    Setting::{self, BrokerAway, Idle, Killed, Publishing},
};

/// Defines a test per fault and setting.
macro_rules! faults {
    ($($test:ident: $setting:ident, $fault:literal;)*) => {
        const TESTED: &[(Setting, &str)] = &[$(($setting, $fault)),*];

        $(#[test]
        fn $test() {
            loses_nothing($setting, $fault);
        })*
    };
}

faults! {
    redis_back_with_aof_loses_nothing: Publishing, "killed with -9, and back with its AOF";
    redis_back_empty_loses_nothing: Publishing, "killed with -9, and back empty";
    redis_back_with_old_contents_loses_nothing: Publishing, "killed with -9, and back with older contents";
    redis_stopped_for_long_loses_nothing: Publishing, "stopped for longer than the keep-alive";
    reset_in_command_loses_nothing: Publishing, "connection reset in the middle of a command";
    reset_in_answer_loses_nothing: Publishing, "connection reset in the middle of an answer";
    client_kill_loses_nothing: Publishing, "`CLIENT KILL`";
    flushall_loses_nothing: Publishing, "`FLUSHALL`";
    maxmemory_loses_nothing: Publishing, "`maxmemory` reached";
    failing_snapshot_loses_nothing: Publishing, "`MISCONF`: it cannot save";
    read_only_replica_loses_nothing: Publishing, "`READONLY`: made a replica";
    busy_script_loses_nothing: Publishing, "`BUSY`: a script runs";
    loading_redis_loses_nothing: Publishing, "`LOADING`: killed, and loads for a second";
    taken_rights_lose_nothing: Publishing, "rights taken, and given back";
    changed_password_loses_nothing: Publishing, "password changed, and changed back";
    maxclients_loses_nothing: Publishing, "`maxclients` reached";
    removed_socket_file_loses_nothing: Publishing, "socket file removed, and the connection cut";
    exhausted_descriptors_lose_nothing: Publishing, "no file descriptors left in the program, and the connection cut";

    old_contents_without_broker_lose_nothing: BrokerAway, "killed with -9, and back with older contents";
    maxmemory_without_broker_loses_nothing: BrokerAway, "`maxmemory` reached";
    redis_back_empty_while_idle_loses_nothing: Idle, "killed with -9, and back empty";
    flushall_while_idle_loses_nothing: Idle, "`FLUSHALL`";
    kill_while_redis_is_down_loses_nothing: Killed, "killed with -9, and back with its AOF";
    kill_while_redis_is_stopped_loses_nothing: Killed, "stopped for longer than the keep-alive";
    kill_while_redis_is_read_only_loses_nothing: Killed, "`READONLY`: made a replica";
}

fn loses_nothing(setting: Setting, fault: &str) {
    let run = Run::all(setting).find(|run| run.fault().name == fault);
    let run = run.expect("a fault of the catalogue that is possible in this setting");
    let report = run.start().unwrap_or_else(|end| panic!("{run}: {end}"));
    assert_eq!(run.wrong(&report), None, "{run}: {report:#?}");
}

#[test]
fn every_fault_is_tested_while_publishing() {
    let tested = TESTED
        .iter()
        .filter(|(setting, _)| *setting == Publishing)
        .map(|(_, fault)| *fault);
    let late = ["started ten seconds after the program"];
    let tested: BTreeSet<&str> = tested.chain(late).collect();
    let all: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();
    assert_eq!(tested, all);
    assert_eq!(TESTED.len(), FAULTS.len() - 1 + 7, "a test is missing");
}
