//! The names that Paho's file persistence gives to directories and files.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use crate::paho::Key;

const EXTENSION: &str = ".msg";

/// Returns the directory of a client, as `pstopen` of Paho C forms it.
///
/// Only the colons of the server URI, which has no scheme, become hyphens. A slash in either part makes a
/// directory of its own.
pub(super) fn client_directory(base: &Path, client_id: &str, server_uri: &str) -> PathBuf {
    let name = format!("{client_id}-{}", server_uri.replace(':', "-"));
    let mut directory = base.to_owned();
    // Paho joins texts, so a leading slash does not begin at the root.
    directory.extend(name.split('/').filter(|part| !part.is_empty()));
    directory
}

/// Returns the name of the file of a record.
pub(super) fn file_name(key: Key) -> String {
    format!("{key}{EXTENSION}")
}

/// Returns the key of the record in a file; `None` if Paho does not write such a name.
pub(super) fn key_of(name: &OsStr) -> Option<Key> {
    Key::parse(name.to_str()?.strip_suffix(EXTENSION)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_named_as_by_paho() {
        for (client_id, server_uri, expected) in [
            ("device-1", "broker:1883", "d/device-1-broker-1883"),
            ("a:b", "[::1]:1883", "d/a:b-[--1]-1883"),
            ("device", "broker:80/mqtt", "d/device-broker-80/mqtt"),
            ("site/pump", "broker:1883", "d/site/pump-broker-1883"),
            ("/pump", "broker:1883", "d/pump-broker-1883"),
        ] {
            let directory = client_directory(Path::new("d"), client_id, server_uri);
            assert_eq!(directory, Path::new(expected));
        }
    }

    #[test]
    fn file_has_key_and_extension() {
        for name in ["c-0", "c5-999999", "sc5-65535", "q-7"] {
            let key = Key::parse(name).expect("a key");
            assert_eq!(file_name(key), format!("{name}.msg"));
            assert_eq!(key_of(OsStr::new(&file_name(key))), Some(key));
        }
        // Paho takes each of these for a record, and some of them for the same one.
        for name in [
            "c-1",
            "c-1.msg.bak",
            "c-01.msg",
            "x-1.msg",
            ".msg",
            "c-1.MSG",
        ] {
            assert_eq!(key_of(OsStr::new(name)), None, "{name}");
        }
    }
}
