//! `migrate`: moves the records of a client between Paho's file persistence and Redis.

use std::path::{Path, PathBuf};

use paho_mqtt_redis::backlog::{
    ClientFiles, ClientName, MoveEvent, directories_of, move_from_files, move_to_files,
};
use serde_json::json;

use crate::{
    args::ClientArgs,
    context::Context,
    exit::{Exit, Failure},
    output::{Progress, count, escape},
};

const HELP: &str = "\
The names of directories do not show where a client id ends, so for --from-files CLIENT is CLIENT_ID:SERVER_URI. If the id has a \
colon, write the scheme: a:b:mqtt://broker:1883.

End the program of the client before. A message is removed from one place only after the other has confirmed it, the newest first. \
After a failure or a kill, run the same command again: it goes on, and nothing is lost or doubled. Or go back with the other one. \
Before you restore files from a copy, purge the records with purge --all, which forgets a move that has not ended.";

#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    files: FilesArgs,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct FilesArgs {
    /// Move from the files in this directory, which the program passes to Paho, to Redis
    #[arg(long, value_name = "DIR")]
    from_files: Option<PathBuf>,
    /// Move from Redis to files in this directory
    #[arg(long, value_name = "DIR")]
    to_files: Option<PathBuf>,
}

impl Args {
    pub fn run(&self, context: &mut Context) -> Result<Exit, Failure> {
        let FilesArgs {
            from_files,
            to_files,
        } = &self.files;
        match (from_files, to_files) {
            (Some(base), _) => self.move_from(base, context),
            (None, Some(base)) => self.move_to(base, context),
            (None, None) => Err(Failure::usage("name --from-files or --to-files")),
        }
    }

    fn move_from(&self, base: &Path, context: &mut Context) -> Result<Exit, Failure> {
        let text = &self.client.client;
        let client = ClientName::parse(text).ok_or_else(|| {
            let reason = format!(
                "{text} names no server URI; write CLIENT_ID:SERVER_URI, as the client is created with"
            );
            Failure::usage(with_directories(&reason, base, text))
        })?;
        let files = ClientFiles::new(base, &client);
        if !files.directory().is_dir() {
            let reason = format!("there is no directory {}", files.directory().display());
            return Err(Failure::usage(with_directories(&reason, base, &client.id)));
        }
        let mut owned = context.own(&client.name())?;
        let mut work = Work::new(context);
        let moved = move_from_files(&mut owned, &files, |event| work.note(&event));
        work.finish(moved, &client.name())
    }

    fn move_to(&self, base: &Path, context: &mut Context) -> Result<Exit, Failure> {
        let name = self.client.resolve(&mut context.server)?;
        let client = ClientName::of_records(&name, &self.client.client)
            .ok_or_else(|| Failure::usage(format!("{name} has no server URI")))?;
        let files = ClientFiles::new(base, &client);
        let mut owned = context.own(&name)?;
        let mut work = Work::new(context);
        let moved = move_to_files(&mut owned, &files, |event| work.note(&event));
        work.finish(moved, &files.directory().display().to_string())
    }
}

/// Adds the directories in `base` that may be meant.
fn with_directories(reason: &str, base: &Path, client_id: &str) -> String {
    let directories = directories_of(base, client_id).into_iter().take(8);
    let directories = directories.map(|name| name.to_string_lossy().into_owned());
    let directories = directories.collect::<Vec<_>>().join(", ");
    let base = base.display();
    if directories.is_empty() {
        format!("{reason}; {base} has no directory of this client")
    } else {
        format!("{reason}; {base} has {directories}")
    }
}

/// A move under way.
struct Work<'a> {
    context: &'a mut Context,
    progress: Option<Progress>,
    moved: usize,
    stays: usize,
}

impl<'a> Work<'a> {
    fn new(context: &'a mut Context) -> Self {
        Self {
            context,
            progress: None,
            moved: 0,
            stays: 0,
        }
    }

    fn note(&mut self, event: &MoveEvent<'_>) {
        match event {
            MoveEvent::Found(records) => self.progress = Some(Progress::new(*records)),
            MoveEvent::Moved(records) => {
                self.moved += records;
                if let Some(progress) = &self.progress {
                    progress.add(*records);
                }
            }
            MoveEvent::Present(_) => {}
            MoveEvent::Stays(name, reason) => {
                self.stays += 1;
                let text = format!("{name} {reason}");
                let context = &mut *self.context;
                match &self.progress {
                    Some(progress) => progress.suspend(|| context.complain(&text)),
                    None => context.complain(&text),
                }
            }
        }
    }

    /// Reports what has moved, also after a failure.
    fn finish(
        mut self,
        result: Result<(), paho_mqtt_redis::Error>,
        target: &str,
    ) -> Result<Exit, Failure> {
        drop(self.progress.take());
        let out = &mut self.context.out;
        if out.is_json() {
            out.json(&json!({
                "target": target,
                "moved_records": self.moved,
                "left_records": self.stays,
                "is_complete": result.is_ok(),
            }))?;
        } else {
            let target = escape(target.as_bytes());
            let stays = match self.stays {
                0 => String::new(),
                stays => format!(", {stays} left"),
            };
            let moved = count(self.moved, "record");
            out.line(&format!("{moved} moved to {target}{stays}"))?;
        }
        result?;
        Ok(Exit::Done)
    }
}
