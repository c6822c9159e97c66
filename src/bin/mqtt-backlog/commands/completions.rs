//! `completions`: the completions for a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    args::Cli,
    context::Context,
    exit::{Exit, Failure},
};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The shell
    shell: Shell,
}

impl Args {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        // Into memory first: clap_complete panics if the reader has gone.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "mqtt-backlog", &mut script);
        context.out.raw(&script)?;
        Ok(Exit::Done)
    }
}
