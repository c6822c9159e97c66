//! Catalogue of the faults.

use std::{
    fs,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    DURATION, Fault, LONG, Way,
    site::{Site, ask},
};
use crate::{LIMIT, SNAPSHOT, breaking::Direction, eventually};

const AOF: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];
const CONNECTION: &[&str] = &["connection"];

/// Values that most faults share.
const USUAL: Fault = Fault {
    name: "",
    arguments: &[],
    kinds: CONNECTION,
    may_pass_unnoticed: false,
    keeps: true,
    can_be_killed_in: true,
    way: Way::Socket,
    late: None,
    lasts: DURATION,
    begin: |_| {},
    end: |_| {},
};

pub const FAULTS: &[Fault] = &[
    Fault {
        name: "started ten seconds after the program",
        kinds: &[],
        may_pass_unnoticed: true,
        can_be_killed_in: false,
        late: Some(Duration::from_secs(10)),
        ..USUAL
    },
    Fault {
        name: "killed with -9, and back with its AOF",
        arguments: AOF,
        begin: |site| site.redis().kill(),
        end: |site| site.redis().restart(),
        ..USUAL
    },
    Fault {
        name: "killed with -9, and back empty",
        keeps: false,
        begin: |site| {
            site.redis().kill();
            site.redis().delete_files();
        },
        end: |site| site.redis().restart(),
        ..USUAL
    },
    Fault {
        name: "killed with -9, and back with older contents",
        arguments: AOF,
        keeps: false,
        begin: |site| {
            // Includes the messages in flight at this moment.
            site.redis().save_aof();
            thread::sleep(Duration::from_millis(30));
            site.redis().kill();
            site.redis().restore_aof();
        },
        end: |site| site.redis().restart(),
        ..USUAL
    },
    Fault {
        name: "stopped for longer than the keep-alive",
        kinds: &["timeout"],
        lasts: LONG,
        begin: |site| site.redis().pause(),
        end: |site| site.redis().resume(),
        ..USUAL
    },
    Fault {
        name: "connection reset in the middle of a command",
        way: Way::Breaking,
        begin: |site| breaks(site, Some(Direction::ToServer)),
        end: |site| breaks(site, None),
        ..USUAL
    },
    Fault {
        name: "connection reset in the middle of an answer",
        way: Way::Breaking,
        begin: |site| breaks(site, Some(Direction::FromServer)),
        end: |site| breaks(site, None),
        ..USUAL
    },
    Fault {
        name: "`CLIENT KILL`",
        begin: Site::cut,
        ..USUAL
    },
    Fault {
        name: "`FLUSHALL`",
        kinds: &["lost"],
        // No message may be in flight at that moment.
        may_pass_unnoticed: true,
        keeps: false,
        begin: |site| site.ask(&["FLUSHALL"]),
        ..USUAL
    },
    Fault {
        name: "`maxmemory` reached",
        kinds: &["out_of_memory"],
        begin: |site| site.ask(&["CONFIG", "SET", "maxmemory", "1"]),
        end: |site| site.ask(&["CONFIG", "SET", "maxmemory", "0"]),
        ..USUAL
    },
    Fault {
        name: "`MISCONF`: it cannot save",
        arguments: &["--save", "3600", "1000000"],
        kinds: &["misconf"],
        begin: cannot_save,
        end: |site| {
            fs::remove_dir(site.redis().dir().join(SNAPSHOT)).expect("the folder is empty");
            site.ask(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
        },
        ..USUAL
    },
    Fault {
        name: "`READONLY`: made a replica",
        // Becoming a replica cuts the connections, so the first error may be another one.
        kinds: &["read_only"],
        begin: |site| site.ask(&["REPLICAOF", "127.0.0.1", "1"]),
        end: |site| site.ask(&["REPLICAOF", "NO", "ONE"]),
        ..USUAL
    },
    Fault {
        name: "`BUSY`: a script runs",
        // Its name since version 7 is `busy-reply-threshold`.
        arguments: &["--lua-time-limit", "1"],
        kinds: &["busy", "timeout"],
        begin: |site| {
            let mut blocked = site.redis().connection();
            site.script = Some(thread::spawn(move || {
                ask(&mut blocked, &["EVAL", "while true do end", "0"]).expect_err("it is killed");
            }));
            eventually(LIMIT, "the script runs", || site.try_ask(&["PING"]).err());
        },
        end: |site| {
            site.ask(&["SCRIPT", "KILL"]);
            site.script.take().map(JoinHandle::join);
        },
        ..USUAL
    },
    Fault {
        name: "`LOADING`: killed, and loads for a second",
        arguments: &[
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--key-load-delay",
            "100",
        ],
        // An idle program may reconnect only after it has loaded.
        kinds: &["loading", "connection"],
        begin: |site| {
            const FILL: &str = "for i = 1, 8000 do redis.call('SET', 'filler:' .. i, 'x') end";
            site.ask(&["EVAL", FILL, "0"]);
            site.redis().kill();
            site.restart_unwaited();
        },
        end: |site| {
            site.redis();
        },
        ..USUAL
    },
    Fault {
        name: "rights taken, and given back",
        kinds: &["permission"],
        begin: |site| site.ask(&["ACL", "SETUSER", "device", "-hset"]),
        end: |site| site.ask(&["ACL", "SETUSER", "device", "+hset"]),
        ..USUAL
    },
    Fault {
        name: "password changed, and changed back",
        kinds: &["authentication"],
        begin: |site| {
            site.ask(&["ACL", "SETUSER", "device", "resetpass", ">another"]);
            site.cut();
        },
        end: |site| site.ask(&["ACL", "SETUSER", "device", "resetpass", ">secret"]),
        ..USUAL
    },
    Fault {
        name: "`maxclients` reached",
        kinds: &["connection", "server"],
        begin: no_more_clients,
        end: |site| {
            let mut one = site.others.remove(0);
            ask(&mut one, &["CONFIG", "SET", "maxclients", "100"]).expect("more clients");
            site.others.clear();
        },
        ..USUAL
    },
    Fault {
        name: "socket file removed, and the connection cut",
        begin: |site| {
            let mut one = site.redis().connection();
            fs::rename(site.socket(), site.socket().with_extension("moved")).expect("it goes");
            ask(&mut one, &["CLIENT", "KILL", "TYPE", "normal"]).expect("the others are gone");
        },
        end: |site| {
            fs::rename(site.socket().with_extension("moved"), site.socket()).expect("it is back");
        },
        ..USUAL
    },
    Fault {
        name: "no file descriptors left in the program, and the connection cut",
        can_be_killed_in: false,
        begin: no_more_descriptors,
        end: |site| {
            let before = site.descriptors.take().expect("kept");
            limit_descriptors(&before);
        },
        ..USUAL
    },
];

fn breaks(site: &Site, direction: Option<Direction>) {
    site.breaking.as_ref().expect("on the way").set(direction);
}

/// Makes the snapshot fail: Redis writes another file first, which cannot replace a folder.
fn cannot_save(site: &mut Site) {
    let snapshot = site.redis().dir().join(SNAPSHOT);
    // Fails if there was never a snapshot.
    drop(fs::remove_file(&snapshot));
    fs::create_dir(snapshot).expect("a folder");
    site.ask(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "yes"]);
    site.ask(&["BGSAVE"]);
    eventually(LIMIT, "the snapshot fails", || {
        let state: String = redis::cmd("INFO")
            .arg("persistence")
            .query(&mut site.redis().connection())
            .expect("INFO");
        state.contains("rdb_last_bgsave_status:err").then_some(())
    });
}

fn no_more_clients(site: &mut Site) {
    let mut one = site.redis().connection();
    ask(&mut one, &["CONFIG", "SET", "maxclients", "1"]).expect("fewer clients");
    ask(&mut one, &["CLIENT", "KILL", "TYPE", "normal"]).expect("the others are gone");
    site.others.push(one);
}

fn no_more_descriptors(site: &mut Site) {
    let mut one = site.redis().connection();
    let before = descriptors();
    site.descriptors = Some(before);
    // All numbers below this are in use, and `poll` accepts no more entries than the limit.
    limit_descriptors(&libc::rlimit {
        rlim_cur: 4,
        ..before
    });
    ask(&mut one, &["CLIENT", "KILL", "TYPE", "normal"]).expect("the others are gone");
}

#[allow(unsafe_code)]
fn descriptors() -> libc::rlimit {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes only to its argument.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(done, 0, "the limit can be read");
    limit
}

#[allow(unsafe_code)]
fn limit_descriptors(limit: &libc::rlimit) {
    // SAFETY: setrlimit only reads its argument.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) };
    assert_eq!(done, 0, "the limit can be set");
}
