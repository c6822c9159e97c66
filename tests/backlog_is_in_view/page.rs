//! docs/mqtt-backlog.md, the help and the manual page have every command, option and exit code.

use std::collections::BTreeSet;

use crate::tool::{command, output};

const PAGE: &str = include_str!("../../docs/mqtt-backlog.md");

fn out(arguments: &[&str]) -> String {
    output(&mut command(arguments)).expect(0).out
}

/// Names of the commands, from the help.
fn commands() -> Vec<String> {
    let help = out(&["--help"]);
    let (_, commands) = help.split_once("\nCommands:\n").expect("commands");
    let (commands, _) = commands.split_once("\n\n").expect("an end");
    let names = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    let names = names.filter(|name| *name != "help");
    names.map(str::to_owned).collect()
}

/// Options in a text, such as `--json`.
fn options(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    let words = text.split(|c: char| !is_part(c));
    let words = words.filter(|word| word.starts_with("--") && word.len() > 3);
    words.map(str::to_owned).collect()
}

#[test]
fn page_has_each_command_and_option() {
    let commands = commands();
    assert!(commands.len() >= 6, "{commands:?}");
    let documented = options(PAGE);
    for name in &commands {
        assert!(PAGE.contains(&format!("| `{name}")), "no row for {name}");
        for option in options(&out(&[name, "--help"])) {
            let is_general = ["--help", "--version"].contains(&option.as_str());
            assert!(
                is_general || documented.contains(&option),
                "{name} {option}"
            );
        }
    }
}

#[test]
fn page_and_manual_have_exit_codes_of_help() {
    let help = out(&["--help"]);
    let (_, codes) = help.split_once("\nExit codes:\n").expect("exit codes");
    let manual = out(&["man"]);
    assert!(manual.contains("EXIT STATUS"), "{manual}");
    let mut number = 0;
    for line in codes.lines() {
        let (code, meaning) = line
            .trim()
            .split_once("  ")
            .expect("a code and its meaning");
        assert_eq!(code, number.to_string());
        number += 1;
        assert!(PAGE.contains(&format!("| {code} | {meaning} |")), "{line}");
        let (first, _) = meaning.split_once(' ').unwrap_or((meaning, ""));
        assert!(manual.contains(first), "{line}");
    }
    assert_eq!(number, 6);
}
