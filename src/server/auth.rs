//! Authorizes requests by their `Authorization` header.

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
};

use crate::error::Error;

/// The credentials of which a request needs any one. An empty policy accepts every request.
#[derive(Clone, Default)]
pub(super) struct AuthPolicy(Vec<AcceptedCredential>);

#[derive(Clone)]
struct AcceptedCredential {
    scheme: Scheme,
    /// The text behind the scheme in the header: the token, or the pair in base64.
    value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Bearer,
    Basic,
}

impl Scheme {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Bearer => b"Bearer",
            Self::Basic => b"Basic",
        }
    }
}

/// A secret, or the file that has it.
#[derive(Clone)]
pub(super) enum SecretSource {
    Token(String),
    TokenFile(PathBuf),
    Basic(String),
    BasicFile(PathBuf),
}

impl SecretSource {
    /// Returns the path of a secret that is in a file.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::Token(_) | Self::Basic(_) => None,
            Self::TokenFile(path) | Self::BasicFile(path) => Some(path),
        }
    }
}

impl AuthPolicy {
    /// Validates the secrets, and reads those in files.
    pub(super) fn read(secrets: &[SecretSource]) -> Result<Self, Error> {
        let credentials = secrets.iter().map(AcceptedCredential::read);
        credentials.collect::<Result<_, _>>().map(Self)
    }

    /// Returns true if a request with this header may be served.
    pub(super) fn is_authorized(&self, authorization: Option<&[u8]>) -> bool {
        // A missing header takes the same path as a wrong one.
        let given = authorization.unwrap_or_default();
        let (scheme, value) = match given.iter().position(|byte| *byte == b' ') {
            Some(end) => given.split_at(end),
            None => (given, &[][..]),
        };
        let value = value.trim_ascii();
        // No early exit, so that the time does not disclose which credential matched.
        let matches = self.0.iter().fold(false, |matches, credential| {
            let is_equal = constant_time_eq(value, &credential.value);
            matches | (is_equal & scheme.eq_ignore_ascii_case(credential.scheme.name()))
        });
        matches || self.0.is_empty()
    }

    /// Returns the value of `WWW-Authenticate` for a refused request.
    pub(super) fn challenge(&self) -> &'static str {
        let accepts = |scheme| self.0.iter().any(|credential| credential.scheme == scheme);
        match (accepts(Scheme::Basic), accepts(Scheme::Bearer)) {
            (true, true) => r#"Basic realm="metrics", Bearer realm="metrics""#,
            (true, false) => r#"Basic realm="metrics""#,
            (false, _) => r#"Bearer realm="metrics""#,
        }
    }
}

/// Compares in a time that depends on the length of `given` only, and discloses nothing about `expected`.
fn constant_time_eq(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != expected.len());
    for (given, expected) in given.iter().zip(expected.iter().cycle()) {
        // Keeps the optimizer from leaving the loop at the first difference.
        difference = black_box(difference | (given ^ expected));
    }
    difference == 0
}

impl AcceptedCredential {
    fn read(source: &SecretSource) -> Result<Self, Error> {
        let invalid =
            |option| move |reason: &'static str| Error::invalid_option(option).with_reason(reason);
        match source {
            SecretSource::Token(token) => Self::bearer(token).map_err(invalid("bearer_token")),
            SecretSource::TokenFile(path) => {
                read_secret_file("bearer_token_file", path, Self::bearer)
            }
            SecretSource::Basic(pair) => Self::basic(pair).map_err(invalid("basic_auth")),
            SecretSource::BasicFile(path) => read_secret_file("basic_auth_file", path, Self::basic),
        }
    }

    /// Accepts the token, or returns the reason against it.
    fn bearer(token: &str) -> Result<Self, &'static str> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a token is one or more printable ASCII characters without spaces");
        }
        Ok(Self {
            scheme: Scheme::Bearer,
            value: token.as_bytes().to_vec(),
        })
    }

    /// Accepts the pair `USER:PASSWORD`, or returns the reason against it.
    fn basic(pair: &str) -> Result<Self, &'static str> {
        let is_complete = pair
            .split_once(':')
            .is_some_and(|(user, password)| !user.is_empty() && !password.is_empty());
        if !is_complete || pair.contains(char::is_control) {
            return Err(
                "expected USER:PASSWORD, both not empty, no colon in USER, no control characters",
            );
        }
        Ok(Self {
            scheme: Scheme::Basic,
            value: base64(pair.as_bytes()),
        })
    }
}

/// Reads a secret from a file, and names the file in each error.
fn read_secret_file(
    option: &str,
    path: &Path,
    parse: fn(&str) -> Result<AcceptedCredential, &'static str>,
) -> Result<AcceptedCredential, Error> {
    let name = path.display();
    let invalid = |reason: String| Error::invalid_option(option).with_reason(reason);
    let text = fs::read_to_string(path)
        .map_err(|error| invalid(format!("cannot read {name}: {error}")).with_source(error))?;
    let text = text.trim_end_matches(['\r', '\n']);
    parse(text).map_err(|reason| {
        // An empty file is usually one whose writer failed, so the reason says it.
        let fault = if text.is_empty() { " is empty; " } else { ": " };
        invalid(format!("{name}{fault}{reason}"))
    })
}

/// Encodes bytes in base64 with padding.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for (index, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let sextet = usize::try_from((bits >> shift) & 63).unwrap_or_default();
            let digit = ALPHABET.get(sextet).copied().unwrap_or(b'=');
            text.push(if index > chunk.len() { b'=' } else { digit });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_rfc_4648() {
        for (plain, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn constant_time_eq_compares() {
        assert!(constant_time_eq(b"abc", b"abc"));
        for other in ["", "a", "ab", "abd", "abcabc", "abca", "xbc"] {
            assert!(!constant_time_eq(other.as_bytes(), b"abc"), "{other}");
        }
    }

    #[test]
    fn any_one_credential_authorizes() {
        let both = AuthPolicy::read(&[
            SecretSource::Token("t0ken".to_owned()),
            SecretSource::Basic("user:pass:word".to_owned()),
        ])
        .unwrap_or_else(|error| panic!("{error}"));
        for good in [
            "Bearer t0ken",
            "bearer  t0ken",
            "Basic dXNlcjpwYXNzOndvcmQ=",
        ] {
            assert!(both.is_authorized(Some(good.as_bytes())), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer t0ke",
            "Bearer t0kent0ken",
            "Basic t0ken",
            "t0ken",
            "Bearer dXNlcjpwYXNzOndvcmQ=",
            "Basic user:pass:word",
        ] {
            assert!(!both.is_authorized(Some(bad.as_bytes())), "{bad}");
        }
        assert!(!both.is_authorized(None));
        assert!(AuthPolicy::default().is_authorized(None));
    }

    #[test]
    fn unusable_secret_file_is_named_in_error() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("secret");
        let error = |source: SecretSource| match AuthPolicy::read(&[source]) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        };
        let name = path.display();
        let missing = error(SecretSource::TokenFile(path.clone()));
        let expected = format!("cannot use the option bearer_token_file: cannot read {name}: ");
        assert!(missing.starts_with(&expected), "{missing}");
        assert!(missing.contains("No such file"), "{missing}");
        for (text, expected) in [("\n", " is empty; "), ("two words", ": a token is ")] {
            fs::write(&path, text).expect("written");
            let invalid = error(SecretSource::TokenFile(path.clone()));
            assert!(invalid.contains(&format!("{name}{expected}")), "{invalid}");
        }
        fs::write(&path, "user").expect("written");
        let invalid = error(SecretSource::BasicFile(path.clone()));
        assert!(
            invalid.contains(&format!("{name}: expected USER:PASSWORD")),
            "{invalid}"
        );
        assert!(!error(SecretSource::Token(String::new())).contains("is empty"));
    }
}
