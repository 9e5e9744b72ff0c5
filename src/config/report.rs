//! What a setting is and where that was said: `realtime config`, and what a reload has changed.
//!
//! What comes in: settings as they are read, one after the other. What goes out: a [`Report`]. What always holds: a secret shows as the
//! class of its length at most (`secrets_show_their_class_of_length`). Deliberately absent: what a setting does.

use super::parse::Secret;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Where the text of a variable was found.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// In the environment of the process.
    Environment,
    /// In the file that `ENV_FILE` names.
    File,
}

/// Where a value comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// The variable is set.
    Set(Origin),
    /// It is not set.
    Default,
    /// It is not set, but this other name of it is.
    Alias(&'static str),
    /// It is not set, and follows from the machine.
    Derived(&'static str),
}

impl Source {
    fn text(&self) -> String {
        match self {
            Self::Set(Origin::Environment) => "environment".to_owned(),
            Self::Set(Origin::File) => "file".to_owned(),
            Self::Default => "default".to_owned(),
            Self::Alias(name) => format!("alias {name}"),
            Self::Derived(from) => format!("derived: {from}"),
        }
    }
}

/// A value as an operator may see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Shown {
    /// It is none.
    None,
    /// It is this.
    Text(String),
    /// It is a secret of so many bytes.
    Secret(usize),
    /// It is so many secrets.
    Secrets(usize),
}

impl Shown {
    /// A URL, or several with commas between them, without what may be secret in it: user, password and query. What is in doubt is hidden:
    /// a password may hold a slash, a comma or an `@`.
    pub(super) fn url(urls: &str) -> Self {
        // A password may hold what begins a query elsewhere.
        let credentials_end = if Self::has_credentials(urls) {
            urls.rfind('@').unwrap_or_default()
        } else {
            0
        };
        let query = urls[credentials_end..].find('?');
        let (urls, query) = match query {
            Some(place) => (&urls[..credentials_end + place], "?***"),
            None => (urls, ""),
        };
        let mut items: Vec<String> = Vec::new();
        for part in urls.split(',') {
            match items.last_mut() {
                // No new URL begins here.
                Some(last) if !part.contains("://") => last.extend([",", part]),
                _ => items.push(part.to_owned()),
            }
        }
        let items: Vec<String> = items.iter().map(|item| Self::one_url(item)).collect();
        Self::Text(items.join(",") + query)
    }

    /// Whether a URL holds a user or a password, be it one that does not belong into a URL as it is: with `/`, `?` or `#` in it.
    pub(super) fn has_credentials(url: &str) -> bool {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return true;
        }
        // A port is a number; what is none, with an `@` behind it, is the beginning of a password.
        let port = authority
            .rsplit_once(':')
            .filter(|_| !authority.ends_with(']'));
        let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        port.is_some_and(|(_, port)| !is_port(port)) && rest.contains('@')
    }

    fn one_url(url: &str) -> String {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let separator = if scheme.is_empty() { "" } else { "://" };
        match rest.rsplit_once('@') {
            Some((_, host)) if !rest.starts_with('/') => {
                format!("{scheme}{separator}***@{host}")
            }
            _ => url.to_owned(),
        }
    }

    /// One line, whatever is in it.
    pub(super) fn text(&self) -> String {
        match self {
            Self::None => "(none)".to_owned(),
            Self::Text(text) => {
                let escaped = |char: char| {
                    let (plain, escaped) = match char.is_control() {
                        true => (None, Some(char.escape_default())),
                        false => (Some(char), None),
                    };
                    plain.into_iter().chain(escaped.into_iter().flatten())
                };
                text.chars().flat_map(escaped).collect()
            }
            Self::Secret(bytes) => format!("*** ({})", class(*bytes)),
            Self::Secrets(count) => format!("*** ({count} of them)"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Text(text) => json!(text),
            Self::Secret(_) | Self::Secrets(_) => json!(self.text()),
        }
    }

    const fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_) | Self::Secrets(_))
    }
}

/// Lengths that make a difference: the keys of the ciphers have 16 and 32 bytes, a good secret of HS256 has 32.
const fn class(bytes: usize) -> &'static str {
    match bytes {
        0 => "empty",
        1..16 => "1 to 15 bytes",
        16..32 => "16 to 31 bytes",
        _ => "32 bytes or more",
    }
}

/// One setting.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The variable.
    pub name: String,
    /// What it is in effect.
    pub value: Shown,
    /// Why it is that.
    pub source: Source,
    /// Why it has no effect, for variables that have none.
    pub without_effect: Option<&'static str>,
    /// The text that the variable has, to be compared and never to be shown.
    pub(super) text: Option<Secret>,
}

/// All settings, in the order in which they are read.
#[derive(Clone, Debug, Default)]
pub struct Report {
    settings: Vec<Setting>,
}

impl Report {
    /// Adds one, unless it is there: some variables are read for two purposes.
    pub(super) fn add(&mut self, setting: Setting) {
        if self.find(&setting.name).is_none() {
            self.settings.push(setting);
        }
    }

    /// Adds all of another one, as [`Report::add`].
    pub(super) fn append(&mut self, other: Self) {
        other
            .settings
            .into_iter()
            .for_each(|setting| self.add(setting));
    }

    /// Adds a variable that has no effect, or says of a setting that it has none.
    pub(super) fn add_without_effect(&mut self, setting: Setting) {
        let reason = setting.without_effect;
        match self.settings.iter_mut().find(|it| it.name == setting.name) {
            Some(known) => known.without_effect = reason,
            None => self.settings.push(setting),
        }
    }

    /// The setting of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    /// Says what a setting comes to on this machine, unless somebody has set it.
    pub fn derive(&mut self, name: &str, value: String, from: &'static str) {
        let unset =
            |setting: &&mut Setting| setting.name == name && setting.source == Source::Default;
        if let Some(setting) = self.settings.iter_mut().find(unset) {
            (setting.value, setting.source) = (Shown::Text(value), Source::Derived(from));
        }
    }

    /// The names of the settings whose variables have other texts than in `before`.
    #[must_use]
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> Vec<&'a str> {
        let mut names = Vec::new();
        let text = |report: &'_ Self, name: &str| {
            report.find(name).and_then(|setting| setting.text.clone())
        };
        for setting in self.settings.iter().chain(&before.settings) {
            let name = setting.name.as_str();
            if text(self, name) != text(before, name) && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// A line for each: name, value, source.
    #[must_use]
    pub fn text(&self) -> String {
        let width = |width: usize, setting: &Setting| width.max(setting.name.len());
        let width = self.settings.iter().fold(0, width);
        let mut out = String::new();
        for setting in &self.settings {
            let (name, value) = (&setting.name, setting.value.text());
            let source = setting.source.text();
            let remark = setting
                .without_effect
                .map_or_else(String::new, |reason| format!("; without effect: {reason}"));
            writeln!(out, "{name:<width$}  {value}  ({source}{remark})")
                .expect("a String takes everything");
        }
        out
    }

    /// The same as an array of JSON objects.
    #[must_use]
    pub fn json(&self) -> String {
        let object = |setting: &Setting| {
            json!({
                "name": setting.name,
                "value": setting.value.json(),
                "is_secret": setting.value.is_secret(),
                "source": setting.source.text(),
                "without_effect": setting.without_effect,
            })
        };
        let objects: Vec<Value> = self.settings.iter().map(object).collect();
        format!("{:#}\n", Value::from(objects))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: Shown, source: Source) -> Setting {
        Setting {
            name: name.to_owned(),
            value,
            source,
            without_effect: None,
            text: None,
        }
    }

    fn report() -> Report {
        let mut report = Report::default();
        let set = Source::Set(Origin::Environment);
        report.add(setting("PORT", Shown::Text("4000".into()), Source::Default));
        report.add(setting("KEY", Shown::Secret(16), set.clone()));
        report.add(setting(
            "BLOCKED",
            Shown::Secrets(2),
            Source::Set(Origin::File),
        ));
        report.add(setting("REGION", Shown::None, Source::Alias("AREA")));
        report.add(Setting {
            without_effect: Some("nobody asks"),
            ..setting("QUERY", Shown::Text("a\nb\u{1b}ü".into()), set)
        });
        report
    }

    #[test]
    fn a_line_has_name_value_and_source() {
        let expected = "PORT     4000  (default)\n\
                        KEY      *** (16 to 31 bytes)  (environment)\n\
                        BLOCKED  *** (2 of them)  (file)\n\
                        REGION   (none)  (alias AREA)\n\
                        QUERY    a\\nb\\u{1b}ü  (environment; without effect: nobody asks)\n";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn json_says_the_same() {
        let rows: Value = serde_json::from_str(&report().json()).unwrap();
        let expected = json!({
            "name": "KEY", "value": "*** (16 to 31 bytes)", "is_secret": true, "source": "environment", "without_effect": null
        });
        assert_eq!(rows[1], expected);
        assert_eq!(rows[3]["value"], Value::Null);
        assert_eq!(rows[4]["without_effect"], "nobody asks");
    }

    #[test]
    fn secrets_show_their_class_of_length() {
        for (bytes, expected) in [
            (0, "*** (empty)"),
            (1, "*** (1 to 15 bytes)"),
            (15, "*** (1 to 15 bytes)"),
            (16, "*** (16 to 31 bytes)"),
            (32, "*** (32 bytes or more)"),
            (1000, "*** (32 bytes or more)"),
        ] {
            assert_eq!(Shown::Secret(bytes).text(), expected);
        }
    }

    #[test]
    fn urls_show_without_user_and_query() {
        for (url, expected) in [
            ("https://host:9/path", "https://host:9/path"),
            ("https://me:se@cret@host/path", "https://***@host/path"),
            ("nats://token@host", "nats://***@host"),
            ("https://host/write?token=secret", "https://host/write?***"),
            ("me@host", "***@host"),
            ("/path@x", "/path@x"),
            (
                "nats://a:p1@h1,nats://b:p2@h2",
                "nats://***@h1,nats://***@h2",
            ),
            ("nats://a:p1@h1,b:p2@h2/x", "nats://***@h2/x"),
            ("nats://a:p1@h1, tls://p2@h2", "nats://***@h1, tls://***@h2"),
            ("nats://h1:1,h2:2", "nats://h1:1,h2:2"),
            ("https://me:se/cret@host/path", "https://***@host/path"),
            ("https://h/a?k=1,2", "https://h/a?***"),
            ("https://me:se,cret@host", "https://***@host"),
            ("https://me:se?cret@host/x?y=z", "https://***@host/x?***"),
            ("https://me:se#cret@host", "https://***@host"),
            ("https://host:9/x?mail=me@here", "https://host:9/x?***"),
            ("https://[::1]:9/x?mail=me@here", "https://[::1]:9/x?***"),
        ] {
            assert_eq!(Shown::url(url).text(), expected);
        }
    }

    #[test]
    fn what_nobody_has_set_can_be_derived() {
        let mut report = report();
        report.derive("PORT", "1".to_owned(), "the machine");
        report.derive("KEY", "1".to_owned(), "the machine");
        let port = report.find("PORT").unwrap();
        assert_eq!(port.source, Source::Derived("the machine"));
        assert_eq!(port.value, Shown::Text("1".into()));
        assert_eq!(report.find("KEY").unwrap().value, Shown::Secret(16));
    }

    #[test]
    fn what_has_changed_is_known_by_name() {
        let with = |settings: &[(&str, Option<&str>)]| {
            let mut report = Report::default();
            for (name, text) in settings {
                let text = text.map(|text| Secret::new(text.to_owned()));
                let plain = setting(name, Shown::Secret(1), Source::Default);
                report.add(Setting { text, ..plain });
            }
            report
        };
        let before = with(&[
            ("A", Some("1")),
            ("B", Some("1")),
            ("C", None),
            ("D", Some("1")),
        ]);
        let after = with(&[("A", Some("2")), ("B", Some("1")), ("C", Some("1"))]);
        assert_eq!(after.changed_since(&before), ["A", "C", "D"]);
        assert_eq!(after.changed_since(&after), [""; 0]);
    }
}
