//! Who is let in, and over what: as the files say that it comes from, also when they have changed.

use std::{
    fs, mem,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant, UNIX_EPOCH},
};

use tracing::{info, warn};

#[cfg(feature = "server-tls")]
use super::tls;
use super::{
    auth::{Credentials, Secret},
    transport::Transport,
};
use crate::{Error, ErrorKind};

/// How often the files are looked at, at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// A file that changed so shortly before it was read can have changed again with the same stamp.
const RECENT: Duration = Duration::from_secs(2);

/// Where it comes from.
#[derive(Clone, Default)]
pub(super) struct Sources {
    pub(super) secrets: Vec<Secret>,
    #[cfg(feature = "server-tls")]
    pub(super) tls: tls::Files,
}

pub(super) struct Access {
    pub(super) credentials: Credentials,
    pub(super) transport: Transport,
    sources: Sources,
    /// The files as they were read; nothing where one of them can be read once only, such as a pipe.
    files: Option<Vec<Stamp>>,
    looked: Instant,
    /// Whether it was said that the files cannot be used.
    is_failing: bool,
}

/// What a change of a file changes.
#[derive(PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    size: u64,
    changed: (i64, i64),
    is_recent: bool,
}

impl Access {
    /// Checks the sources, and reads those that are files.
    pub(super) fn read(sources: Sources) -> Result<Self, Error> {
        // Before they are read, so that a change in the meantime is seen.
        let files = sources.stamps().ok();
        let (credentials, transport) = sources.read()?;
        Ok(Self {
            credentials,
            transport,
            sources,
            files,
            looked: Instant::now(),
            is_failing: false,
        })
    }

    /// Reads the files again if one of them has changed. What cannot be used changes nothing, and is tried again.
    pub(super) fn renew(&mut self) {
        let Some(known) = &self.files else { return };
        if known.is_empty() || self.looked.elapsed() < INTERVAL {
            return;
        }
        self.looked = Instant::now();
        let found = match self.sources.stamps() {
            Ok(found) if found == *known && !found.iter().any(|file| file.is_recent) => {
                if mem::take(&mut self.is_failing) {
                    info!("the files of the metrics server are as they were");
                }
                return;
            }
            found => found,
        };
        match found.and_then(|found| Ok((found, self.sources.read()?))) {
            Ok((found, (credentials, transport))) => {
                self.credentials = credentials;
                self.transport = transport;
                self.files = Some(found);
                self.is_failing = false;
                info!("the metrics server has read its files again");
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                if !mem::replace(&mut self.is_failing, true) {
                    warn!(
                        error,
                        "the metrics server cannot use its files, which have changed; it goes on with what was in them, and \
                         tries again"
                    );
                }
            }
        }
    }
}

impl Sources {
    fn read(&self) -> Result<(Credentials, Transport), Error> {
        let transport = Transport::Plain;
        #[cfg(feature = "server-tls")]
        let transport = self.tls.read()?.map_or(transport, Transport::Tls);
        Ok((Credentials::read(&self.secrets)?, transport))
    }

    fn stamps(&self) -> Result<Vec<Stamp>, Error> {
        let files = self.secrets.iter().filter_map(Secret::file);
        #[cfg(feature = "server-tls")]
        let files = files.chain(self.tls.all());
        files.map(Stamp::of).collect()
    }
}

impl Stamp {
    fn of(file: &Path) -> Result<Self, Error> {
        let refused = |reason: &'static str| {
            let attempt = format!("read {} again", file.display());
            Error::new(ErrorKind::File, attempt).with_reason(reason)
        };
        let metadata =
            fs::metadata(file).map_err(|error| refused("it is not there").with_source(error))?;
        if !metadata.is_file() {
            // Whoever opens a pipe may wait for ever.
            return Err(refused("it is no regular file"));
        }
        let since = u64::try_from(metadata.ctime())
            .ok()
            .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        let age = since.and_then(|since| since.elapsed().ok());
        Ok(Self {
            place: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            is_recent: age.is_some_and(|age| age <= RECENT),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;

    /// Has the files looked at as though a while had passed.
    fn look(access: &mut Access) {
        let before = Instant::now().checked_sub(INTERVAL);
        access.looked = before.expect("a machine that has been up for longer");
        access.renew();
    }

    #[test]
    fn unusable_file_does_not_replace_loaded_secret() {
        let folder = TempDir::new().expect("a folder");
        let [token, pair] = ["token", "pair"].map(|name| folder.path().join(name));
        fs::write(&token, "first").expect("written");
        fs::write(&pair, "me:first").expect("written");
        let mut sources = Sources::default();
        let secrets = [
            Secret::TokenFile(token.clone()),
            Secret::BasicFile(pair.clone()),
        ];
        sources.secrets.extend(secrets);
        let mut access = Access::read(sources).unwrap_or_else(|error| panic!("{error}"));
        let admitted = |access: &Access| {
            let credentials = ["first", "second", "third"].into_iter();
            let admitted = credentials.filter(|token| {
                let header = format!("Bearer {token}");
                access.credentials.admit(Some(header.as_bytes()))
            });
            admitted.collect::<Vec<_>>()
        };
        look(&mut access);
        assert_eq!(admitted(&access), ["first"]);

        fs::write(&token, "second").expect("written");
        access.renew();
        assert_eq!(admitted(&access), ["first"], "not every time");
        look(&mut access);
        assert_eq!(admitted(&access), ["second"]);

        // As it is while somebody writes it.
        fs::write(&token, "").expect("written");
        look(&mut access);
        assert_eq!(admitted(&access), ["second"]);
        fs::remove_file(&token).expect("removed");
        look(&mut access);
        assert_eq!(admitted(&access), ["second"]);
        // Nobody ever writes to it.
        let made = Command::new("mkfifo").arg(&token).status();
        assert!(made.expect("mkfifo runs").success());
        look(&mut access);
        assert_eq!(admitted(&access), ["second"]);
        fs::remove_file(&token).expect("removed");

        fs::write(&token, "third").expect("written");
        fs::write(&pair, "nonsense").expect("written");
        look(&mut access);
        assert_eq!(admitted(&access), ["second"], "all or nothing");
        fs::write(&pair, "me:third").expect("written");
        look(&mut access);
        assert_eq!(admitted(&access), ["third"]);
    }
}
