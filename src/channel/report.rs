//! Operational codes of sockets and channels, as lines of the log (spec: errors-and-logs 2.1, 2.2).
//!
//! A shard never writes: lines that pass its gate are mailed to the control core. A text is made only when its line can pass. Errors are
//! counted whether their line passes or not (spec: errors-and-logs 4).

use super::Channels;
use super::figures::thread;
use super::join::Refusal;
use crate::auth::{TokenError, unverified_identity};
use crate::connection::{self, ConnectionId, Io};
use crate::error::{ErrorCode, Level, Origin, inspect, inspect_errors};
use crate::http::{self, Head, LogLevel};
use crate::logging::{Identity, Line};
use crate::mail::Mail;
use crate::phoenix::{DecodeError, Invalid};
use crate::tenant::{Tenant, TenantId};
use serde_json::{Map, Value};
use std::fmt::Write as _;

impl Channels {
    /// A coded line of a socket. Warnings are written only for sockets that asked for them (spec: websocket-protocol 10).
    pub(super) fn report(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        code: ErrorCode,
        text: &str,
    ) {
        self.report_at(io, id, (code, code.level()), text, None);
    }

    /// On behalf of who is meant, else of the socket's token.
    fn report_at(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        (code, level): (ErrorCode, Level),
        text: &str,
        whose: Option<Identity>,
    ) {
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        if level == Level::Error
            && let Some(tenant) = self.tenants.get(socket.tenant)
        {
            tenant.usage.count_error(thread(io), code);
        }
        let is_wanted = match level {
            Level::Warning => socket.log_level >= LogLevel::Warning,
            Level::Notice | Level::Info | Level::Debug => socket.log_level >= LogLevel::Info,
            Level::Emergency | Level::Alert | Level::Critical | Level::Error => true,
        };
        if !is_wanted || !self.gate.is_enabled(level) {
            return;
        }
        let claims = &socket.token.claims;
        let exp = claims.exp.map(|exp| exp.to_string());
        let own = || Identity::new(claims.sub.as_deref(), claims.iss.as_deref(), exp.as_deref());
        let identity = whose.unwrap_or_else(own);
        let line = Line::coded(io.unix_ms(), code, text)
            .at_level(level)
            .on_behalf_of(identity);
        let tenant = self.tenant_of(id);
        self.write(io, line, tenant.as_deref());
    }

    fn write(&mut self, io: &mut Io<'_>, line: Line, tenant: Option<&Tenant>) {
        let line = match tenant {
            Some(tenant) => line.of_tenant(std::sync::Arc::clone(&tenant.external_id)),
            None => line,
        };
        if connection::is_control_busy(io) {
            return self.gate.suppress(&line);
        }
        if let Some(line) = self.gate.pass(line) {
            io.mail(connection::CONTROL, Mail::Log(Box::new(line)));
        }
    }

    /// What the gate has held back since its last window.
    pub(super) fn report_suppressed(&mut self, io: &mut Io<'_>) {
        if connection::is_control_busy(io) {
            return;
        }
        for line in self.gate.summaries(io.unix_ms()) {
            io.mail(connection::CONTROL, Mail::Log(Box::new(line)));
        }
    }

    pub(super) fn report_undecodable(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        error: DecodeError,
    ) {
        let code = match error {
            DecodeError::Malformed(_) => ErrorCode::MalformedWebSocketMessage,
            DecodeError::Unknown(_) => ErrorCode::UnknownErrorOnWebSocketMessage,
        };
        self.report(io, id, code, &error.to_string());
    }

    pub(super) fn report_unknown_event(&mut self, io: &mut Io<'_>, id: ConnectionId, event: &str) {
        self.report_info(io, id, || {
            format!("Unexpected message from client of type {event:?}")
        });
    }

    /// A socket is open. The shard's checks take no time worth telling.
    pub fn report_connected(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        self.report_info(io, id, || {
            "CONNECTED TO RealtimeWeb.UserSocket in 0ms\n  Transport: :websocket\n  Parameters: [FILTERED]"
                .to_owned()
        });
    }

    /// A socket has joined a topic that it had asked for at this time.
    pub(super) fn report_joined(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: &str,
        asked_unix_ms: u64,
    ) {
        let took_ms = io.unix_ms().saturating_sub(asked_unix_ms);
        self.report_info(io, id, || {
            let topic = on_one_line(topic);
            format!("JOINED {topic} in {took_ms}ms\n  Parameters: [FILTERED]")
        });
    }

    /// A line about the ordinary course of things, for sockets that asked for it (spec: errors-and-logs 1).
    fn report_info(&mut self, io: &mut Io<'_>, id: ConnectionId, text: impl FnOnce() -> String) {
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        if socket.log_level >= LogLevel::Info && self.gate.is_enabled(Level::Info) {
            let line = Line::new(io.unix_ms(), Level::Info, &text());
            let tenant = self.tenant_of(id);
            self.write(io, line, tenant.as_deref());
        }
    }

    /// The log says which fields of a join made no sense (spec 5.1); mostly the join goes on with their defaults.
    pub(super) fn report_invalid_fields(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        invalid: &[Invalid],
        payload: &str,
    ) {
        if !invalid.is_empty() {
            let is_written = self.gate.is_enabled(Level::Error);
            let text = is_written.then(|| invalid_fields(invalid, payload));
            let code = ErrorCode::InvalidJoinPayload;
            self.report(io, id, code, text.as_deref().unwrap_or_default());
        }
    }

    /// Taking the last free place says so once (spec 9.3).
    pub(super) fn report_last_channel(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        let code = ErrorCode::ChannelRateLimitReached;
        self.report(io, id, code, code.text().unwrap_or_default());
    }

    pub(super) fn report_refused_join(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: &str,
        refusal: &Refusal,
    ) {
        // The limits have lines of their own: when their counters trip, and when the last place was taken (spec 9.3).
        let has_own_line = matches!(
            refusal.code,
            ErrorCode::ClientJoinRateLimitReached | ErrorCode::ChannelRateLimitReached
        );
        self.report_info(io, id, || {
            let topic = on_one_line(topic);
            format!("REFUSED JOIN {topic}\n  Parameters: [FILTERED]")
        });
        if !has_own_line {
            let level = refusal.code.level_in_join();
            let whose = refusal.identity.as_deref().cloned();
            self.report_at(io, id, (refusal.code, level), &refusal.log, whose);
        }
    }

    pub(super) fn report_too_long(&mut self, io: &mut Io<'_>, tenant: TenantId) {
        let text = "a topic, event or metadata of over 255 bytes cannot be framed; the message was dropped";
        let code = ErrorCode::UnableToHandleBroadcast;
        let line = Line::coded(io.unix_ms(), code, text);
        let tenant = self.tenants.get(tenant).cloned();
        if let Some(tenant) = &tenant {
            tenant.usage.count_error(thread(io), code);
        }
        self.write(io, line, tenant.as_deref());
    }

    /// A refused upgrade: the line of the table of spec 2.
    pub fn report_refused_upgrade(
        &mut self,
        io: &mut Io<'_>,
        head: &Head,
        refusal: &http::Refusal,
    ) {
        let Some((code, text)) = &refusal.log else {
            return;
        };
        let label = http::external_id(head);
        if code.counts_in_metrics(Origin::Upgrade)
            && let Some(tenant) = label
                .as_ref()
                // Nothing that counts is refused before its tenant was found, be it as the only one.
                .and_then(|label| self.tenants.find_host(label, true))
        {
            tenant.usage.count_error(thread(io), *code);
        }
        let tenant = label
            .and_then(|external_id| self.tenants.find(&external_id))
            .cloned();
        if refusal.is_logged_for(head) && self.gate.is_enabled(code.level()) {
            let line = Line::coded(io.unix_ms(), *code, text);
            let line = line.on_behalf_of(refusal.identity(head));
            self.write(io, line, tenant.as_deref());
        }
        if let Some(text) = refusal.connection_line(head)
            && self.gate.is_enabled(Level::Info)
        {
            let line = Line::new(io.unix_ms(), Level::Info, text);
            self.write(io, line, tenant.as_deref());
        }
    }

    /// The reaper's round (spec: errors-and-logs 3).
    pub(super) fn report_reaped(&mut self, io: &mut Io<'_>, count: usize) {
        if count > 0 && self.gate.is_enabled(Level::Info) {
            let text = format!("Killing {count} transport pids with no channels open");
            let line = Line::new(io.unix_ms(), Level::Info, &text);
            self.write(io, line, None);
        }
    }

    /// A new token is no good.
    pub(super) fn report_token(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        error: &TokenError,
        token: &str,
    ) {
        let (code, whose) = (error.code(), unverified_identity(token));
        let level = code.level_in_join();
        self.report_at(io, id, (code, level), &error.log_text(), Some(whose));
    }
}

/// Larger payloads are not shown: to print them they would have to be parsed whole, for a line of the log.
const SHOWN_PAYLOAD_BYTES_MAX: usize = 16 * 1024;

/// A client chooses the names of its topics: with a line break in one it could forge a line.
fn on_one_line(topic: &str) -> String {
    topic.replace(char::is_control, "?")
}

/// The errors by field, and what was sent, as the original prints them; tokens are taken out (spec 5.1).
fn invalid_fields(invalid: &[Invalid], payload: &str) -> String {
    let mut errors = Map::new();
    for (path, error) in invalid {
        let mut names = path.split('.').rev();
        let last = names.next().unwrap_or_default().to_owned();
        let place = names.rev().fold(&mut errors, |place, name| {
            let inner = place.entry(name).or_insert_with(|| Map::new().into());
            inner
                .as_object_mut()
                .expect("a field with fields has no error of its own")
        });
        place.insert(last, Value::from(vec![*error]));
    }
    let mut text = String::from("%{changeset_errors: ");
    text.push_str(&inspect_errors(&errors));
    text.push_str(", params: ");
    let shown = Some(payload).filter(|payload| payload.len() <= SHOWN_PAYLOAD_BYTES_MAX);
    match shown.and_then(|payload| serde_json::from_str::<Map<String, Value>>(payload).ok()) {
        Some(mut params) => {
            for token in ["access_token", "user_token"] {
                if let Some(value) = params.get_mut(token) {
                    *value = "<redacted>".into();
                }
            }
            text.push_str(&inspect(&Value::Object(params)));
        }
        None => write!(text, "<{} bytes>", payload.len()).expect("a string takes everything"),
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phoenix;

    #[test]
    fn invalid_fields_are_told_with_what_was_sent_but_for_tokens() {
        let check = |payload: &str, expected: &str| {
            let text = invalid_fields(&phoenix::parse_join(payload).invalid, payload);
            assert_eq!(text, expected, "{payload}");
        };
        check(
            r#"{"config":["test"]}"#,
            r#"%{changeset_errors: %{config: ["unable to parse, expected a map"]}, params: %{"config" => ["test"]}}"#,
        );
        check(
            r#"{"config":{"broadcast":{"ack":"test","self":1},"private":"x"},"access_token":true,"user_token":"secret"}"#,
            "%{changeset_errors: %{access_token: [\"unable to parse, expected boolean|string|integer\"], \
             config: %{broadcast: %{ack: [\"unable to parse, expected boolean|string|integer\"], \
             self: [\"unable to parse, expected boolean|string|integer\"]}, \
             private: [\"unable to parse, expected boolean|string|integer\"]}}, \
             params: %{\"access_token\" => \"<redacted>\", \
             \"config\" => %{\"broadcast\" => %{\"ack\" => \"test\", \"self\" => 1}, \"private\" => \"x\"}, \
             \"user_token\" => \"<redacted>\"}}",
        );
        let long = format!(
            r#"{{"config":["{}"]}}"#,
            "x".repeat(SHOWN_PAYLOAD_BYTES_MAX)
        );
        check(
            &long,
            &format!(
                r#"%{{changeset_errors: %{{config: ["unable to parse, expected a map"]}}, params: <{} bytes>}}"#,
                long.len()
            ),
        );
    }
}
