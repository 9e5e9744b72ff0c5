//! What a member gets of the tenant's database beside live messages: those that were kept, and word of the replication stream (spec:
//! websocket-protocol 5.6, 6.5).

use super::{Channels, Delayed};
use crate::connection::{ConnectionId, Io};
use crate::limits;
use crate::mail::{Body, Replayed, TopicRef};
use crate::phoenix::{self, Encoding, Vsn};
use crate::tenant::TenantId;

const ESTABLISHED: &str = "Replication connection established";

impl Channels {
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
