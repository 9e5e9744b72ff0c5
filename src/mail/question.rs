//! What a shard asks of a tenant's database, and what it is told: [`Question`] and [`Answer`].
//!
//! What always holds: every question is answered once, also when the database cannot be asked; a verdict that cannot be had is an
//! [`AskError`], never a yes. The shard keeps a deadline of its own beside.

use crate::auth::Claims;
use crate::tenant::TenantId;
use shards::ConnectionId;
use std::sync::Arc;

/// See [`Mail::Ask`](super::Mail::Ask).
#[derive(Clone, Debug)]
pub struct Question {
    /// Whose database.
    pub tenant: TenantId,
    /// The socket that waits, on the sending shard.
    pub connection: ConnectionId,
    /// Comes back in the answer: the socket may have given up on this question and asked another.
    pub number: u32,
    /// What is asked.
    pub ask: Ask,
}

/// What can be asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Whether the database can be reached. It is connected to if it is not yet.
    Connect,
    /// What the policies on `realtime.messages` allow (spec: authorization-rls 2, 3).
    Policies {
        /// Who wants to know about which topic.
        context: Context,
        /// What is to be checked.
        checks: Checks,
    },
    /// The messages that were kept of a private topic (spec: broadcast-from-database 6).
    Replay {
        /// The topic without `realtime:`.
        topic: Arc<str>,
        /// In milliseconds since 1970.
        since_ms: i64,
        /// How many at most; already within its bounds.
        limit: u32,
    },
}

/// For whom policies are evaluated. Two equal contexts get one verdict.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Context {
    /// The topic without `realtime:`.
    pub topic: Arc<str>,
    /// The claims of the token, with the role to be taken on.
    pub claims: Arc<Claims>,
    /// The headers that policies see in `request.headers`.
    pub headers: Arc<[(String, String)]>,
}

/// Which policies are to be evaluated.
#[derive(Copy, Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Checks {
    /// Whether broadcasts may be read.
    pub broadcast_read: bool,
    /// Whether presence may be read.
    pub presence_read: bool,
    /// Whether broadcasts and presence may be written: always both in one go.
    pub writes: bool,
}

impl Checks {
    /// What may be written, alone.
    pub const WRITES: Self = Self {
        broadcast_read: false,
        presence_read: false,
        writes: true,
    };
}

/// What policies said. Nothing where it was not asked.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Broadcasts may be read.
    pub broadcast_read: Option<bool>,
    /// Presence may be read.
    pub presence_read: Option<bool>,
    /// Broadcasts may be written.
    pub broadcast_write: Option<bool>,
    /// Presence may be written.
    pub presence_write: Option<bool>,
}

/// A message of the past.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Replayed {
    /// The id of its row.
    pub id: uuid::Uuid,
    /// The user's event.
    pub event: String,
    /// What was sent.
    pub body: Body,
}

/// The payload of a row of `realtime.messages`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Body {
    /// JSON as PostgreSQL prints it.
    Json(String),
    /// Any bytes.
    Binary(Vec<u8>),
}

/// See [`Mail::Answer`](super::Mail::Answer).
#[derive(Clone, Debug)]
pub struct Answer {
    /// The socket that asked.
    pub connection: ConnectionId,
    /// The number of its question.
    pub number: u32,
    /// What there is to say.
    pub outcome: Result<Told, AskError>,
}

/// What a question leads to, each beside its [`Ask`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Told {
    /// The database is connected.
    Connected,
    /// The policies were evaluated.
    Verdict(Verdict),
    /// The messages, oldest first.
    Replayed(Vec<Replayed>),
}

/// Why there is no answer. What a client reads of each: spec, websocket-protocol 5.5 and 5.8.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AskError {
    /// The database cannot be reached.
    Unreachable,
    /// It has too few connections left.
    LackOfConnections,
    /// Connecting failed so often that it is not tried for now.
    TooManyAttempts,
    /// The tenant is suspended: nothing is connected for it.
    Suspended,
    /// The connection is being made and takes longer than anybody waits.
    Initializing,
    /// The role is none that may be taken on, or a policy raised: what the database said, for the log.
    Policy(String),
    /// The statement took too long, or somebody cancelled it: what the database said.
    Canceled(String),
    /// `realtime.messages` has no partition for today.
    MissingPartition,
    /// No connection of the pool got free in time.
    PoolExhausted,
    /// Anything else: what happened, for the log.
    Other(String),
}
