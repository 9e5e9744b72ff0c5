//! `broadcast`: a client's message to its topic (spec: websocket-protocol 6).

use super::figures::thread;
use super::question::is_private;
use super::{Channels, Frame, is_object};
use crate::connection::{ConnectionId, Io};
use crate::mail::{Audience, Checks, Content};
use crate::metrics::Relayed;
use crate::phoenix::{Message, Payload};
use crate::tenant::Counter;
use std::borrow::Cow;

impl Channels {
    pub(super) fn broadcast(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
        message: &Message<'_>,
        frame: Frame<'_>,
    ) {
        let Some(channel) = self.channel_at(id, place) else {
            return;
        };
        let (topic, flags) = (channel.topic, channel.flags);
        if is_private(&self.fanout, channel) {
            match channel.verdict.broadcast_write {
                Some(true) => {}
                // No reply, not counted (spec 6.1).
                Some(false) => return,
                None if self.is_asking(id) => return self.wait(io, id, message, frame),
                None => {
                    return self.ask_for_write(io, id, place, Checks::WRITES, frame.keep(message));
                }
            }
        }
        if matches!(message.payload, Payload::Json(_)) && !is_object(&message.payload) {
            // Ours: nobody gets it, and the sender sees what it would see of the original (spec 6.6).
            return self.crash(io, id, place);
        }
        let Some(tenant) = self.tenant(id) else {
            return;
        };
        Self::count(io, tenant.id, &tenant.usage, Counter::Events, 1);
        let content = content(&message.payload);
        let bytes = content.payload_bytes();
        if bytes > tenant.limits.payload_bytes_max {
            if flags.ack {
                self.reply(io, id, place, message, "error", "\"payload_size_exceeded\"");
            }
            return;
        }
        tenant
            .usage
            .count_payload(thread(io), Relayed::Broadcast, bytes);
        let except = (!flags.to_self).then(|| self.fanout.member(id));
        self.fanout
            .publish(io, topic, content, Audience::Broadcast, except);
        if flags.ack {
            self.reply(io, id, place, message, "ok", "{}");
        }
    }
}

fn content<'a>(payload: &Payload<'a>) -> Content<'a> {
    match payload {
        Payload::Json(text) => Content::Json {
            event: "broadcast",
            payload: Cow::Borrowed(text),
        },
        Payload::User {
            event,
            encoding,
            bytes,
        } => Content::User {
            event: Cow::Borrowed(event),
            metadata: None,
            encoding: *encoding,
            bytes: Cow::Borrowed(bytes),
        },
        Payload::Opaque(data) => Content::Opaque {
            data: Cow::Borrowed(data),
        },
    }
}
