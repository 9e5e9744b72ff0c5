//! One variable at a time: text to value, by the original's rules (spec: config, parsing rules).

use super::report::{Origin, Report, Setting, Shown, Source};
use super::unused::Warning;
use crate::error::inspect_str;
use std::cell::RefCell;
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

/// The environment. A variable that is set to nothing is set. What is asked of it is noted in a report.
pub(super) struct Environment<'a> {
    get: &'a dyn Fn(&str) -> Option<(String, Origin)>,
    report: RefCell<Report>,
}

impl<'a> Environment<'a> {
    pub(super) fn new(get: &'a dyn Fn(&str) -> Option<(String, Origin)>) -> Self {
        Self {
            get,
            report: RefCell::default(),
        }
    }

    /// What was asked so far.
    pub(super) fn into_report(self) -> Report {
        self.report.into_inner()
    }

    /// The text of a variable and where it stands, without a note of it.
    pub(super) fn found(&self, name: &str) -> Option<(String, Origin)> {
        (self.get)(name)
    }

    /// Takes over what was noted by somebody who reads a part of the same environment by other rules.
    pub(super) fn adopt(&self, report: Report) {
        self.report.borrow_mut().append(report);
    }

    /// The text of a variable, without a note of it.
    pub(super) fn raw(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|(text, _)| text)
    }

    /// Notes what a variable comes to.
    pub(super) fn note(&self, name: &str, value: Shown) {
        let source = (self.get)(name).map_or(Source::Default, |(_, origin)| Source::Set(origin));
        self.note_from(name, value, source);
    }

    fn note_from(&self, name: &str, value: Shown, source: Source) {
        self.report.borrow_mut().add(Setting {
            name: name.to_owned(),
            value,
            source,
            without_effect: None,
            text: self.raw(name).map(Secret::new),
        });
    }

    /// Notes a variable that is set and does nothing. Some of them are secrets, so none of their values shows.
    pub(super) fn note_without_effect(&self, warning: &Warning) {
        let text = self.raw(warning.variable);
        let source =
            (self.get)(warning.variable).map_or(Source::Default, |(_, origin)| Source::Set(origin));
        self.report.borrow_mut().add_without_effect(Setting {
            name: warning.variable.to_owned(),
            value: Shown::Secret(text.as_deref().map_or(0, str::len)),
            source,
            without_effect: Some(warning.reason),
            text: text.map(Secret::new),
        });
    }

    pub(super) fn string(&self, name: &str) -> Option<String> {
        let text = self.raw(name);
        self.note(name, text.clone().map_or(Shown::None, Shown::Text));
        text
    }

    pub(super) fn string_or(&self, name: &str, default: &str) -> String {
        let text = self.raw(name).unwrap_or_else(|| default.to_owned());
        self.note(name, Shown::Text(text.clone()));
        text
    }

    pub(super) fn secret(&self, name: &str) -> Option<Secret> {
        let text = self.raw(name);
        let shown = text
            .as_ref()
            .map_or(Shown::None, |text| Shown::Secret(text.len()));
        self.note(name, shown);
        text.map(Secret::new)
    }

    pub(super) fn secret_or(&self, name: &str, default: &str) -> Secret {
        self.secret(name)
            .unwrap_or_else(|| Secret::new(default.to_owned()))
    }

    /// An address that may hold credentials.
    pub(super) fn url(&self, name: &str) -> Option<String> {
        let text = self.raw(name);
        self.note(name, text.as_deref().map_or(Shown::None, Shown::url));
        text
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

    /// The same of AES-256-GCM, with the original's sentence (spec: control-database 4.2).
    pub(super) fn gcm_key(&self, name: &str, bytes: usize) -> Result<Option<Secret>, ConfigError> {
        match self.secret(name) {
            Some(key) if key.expose().len() != bytes => {
                let length = key.expose().len();
                Err(ConfigError(format!(
                    "{name} must be exactly {bytes} bytes for AES-256-GCM, got {length} bytes"
                )))
            }
            key => Ok(key),
        }
    }

    /// A whole base-10 integer within the bounds of `T`, which are those of the field's unit.
    pub(super) fn integer<T: Integer>(&self, name: &str, default: T) -> Result<T, ConfigError> {
        self.integer_from(T::MIN, name, default)
    }

    /// An integer that is not 0: of a period, or of something of which one is needed.
    pub(super) fn positive<T: Integer>(&self, name: &str, default: T) -> Result<T, ConfigError> {
        self.integer_from(1, name, default)
    }

    fn integer_from<T: Integer>(
        &self,
        min: i128,
        name: &str,
        default: T,
    ) -> Result<T, ConfigError> {
        let value = self.parsed_integer(min, name)?.unwrap_or(default);
        self.note(name, Shown::Text(value.to_string()));
        Ok(value)
    }

    /// An integer of at least `min`, if there is one, without a note of it.
    pub(super) fn parsed_integer<T: Integer>(
        &self,
        min: i128,
        name: &str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.raw(name) else {
            return Ok(None);
        };
        let (got, max) = (inspect_str(&text), T::MAX);
        let integer = text.parse::<i128>().map_err(|_| {
            // Parity: the sentence in front of the bracket is the original's.
            ConfigError(format!(
                "env {name} expected a Integer, got {got} (allowed: {min} to {max})"
            ))
        })?;
        let integer = Some(integer).filter(|integer| *integer >= min);
        let value = integer.and_then(|integer| T::try_from(integer).ok());
        value.map(Some).ok_or_else(|| {
            ConfigError(format!(
                "env {name} expected an integer from {min} to {max}, got {got}"
            ))
        })
    }

    /// As [`Environment::positive`] under the first of two names that is set.
    pub(super) fn integer_or_alias<T: Integer>(
        &self,
        name: &str,
        alias: &'static str,
        default: T,
    ) -> Result<T, ConfigError> {
        match self.raw(name) {
            Some(_) => self.positive(name, default),
            None => {
                let other = self.parsed_integer(1, alias)?;
                let source = other.map_or(Source::Default, |_| Source::Alias(alias));
                let value = other.unwrap_or(default);
                self.note_from(name, Shown::Text(value.to_string()), source);
                Ok(value)
            }
        }
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

    pub(super) fn boolean(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        let value = self.parsed_boolean(name)?.unwrap_or(default);
        self.note(name, Shown::Text(value.to_string()));
        Ok(value)
    }

    fn parsed_boolean(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        let Some(text) = self.raw(name) else {
            return Ok(None);
        };
        match text.trim().to_lowercase().as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => {
                let got = inspect_str(&text);
                Err(ConfigError(format!(
                    "env {name} expected a boolean or 0/1 values, got {got} (allowed: true, false, 1, 0)"
                )))
            }
        }
    }

    /// Comma separated, trimmed; empty items are none.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let text = self.string(name).unwrap_or_default();
        items(&text)
    }

    pub(super) fn secrets(&self, name: &str) -> Vec<Secret> {
        let text = self.raw(name).unwrap_or_default();
        let secrets: Vec<_> = items(&text).into_iter().map(Secret::new).collect();
        let shown = match secrets.len() {
            0 => Shown::None,
            count => Shown::Secrets(count),
        };
        self.note(name, shown);
        secrets
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy + PartialEq>(
        &self,
        name: &str,
        choices: &[(&str, T)],
        default: T,
    ) -> Result<T, ConfigError> {
        let value = match self.raw(name) {
            None => default,
            Some(text) => {
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
                })?
            }
        };
        let word = choices.iter().find(|(_, choice)| *choice == value);
        let word = word.map_or(Shown::None, |(word, _)| Shown::Text((*word).to_owned()));
        self.note(name, word);
        Ok(value)
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

fn items(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The largest core number that a kernel can be built for (`CONFIG_NR_CPUS`), on the platforms that we run on.
const CORE_MAX: usize = 8191;

/// An integer of a type whose smallest and largest one can be named in an error.
pub(super) trait Integer: Copy + fmt::Display + TryFrom<i128> {
    const MIN: i128;
    const MAX: i128;
}

macro_rules! integers {
    ($($integer:ty),*) => {
        $(impl Integer for $integer {
            const MIN: i128 = <$integer>::MIN as i128;
            const MAX: i128 = <$integer>::MAX as i128;
        })*
    };
}

integers!(u16, u32, u64);

#[cfg(test)]
mod tests {
    use super::*;

    /// What `parse` makes of a variable `X` with this text.
    fn with<T>(
        text: &str,
        parse: impl Fn(&Environment<'_>) -> Result<T, ConfigError>,
    ) -> Result<T, String> {
        let get = |name: &str| (name == "X").then(|| (text.to_owned(), Origin::Environment));
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
        for text in ["100_000", "", " 1", "1.5"] {
            let error = format!("env X expected a Integer, got \"{text}\" (allowed: 0 to 65535)");
            check(text, Err(&error));
        }
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
        let error = "env X expected a Integer, got \"x\" (allowed: 1 to 65535)".to_owned();
        assert_eq!(with("x", |env| env.positive("X", 7_u16)), Err(error));
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
        for text in ["yes", ""] {
            let error = format!(
                "env X expected a boolean or 0/1 values, got \"{text}\" (allowed: true, false, 1, 0)"
            );
            check(text, Err(&error));
        }
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
