//! Reports of Paho's defects are listed, compiled, and name tests that exist.

use std::{fs, path::Path};

use super::page::{code, documents};

const FOLDER: &str = "docs/upstream/";

/// The reports, by their file names.
fn reports() -> Vec<(String, String)> {
    let pages = documents().into_iter().filter_map(|(path, text)| {
        let name = path.strip_prefix(FOLDER)?.to_owned();
        (name != "README.md").then_some((name, text))
    });
    pages.collect()
}

/// The text of all sources below a folder.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let texts = paths.map(|path| match path.extension() {
        _ if path.is_dir() => sources(&path),
        Some(extension) if extension == "rs" => fs::read_to_string(path).expect("a source"),
        _ => String::new(),
    });
    texts.collect()
}

/// Tests that a report names: code in the form of a function name with at least four words.
fn named_tests(text: &str) -> Vec<String> {
    let is_test = |name: &String| {
        let has_form = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.matches('_').count() >= 3 && name.chars().all(has_form)
    };
    let (_, text) = text.split_once("## In this repository").expect("a section");
    code(text).into_iter().filter(is_test).collect()
}

#[test]
fn reports_are_listed_and_compiled() {
    let root = testkit::repository();
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a file");
    let (list, library) = (read("docs/upstream/README.md"), read("src/lib.rs"));
    for (name, _) in reports() {
        assert!(list.contains(&format!("]({name})")), "{name}");
        let included = format!("include_str!(\"../{FOLDER}{name}\")");
        assert!(library.contains(&included), "{name}");
    }
}

#[test]
fn reports_name_existing_tests() {
    let root = testkit::repository();
    let sources = sources(&root.join("tests")) + &sources(&root.join("src"));
    let mut count = 0;
    for (name, text) in reports() {
        for test in named_tests(&text) {
            assert!(sources.contains(&format!("fn {test}(")), "{name}: {test}");
            count += 1;
        }
    }
    assert!(count >= 15, "{count} tests");
}
