//! Credentials and TLS configuration, reloaded when the contents of their files change.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD, Engine};
use socket2::Socket;
use tracing::{info, warn};

#[cfg(feature = "server-tls")]
use super::tls;
use super::{
    files::{Files, read_regular_file},
    stream::Stream,
};
use crate::{error::Error, net::DeadlineStream};

/// Minimum time between two checks of the files.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// The secrets and files from which [`Credentials`] are loaded.
#[derive(Clone, Default)]
pub(super) struct CredentialSources {
    pub(super) secrets: Vec<(Scheme, Secret)>,
    #[cfg(feature = "server-tls")]
    pub(super) tls: tls::TlsFiles,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Bearer,
    Basic,
}

#[derive(Clone)]
pub(super) enum Secret {
    Text(String),
    File(PathBuf),
}

/// Decides who may connect, and how.
pub(super) struct Access {
    /// Keyed hashes of the credentials of which a request needs any one; without one every request is served.
    accepted: Vec<u64>,
    hasher: RandomState,
    /// The value of `WWW-Authenticate` for a refused request.
    pub(super) challenge: &'static str,
    #[cfg(feature = "server-tls")]
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl Access {
    /// Returns true if a request with this header may be served.
    pub(super) fn is_authorized(&self, authorization: Option<&[u8]>) -> bool {
        // A missing header takes the same path as a wrong one.
        let given = authorization.unwrap_or_default();
        let end = given.iter().position(|byte| *byte == b' ');
        let (scheme, value) = given.split_at(end.unwrap_or(given.len()));
        let given = self.hash(scheme, value.trim_ascii());
        self.accepted.is_empty() || self.accepted.contains(&given)
    }

    /// Hashes under a random key, so that the time of a comparison discloses nothing about what is accepted.
    fn hash(&self, scheme: &[u8], value: &[u8]) -> u64 {
        self.hasher.hash_one((scheme.to_ascii_lowercase(), value))
    }

    /// Opens a connection, with TLS if it is configured.
    #[cfg_attr(
        not(feature = "server-tls"),
        expect(clippy::unused_self, reason = "only TLS has a configuration")
    )]
    pub(super) fn open(
        &self,
        socket: Arc<Socket>,
        deadline: Instant,
    ) -> io::Result<Box<dyn Stream>> {
        let socket = DeadlineStream::new(socket, deadline)?;
        #[cfg(feature = "server-tls")]
        if let Some(config) = &self.tls {
            return tls::open(config, socket);
        }
        Ok(Box::new(socket))
    }
}

impl CredentialSources {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let files = self.secrets.iter().filter_map(|(_, secret)| match secret {
            Secret::Text(_) => None,
            Secret::File(path) => Some(path.as_path()),
        });
        #[cfg(feature = "server-tls")]
        let files = files.chain(self.tls.all());
        files
    }

    /// Validates all secrets and files.
    pub(super) fn parse(&self, files: &Files) -> Result<Access, Error> {
        let accepts = |scheme| self.secrets.iter().any(|(accepted, _)| *accepted == scheme);
        let mut access = Access {
            accepted: Vec::new(),
            hasher: RandomState::new(),
            challenge: match (accepts(Scheme::Basic), accepts(Scheme::Bearer)) {
                (true, true) => r#"Basic realm="metrics", Bearer realm="metrics""#,
                (true, false) => r#"Basic realm="metrics""#,
                (false, _) => r#"Bearer realm="metrics""#,
            },
            #[cfg(feature = "server-tls")]
            tls: self.tls.parse(files)?,
        };
        for (scheme, secret) in &self.secrets {
            let (scheme, value) = parse_secret(*scheme, secret, files)?;
            access.accepted.push(access.hash(scheme, value.as_bytes()));
        }
        Ok(access)
    }
}

/// Returns the parts of a header with this secret: the scheme, and the text behind it.
fn parse_secret(
    scheme: Scheme,
    secret: &Secret,
    files: &Files,
) -> Result<(&'static [u8], String), Error> {
    let option = match (scheme, secret) {
        (Scheme::Bearer, Secret::Text(_)) => "bearer_token",
        (Scheme::Bearer, Secret::File(_)) => "bearer_token_file",
        (Scheme::Basic, Secret::Text(_)) => "basic_auth",
        (Scheme::Basic, Secret::File(_)) => "basic_auth_file",
    };
    let invalid = |reason: String| Err(Error::invalid_option(option).with_reason(reason));
    let (text, name) = match secret {
        Secret::Text(text) => (text.as_str(), String::new()),
        Secret::File(path) => {
            let name = path.display();
            match str::from_utf8(files.get(option, path)?) {
                Ok(text) => match text.trim_end_matches(['\r', '\n']) {
                    // Usually its writer failed.
                    "" => ("", format!("{name} is empty; ")),
                    text => (text, format!("{name}: ")),
                },
                Err(error) => return invalid(format!("cannot read {name}: {error}")),
            }
        }
    };
    match scheme {
        Scheme::Bearer if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok((b"bearer", text.to_owned()))
        }
        Scheme::Bearer => invalid(format!(
            "{name}a token is one or more printable ASCII characters without spaces"
        )),
        Scheme::Basic
            if !text.contains(char::is_control)
                && matches!(text.split_once(':'), Some((user, password)) if !user.is_empty() && !password.is_empty()) =>
        {
            Ok((b"basic", BASE64_STANDARD.encode(text)))
        }
        Scheme::Basic => invalid(format!(
            "{name}expected USER:PASSWORD, both not empty, no colon in USER, no control characters"
        )),
    }
}

/// The access of new connections, with the state of the files.
pub(super) struct Credentials {
    current: Arc<Access>,
    sources: CredentialSources,
    /// Hash of the files as last read; `None` if there is nothing to read again.
    last_read: Option<u64>,
    last_checked: Instant,
    hasher: RandomState,
}

impl Credentials {
    /// Validates the sources, and reads those in files.
    pub(super) fn read(sources: CredentialSources) -> Result<Self, Error> {
        // A pipe can be read only once.
        let is_file = |path| fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
        let is_reloadable = sources.paths().next().is_some() && sources.paths().all(is_file);
        let files = Files::read(sources.paths(), |path| fs::read(path));
        let hasher = RandomState::new();
        Ok(Self {
            current: Arc::new(sources.parse(&files)?),
            last_read: is_reloadable.then(|| hasher.hash_one(&files)),
            last_checked: Instant::now(),
            sources,
            hasher,
        })
    }

    /// Reloads all files if one of them has changed. Unusable files keep the previous access.
    pub(super) fn current(&mut self) -> Arc<Access> {
        if self.last_read.is_some() && self.last_checked.elapsed() >= RELOAD_INTERVAL {
            self.last_checked = Instant::now();
            let files = Files::read(self.sources.paths(), read_regular_file);
            if files.is_exhausted {
                return Arc::clone(&self.current);
            }
            let read = Some(self.hasher.hash_one(&files));
            if read != self.last_read {
                self.last_read = read;
                self.reload(&files);
            }
        }
        Arc::clone(&self.current)
    }

    fn reload(&mut self, files: &Files) {
        match self.sources.parse(files) {
            Ok(access) => {
                self.current = Arc::new(access);
                info!("reloaded credentials");
            }
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "cannot reload credentials, keeping the previous ones"
            ),
        }
    }
}
