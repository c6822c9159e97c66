//! Relative links and anchors in the documents point to something that exists.

use std::{collections::BTreeSet, fs, path::Path};

use super::page::documents;

/// The lines of a document outside its blocks of code.
fn prose(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.collect()
}

/// Targets of all links and pictures, code left out.
fn targets(text: &str) -> Vec<String> {
    let prose = prose(text).join("\n");
    // Odd pieces are code: a link's text may have some, its target has none.
    let prose: String = prose.split('`').step_by(2).collect();
    prose
        .split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .collect()
}

/// Anchors that GitHub assigns to the headings of a document.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let slug: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut anchor = slug.clone();
        let mut repeats = 0;
        while !anchors.insert(anchor) {
            repeats += 1;
            anchor = format!("{slug}-{repeats}");
        }
    }
    anchors
}

/// Paths that the package has, and the folders of which it has every file, from `include` in the manifest.
fn packaged() -> Vec<String> {
    let manifest = include_str!("../../Cargo.toml");
    let (_, rest) = manifest.split_once("\ninclude = [").expect("a list");
    let (list, _) = rest.split_once(']').expect("its end");
    let paths = list.split('"').skip(1).step_by(2);
    paths
        .map(|path| path.trim_start_matches('/').to_owned())
        .collect()
}

/// The path of a linked file from the root, without `.` and `..`.
fn resolved(document: &str, target: &str) -> String {
    let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The links of a document that lead to a file which none of these paths and folders has.
fn links_out_of(packaged: &[String], path: &str, text: &str) -> Vec<String> {
    let is_packaged = |file: &str| {
        let within = |known: &String| file == known || Path::new(file).starts_with(known);
        packaged.iter().any(within)
    };
    let targets = targets(text).into_iter();
    let relative = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    relative
        .filter(|target| {
            let file = target.split('#').next().unwrap_or_default();
            !is_packaged(&resolved(path, file))
        })
        .collect()
}

#[test]
fn packaged_documents_link_to_packaged_files() {
    let packaged = packaged();
    let mut documents = documents();
    documents.retain(|(path, _)| {
        let mut known = packaged.iter();
        known.any(|known| Path::new(path).starts_with(known))
    });
    assert!(documents.len() > 15, "{} documents", documents.len());
    for (path, text) in documents {
        assert_eq!(links_out_of(&packaged, &path, &text), [""; 0], "{path}");
    }
}

#[test]
fn link_out_of_package_is_found() {
    let packaged = ["docs", "README.md", "images/page.png"].map(str::to_owned);
    let text = "[1](a.md#x) [2](../README.md) [3](../scripts/demo) [4](#x) [5](../images/page.png) [6](../images/b.png)
        [7](https://c.example/d)";
    assert_eq!(
        links_out_of(&packaged, "docs/b.md", text),
        ["../scripts/demo", "../images/b.png"]
    );
}

/// The links of a document at `path`, from the root `root`, that lead nowhere.
fn broken_links(root: &Path, path: &str, text: &str) -> Vec<String> {
    let folder = Path::new(path).parent().expect("a file is in a folder");
    let is_broken = |target: &String| {
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let linked = if file.is_empty() {
            root.join(path)
        } else {
            root.join(folder).join(file)
        };
        if anchor.is_empty() {
            return !linked.exists();
        }
        let text = fs::read_to_string(linked).unwrap_or_default();
        !anchors(&text).contains(anchor)
    };
    let relative = targets(text)
        .into_iter()
        .filter(|target| !target.contains("://"));
    relative.filter(is_broken).collect()
}

#[test]
fn relative_links_lead_to_existing_places() {
    let root = testkit::repository();
    let mut links = 0;
    for (path, text) in documents() {
        assert_eq!(broken_links(root, &path, &text), [""; 0], "{path}");
        links += targets(&text).len();
    }
    assert!(links > 100, "{links} links");
}

#[test]
fn missing_file_and_missing_anchor_are_found() {
    let root = tempfile::tempdir().expect("a folder");
    fs::create_dir(root.path().join("docs")).expect("a folder");
    let page = "# A `c-1`, once\n## Why?\n## Why?\n```sh\n# not a heading\n```\n";
    fs::write(root.path().join("docs/a.md"), page).expect("a file");
    fs::write(root.path().join("README.md"), "# Top\n").expect("a file");
    let text = "[1](a.md) [2](a.md#a-c-1-once) [3](a.md#why-1) [4](#why) [5](../README.md#top)
        [6](b.md) [7](a.md#not-a-heading) [8](../README.md#bottom) [`x`](../b) [9](https://b.example/c)
        `[10](none.md)`";
    assert_eq!(
        broken_links(root.path(), "docs/a.md", text),
        ["b.md", "a.md#not-a-heading", "../README.md#bottom", "../b"]
    );
}
