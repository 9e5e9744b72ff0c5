//! Answers that end a connection before it is a WebSocket, and the one that makes it one.

use super::{Head, LogLevel, log_level, upgrade_request};
use crate::auth::{TokenError, unverified_identity};
use crate::error::{ErrorCode, Level};
use crate::logging::Identity;
use crate::metrics::Refused;
use std::time::{Duration, UNIX_EPOCH};

/// An answer that is not an upgrade. The connection is closed behind it.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The status code.
    pub status: u16,
    /// The body; may be empty.
    pub body: String,
    /// Its type, where it has one.
    pub content_type: Option<&'static str>,
    /// Whether it is written only after `CONNECT_ERROR_BACKOFF_MS` (spec: websocket-protocol 2).
    pub delayed: bool,
    /// Seconds for `Retry-After`.
    pub retry_after_seconds: Option<u32>,
    /// Which of the reasons it is that are counted.
    pub why: Refused,
    /// What it is in the log, with the text behind the code; most nonsense of clients is nothing.
    pub log: Option<(ErrorCode, String)>,
}

impl Refusal {
    /// Whether its line is written: a warning only for a client that asks for warnings (spec: websocket-protocol 2, 10).
    #[must_use]
    pub fn is_logged_for(&self, head: &Head) -> bool {
        self.log.as_ref().is_some_and(|(code, _)| {
            code.level() != Level::Warning || log_level(head) >= LogLevel::Warning
        })
    }

    /// The line that a client gets written that asks for all of them: somebody looked at who it is, and did not let it in (spec:
    /// errors-and-logs 1). The checks take no time worth telling.
    #[must_use]
    pub fn connection_line(&self, head: &Head) -> Option<&'static str> {
        (self.log.is_some() && log_level(head) == LogLevel::Info).then_some(
            "REFUSED CONNECTION TO RealtimeWeb.UserSocket in 0ms\n  Transport: :websocket\n  Parameters: [FILTERED]",
        )
    }

    /// Who the token says it belongs to, where it was good once (spec: errors-and-logs 1). Nobody else's claims are worth reading.
    #[must_use]
    pub fn identity(&self, head: &Head) -> Identity {
        let is_known = |code| code == ErrorCode::InvalidJWTToken;
        let is_meant = self.log.as_ref().is_some_and(|(code, _)| is_known(*code));
        let request = is_meant.then(|| upgrade_request(head).ok()).flatten();
        let token = request.and_then(|request| request.token);
        token.map_or_else(Identity::default, |token| unverified_identity(&token))
    }

    /// Whether it is [`Self::tenant_not_found`]: somebody else may know the tenant.
    #[must_use]
    pub fn is_unknown_tenant(&self) -> bool {
        let code = self.log.as_ref().map(|(code, _)| *code);
        code == Some(ErrorCode::TenantNotFound)
    }

    /// An answer at once, with a plain text that has no type.
    #[must_use]
    pub fn plain(status: u16, body: &str) -> Self {
        Self {
            status,
            body: body.into(),
            content_type: None,
            delayed: false,
            retry_after_seconds: None,
            why: Refused::Malformed,
            log: None,
        }
    }

    /// One of the table of spec 2: JSON, after the back-off.
    fn of_upgrade(status: u16, error: &str, code: ErrorCode, log: String) -> Self {
        Self {
            delayed: true,
            why: match code {
                ErrorCode::TenantNotFound => Refused::TenantNotFound,
                ErrorCode::RealtimeDisabledForTenant => Refused::Suspended,
                ErrorCode::ConnectionRateLimitReached => Refused::TooManyUsers,
                ErrorCode::JoinsRateLimitReached => Refused::TooManyJoins,
                _ => Refused::Token,
            },
            log: Some((code, log)),
            ..Self::json(status, error)
        }
    }

    fn json(status: u16, error: &str) -> Self {
        let body = serde_json::json!({ "error": error }).to_string();
        Self {
            content_type: Some("application/json; charset=utf-8"),
            ..Self::plain(status, &body)
        }
    }

    /// No tenant of this name.
    #[must_use]
    pub fn tenant_not_found(external_id: &str) -> Self {
        let log = format!("Tenant not found: {external_id}");
        Self::of_upgrade(404, "Tenant not found", ErrorCode::TenantNotFound, log)
    }

    /// The tenant is suspended.
    #[must_use]
    pub fn tenant_suspended() -> Self {
        let error = "Realtime was disabled for this tenant";
        Self::of_upgrade(
            403,
            error,
            ErrorCode::RealtimeDisabledForTenant,
            "Realtime disabled for this tenant".into(),
        )
    }

    /// Neither header nor parameter holds a token.
    #[must_use]
    pub fn missing_api_key() -> Self {
        let log = "API key is missing or not a valid string";
        Self::of_upgrade(
            401,
            "API key is missing",
            ErrorCode::MissingAPIKey,
            log.into(),
        )
    }

    /// The token is no good.
    #[must_use]
    pub fn token(error: &TokenError) -> Self {
        let (status, text) = error.upgrade_response();
        Self::of_upgrade(
            status,
            &text,
            error.upgrade_code(),
            error.upgrade_log_text(),
        )
    }

    /// The tenant has as many users as it may have.
    #[must_use]
    pub fn too_many_users() -> Self {
        let error = "Too many connected users";
        Self::of_upgrade(
            429,
            error,
            ErrorCode::ConnectionRateLimitReached,
            error.into(),
        )
    }

    /// The tenant's joins have tripped their limit.
    #[must_use]
    pub fn too_many_joins() -> Self {
        let error = "Too many joins per second";
        Self::of_upgrade(429, error, ErrorCode::JoinsRateLimitReached, error.into())
    }

    /// The process has as many sockets as `MAX_CONNECTIONS` allows (spec: README, wire and HTTP).
    #[must_use]
    pub fn too_many_connections() -> Self {
        let error = "This server has reached MAX_CONNECTIONS, try again later";
        Self {
            retry_after_seconds: Some(5),
            why: Refused::TooManyConnections,
            ..Self::json(503, error)
        }
    }

    /// Too many requests wait for a control core that does not take them.
    #[must_use]
    pub fn control_core_busy() -> Self {
        Self {
            retry_after_seconds: Some(5),
            why: Refused::ControlCoreBusy,
            ..Self::json(503, "Too many requests are waiting, try again later")
        }
    }

    /// The head did not arrive in time.
    #[must_use]
    pub fn late_head() -> Self {
        Self {
            why: Refused::Late,
            ..Self::plain(408, "Request Timeout")
        }
    }
}

/// Appends a refusal as a whole HTTP response.
pub fn write_refusal(out: &mut Vec<u8>, refusal: &Refusal, date: &str) {
    let mut line = |parts: &[&str]| {
        parts
            .iter()
            .for_each(|part| out.extend_from_slice(part.as_bytes()));
        out.extend_from_slice(b"\r\n");
    };
    line(&[
        "HTTP/1.1 ",
        &refusal.status.to_string(),
        " ",
        reason(refusal.status),
    ]);
    line(&["cache-control: max-age=0, private, must-revalidate"]);
    line(&["connection: close"]);
    line(&["content-length: ", &refusal.body.len().to_string()]);
    if let Some(content_type) = refusal.content_type {
        line(&["content-type: ", content_type]);
    }
    line(&["date: ", date]);
    if let Some(seconds) = refusal.retry_after_seconds {
        line(&["retry-after: ", &seconds.to_string()]);
    }
    line(&["server: realtime"]);
    line(&["vary: accept-encoding"]);
    line(&[]);
    out.extend_from_slice(refusal.body.as_bytes());
}

/// Appends the answer that makes a connection a WebSocket.
pub fn write_101(out: &mut Vec<u8>, accept: &[u8; 28], date: &str) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\n\
          cache-control: max-age=0, private, must-revalidate\r\n\
          connection: Upgrade\r\n\
          date: ",
    );
    out.extend_from_slice(date.as_bytes());
    out.extend_from_slice(b"\r\nsec-websocket-accept: ");
    out.extend_from_slice(accept);
    out.extend_from_slice(b"\r\nserver: realtime\r\nupgrade: websocket\r\n\r\n");
}

/// A second of unix time as HTTP writes it (RFC 9110, section 5.6.7).
#[must_use]
pub fn http_date(unix_seconds: u64) -> String {
    httpdate::fmt_http_date(
        UNIX_EPOCH
            .checked_add(Duration::from_secs(unix_seconds))
            .unwrap_or(UNIX_EPOCH),
    )
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        414 => "URI Too Long",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_whole_responses() {
        let mut out = Vec::new();
        write_refusal(
            &mut out,
            &Refusal::tenant_not_found("x"),
            &http_date(1_795_454_187),
        );
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 404 Not Found\r\ncache-control: max-age=0, private, must-revalidate\r\nconnection: close\r\n\
             content-length: 28\r\ncontent-type: application/json; charset=utf-8\r\ndate: Mon, 23 Nov 2026 17:16:27 GMT\r\n\
             server: realtime\r\nvary: accept-encoding\r\n\r\n{\"error\":\"Tenant not found\"}"
        );
    }

    #[test]
    fn warnings_are_for_those_who_ask_for_them() {
        let check = |refusal: &Refusal, query: &str, expected| {
            let head = Head {
                method: "GET".into(),
                target: format!("/socket/websocket?{query}").into(),
                headers: Vec::new(),
            };
            assert_eq!(
                refusal.is_logged_for(&head),
                expected,
                "{refusal:?} {query}"
            );
        };
        let expired = Refusal::token(&TokenError::Expired { seconds: 1 });
        check(&expired, "", false);
        check(&expired, "log_level=error", false);
        check(&expired, "log_level=debug", false);
        check(&expired, "log_level=warning", true);
        check(&expired, "log_level=info", true);
        check(&Refusal::missing_api_key(), "", true);
        check(&Refusal::plain(400, ""), "log_level=info", false);
    }

    #[test]
    fn refused_connections_are_told_to_those_who_ask_for_everything() {
        let check = |refusal: &Refusal, query: &str, expected: bool| {
            let head = Head {
                method: "GET".into(),
                target: format!("/socket/websocket?{query}").into(),
                headers: Vec::new(),
            };
            let line = refusal.connection_line(&head);
            assert_eq!(line.is_some(), expected, "{refusal:?} {query}");
        };
        check(&Refusal::missing_api_key(), "log_level=info", true);
        check(&Refusal::missing_api_key(), "log_level=warning", false);
        check(&Refusal::missing_api_key(), "", false);
        // Nobody had looked at who it is.
        check(&Refusal::plain(403, ""), "log_level=info", false);
        check(&Refusal::too_many_connections(), "log_level=info", false);
    }

    #[test]
    fn refusals_count_by_their_reason() {
        let check = |refusal: Refusal, expected| assert_eq!(refusal.why, expected, "{refusal:?}");
        check(Refusal::plain(400, ""), Refused::Malformed);
        check(Refusal::late_head(), Refused::Late);
        check(Refusal::too_many_connections(), Refused::TooManyConnections);
        check(Refusal::control_core_busy(), Refused::ControlCoreBusy);
        check(Refusal::tenant_not_found("x"), Refused::TenantNotFound);
        check(Refusal::tenant_suspended(), Refused::Suspended);
        check(Refusal::missing_api_key(), Refused::Token);
        check(
            Refusal::token(&TokenError::Expired { seconds: 1 }),
            Refused::Token,
        );
        check(Refusal::too_many_users(), Refused::TooManyUsers);
        check(Refusal::too_many_joins(), Refused::TooManyJoins);
    }

    #[test]
    fn only_refusals_of_credentials_are_delayed() {
        assert!(Refusal::missing_api_key().delayed && Refusal::too_many_users().delayed);
        assert!(!Refusal::too_many_connections().delayed && !Refusal::plain(400, "").delayed);
        assert_eq!(Refusal::too_many_connections().retry_after_seconds, Some(5));
    }
}
