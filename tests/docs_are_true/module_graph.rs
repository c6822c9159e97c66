//! The modules of the library have no import cycle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{
    Attribute, File, Item, ItemUse, UseTree, Visibility,
    visit::{self, Visit},
};

/// Names from the root of the crate to a module or an item.
type Names = Vec<String>;

/// Modules of a crate, one per file, with their imports and re-exports.
#[derive(Default)]
struct Crate {
    modules: BTreeMap<Names, Imports>,
}

#[derive(Default)]
struct Imports {
    /// Paths that the module names, as they are written.
    paths: BTreeSet<Names>,
    /// Names that it re-exports, with their targets.
    exports: BTreeMap<String, Names>,
}

impl Crate {
    fn read(folder: &Path) -> Self {
        let mut read = Self::default();
        read.add_folder(folder, &[]);
        read
    }

    fn add_folder(&mut self, folder: &Path, module: &[String]) {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("a file").path();
            let name = path.file_stem().and_then(|name| name.to_str());
            let name = name.expect("a name").to_owned();
            let child = [module, std::slice::from_ref(&name)].concat();
            if path.is_dir() {
                self.add_folder(&path, &child);
            } else if name == "tests" {
                // Skipped: `mod tests;` is for tests only.
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                let module = match name.as_str() {
                    "lib" => Vec::new(),
                    "mod" => module.to_vec(),
                    _ => child,
                };
                self.add(module, &text);
            }
        }
    }

    fn add(&mut self, module: Names, text: &str) {
        let file: File = syn::parse_file(text).expect("Rust");
        let mut imports = Imports::default();
        imports.visit_file(&file);
        self.modules.insert(module, imports);
    }

    /// Modules that `from` depends on when it names `path`: those that re-export it, and the one that defines it. Empty for items of
    /// other crates.
    fn modules_of(&self, from: &[String], path: &[String]) -> Vec<Names> {
        self.resolve(from, path).unwrap_or_default()
    }

    fn resolve(&self, from: &[String], path: &[String]) -> Option<Vec<Names>> {
        let mut module = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => from.to_vec(),
            // A child may be named without `self`.
            first
                if self
                    .modules
                    .contains_key(&[from, &[first.to_owned()]].concat()) =>
            {
                return self.resolve(from, &[&["self".to_owned()], path].concat());
            }
            _ => return None,
        };
        for (index, name) in path.iter().enumerate() {
            match name.as_str() {
                "crate" | "self" => continue,
                "super" => {
                    module.pop();
                    continue;
                }
                _ => {}
            }
            let child = [&module[..], std::slice::from_ref(name)].concat();
            if self.modules.contains_key(&child) {
                module = child;
                continue;
            }
            let Some(target) = self.modules.get(&module)?.exports.get(name) else {
                break;
            };
            let rest = &path[index + 1..];
            let mut modules = self.modules_of(&module, &[&target[..], rest].concat());
            modules.push(module);
            return Some(modules);
        }
        Some(vec![module])
    }

    fn dependencies(&self) -> BTreeMap<String, BTreeSet<String>> {
        let name = |module: &[String]| format!("crate::{}", module.join("::"));
        let mut dependencies = BTreeMap::new();
        for (module, imports) in &self.modules {
            let paths = imports.paths.iter();
            let on: BTreeSet<String> = paths
                .flat_map(|path| self.modules_of(module, path))
                .filter(|other| other != module)
                .map(|other| name(&other))
                .collect();
            dependencies.insert(name(module), on);
        }
        dependencies
    }

    /// The groups of modules that depend on one another.
    fn cycles(&self) -> Vec<BTreeSet<String>> {
        let dependencies = self.dependencies();
        let reached: BTreeMap<&String, BTreeSet<String>> = dependencies
            .keys()
            .map(|module| (module, reachable(&dependencies, module)))
            .collect();
        let mut cycles = Vec::new();
        for (module, reaches) in &reached {
            let cycle: BTreeSet<String> = reaches
                .iter()
                .filter(|other| reached[other].contains(*module))
                .cloned()
                .collect();
            if !cycle.is_empty() && !cycles.contains(&cycle) {
                cycles.push(cycle);
            }
        }
        cycles
    }
}

fn reachable(dependencies: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = dependencies[from].iter().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module.clone()) {
            next.extend(&dependencies[module]);
        }
    }
    reached
}

impl Imports {
    fn add_tree(&mut self, before: &[String], tree: &UseTree, is_export: bool) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        let (path, name) = match tree {
            UseTree::Path(path) => return self.add_tree(&with(&path.ident), &path.tree, is_export),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(before, tree, is_export);
                }
                return;
            }
            UseTree::Name(name) => (with(&name.ident), name.ident.to_string()),
            UseTree::Rename(rename) => (with(&rename.ident), rename.rename.to_string()),
            UseTree::Glob(_) => (before.to_vec(), "*".to_owned()),
        };
        if is_export {
            self.exports.insert(name, path.clone());
        }
        self.paths.insert(path);
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Mod(module) => &module.attrs,
            Item::Use(import) => &import.attrs,
            Item::Fn(function) => &function.attrs,
            Item::Impl(implementation) => &implementation.attrs,
            _ => &[],
        };
        if !attributes.iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        let is_export = !matches!(import.vis, Visibility::Inherited);
        self.add_tree(&[], &import.tree, is_export);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter();
        let names: Names = names.map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 {
            self.paths.insert(names);
        }
        visit::visit_path(self, path);
    }
}

/// Returns true if an attribute leaves its item out of the library.
fn is_for_tests(attribute: &Attribute) -> bool {
    let text = match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string(),
        _ => return false,
    };
    text == "test" || text.starts_with("all (test")
}

#[test]
fn modules_of_library_have_no_cycle() {
    let library = Crate::read(&testkit::repository().join("src"));
    assert!(library.modules.len() > 50, "{}", library.modules.len());
    let cycles = library.cycles();
    for cycle in &cycles {
        for module in cycle {
            let dependencies = &library.dependencies()[module];
            let on: Vec<&String> = dependencies.intersection(cycle).collect();
            eprintln!("{module} -> {on:?}");
        }
    }
    assert!(cycles.is_empty(), "{cycles:#?}");
}

/// Some 32-bit processors have no 64-bit atomics, and `std` has no such types for them.
#[test]
fn library_needs_no_64_bit_atomics() {
    let library = Crate::read(&testkit::repository().join("src"));
    for (module, imports) in &library.modules {
        for path in &imports.paths {
            let is_wide = |name: &String| ["AtomicU64", "AtomicI64"].contains(&name.as_str());
            assert!(!path.iter().any(is_wide), "{module:?} names {path:?}");
        }
    }
}

#[test]
fn cycle_over_re_export_is_found() {
    let mut library = Crate::default();
    let module = |name: &str| vec![name.to_owned()];
    library.add(Vec::new(), "mod a; mod b; mod c; pub use a::A;");
    library.add(module("a"), "use crate::b::B; pub struct A;");
    library.add(module("b"), "use crate::c::C; pub struct B;");
    library.add(module("c"), "pub struct C;");
    assert!(library.cycles().is_empty());
    library.add(module("c"), "fn f() -> crate::A { todo!() }");
    let cycle = ["crate::", "crate::a", "crate::b", "crate::c"].map(str::to_owned);
    assert_eq!(library.cycles(), [BTreeSet::from(cycle)]);
    library.add(module("c"), "#[cfg(test)] mod tests { use crate::A; }");
    assert!(library.cycles().is_empty());
}
