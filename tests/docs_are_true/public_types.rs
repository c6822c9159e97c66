//! Later versions may add to what is public: a program cannot match or construct it completely.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Parts of `src/` whose types are not part of the documented library.
const HIDDEN: [&str; 4] = ["backlog", "bin", "simulated.rs", "fuzzing.rs"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let shown = paths.filter(|path| !HIDDEN.iter().any(|hidden| path.ends_with(hidden)));
    shown
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// Names of public enums, of public structs with public fields, and of variants of `StoreEvent` with fields, that lack the
/// attribute.
fn exhaustive_types(source: &str) -> Vec<String> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    let mut is_event = false;
    for (number, line) in lines.iter().enumerate() {
        let body = lines[number + 1..].iter().take_while(|line| **line != "}");
        let is_open = match line.split_once('{').map(|(start, _)| start.trim_end()) {
            Some(start) if start.starts_with("pub enum ") => {
                is_event = start.ends_with(" StoreEvent");
                true
            }
            Some(start) if start.starts_with("pub struct ") => body
                .clone()
                .any(|line| line.starts_with("    pub ") && line.contains(": ")),
            Some(start) => is_event && start.starts_with("    ") && !start.starts_with("     "),
            None => false,
        };
        is_event &= *line != "}";
        let attributes = lines[..number].iter().rev();
        let mut attributes = attributes
            .map(|line| line.trim_start())
            .take_while(|line| line.starts_with('#') || line.starts_with("//"));
        if is_open && !attributes.any(|line| line == "#[non_exhaustive]") {
            found.push(line.trim().to_owned());
        }
    }
    found
}

#[test]
fn public_types_may_grow() {
    for path in sources(&testkit::repository().join("src")) {
        let source = fs::read_to_string(&path).expect("a source");
        assert_eq!(exhaustive_types(&source), [""; 0], "{}", path.display());
    }
}

#[test]
fn types_that_may_not_grow_are_found() {
    let source = "#[non_exhaustive]\npub enum A {}\n/// One.\npub enum B {\n    C { d: u8 },\n}\n\
        pub struct D {\n    e: u8,\n}\n#[derive(Debug)]\npub struct E {\n    pub f: u8,\n}\n\
        #[non_exhaustive]\npub enum StoreEvent {\n    #[non_exhaustive]\n    G {\n        h: u8,\n    },\n    I { j: u8 },\n    K,\n}\n";
    let expected = ["pub enum B {", "pub struct E {", "I { j: u8 },"];
    assert_eq!(exhaustive_types(source), expected);
}
