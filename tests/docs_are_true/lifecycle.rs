//! The diagrams of docs/design.md have the states of a persistence and the steps of a recovery as the code has them.

use std::{collections::BTreeSet, fs};

use syn::Item;

use super::page::{DESIGN, code};

/// Names of the variants of an enum in a source of the library.
fn variants(source: &str, name: &str) -> BTreeSet<String> {
    let path = testkit::repository().join("src").join(source);
    let text = fs::read_to_string(&path).expect("a source");
    let file = syn::parse_file(&text).expect("Rust");
    let found = file.items.into_iter().find_map(|item| match item {
        Item::Enum(item) if item.ident == name => Some(item.variants),
        _ => None,
    });
    let variants = found.unwrap_or_else(|| panic!("no enum {name} in {source}"));
    let names = variants.iter().map(|variant| variant.ident.to_string());
    names.collect()
}

/// States of a Mermaid state diagram: both ends of each transition, but for its start and end.
fn states(diagram: &str) -> BTreeSet<String> {
    let transitions = diagram.lines().filter_map(|line| line.split_once("-->"));
    let ends = transitions.flat_map(|(from, to)| [from, to.split(':').next().unwrap_or(to)]);
    let names = ends.map(|end| end.trim().to_owned());
    names.filter(|name| name != "[*]").collect()
}

#[test]
fn state_diagram_has_states_of_lifecycle() {
    let expected = variants("persistence/lifecycle.rs", "Lifecycle");
    let section = DESIGN.between("## States", "\n## ");
    let (_, diagram) = section
        .split_once("stateDiagram-v2")
        .expect("a state diagram");
    let (diagram, _) = diagram.split_once("```").expect("its end");
    assert_eq!(states(diagram), expected);
    let described = DESIGN.table("## States", "state");
    let described = described.iter().flat_map(|row| code(&row[0]));
    assert_eq!(described.collect::<BTreeSet<_>>(), expected);
}

/// The box of a step is named like the variant.
#[test]
fn recovery_diagram_has_every_step() {
    let diagram = DESIGN.between("## The life of a recovery", "\n## ");
    for step in variants("persistence/exchange.rs", "Step") {
        let named = format!("{step}[\"{step}");
        assert!(diagram.contains(&named), "{step}");
    }
}

#[test]
fn states_are_ends_of_transitions() {
    let diagram = "\n  [*] --> Up\n  Up --> Down: an exchange --> failed\n  Down --> [*]\n  note\n";
    let expected = ["Down", "Up"].map(str::to_owned);
    assert_eq!(states(diagram), BTreeSet::from(expected));
}
