//! What shards and control core say to each other about row changes (spec: postgres-changes 6, 7).
//!
//! ```text
//! shard                             control core
//!   Listen ─────────────────────────▶ checks the entries, puts the channel into classes
//!   ◀──────────────────── Listening   where it stands, and what its client reads
//!   ◀────────────────────── Changes   what a batch of the stream says to classes
//!   Unlisten ───────────────────────▶ takes it out
//! ```
//!
//! What always holds: the control core says where a channel stands before it sends anything there, and both come by the same queue;
//! names of classes and groups are never used twice, so a letter that comes late finds nobody.

use crate::auth::Claims;
use crate::error::ErrorCode;
use crate::tenant::TenantId;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A channel that has subscriptions to row changes, as its shard calls it. One that comes later has another generation.
#[derive(Copy, Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ListenerId {
    /// Its place on the shard.
    pub index: u32,
    /// Told apart from those that had the place before.
    pub generation: u32,
}

/// Subscriptions that ask for the same with the same role: whether a change is for them is decided once.
#[derive(Copy, Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClassId(pub u64);

/// Those of a class that have the same claims: row level security is asked once for them.
#[derive(Copy, Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GroupId(pub u64);

/// See [`Mail::Listen`](super::Mail::Listen). Sent again when the channel's token is replaced.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Whose database.
    pub tenant: TenantId,
    /// The channel.
    pub listener: ListenerId,
    /// The entries of its join, raw JSON as sent.
    pub entries: Arc<[Box<str>]>,
    /// For whom.
    pub claims: Arc<Claims>,
    /// The channel listens already: only its claims are others.
    pub is_refresh: bool,
}

/// See [`Mail::Listening`](super::Mail::Listening).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listening {
    /// The channel.
    pub listener: ListenerId,
    /// Where it stands from now on, in place of where it stood; none where that stays.
    pub seats: Option<Vec<Seat>>,
    /// What its client reads.
    pub news: Option<ListenerNews>,
    /// What the log hears of it on the channel's behalf.
    pub line: Option<(ErrorCode, Arc<str>)>,
}

/// Where an entry of a channel stands.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Seat {
    /// The place of the entry in the join.
    pub entry: u32,
    /// Its class.
    pub class: ClassId,
    /// Its group within the class.
    pub group: GroupId,
}

/// A `system` message of the extension `postgres_changes`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListenerNews {
    /// `ok` or `error`.
    pub is_ok: bool,
    /// Its text.
    pub message: Arc<str>,
}

/// Changes on their way: those for one channel in the order of their commits.
pub struct ChangeBatch {
    /// Whose changes: nobody else's listeners get any of them.
    pub tenant: TenantId,
    /// Neighbours that are for the same listeners.
    pub runs: Vec<Run>,
    /// The room that they take among what is under way: given back with the last holder of the batch. That takes a lock, and wakes an engine
    /// that waits for room, on the shard that happens to be the last: once per batch, and the only place where a shard does either.
    pub room: Option<Box<dyn Any + Send + Sync>>,
}

impl fmt::Debug for ChangeBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeBatch")
            .field("runs", &self.runs)
            .finish_non_exhaustive()
    }
}

/// Changes for the same listeners.
#[derive(Clone, Debug)]
pub struct Run {
    /// Whom they are for.
    pub audience: Vec<Listeners>,
    /// The changes.
    pub changes: Vec<RowChange>,
}

/// A class, or some of its groups.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listeners {
    /// The class.
    pub class: ClassId,
    /// Which groups of it; none for all.
    pub groups: Option<Arc<[GroupId]>>,
}

/// A change as clients read it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RowChange {
    /// `INSERT`, `UPDATE` or `DELETE`.
    pub event: &'static str,
    /// `data`, a JSON object.
    pub data: Box<str>,
}
