//! The commands of the runbooks, what the page says that each shows, and a shell that runs them as they stand.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use super::{LIMIT, poll, repository};
use tempfile::TempDir;

/// Programs whose lines change nothing, so that they can be repeated until they show what the page says.
const PATIENT: [&str; 5] = [
    "curl ",
    "journalctl ",
    "promtool ",
    "systemctl status",
    "ps ",
];
/// A `systemctl` for the units of a test: it shows what the test has written, and notes what it was asked to do.
const SYSTEMCTL: &str = r#"#!/bin/bash
for word in "${@:2}"; do
    case $word in -* | MainPID | NRestarts | ExecMainStatus) ;; *) unit=$word ;; esac
done
case "$*" in
status*) cat "$UNITS/$unit.state"; grep -q ' active' "$UNITS/$unit.state" || exit 3 ;;
show*MainPID*) cat "$UNITS/$unit.pid" ;;
show*) cat "$UNITS/$unit.show" ;;
kill*) kill -CONT "$(cat "$UNITS/$unit.pid")" ;;
*) echo "$1 $unit" >>"$UNITS/asked" ;;
esac
"#;
const JOURNALCTL: &str = "#!/bin/bash\ncat \"$UNITS/$2.log\"\n";

/// A command of a section.
#[derive(Clone, Debug)]
pub struct Step {
    pub command: String,
    /// Exit codes that the page names, beside 0.
    codes: Vec<i32>,
    shows: Vec<String>,
    /// Set if one of these suffices.
    is_choice: bool,
}

/// The text of the runbooks.
pub fn page() -> String {
    fs::read_to_string(repository().join("dashboards/runbooks.md")).expect("the runbooks")
}

/// The text of each section, by its title.
fn texts() -> BTreeMap<String, String> {
    let page = format!("\n{}", page()).replace("\n### ", "\n## ");
    let sections = page.split("\n## ").skip(1).map(|section| {
        let (title, text) = section.split_once('\n').expect("a title and a text");
        (title.to_owned(), text.to_owned())
    });
    sections.collect()
}

/// The steps of each section that has some.
pub fn sections() -> BTreeMap<String, Vec<Step>> {
    let sections = texts().into_iter().map(|(title, text)| {
        let blocks = text.split("```sh\n").skip(1);
        let blocks: Vec<(&str, &str)> = blocks
            .map(|rest| rest.split_once("```").expect("an end"))
            .collect();
        // Blocks that name the values of an alert are no steps.
        let is_step = |block: &&(&str, &str)| block.0.trim().lines().count() == 1;
        let steps = blocks
            .iter()
            .filter(is_step)
            .map(|(command, after)| step(command.trim(), after));
        (title, steps.collect::<Vec<_>>())
    });
    sections.filter(|(_, steps)| !steps.is_empty()).collect()
}

fn step(command: &str, after: &str) -> Step {
    let paragraph = after.trim_start().split("\n\n").next().unwrap_or_default();
    let paragraph = if paragraph.starts_with("Shows ") {
        paragraph
    } else {
        ""
    };
    let codes = paragraph.split("exit code ").skip(1).filter_map(|rest| {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        rest[..end].parse().ok()
    });
    let sentence = first_sentence(paragraph);
    Step {
        command: command.to_owned(),
        codes: codes.collect(),
        shows: code(sentence),
        is_choice: sentence.contains(", or "),
    }
}

/// The text before the first stop that is not in code.
fn first_sentence(text: &str) -> &str {
    let mut is_code = false;
    let end = text.find(|c: char| {
        is_code ^= c == '`';
        !is_code && ['.', ':', ';'].contains(&c)
    });
    &text[..end.unwrap_or(text.len())]
}

fn code(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// A line of the table of errors.
pub struct ErrorRow {
    pub kind: String,
    /// Commands of 'you see', each with what it shows.
    pub sees: Vec<(String, Option<String>)>,
    /// Commands of 'you do'.
    pub does: Vec<String>,
}

/// The lines of the table of errors.
pub fn errors() -> Vec<ErrorRow> {
    let text = &texts()["Errors of the store"];
    let lines = text.lines().filter(|line| line.starts_with("| `"));
    let rows = lines.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let [kind, sees, does] = cells[..] else {
            panic!("not three cells: {line}");
        };
        let is_command = |text: &str| {
            let programs = ["redis-cli ", "systemctl ", "mqtt-backlog ", "ps ", "grep "];
            programs.iter().any(|program| text.starts_with(program))
        };
        let words = code(sees);
        let commands = words
            .iter()
            .enumerate()
            .filter(|(_, text)| is_command(text));
        let sees = commands.map(|(index, command)| {
            let says = sees.contains(&format!("`{command}` shows `"));
            (command.clone(), says.then(|| words[index + 1].clone()))
        });
        ErrorRow {
            kind: code(kind).remove(0),
            sees: sees.collect(),
            does: code(does)
                .into_iter()
                .filter(|text| is_command(text))
                .collect(),
        }
    });
    rows.collect()
}

/// State of a unit, as `systemctl` and `journalctl` show it.
pub struct Unit<'a> {
    pub name: &'a str,
    pub is_active: bool,
    pub pid: u32,
    pub status: i32,
    pub log: String,
}

/// The shell of somebody on call, with the values of an alert.
pub struct Shell {
    variables: BTreeMap<String, String>,
    folder: TempDir,
}

impl Shell {
    /// A shell with these programs beside those of the system.
    pub fn new(variables: &[(&str, String)], programs: &[(&str, &Path)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["bin", "units"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let bin = folder.path().join("bin");
        for (name, script) in [("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)] {
            let path = bin.join(name);
            fs::write(&path, script).expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        for (name, path) in programs {
            std::os::unix::fs::symlink(path, bin.join(name)).expect("a link");
        }
        let search = format!("{}:{}", bin.display(), env::var("PATH").unwrap_or_default());
        let own = [
            ("PATH", search),
            ("UNITS", folder.path().join("units").display().to_string()),
        ];
        let variables = variables.iter().chain(&own);
        Self {
            variables: variables
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            folder,
        }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// Writes what `systemctl` and `journalctl` show.
    pub fn show(&self, unit: &Unit) {
        let write = |end: &str, text: String| {
            let path = self
                .folder
                .path()
                .join("units")
                .join(format!("{}.{end}", unit.name));
            fs::write(path, text).expect("written");
        };
        let state = if unit.is_active {
            "active (running)"
        } else {
            "inactive (dead)"
        };
        write("state", format!("     Active: {state}\n"));
        write("pid", unit.pid.to_string());
        write(
            "show",
            format!("NRestarts=4\nExecMainStatus={}\n", unit.status),
        );
        write("log", unit.log.clone());
    }

    /// Runs a line as it stands. Returns the exit code, what it showed, and what `systemctl` was asked to do.
    pub fn run(&mut self, line: &str) -> (Option<i32>, String, Vec<String>) {
        if let Some((name, value)) = line
            .strip_prefix("export ")
            .and_then(|rest| rest.split_once('='))
        {
            self.set(name, value);
        }
        let output = Command::new("bash")
            .args(["-c", line])
            .env_clear()
            .envs(&self.variables)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("bash runs");
        let text = [output.stdout, output.stderr].concat();
        let asked = self.folder.path().join("units/asked");
        let lines = fs::read_to_string(&asked).unwrap_or_default();
        // Missing if nothing was asked.
        drop(fs::remove_file(asked));
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
            lines.lines().map(str::to_owned).collect(),
        )
    }

    /// Follows a section. `refresh` is called before each command, and `ask` for each thing that `systemctl` was asked to do.
    #[track_caller]
    pub fn follow(
        &mut self,
        section: &str,
        mut refresh: impl FnMut(&Self),
        mut ask: impl FnMut(&str),
    ) {
        let steps = sections()
            .remove(section)
            .unwrap_or_else(|| panic!("no steps in {section}"));
        for step in steps {
            let mut last = None;
            let is_patient = PATIENT
                .iter()
                .any(|program| step.command.starts_with(program));
            let limit = if is_patient { LIMIT } else { Duration::ZERO };
            let done = poll(limit, || {
                refresh(self);
                let (code, text, asked) = self.run(&step.command);
                for line in asked {
                    ask(&line);
                }
                let is_as_said = step.is_as_said(code, &text);
                last = Some((code, text));
                is_as_said.then_some(())
            });
            assert!(done.is_some(), "{section}: {step:?}: {last:?}");
        }
    }
}

impl Step {
    fn is_as_said(&self, code: Option<i32>, text: &str) -> bool {
        let mut parts = self.shows.iter().map(|part| text.contains(part.as_str()));
        let is_all = if self.is_choice {
            parts.any(|is_shown| is_shown)
        } else {
            parts.all(|is_shown| is_shown)
        };
        let is_code = code.is_some_and(|code| code == 0 || self.codes.contains(&code));
        is_all && is_code
    }
}
