//! README.md is short, and its features and its first program are those of the code.

use std::{collections::BTreeMap, env, fs, net::TcpListener, process::Command};

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
        .map(|row| (code(&row[0]).remove(0), row[1].clone()))
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

/// Finds a free port of 127.0.0.1 that no connection uses as its own: below those that the kernel gives away.
fn free_port(from: u16) -> u16 {
    (from..from + 1_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

#[test]
fn first_program_runs_as_pasted_from_empty_folder() {
    let section = README.between("## A first program\n", "### ");
    let blocks = blocks(section);
    let languages: Vec<&str> = blocks.iter().map(|(language, _)| *language).collect();
    assert_eq!(languages, ["sh", "sh", "rust,no_run", "sh"]);
    let [(_, install), (_, start), (_, program), (_, run)] = blocks[..] else {
        unreachable!("four blocks");
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
    fs::write(folder.path().join("main.rs"), with_ports(program)).expect("written");
    let clone = "clone=~/paho-mqtt-redis";
    let enter = "cargo new hello-mqtt && cd hello-mqtt\n";
    assert!(start.contains(clone) && start.contains(enter), "{start}");
    let start = with_ports(start)
        .replace(clone, "clone=$CLONE")
        // The versions of the lock file are those that are built already.
        .replace(enter, &format!("{enter}cp \"$clone/Cargo.lock\" .\n"));
    let script = format!(
        "trap 'kill $(jobs -p) 2>/dev/null' EXIT\n{start}\ncp ../main.rs src/main.rs\n{run}\n"
    );

    // The dependencies are those of the running test: this test builds only the library and the program.
    let executable = env::current_exe().expect("a path");
    let target = executable.ancestors().nth(3).expect("a target folder");
    let output = Command::new("bash")
        .args(["-e", "-c", &script])
        .current_dir(folder.path())
        .env("CLONE", testkit::repository())
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .output()
        .expect("bash runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stdout.trim(), "published and acknowledged", "{stderr}");
}
