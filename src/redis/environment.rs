//! The options of a [`RedisPersistence`] from the environment.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    str::FromStr,
    time::Duration,
};

use super::builder::{RedisPersistence, RedisPersistenceBuilder};
use crate::error::{Error, ErrorKind};

impl RedisPersistence {
    /// Creates a persistence with the options that the environment has, as
    /// [`RedisPersistenceBuilder::from_env`] reads them.
    ///
    /// # Errors
    ///
    /// The same as [`RedisPersistenceBuilder::from_env`].
    pub fn from_env() -> Result<Self, Error> {
        RedisPersistenceBuilder::from_env()?.build()
    }
}

impl RedisPersistenceBuilder {
    /// Returns a builder with the options that the environment has: `MQTT_PERSISTENCE_URL`, which must be
    /// set, and any other of this table.
    ///
    /// | variable, after `MQTT_PERSISTENCE_` | value |
    /// |---|---|
    /// | `URL` | as for [`url`](Self::url) |
    /// | `PASSWORD_FILE`, `CA_FILE`, `CLIENT_CERTIFICATE_FILE`, `CLIENT_KEY_FILE` | the path of a file |
    /// | `KEY_PREFIX` | text |
    /// | `DURABILITY` | `confirmed`, `pipelined` or `synced` |
    /// | `CONNECT_TIMEOUT`, `OPERATION_TIMEOUT`, `OPEN_TIMEOUT` | a whole number with its unit: `250ms`, `2s` |
    /// | `CACHE_LIMIT`, `BUFFER_WARN_BYTES`, `BYTE_BUDGET` | bytes |
    /// | `MAX_BUFFERED_MESSAGES`, `MAX_SENDS` | a number |
    /// | `OVER_BUDGET` | `keep` or `drop_oldest` |
    /// | `EVICTION_CHECK` | `warn`, `refuse` or `ignore` |
    /// | `QUARANTINE_POISON`, `DEAD_LETTERS`, `MOVED_BACKLOG_CHECK`, `OPEN_WITHOUT_REDIS` | `true` or `false` |
    ///
    /// Each sets the option of the same name. An empty variable counts as not set.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption), with the name of the variable in its
    /// text, and never its value: one that is missing, that cannot work, or that begins with
    /// `MQTT_PERSISTENCE_` and has the name of no option.
    pub fn from_env() -> Result<Self, Error> {
        builder_of(env::vars_os())
    }
}

/// The text before the name of an option in capitals.
const PREFIX: &str = "MQTT_PERSISTENCE_";

/// A variable of the environment that has an option.
struct Variable<'a> {
    /// The part behind the prefix.
    name: &'a str,
    value: &'a OsStr,
}

impl Variable<'_> {
    /// The value never gets into the error: it may be a password in the wrong variable.
    fn invalid(&self, reason: impl fmt::Display) -> Error {
        invalid(self.name).with_reason(reason.to_string())
    }

    fn text(&self) -> Result<&str, Error> {
        let text = self.value.to_str();
        text.ok_or_else(|| self.invalid("its value is not UTF-8"))
    }

    fn number<T: FromStr>(&self) -> Result<T, Error> {
        let number = self.text()?.parse();
        number.map_err(|_| self.invalid("expected a whole number"))
    }

    fn switch(&self) -> Result<bool, Error> {
        let switch = self.text()?.parse();
        switch.map_err(|_| self.invalid("expected `true` or `false`"))
    }

    fn duration(&self) -> Result<Duration, Error> {
        let text = self.text()?;
        let (number, to_duration): (_, fn(u64) -> Duration) = match text.strip_suffix("ms") {
            Some(number) => (number, Duration::from_millis),
            None => (
                text.strip_suffix('s').unwrap_or_default(),
                Duration::from_secs,
            ),
        };
        let number = number.parse();
        number.map(to_duration).map_err(|_| {
            self.invalid("expected a whole number with its unit, as in `250ms` or `2s`")
        })
    }

    fn word<T: FromStr<Err = Error>>(&self) -> Result<T, Error> {
        let word = self.text()?.parse();
        word.map_err(|error: Error| error.with_attempt(attempt(self.name)))
    }
}

fn attempt(name: &str) -> String {
    format!("use the variable {PREFIX}{name}")
}

fn invalid(name: &str) -> Error {
    Error::new(ErrorKind::InvalidOption, attempt(name))
}

/// Returns a builder with the options that these variables set.
fn builder_of(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<RedisPersistenceBuilder, Error> {
    let mut builder = RedisPersistence::builder();
    let mut has_url = false;
    for (name, value) in variables {
        let name = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let (Some(name), false) = (name, value.is_empty()) else {
            continue;
        };
        has_url |= name == "URL";
        let value = value.as_os_str();
        builder = set(builder, &Variable { name, value })?;
    }
    if !has_url {
        return Err(invalid("URL").with_reason(
            "it is not set; it has the address of Redis, as in unix:///run/redis/redis.sock",
        ));
    }
    match builder.validate(None) {
        Ok(_) => Ok(builder),
        Err((option, error)) => Err(error.with_attempt(attempt(&option.to_ascii_uppercase()))),
    }
}

/// Sets the option that the variable is for.
fn set(
    builder: RedisPersistenceBuilder,
    variable: &Variable<'_>,
) -> Result<RedisPersistenceBuilder, Error> {
    Ok(match variable.name {
        "URL" => builder.url(variable.text()?),
        "PASSWORD_FILE" => builder.password_file(variable.value),
        #[cfg(feature = "redis-tls")]
        "CA_FILE" => builder.ca_file(variable.value),
        #[cfg(feature = "redis-tls")]
        "CLIENT_CERTIFICATE_FILE" => builder.client_certificate_file(variable.value),
        #[cfg(feature = "redis-tls")]
        "CLIENT_KEY_FILE" => builder.client_key_file(variable.value),
        #[cfg(not(feature = "redis-tls"))]
        "CA_FILE" | "CLIENT_CERTIFICATE_FILE" | "CLIENT_KEY_FILE" => {
            return Err(variable.invalid("TLS needs the feature `redis-tls`"));
        }
        "KEY_PREFIX" => builder.key_prefix(variable.text()?),
        "DURABILITY" => builder.durability(variable.word()?),
        "REPLICAS" => builder.replicas(variable.number()?),
        "CONNECT_TIMEOUT" => builder.connect_timeout(variable.duration()?),
        "OPERATION_TIMEOUT" => builder.operation_timeout(variable.duration()?),
        "OPEN_TIMEOUT" => builder.open_timeout(variable.duration()?),
        "CACHE_LIMIT" => builder.cache_limit(variable.number()?),
        "BUFFER_WARN_BYTES" => builder.buffer_warn_bytes(variable.number()?),
        "MAX_BUFFERED_MESSAGES" => builder.max_buffered_messages(variable.number()?),
        "BYTE_BUDGET" => builder.byte_budget(variable.number()?),
        "OVER_BUDGET" => builder.over_budget(variable.word()?),
        "MAX_SENDS" => builder.max_sends(variable.number()?),
        "QUARANTINE_POISON" => builder.quarantine_poison(variable.switch()?),
        "DEAD_LETTERS" => builder.dead_letters(variable.switch()?),
        "EVICTION_CHECK" => builder.eviction_check(variable.word()?),
        "MOVED_BACKLOG_CHECK" => builder.moved_backlog_check(variable.switch()?),
        "OPEN_WITHOUT_REDIS" => builder.open_without_redis(variable.switch()?),
        _ => return Err(variable.invalid("there is no such option; correct its name, or unset it")),
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<RedisPersistenceBuilder, Error> {
        let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        builder_of(variables.iter().map(pair))
    }

    #[test]
    fn variables_set_options_of_their_names() {
        let builder = of(&[
            ("PATH", "/bin"),
            ("MQTT_PERSISTENCE_URL", "redis://mqtt@host/3"),
            ("MQTT_PERSISTENCE_PASSWORD_FILE", "/run/password"),
            ("MQTT_PERSISTENCE_KEY_PREFIX", "mqtt:"),
            ("MQTT_PERSISTENCE_DURABILITY", "pipelined"),
            ("MQTT_PERSISTENCE_REPLICAS", "2"),
            ("MQTT_PERSISTENCE_CONNECT_TIMEOUT", "2s"),
            ("MQTT_PERSISTENCE_OPERATION_TIMEOUT", "70ms"),
            ("MQTT_PERSISTENCE_CACHE_LIMIT", ""),
            ("MQTT_PERSISTENCE_BYTE_BUDGET", "1000"),
            ("MQTT_PERSISTENCE_OVER_BUDGET", "drop_oldest"),
            ("MQTT_PERSISTENCE_DEAD_LETTERS", "false"),
            ("MQTT_PERSISTENCE_EVICTION_CHECK", "refuse"),
        ]);
        let text = format!("{:?}", builder.expect("valid"));
        for shown in [
            "url: \"redis://host:6379/3\"",
            "password_file: Some(\"/run/password\")",
            "key_prefix: \"mqtt:\"",
            "durability: Pipelined",
            "replicas: 2",
            "connect_timeout: 2s",
            "operation_timeout: 70ms",
            "cache_limit: 16777216",
            "byte_budget: Some(1000)",
            "over_budget: DropOldest",
            "dead_letters: false",
            "eviction_check: Refuse",
        ] {
            assert!(text.contains(shown), "{shown} in {text}");
        }
    }

    #[test]
    fn wrong_variable_is_named_without_its_value() {
        const URL: (&str, &str) = ("MQTT_PERSISTENCE_URL", "redis://host/");
        let error = of(&[]).expect_err("no URL");
        let text = error.to_string();
        assert!(text.starts_with("cannot use the variable MQTT_PERSISTENCE_URL: it is not set"));
        for (name, value, named) in [
            ("URL", "redis://u:Zq7xKv2w@host:port/", "its port"),
            ("DURABILITY", "Zq7xKv2w", "confirmed, pipelined, synced"),
            ("EVICTION_CHECK", "Zq7xKv2w", "warn, refuse, ignore"),
            ("OVER_BUDGET", "Zq7xKv2w", "keep, drop_oldest"),
            ("OVER_BUDGET", "drop_oldest", "no budget"),
            ("CONNECT_TIMEOUT", "Zq7xKv2w", "250ms"),
            ("CONNECT_TIMEOUT", "2", "250ms"),
            ("OPEN_TIMEOUT", "0s", "zero"),
            ("CACHE_LIMIT", "-1", "whole number"),
            ("MAX_SENDS", "Zq7xKv2w", "whole number"),
            ("DEAD_LETTERS", "no", "`true` or `false`"),
            ("KEY_PREFIX", "a\nZq7xKv2w", "control characters"),
            ("DURABILTY", "confirmed", "no such option"),
            ("CA_FILE", "/ca.crt", "TLS"),
            ("CLIENT_CERTIFICATE_FILE", "/device.crt", "TLS"),
            ("CLIENT_KEY_FILE", "/device.key", "TLS"),
        ] {
            let name = format!("MQTT_PERSISTENCE_{name}");
            let error = of(&[URL, (&name, value)]).expect_err(&name);
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{name}");
            let text = format!("{error} {error:?} {:?}", error.source());
            let start = format!("cannot use the variable {name}: ");
            assert!(text.starts_with(&start), "{text}");
            assert!(text.contains(named), "{text}");
            assert!(!text.contains("Zq7xKv2w"), "{text}");
        }
    }

    #[test]
    fn every_option_but_three_has_variable() {
        let source = include_str!("builder.rs").lines();
        let setters = source.filter_map(|line| line.trim().strip_prefix("pub fn "));
        let setters = setters.filter_map(|setter| setter.split_once("(mut self"));
        let has_no_variable = |option: &&str| {
            let name = option.to_ascii_uppercase();
            let value = OsStr::new("x");
            let set = set(
                RedisPersistence::builder(),
                &Variable { name: &name, value },
            );
            set.is_err_and(|error| error.to_string().contains("no such option"))
        };
        let without: Vec<&str> = setters
            .map(|(name, _)| name)
            .filter(has_no_variable)
            .collect();
        assert_eq!(
            without,
            ["dead_letter_limits", "quarantine_limits", "observer"]
        );
    }
}
