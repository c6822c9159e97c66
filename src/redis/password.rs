//! The password for Redis, or the file that has it.

use std::{
    borrow::Cow,
    fmt::Display,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::error::Error;

/// The most bytes of a file with a password.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A password. It has no `Debug`, so that it gets into no log.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Password {
    Text(String),
    /// A file whose first line it is, which is read for each connection.
    File(PathBuf),
}

impl Password {
    /// Returns the password.
    pub(super) fn read(&self) -> Result<Cow<'_, str>, Error> {
        let path = match self {
            Self::Text(text) => return Ok(Cow::Borrowed(text)),
            Self::File(path) => path,
        };
        let name = path.display();
        let invalid = |fault: &dyn Display| {
            Error::invalid_option("password_file").with_reason(format!("{name} {fault}"))
        };
        let text = read_regular_file(path)
            .map_err(|error| invalid(&format_args!("cannot be read")).with_source(error))?;
        match text.lines().next() {
            None | Some("") => Err(invalid(&"has no password in its first line")),
            Some(line) => Ok(Cow::Owned(line.to_owned())),
        }
    }
}

/// Reads a file of which nobody has to write more for the read to end.
fn read_regular_file(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn first_line_of_file_is_read_each_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("password");
        let password = Password::File(path.clone());
        for (text, expected) in [("old", "old"), ("new one\r\nmore\n", "new one")] {
            fs::write(&path, text).expect("written");
            assert_eq!(password.read().map_err(drop), Ok(Cow::from(expected)));
        }
    }

    #[test]
    fn unusable_password_file_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [
            ("missing", None),
            ("empty", Some("")),
            ("second", Some("\nZq7x")),
        ] {
            let path = folder.path().join(name);
            if let Some(text) = text {
                fs::write(&path, text).expect("written");
            }
            let error = Password::File(path.clone()).read().expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidOption);
            let text = format!("{error} {error:?} {:?}", error.source());
            assert!(text.contains(&path.display().to_string()), "{text}");
            assert!(!text.contains("Zq7x"), "{text}");
        }
        let error = Password::File(folder.path().into())
            .read()
            .expect_err("a folder");
        let cause = error.source().expect("a cause").to_string();
        assert_eq!(cause, "it is not a regular file");
    }
}
