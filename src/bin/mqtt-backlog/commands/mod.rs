//! One file per command. To add one: its file, its variant, and its line in [`Command::run`].

mod list;
mod show;

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
}

impl Command {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
        }
    }
}
