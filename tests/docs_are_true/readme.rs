//! README.md is short, and its features and its first program are those of the code.

use std::{
    collections::BTreeMap,
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use testkit::{LIMIT, Mosquitto, RedisServer, Subscriber, eventually};

use super::page::{README, code};

/// A longer README belongs into docs/.
const MAX_LINES: usize = 250;

#[test]
fn readme_has_at_most_250_lines() {
    let lines = README.0.lines().count();
    assert!(lines <= MAX_LINES, "{lines} lines");
}

#[test]
fn feature_table_matches_manifest() {
    let manifest = include_str!("../../Cargo.toml");
    let (_, features) = manifest.split_once("[features]\n").expect("features");
    let (features, _) = features.split_once("\n\n").expect("an end");
    let entries: BTreeMap<&str, &str> = features
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .collect();
    let described: BTreeMap<String, String> = README
        .table("## Features", "feature")
        .into_iter()
        .flat_map(|row| {
            code(&row[0])
                .into_iter()
                .map(move |name| (name, row[1].clone()))
        })
        .collect();
    let names: Vec<&str> = entries
        .keys()
        .copied()
        .filter(|name| *name != "default")
        .collect();
    assert_eq!(
        described.keys().map(String::as_str).collect::<Vec<_>>(),
        names
    );
    for (name, default) in &described {
        let is_default = entries["default"].contains(&format!("\"{name}\""));
        assert_eq!(default == "yes", is_default, "{name}");
    }
}

/// Blocks of code in a text: the language and the lines of each.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let inside = text.split("```").skip(1).step_by(2);
    inside
        .map(|block| block.split_once('\n').expect("a line with the language"))
        .collect()
}

/// The text of the first program.
fn first_program() -> &'static str {
    let section = README.between("## A first program\n", "### ");
    let (language, program) = blocks(section)[2];
    assert_eq!(language, "rust,no_run");
    program
}

/// The most lines between the braces of the first program.
const MAX_PROGRAM_LINES: usize = 15;

#[test]
fn first_program_is_short() {
    let (_, body) = first_program()
        .split_once("fn main() -> Result<(), Box<dyn Error>> {\n")
        .expect("a main");
    let (body, rest) = body.split_once("\n}\n").expect("its end");
    assert_eq!(rest, "", "there is no other item");
    let lines = body.lines().count();
    assert!(lines <= MAX_PROGRAM_LINES, "{lines} lines");
}

#[test]
fn server_function_pastes_into_first_program() {
    let section = README.between("## Metrics, boards and alerts\n", "## ");
    let [(language, function)] = blocks(section)[..] else {
        panic!("one block in: {section}");
    };
    assert_eq!(language, "rust,no_run");
    let between = |before: &str| {
        let (_, rest) = section.split_once(before).expect(before);
        rest.split_once('`').expect("an end").0.to_owned()
    };
    let call = between("In the first program, put `");
    let option = between("before\n`let client`, `");
    let replaced = |program: String, at: &str, by: &str| {
        assert_eq!(program.matches(at).count(), 1, "{at}");
        program.replace(at, by)
    };
    let program = first_program().to_owned();
    let program = replaced(
        program,
        "    let client",
        &format!("    {call}\n    let client"),
    );
    let program = replaced(program, ".start()", &format!("{option}.start()"));
    let program = replaced(program, "1..=10 ", "1..=2000 ");
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("main.rs");
    fs::write(&source, format!("{program}\n{function}")).expect("written");
    compile(&source, &folder.path().join("with-server"));
}

/// Runs the very text of the README, with the addresses of a test's servers.
#[test]
fn first_program_survives_outages_and_kills() {
    let mut broker = Mosquitto::start();
    let mut redis = RedisServer::tcp_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("main.rs");
    let program = first_program()
        .replace("7379", &redis.port().to_string())
        .replace("7883", &broker.port().to_string());
    fs::write(&source, program).expect("written");
    let binary = folder.path().join("first-program");
    compile(&source, &binary);
    // At QoS 0, since Mosquitto repeats what it has not completed when it was stopped.
    let subscriber = Subscriber::start(&broker.url(), "readings", 0);
    let published = || {
        let mut keys = redis::cmd("HKEYS");
        let keys: Vec<String> = keys
            .arg("device-1:backlog")
            .query(&mut redis.connection())
            .expect("HKEYS");
        keys.len()
    };
    let start = || {
        let mut command = Command::new(&binary);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it runs")
    };

    // The broker is away at the start, and the program is killed with three messages that wait.
    broker.stop();
    let mut killed = start();
    eventually(LIMIT, "three messages are stored", || {
        (published() >= 3).then_some(())
    });
    killed.kill().expect("it runs");
    killed.wait().expect("it ends");
    let stored = published();
    assert!(subscriber.messages().is_empty());

    // The next run meets an outage of both.
    broker.restart();
    let second = start();
    subscriber.wait_for(stored + 2, LIMIT);
    redis.kill();
    let arrived = subscriber.messages().len();
    subscriber.wait_for(arrived + 2, LIMIT);
    redis.restart();
    broker.stop();
    broker.restart();
    let output = second.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        stdout.trim(),
        "10 acknowledged, 0 wait in Redis",
        "{stderr}"
    );

    let messages = subscriber.wait_for(stored + 10, LIMIT);
    let texts: Vec<String> = messages
        .into_iter()
        .map(|(_, payload)| String::from_utf8(payload).expect("text"))
        .collect();
    let readings = |count| (1..=count).map(|number| format!("reading {number}"));
    let expected: Vec<String> = readings(stored).chain(readings(10)).collect();
    assert_eq!(texts, expected, "{stderr}");
}

/// Finds a free port of 127.0.0.1 that no connection uses as its own: below those that the kernel assigns.
fn free_port(from: u16) -> u16 {
    (from..from + 1_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// Dependencies of the first program.
const CRATES: [&str; 2] = ["paho_mqtt_redis", "tracing_subscriber"];

/// Compiles a program that uses [`CRATES`] as this test was built with them.
///
/// A `cargo run` would build a dozen crates once more, with the features of that project: minutes, while other tests run.
fn compile(source: &Path, binary: &Path) {
    let executable = env::current_exe().expect("a path");
    let folder = executable.parent().expect("a folder");
    let [libraries, subscribers] = CRATES.map(|name| libraries(folder, name));
    let mut errors = String::new();
    // The folder may have several builds of a crate. The newest ones that fit together are those of this test.
    for library in &libraries {
        for subscriber in &subscribers {
            let output = Command::new("rustc")
                .args(["--edition", "2024", "-L"])
                .arg(format!("dependency={}", folder.display()))
                .arg("--extern")
                .arg(format!("{}={}", CRATES[0], library.display()))
                .arg("--extern")
                .arg(format!("{}={}", CRATES[1], subscriber.display()))
                .arg("-o")
                .args([binary, source])
                .output()
                .expect("rustc runs");
            if output.status.success() {
                return;
            }
            errors += &String::from_utf8_lossy(&output.stderr);
        }
    }
    panic!("{errors}");
}

/// Builds of a crate in a folder, the newest first.
fn libraries(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let is_crate = stem.is_some_and(|stem| stem.starts_with(&format!("lib{name}-")));
        if is_crate && path.extension().is_some_and(|end| end == "rlib") {
            let time = fs::metadata(&path).and_then(|data| data.modified());
            found.push((time.expect("a time"), path));
        }
    }
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

#[test]
fn first_program_runs_as_pasted_from_empty_folder() {
    let section = README.between("## A first program\n", "### ");
    let blocks = blocks(section);
    let languages: Vec<&str> = blocks.iter().map(|(language, _)| *language).collect();
    assert_eq!(languages, ["sh", "sh", "rust,no_run", "sh", "sh"]);
    let [(_, install), (_, start), (_, program), (_, run), (_, stop)] = blocks[..] else {
        unreachable!("five blocks");
    };
    assert!(install.starts_with("sudo apt-get install "), "{install}");

    let offset = u16::try_from(std::process::id() % 1_000).expect("small");
    let (redis, broker) = (free_port(20_000 + offset), free_port(22_000 + offset));
    let with_ports = |text: &str| {
        for port in ["7379", "7883"] {
            assert!(section.contains(port), "no port {port}");
        }
        text.replace("7379", &redis.to_string())
            .replace("7883", &broker.to_string())
    };
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("main.rs");
    fs::write(&source, with_ports(program)).expect("written");
    let binary = folder.path().join("hello-mqtt-program");
    compile(&source, &binary);

    let clone = "clone=~/paho-mqtt-redis";
    let run_command = "\ncargo run ";
    assert!(start.contains(clone), "{start}");
    assert!(run.contains(run_command), "{run}");
    let start = with_ports(start).replace(clone, "clone=$CLONE");
    let run = with_ports(run).replace(run_command, "\n$PROGRAM ");
    let script = format!("trap 'kill $(jobs -p) 2>/dev/null' EXIT\n{start}\n{run}\n{stop}\n");
    let output = Command::new("bash")
        .args(["-e", "-c", &script])
        .current_dir(folder.path())
        .env("CLONE", testkit::repository())
        .env("PROGRAM", &binary)
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .expect("bash runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    // The first ones may be published before the subscription, and the last ones arrive after its end.
    let (received, rest): (Vec<&str>, Vec<&str>) = stdout
        .lines()
        .partition(|line| line.starts_with("reading "));
    assert_eq!(rest, ["10 acknowledged, 0 wait in Redis"], "{stderr}");
    assert!(!received.is_empty(), "{stdout}\n{stderr}");

    // The commands have made a project with these two dependencies.
    let project = folder.path().join("hello-mqtt");
    let manifest = fs::read_to_string(project.join("Cargo.toml")).expect("a manifest");
    let (_, dependencies) = manifest
        .split_once("[dependencies]\n")
        .expect("dependencies");
    let names = dependencies.lines().map(|line| line.split(' ').next());
    let names: Vec<&str> = names.flatten().collect();
    assert_eq!(names, CRATES.map(|name| name.replace('_', "-")));
}
