//! Moves of single records, whole and damaged, and of what is not Paho's.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use redis::Commands;
use tempfile::TempDir;
use testkit::{
    RedisServer,
    backlog::{self, Records, expect, in_files, in_redis, into_files, into_redis},
    hostile::contents,
    random::Random,
    record, unsubscribe_command,
};

const NAME: &str = "device:127.0.0.1:1";
const KEYS: [&str; 10] = [
    "c-7", "c5-8", "s-7", "s5-8", "sc-7", "sc5-8", "r-7", "r5-8", "q-7", "q5-8",
];

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

struct Stage {
    redis: RedisServer,
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self {
            redis: RedisServer::start(),
            folder: TempDir::new().expect("a folder"),
        }
    }

    fn directory(&self) -> PathBuf {
        self.folder.path().join("device-127.0.0.1-1")
    }

    #[track_caller]
    fn migrate(&self, code: i32, way: &str) -> (Vec<String>, Vec<String>) {
        let base = self.folder.path().to_str().expect("UTF-8");
        expect(&self.redis, code, &["migrate", NAME, way, base])
    }

    fn files(&self) -> Records {
        in_files(&self.directory())
    }

    fn records(&self) -> Records {
        in_redis(&self.redis, NAME)
    }

    fn target_and_source(&self, way: &str) -> (Records, Records) {
        match way {
            "--to-files" => (self.files(), self.records()),
            _ => (self.records(), self.files()),
        }
    }
}

fn records<'a>(keys: impl IntoIterator<Item = &'a str>) -> Records {
    let keys = keys.into_iter();
    keys.map(|key| (key.to_owned(), record(key, key.as_bytes())))
        .collect()
}

#[test]
fn record_of_each_kind_moves_there_and_back() {
    let stage = Stage::new();
    let all = records(KEYS);
    into_files(&stage.directory(), &all);
    let (out, err) = stage.migrate(0, "--from-files");
    assert_eq!(out, ["10 records moved to device:127.0.0.1:1"]);
    assert_eq!(err, [""; 0]);
    assert_eq!(stage.records(), all);
    assert!(!stage.directory().exists());
    stage.migrate(0, "--to-files");
    assert_eq!(stage.files(), all);
    assert_eq!(stage.records(), Records::new());
    // Nothing is left to do, and nothing of the move is left.
    let keys: Vec<String> = stage.redis.connection().keys("*").expect("KEYS");
    assert_eq!(keys, [""; 0]);
}

#[test]
fn hostile_hashes_move_there_and_back_or_stay() {
    let stage = Stage::new();
    let mut moved = 0;
    for case in 0..40 {
        let mut random = Random::of(case);
        let hash: Entries = contents(&mut random)
            .into_iter()
            .map(|(field, (value, _))| (field, value))
            .collect();
        for (field, value) in &hash {
            let _: () = stage
                .redis
                .connection()
                .hset(NAME, field, value)
                .expect("HSET");
        }
        let base = stage.folder.path().to_str().expect("UTF-8");
        // An order that has wrapped, which files cannot have, is kept under other numbers.
        let has_wrapped = hash.keys().any(|field| {
            let name = String::from_utf8_lossy(field);
            ["c-0", "c5-0", "q-0", "q5-0"].contains(&&*name) || name.contains("-99999")
        });
        let mut is_whole = !has_wrapped;
        for way in ["--to-files", "--from-files"] {
            let output = backlog::run(&stage.redis, &["migrate", NAME, way, base]);
            let code = output.status.code();
            assert!(matches!(code, Some(0..=2)), "case {case}: {output:?}");
            is_whole &= code == Some(0);
            moved += in_files(&stage.directory()).len();
        }
        let mut there: Entries = stage.redis.connection().hgetall(NAME).expect("HGETALL");
        if is_whole {
            assert_eq!(there, hash, "case {case}");
        }
        // What is damaged has stayed, so the others may have got other numbers, or stay in their files.
        for (key, value) in stage.files() {
            there.insert(format!("in file {key}").into_bytes(), value);
        }
        let values = |entries: &Entries| -> Vec<Vec<u8>> {
            let mut values: Vec<Vec<u8>> = entries.values().cloned().collect();
            values.sort();
            values
        };
        assert_eq!(values(&there), values(&hash), "case {case}");
        let _: () = stage.redis.connection().del(NAME).expect("DEL");
        drop(fs::remove_dir_all(stage.directory()));
    }
    assert!(moved > 40, "{moved}");
}

#[test]
fn damaged_and_foreign_files_stay_with_reason() {
    let stage = Stage::new();
    let directory = stage.directory();
    into_files(&directory, &records(["c-1", "c-5", "s-3", "sc-3", "sc-4"]));
    let mut damaged = records(["c-2", "s-4"]);
    damaged.insert("c-2".to_owned(), Vec::new());
    damaged.get_mut("s-4").expect("there").truncate(5);
    damaged.insert("c-3".to_owned(), unsubscribe_command(7, "a"));
    into_files(&directory, &damaged);
    fs::write(directory.join("c-9.msg.bak"), "x").expect("a file");
    fs::write(directory.join("notes\u{1b}[2J"), "x").expect("a file");
    fs::create_dir(directory.join("c-8.msg")).expect("a folder");
    std::os::unix::fs::symlink("c-1.msg", directory.join("c-6.msg")).expect("a link");

    let (out, mut err) = stage.migrate(1, "--from-files");
    assert_eq!(out, ["4 records moved to device:127.0.0.1:1, 8 left"]);
    err.sort();
    let line =
        |name: &str, reason: &str| format!("mqtt-backlog: {}/{name} {reason}", directory.display());
    let mut expected = [
        line("c-2.msg", "is empty"),
        line("c-3.msg", "is damaged: Paho could not read it"),
        line("s-4.msg", "is damaged: Paho could not read it"),
        line(
            "sc-4.msg",
            "stays with the other file of its message, which is damaged",
        ),
        line("c-9.msg.bak", "is nothing that Paho writes"),
        line(r"notes\u{1b}[2J", "is nothing that Paho writes"),
        line("c-8.msg", "is nothing that Paho writes"),
        line("c-6.msg", "is nothing that Paho writes"),
    ];
    expected.sort();
    assert_eq!(err, expected);
    assert_eq!(stage.records(), records(["c-1", "c-5", "s-3", "sc-3"]));
    let left: Vec<String> = stage.files().into_keys().collect();
    assert_eq!(
        left,
        ["c-2", "c-3", "c-9.msg.bak", "notes\u{1b}[2J", "s-4", "sc-4"]
    );
}

#[test]
fn damaged_and_foreign_records_stay_with_reason() {
    let stage = Stage::new();
    let mut all = records(["c-1", "c-5", "s-3", "sc-3", "sc-4"]);
    all.insert("s-4".to_owned(), b"\x32".to_vec());
    all.insert("by\u{1b}hand".to_owned(), b"x".to_vec());
    into_redis(&stage.redis, NAME, &all);
    let (_, err) = stage.migrate(1, "--to-files");
    assert_eq!(
        err,
        [
            "mqtt-backlog: s-4 is damaged: Paho could not read it",
            "mqtt-backlog: sc-4 stays with the other record of its message, which is damaged",
            r"mqtt-backlog: by\u{1b}hand is nothing that Paho writes",
        ]
    );
    assert_eq!(stage.files(), records(["c-1", "c-5", "s-3", "sc-3"]));
    assert_eq!(stage.records().len(), 3);
}

#[test]
fn messages_in_files_go_before_those_in_redis() {
    let stage = Stage::new();
    into_redis(&stage.redis, NAME, &records(["c-1", "c-2", "s-1", "r-4"]));
    into_files(
        &stage.directory(),
        &records(["c-1", "c-9", "s-1", "sc-1", "r-4"]),
    );
    let (_, err) = stage.migrate(1, "--from-files");
    let directory = stage.directory();
    let stays = "stays, since Redis has a message with this packet id";
    assert_eq!(
        err,
        [format!(
            "mqtt-backlog: {}/r-4.msg {stays}",
            directory.display()
        )]
    );
    let moved = stage.records();
    let keys: Vec<&str> = moved.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "c-1", "c-2", "c-999998", "c-999999", "r-4", "s-1", "s-65535", "sc-65535"
        ]
    );
    assert_eq!(moved["c-999998"], record("c-1", b"c-1"));
    assert_eq!(moved["c-999999"], record("c-9", b"c-9"));
    assert_eq!(moved["s-65535"], record("s-65535", b"s-1"));
}

#[test]
fn wrapped_numbers_begin_at_1_in_files() {
    let stage = Stage::new();
    let wrapped = records(["c-999998", "c5-999999", "c-0", "c-3", "s-9"]);
    into_files(&stage.directory(), &wrapped);
    stage.migrate(0, "--from-files");
    assert_eq!(stage.records(), wrapped);
    stage.migrate(0, "--to-files");
    let values: Vec<(String, Vec<u8>)> = stage.files().into_iter().collect();
    let expected = [
        ("c-1", "c-999998"),
        ("c-3", "c-0"),
        ("c-4", "c-3"),
        ("c5-2", "c5-999999"),
        ("s-9", "s-9"),
    ];
    let expected = expected.map(|(key, old)| (key.to_owned(), record(old, old.as_bytes())));
    assert_eq!(values, expected);
}

#[test]
fn partly_renumbered_order_moves_whole() {
    // The last two are what a move that ended early has left.
    for (numbers, in_files) in [
        (&[999_999, 2, 3][..], &[1, 2, 3][..]),
        (&[999_999, 3, 4], &[1, 3, 4]),
        (&[999_998, 999_999, 3, 4, 5], &[1, 2, 3, 4, 5]),
        (&[999_998, 2, 3, 4, 5], &[1, 2, 3, 4, 5]),
    ] {
        let stage = Stage::new();
        let keys: Vec<String> = numbers.iter().map(|number| format!("c-{number}")).collect();
        let all = records(keys.iter().map(String::as_str));
        into_redis(&stage.redis, NAME, &all);
        stage.migrate(0, "--to-files");
        let expected = in_files.iter().zip(&keys);
        let expected = expected.map(|(number, old)| (format!("c-{number}"), all[old].clone()));
        assert_eq!(stage.files(), expected.collect::<Records>(), "{numbers:?}");
        assert_eq!(stage.records(), Records::new());
    }
}

#[test]
fn nothing_is_renumbered_before_refusal() {
    for (keys, file) in [
        // The files of the other queue, and another message in flight with the id, are in the way.
        (&["c-999999", "c-0", "q-999999", "q-0"][..], "q-5"),
        (&["c-999999", "c-0", "s-1"], "s5-1"),
        // The order would not show during the move.
        (&["c-450000", "c-950000", "c-0", "c-1"], "s-9"),
    ] {
        let stage = Stage::new();
        let all = records(keys.iter().copied());
        into_redis(&stage.redis, NAME, &all);
        into_files(&stage.directory(), &records([file]));
        stage.migrate(2, "--to-files");
        assert_eq!(stage.records(), all);
        assert_eq!(stage.files(), records([file]));
    }
}

/// Moves two messages from files, of which the first one moves, to before the one in Redis, and the second
/// one finds Redis full. Another link to the first file stays.
fn half_moved() -> (Stage, Records) {
    let stage = Stage::new();
    let large = |key: &str, bytes| (key.to_owned(), record(key, &vec![b'x'; bytes]));
    let mut all = Records::from([large("c-30", 50_000_000), large("c-40", 2_200_000)]);
    into_files(&stage.directory(), &all);
    let kept = stage.folder.path().join("kept");
    fs::hard_link(stage.directory().join("c-40.msg"), kept).expect("a link");
    let newest = records(["c-20"]);
    into_redis(&stage.redis, NAME, &newest);
    let info: String = redis::cmd("INFO")
        .arg("memory")
        .query(&mut stage.redis.connection())
        .expect("INFO");
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    let used: usize = used.and_then(|used| used.parse().ok()).expect("a number");
    stage.redis.set_maxmemory(&(used + 20_000_000).to_string());
    stage.migrate(3, "--from-files");
    stage.redis.set_maxmemory("0");
    let in_redis: Vec<String> = stage.records().into_keys().collect();
    assert_eq!(in_redis, ["c-19", "c-20"]);
    all.extend(newest);
    (stage, all)
}

#[test]
fn files_moved_back_after_failed_move_stay() {
    let (stage, all) = half_moved();
    stage.migrate(0, "--to-files");
    let moved = sorted(stage.files());
    assert_eq!(moved, sorted(all));
    stage.migrate(0, "--from-files");
    assert_eq!(sorted(stage.records()), moved);
}

/// Returns the values, which stay the same under other keys.
fn sorted(records: Records) -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = records.into_values().collect();
    values.sort();
    values
}

#[test]
fn file_like_moved_one_is_another_message() {
    let (stage, all) = half_moved();
    // The program has sent what was in Redis, and written the same message again.
    let _: () = stage.redis.connection().del(NAME).expect("DEL");
    fs::write(stage.directory().join("c-40.msg"), &all["c-40"]).expect("a file");
    stage.migrate(0, "--from-files");
    let moved: Vec<String> = stage.records().into_keys().collect();
    assert_eq!(moved, ["c-30", "c-40"]);
}

/// Puts back a file that had moved already, as a move leaves it that is killed before it removes the file.
fn half_moved_with_file() -> (Stage, Records) {
    let (stage, all) = half_moved();
    let kept = stage.folder.path().join("kept");
    fs::rename(kept, stage.directory().join("c-40.msg")).expect("a file");
    (stage, all)
}

#[test]
fn file_whose_record_has_arrived_is_removed() {
    for way in ["--from-files", "--to-files"] {
        let (stage, all) = half_moved_with_file();
        stage.migrate(0, way);
        let (there, empty) = stage.target_and_source(way);
        assert!(sorted(there) == sorted(all), "{way}");
        assert_eq!(empty, Records::new());
    }
}

#[test]
fn restored_files_are_other_messages() {
    let (stage, all) = half_moved_with_file();
    // Redis was purged by hand, and the files come from a copy with their times.
    let _: () = stage.redis.connection().del(NAME).expect("DEL");
    let (old, copy) = (stage.directory(), stage.folder.path().join("copy"));
    for (from, to) in [(&old, &copy), (&copy, &old)] {
        let status = Command::new("cp").arg("-a").args([from, to]).status();
        assert!(status.expect("cp runs").success());
        fs::remove_dir_all(from).expect("a folder");
    }
    stage.migrate(0, "--from-files");
    let moved: Vec<String> = stage.records().into_keys().collect();
    assert_eq!(moved, ["c-30", "c-40"]);
    assert_eq!(stage.records()["c-40"], all["c-40"]);
}

#[test]
fn purge_of_all_forgets_moved_files() {
    let (stage, _) = half_moved_with_file();
    expect(&stage.redis, 0, &["purge", NAME, "--all", "--yes"]);
    let keys: Vec<String> = stage.redis.connection().keys("*").expect("KEYS");
    assert_eq!(keys, [""; 0]);
    stage.migrate(0, "--from-files");
    let moved: Vec<String> = stage.records().into_keys().collect();
    assert_eq!(moved, ["c-30", "c-40"]);
}

#[test]
fn unreadable_file_does_not_end_later_move() {
    let (stage, all) = half_moved();
    let file = fs::File::create(stage.directory().join("c-40.msg")).expect("a file");
    file.set_len(273 * 1024 * 1024).expect("a sparse file");
    let (_, err) = stage.migrate(1, "--from-files");
    let [line] = &err[..] else { panic!("{err:?}") };
    assert!(line.contains("c-40.msg cannot be read: "), "{line}");
    assert_eq!(sorted(stage.records()), sorted(all));
}

/// Moves 71 messages to files until a folder is in the way of the last one: files have 8 to 71, Redis has
/// 1 to 7, and files also have 2 to 7.
fn half_moved_to_files() -> (Stage, Records) {
    let stage = Stage::new();
    let keys: Vec<String> = (1..=71).map(|number| format!("c-{number}")).collect();
    let mut all = records(keys.iter().map(String::as_str));
    // It makes a batch of the first ones.
    all.insert("c-71".to_owned(), record("c-71", &vec![b'x'; 2_200_000]));
    into_redis(&stage.redis, NAME, &all);
    let folder = stage.directory().join("c-1.msg");
    fs::create_dir_all(&folder).expect("a folder");
    stage.migrate(3, "--to-files");
    fs::remove_dir(folder).expect("a folder");
    assert_eq!((stage.files().len(), stage.records().len()), (70, 7));
    (stage, all)
}

#[test]
fn failed_move_to_files_goes_on_or_back() {
    for way in ["--from-files", "--to-files"] {
        let (stage, all) = half_moved_to_files();
        stage.migrate(0, way);
        let (there, empty) = stage.target_and_source(way);
        let keys: Vec<&String> = there.keys().collect();
        assert!(there == all, "{way}: {keys:?}");
        assert_eq!(empty, Records::new());
        // No note has stayed.
        let keys: Vec<String> = stage.redis.connection().keys("*:arrivals").expect("KEYS");
        assert_eq!(keys, [""; 0]);
    }
}

#[test]
fn message_in_both_places_is_sent_once() {
    let (stage, _) = half_moved_to_files();
    // A program has used Redis: it has sent two of these messages, and written two others.
    let mut redis = stage.redis.connection();
    let _: () = redis.hdel(NAME, &["c-1", "c-2"]).expect("HDEL");
    into_redis(&stage.redis, NAME, &records(["c-8", "c-9"]));
    stage.migrate(0, "--from-files");
    assert_eq!(stage.files(), Records::new());
    assert_eq!(stage.records().len(), 71 - 2 + 2);
    assert_eq!(stage.records()["c-9"], record("c-9", b"c-9"));
}

#[test]
fn unreadable_file_stays_and_others_move() {
    let stage = Stage::new();
    into_files(&stage.directory(), &records(["c-1", "c-3", "s-4", "sc-4"]));
    for name in ["c-2.msg", "sc-4.msg"] {
        let path = stage.directory().join(name);
        let file = fs::File::create(&path).expect("a file");
        file.set_len(273 * 1024 * 1024).expect("a sparse file");
    }
    let (out, err) = stage.migrate(1, "--from-files");
    assert_eq!(out, ["2 records moved to device:127.0.0.1:1, 3 left"]);
    assert_eq!(err.len(), 3, "{err:?}");
    assert!(
        err.iter()
            .any(|line| line.contains("c-2.msg cannot be read: "))
    );
    assert_eq!(stage.records(), records(["c-1", "c-3"]));
}

#[test]
fn other_message_in_file_is_never_overwritten() {
    for (in_file, in_hash) in [
        ("c-1", "c-1"),
        ("s-1", "s5-1"),
        ("sc-1", "s-1"),
        ("r-1", "r5-1"),
    ] {
        let stage = Stage::new();
        let file = Records::from([(in_file.to_owned(), record(in_file, b"old"))]);
        into_files(&stage.directory(), &file);
        let hash = records([in_hash, "c-2"]);
        into_redis(&stage.redis, NAME, &hash);
        let (_, err) = stage.migrate(2, "--to-files");
        let [line] = &err[..] else { panic!("{err:?}") };
        assert!(line.ends_with("; choose another directory"), "{line}");
        assert_eq!(stage.files(), file);
        assert_eq!(stage.records(), hash);
    }
}

/// A waiting message of MQTT 5 that expires.
fn expiring(expiry: u32) -> Vec<u8> {
    let mut value = record("c5-1", b"x");
    value.pop();
    value.extend(b"\x05\x02");
    value.extend(expiry.to_be_bytes());
    value
}

fn expiry_in(value: &[u8]) -> u32 {
    u32::from_be_bytes(*value.last_chunk().expect("an expiry"))
}

#[test]
fn time_in_files_counts_for_expiry() {
    let stage = Stage::new();
    into_files(
        &stage.directory(),
        &Records::from([("c5-1".to_owned(), expiring(3600))]),
    );
    let file = fs::File::options()
        .write(true)
        .open(stage.directory().join("c5-1.msg"));
    let put = std::time::SystemTime::now() - std::time::Duration::from_secs(600);
    file.expect("a file").set_modified(put).expect("a time");
    stage.migrate(0, "--from-files");
    let seconds = put
        .duration_since(std::time::UNIX_EPOCH)
        .expect("later")
        .as_secs();
    assert_eq!(
        u64::from(expiry_in(&stage.records()["c5-1"])),
        seconds + 3600
    );
    stage.migrate(0, "--to-files");
    let remaining = expiry_in(&stage.files()["c5-1"]);
    assert!((2900..=3000).contains(&remaining), "{remaining}");
    // Found there with another rest, as after a kill.
    into_redis(
        &stage.redis,
        NAME,
        &Records::from([("c5-1".to_owned(), expiring(1_900_000_000))]),
    );
    stage.migrate(0, "--to-files");
    assert_eq!(expiry_in(&stage.files()["c5-1"]), remaining);
}

#[test]
fn missing_directory_or_uri_is_explained() {
    let stage = Stage::new();
    into_files(&stage.directory(), &records(["c-1"]));
    let base = stage.folder.path().to_str().expect("UTF-8");
    for client in ["device", "device:other:1"] {
        let (_, err) = expect(&stage.redis, 2, &["migrate", client, "--from-files", base]);
        let [line] = &err[..] else { panic!("{err:?}") };
        assert!(
            line.ends_with(&format!("; {base} has device-127.0.0.1-1")),
            "{line}"
        );
    }
    expect(&stage.redis, 2, &["migrate", NAME]);
    expect(
        &stage.redis,
        2,
        &["migrate", NAME, "--from-files", base, "--to-files", base],
    );
}

#[test]
fn missing_right_to_companion_is_one_line() {
    let stage = Stage::new();
    redis::cmd("ACL")
        .arg(&[
            "SETUSER",
            "meter",
            "on",
            ">secret",
            &format!("~{NAME}"),
            "+@all",
        ])
        .exec(&mut stage.redis.connection())
        .expect("ACL SETUSER");
    into_files(&stage.directory(), &records(["c-1"]));
    let url = format!("{}?user=meter&pass=secret", stage.redis.url());
    let base = stage.folder.path().to_str().expect("UTF-8");
    let (_, err) = expect(
        &stage.redis,
        3,
        &["migrate", NAME, "--from-files", base, "--url", &url],
    );
    let [line] = &err[..] else { panic!("{err:?}") };
    assert!(
        line.contains(":arrivals") && line.contains("grant ~"),
        "{line}"
    );
    assert!(!line.contains("secret"));
    assert_eq!(stage.files(), records(["c-1"]));
    assert_eq!(stage.records(), Records::new());
}

#[test]
fn connected_program_keeps_its_records() {
    let stage = Stage::new();
    into_files(&stage.directory(), &records(["c-1"]));
    into_redis(&stage.redis, NAME, &records(["c-2"]));
    let mut persistence = paho_mqtt_redis::RedisPersistence::builder()
        .url(stage.redis.url())
        .build()
        .expect("a valid URL");
    paho_mqtt::ClientPersistence::open(&mut persistence, "device", "127.0.0.1:1").expect("opens");
    for way in ["--from-files", "--to-files"] {
        stage.migrate(4, way);
    }
    assert_eq!(stage.files(), records(["c-1"]));
    assert_eq!(stage.records(), records(["c-2"]));
}
