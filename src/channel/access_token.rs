//! `access_token`: a client replaces its channel's token (spec: websocket-protocol 5.10). Success has no answer.

use super::Channels;
use crate::connection::{ConnectionId, Io};
use crate::phoenix::{self, Message, Payload};

/// What a client sent as its new token.
enum Sent {
    /// Nothing that could be a token: an unknown event.
    Nothing,
    /// Null, or an `sb_…` key: ignored.
    Ignored,
    Token(String),
}

impl Channels {
    pub(super) fn access_token(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
        message: &Message<'_>,
    ) {
        let Payload::Json(payload) = message.payload else {
            return self.unknown_event(io, id, "access_token");
        };
        match sent(payload) {
            Sent::Nothing => self.unknown_event(io, id, "access_token"),
            Sent::Ignored => {}
            Sent::Token(text) => self.replace_token(io, id, place, &text),
        }
    }

    fn replace_token(&mut self, io: &mut Io<'_>, id: ConnectionId, place: usize, text: &str) {
        let Some(tenant) = self.tenant_of(id) else {
            return;
        };
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let last_seen = socket.last_seen;
        let Some(channel) = socket.channels.get_mut(place) else {
            return;
        };
        if *channel.token.text == *text {
            return;
        }
        let unix_now = i64::try_from(io.unix_ms() / 1000).unwrap_or(i64::MAX);
        match self
            .tokens
            .verify(tenant.id, &tenant.verifier, text, unix_now)
        {
            Ok(token) => {
                let visit = Self::next_visit(
                    last_seen,
                    self.settings.idle_timeout_seconds,
                    token.claims.exp,
                );
                channel.token = token;
                io.visit_at(id, visit);
            }
            Err(error) => {
                self.report_token(io, id, &error);
                self.shut_down(io, id, place, &error.shutdown_message());
            }
        }
    }
}

fn sent(payload: &str) -> Sent {
    if !payload.starts_with('{') {
        return Sent::Nothing;
    }
    let token = phoenix::members(payload)
        .filter(|(name, _)| name == "access_token")
        .last();
    match token.map(|(_, value)| (value, phoenix::string_value(value))) {
        Some(("null", _)) => Sent::Ignored,
        Some((_, Some(text))) if text.starts_with("sb_") => Sent::Ignored,
        Some((_, Some(text))) => Sent::Token(text.into_owned()),
        Some((_, None)) | None => Sent::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_token_changes_nothing() {
        let check = |payload, expected| {
            let found = match sent(payload) {
                Sent::Nothing => "nothing",
                Sent::Ignored => "ignored",
                Sent::Token(_) => "token",
            };
            assert_eq!(found, expected, "{payload}");
        };
        check(r#"{"access_token":null}"#, "ignored");
        check(r#"{"access_token":"sb_publishable_x"}"#, "ignored");
        check(r#"{"access_token":""}"#, "token");
        check(r#"{"access_token":"a.b.c"}"#, "token");
        check(r#"{"access_token":5}"#, "nothing");
        check("{}", "nothing");
        check("[]", "nothing");
    }
}
