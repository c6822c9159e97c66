//! Shows, checks and moves what waits in the Redis of `paho-mqtt-redis`.

// The comments of arguments and commands are the text of the help.
#![allow(clippy::doc_markdown)]

mod args;
mod commands;
mod context;
mod exit;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::{args::Cli, context::Context, exit::Exit};

fn main() -> ExitCode {
    let Cli { global, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are errors of the parser, too, which go to the standard output.
        Err(error) => {
            let is_usage = error.use_stderr();
            let _ = error.print();
            return if is_usage { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let exit = match Context::new(&global).and_then(|mut context| {
        let exit = command.run(&mut context)?;
        context.finish(exit)
    }) {
        Ok(exit) => exit,
        Err(failure) => failure.report(),
    };
    exit.into()
}
