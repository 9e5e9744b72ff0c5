//! Questions to a tenant's database, and what becomes of a channel when the answer comes (spec: authorization-rls 5).
//!
//! What always holds: while an answer is awaited, what its channel was sent waits in its order; a verdict that cannot be had is a no.
//! A socket has at most one open question of its join and one of its channels.

use super::Channels;
use super::join::Refusal;
use super::replay::Replay;
use crate::auth::{RoleError, TokenError};
use crate::connection::{
    self, Asked, Channel, ConnectionId, Io, Joining, PendingJoin, Purpose, QuestionRef, Stage,
    Token, WaitingMessage,
};
use crate::error::{ErrorCode, text};
use crate::fanout::Reads;
use crate::limits;
use crate::mail::{
    Answer, Ask, AskError, Checks, Context, DatabaseState, Mail, Question, Told, Verdict,
};
use crate::tenant::TenantId;
use std::sync::Arc;

impl Channels {
    /// What is known of a tenant's database.
    pub(super) fn database(&self, tenant: TenantId) -> DatabaseState {
        self.databases.get(&tenant).copied().unwrap_or_default()
    }

    /// The state of a tenant's database has changed.
    pub fn on_database(&mut self, io: &mut Io<'_>, tenant: TenantId, state: DatabaseState) {
        if self.tenants.get(tenant).is_none() {
            return self.forget_database(tenant);
        }
        let before = self.databases.insert(tenant, state);
        let was_replicating = before.is_some_and(|before| before.is_replicating);
        if state.is_replicating && !was_replicating {
            self.on_replicating(io, tenant);
        }
    }

    /// There is no such tenant any more.
    pub fn forget_database(&mut self, tenant: TenantId) {
        self.databases.remove(&tenant);
    }

    /// Asks what this join needs to know, or goes on with it.
    pub(super) fn ask_for_join(&mut self, io: &mut Io<'_>, id: ConnectionId, join: PendingJoin) {
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        let tenant = socket.tenant;
        let has_database = self
            .tenants
            .get(tenant)
            .is_some_and(|tenant| tenant.has_database);
        let ask = if join.private {
            Ask::Policies {
                context: self.context(id, &join.address.topic, &join.token),
                checks: Checks {
                    broadcast_read: true,
                    presence_read: join.flags.presence,
                    writes: false,
                },
            }
        } else if has_database && !self.database(tenant).is_connected {
            Ask::Connect
        } else {
            return self.on_join_told(io, id, join, Ok(Told::Connected));
        };
        let question = self.ask(io, id, tenant, ask);
        self.set_joining(id, Stage::Asking(question), join);
    }

    pub(super) fn set_joining(&mut self, id: ConnectionId, stage: Stage, join: PendingJoin) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.waiting.get_or_insert_default().joining = Some(Joining { stage, join });
        }
    }

    /// Asks what may be written on a channel, for the first message that needs to know. It is handled when the answer is there.
    pub(super) fn ask_for_write(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
        checks: Checks,
        message: WaitingMessage,
    ) {
        self.ask_about(io, id, place, checks, Purpose::Write(message));
    }

    /// Asks what a channel with a new token may read.
    pub(super) fn ask_for_refresh(&mut self, io: &mut Io<'_>, id: ConnectionId, place: usize) {
        let channel = self.channel_at(id, place);
        // Also what a track has asked since the join: none of it was said of the new token.
        let presence_read = channel.is_some_and(|channel| {
            channel.flags.presence || channel.verdict.presence_read.is_some()
        });
        let checks = Checks {
            broadcast_read: true,
            presence_read,
            writes: false,
        };
        self.ask_about(io, id, place, checks, Purpose::Refresh);
    }

    /// Whether a question about a channel is open: a second one has to wait for it.
    pub(super) fn is_asking(&self, id: ConnectionId) -> bool {
        self.sockets
            .get(id)
            .and_then(|socket| socket.waiting.as_ref())
            .is_some_and(|waiting| waiting.asked.is_some())
    }

    fn ask_about(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
        checks: Checks,
        purpose: Purpose,
    ) {
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        let Some(channel) = socket.channels.get(place) else {
            return;
        };
        let Some(entry) = self.fanout.topic(channel.topic) else {
            return;
        };
        let (topic, tenant, text) = (channel.topic, socket.tenant, Box::from(entry.key.text()));
        let token = std::rc::Rc::clone(&channel.token);
        let context = self.context(id, &text, &token);
        let question = self.ask(io, id, tenant, Ask::Policies { context, checks });
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.waiting.get_or_insert_default().asked = Some(Box::new(Asked {
                question,
                topic,
                text,
                purpose,
            }));
        }
    }

    fn context(&self, id: ConnectionId, text: &str, token: &Token) -> Context {
        let headers = self
            .sockets
            .get(id)
            .and_then(|socket| socket.headers.clone())
            .unwrap_or_else(|| Arc::clone(&self.no_headers));
        Context {
            topic: name_of(text).into(),
            claims: Arc::clone(&token.claims),
            headers,
        }
    }

    pub(super) fn ask(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        tenant: TenantId,
        ask: Ask,
    ) -> QuestionRef {
        self.questions = self.questions.wrapping_add(1);
        let number = self.questions;
        let now = connection::unix_second(io);
        if connection::is_control_busy(io) {
            // It is not asked, and the next visit answers that it cannot be reached.
            io.visit_at(id, now);
            return QuestionRef { number, due: now };
        }
        let due = now.saturating_add(limits::QUESTION_TIMEOUT_SECONDS);
        let question = Question {
            tenant,
            connection: id,
            number,
            ask,
        };
        io.mail(connection::CONTROL, Mail::Ask(Box::new(question)));
        io.visit_at(id, due);
        QuestionRef { number, due }
    }

    /// The control core has answered a question of this shard. A socket that has given up on it is gone or has asked anew.
    pub fn on_answer(&mut self, io: &mut Io<'_>, answer: Answer) {
        let Answer {
            connection: id,
            number,
            outcome,
        } = answer;
        let Some(waiting) = self
            .sockets
            .get_mut(id)
            .and_then(|socket| socket.waiting.as_mut())
        else {
            return;
        };
        let is_it = |question: QuestionRef| question.number == number;
        if waiting
            .asked
            .as_ref()
            .is_some_and(|asked| is_it(asked.question))
        {
            let asked = waiting.asked.take().expect("it was there a line above");
            self.on_channel_told(io, id, *asked, outcome);
        } else if let Some(joining) = waiting
            .joining
            .take_if(|joining| joining.stage.question().is_some_and(is_it))
        {
            match joining.stage {
                Stage::Replaying(topic, _) => {
                    self.on_replay_told(io, id, topic, joining.join, outcome);
                }
                Stage::Asking(_) | Stage::Subscribing(_) => {
                    self.on_join_told(io, id, joining.join, outcome);
                }
            }
        }
        self.resume(io, id);
    }

    /// Questions that were not answered in time are answered here.
    pub(super) fn give_up_questions(&mut self, io: &mut Io<'_>, id: ConnectionId, now: u32) {
        while let Some(number) = self
            .sockets
            .get(id)
            .and_then(|socket| socket.waiting.as_ref()?.first_question())
            .filter(|question| question.due <= now)
            .map(|question| question.number)
        {
            let answer = Answer {
                connection: id,
                number,
                outcome: Err(AskError::Unreachable),
            };
            self.on_answer(io, answer);
        }
    }

    /// The database was asked for a join, or did not have to be (spec: websocket-protocol 5.3, checks 8 to 10).
    fn on_join_told(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        mut join: PendingJoin,
        outcome: Result<Told, AskError>,
    ) {
        let admitted = match outcome {
            Ok(Told::Verdict(verdict)) if join.private => {
                join.verdict = verdict;
                check_reads(&join)
            }
            Ok(Told::Connected) if !join.private => check_public_replay(&join),
            // An answer to something that was not asked is no yes.
            Ok(_) => Err(Refusal::of_ask(&AskError::Unreachable, &join.address.topic)),
            Err(error) => Err(Refusal::of_ask(&error, &join.address.topic)),
        };
        match admitted {
            Ok(()) => self.subscribe(io, id, join),
            Err(refusal) => self.refuse_pending(io, id, join, refusal),
        }
    }

    fn on_channel_told(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        asked: Asked,
        outcome: Result<Told, AskError>,
    ) {
        let place = self.place_of(id, asked.topic);
        let verdict = match outcome {
            Ok(Told::Verdict(verdict)) => Ok(verdict),
            Ok(_) => Err(AskError::Unreachable),
            Err(error) => Err(error),
        };
        match asked.purpose {
            Purpose::Refresh => {
                if let Some(place) = place {
                    self.on_refreshed(io, id, place, verdict);
                }
            }
            Purpose::Write(message) => match verdict {
                Ok(verdict) => {
                    if let Some(place) = place {
                        self.add_verdict(io, id, place, verdict);
                    }
                    self.on_waiting_message(io, id, &message);
                }
                Err(error) => self.fail_write(io, id, place, &message, &error),
            },
        }
    }

    /// More is known of what a channel may do.
    fn add_verdict(&mut self, io: &mut Io<'_>, id: ConnectionId, place: usize, more: Verdict) {
        let Some(channel) = self
            .sockets
            .get_mut(id)
            .and_then(|socket| socket.channels.get_mut(place))
        else {
            return;
        };
        let verdict = &mut channel.verdict;
        *verdict = Verdict {
            broadcast_read: more.broadcast_read.or(verdict.broadcast_read),
            presence_read: more.presence_read.or(verdict.presence_read),
            broadcast_write: more.broadcast_write.or(verdict.broadcast_write),
            presence_write: more.presence_write.or(verdict.presence_write),
        };
        let (topic, member, reads) = (channel.topic, channel.member, reads(channel.verdict));
        self.fanout.set_reads(io, topic, member, reads);
    }

    /// Whether a channel with a new token may stay (spec: websocket-protocol 5.10).
    fn on_refreshed(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: usize,
        outcome: Result<Verdict, AskError>,
    ) {
        let Some(channel) = self.channel_at(id, place) else {
            return;
        };
        let name = self
            .fanout
            .topic(channel.topic)
            .map_or_else(String::new, |entry| entry.key.name().to_owned());
        let before = channel.verdict;
        let lost = match outcome {
            Ok(now) => {
                let has_lost = |before: Option<bool>, now: Option<bool>| {
                    before == Some(true) && now == Some(false)
                };
                if !may_read(now) {
                    Some(denied(&name))
                } else if has_lost(before.broadcast_read, now.broadcast_read)
                    || has_lost(before.presence_read, now.presence_read)
                {
                    Some(format!(
                        "You no longer have permission to read from this Channel topic: {name}"
                    ))
                } else {
                    self.add_verdict(io, id, place, now);
                    None
                }
            }
            Err(error) => {
                let refusal = Refusal::of_ask(&error, &name);
                self.report(io, id, refusal.code, &refusal.log);
                Some(shutdown_text(&error, &name))
            }
        };
        if let Some(text) = lost {
            self.shut_down(io, id, place, &text);
        }
    }

    /// What a message is told whose permission could not be had: a broadcast nothing, a track an error (spec: websocket-protocol 6.2,
    /// 8.1).
    fn fail_write(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        place: Option<usize>,
        message: &WaitingMessage,
        error: &AskError,
    ) {
        let Some(vsn) = super::vsn_of(&self.sockets, id) else {
            return;
        };
        let Ok(message) = super::Frame::of(message).decode(vsn) else {
            return;
        };
        if message.event.text.as_deref() == Some("presence") {
            self.report(io, id, ErrorCode::UnableToHandlePresence, atom(error));
            if let Some(place) = place {
                self.reply(io, id, place, &message, "error", "{}");
            }
        } else {
            self.report(io, id, ErrorCode::UnableToHandleBroadcast, atom(error));
        }
    }
}

/// What a verdict lets a member of a private topic read.
pub(super) fn reads(verdict: Verdict) -> Reads {
    Reads {
        broadcast: verdict.broadcast_read == Some(true),
        presence: verdict.presence_read == Some(true),
    }
}

/// Whether anything may be read at all: without, there is no channel.
fn may_read(verdict: Verdict) -> bool {
    let Reads {
        broadcast,
        presence,
    } = reads(verdict);
    broadcast || presence
}

/// The topic without `realtime:`.
pub(super) fn name_of(text: &str) -> &str {
    text.strip_prefix("realtime:").unwrap_or(text)
}

/// Whether a token's role can be taken on in a database (spec: README, security).
pub(super) fn check_role(token: &Token, topic: &str) -> Result<(), Refusal> {
    match token.claims.database_role() {
        Ok(_) => Ok(()),
        Err(RoleError::Missing) => Err(TokenError::MissingClaims.into()),
        Err(RoleError::None) => Err(Refusal::new(
            ErrorCode::Unauthorized,
            &denied(name_of(topic)),
        )),
    }
}

fn check_reads(join: &PendingJoin) -> Result<(), Refusal> {
    let unauthorized = || {
        let text = denied(name_of(&join.address.topic));
        Err(Refusal::new(ErrorCode::Unauthorized, &text))
    };
    if !may_read(join.verdict) {
        return unauthorized();
    }
    match Replay::parse(join.replay.as_deref())? {
        Some(_) if join.verdict.broadcast_read != Some(true) => unauthorized(),
        _ => Ok(()),
    }
}

fn check_public_replay(join: &PendingJoin) -> Result<(), Refusal> {
    if join.replay.is_some() {
        let code = ErrorCode::UnableToReplayMessages;
        return Err(Refusal::new(code, text::REPLAY_NOT_ALLOWED));
    }
    Ok(())
}

fn denied(name: &str) -> String {
    format!("You do not have permissions to read from this Channel topic: {name}")
}

impl Refusal {
    /// What a join reads of a database that did not answer (spec: websocket-protocol 5.5, tenant-database 2.1).
    pub(super) fn of_ask(error: &AskError, topic: &str) -> Self {
        match error {
            AskError::Unreachable => Self::of(ErrorCode::UnableToConnectToProject),
            AskError::LackOfConnections => Self::of(ErrorCode::DatabaseLackOfConnections),
            AskError::Suspended => Self::of(ErrorCode::RealtimeDisabledForTenant),
            AskError::MissingPartition => Self::of(ErrorCode::MissingPartition),
            AskError::TooManyAttempts => Self::new(
                ErrorCode::DatabaseConnectionRateLimitReached,
                text::TOO_MANY_DATABASE_CONNECTIONS,
            ),
            AskError::Initializing => {
                Self::new(ErrorCode::InitializingProjectConnection, text::CONNECTING)
            }
            AskError::PoolExhausted => {
                Self::new(ErrorCode::IncreaseConnectionPool, text::INCREASE_POOL)
            }
            AskError::Canceled(text) => Self::new(ErrorCode::QueryCanceled, text),
            AskError::Policy(text) => Self {
                code: ErrorCode::RlsPolicyError,
                log: text.clone(),
                ..Self::new(ErrorCode::Unauthorized, &denied(name_of(topic)))
            },
            AskError::Other(text) => Self {
                reason: text::UNABLE_TO_CONNECT.to_owned(),
                log: text.clone(),
                ..Self::new(ErrorCode::UnableToSetPolicies, text::UNABLE_TO_CONNECT)
            },
        }
    }
}

/// The message of a channel that is shut down because its new token could not be checked (spec: websocket-protocol 5.8).
fn shutdown_text(error: &AskError, name: &str) -> String {
    match error {
        AskError::Policy(_) => denied(name),
        AskError::Canceled(_) => "Query was cancelled, please try again".to_owned(),
        AskError::MissingPartition => ErrorCode::MissingPartition
            .text()
            .unwrap_or(text::UNABLE_TO_CONNECT)
            .to_owned(),
        AskError::Unreachable | AskError::Other(_) => text::UNABLE_TO_CONNECT.to_owned(),
        AskError::LackOfConnections
        | AskError::TooManyAttempts
        | AskError::Suspended
        | AskError::Initializing
        | AskError::PoolExhausted => atom(error).to_owned(),
    }
}

/// The error as the original's log names it.
fn atom(error: &AskError) -> &str {
    match error {
        AskError::Unreachable => ":tenant_database_unavailable",
        AskError::LackOfConnections => ":tenant_db_too_many_connections",
        AskError::TooManyAttempts => ":connect_rate_limit_reached",
        AskError::Suspended => ":tenant_suspended",
        AskError::Initializing => ":initializing",
        AskError::MissingPartition => ":missing_partition",
        AskError::PoolExhausted => ":increase_connection_pool",
        AskError::Policy(text) | AskError::Canceled(text) | AskError::Other(text) => text,
    }
}

/// Whether a channel is on a private topic.
pub(super) fn is_private(fanout: &crate::fanout::Fanout, channel: &Channel) -> bool {
    fanout
        .topic(channel.topic)
        .is_some_and(|entry| entry.key.is_private())
}
