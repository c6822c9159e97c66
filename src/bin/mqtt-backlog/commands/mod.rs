//! One file per command. To add one: its file, its variant, and its line in [`Command::run`].

mod check;
mod completions;
mod list;
mod man;
mod show;
mod watch;

use clap::Subcommand;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the clients that have records
    List(list::Args),
    /// Show the messages of a client in the order in which they will go out
    Show(show::Args),
    /// Show how much waits and how it drains, again and again
    Watch(watch::Args),
    /// Check the set-up of Redis, and the records as opening them would
    Check(check::Args),
    /// Print the completions for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

impl Command {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Watch(args) => args.run(context),
            Self::Check(args) => args.run(context),
            Self::Completions(args) => args.run(context),
            Self::Man(args) => args.run(context),
        }
    }
}
