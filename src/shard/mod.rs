//! Puts the rooms of the data plane onto one shard of the runtime.
//!
//! What comes in: what the runtime calls ([`shards::Handler`]) and letters of other threads. What goes out: nothing of its own; every
//! call goes to the room that knows. What always holds: a socket is either before its upgrade (`opening`) or after it
//! (`channels`), never both. Deliberately absent: decisions about messages.

#[cfg(test)]
mod tests;
mod upgrade;

pub use upgrade::UpgradeSettings;

use crate::channel::Channels;
use crate::connection::{self, Close, ConnectionId, Io, unix_second};
use crate::limits;
use crate::mail::Mail;
use crate::metrics::Slow;
use crate::websocket::{self, Event, Opcode};
use rustc_hash::FxHashMap;
use shards::{Closed, Peer, ShardId};
use std::os::fd::OwnedFd;
use upgrade::Opening;

/// One shard: all of its sockets and topics.
pub struct Shard {
    channels: Channels,
    /// Few at a time, so they are not held once per connection.
    opening: FxHashMap<ConnectionId, Opening>,
    /// How many of them wait for their tenant.
    seeking: usize,
    upgrades: UpgradeSettings,
    /// What is due for sockets that are still opening, by timer key.
    refusals: upgrade::Refusals,
}

/// What a client may send in one message. UTF-8 is left to the JSON parser (spec: websocket-protocol 3).
const FRAME_LIMITS: websocket::Limits = websocket::Limits {
    message_bytes_max: limits::MESSAGE_BYTES_MAX,
    text_must_be_utf8: false,
};

impl Shard {
    /// A shard without sockets.
    #[must_use]
    pub fn new(channels: Channels, upgrades: UpgradeSettings) -> Self {
        Self {
            channels,
            opening: FxHashMap::default(),
            seeking: 0,
            upgrades,
            refusals: upgrade::Refusals::default(),
        }
    }

    /// Its sockets after their upgrade, and its topics.
    #[must_use]
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// Sockets that are not upgraded yet.
    #[must_use]
    pub fn opening(&self) -> usize {
        self.opening.len()
    }

    /// Bytes of a socket after its upgrade.
    fn on_frames(&mut self, io: &mut Io<'_>, id: ConnectionId, bytes: &mut [u8]) {
        let Some(socket) = self.channels.sockets.get_mut(id) else {
            return;
        };
        socket.last_seen = unix_second(io);
        // The decoder works outside of the table, so that its events can be handled while it lends them.
        let mut decoder = std::mem::take(&mut socket.decoder);
        self.channels.partial_bytes -= decoder.held_bytes();
        let mut input = bytes;
        loop {
            match decoder.next(&mut input, &FRAME_LIMITS) {
                Ok(Some(event)) => self.on_event(io, id, event),
                Ok(None) => break,
                Err(error) => return self.channels.close(io, id, error.close_code()),
            }
            if self.channels.sockets.get(id).is_none() {
                return;
            }
        }
        let held = decoder.held_bytes();
        if let Some(socket) = self.channels.sockets.get_mut(id) {
            socket.decoder = decoder;
            self.channels.partial_bytes += held;
        }
        // All who send a message slowly share a bound: whoever needs more room when there is none goes, and the others get on.
        if held > 0 && self.channels.partial_bytes > self.channels.settings.partial_bytes_max {
            self.channels.close(io, id, 1013);
        }
    }

    fn on_event(&mut self, io: &mut Io<'_>, id: ConnectionId, event: Event<'_>) {
        match event {
            Event::Text(bytes) => self.channels.on_frame(io, id, bytes, false),
            Event::Binary(bytes) => self.channels.on_frame(io, id, bytes, true),
            Event::Ping(bytes) => {
                let mut pong = Vec::with_capacity(bytes.len() + 10);
                websocket::encode_header(&mut pong, Opcode::Pong, bytes.len());
                pong.extend_from_slice(bytes);
                if !connection::queue_bytes(io, id, pong, self.channels.settings.queued_bytes_max) {
                    self.channels.close_slow(io, id, Slow::Full);
                }
            }
            Event::Pong(_) => {}
            // The original answers every valid close with 1000 (spec 4.4).
            Event::Close { .. } => self.channels.close_answered(io, id, 1000),
        }
    }

    fn on_letter_of_shard(&mut self, io: &mut Io<'_>, from: ShardId, mail: Mail) {
        let fanout = &mut self.channels.fanout;
        match mail {
            Mail::Subscribe(subscribe) => fanout.on_subscribe(io, from, &subscribe),
            Mail::Unsubscribe { topic, theirs } => fanout.on_unsubscribe(io, from, topic, theirs),
            Mail::Publish(publish) => fanout.on_publish(io, &publish),
            Mail::Presence(presence) => fanout.on_presence(io, *presence),
            Mail::Subscribed {
                topic,
                owner,
                serializers,
            } => {
                let sockets = fanout.on_subscribed(io, from, topic, owner, serializers);
                self.channels.on_subscribed(io, topic, &sockets);
            }
            Mail::Deliver { topic, batch } => fanout.deliver(io, topic, &batch),
            Mail::Settle { topic, connection } => fanout.on_settle(io, from, topic, connection),
            Mail::Settled(id) => self.channels.on_settled(io, id),
            Mail::PresenceState(state) => self.channels.on_presence_state(io, &state),
            _ => debug_assert!(
                false,
                "a shard does not say what only the control core says"
            ),
        }
    }

    fn on_letter_of_control(&mut self, io: &mut Io<'_>, mail: Mail) {
        match mail {
            Mail::Publish(publish) => self.channels.fanout.on_publish(io, &publish),
            Mail::Tenant(tenant) => {
                self.channels.tokens.forget(tenant.id);
                self.channels.tenants.insert(tenant);
            }
            Mail::TenantGone(tenant) => {
                // Its sockets find it for the last time; nobody can come in between.
                self.channels.disconnect(io, tenant);
                self.channels.tokens.forget(tenant);
                self.channels.tenants.remove(tenant);
                self.channels.forget_database(tenant);
            }
            Mail::Answer(answer) => self.channels.on_answer(io, *answer),
            Mail::Listening(listening) => self.channels.on_listening(io, *listening),
            Mail::Changes(batch) => self.channels.fanout.deliver_changes(io, &batch),
            Mail::Database { tenant, state } => self.channels.on_database(io, tenant, state),
            Mail::Disconnect(tenant) => self.channels.disconnect(io, tenant),
            Mail::Sought(id) => self.on_sought(io, id),
            Mail::Mark(number) => io.mail(connection::CONTROL, Mail::Marked(number)),
            Mail::Adopt(adopted) => self.adopt(io, *adopted),
            Mail::Drain => self.channels.start_drain(io),
            Mail::Stop => io.stop(),
            _ => debug_assert!(false, "the control core does not say what only shards say"),
        }
    }
}

impl shards::Handler for Shard {
    type Mail = Mail;

    fn on_start(&mut self, io: &mut Io<'_>) {
        self.channels.start(io, self.upgrades.no_channel_timeout);
    }

    fn on_accept(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        self.opening.insert(id, Opening::default());
        let seconds = u32::try_from(limits::HEAD_TIMEOUT.as_secs()).unwrap_or(u32::MAX);
        io.visit_at(id, unix_second(io).saturating_add(seconds));
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, id: ConnectionId, bytes: &mut [u8]) {
        if self.channels.sockets.get(id).is_some() {
            self.on_frames(io, id, bytes);
        } else {
            self.on_head_bytes(io, id, bytes);
        }
    }

    fn on_close(&mut self, io: &mut Io<'_>, id: ConnectionId, _why: Closed) {
        self.forget_opening(id);
        self.channels.on_end(io, id);
    }

    fn on_detached(&mut self, io: &mut Io<'_>, id: ConnectionId, socket: OwnedFd) {
        self.hand_over(io, id, socket);
    }

    fn on_mail(&mut self, io: &mut Io<'_>, from: Peer, mail: Mail) {
        match from {
            Peer::Shard(from) => self.on_letter_of_shard(io, from, mail),
            Peer::Control => self.on_letter_of_control(io, mail),
        }
    }

    fn on_timer(&mut self, io: &mut Io<'_>, key: u64) {
        if !self.on_refusal_due(io, key) {
            self.channels.on_timer(io, key);
        }
    }

    fn on_visit(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        if self.opening.contains_key(&id) {
            self.on_late_head(io, id);
        } else {
            self.channels.on_visit(io, id);
        }
    }

    fn on_stalled(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        if self.forget_opening(id) {
            io.close(id, Close::Abort);
        } else {
            self.channels.on_stalled(io, id);
        }
    }

    fn on_turn_end(&mut self, io: &mut Io<'_>) {
        // Settling may end channels, whose presences leave in messages of their own; each round ends some, so the rounds end.
        while self.channels.fanout.is_dirty() || !self.channels.fanout.outcome.is_empty() {
            self.channels.fanout.flush(io);
            self.channels.settle(io);
        }
        self.channels.note_turn(io);
    }
}
