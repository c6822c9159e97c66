//! One file per command. To add one: its file, its variant, and its line in [`Command::run`].

mod adopt;
mod check;
mod completions;
mod drain;
mod each_client;
mod export;
mod import;
mod list;
mod man;
mod migrate;
mod purge;
mod set_aside;
mod show;
mod watch;

use clap::Subcommand;
use paho_mqtt_redis::backlog::Place;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the clients that have records
    List(list::Args),
    /// Write records as JSON lines, byte for byte
    Export(export::Args),
    /// Put records into Redis that export has written
    Import(import::Args),
    /// Move the messages of a client between Paho's files and Redis
    Migrate(migrate::Args),
    /// Show the messages of a client in the order in which they will go out
    Show(show::Args),
    /// Show how much waits and how it drains, again and again
    Watch(watch::Args),
    /// Check the set-up of Redis, and the records as opening them would
    Check(check::Args),
    /// See and mend the records that the client could not use
    Quarantine(set_aside::Args),
    /// See the messages that the client dropped, and publish them again
    Discarded(set_aside::Args),
    /// Remove messages for good
    Purge(purge::Args),
    /// Move the backlog of a client to another server URI
    Adopt(adopt::Args),
    /// Send what waits of a client to a broker, in its place
    Drain(drain::Args),
    /// Print the completions for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

impl Command {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Export(args) => args.run(context),
            Self::Import(args) => args.run(context),
            Self::Migrate(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Watch(args) => args.run(context),
            Self::Check(args) => args.run(context),
            Self::Quarantine(args) => args.run(context, Place::Quarantine),
            Self::Discarded(args) => args.run(context, Place::Discarded),
            Self::Purge(args) => args.run(context),
            Self::Adopt(args) => args.run(context),
            Self::Drain(args) => args.run(context),
            Self::Completions(args) => args.run(context),
            Self::Man(args) => args.run(context),
        }
    }
}
