//! The words that shards and the control core say to each other. Nothing else crosses from one thread to another.
//!
//! What comes in and goes out: [`Mail`], one cache line, moved through the mesh of the runtime. What always holds: mail from one
//! thread to another arrives in the order it was sent; a letter names topics and sockets by references with generations, so that one
//! that comes late finds nothing and is dropped. Deliberately absent: what a letter leads to. The rooms below know that.
//!
//! ```text
//! member shard                    owner shard                      member shards
//!   Subscribe ───────────────────▶ notes the shard
//!   ◀─────────────────── Subscribed
//!   Publish ─────────────────────▶ orders, encodes once
//!                                   seals a batch a turn ─ Deliver ──▶ topic to sockets
//!   Presence ────────────────────▶ state, diff as a publication
//!   Settle ──────────────────────▶ waits for the end of the turn
//!   ◀──────────────────── Settled
//!   Unsubscribe ─────────────────▶ forgets the shard
//! ```

mod changes;
mod content;
mod question;
mod topic;

pub use changes::{
    ChangeBatch, ClassId, GroupId, Listen, ListenerId, ListenerNews, Listeners, Listening,
    RowChange, Run, Seat,
};
#[cfg(test)]
pub(crate) use content::encodings;
pub use content::{Audience, Batch, Content, Encoded, Entry, Receivers};
pub use question::{
    Answer, Ask, AskError, Body, Checks, Context, Question, Replayed, Told, Verdict,
};
pub use topic::{TopicHasher, TopicKey, TopicName, TopicRef};

use crate::http::UpgradeRequest;
use crate::logging::Line;
use crate::tenant::{Counter, Tenant, TenantId, Usage};
use shards::{ConnectionId, ShardId, SharedBytes};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use uuid::Uuid;

/// One letter.
pub enum Mail {
    // -- member shard to owner --
    /// This shard has members of a topic that the addressee owns.
    Subscribe(Box<Subscribe>),
    /// The last member of the topic on this shard is gone.
    Unsubscribe {
        /// The owner's topic, from its [`Mail::Subscribed`].
        topic: TopicRef,
        /// The sender's topic. By now the sender may have subscribed anew, under another reference: that one stays.
        theirs: TopicRef,
    },
    /// A message for a topic that the addressee owns.
    Publish(Box<Publish>),
    /// A presence of a member changed, or a member wants to see all of them.
    Presence(Box<Presence>),
    /// A member is about to leave and wants to have read first what was published before: the answer is [`Mail::Settled`].
    Settle {
        /// The owner's topic.
        topic: TopicRef,
        /// The member's socket, on the sending shard.
        connection: ConnectionId,
    },

    // -- owner to member shard --
    /// From now on every message of the topic reaches this shard.
    Subscribed {
        /// The member shard's topic, from its [`Mail::Subscribe`].
        topic: TopicRef,
        /// The owner's topic, for [`Mail::Publish`] and the like.
        owner: TopicRef,
        /// The serializers that the owner encodes for this shard: the letter answers the subscription with the same value.
        serializers: Serializers,
    },
    /// What a topic's members get of one turn.
    Deliver {
        /// The member shard's topic.
        topic: TopicRef,
        /// The messages.
        batch: Arc<Batch>,
    },
    /// Everything that was published before a member's [`Mail::Settle`] has been sent to its shard.
    Settled(ConnectionId),
    /// Who is present on a topic, for one member that has just joined it.
    PresenceState(Box<PresenceState>),

    // -- control core to shards --
    /// A tenant is new or has changed.
    Tenant(Arc<Tenant>),
    /// A tenant is no more: its sockets are disconnected as by [`Mail::Disconnect`].
    TenantGone(TenantId),
    /// A question of this shard is answered.
    Answer(Box<Answer>),
    /// The state of a tenant's database has changed; while it is connected, public joins need not ask.
    Database {
        /// Whose database.
        tenant: TenantId,
        /// What it is like now.
        state: DatabaseState,
    },
    /// Where a channel stands that listens to row changes, and what its client reads.
    Listening(Box<Listening>),
    /// Row changes for those who listen.
    Changes(Arc<ChangeBatch>),
    /// Every socket of the tenant is told and closed with 1012 (spec: websocket-protocol 11).
    Disconnect(TenantId),
    /// The tenant that was sought for this socket is known by now, or there is none: the answer to [`Mail::Seek`].
    Sought(ConnectionId),
    /// Everything that the control core has said before has been taken note of: the answer is [`Mail::Marked`] with the same number.
    Mark(u32),
    /// A socket whose upgrade came over a connection that the control core served.
    Adopt(Box<Adopted>),
    /// The process is going to end: refuse joins, close the joined sockets with 1012 in batches.
    Drain,
    /// Leave the loop.
    Stop,

    // -- shards to control core --
    /// A connection that speaks plain HTTP.
    HandOver(Box<HandOver>),
    /// Something that only a tenant's database knows; the answer is [`Mail::Answer`].
    Ask(Box<Question>),
    /// A socket's host names a tenant that is not known here; the answer is [`Mail::Sought`], behind the tenant's [`Mail::Tenant`].
    Seek(Box<Seek>),
    /// A channel listens to row changes, or goes on listening with another token; the answers are [`Mail::Listening`].
    Listen(Box<Listen>),
    /// It does so no more.
    Unlisten {
        /// Whose channel.
        tenant: TenantId,
        /// The channel.
        listener: ListenerId,
    },
    /// The first use of a rate counter: tick it from now on.
    RateStarted {
        /// Whose counter.
        tenant: TenantId,
        /// Which one.
        counter: Counter,
    },
    /// A line for the log.
    Log(Box<Line>),
    /// The answer to [`Mail::Mark`].
    Marked(u32),
    /// This shard has no joined socket left to close; the answer to [`Mail::Drain`].
    Drained,
}

const _: () = assert!(size_of::<Mail>() <= 64, "one mail fills one cache line");

/// What the shards know of a tenant's database.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug)]
pub struct DatabaseState {
    /// There is a session, be it that its connections are being restored.
    pub is_connected: bool,
    /// Rows of `realtime.messages` are streamed.
    pub is_replicating: bool,
}

/// The serializers that a topic's members on one shard use.
#[derive(Copy, Clone, Default, Eq, PartialEq, Debug)]
pub struct Serializers {
    /// Some member speaks 1.0.0.
    pub v1: bool,
    /// Some member speaks 2.0.0.
    pub v2: bool,
}

impl Serializers {
    /// Whether everything in `other` is in `self`.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        (self.v1 || !other.v1) && (self.v2 || !other.v2)
    }

    /// What either of them holds.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            v1: self.v1 || other.v1,
            v2: self.v2 || other.v2,
        }
    }
}

/// See [`Mail::Subscribe`]. Sent again when the shard's members come to use another serializer.
pub struct Subscribe {
    /// The topic.
    pub key: Arc<TopicKey>,
    /// The sender's topic, to be named in [`Mail::Subscribed`] and [`Mail::Deliver`].
    pub topic: TopicRef,
    /// The serializers of all members on the sending shard.
    pub serializers: Serializers,
    /// The tenant's counters: the owner may not have heard of the tenant yet.
    pub usage: Arc<Usage>,
}

/// A socket on some shard: what a topic's owner knows of a member.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct Member {
    /// The shard of the socket.
    pub shard: ShardId,
    /// The socket.
    pub connection: ConnectionId,
}

/// Which topic a letter is about.
pub enum To {
    /// The owner's topic, known from [`Mail::Subscribed`].
    Topic(TopicRef),
    /// A topic that the sender is not subscribed to. Without members anywhere the letter leads to nothing.
    Key(Arc<TopicKey>),
}

/// See [`Mail::Publish`].
pub struct Publish {
    /// The topic.
    pub to: To,
    /// The message.
    pub content: Content<'static>,
    /// The member that does not get it.
    pub except: Option<Member>,
    /// Who may get it.
    pub audience: Audience,
    /// The id of the row that it comes from: members that have read it by replay do not get it again (spec: websocket-protocol 6.4).
    pub id: Option<Uuid>,
}

/// See [`Mail::Presence`].
pub struct Presence {
    /// The owner's topic.
    pub topic: TopicRef,
    /// Whose presence.
    pub member: Member,
    /// What happened.
    pub action: PresenceAction,
}

/// What a member's presence does.
pub enum PresenceAction {
    /// It is present under this key with this meta, a JSON object; a presence of before is replaced.
    Track {
        /// The presence key.
        key: Box<str>,
        /// The track payload as sent, a JSON object.
        meta: Box<str>,
    },
    /// It is present no more, or its channel is gone.
    Untrack,
    /// It has just joined and wants the whole state.
    State {
        /// Comes back in the answer: by then the socket may have joined the topic again.
        join_ref: Box<[u8]>,
    },
}

/// See [`Mail::PresenceState`].
pub struct PresenceState {
    /// The member shard's topic.
    pub topic: TopicRef,
    /// The socket that asked.
    pub connection: ConnectionId,
    /// The `join_ref` of the channel that asked, raw JSON.
    pub join_ref: Box<[u8]>,
    /// The payload of `presence_state`, a JSON object: one text for all who asked in a turn.
    pub state: SharedBytes,
}

/// See [`Mail::HandOver`].
pub struct HandOver {
    /// The connection, an ordinary descriptor, non-blocking or not as the kernel left it.
    pub socket: OwnedFd,
    /// What was read from it so far.
    pub bytes: Vec<u8>,
}

/// See [`Mail::Seek`].
#[derive(Debug)]
pub struct Seek {
    /// The name of the tenant.
    pub external_id: String,
    /// The socket that wants to upgrade.
    pub connection: ConnectionId,
}

/// See [`Mail::Adopt`]. The 101 answer is already written.
pub struct Adopted {
    /// The connection.
    pub socket: OwnedFd,
    /// What the client sent behind its upgrade.
    pub bytes: Vec<u8>,
    /// What the upgrade asked for. All checks have passed.
    pub request: UpgradeRequest,
    /// Whose socket it is.
    pub tenant: TenantId,
}

/// A member for tests of rooms that do not know the runtime: equal numbers, equal members.
#[cfg(test)]
pub(crate) fn test_member(n: u32) -> Member {
    Member {
        shard: ShardId(0),
        connection: ConnectionId::new(n, 1),
    }
}
