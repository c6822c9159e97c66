//! Who is let in, and over what: as the files say that it comes from, also when they have changed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use tracing::{info, warn};

#[cfg(feature = "server-tls")]
use super::tls;
use super::{
    auth::{Credentials, Secret},
    transport::Transport,
};
use crate::Error;

/// How often the files are looked at, at most.
const INTERVAL: Duration = Duration::from_secs(1);

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
    /// Of each of the files when they were read; nothing where there was none.
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
}

/// What is different after whatever is done to a file.
#[derive(PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Access {
    /// Checks the sources, and reads those that are files.
    pub(super) fn read(sources: Sources) -> Result<Self, Error> {
        // Before they are read, so that a change in the meantime is seen.
        let stamps = sources.stamps();
        let (credentials, transport) = sources.read()?;
        Ok(Self {
            credentials,
            transport,
            sources,
            stamps,
            looked: Instant::now(),
        })
    }

    /// Reads the files again if one of them has changed. What cannot be used changes nothing.
    pub(super) fn renew(&mut self) {
        if self.stamps.is_empty() || self.looked.elapsed() < INTERVAL {
            return;
        }
        self.looked = Instant::now();
        let stamps = self.sources.stamps();
        if stamps == self.stamps {
            return;
        }
        self.stamps = stamps;
        match self.sources.read() {
            Ok((credentials, transport)) => {
                self.credentials = credentials;
                self.transport = transport;
                info!("the metrics server has read its changed files");
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                warn!(
                    error,
                    "the metrics server cannot use its changed files; it goes on with what was in them, and looks again when \
                     they change"
                );
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

    fn stamps(&self) -> Vec<Option<Stamp>> {
        let files = self.secrets.iter().filter_map(Secret::file);
        #[cfg(feature = "server-tls")]
        let files = files.chain(self.tls.all());
        files.map(Stamp::of).collect()
    }
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let metadata = fs::metadata(file).ok()?;
        Some(Self {
            place: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Has the files looked at as though a while had passed.
    fn look(access: &mut Access) {
        let before = Instant::now().checked_sub(INTERVAL);
        access.looked = before.expect("a machine that has been up for longer");
        access.renew();
    }

    #[test]
    fn only_what_can_be_used_takes_the_place_of_what_was_read() {
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

        fs::write(&token, "third").expect("written");
        fs::write(&pair, "nonsense").expect("written");
        look(&mut access);
        assert_eq!(admitted(&access), ["second"], "all or nothing");
        fs::write(&pair, "me:third").expect("written");
        look(&mut access);
        assert_eq!(admitted(&access), ["third"]);
    }
}
