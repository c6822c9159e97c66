//! Command lines in `dashboards/provisioning/`, with the paths, addresses and times of a test.

use std::{fmt::Display, process::Command};

use super::dashboard::read;

/// Options of a systemd unit, or of a file with the defaults of a service.
#[derive(Clone)]
pub struct Unit {
    file: &'static str,
    options: Vec<String>,
}

impl Unit {
    /// Reads a file below `dashboards/provisioning/`.
    pub fn read(file: &'static str) -> Self {
        let text = read(&format!("provisioning/{file}"));
        let is_skipped = |line: &&str| line.starts_with('#') || line.starts_with("ExecReload=");
        let words = text
            .lines()
            .filter(|line| !is_skipped(line))
            .flat_map(str::split_whitespace)
            .map(|word| word.trim_start_matches("ARGS=").trim_matches('"'));
        let options = words.filter(|word| word.starts_with('-'));
        Self {
            file,
            options: options.map(str::to_owned).collect(),
        }
    }

    /// Replaces the value of an option that it must have.
    #[must_use]
    pub fn set(mut self, option: &str, value: impl Display) -> Self {
        *self.find(option) = format!("{option}={value}");
        self
    }

    /// Divides a duration such as `30s` by a factor.
    #[must_use]
    pub fn divide(mut self, option: &str, factor: u32) -> Self {
        let found = self.find(option);
        let (_, value) = found.split_once('=').expect("found by it");
        let (number, unit) = value.split_at(value.len() - 1);
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => panic!("{found}: not in s, m or h"),
        };
        let number: u32 = number.parse().expect("a number");
        *found = format!("{option}={}ms", number * seconds * 1000 / factor);
        self
    }

    /// Adds an option.
    #[must_use]
    pub fn with(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// Command line of a program with these options.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    fn find(&mut self, option: &str) -> &mut String {
        let file = self.file;
        let mut options = self.options.iter_mut();
        options
            .find(|one| one.split_once('=').is_some_and(|(name, _)| name == option))
            .unwrap_or_else(|| panic!("{file} has no {option}"))
    }
}
