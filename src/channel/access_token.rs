//! `access_token`: a client replaces its channel's token (spec: websocket-protocol 5.10). Success has no answer.

use super::question::{check_role, is_private};
use super::{Channels, Frame};
use crate::connection::{self, ConnectionId, Io};
use crate::error::text;
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
        frame: Frame<'_>,
    ) {
        let Payload::Json(payload) = message.payload else {
            return self.unknown_event(io, id, "access_token");
        };
        match sent(payload) {
            Sent::Nothing => self.unknown_event(io, id, "access_token"),
            Sent::Ignored => {}
            // A question about another channel is open, and this token may raise one.
            Sent::Token(_) if self.is_asking(id) => self.wait(io, id, message, frame),
            Sent::Token(text) => self.replace_token(io, id, place, &text),
        }
    }

    fn replace_token(&mut self, io: &mut Io<'_>, id: ConnectionId, place: usize, token: &str) {
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
        if channel.token.is(token) {
            return;
        }
        let unix_now = i64::from(connection::unix_second(io));
        match self
            .tokens
            .verify(tenant.id, &tenant.verifier, token, unix_now)
        {
            Ok(verified) => {
                let is_private = is_private(&self.fanout, channel);
                let visit = Self::next_visit(
                    last_seen,
                    self.settings.idle_timeout_seconds,
                    verified.claims.exp,
                );
                channel.token = verified;
                // What may be written is asked anew when something is; what may be read counts until the answer is there.
                channel.verdict.broadcast_write = None;
                channel.verdict.presence_write = None;
                io.visit_at(id, visit);
                if !self.listen_again(io, id, place) {
                    return self.shut_down(io, id, place, text::UNABLE_TO_CONNECT);
                }
                if is_private {
                    self.check_reads_again(io, id, place);
                }
            }
            Err(error) => {
                self.report_token(io, id, &error, token);
                self.shut_down(io, id, place, &error.shutdown_message());
            }
        }
    }
}

impl Channels {
    fn check_reads_again(&mut self, io: &mut Io<'_>, id: ConnectionId, place: usize) {
        let Some(channel) = self.channel_at(id, place) else {
            return;
        };
        let text = self
            .fanout
            .topic(channel.topic)
            .map(|entry| entry.key.text());
        match check_role(&channel.token, text.unwrap_or_default()) {
            Ok(()) => self.ask_for_refresh(io, id, place),
            Err(refusal) => {
                let text = refusal.without_code();
                self.shut_down(io, id, place, &text);
            }
        }
    }
}

fn sent(payload: &str) -> Sent {
    let token = phoenix::pick(payload, ["access_token"]).and_then(|[token]| token);
    match token.map(|value| (value, phoenix::string_value(value))) {
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
