//! What an upgrade asks for, and whether its headers are in order (spec: websocket-protocol 1.1, 1.2, 2).

use super::{Head, Refusal};
use crate::phoenix::Vsn;
use crate::websocket::handshake::accept_key;
use std::borrow::Cow;
use std::net::IpAddr;

/// Which log lines a socket causes (spec: websocket-protocol 10).
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug, Default)]
pub enum LogLevel {
    /// Errors alone.
    #[default]
    Error,
    /// Warnings too.
    Warning,
    /// Everything.
    Info,
}

/// What an upgrade asks for.
#[derive(Clone, Debug)]
pub struct UpgradeRequest {
    /// The serializer.
    pub vsn: Vsn,
    /// The first label of the host.
    pub external_id: String,
    /// The host is one that cannot name a tenant: see [`is_bare_host`].
    pub host_is_bare: bool,
    /// The token as sent: header `x-api-key`, else parameter `apikey`.
    pub token: Option<String>,
    /// Parameter `log_level`.
    pub log_level: LogLevel,
    /// Headers whose name begins with `x-`, for policies.
    pub x_headers: Vec<(String, String)>,
}

/// Reads what an upgrade asks for.
///
/// # Errors
///
/// The refusal of a version that we do not speak: 403 at once, before anything else is looked at.
pub fn upgrade_request(head: &Head) -> Result<UpgradeRequest, Refusal> {
    let vsn = query_value(head.query(), "vsn");
    let vsn =
        Vsn::parse(vsn.as_deref().unwrap_or("1.0.0")).ok_or_else(|| Refusal::plain(403, ""))?;
    let external_id = external_id(head).ok_or_else(|| Refusal::plain(400, "Bad Request"))?;
    let header = head
        .values("x-api-key")
        .next()
        .map(|value| String::from_utf8_lossy(value).into_owned());
    let log_level = log_level(head);
    let x_headers = head
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-"));
    let x_headers = x_headers.map(|(name, value)| {
        (
            name.to_string(),
            String::from_utf8_lossy(value).into_owned(),
        )
    });
    Ok(UpgradeRequest {
        vsn,
        external_id,
        host_is_bare: is_bare_host(head),
        token: header.or_else(|| query_value(head.query(), "apikey").map(Cow::into_owned)),
        log_level,
        x_headers: x_headers.collect(),
    })
}

/// Which log lines this request asks for.
#[must_use]
pub fn log_level(head: &Head) -> LogLevel {
    match query_value(head.query(), "log_level").as_deref() {
        Some("info") => LogLevel::Info,
        Some("warning") => LogLevel::Warning,
        _ => LogLevel::Error,
    }
}

/// The tenant that a host means: what stands before its first dot, in lower case, without the port.
#[must_use]
pub fn external_id(head: &Head) -> Option<String> {
    let label = host(head)?.split('.').next().unwrap_or_default();
    (!label.is_empty()).then(|| label.to_ascii_lowercase())
}

/// Whether a host has no room for a tenant's name before its own: an address, or a single word such as `localhost` or the name of a
/// container. `ANY_HOST_SINGLE_TENANT` is about these alone: `nosuch.example.com` names a tenant, whether or not there is one.
#[must_use]
pub fn is_bare_host(head: &Head) -> bool {
    host(head).is_some_and(|host| !host.contains('.') || host.parse::<IpAddr>().is_ok())
}

/// The host without its port, and without the brackets of an address.
fn host(head: &Head) -> Option<&str> {
    let host = head.value("host")?.trim();
    match host.strip_prefix('[') {
        Some(address) => address.split(']').next(),
        None => host.split(':').next(),
    }
}

/// The last value of a query parameter, decoded.
#[must_use]
pub fn query_value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .rfind(|(key, _)| decode(key) == name)
        .map(|(_, value)| decode(value))
}

/// Undoes form encoding: plus signs and percent escapes. What is no escape stays as it is.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escaped = match (byte, after) {
            (b'%', [high, low, after @ ..]) => hex(*high)
                .zip(hex(*low))
                .map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        match (escaped, byte) {
            (Some((decoded, after)), _) => {
                bytes.push(decoded);
                rest = after;
            }
            (None, b'+') => bytes.push(b' '),
            (None, byte) => bytes.push(byte),
        }
    }
    match String::from_utf8(bytes) {
        Ok(decoded) => Cow::Owned(decoded),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Checks the headers of an upgrade whose credentials are good; returns the value of `sec-websocket-accept`.
///
/// # Errors
///
/// 400 with a sentence that names the header, as the original words it.
pub fn check_upgrade_headers(head: &Head) -> Result<[u8; 28], Refusal> {
    must_contain(head, "connection", "upgrade")?;
    must_contain(head, "upgrade", "websocket")?;
    let Some(key) = head.values("sec-websocket-key").next() else {
        return Err(Refusal::plain(400, "'sec-websocket-key' header is absent"));
    };
    if head.values("sec-websocket-version").ne([&b"13"[..]]) {
        let got = list(head, "sec-websocket-version");
        return Err(Refusal::plain(
            400,
            &format!("'sec-websocket-version' header must equal '13', got {got}"),
        ));
    }
    Ok(accept_key(key))
}

fn must_contain(head: &Head, name: &str, token: &str) -> Result<(), Refusal> {
    let tokens = head
        .values(name)
        .flat_map(|value| value.split(|&byte| byte == b','));
    let mut tokens = tokens.map(<[u8]>::trim_ascii);
    if tokens.any(|other| other.eq_ignore_ascii_case(token.as_bytes())) {
        return Ok(());
    }
    let got = list(head, name);
    Err(Refusal::plain(
        400,
        &format!("'{name}' header must contain '{token}', got {got}"),
    ))
}

/// A header's values as the original prints a list of strings.
fn list(head: &Head, name: &str) -> String {
    let values = head
        .values(name)
        .map(|value| format!("{:?}", String::from_utf8_lossy(value)));
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str, headers: &[(&str, &str)]) -> Head {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).into(), value.as_bytes().into()))
            .collect();
        Head {
            method: "GET".into(),
            target: target.into(),
            headers,
        }
    }

    #[test]
    fn tenant_is_the_first_label_of_the_host() {
        let check = |host: &str, expected: Option<&str>| {
            assert_eq!(
                external_id(&head("/", &[("host", host)])).as_deref(),
                expected,
                "{host}"
            );
        };
        check("realtime-dev.localhost:4000", Some("realtime-dev"));
        check("abc.supabase.co", Some("abc"));
        check("localhost", Some("localhost"));
        check("127.0.0.1:4000", Some("127"));
        check("ABC.example", Some("abc"));
        check("[::1]:4000", Some("::1"));
        check(":4000", None);
        assert_eq!(external_id(&head("/", &[])), None);
    }

    #[test]
    fn a_bare_host_has_no_room_for_a_tenants_name() {
        let check = |host: &str, expected| {
            assert_eq!(
                is_bare_host(&head("/", &[("host", host)])),
                expected,
                "{host}"
            );
        };
        check("localhost:4000", true);
        check("127.0.0.1:4000", true);
        check("[::1]:4000", true);
        check("[::ffff:127.0.0.1]:4000", true);
        check("realtime", true);
        check("nosuch.localhost:4000", false);
        check("127.0.0.1.example.com", false);
        check("1.2.3", false);
        assert!(!is_bare_host(&head("/", &[])));
    }

    #[test]
    fn version_is_looked_at_first() {
        let check = |query: &str, expected: Option<Vsn>| {
            let request = upgrade_request(&head(
                &format!("/socket/websocket?{query}"),
                &[("host", "a")],
            ));
            assert_eq!(request.ok().map(|request| request.vsn), expected, "{query}");
        };
        check("", Some(Vsn::V1));
        check("vsn=1.0.5", Some(Vsn::V1));
        check("vsn=2.0.0", Some(Vsn::V2));
        check("vsn=2.1.0", None);
        check("vsn=2.0", None);
        check("vsn=abc", None);
        check("vsn=", None);
        let refusal = upgrade_request(&head("/?vsn=9.9.9", &[])).unwrap_err();
        assert_eq!(
            (refusal.status, &*refusal.body, refusal.delayed),
            (403, "", false)
        );
    }

    #[test]
    fn header_token_wins_over_the_parameter() {
        let token = |query: &str, headers: &[(&str, &str)]| {
            let headers: Vec<_> = [("host", "a")].iter().chain(headers).copied().collect();
            upgrade_request(&head(&format!("/?{query}"), &headers))
                .unwrap()
                .token
        };
        assert_eq!(
            token("apikey=q", &[("x-api-key", "h")]).as_deref(),
            Some("h")
        );
        assert_eq!(token("apikey=q", &[("x-api-key", "")]).as_deref(), Some(""));
        assert_eq!(token("apikey=a%2Eb+c", &[]).as_deref(), Some("a.b c"));
        assert_eq!(token("apikey=", &[]).as_deref(), Some(""));
        assert_eq!(token("apikey[]=x", &[]), None);
        assert_eq!(token("", &[]), None);
    }

    #[test]
    fn upgrade_headers_are_named_when_they_are_missing() {
        let check = |headers: &[(&str, &str)], expected: &str| {
            let refusal = check_upgrade_headers(&head("/", headers)).unwrap_err();
            assert_eq!((refusal.status, &*refusal.body), (400, expected));
        };
        check(&[], "'connection' header must contain 'upgrade', got []");
        check(
            &[("connection", "keep-alive")],
            r#"'connection' header must contain 'upgrade', got ["keep-alive"]"#,
        );
        let connection = ("connection", "keep-alive, Upgrade");
        check(
            &[connection],
            "'upgrade' header must contain 'websocket', got []",
        );
        check(
            &[connection, ("upgrade", "WebSocket")],
            "'sec-websocket-key' header is absent",
        );
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        check(
            &[connection, ("upgrade", "websocket"), key],
            "'sec-websocket-version' header must equal '13', got []",
        );
        let version = ("sec-websocket-version", "13");
        let accept = check_upgrade_headers(&head(
            "/",
            &[connection, ("upgrade", "websocket"), key, version],
        ))
        .unwrap();
        assert_eq!(&accept, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
