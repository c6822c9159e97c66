//! The directory in which Paho's file persistence keeps the records of one client.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use super::{
    client_name::ClientName,
    paho_files::{client_directory, file_name, key_of},
};
use crate::{
    error::{Error, ErrorKind},
    paho::Key,
};

/// A directory inside that of the client, with files that are not complete. Paho ignores directories, but
/// takes every file for a record.
const STAGING: &str = "mqtt-backlog.partial";

/// No record of Paho is larger: a packet has at most 256 MiB, and a command little more.
const MAX_FILE: u64 = 272 * 1024 * 1024;

/// Number of threads that remove files. They wait for the disk nearly all the time.
const REMOVING_THREADS: usize = 32;

/// The files of one client.
#[derive(Debug)]
pub struct ClientFiles {
    directory: PathBuf,
}

/// What is in the directory of a client.
#[derive(Debug, Default)]
pub(super) struct FileListing {
    pub(super) keys: Vec<Key>,
    /// Names that Paho does not write, sorted.
    pub(super) foreign: Vec<OsString>,
}

/// A file with its content.
#[derive(Debug)]
pub(super) struct FileRecord {
    pub(super) value: Vec<u8>,
    /// When Paho put the record.
    pub(super) time: SystemTime,
    pub(super) stamp: Stamp,
}

/// What differs after a file was written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    pub(super) written: Written,
}

/// What differs after a file was written again or restored from a copy, and is the same after a new mount or
/// a change of owner, unlike the inode and the time of the last change. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) length: u64,
    pub(super) modified: i128,
    /// 0 if the file system has none.
    pub(super) created: i128,
}

impl ClientFiles {
    /// Names the directory of a client inside the one that its program passes to Paho.
    #[must_use]
    pub fn new(base: &Path, client: &ClientName) -> Self {
        Self {
            directory: client_directory(base, &client.id, &client.server_uri),
        }
    }

    /// The directory of the client.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Names the directory in a note, under whichever path it was found.
    pub(super) fn identity(&self) -> String {
        let path = self.directory.canonicalize();
        let path = path.unwrap_or_else(|_| self.directory.clone());
        format!("files:{}", path.display())
    }

    /// Lists the files.
    pub(super) fn list(&self) -> Result<FileListing, Error> {
        let attempt = || format!("list {}", self.directory.display());
        let mut listing = FileListing::default();
        let entries =
            fs::read_dir(&self.directory).map_err(|error| file_error(attempt(), error))?;
        for entry in entries {
            let entry = entry.map_err(|error| file_error(attempt(), error))?;
            let name = entry.file_name();
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            match key_of(&name) {
                Some(key) if is_file => listing.keys.push(key),
                _ if name == STAGING => {}
                _ => listing.foreign.push(name),
            }
        }
        listing.foreign.sort_unstable();
        Ok(listing)
    }

    /// Reads the record in a file; `None` if it is gone.
    pub(super) fn read(&self, key: Key) -> Result<Option<FileRecord>, Error> {
        let read = || -> io::Result<FileRecord> {
            let mut file = File::open(self.path(key))?;
            let metadata = file.metadata()?;
            if metadata.len() > MAX_FILE {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let mut value = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
            file.read_to_end(&mut value)?;
            Ok(FileRecord {
                value,
                time: metadata.modified()?,
                stamp: Stamp::of(&metadata),
            })
        };
        match read() {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error("read", key, error)),
        }
    }

    /// Returns the stamp of a file, which may be unreadable; `None` if it is gone.
    pub(super) fn stamp(&self, key: Key) -> Result<Option<Stamp>, Error> {
        match fs::symlink_metadata(self.path(key)) {
            Ok(metadata) => Ok(Some(Stamp::of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error("find", key, error)),
        }
    }

    /// Removes files that have not changed since they were read; returns the keys of those that have.
    ///
    /// Some file systems wait for the disk at each of them, as ext4 with `discard` and without a journal
    /// does. It serves several at a time.
    pub(super) fn remove(&self, files: &[(Key, Stamp)]) -> Result<Vec<Key>, Error> {
        let share = files.len().div_ceil(REMOVING_THREADS).max(1);
        thread::scope(|scope| {
            let threads = files
                .chunks(share)
                .map(|files| scope.spawn(|| self.remove_each(files)));
            let threads: Vec<_> = threads.collect();
            let mut changed = Vec::new();
            for thread in threads {
                changed.extend(thread.join().unwrap_or_else(|panic| resume_unwind(panic))?);
            }
            Ok(changed)
        })
    }

    fn remove_each(&self, files: &[(Key, Stamp)]) -> Result<Vec<Key>, Error> {
        let mut changed = Vec::new();
        for (key, stamp) in files {
            let path = self.path(*key);
            let remove = || -> io::Result<bool> {
                let is_same = Stamp::of(&fs::symlink_metadata(&path)?) == *stamp;
                if is_same {
                    fs::remove_file(&path)?;
                }
                Ok(is_same)
            };
            match remove() {
                Ok(true) => {}
                Ok(false) => changed.push(*key),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.error("remove", *key, error)),
            }
        }
        Ok(changed)
    }

    /// Waits until what was written, renamed and removed here survives a loss of power.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| file_error(format!("sync {}", self.directory.display()), error))
    }

    /// Creates the directory if it is missing, and removes what an earlier move has not completed.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        let staging = self.directory.join(STAGING);
        let prepare = || {
            fs::create_dir_all(&self.directory)?;
            if staging.exists() {
                fs::remove_dir_all(&staging)?;
            }
            fs::create_dir(&staging)
        };
        prepare().map_err(|error| file_error(format!("create {}", staging.display()), error))
    }

    /// Writes a file that Paho does not see before it is [finished](Self::finish_staged) and
    /// [published](Self::publish).
    pub(super) fn stage(&self, key: Key, value: &[u8]) -> Result<(), Error> {
        let write = || File::create(self.staged(key))?.write_all(value);
        write().map_err(|error| self.error("write", key, error))
    }

    /// Waits until staged files survive a loss of power; returns how they were written.
    pub(super) fn finish_staged(&self, keys: &[Key]) -> Result<Vec<Written>, Error> {
        self.sync_staged(keys)?;
        let written = keys.iter().map(|key| {
            let metadata = fs::symlink_metadata(self.staged(*key));
            let metadata = metadata.map_err(|error| self.error("write", *key, error))?;
            Ok(Stamp::of(&metadata).written)
        });
        written.collect()
    }

    /// Makes finished files visible in this order.
    pub(super) fn publish(&self, keys: &[Key]) -> Result<(), Error> {
        for key in keys {
            let path = self.path(*key);
            // Only a program that uses the directory could have written it since the files were listed.
            let renamed = match fs::symlink_metadata(&path) {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => fs::rename(self.staged(*key), path),
            };
            renamed.map_err(|error| self.error("write", *key, error))?;
        }
        self.sync()
    }

    /// Removes the directory for staged files.
    pub(super) fn finish(&self) {
        // At worst it stays, with nothing in it.
        let _ = fs::remove_dir(self.directory.join(STAGING));
    }

    /// Removes the directory of the client if nothing is left in it, as Paho does when it closes one.
    pub(super) fn remove_if_empty(&self) {
        self.finish();
        let _ = fs::remove_dir(&self.directory);
    }

    /// One request for the whole file system: a request per file takes as many commits of its journal.
    #[cfg(target_os = "linux")]
    fn sync_staged(&self, keys: &[Key]) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let synced =
            File::open(&self.directory).and_then(|directory| Ok(rustix::fs::syncfs(directory)?));
        synced.map_err(|error| file_error(format!("sync {}", self.directory.display()), error))
    }

    #[cfg(not(target_os = "linux"))]
    fn sync_staged(&self, keys: &[Key]) -> Result<(), Error> {
        for key in keys {
            let synced = File::open(self.staged(*key)).and_then(|file| file.sync_all());
            synced.map_err(|error| self.error("sync", *key, error))?;
        }
        Ok(())
    }

    /// The path of the file with this record.
    pub(super) fn path(&self, key: Key) -> PathBuf {
        self.directory.join(file_name(key))
    }

    fn staged(&self, key: Key) -> PathBuf {
        self.directory.join(STAGING).join(file_name(key))
    }

    fn error(&self, verb: &str, key: Key, error: io::Error) -> Error {
        file_error(format!("{verb} {}", self.path(key).display()), error)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            written: Written {
                length: metadata.len(),
                modified: nanoseconds(metadata.modified()),
                created: nanoseconds(metadata.created()),
            },
        }
    }
}

/// Returns the time since 1970; 0 if the file system does not know it.
fn nanoseconds(time: io::Result<SystemTime>) -> i128 {
    let since = time.map(|time| time.duration_since(SystemTime::UNIX_EPOCH));
    let whole = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
    match since {
        Ok(Ok(since)) => whole(since),
        Ok(Err(before)) => whole(before.duration()).saturating_neg(),
        Err(_) => 0,
    }
}

/// Returns directories in `base` that may be those of a client with this id.
#[must_use]
pub fn directories_of(base: &Path, client_id: &str) -> BTreeSet<OsString> {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    let names = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name());
    let prefix = format!("{client_id}-");
    names
        .filter(|name| name.to_string_lossy().starts_with(&prefix))
        .collect()
}

fn file_error(attempt: String, error: io::Error) -> Error {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "; run this as the user of the client's program",
        _ => "",
    };
    let reason = format!("{error}{advice}");
    Error::new(ErrorKind::File, attempt)
        .with_reason(reason)
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn only_unchanged_files_are_removed() {
        let folder = TempDir::new().expect("a folder");
        let client = ClientName::parse("device:broker:1883").expect("a name");
        let files = ClientFiles::new(folder.path(), &client);
        fs::create_dir(files.directory()).expect("a folder");
        let key = |number: u32| Key::parse(&format!("c-{number}")).expect("a key");
        for number in 1..=100 {
            fs::write(files.path(key(number)), "old").expect("a file");
        }
        let stamped = (1..=100).map(|number| {
            let record = files.read(key(number)).expect("read").expect("there");
            (key(number), record.stamp)
        });
        let stamped: Vec<(Key, Stamp)> = stamped.collect();
        fs::write(files.path(key(40)), "longer").expect("a file");
        // Paho writes another file under the same name, too.
        fs::remove_file(files.path(key(70))).expect("there");
        fs::write(folder.path().join("new"), "new").expect("a file");
        fs::rename(folder.path().join("new"), files.path(key(70))).expect("there");
        fs::remove_file(files.path(key(90))).expect("there");
        let changed = files.remove(&stamped).expect("removed");
        assert_eq!(changed, [key(40), key(70)]);
        assert_eq!(files.list().expect("a list").keys.len(), 2);
    }
}
