//! One variable at a time: text to value, by the original's rules (spec: config, parsing rules).

use crate::error::inspect_str;
use std::fmt;
use std::net::IpAddr;

/// Why the process does not start: a sentence that names the variable, its value and what is allowed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError(pub(super) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// A value that never shows: neither in debug output nor in a log line.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Hides `value`.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for whoever has a use for it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The environment. A variable that is set to nothing is set.
pub(super) struct Environment<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Environment<'a> {
    pub(super) fn new(get: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { get }
    }

    pub(super) fn string(&self, name: &str) -> Option<String> {
        (self.get)(name)
    }

    pub(super) fn string_or(&self, name: &str, default: &str) -> String {
        self.string(name).unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn secret(&self, name: &str) -> Option<Secret> {
        self.string(name).map(Secret::new)
    }

    /// A secret of exactly this many bytes: a cipher's key.
    pub(super) fn key(&self, name: &str, bytes: usize) -> Result<Option<Secret>, ConfigError> {
        match self.secret(name) {
            Some(key) if key.expose().len() != bytes => {
                let length = key.expose().len();
                Err(ConfigError(format!(
                    "env {name} expected a key of {bytes} bytes, got one of {length} bytes"
                )))
            }
            key => Ok(key),
        }
    }

    /// A whole base-10 integer within the bounds of `T`, which are those of the field's unit.
    pub(super) fn integer<T: TryFrom<i128> + Into<i128> + Bounds>(
        &self,
        name: &str,
        default: T,
    ) -> Result<T, ConfigError> {
        Ok(self.optional_integer(name)?.unwrap_or(default))
    }

    pub(super) fn optional_integer<T: TryFrom<i128> + Bounds>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.string(name) else {
            return Ok(None);
        };
        let got = || inspect_str(&text);
        let integer = text
            .parse::<i128>()
            .map_err(|_| ConfigError(format!("env {name} expected a Integer, got {}", got())))?;
        let (min, max) = (T::MIN, T::MAX);
        T::try_from(integer).map(Some).map_err(|_| {
            ConfigError(format!(
                "env {name} expected an integer from {min} to {max}, got {}",
                got()
            ))
        })
    }

    /// The end of a slot's name: of PostgreSQL's 63 bytes 44 are taken.
    pub(super) fn slot_suffix(&self, name: &str) -> Result<Option<String>, ConfigError> {
        const BYTES_MAX: usize = 63 - 44;
        let Some(suffix) = self.string(name) else {
            return Ok(None);
        };
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if suffix.len() > BYTES_MAX || !suffix.bytes().all(is_allowed) {
            return Err(ConfigError(format!(
                "env {name} expected at most {BYTES_MAX} lower-case letters, digits and underscores, got {suffix:?}"
            )));
        }
        Ok(Some(suffix))
    }

    /// An integer that is not 0: of a period, or of something of which one is needed.
    pub(super) fn positive<T: TryFrom<i128> + Into<i128> + Bounds>(
        &self,
        name: &str,
        default: T,
    ) -> Result<T, ConfigError> {
        let value = self.integer(name, default)?.into();
        let error = || {
            ConfigError(format!(
                "env {name} expected an integer from 1 to {}, got \"0\"",
                T::MAX
            ))
        };
        if value == 0 {
            Err(error())
        } else {
            T::try_from(value).map_err(|_| error())
        }
    }

    /// As [`Environment::integer`] under the first of two names that is set.
    pub(super) fn integer_or_alias<T: TryFrom<i128> + Into<i128> + Bounds>(
        &self,
        name: &str,
        alias: &str,
        default: T,
    ) -> Result<T, ConfigError> {
        let default = match self.string(name) {
            Some(_) => default,
            None => self.positive(alias, default)?,
        };
        self.positive(name, default)
    }

    pub(super) fn boolean(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        let Some(text) = self.string(name) else {
            return Ok(default);
        };
        match text.trim().to_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => {
                let got = inspect_str(&text);
                Err(ConfigError(format!(
                    "env {name} expected a boolean or 0/1 values, got {got}"
                )))
            }
        }
    }

    /// Comma separated, trimmed; empty items are none.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let text = self.string(name).unwrap_or_default();
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn secrets(&self, name: &str) -> Vec<Secret> {
        self.list(name).into_iter().map(Secret::new).collect()
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
        default: T,
    ) -> Result<T, ConfigError> {
        let Some(text) = self.string(name) else {
            return Ok(default);
        };
        let found = choices
            .iter()
            .find(|(word, _)| *word == text)
            .map(|&(_, value)| value);
        found.ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            ConfigError(format!(
                "env {name} expected one of {}, got {}",
                words.join(", "),
                inspect_str(&text)
            ))
        })
    }

    pub(super) fn address(&self, name: &str) -> Result<Option<IpAddr>, ConfigError> {
        let Some(text) = self.string(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            let got = inspect_str(&text);
            ConfigError(format!(
                "env {name} expected an IP address such as 127.0.0.1 or ::, got {got}"
            ))
        })
    }

    /// Numbers and ranges of numbers: `0-3,6`. In their order, each once.
    pub(super) fn cores(&self, name: &str) -> Result<Option<Vec<usize>>, ConfigError> {
        let Some(text) = self.string(name) else {
            return Ok(None);
        };
        let error = || {
            let got = inspect_str(&text);
            ConfigError(format!(
                "env {name} expected core numbers such as 0-3,6 (at most {CORE_MAX}), got {got}"
            ))
        };
        let mut cores = Vec::new();
        for item in text.split(',').map(str::trim) {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let core = |text: &str| {
                text.trim()
                    .parse::<usize>()
                    .ok()
                    .filter(|&core| core <= CORE_MAX)
                    .ok_or_else(error)
            };
            let (first, last) = (core(first)?, core(last)?);
            if first > last {
                return Err(error());
            }
            cores.extend(
                (first..=last)
                    .filter(|core| !cores.contains(core))
                    .collect::<Vec<_>>(),
            );
        }
        Ok(Some(cores))
    }
}

/// The largest core number that a kernel can be built for (`CONFIG_NR_CPUS`), on the platforms that we run on.
const CORE_MAX: usize = 8191;

/// The smallest and the largest integer of a type, to be named in an error.
pub(super) trait Bounds {
    const MIN: i128;
    const MAX: i128;
}

macro_rules! bounds {
    ($($integer:ty),*) => {
        $(impl Bounds for $integer {
            const MIN: i128 = <$integer>::MIN as i128;
            const MAX: i128 = <$integer>::MAX as i128;
        })*
    };
}

bounds!(u16, u32, u64);

#[cfg(test)]
mod tests {
    use super::*;

    /// What `parse` makes of a variable `X` with this text.
    fn with<T>(
        text: &str,
        parse: impl Fn(&Environment<'_>) -> Result<T, ConfigError>,
    ) -> Result<T, String> {
        let get = |name: &str| (name == "X").then(|| text.to_owned());
        parse(&Environment::new(&get)).map_err(|error| error.to_string())
    }

    #[test]
    fn integers_are_whole_strings() {
        let check = |text: &str, expected: Result<u16, &str>| {
            assert_eq!(
                with(text, |env| env.integer("X", 1)),
                expected.map_err(str::to_owned),
                "{text:?}"
            );
        };
        check("4000", Ok(4000));
        check("0", Ok(0));
        check("65535", Ok(65535));
        check("100_000", Err("env X expected a Integer, got \"100_000\""));
        check("", Err("env X expected a Integer, got \"\""));
        check(" 1", Err("env X expected a Integer, got \" 1\""));
        check("1.5", Err("env X expected a Integer, got \"1.5\""));
        check(
            "65536",
            Err("env X expected an integer from 0 to 65535, got \"65536\""),
        );
        check(
            "-1",
            Err("env X expected an integer from 0 to 65535, got \"-1\""),
        );
        assert_eq!(with("5", |env| env.integer("UNSET", 7_u32)), Ok(7));
        assert_eq!(with("1", |env| env.positive("X", 7_u16)), Ok(1));
        let error = "env X expected an integer from 1 to 65535, got \"0\"".to_owned();
        assert_eq!(with("0", |env| env.positive("X", 7_u16)), Err(error));
    }

    #[test]
    fn booleans_are_words_or_digits() {
        let check = |text: &str, expected: Result<bool, &str>| {
            assert_eq!(
                with(text, |env| env.boolean("X", false)),
                expected.map_err(str::to_owned),
                "{text:?}"
            );
        };
        for text in ["true", " TRUE ", "1", "True"] {
            check(text, Ok(true));
        }
        for text in ["false", "0", "FALSE\n"] {
            check(text, Ok(false));
        }
        check(
            "yes",
            Err("env X expected a boolean or 0/1 values, got \"yes\""),
        );
        check("", Err("env X expected a boolean or 0/1 values, got \"\""));
        assert_eq!(with("", |env| env.boolean("UNSET", true)), Ok(true));
    }

    #[test]
    fn lists_are_trimmed() {
        assert_eq!(
            with(" a, b ,,c", |env| Ok(env.list("X"))),
            Ok(vec!["a".into(), "b".into(), "c".into()])
        );
        assert_eq!(with("", |env| Ok(env.list("X"))), Ok(vec![]));
    }

    #[test]
    fn cores_are_numbers_and_ranges() {
        let check = |text: &str, expected: Option<&[usize]>| {
            let cores = with(text, |env| env.cores("X"));
            assert_eq!(
                cores.ok(),
                expected.map(|cores| Some(cores.to_vec())),
                "{text:?}"
            );
        };
        check("0", Some(&[0]));
        check("3, 1-2,2", Some(&[3, 1, 2]));
        check("0-3,6", Some(&[0, 1, 2, 3, 6]));
        for wrong in ["", "a", "1-", "-1", "2-1", "1,,2", "8192", "0-99999999999"] {
            check(wrong, None);
        }
    }

    #[test]
    fn errors_name_what_is_allowed() {
        let choices = [("auto", 1), ("uring", 2)];
        assert_eq!(with("uring", |env| env.choice("X", &choices, 1)), Ok(2));
        let error = "env X expected one of auto, uring, got \"kqueue\"".to_owned();
        assert_eq!(
            with("kqueue", |env| env.choice("X", &choices, 1)),
            Err(error)
        );
        assert_eq!(
            with("::1", |env| env.address("X")),
            Ok(Some("::1".parse().unwrap()))
        );
        assert!(with("localhost", |env| env.address("X")).is_err());
    }

    #[test]
    fn secrets_do_not_show() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(
            format!("{secret:?} {:?}", Some(&secret)),
            "Secret(***) Some(Secret(***))"
        );
        let error = with("hunter2", |env| env.key("X", 16)).expect_err("7 bytes");
        assert_eq!(
            error,
            "env X expected a key of 16 bytes, got one of 7 bytes"
        );
        assert!(with("0123456789abcdef", |env| env.key("X", 16)).is_ok());
    }
}
