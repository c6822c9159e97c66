//! A page of the documentation as the tests read it: its tables, code and prose.

use std::fs;

/// The text of a Markdown file.
pub struct Page(pub &'static str);

pub const DESIGN: Page = Page(include_str!("../../docs/design.md"));
pub const README: Page = Page(include_str!("../../README.md"));
pub const ENDPOINT: Page = Page(include_str!("../../docs/endpoint.md"));
pub const ERRORS: Page = Page(include_str!("../../docs/errors.md"));
pub const FLEET: Page = Page(include_str!("../../docs/fleet.md"));
pub const METRICS: Page = Page(include_str!("../../docs/metrics.md"));
pub const MONITORING: Page = Page(include_str!("../../docs/monitoring.md"));
pub const OPENTELEMETRY: Page = Page(include_str!("../../docs/opentelemetry.md"));
pub const REDIS: Page = Page(include_str!("../../docs/redis.md"));

impl Page {
    /// Rows of the first table after `marker` whose first column has this title, as trimmed cells.
    pub fn table(&self, marker: &str, title: &str) -> Vec<Vec<String>> {
        let (_, rest) = self
            .0
            .split_once(marker)
            .unwrap_or_else(|| panic!("no {marker:?}"));
        let header = format!("| {title} |");
        let lines = rest
            .lines()
            .skip_while(|line| !line.starts_with(&header))
            .skip(2);
        let rows: Vec<Vec<String>> = lines
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let cells = line.trim_matches('|').split('|');
                cells.map(|cell| cell.trim().to_owned()).collect()
            })
            .collect();
        assert!(!rows.is_empty(), "no table {title:?} after {marker:?}");
        rows
    }

    /// Code in the first column of that table.
    pub fn first_column(&self, marker: &str, title: &str) -> Vec<String> {
        self.table(marker, title)
            .iter()
            .flat_map(|row| code(&row[0]))
            .collect()
    }

    /// First text between `start` and `end`.
    #[track_caller]
    pub fn between(&self, start: &str, end: &str) -> &'static str {
        let (_, rest) = self.0.split_once(start).expect(start);
        rest.split_once(end).expect(end).0
    }
}

/// Texts in backticks.
pub fn code(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Names of the methods of a builder that set an option, from its source.
pub fn setters(source: &str) -> Vec<String> {
    source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub fn ")?.split_once("(mut self"))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Every document of the repository: its path from the root, and its text.
pub fn documents() -> Vec<(String, String)> {
    let root = testkit::repository();
    let mut paths: Vec<String> = [
        "README",
        "CONTRIBUTING",
        "CHANGELOG",
        "SECURITY",
        "dashboards/runbooks",
        "dashboards/preview/README",
    ]
    .map(|name| format!("{name}.md"))
    .into();
    for folder in ["docs", "docs/upstream"] {
        for entry in fs::read_dir(root.join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.file_name().and_then(|name| name.to_str());
                paths.push(format!("{folder}/{}", name.expect("UTF-8")));
            }
        }
    }
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(root.join(&path)).expect("a document");
            (path, text)
        })
        .collect()
}
