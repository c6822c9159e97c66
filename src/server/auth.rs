//! Who is let in.

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
};

use crate::error::Error;

/// What a request has to bring, where something is asked for. With several, each of them does.
#[derive(Clone, Default)]
pub(super) struct AuthPolicy(Vec<AcceptedCredential>);

#[derive(Clone)]
struct AcceptedCredential {
    scheme: Scheme,
    /// As it is behind the scheme in the header.
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

/// Where a secret is found.
#[derive(Clone)]
pub(super) enum SecretSource {
    Token(String),
    TokenFile(PathBuf),
    Basic(String),
    BasicFile(PathBuf),
}

impl SecretSource {
    /// The file that it is in, if it is in one.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::Token(_) | Self::Basic(_) => None,
            Self::TokenFile(path) | Self::BasicFile(path) => Some(path),
        }
    }
}

impl AuthPolicy {
    /// Checks the secrets, and reads those that are in files.
    pub(super) fn read(secrets: &[SecretSource]) -> Result<Self, Error> {
        secrets
            .iter()
            .map(|secret| match secret {
                SecretSource::Token(token) => bearer("bearer_token", token),
                SecretSource::TokenFile(path) => {
                    bearer("bearer_token_file", &from_file("bearer_token_file", path)?)
                }
                SecretSource::Basic(pair) => basic("basic_auth", pair),
                SecretSource::BasicFile(path) => {
                    basic("basic_auth_file", &from_file("basic_auth_file", path)?)
                }
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether a request with this header is let in.
    pub(super) fn admit(&self, authorization: Option<&[u8]>) -> bool {
        let given = authorization.unwrap_or_default();
        let (scheme, value) = match given.iter().position(|byte| *byte == b' ') {
            Some(end) => given.split_at(end),
            None => (given, &[][..]),
        };
        let value = value.trim_ascii();
        // Each of them is looked at, so that the time does not tell which one it was.
        let admitted = self.0.iter().fold(false, |admitted, credential| {
            let is_same = is_same(value, &credential.value);
            admitted | (is_same & scheme.eq_ignore_ascii_case(credential.scheme.name()))
        });
        admitted || self.0.is_empty()
    }

    /// What a request without them is told.
    pub(super) fn challenge(&self) -> &'static str {
        let asks = |scheme| self.0.iter().any(|credential| credential.scheme == scheme);
        match (asks(Scheme::Basic), asks(Scheme::Bearer)) {
            (true, true) => r#"Basic realm="metrics", Bearer realm="metrics""#,
            (true, false) => r#"Basic realm="metrics""#,
            (false, _) => r#"Bearer realm="metrics""#,
        }
    }
}

/// Compares so that the time depends on what is given only, not on what is expected.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != expected.len());
    for (given, expected) in given.iter().zip(expected.iter().cycle()) {
        difference = black_box(difference | (given ^ expected));
    }
    difference == 0
}

fn from_file(option: &str, path: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(path).map_err(|error| {
        Error::invalid_option(option)
            .with_reason(format!("{} cannot be read", path.display()))
            .with_source(error)
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn bearer(option: &str, token: &str) -> Result<AcceptedCredential, Error> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid_option(option)
            .with_reason("a token has one printable ASCII character or more, and no space"));
    }
    Ok(AcceptedCredential {
        scheme: Scheme::Bearer,
        value: token.as_bytes().to_vec(),
    })
}

fn basic(option: &str, pair: &str) -> Result<AcceptedCredential, Error> {
    let is_usable = pair
        .split_once(':')
        .is_some_and(|(user, password)| !user.is_empty() && !password.is_empty());
    if !is_usable || pair.contains(char::is_control) {
        return Err(Error::invalid_option(option).with_reason(
            "it takes a user without a colon, and a password, neither of them empty; in a file \
             there is a colon between them",
        ));
    }
    Ok(AcceptedCredential {
        scheme: Scheme::Basic,
        value: base64(pair.as_bytes()),
    })
}

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
    fn base64_matches_rfc_vectors() {
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
    fn secret_equals_itself_only() {
        assert!(is_same(b"abc", b"abc"));
        for other in ["", "a", "ab", "abd", "abcabc", "abca", "xbc"] {
            assert!(!is_same(other.as_bytes(), b"abc"), "{other}");
        }
    }

    #[test]
    fn each_of_several_secrets_admits_and_no_other() {
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
            assert!(both.admit(Some(good.as_bytes())), "{good}");
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
            assert!(!both.admit(Some(bad.as_bytes())), "{bad}");
        }
        assert!(!both.admit(None));
        assert!(AuthPolicy::default().admit(None));
    }
}
