//! Loads credentials and TLS configuration, and reloads them after a change of their files.

use std::{
    borrow::Cow,
    fs, io, mem,
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

/// Minimum time between two checks of the files.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Age below which a file may have changed again under the same stamp.
///
/// File systems keep the time of a change with a granularity of up to two seconds.
const SAME_STAMP_WINDOW: Duration = Duration::from_secs(2);

/// The secrets and files from which [`Credentials`] are loaded.
#[derive(Clone, Default)]
pub(super) struct CredentialSources {
    pub(super) secrets: Vec<SecretSource>,
    #[cfg(feature = "server-tls")]
    pub(super) tls: tls::TlsFiles,
}

/// The policy and transport for new connections, with the state of their files.
pub(super) struct Credentials {
    pub(super) auth: AuthPolicy,
    pub(super) transport: Transport,
    sources: CredentialSources,
    /// The files as they were when read; `None` if one of them can be read only once, such as a pipe.
    stamps: Option<Vec<FileStamp>>,
    last_checked: Instant,
    /// Set while changed files are unusable, so that this is logged once.
    is_stale: bool,
}

/// The metadata that shows a change of a file.
#[derive(PartialEq, Eq)]
struct FileStamp {
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
    is_recent: bool,
}

impl Credentials {
    /// Validates the sources, and reads those in files.
    pub(super) fn read(sources: CredentialSources) -> Result<Self, Error> {
        // Taken before reading, so that a change during the read is seen by the next check.
        let stamps = sources.stamps().ok();
        let (auth, transport) = sources.read()?;
        Ok(Self {
            auth,
            transport,
            sources,
            stamps,
            last_checked: Instant::now(),
            is_stale: false,
        })
    }

    /// Reloads all files if one of them has changed. Unusable files keep the previous credentials, and are retried.
    pub(super) fn reload_if_changed(&mut self) {
        let Some(known) = &self.stamps else {
            return;
        };
        if known.is_empty() || self.last_checked.elapsed() < RELOAD_INTERVAL {
            return;
        }
        self.last_checked = Instant::now();
        let found = match self.sources.stamps() {
            Ok(found) if found == *known && !found.iter().any(|file| file.is_recent) => {
                if mem::take(&mut self.is_stale) {
                    info!("credentials are unchanged again");
                }
                return;
            }
            found => found,
        };
        match found.and_then(|found| Ok((found, self.sources.read()?))) {
            Ok((found, (auth, transport))) => {
                self.auth = auth;
                self.transport = transport;
                self.stamps = Some(found);
                self.is_stale = false;
                info!("reloaded credentials");
            }
            Err(error) => {
                if !mem::replace(&mut self.is_stale, true) {
                    let error: &dyn std::error::Error = &error;
                    warn!(
                        error,
                        "cannot reload credentials, keeping the previous ones"
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
        let failed = |reason: Cow<'static, str>| {
            let attempt = format!("reload {}", file.display());
            Error::new(ErrorKind::File, attempt).with_reason(reason)
        };
        let metadata = fs::metadata(file).map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::NotFound => "no such file".into(),
                _ => error.to_string().into(),
            };
            failed(reason).with_source(error)
        })?;
        if !metadata.is_file() {
            // Opening a pipe can block for ever.
            return Err(failed("not a regular file".into()));
        }
        let changed_at = u64::try_from(metadata.ctime())
            .ok()
            .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        let age = changed_at.and_then(|changed_at| changed_at.elapsed().ok());
        Ok(Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            is_recent: age.is_some_and(|age| age <= SAME_STAMP_WINDOW),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;

    /// Checks the files as if the interval had passed.
    fn reload(credentials: &mut Credentials) {
        let before = Instant::now().checked_sub(RELOAD_INTERVAL);
        credentials.last_checked = before.expect("a machine that has been up for longer");
        credentials.reload_if_changed();
    }

    #[test]
    fn invalid_files_keep_previous_credentials() {
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
        let accepted = |credentials: &Credentials| {
            let tokens = ["first", "second", "third"].into_iter();
            let accepted = tokens.filter(|token| {
                let header = format!("Bearer {token}");
                credentials.auth.is_authorized(Some(header.as_bytes()))
            });
            accepted.collect::<Vec<_>>()
        };
        reload(&mut credentials);
        assert_eq!(accepted(&credentials), ["first"]);

        fs::write(&token, "second").expect("written");
        credentials.reload_if_changed();
        assert_eq!(accepted(&credentials), ["first"], "checked too early");
        reload(&mut credentials);
        assert_eq!(accepted(&credentials), ["second"]);

        // A file is empty while another program writes it.
        fs::write(&token, "").expect("written");
        reload(&mut credentials);
        assert_eq!(accepted(&credentials), ["second"]);
        fs::remove_file(&token).expect("removed");
        reload(&mut credentials);
        assert_eq!(accepted(&credentials), ["second"]);
        // No program ever writes to this pipe.
        let made = Command::new("mkfifo").arg(&token).status();
        assert!(made.expect("mkfifo runs").success());
        reload(&mut credentials);
        assert_eq!(accepted(&credentials), ["second"]);
        fs::remove_file(&token).expect("removed");

        fs::write(&token, "third").expect("written");
        fs::write(&pair, "nonsense").expect("written");
        reload(&mut credentials);
        assert_eq!(accepted(&credentials), ["second"], "all or nothing");
        fs::write(&pair, "me:third").expect("written");
        reload(&mut credentials);
        assert_eq!(accepted(&credentials), ["third"]);
    }
}
