//! A line as text or as JSON (spec: errors-and-logs 1).

use super::{Line, Measurements, UtcTime};
use serde::Serialize;
use std::fmt::Write as _;

/// `HH:MM:SS.mmm key=value ... [level] message`, with a line break.
pub(super) fn text(line: &Line) -> String {
    let UtcTime {
        hour,
        minute,
        second,
        millisecond,
        ..
    } = UtcTime::from_unix_ms(line.unix_ms);
    let mut out = String::with_capacity(line.message.len() + 160);
    let _ = write!(out, "{hour:02}:{minute:02}:{second:02}.{millisecond:03} ");
    for (key, value) in pairs(line) {
        if let Some(value) = value {
            out.push_str(key);
            out.push('=');
            push_value(&mut out, value);
            out.push(' ');
        }
    }
    let _ = write!(out, "[{}] ", line.level.as_str());
    push_message(&mut out, &line.message);
    out.push('\n');
    out
}

/// What is printed in front of a message, in its order.
fn pairs(line: &Line) -> [(&'static str, Option<&str>); 8] {
    let tenant = line.tenant.as_deref();
    [
        ("request_id", line.request_id.as_deref()),
        ("project", tenant),
        ("external_id", tenant),
        ("application_name", line.application_name),
        (
            "error_code",
            line.code
                .filter(|_| line.shows_code)
                .map(|code| code.as_str()),
        ),
        ("sub", line.identity.sub.as_deref()),
        ("iss", line.identity.iss.as_deref()),
        ("exp", line.identity.exp.as_deref()),
    ]
}

/// Values come from outside: one with a line break in it could forge a line.
fn push_value(out: &mut String, value: &str) {
    for char in value.chars() {
        if char.is_control() {
            out.extend(char.escape_default())
        } else {
            out.push(char)
        }
    }
}

/// Messages keep their line breaks, as upstream's do, but nothing that a terminal would obey.
fn push_message(out: &mut String, message: &str) {
    for char in message.chars() {
        if char.is_control() && !matches!(char, '\n' | '\t') {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
    }
}

#[derive(Serialize)]
struct Json<'a> {
    timestamp: String,
    level: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    measurements: Option<Measurements>,
}

/// One JSON object, with a line break. Unlike the text it has a date, the code of every coded line, region and cluster.
pub(super) fn json(line: &Line, region: Option<&str>, cluster: Option<&str>) -> String {
    let time = UtcTime::from_unix_ms(line.unix_ms);
    let object = Json {
        timestamp: format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            time.year, time.month, time.day, time.hour, time.minute, time.second, time.millisecond
        ),
        level: line.level.as_str(),
        message: &line.message,
        error_code: line.code.map(|code| code.as_str()),
        project: line.tenant.as_deref(),
        external_id: line.tenant.as_deref(),
        application_name: line.application_name,
        request_id: line.request_id.as_deref(),
        region,
        cluster,
        sub: line.identity.sub.as_deref(),
        iss: line.identity.iss.as_deref(),
        exp: line.identity.exp.as_deref(),
        measurements: line.measurements,
    };
    let mut out = serde_json::to_string(&object).expect("an object of strings is always JSON");
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorCode, Level};
    use crate::logging::Identity;

    /// 12:00:01.123 of some day.
    const NOON: u64 = 1_795_435_201_123;

    #[test]
    fn text_is_that_of_the_specification() {
        let text_of = "The token provided is not a valid JWT";
        let line = Line::coded(NOON, ErrorCode::MalformedJWT, text_of)
            .of_tenant("realtime-dev".into())
            .of_request("GHt1");
        let expected = "12:00:01.123 request_id=GHt1 project=realtime-dev external_id=realtime-dev error_code=MalformedJWT \
             [error] MalformedJWT: The token provided is not a valid JWT\n";
        assert_eq!(text(&line), expected);
        let line = Line::trip(
            NOON + 877,
            ErrorCode::ClientJoinRateLimitReached,
            "Too many joins per second",
        );
        let expected = "12:00:02.000 project=realtime-dev external_id=realtime-dev [critical] \
             ClientJoinRateLimitReached: Too many joins per second\n";
        assert_eq!(text(&line.of_tenant("realtime-dev".into())), expected);
    }

    #[test]
    fn values_stand_in_their_order() {
        let identity = Identity::new(Some("u1"), Some("me"), Some("17"));
        let mut line = Line::new(0, Level::Info, "two\nlines").on_behalf_of(identity);
        line.application_name = Some("realtime_connect");
        let expected = "00:00:00.000 application_name=realtime_connect sub=u1 iss=me exp=17 [info] two\nlines\n";
        assert_eq!(text(&line), expected);
    }

    #[test]
    fn values_cannot_forge_lines() {
        let identity = Identity::new(Some("a\n12:00:00.000 [error] forged"), None, None);
        let line = Line::new(0, Level::Error, "\u{1b}[31mred\r").on_behalf_of(identity);
        let expected =
            "00:00:00.000 sub=a\\n12:00:00.000 [error] forged [error] \\u{1b}[31mred\\r\n";
        assert_eq!(text(&line), expected);
    }

    #[test]
    fn json_has_every_field_that_is_set() {
        let line =
            Line::trip(NOON, ErrorCode::ClientJoinRateLimitReached, "x\ny").of_tenant("t".into());
        let expected = concat!(
            r#"{"timestamp":"2026-11-23T12:00:01.123Z","level":"critical","#,
            r#""message":"ClientJoinRateLimitReached: x\ny","error_code":"ClientJoinRateLimitReached","#,
            r#""project":"t","external_id":"t","region":"local"}"#,
            "\n"
        );
        assert_eq!(json(&line, Some("local"), None), expected);
        let line = Line::new(NOON, Level::Info, "Billing metrics: []").measuring(7, 100);
        assert!(
            json(&line, None, None)
                .ends_with(concat!(r#""measurements":{"sum":7,"limit":100}}"#, "\n"))
        );
        assert_eq!(text(&line), "12:00:01.123 [info] Billing metrics: []\n");
    }
}
