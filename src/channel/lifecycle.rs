//! How channels and sockets end: leave, shutdown, expiry, idleness, the reaper, and what a tenant or an operator ends (spec:
//! websocket-protocol 4.4, 4.5, 5.8, 5.9, 9.1, 11).

use super::Channels;
use crate::connection::{self, Close, ConnectionId, Io, PendingLeave, Stage, Tick};
use crate::error::{ErrorCode, text};
use crate::fanout::Leaver;
use crate::limits;
use crate::mail::{Mail, TopicRef};
use crate::metrics::Slow;
use crate::phoenix::{self, Message};
use crate::tenant::TenantId;

/// Time between two looks at what the log has held back: as long as its windows.
const SUMMARIES_EVERY: std::time::Duration =
    std::time::Duration::from_millis(limits::LOG_WINDOW_MS);

/// What is due later.
#[derive(Debug)]
pub enum Delayed {
    /// The error reply of a refused join, which the socket keeps meanwhile.
    RefusedJoin {
        /// The socket.
        id: ConnectionId,
    },
    /// The replication stream that a channel waits for is late (spec 5.6).
    ReplicationDeadline {
        /// The socket.
        id: ConnectionId,
        /// The channel.
        topic: TopicRef,
        /// The channel's own deadline: a later channel of the same topic has another one.
        due: Tick,
    },
    /// The first word on a channel's subscriptions is late: what waits for it comes now.
    FirstNews {
        /// The socket.
        id: ConnectionId,
        /// The channel.
        topic: TopicRef,
        /// The channel's own deadline.
        due: Tick,
    },
    /// The next batch of a drain.
    Drain,
    /// The next batch of a disconnect.
    Disconnect {
        /// The sockets that are left.
        ids: Vec<ConnectionId>,
    },
    /// What the log has held back is said.
    Summaries,
    /// The reaper's next round.
    Reap {
        /// Time between rounds.
        every: std::time::Duration,
    },
}

impl Channels {
    /// Something is due. Keys of other rooms' timers are not here.
    pub fn on_timer(&mut self, io: &mut Io<'_>, key: u64) {
        match self.delayed.remove(&key) {
            Some(Delayed::RefusedJoin { id }) => self.send_refusal(io, id),
            Some(Delayed::ReplicationDeadline { id, topic, due }) => {
                let channel = self
                    .sockets
                    .get_mut(id)
                    .and_then(|socket| socket.channel(topic));
                let deadline = channel
                    .and_then(|channel| channel.extra.as_ref())
                    .and_then(|extra| extra.replication_deadline);
                if deadline == Some(due)
                    && let Some(place) = self.place_of(id, topic)
                {
                    self.shut_down(io, id, place, text::REPLICATION_NOT_READY);
                }
            }
            Some(Delayed::FirstNews { id, topic, due }) => {
                self.follow_news(io, id, topic, |deadline| deadline == due);
            }
            Some(Delayed::Drain) => self.drain(io),
            Some(Delayed::Disconnect { ids }) => self.disconnect_next(io, ids),
            Some(Delayed::Summaries) => {
                self.report_suppressed(io);
                self.delay(io, io.now().after(SUMMARIES_EVERY), Delayed::Summaries);
            }
            Some(Delayed::Reap { every }) => self.reap(io, every),
            None => {}
        }
    }

    /// `phx_leave`: with another join_ref than the channel's it is ignored (spec 4.3).
    pub(super) fn leave(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
        message: &Message<'_>,
    ) {
        let Some(channel) = self.channel_at(id, place) else {
            return;
        };
        let is_own = is_same_ref(channel.join_ref(), &message.join_ref);
        if !channel.flags.join_ref_missing && !is_own {
            return;
        }
        let leaving = PendingLeave {
            topic: channel.topic,
            text: message.topic.text.as_deref().unwrap_or_default().into(),
            join_ref: (*message.join_ref).into(),
            msg_ref: (*message.msg_ref).into(),
            topic_json: (*message.topic.raw).into(),
        };
        if !self.fanout.settle(io, leaving.topic, id) {
            return self.complete_leave(io, id, &leaving);
        }
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.waiting.get_or_insert_default().leaving = Some(leaving);
        }
    }

    /// A member that is about to leave has got what was published before.
    pub fn on_settled(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        let waiting = self
            .sockets
            .get_mut(id)
            .and_then(|socket| socket.waiting.as_mut());
        if let Some(leaving) = waiting.and_then(|waiting| waiting.leaving.take()) {
            self.complete_leave(io, id, &leaving);
            self.resume(io, id);
        }
    }

    /// The answer to a leave, and the end of its channel; meanwhile that may have come by itself.
    fn complete_leave(&mut self, io: &mut Io<'_>, id: ConnectionId, leaving: &PendingLeave) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let vsn = socket.vsn;
        let channel = socket.channel(leaving.topic);
        let join_ref = channel.map(|channel| channel.join_ref.clone());
        let place = self.place_of(id, leaving.topic);
        let close = place.and_then(|place| self.end_channel(io, id, place));
        // Ending the channel has sent what was published before: the reply comes behind it.
        let mut reply = Vec::with_capacity(96 + leaving.topic_json.len());
        phoenix::encode_reply(
            &mut reply,
            vsn,
            join_ref
                .as_deref()
                .and_then(|join_ref| std::str::from_utf8(join_ref).ok())
                .unwrap_or(&leaving.join_ref),
            &leaving.msg_ref,
            &leaving.topic_json,
            "ok",
            "{}",
        );
        self.queue(io, id, reply);
        if let Some(close) = close {
            self.queue(io, id, close);
        }
    }

    /// Shuts a channel down with a message: `system` and `phx_close`; socket and other channels live on (spec 5.8).
    pub(super) fn shut_down(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
        text: &str,
    ) {
        let Some(channel) = self.channel_at(id, place) else {
            return;
        };
        let topic = channel.topic;
        self.report(io, id, ErrorCode::ChannelShutdown, text);
        self.push_system(io, id, topic, "system", "error", text);
        if let Some(close) = self
            .place_of(id, topic)
            .and_then(|place| self.end_channel(io, id, place))
        {
            self.queue(io, id, close);
        }
    }

    /// Ends a channel as if its worker had died: `phx_error`, upon which clients join again (spec 5.9).
    pub(super) fn crash(&mut self, io: &mut Io<'_>, id: ConnectionId, place: usize) {
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        let Some(channel) = socket.channels.get(place) else {
            return;
        };
        let Some(entry) = self.fanout.topic(channel.topic) else {
            return;
        };
        let mut frame = Vec::with_capacity(96);
        let (close_ref, json) = (channel.close_ref(), entry.key.json());
        let reason = r#"{"reason":"channel_crash"}"#;
        phoenix::encode_push(
            &mut frame,
            socket.vsn,
            close_ref,
            close_ref,
            json,
            "phx_error",
            reason,
        );
        self.end_channel(io, id, place);
        self.queue(io, id, frame);
    }

    /// A `system` push on a channel (spec 5.7).
    pub(super) fn push_system(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
        extension: &str,
        status: &str,
        text: &str,
    ) {
        let Some(entry) = self.fanout.topic(topic) else {
            return;
        };
        let payload = serde_json::json!({
            "channel": entry.key.name(), "extension": extension, "message": text, "status": status,
        });
        self.push(io, id, topic, "system", &payload.to_string());
    }

    /// Takes a channel from its socket and everything that belongs to it from where it is. Returns its `phx_close` frame.
    pub(super) fn end_channel(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
    ) -> Option<Vec<u8>> {
        let socket = self.sockets.get_mut(id)?;
        if place >= socket.channels.len() {
            return None;
        }
        let (vsn, tenant) = (socket.vsn, socket.tenant);
        let channel = socket.channels.swap_remove(place);
        self.figures(io).channels.sub(1);
        self.unlisten(io, tenant, &channel);
        let entry = self.fanout.topic(channel.topic)?;
        let mut close = Vec::with_capacity(64);
        let close_ref = channel.close_ref();
        phoenix::encode_push(
            &mut close,
            vsn,
            close_ref,
            close_ref,
            entry.key.json(),
            "phx_close",
            "{}",
        );
        self.end_membership(io, id, &channel, false);
        Some(close)
    }

    fn end_membership(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        channel: &connection::Channel,
        is_gone: bool,
    ) {
        let is_tracked = channel
            .extra
            .as_ref()
            .is_some_and(|extra| extra.tracked.is_some());
        // Nothing precedes the close of those who are drained later, or by other shards (spec 4.5): not even this.
        let is_tracked = is_tracked && !(is_gone && self.is_draining);
        let leaver = Leaver {
            id,
            member: channel.member,
            is_tracked,
            is_gone,
        };
        let moved = self.fanout.remove_member(io, channel.topic, leaver);
        if let Some(other) = moved
            .and_then(|moved| self.sockets.get_mut(moved))
            .and_then(|socket| socket.channel(channel.topic))
        {
            other.member = channel.member;
        }
    }

    /// The socket has ended, or is about to: nothing of it stays.
    pub fn on_end(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        let Some(mut socket) = self.sockets.remove(id) else {
            return;
        };
        self.settings.open_sockets.remove();
        self.partial_bytes -= socket.decoder.held_bytes();
        if let Some(tenant) = self.tenants.get(socket.tenant) {
            let joining = socket
                .waiting
                .as_ref()
                .and_then(|waiting| waiting.joining.as_ref());
            if socket.is_user || joining.is_some_and(|joining| joining.join.added_user) {
                tenant.usage.remove_user();
            }
        }
        match socket
            .waiting
            .take()
            .and_then(|waiting| waiting.joining)
            .map(|joining| joining.stage)
        {
            Some(Stage::Subscribing(topic)) => self.fanout.stop_waiting(io, topic, id),
            Some(Stage::Replaying(topic, _)) => self.fanout.let_go(io, topic, id),
            Some(Stage::Asking(_)) | None => {}
        }
        self.figures(io).channels.sub(socket.channels.len() as u64);
        for channel in std::mem::take(&mut socket.channels) {
            self.unlisten(io, socket.tenant, &channel);
            self.end_membership(io, id, &channel, true);
        }
    }

    /// Closes a socket with this code behind what is queued for it.
    pub fn close(&mut self, io: &mut Io<'_>, id: ConnectionId, code: u16) {
        self.on_end(io, id);
        connection::close(io, id, code);
    }

    /// Answers a client's close frame.
    pub fn close_answered(&mut self, io: &mut Io<'_>, id: ConnectionId, code: u16) {
        self.on_end(io, id);
        connection::close_answered(io, id, code);
    }

    /// Closes a reader that cannot keep up.
    pub fn close_slow(&mut self, io: &mut Io<'_>, id: ConnectionId, why: Slow) {
        if self.sockets.get(id).is_some() {
            self.figures(io).slow[why as usize].add(1);
        }
        self.on_end(io, id);
        connection::close_slow(io, id);
    }

    /// The wheel has come to a socket: is it idle, has a token expired (spec 9.1)?
    pub fn on_visit(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        let now = connection::unix_second(io);
        self.give_up_questions(io, id, now);
        let idle_timeout = self.settings.idle_timeout_seconds;
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        // Both are seconds cut short, so only one more than the timeout is surely as long. A socket whose join waits is not idle: the
        // original does not look at it either (spec 4.1).
        let is_waiting = socket.waiting.is_some();
        if !is_waiting && now > socket.last_seen.saturating_add(idle_timeout) {
            return self.close(io, id, 1000);
        }
        while let Some((place, error)) = self.sockets.get(id).and_then(|socket| {
            let recheck =
                |channel: &connection::Channel| channel.token.claims.recheck(now.into()).err();
            socket
                .channels
                .iter()
                .enumerate()
                .find_map(|(place, channel)| Some((place, recheck(channel)?)))
        }) {
            self.shut_down(io, id, place, &error.shutdown_message());
        }
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        let visits = socket
            .channels
            .iter()
            .map(|channel| channel.token.claims.exp);
        let first = visits
            .map(|exp| Self::next_visit(socket.last_seen, idle_timeout, exp))
            .min();
        let visit = first.unwrap_or_else(|| Self::next_visit(socket.last_seen, idle_timeout, None));
        let question = socket
            .waiting
            .as_ref()
            .and_then(|waiting| waiting.first_question());
        let visit = question.map_or(visit, |question| visit.min(question.due));
        io.visit_at(id, visit.max(now.saturating_add(1)));
    }

    /// The second in which a socket has to be looked at: when it may be idle, or when a token expires.
    #[must_use]
    pub fn next_visit(last_seen: u32, idle_timeout_seconds: u32, exp: Option<i64>) -> u32 {
        let idle = last_seen
            .saturating_add(idle_timeout_seconds)
            .saturating_add(1);
        match exp {
            Some(exp) => idle.min(u32::try_from(exp.max(0)).unwrap_or(u32::MAX)),
            None => idle,
        }
    }

    /// Queued bytes of a socket have not moved for long.
    pub fn on_stalled(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        self.close_slow(io, id, Slow::Stalled);
    }

    /// What the deliveries of this turn have found.
    pub fn settle(&mut self, io: &mut Io<'_>) {
        let outcome = &mut self.fanout.outcome;
        let (slow, tripped, states) = (
            std::mem::take(&mut outcome.slow),
            std::mem::take(&mut outcome.tripped),
            std::mem::take(&mut outcome.states),
        );
        for (tenant, counter) in std::mem::take(&mut outcome.started) {
            io.mail(connection::CONTROL, Mail::RateStarted { tenant, counter });
        }
        for tenant in std::mem::take(&mut outcome.too_long) {
            self.report_too_long(io, tenant);
        }
        for state in states {
            self.on_presence_state(io, &state);
        }
        for id in slow {
            self.close_slow(io, id, Slow::Full);
        }
        for (id, topic) in tripped {
            if let Some(place) = self.place_of(id, topic) {
                self.shut_down(io, id, place, text::TOO_MANY_MESSAGES);
            }
        }
    }

    /// Tells every socket of a tenant and closes it (spec 11), a turn's worth at a time.
    pub fn disconnect(&mut self, io: &mut Io<'_>, tenant: TenantId) {
        let own = self.sockets.iter();
        let own = own.filter(|(_, socket)| socket.tenant == tenant);
        let ids = own.map(|(id, _)| id).collect();
        self.disconnect_next(io, ids);
    }

    fn disconnect_next(&mut self, io: &mut Io<'_>, mut ids: Vec<ConnectionId>) {
        let rest = ids.split_off(ids.len().min(limits::DISCONNECT_BATCH));
        if !rest.is_empty() {
            self.delay(io, io.now(), Delayed::Disconnect { ids: rest });
        }
        for id in ids {
            let Some(socket) = self.sockets.get(id) else {
                continue;
            };
            let mut frames = Vec::new();
            for channel in &socket.channels {
                let Some(entry) = self.fanout.topic(channel.topic) else {
                    continue;
                };
                let payload = r#"{"extension":"system","message":"Server requested disconnect","status":"ok"}"#;
                phoenix::encode_push(
                    &mut frames,
                    socket.vsn,
                    "null",
                    "null",
                    entry.key.json(),
                    "system",
                    payload,
                );
            }
            if !frames.is_empty() {
                self.queue(io, id, frames);
            }
            self.close(io, id, 1012);
        }
    }

    /// The process is going to end: no more joins, and the joined sockets are closed in batches (spec 4.5).
    pub fn start_drain(&mut self, io: &mut Io<'_>) {
        if !self.is_draining {
            self.is_draining = true;
            self.drain(io);
        }
    }

    fn drain(&mut self, io: &mut Io<'_>) {
        let batch = limits::DRAIN_BATCH.div_ceil(io.shard_count());
        // A join that waits for somebody else has passed the checks: nothing would refuse it any more.
        let is_joining = |socket: &connection::Socket| {
            let waiting = socket.waiting.as_ref();
            waiting.is_some_and(|waiting| waiting.joining.is_some())
        };
        let joined = self
            .sockets
            .iter()
            .filter(|(_, socket)| !socket.channels.is_empty() || is_joining(socket));
        let ids: Vec<_> = joined.map(|(id, _)| id).take(batch + 1).collect();
        for &id in ids.iter().take(batch) {
            self.close(io, id, 1012);
        }
        if ids.len() > batch {
            let due = io.now().after(limits::DRAIN_INTERVAL);
            self.delay(io, due, Delayed::Drain);
        } else {
            io.mail(connection::CONTROL, Mail::Drained);
        }
    }

    /// Starts what a shard does now and then: the reaper's rounds, and saying what the log has held back.
    pub fn start(&mut self, io: &mut Io<'_>, reap_every: std::time::Duration) {
        self.start_reaper(io, reap_every);
        self.delay(io, io.now().after(SUMMARIES_EVERY), Delayed::Summaries);
    }

    fn start_reaper(&mut self, io: &mut Io<'_>, every: std::time::Duration) {
        let due = io.now().after(every);
        self.delay(io, due, Delayed::Reap { every });
    }

    /// Cuts sockets that have tried to join and have no channel; no close frame (spec 9.1).
    fn reap(&mut self, io: &mut Io<'_>, every: std::time::Duration) {
        let is_idle = |socket: &connection::Socket| {
            socket.has_tried_to_join && socket.channels.is_empty() && socket.waiting.is_none()
        };
        let ids: Vec<_> = self
            .sockets
            .iter()
            .filter(|(_, socket)| is_idle(socket))
            .map(|(id, _)| id)
            .collect();
        self.report_reaped(io, ids.len());
        for id in ids {
            self.on_end(io, id);
            io.close(id, Close::Abort);
        }
        self.start_reaper(io, every);
    }

    /// The place of the channel of this topic among the socket's channels.
    pub(super) fn place_of(&self, id: ConnectionId, topic: TopicRef) -> Option<usize> {
        self.sockets
            .get(id)?
            .channels
            .iter()
            .position(|channel| channel.topic == topic)
    }
}

/// Whether two refs say the same: a string may be written with escapes.
fn is_same_ref(one: &str, other: &str) -> bool {
    let text = phoenix::string_value(one);
    one == other || text.is_some() && text == phoenix::string_value(other)
}
