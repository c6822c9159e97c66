//! `man`: one manual page with all commands.

use std::io;

use clap::{Command, CommandFactory, Id};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::{
    args::Cli,
    context::Context,
    exit::{Exit, Failure},
};

#[derive(clap::Args, Debug)]
pub struct Args {}

impl Args {
    // As the other commands.
    #[allow(clippy::unused_self)]
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        context.out.raw(&page()?)?;
        Ok(Exit::Done)
    }
}

fn page() -> io::Result<Vec<u8>> {
    // Building adds the help and the options of all commands to each of them.
    let mut cli = Cli::command();
    cli.build();
    let man = Man::new(cli.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let globals: Vec<_> = cli
        .get_arguments()
        .map(|arg| arg.get_id().clone())
        .collect();
    render_commands(&mut page, &cli, "mqtt-backlog", &globals)?;
    let mut codes = Roff::new();
    codes.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        codes.control("TP", []);
        codes.text([bold(exit.code().to_string())]);
        codes.text([roman(exit.meaning())]);
    }
    codes.to_writer(&mut page)?;
    Ok(page)
}

/// Writes a section for each command, and behind it for each of its own commands.
fn render_commands(
    page: &mut Vec<u8>,
    parent: &Command,
    name: &str,
    globals: &[Id],
) -> io::Result<()> {
    let commands = parent.get_subcommands();
    for command in commands.filter(|sub| sub.get_name() != "help") {
        let name = format!("{name} {}", command.get_name());
        let about = command.get_about().map(ToString::to_string);
        let heading = name.to_uppercase();
        let mut section = Roff::new();
        section.control("SH", [heading.as_str()]);
        section.text([roman(about.unwrap_or_default())]);
        section.to_writer(page)?;
        // Only the options of its own.
        let mut own = command.clone().display_name(&name);
        for id in globals {
            if command.get_arguments().any(|arg| arg.get_id() == id) {
                own = own.mut_arg(id, |arg| arg.hide(true));
            }
        }
        let mut options = Vec::new();
        Man::new(own).render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options).into_owned();
        page.extend(options.replace(".SH OPTIONS\n", "").into_bytes());
        render_commands(page, command, &name, globals)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_each_command_and_exit_code() {
        let page = String::from_utf8(page().expect("a page")).expect("text");
        let cli = Cli::command();
        for command in cli.get_subcommands() {
            let heading = format!("MQTT\\-BACKLOG {}", command.get_name().to_uppercase());
            let is_there = page.contains(&heading) || page.contains(&heading.replace('\\', ""));
            assert!(is_there, "{heading}: {page}");
        }
        assert!(page.contains("QUARANTINE PUT\\-BACK") || page.contains("QUARANTINE PUT-BACK"));
        assert!(page.contains("EXIT STATUS"));
        assert_eq!(page.matches("\\-\\-password\\-file").count(), 2, "{page}");
    }
}
