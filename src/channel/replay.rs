//! What a member gets of the tenant's database beside live messages: those that were kept, and word of the replication stream (spec:
//! websocket-protocol 5.6, 6.5).

use super::join::Refusal;
use super::question::name_of;
use super::{Channels, Delayed};
use crate::connection::{ConnectionId, Io, PendingJoin, Stage};
use crate::error::{ErrorCode, text};
use crate::limits;
use crate::mail::{Ask, AskError, Body, Replayed, Told, TopicRef};
use crate::phoenix::{self, Encoding, Vsn};
use crate::tenant::TenantId;

const ESTABLISHED: &str = "Replication connection established";

impl Channels {
    /// Asks for the messages that were kept of a topic that the socket is about to become a member of.
    pub(super) fn ask_for_replay(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
        join: PendingJoin,
        replay: Replay,
    ) {
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        let ask = Ask::Replay {
            topic: name_of(&join.address.topic).into(),
            since_ms: replay.since_ms,
            limit: replay.limit,
        };
        let question = self.ask(io, id, socket.tenant, ask);
        self.fanout.hold(io, topic, id);
        self.set_joining(id, Stage::Replaying(topic, question), join);
    }

    pub(super) fn on_replay_told(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
        join: PendingJoin,
        outcome: Result<Told, AskError>,
    ) {
        let meanwhile = self.fanout.take_held(io, topic, id);
        if let (Ok(Told::Replayed(messages)), Some(meanwhile)) = (outcome, meanwhile) {
            self.complete_join(io, id, topic, join, &messages, &meanwhile);
        } else {
            let refusal = Refusal::new(ErrorCode::UnableToReplayMessages, text::REPLAY_FAILED);
            self.refuse_pending(io, id, join, refusal);
        }
        self.fanout.let_go(io, topic, id);
    }

    /// Hands the messages that were kept to a member that has just joined, oldest first; live copies of them are not for it.
    pub(super) fn push_replayed(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
        messages: &[Replayed],
    ) {
        // The reply before them may have been one frame too many for a slow reader.
        let is_member = self
            .sockets
            .get_mut(id)
            .is_some_and(|socket| socket.channel(topic).is_some());
        if messages.is_empty() || !is_member {
            return;
        }
        let ids = messages.iter().map(|message| message.id).collect();
        self.fanout.set_replayed(topic, id, ids);
        for message in messages {
            match &message.body {
                Body::Json(payload) => {
                    let payload = text_payload(message, payload);
                    self.push(io, id, topic, "broadcast", &payload);
                }
                Body::Binary(bytes) => self.push_binary(io, id, topic, message, bytes),
            }
        }
    }

    /// Bytes come as kind 4, which only 2.0.0 has.
    fn push_binary(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
        message: &Replayed,
        bytes: &[u8],
    ) {
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        let Some(entry) = self.fanout.topic(topic).filter(|_| socket.vsn == Vsn::V2) else {
            return;
        };
        let mut frame = Vec::with_capacity(bytes.len() + 128);
        let framed = phoenix::encode_user_broadcast(
            &mut frame,
            Vsn::V2,
            phoenix::Topic {
                text: entry.key.text(),
                json: entry.key.json(),
            },
            &message.event,
            Some(&metadata(message)),
            Encoding::Binary,
            bytes,
        );
        if framed.is_ok() {
            self.queue(io, id, frame);
        } else {
            let tenant = entry.key.tenant();
            self.report_too_long(io, tenant);
        }
    }

    /// Says once that the stream is up; the channel ends unless that is so in time.
    pub(super) fn wait_for_replication(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
    ) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let tenant = socket.tenant;
        if self.database(tenant).is_replicating {
            return self.push_system(io, id, topic, "system", "ok", ESTABLISHED);
        }
        let due = io.now().after(limits::REPLICATION_READY_TIMEOUT);
        let socket = self.sockets.get_mut(id);
        if let Some(channel) = socket.and_then(|socket| socket.channel(topic)) {
            channel.extra().replication_deadline = Some(due);
            self.delay(io, due, Delayed::ReplicationDeadline { id, topic, due });
        }
    }

    /// The stream of a tenant is up: those who wait for it are told.
    pub(super) fn on_replicating(&mut self, io: &mut Io<'_>, tenant: TenantId) {
        let waiting: Vec<_> = self
            .delayed
            .values()
            .filter_map(|delayed| match delayed {
                Delayed::ReplicationDeadline { id, topic, due } => Some((*id, *topic, *due)),
                _ => None,
            })
            .collect();
        for (id, topic, due) in waiting {
            let Some(socket) = self
                .sockets
                .get_mut(id)
                .filter(|socket| socket.tenant == tenant)
            else {
                continue;
            };
            let extra = socket
                .channel(topic)
                .and_then(|channel| channel.extra.as_mut());
            let is_it = extra.is_some_and(|extra| {
                extra
                    .replication_deadline
                    .take_if(|deadline| *deadline == due)
                    .is_some()
            });
            if is_it {
                self.push_system(io, id, topic, "system", "ok", ESTABLISHED);
            }
        }
    }
}

/// The payload of a replayed message in both serializers: its row's own is put in as PostgreSQL prints it.
fn text_payload(message: &Replayed, payload: &str) -> String {
    let mut out = Vec::with_capacity(payload.len() + 160);
    out.extend_from_slice(b"{\"event\":");
    phoenix::json_string(&mut out, &message.event);
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(payload.as_bytes());
    out.extend_from_slice(b",\"type\":\"broadcast\",\"meta\":");
    out.extend_from_slice(metadata(message).as_bytes());
    out.push(b'}');
    String::from_utf8(out).expect("it is made of texts")
}

fn metadata(message: &Replayed) -> String {
    format!("{{\"id\":\"{}\",\"replayed\":true}}", message.id)
}

/// `config.broadcast.replay` of a join to a private topic (spec: websocket-protocol 6.5).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Replay {
    since_ms: i64,
    limit: u32,
}

impl Replay {
    /// What is asked for, if it is an object.
    pub(super) fn parse(raw: Option<&str>) -> Result<Option<Self>, Refusal> {
        let Some([since, limit]) = raw.and_then(|raw| phoenix::pick(raw, ["since", "limit"]))
        else {
            return Ok(None);
        };
        let since = since.and_then(|raw| raw.parse::<i64>().ok());
        let since = since.filter(|since| (-MS_OF_YEAR_9999..MS_OF_YEAR_9999).contains(since));
        let limit = match limit {
            None => Some(limits::REPLAY_MESSAGES_MAX),
            Some(raw) => integer(raw)
                .map(|limit| limit.clamp(1, i64::from(limits::REPLAY_MESSAGES_MAX)))
                .and_then(|limit| u32::try_from(limit).ok()),
        };
        match (since, limit) {
            (Some(since_ms), Some(limit)) => Ok(Some(Self { since_ms, limit })),
            _ => Err(Refusal::new(
                ErrorCode::UnableToReplayMessages,
                text::REPLAY_PARAMS_INVALID,
            )),
        }
    }
}

/// Milliseconds from 1970 to the end of the year 9999: what a timestamp of the original can hold.
const MS_OF_YEAR_9999: i64 = 253_402_300_800_000;

/// An integer of JSON; one that does not fit is as good as the largest.
fn integer(raw: &str) -> Option<i64> {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let end = if raw.starts_with('-') {
        i64::MIN
    } else {
        i64::MAX
    };
    Some(raw.parse().unwrap_or(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_is_parsed_as_the_original_does() {
        let check = |raw: Option<&str>, expected: Result<Option<(i64, u32)>, ()>| {
            let found = Replay::parse(raw).map_err(|_| ());
            let found = found.map(|replay| replay.map(|replay| (replay.since_ms, replay.limit)));
            assert_eq!(found, expected, "{raw:?}");
        };
        check(None, Ok(None));
        check(Some("null"), Ok(None));
        check(Some("5"), Ok(None));
        check(Some(r#"{"since":0}"#), Ok(Some((0, 25))));
        check(Some(r#"{"since":1,"limit":3}"#), Ok(Some((1, 3))));
        check(Some(r#"{"since":1,"limit":0}"#), Ok(Some((1, 1))));
        check(Some(r#"{"since":1,"limit":-7}"#), Ok(Some((1, 1))));
        check(Some(r#"{"since":1,"limit":9999}"#), Ok(Some((1, 25))));
        check(
            Some(r#"{"since":1,"limit":99999999999999999999}"#),
            Ok(Some((1, 25))),
        );
        check(Some(r#"{"since":1,"limit":"3"}"#), Err(()));
        check(Some(r#"{"since":1,"limit":null}"#), Err(()));
        check(Some(r#"{"since":1.0}"#), Err(()));
        check(Some(r#"{"since":253402300800000}"#), Err(()));
        check(Some("{}"), Err(()));
    }
}
