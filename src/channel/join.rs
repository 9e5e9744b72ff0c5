//! `phx_join`: the checks in their order, the reply, and what follows it (spec: websocket-protocol 5).

use super::question::{check_role, name_of, reads};
use super::replay::Replay;
use super::{Channels, Delayed};
use crate::auth::{TokenError, unverified_identity};
use crate::connection::{
    self, Address, Channel, ConnectionId, Extra, Flags, Follows, Io, PendingJoin, RawJson, Stage,
    Token, WaitingRefusal,
};
use crate::error::{ErrorCode, text};
use crate::fanout::{Reads, Subscription};
use crate::limits;
use crate::logging::Identity;
use crate::mail::{AskError, Batch, Replayed, TopicName, TopicRef, Verdict};
use crate::phoenix::{self, JoinPayload, Message, Payload, TokenChoice};
use crate::tenant::{Counter, Tenant};
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

/// Why a join is refused: what the client reads, and what follows.
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) reason: String,
    /// What stands behind the code in the log.
    pub(super) log: String,
    /// The socket is closed with 1001 behind the reply (spec 5.5).
    pub(super) closes_socket: bool,
    /// Who the token that is refused says it belongs to, where it is not the socket's.
    pub(super) identity: Option<Box<Identity>>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, text: &str) -> Self {
        Self {
            code,
            reason: code.reason(text),
            log: text.into(),
            closes_socket: false,
            identity: None,
        }
    }

    /// With the text of the code itself.
    pub(super) fn of(code: ErrorCode) -> Self {
        Self::new(code, code.text().unwrap_or_default())
    }

    fn tenant_gone() -> Self {
        Self::new(ErrorCode::TenantNotFound, text::TENANT_NOT_FOUND_IN_JOIN).closing()
    }

    /// The reason as a message of a channel that is shut down.
    pub(super) fn without_code(&self) -> String {
        let code = format!("{}: ", self.code.as_str());
        self.reason
            .strip_prefix(&code)
            .unwrap_or(&self.reason)
            .to_owned()
    }

    /// The same, about this token.
    fn about_token(self, text: &str) -> Self {
        Self {
            identity: Some(Box::new(unverified_identity(text))),
            ..self
        }
    }

    fn closing(self) -> Self {
        Self {
            closes_socket: true,
            ..self
        }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self {
            code: error.code(),
            reason: error.join_reason(),
            log: error.log_text(),
            closes_socket: false,
            identity: None,
        }
    }
}

/// What the checks leave for the join itself.
struct Admitted<'a> {
    payload: JoinPayload<'a>,
    token: Rc<Token>,
    tenant: Arc<Tenant>,
    added_user: bool,
}

impl Channels {
    pub(super) fn join(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: &str,
        message: &Message<'_>,
    ) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        socket.has_tried_to_join = true;
        if socket.channels.len() >= limits::CHANNELS_PER_SOCKET_MAX {
            let response = r#"{"reason":"too many channels joined"}"#;
            return self.reply_raw(io, id, &message.join_ref, message, "error", response);
        }
        // A channel of the same topic ends first, whatever becomes of the join; its phx_close follows the reply (spec 4.3).
        let close_of_old = self
            .find_channel(id, topic)
            .and_then(|place| self.end_channel(io, id, place));
        let payload = match message.payload {
            Payload::Json(text) => text,
            Payload::User { .. } | Payload::Opaque(_) => "null",
        };
        let bytes = payload.len() + message.topic.raw.len() + message.join_ref.len();
        let admitted = if bytes > limits::JOIN_BYTES_MAX {
            let text = format!("the join is larger than {} bytes", limits::JOIN_BYTES_MAX);
            Err(Refusal::new(ErrorCode::UnknownErrorOnChannel, &text))
        } else {
            self.admit(io, id, topic, payload)
        };
        match admitted {
            Ok(admitted) => {
                let join = self.pending_join(id, topic, message, admitted, close_of_old);
                if let Some(mut join) = join {
                    join.asked_unix_ms = io.unix_ms();
                    self.ask_for_join(io, id, join);
                }
            }
            Err(refusal) => {
                let address = Address::of(topic, message);
                self.refuse(io, id, &address, refusal, close_of_old);
            }
        }
    }

    /// The checks of spec 5.3, in their order.
    fn admit<'a>(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: &str,
        payload: &'a str,
    ) -> Result<Admitted<'a>, Refusal> {
        if topic == "realtime:" {
            return Err(Refusal::of(ErrorCode::TopicNameRequired));
        }
        if self.is_draining {
            return Err(Refusal::of(ErrorCode::RealtimeRestarting));
        }
        let Some(tenant) = self.tenant_of(id) else {
            return Err(Refusal::tenant_gone());
        };
        let sent = payload;
        let payload = phoenix::parse_join(sent);
        self.report_invalid_fields(io, id, &payload.invalid, sent);
        if tenant.private_only && !payload.private {
            return Err(Refusal::of(ErrorCode::PrivateOnly));
        }
        let added_user = self.add_user(id, &tenant)?;
        let checked = self.check_rates_and_token(io, id, topic, &tenant, &payload);
        let checked = checked.and_then(|token| match &payload.broken {
            // The original fails for its shape only when it puts the channel together (spec 5.1).
            Some(error) => {
                let code = ErrorCode::UnknownErrorOnChannel;
                Err(Refusal::new(code, error.sentence()))
            }
            None => Ok(token),
        });
        match checked {
            Ok(token) => Ok(Admitted {
                payload,
                token,
                tenant,
                added_user,
            }),
            Err(refusal) => {
                if added_user {
                    tenant.usage.remove_user();
                }
                Err(refusal)
            }
        }
    }

    /// Check 4. Says whether the socket was added: one that counts already is not.
    fn add_user(&mut self, id: ConnectionId, tenant: &Tenant) -> Result<bool, Refusal> {
        if self.sockets.get(id).is_some_and(|socket| socket.is_user) {
            return Ok(false);
        }
        if tenant.usage.try_add_user(tenant.limits.users_max) {
            return Ok(true);
        }
        Err(Refusal::of(ErrorCode::ConnectionRateLimitReached))
    }

    /// Checks 5 to 7, and for a tenant without a database what its absence decides of the rest.
    fn check_rates_and_token(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: &str,
        tenant: &Tenant,
        payload: &JoinPayload<'_>,
    ) -> Result<Rc<Token>, Refusal> {
        if tenant.usage.is_tripped(Counter::Joins) {
            return Err(Refusal::of(ErrorCode::ClientJoinRateLimitReached).closing());
        }
        Self::count(io, tenant.id, &tenant.usage, Counter::Joins, 1);
        let socket = self.sockets.get(id);
        let channels = socket.map_or(0, |socket| socket.channels.len());
        let channels_max = tenant.limits.channels_per_socket_max as usize;
        if channels >= channels_max {
            return Err(Refusal::of(ErrorCode::ChannelRateLimitReached));
        }
        if channels + 1 == channels_max {
            self.report_last_channel(io, id);
        }
        let token = self.token_for(io, id, tenant, &payload.token)?;
        if payload.private {
            if !tenant.has_database {
                // Its policies stand in a database, and this tenant has none that could be reached.
                return Err(Refusal::of_ask(&AskError::Unreachable, topic));
            }
            check_role(&token, topic)?;
        }
        Ok(token)
    }

    /// The channel's token: its own, or the socket's, which may have expired since the upgrade (spec 5.2).
    fn token_for(
        &mut self,
        io: &Io<'_>,
        id: ConnectionId,
        tenant: &Tenant,
        choice: &TokenChoice<'_>,
    ) -> Result<Rc<Token>, Refusal> {
        let unix_now = i64::from(connection::unix_second(io));
        match choice {
            TokenChoice::UserToken(text) | TokenChoice::AccessToken(text) => self
                .tokens
                .verify(tenant.id, &tenant.verifier, text, unix_now)
                .map_err(|error| Refusal::from(error).about_token(text)),
            TokenChoice::Socket => {
                let socket = self
                    .sockets
                    .get(id)
                    .expect("the socket was found when its message came");
                socket.token.claims.recheck(unix_now)?;
                Ok(Rc::clone(&socket.token))
            }
        }
    }

    /// The shard's checks have passed: what the channel will be, kept until whoever else has to be asked has answered.
    fn pending_join(
        &self,
        id: ConnectionId,
        topic: &str,
        message: &Message<'_>,
        admitted: Admitted<'_>,
        close_of_old: Option<Vec<u8>>,
    ) -> Option<PendingJoin> {
        let Admitted {
            payload,
            token,
            tenant,
            added_user,
        } = admitted;
        let vsn = super::vsn_of(&self.sockets, id)?;
        let subscriptions = Self::subscriptions(&payload, topic);
        let mut reply = Vec::with_capacity(128 + topic.len());
        let ids = subscriptions.iter();
        let ids: Box<[u32]> = ids.map(|entry| phoenix::subscription_id(entry)).collect();
        let response = super::postgres_changes::response(&subscriptions, &ids);
        phoenix::encode_reply(
            &mut reply,
            vsn,
            &message.join_ref,
            &message.msg_ref,
            &message.topic.raw,
            "ok",
            &response,
        );
        let join_ref_missing = message.join_ref.is_null();
        let join_ref = if join_ref_missing {
            &*message.msg_ref
        } else {
            &*message.join_ref
        };
        let presence_key = payload
            .presence_key
            .map(Cow::into_owned)
            .map(String::into_boxed_str);
        let extra = (presence_key.is_some() || !subscriptions.is_empty()).then(|| {
            Box::new(Extra {
                presence_key,
                subscriptions: subscriptions.into(),
                subscription_ids: ids,
                is_topic_subscription: !payload.has_config,
                ..Extra::default()
            })
        });
        Some(PendingJoin {
            address: Address::of(topic, message),
            private: payload.private,
            replay: payload.replay.map(Into::into),
            verdict: Verdict::default(),
            added_user,
            flags: Flags {
                ack: payload.ack,
                to_self: payload.self_broadcast,
                join_ref_missing,
                presence: payload.presence_enabled || tenant.presence_enabled,
            },
            join_ref: RawJson::from_slice(join_ref.as_bytes()),
            token,
            extra,
            reply,
            close_of_old,
            waits_for_replication: payload.replication_ready,
            asked_unix_ms: 0,
        })
    }

    /// All checks passed: from here on only the topic's owner has to be heard, and messages that were kept.
    pub(super) fn subscribe(&mut self, io: &mut Io<'_>, id: ConnectionId, join: PendingJoin) {
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        let (vsn, tenant) = (socket.vsn, socket.tenant);
        let Some(tenant) = self.tenants.get(tenant) else {
            return self.refuse_pending(io, id, join, Refusal::tenant_gone());
        };
        let address = &join.address;
        let name = TopicName {
            tenant: tenant.id,
            private: join.private,
            text: &address.topic,
            json: &address.topic_json,
        };
        let subscription = self.fanout.subscribe(io, id, name, &tenant.usage, vsn);
        match subscription {
            Subscription::Active(topic) => self.on_topic_active(io, id, topic, join),
            Subscription::Awaited(topic) => self.set_joining(id, Stage::Subscribing(topic), join),
        }
    }

    /// The topic's messages reach this shard: the socket becomes a member, if it has not asked for messages that were kept.
    fn on_topic_active(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
        join: PendingJoin,
    ) {
        let replay = if join.private {
            Replay::parse(join.replay.as_deref()).ok().flatten()
        } else {
            None
        };
        match replay {
            Some(replay) => self.ask_for_replay(io, id, topic, join, replay),
            None => self.complete_join(io, id, topic, join, &[], &[]),
        }
    }

    /// The owner has answered for a topic that these sockets wait for.
    pub fn on_subscribed(&mut self, io: &mut Io<'_>, topic: TopicRef, sockets: &[ConnectionId]) {
        for &id in sockets {
            let waiting = self
                .sockets
                .get_mut(id)
                .and_then(|socket| socket.waiting.as_mut());
            let joining = waiting.and_then(|waiting| {
                waiting
                    .joining
                    .take_if(|joining| matches!(joining.stage, Stage::Subscribing(_)))
            });
            if let Some(joining) = joining {
                self.on_topic_active(io, id, topic, joining.join);
            }
        }
        if !sockets.is_empty() {
            self.fanout.release(io, topic);
        }
        // Only now what waits behind the joins: a leave among it must not take the topic from those who are still to be added.
        for &id in sockets {
            self.resume(io, id);
        }
    }

    /// The socket becomes a member: reply first, then whatever follows it (spec 5.4).
    pub(super) fn complete_join(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        topic: TopicRef,
        join: PendingJoin,
        replayed: &[Replayed],
        meanwhile: &[Arc<Batch>],
    ) {
        let PendingJoin {
            address,
            asked_unix_ms,
            private,
            verdict,
            flags,
            join_ref,
            token,
            extra,
            reply,
            close_of_old,
            ..
        } = join;
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        socket.is_user |= join.added_user;
        let reads = if private { reads(verdict) } else { Reads::ALL };
        let member = self.fanout.add_member(topic, id, socket.vsn, reads);
        let visit = Self::next_visit(
            socket.last_seen,
            self.settings.idle_timeout_seconds,
            token.claims.exp,
        );
        let has_subscriptions = extra
            .as_ref()
            .is_some_and(|extra| !extra.subscriptions.is_empty());
        let follows = Follows {
            replication: join.waits_for_replication,
            state: flags.presence && reads.presence,
        };
        socket.channels.push(Channel {
            topic,
            member,
            flags,
            verdict,
            join_ref,
            token,
            extra,
        });
        let figures = self.figures(io);
        figures.channels.add(1);
        figures.joins_ok.add(1);
        io.visit_at(id, visit);
        self.queue(io, id, reply);
        if let Some(close) = close_of_old {
            self.queue(io, id, close);
        }
        self.push_replayed(io, id, topic, replayed);
        self.fanout.hand_over_held(io, topic, id, meanwhile);
        if has_subscriptions {
            self.listen(io, id, topic);
        }
        self.follow_join(io, id, topic, follows);
        self.report_joined(io, id, &address.topic, asked_unix_ms);
    }

    /// A join is refused that had passed the shard's checks: the user that it added is none.
    pub(super) fn refuse_pending(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        join: PendingJoin,
        refusal: Refusal,
    ) {
        if join.added_user
            && let Some(tenant) = self.tenant_of(id)
        {
            tenant.usage.remove_user();
        }
        self.refuse(io, id, &join.address, refusal, join.close_of_old);
    }

    /// The error reply comes after the back-off; further joins of the socket, and what else is sent on this topic, wait behind it
    /// (spec 4.1, 5.5).
    fn refuse(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        address: &Address,
        refusal: Refusal,
        close_of_old: Option<Vec<u8>>,
    ) {
        self.report_refused_join(io, id, &address.topic, &refusal);
        self.figures(io).joins_refused.add(1);
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        let mut frames = Vec::with_capacity(160);
        let mut response = Vec::with_capacity(96);
        response.extend_from_slice(b"{\"reason\":");
        phoenix::json_string(&mut response, &refusal.reason);
        response.push(b'}');
        let response = String::from_utf8(response).expect("a JSON string of a string is UTF-8");
        phoenix::encode_reply(
            &mut frames,
            socket.vsn,
            &address.join_ref,
            &address.msg_ref,
            &address.topic_json,
            "error",
            &response,
        );
        frames.extend(close_of_old.into_iter().flatten());
        socket.waiting.get_or_insert_default().refusal = Some(WaitingRefusal {
            topic: Some(address.topic.clone()),
            frames,
            closes_socket: refusal.closes_socket,
        });
        let due = io.now().after(self.settings.channel_error_backoff);
        self.delay(io, due, Delayed::RefusedJoin { id });
    }

    /// A refused join's reply is due.
    pub(super) fn send_refusal(&mut self, io: &mut Io<'_>, id: ConnectionId) {
        let waiting = self
            .sockets
            .get_mut(id)
            .and_then(|socket| socket.waiting.as_mut());
        let Some(refusal) = waiting.and_then(|waiting| waiting.refusal.take()) else {
            return;
        };
        self.queue(io, id, refusal.frames);
        if refusal.closes_socket {
            return self.close(io, id, 1001);
        }
        self.resume(io, id);
    }

    /// The entries of `postgres_changes`: as sent, or made of the topic by the legacy rule (spec 5.1).
    fn subscriptions(payload: &JoinPayload<'_>, topic: &str) -> Vec<Box<str>> {
        if payload.has_config {
            payload
                .postgres_changes
                .iter()
                .map(|&entry| entry.into())
                .collect()
        } else {
            vec![phoenix::legacy_subscription(name_of(topic)).into()]
        }
    }
}
