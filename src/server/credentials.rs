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
    auth::{AuthPolicy, SecretSource},
    transport::Transport,
};
use crate::error::{Error, ErrorKind};

/// How often the files are looked at, at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// A file that changed so shortly before it was read can have changed again with the same stamp.
const RECENT: Duration = Duration::from_secs(2);

/// Where it comes from.
#[derive(Clone, Default)]
pub(super) struct CredentialSources {
    pub(super) secrets: Vec<SecretSource>,
    #[cfg(feature = "server-tls")]
    pub(super) tls: tls::TlsFiles,
}

pub(super) struct Credentials {
    pub(super) auth: AuthPolicy,
    pub(super) transport: Transport,
    sources: CredentialSources,
    /// The files as they were read; nothing where one of them can be read once only, such as a pipe.
    files: Option<Vec<FileStamp>>,
    looked: Instant,
    /// Whether it was said that the files cannot be used.
    is_failing: bool,
}

/// What a change of a file changes.
#[derive(PartialEq, Eq)]
struct FileStamp {
    place: (u64, u64),
    size: u64,
    changed: (i64, i64),
    is_recent: bool,
}

impl Credentials {
    /// Checks the sources, and reads those that are files.
    pub(super) fn read(sources: CredentialSources) -> Result<Self, Error> {
        // Before they are read, so that a change in the meantime is seen.
        let files = sources.stamps().ok();
        let (auth, transport) = sources.read()?;
        Ok(Self {
            auth,
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
            Ok((found, (auth, transport))) => {
                self.auth = auth;
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

impl CredentialSources {
    fn read(&self) -> Result<(AuthPolicy, Transport), Error> {
        let transport = Transport::Plain;
        #[cfg(feature = "server-tls")]
        let transport = self.tls.read()?.map_or(transport, Transport::Tls);
        Ok((AuthPolicy::read(&self.secrets)?, transport))
    }

    fn stamps(&self) -> Result<Vec<FileStamp>, Error> {
        let files = self.secrets.iter().filter_map(SecretSource::file);
        #[cfg(feature = "server-tls")]
        let files = files.chain(self.tls.all());
        files.map(FileStamp::of).collect()
    }
}

impl FileStamp {
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
    fn look(credentials: &mut Credentials) {
        let before = Instant::now().checked_sub(INTERVAL);
        credentials.looked = before.expect("a machine that has been up for longer");
        credentials.renew();
    }

    #[test]
    fn unusable_file_does_not_replace_loaded_secret() {
        let folder = TempDir::new().expect("a folder");
        let [token, pair] = ["token", "pair"].map(|name| folder.path().join(name));
        fs::write(&token, "first").expect("written");
        fs::write(&pair, "me:first").expect("written");
        let mut sources = CredentialSources::default();
        let secrets = [
            SecretSource::TokenFile(token.clone()),
            SecretSource::BasicFile(pair.clone()),
        ];
        sources.secrets.extend(secrets);
        let mut credentials = Credentials::read(sources).unwrap_or_else(|error| panic!("{error}"));
        let admitted = |credentials: &Credentials| {
            let tokens = ["first", "second", "third"].into_iter();
            let admitted = tokens.filter(|token| {
                let header = format!("Bearer {token}");
                credentials.auth.admit(Some(header.as_bytes()))
            });
            admitted.collect::<Vec<_>>()
        };
        look(&mut credentials);
        assert_eq!(admitted(&credentials), ["first"]);

        fs::write(&token, "second").expect("written");
        credentials.renew();
        assert_eq!(admitted(&credentials), ["first"], "not every time");
        look(&mut credentials);
        assert_eq!(admitted(&credentials), ["second"]);

        // As it is while somebody writes it.
        fs::write(&token, "").expect("written");
        look(&mut credentials);
        assert_eq!(admitted(&credentials), ["second"]);
        fs::remove_file(&token).expect("removed");
        look(&mut credentials);
        assert_eq!(admitted(&credentials), ["second"]);
        // Nobody ever writes to it.
        let made = Command::new("mkfifo").arg(&token).status();
        assert!(made.expect("mkfifo runs").success());
        look(&mut credentials);
        assert_eq!(admitted(&credentials), ["second"]);
        fs::remove_file(&token).expect("removed");

        fs::write(&token, "third").expect("written");
        fs::write(&pair, "nonsense").expect("written");
        look(&mut credentials);
        assert_eq!(admitted(&credentials), ["second"], "all or nothing");
        fs::write(&pair, "me:third").expect("written");
        look(&mut credentials);
        assert_eq!(admitted(&credentials), ["third"]);
    }
}
