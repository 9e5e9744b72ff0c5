//! What a client may do on a topic, one file per operation.
//!
//! What comes in: whole messages of a socket, and what the runtime and other threads have to say about its channels. What goes out:
//! replies and pushes into the socket's outbox, publications into `fanout`. What always holds:
//!
//! - Whatever a client sends ends at most its own channel or its own socket.
//! - A reply to a join precedes every message of that channel. (`the_join_reply_precedes_the_channels_messages`)
//! - A socket that ends leaves nothing behind: no member, no presence, no user. (`a_socket_that_ends_leaves_nothing_behind`)
//!
//! Deliberately absent: bytes and frames (`connection`, `websocket`), and how a message reaches the members (`fanout`).

mod access_token;
mod broadcast;
mod figures;
mod join;
mod lifecycle;
mod postgres_changes;
mod presence;
mod question;
mod replay;
mod report;

use crate::connection::OpenSockets;
pub use lifecycle::Delayed;

use crate::connection::{
    self, ConnectionId, Inbound, Io, LocalBytes, SharedBytes, Sockets, Tick, Tokens, Waiting,
    WaitingMessage,
};
use crate::fanout::Fanout;
use crate::limits;
use crate::logging::{Gate, Threshold};
use crate::mail::{DatabaseState, Mail, TopicRef};
use crate::metrics::{Board, Slow};
use crate::phoenix::{self, DecodeError, Message, Payload, Vsn};
use crate::tenant::{Counter, Tenant, TenantDirectory, TenantId, Usage};
use figures::Handled;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::time::Duration;

/// What the operator has set and channels go by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `CHANNEL_ERROR_BACKOFF_MS`: delay of the reply to a refused join.
    pub channel_error_backoff: Duration,
    /// `WEBSOCKET_MAX_HEAP_SIZE`: bytes that may be queued for one socket.
    pub queued_bytes_max: usize,
    /// Bytes that unfinished messages of all sockets of a shard may take.
    pub partial_bytes_max: usize,
    /// Seconds without a frame after which a socket is closed (spec 4.4).
    pub idle_timeout_seconds: u32,
    /// `MAX_CONNECTIONS`, over all shards.
    pub open_sockets: OpenSockets,
    /// `LOG_LEVEL`: lines that are less bad are not made.
    pub log_level: Threshold,
    /// Where the shards count.
    pub board: Board,
}

/// The joined side of a shard: its sockets and everything that they share.
pub struct Channels {
    /// All sockets after their upgrade.
    pub sockets: Sockets,
    /// The topics.
    pub fanout: Fanout,
    /// The tenants.
    pub tenants: TenantDirectory,
    /// Verified tokens.
    pub tokens: Tokens,
    /// What the operator has set.
    pub settings: Settings,
    /// The process is about to end: joins are refused.
    pub is_draining: bool,
    /// What unfinished messages of all sockets take.
    pub partial_bytes: usize,
    /// What is known of the tenants' databases.
    databases: FxHashMap<TenantId, DatabaseState>,
    /// The number of the last question.
    questions: u32,
    /// What a socket without headers for policies has.
    no_headers: Arc<[(String, String)]>,
    /// Which lines are worth mailing to the log.
    gate: Gate,
    /// What is due later, by timer key.
    delayed: FxHashMap<u64, Delayed>,
    timers: u64,
    /// Of this turn.
    handled: Handled,
    /// Of the turn before.
    handled_before: Handled,
}

impl Channels {
    /// No sockets yet.
    #[must_use]
    pub fn new(fanout: Fanout, tenants: TenantDirectory, settings: Settings) -> Self {
        Self {
            sockets: Sockets::new(),
            fanout,
            tenants,
            tokens: Tokens::default(),
            is_draining: false,
            partial_bytes: 0,
            databases: FxHashMap::default(),
            questions: 0,
            no_headers: Arc::from([]),
            gate: Gate::new(settings.log_level.clone()),
            settings,
            delayed: FxHashMap::default(),
            timers: 0,
            handled: Handled::default(),
            handled_before: Handled::default(),
        }
    }

    /// One frame of a client, whole.
    pub fn on_frame(&mut self, io: &mut Io<'_>, id: ConnectionId, bytes: &[u8], is_binary: bool) {
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        let vsn = socket.vsn;
        let frame = Frame { bytes, is_binary };
        let message = match frame.decode(vsn) {
            Ok(message) => message,
            Err(error) => return self.report_undecodable(io, id, error),
        };
        if let Some(waiting) = &socket.waiting
            && Self::has_to_wait(waiting, &message)
        {
            return self.wait(io, id, &message, frame);
        }
        self.on_message(io, id, &message, frame);
    }

    /// Joins wait for the join before them, and so do messages of topics whose join waits (spec 4.1). It is the same with leaves.
    fn has_to_wait(waiting: &Waiting, message: &Message<'_>) -> bool {
        let event = message.event.text.as_deref();
        let is_join = event == Some("phx_join");
        let Some(topic) = message.topic.text.as_deref() else {
            return false;
        };
        if is_join && topic.starts_with("realtime:") {
            return true;
        }
        let is_being_joined = waiting
            .joining
            .as_ref()
            .is_some_and(|joining| *joining.join.address.topic == *topic);
        let is_asked_about = waiting
            .asked
            .as_ref()
            .is_some_and(|asked| *asked.text == *topic);
        let is_being_left = waiting
            .leaving
            .as_ref()
            .is_some_and(|leaving| event == Some("phx_leave") || *leaving.text == *topic);
        is_being_joined
            || is_asked_about
            || is_being_left
            || waiting.refused_topic() == Some(topic)
            || waiting.holds(topic)
    }

    fn wait(&mut self, io: &mut Io<'_>, id: ConnectionId, message: &Message<'_>, frame: Frame<'_>) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let waiting = socket.waiting.get_or_insert_default();
        let outcome = waiting.push(frame.keep(message));
        if outcome == Inbound::Full {
            self.close(io, id, 1013);
        }
    }

    /// Handles what waited, up to the next join that has to be waited for.
    fn resume(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        while let Some(socket) = self.sockets.get_mut(id)
            && let Some(waiting) = socket.waiting.as_mut()
        {
            if waiting.joining.is_some() || waiting.leaving.is_some() || waiting.asked.is_some() {
                return;
            }
            if waiting.refusal.is_some() {
                // The reply takes seconds, which is no business of other topics. (An owner answers at once: for that they wait.)
                let unheld = waiting.take_unheld();
                return self.on_unheld_messages(io, id, unheld);
            }
            let Some(message) = waiting.pop() else {
                socket.waiting = None;
                return;
            };
            self.on_waiting_message(io, id, &message);
        }
    }

    /// Handles these messages, up to a leave that takes a while: what is behind it goes on waiting.
    fn on_unheld_messages(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        messages: Vec<WaitingMessage>,
    ) {
        let mut messages = messages.into_iter();
        while let Some(waiting) = self
            .sockets
            .get_mut(id)
            .and_then(|socket| socket.waiting.as_mut())
        {
            if waiting.leaving.is_some() || waiting.asked.is_some() {
                return waiting.put_back(messages);
            }
            let Some(message) = messages.next() else {
                return;
            };
            self.on_waiting_message(io, id, &message);
        }
    }

    fn on_waiting_message(&mut self, io: &mut Io<'_>, id: ConnectionId, message: &WaitingMessage) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        // To the original the message comes only now: it reads no further while a join is undecided.
        socket.last_seen = connection::unix_second(io);
        let frame = Frame::of(message);
        if let Ok(message) = frame.decode(socket.vsn) {
            self.on_message(io, id, &message, frame);
        }
    }

    /// Event to operation (spec 4.3).
    fn on_message(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        message: &Message<'_>,
        frame: Frame<'_>,
    ) {
        let topic = message.topic.text.as_deref();
        let event = message.event.text.as_deref().unwrap_or("");
        if topic == Some("phoenix") && event == "heartbeat" {
            return self.reply_raw(io, id, "null", message, "ok", "{}");
        }
        if event == "phx_join" {
            return match topic {
                Some(topic) if topic.starts_with("realtime:") => self.join(io, id, topic, message),
                _ => self.reply_unmatched(io, id, message),
            };
        }
        let Some(place) = topic.and_then(|topic| self.find_channel(id, topic)) else {
            return if event == "phx_leave" {
                self.reply_raw(io, id, &message.join_ref, message, "ok", "{}");
            } else {
                self.reply_unmatched(io, id, message);
            };
        };
        self.handled.messages += u64::from(event != "phx_leave");
        match event {
            "phx_leave" => self.leave(io, id, place, message),
            "broadcast" => self.broadcast(io, id, place, message, frame),
            "presence" => self.presence(io, id, place, message, frame),
            "access_token" => self.access_token(io, id, place, message, frame),
            _ => self.unknown_event(io, id, event),
        }
    }

    /// Counted and ignored (spec 5.11).
    fn unknown_event(&mut self, io: &mut Io<'_>, id: ConnectionId, event: &str) {
        if let Some(tenant) = self.tenant(id) {
            Self::count(io, tenant.id, &tenant.usage, Counter::Events, 1);
        }
        self.report_unknown_event(io, id, event);
    }

    /// The place of the channel of this topic among the socket's channels. Few channels are compared by their names; many are compared
    /// by reference, once the registry has found the name.
    fn find_channel(&self, id: ConnectionId, topic: &str) -> Option<usize> {
        const FEW: usize = 4;
        let socket = self.sockets.get(id)?;
        if socket.channels.len() <= FEW {
            let is_it = |channel: &connection::Channel| {
                let entry = self.fanout.topic(channel.topic);
                entry.is_some_and(|entry| entry.key.text() == topic)
            };
            return socket.channels.iter().position(is_it);
        }
        let found = [false, true].map(|private| self.fanout.find(socket.tenant, private, topic));
        let is_it = |channel: &connection::Channel| found.contains(&Some(channel.topic));
        socket.channels.iter().position(is_it)
    }

    /// The channel at this place among the socket's channels.
    fn channel_at(&self, id: ConnectionId, place: usize) -> Option<&connection::Channel> {
        self.sockets.get(id)?.channels.get(place)
    }

    /// A reply to a message on a joined channel: it carries the channel's `join_ref`, whatever the message had (spec 3.2).
    fn reply(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
        message: &Message<'_>,
        status: &str,
        response: &str,
    ) {
        let Some(channel) = self.channel_at(id, place) else {
            return;
        };
        let join_ref = channel.join_ref.clone();
        self.reply_raw(
            io,
            id,
            std::str::from_utf8(&join_ref).unwrap_or("null"),
            message,
            status,
            response,
        );
    }

    /// A reply with this `join_ref`, raw JSON; `ref` and topic are the message's own.
    fn reply_raw(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        join_ref: &str,
        message: &Message<'_>,
        status: &str,
        response: &str,
    ) {
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        let mut out = Vec::with_capacity(96 + message.topic.raw.len() + response.len());
        phoenix::encode_reply(
            &mut out,
            socket.vsn,
            join_ref,
            &message.msg_ref,
            &message.topic.raw,
            status,
            response,
        );
        self.queue(io, id, out);
    }

    fn reply_unmatched(&mut self, io: &mut Io<'_>, id: ConnectionId, message: &Message<'_>) {
        self.reply_raw(
            io,
            id,
            "null",
            message,
            "error",
            r#"{"reason":"unmatched topic"}"#,
        );
    }

    /// Queues a frame for one socket; a reader that cannot keep up is closed.
    fn queue(&mut self, io: &mut Io<'_>, id: ConnectionId, frame: Vec<u8>) {
        if !connection::queue_bytes(io, id, frame, self.settings.queued_bytes_max) {
            self.close_slow(io, id, Slow::Full);
        }
    }

    /// A push of the channel itself: it carries the channel's `join_ref` and no `ref` (spec 3.2).
    fn push(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
        event: &str,
        payload: &str,
    ) {
        if let Some((mut out, rest)) = self.around_push(id, topic, event, payload.len()) {
            out.reserve(payload.len() + rest.len());
            out.extend_from_slice(payload.as_bytes());
            out.extend_from_slice(rest.as_bytes());
            self.queue(io, id, out);
        }
    }

    /// The same with a payload, valid JSON, that many channels get: a large one is not copied for each.
    fn push_shared(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
        event: &str,
        payload: &SharedBytes,
    ) {
        let Some((mut head, rest)) = self.around_push(id, topic, event, payload.len()) else {
            return;
        };
        if payload.len() < limits::SHARED_PAYLOAD_BYTES_MIN {
            head.extend_from_slice(payload);
            head.extend_from_slice(rest.as_bytes());
            return self.queue(io, id, head);
        }
        let bound = self.settings.queued_bytes_max;
        let parts = [
            LocalBytes::from(head).going_on(),
            LocalBytes::from(payload.clone()).going_on(),
            LocalBytes::from(rest.into_bytes()),
        ];
        let fits = parts.map(|part| connection::queue(io, id, part, bound));
        if fits.contains(&false) {
            self.close_slow(io, id, Slow::Full);
        }
    }

    /// What stands before and behind the payload of a push; nothing when the channel is gone.
    fn around_push(
        &mut self,
        id: ConnectionId,
        topic: TopicRef,
        event: &str,
        payload_bytes: usize,
    ) -> Option<(Vec<u8>, String)> {
        let socket = self.sockets.get_mut(id)?;
        let vsn = socket.vsn;
        let channel = socket.channel(topic)?;
        let name = self.fanout.topic(topic)?.key.json();
        let mut out = Vec::with_capacity(96 + name.len());
        let join_ref = channel.join_ref();
        let rest = phoenix::encode_push_around(
            &mut out,
            vsn,
            join_ref,
            "null",
            name,
            event,
            payload_bytes,
        );
        Some((out, rest))
    }

    /// Adds to a rate counter of the tenant on this shard's cell. Counting nothing starts the counter all the same.
    pub fn count(io: &mut Io<'_>, tenant: TenantId, usage: &Usage, counter: Counter, n: u64) {
        if usage.count(figures::thread(io), counter, n) {
            io.mail(connection::CONTROL, Mail::RateStarted { tenant, counter });
        }
    }

    /// Sets a timer for something that is due later.
    fn delay(&mut self, io: &mut Io<'_>, due: Tick, delayed: Delayed) {
        self.timers += 1;
        self.delayed.insert(self.timers, delayed);
        io.set_timer(due, self.timers);
    }

    /// The tenant of a socket. Per message, it is looked at and not kept: how many keep it is a number that all shards share.
    fn tenant(&self, id: ConnectionId) -> Option<&Tenant> {
        let tenant: TenantId = self.sockets.get(id)?.tenant;
        self.tenants.get(tenant).map(|tenant| &**tenant)
    }

    /// The same, kept.
    fn tenant_of(&self, id: ConnectionId) -> Option<Arc<Tenant>> {
        let tenant: TenantId = self.sockets.get(id)?.tenant;
        self.tenants.get(tenant).cloned()
    }
}

/// A message as it came, for those that have to wait.
#[derive(Copy, Clone)]
struct Frame<'a> {
    bytes: &'a [u8],
    is_binary: bool,
}

impl<'a> Frame<'a> {
    fn of(message: &'a WaitingMessage) -> Self {
        Self {
            bytes: &message.bytes,
            is_binary: message.is_binary,
        }
    }

    fn decode(self, vsn: Vsn) -> Result<Message<'a>, DecodeError> {
        if self.is_binary {
            phoenix::decode_binary(vsn, self.bytes)
        } else {
            phoenix::decode_text(vsn, self.bytes)
        }
    }

    fn keep(self, message: &Message<'_>) -> WaitingMessage {
        WaitingMessage {
            topic: message.topic.text.as_deref().map(Into::into),
            is_join: message.event.text.as_deref() == Some("phx_join"),
            is_binary: self.is_binary,
            bytes: self.bytes.into(),
        }
    }
}

/// Whether a payload is a JSON object.
fn is_object(payload: &Payload<'_>) -> bool {
    matches!(payload, Payload::Json(text) if text.starts_with('{'))
}

/// A socket's serializer, for encoders that are given one.
fn vsn_of(sockets: &Sockets, id: ConnectionId) -> Option<Vsn> {
    sockets.get(id).map(|socket| socket.vsn)
}
