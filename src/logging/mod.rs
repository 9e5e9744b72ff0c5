//! Structured lines: what happened, to which tenant, on whose behalf.
//!
//! What comes in: [`Line`]s, made wherever something is worth telling. On a shard a [`Gate`] decides which of them are worth writing;
//! they are mailed to the control core, and a [`Writer`] there puts them onto standard output. What always holds:
//!
//! - No token stands in a line. (`tokens_are_redacted`)
//! - One code of one tenant writes a bounded number of lines per window; the others are counted, and summed up in one line.
//!   (`lines_above_the_bound_are_counted`)
//! - A line is one event: values in front of its message never break the line. (`values_cannot_forge_lines`)
//! - There is one place that writes, so lines never mix.
//!
//! Deliberately absent: clocks (a line brings its time), metrics, and shipping lines elsewhere.

mod format;
mod gate;
mod redact;
mod threshold;
mod time;
mod writer;

pub use gate::Gate;
pub use redact::redact;
pub use threshold::Threshold;
pub use time::{UtcTime, timestamp};
pub use writer::Writer;

use crate::error::{ErrorCode, Level};
use crate::limits;
use serde::Serialize;
use std::sync::Arc;

/// One event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it happened, in milliseconds since 1970.
    pub unix_ms: u64,
    /// How bad it is.
    pub level: Level,
    /// What it is, for whoever counts.
    pub code: Option<ErrorCode>,
    /// Whether the code stands in front of the message as well. Not when a rate counter trips (spec: errors-and-logs 1).
    pub shows_code: bool,
    /// The tenant's external id.
    pub tenant: Option<Arc<str>>,
    /// The HTTP request that it belongs to.
    pub request_id: Option<Box<str>>,
    /// The purpose of the database connection that it belongs to.
    pub application_name: Option<&'static str>,
    /// On whose behalf it happened.
    pub identity: Identity,
    /// What was measured, for whoever makes bills of it. The text does not show it, as upstream's does not.
    pub measurements: Option<Measurements>,
    /// What happened, without secrets.
    pub message: Box<str>,
}

/// What a rate counter counted between two ticks.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measurements {
    /// How much.
    pub sum: u64,
    /// The limit that it is held to, per second.
    pub limit: u32,
}

/// Who a token says it belongs to. All of it may be a lie: it is for people who read logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    sub: Option<Box<str>>,
    iss: Option<Box<str>>,
    exp: Option<Box<str>>,
}

impl Identity {
    /// The claims of these names, each cut to [`limits::LOG_VALUE_BYTES_MAX`].
    #[must_use]
    pub fn new(sub: Option<&str>, iss: Option<&str>, exp: Option<&str>) -> Self {
        let value =
            |text: Option<&str>| text.map(|text| cut(text, limits::LOG_VALUE_BYTES_MAX).into());
        Self {
            sub: value(sub),
            iss: value(iss),
            exp: value(exp),
        }
    }
}

impl Line {
    /// A line without a code.
    #[must_use]
    pub fn new(unix_ms: u64, level: Level, message: &str) -> Self {
        let short = cut(message, limits::LOG_MESSAGE_BYTES_MAX);
        let mut text = redact(short).into_owned();
        if short.len() < message.len() {
            text.push_str(" (cut)");
        }
        Self {
            unix_ms,
            level,
            code: None,
            shows_code: true,
            tenant: None,
            request_id: None,
            application_name: None,
            identity: Identity::default(),
            measurements: None,
            message: text.into(),
        }
    }

    /// A line with a code: its level is the code's, its message `Code: text`.
    #[must_use]
    pub fn coded(unix_ms: u64, code: ErrorCode, text: &str) -> Self {
        let text = cut(text, limits::LOG_MESSAGE_BYTES_MAX);
        Self {
            code: Some(code),
            ..Self::new(unix_ms, code.level(), &code.reason(text))
        }
    }

    /// A line about a rate counter whose flag went up: the code leads the message only.
    #[must_use]
    pub fn trip(unix_ms: u64, code: ErrorCode, text: &str) -> Self {
        Self {
            shows_code: false,
            ..Self::coded(unix_ms, code, text)
        }
    }

    /// The same line of a tenant, by its external id.
    #[must_use]
    pub fn of_tenant(self, external_id: Arc<str>) -> Self {
        Self {
            tenant: Some(external_id),
            ..self
        }
    }

    /// The same line of an HTTP request.
    #[must_use]
    pub fn of_request(self, request_id: &str) -> Self {
        let request_id = cut(request_id, limits::LOG_VALUE_BYTES_MAX);
        Self {
            request_id: Some(request_id.into()),
            ..self
        }
    }

    /// The same line on behalf of somebody.
    #[must_use]
    pub fn on_behalf_of(self, identity: Identity) -> Self {
        Self { identity, ..self }
    }

    /// The same line about something that was counted.
    #[must_use]
    pub fn measuring(self, sum: u64, limit: u32) -> Self {
        Self {
            measurements: Some(Measurements { sum, limit }),
            ..self
        }
    }

    /// The same line with another level: some codes have two.
    #[must_use]
    pub fn at_level(self, level: Level) -> Self {
        Self { level, ..self }
    }
}

/// The start of `text`, at most `bytes_max` long.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coded_lines_take_level_and_prefix_from_the_code() {
        let line = Line::coded(
            1,
            ErrorCode::InvalidJWTToken,
            "Token has expired 3 seconds ago",
        );
        assert_eq!(line.level, Level::Warning);
        assert_eq!(
            &*line.message,
            "InvalidJWTToken: Token has expired 3 seconds ago"
        );
        assert!(line.shows_code);
        let line = Line::trip(
            1,
            ErrorCode::ClientJoinRateLimitReached,
            "Too many joins per second",
        );
        assert!(!line.shows_code);
        assert_eq!(line.level, Level::Critical);
    }

    #[test]
    fn messages_and_values_are_bounded() {
        let line = Line::new(0, Level::Info, &"ä".repeat(limits::LOG_MESSAGE_BYTES_MAX));
        assert_eq!(
            line.message.len(),
            limits::LOG_MESSAGE_BYTES_MAX + " (cut)".len()
        );
        let line = Line::new(0, Level::Info, "").of_request(&"r".repeat(1000));
        assert_eq!(
            line.request_id.map(|id| id.len()),
            Some(limits::LOG_VALUE_BYTES_MAX)
        );
        let identity = Identity::new(Some(&"s".repeat(1000)), None, None);
        assert_eq!(
            identity.sub.map(|sub| sub.len()),
            Some(limits::LOG_VALUE_BYTES_MAX)
        );
    }
}
