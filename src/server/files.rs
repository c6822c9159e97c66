//! The contents of files with credentials.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::error::Error;

/// The contents of files, or the reason why one cannot be read.
#[derive(Default, Hash)]
pub(super) struct Files {
    contents: BTreeMap<PathBuf, Result<Vec<u8>, String>>,
    /// Set if the process had no file descriptor to read one of them.
    pub(super) is_exhausted: bool,
}

impl Files {
    pub(super) fn read<'a>(
        paths: impl Iterator<Item = &'a Path>,
        read: fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Self {
        let mut files = Self::default();
        for path in paths {
            let contents = || {
                read(path).map_err(|error| {
                    files.is_exhausted |= is_exhausted(&error);
                    error.to_string()
                })
            };
            let entry = files.contents.entry(path.to_owned());
            entry.or_insert_with(contents);
        }
        files
    }

    pub(super) fn get(&self, option: &str, path: &Path) -> Result<&[u8], Error> {
        match self.contents.get(path) {
            Some(Ok(contents)) => Ok(contents),
            Some(Err(error)) => Err(Error::invalid_option(option)
                .with_reason(format!("cannot read {}: {error}", path.display()))),
            None => Ok(&[]),
        }
    }
}

/// Reads a regular file. Opening or reading a pipe could block endlessly.
pub(super) fn read_regular_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    let mut file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut contents = Vec::new();
    file.read_to_end(&mut contents)?;
    Ok(contents)
}

/// Returns true if the process or the system has no file descriptor or memory for a file or socket.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}
