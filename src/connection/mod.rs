//! One socket: its decoder, its outbox, and what it has joined.
//!
//! What comes in: bytes of the runtime. What goes out: whole messages for `channel`, and frames into the outbox. What always holds:
//! the state of an idle joined socket is small ([`Socket`] and one [`Channel`] inline), and what few sockets need is boxed on first use.
//! Deliberately absent: what messages mean.

mod inbound;
mod open_sockets;
mod outbox;
mod tokens;

pub use inbound::{
    Address, Asked, Inbound, Joining, PendingJoin, PendingLeave, Purpose, QuestionRef, Stage,
    Waiting, WaitingMessage, WaitingRefusal,
};
pub use open_sockets::OpenSockets;
pub use outbox::{close, close_answered, close_frame, close_slow, queue, queue_bytes};
pub use shards::{Close, ConnectionId, LocalBytes, SharedBytes, Tick};
pub use tokens::{Token, Tokens};

use crate::http::LogLevel;
use crate::limits;
use crate::mail::{ListenerId, Mail, TopicRef, Verdict};
use crate::phoenix::Vsn;
use crate::tenant::TenantId;
use crate::websocket::Decoder;
use smallvec::SmallVec;
use std::rc::Rc;
use std::sync::Arc;

/// The runtime, as the rooms of the data plane see it.
pub type Io<'a> = shards::Io<'a, Mail>;

/// The control core's address.
pub const CONTROL: shards::Peer = shards::Peer::Control;

/// All open sockets of a shard.
pub type Sockets = shards::Table<Socket>;

/// A socket after its upgrade.
#[derive(Debug)]
pub struct Socket {
    /// Bytes to messages.
    pub decoder: Decoder,
    /// The token of the upgrade; channels without one of their own use it.
    pub token: Rc<Token>,
    /// What it has joined.
    pub channels: SmallVec<[Channel; 1]>,
    /// The join, leave or question that is not over yet, and what waits behind it.
    pub waiting: Option<Box<Waiting>>,
    /// The `x-*` headers of the upgrade, for policies; most sockets have none.
    pub headers: Option<Arc<[(String, String)]>>,
    /// Whose socket it is.
    pub tenant: TenantId,
    /// The last second of unix time in which the client sent something.
    pub last_seen: u32,
    /// Its serializer.
    pub vsn: Vsn,
    /// Which log lines it causes.
    pub log_level: LogLevel,
    /// Whether it counts as a connected user of its tenant: from its first join to its end (spec 9.3).
    pub is_user: bool,
    /// Whether it ever tried to join: the reaper looks at those alone (spec 9.1).
    pub has_tried_to_join: bool,
}

/// One topic that a socket has joined.
#[derive(Debug)]
pub struct Channel {
    /// The topic, in this shard's registry.
    pub topic: TopicRef,
    /// The place among the topic's members on this shard.
    pub member: u32,
    /// What is asked for.
    pub flags: Flags,
    /// What policies allow on a private topic; public topics have none.
    pub verdict: Verdict,
    /// The raw JSON of the `join_ref` that replies carry.
    pub join_ref: RawJson,
    /// The channel's own token, or the socket's.
    pub token: Rc<Token>,
    /// What few channels need.
    pub extra: Option<Box<Extra>>,
}

/// A short JSON text, inline up to 16 bytes.
pub type RawJson = SmallVec<[u8; 16]>;

/// Yes and no about a channel.
#[derive(Copy, Clone, Default, Debug)]
pub struct Flags {
    /// `broadcast.ack`.
    pub ack: bool,
    /// `broadcast.self`.
    pub to_self: bool,
    /// The join had no `join_ref`: replies carry its `ref` instead, `phx_close` carries null (spec 3.2).
    pub join_ref_missing: bool,
    /// Presence is on: asked for, or the tenant's setting, or a track came.
    pub presence: bool,
}

/// See [`Channel::extra`].
#[derive(Debug, Default)]
pub struct Extra {
    /// The presence key, once known.
    pub presence_key: Option<Box<str>>,
    /// The payload that is tracked now.
    pub tracked: Option<Box<str>>,
    /// When the window of presence calls began.
    pub presence_window: Tick,
    /// Presence calls in that window.
    pub presence_calls: u32,
    /// When the replication stream has to be up that this channel waits for (spec 5.6).
    pub replication_deadline: Option<Tick>,
    /// The entries of `postgres_changes`, as sent.
    pub subscriptions: Arc<[Box<str>]>,
    /// The client's ids of them, until the channel listens: then its listener has them.
    pub subscription_ids: Box<[u32]>,
    /// The only one of them is the topic itself: the join had no `config` (spec: postgres-changes 2.2).
    pub is_topic_subscription: bool,
    /// The channel as one that listens to row changes.
    pub listener: Option<ListenerId>,
    /// What waits for the first word on the subscriptions, and until when.
    pub behind_news: Option<(Follows, Tick)>,
}

/// What a channel gets behind the reply to its join and the first word on its subscriptions (spec 5.4).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Follows {
    /// Word of the replication stream was asked for.
    pub replication: bool,
    /// The presence state.
    pub state: bool,
}

impl Socket {
    /// The channel on this topic of the shard's registry.
    pub fn channel(&mut self, topic: TopicRef) -> Option<&mut Channel> {
        self.channels
            .iter_mut()
            .find(|channel| channel.topic == topic)
    }
}

impl Channel {
    /// The `join_ref` of replies and pushes, raw JSON.
    #[must_use]
    pub fn join_ref(&self) -> &str {
        std::str::from_utf8(&self.join_ref).unwrap_or("null")
    }

    /// The `join_ref` and `ref` of `phx_close` and `phx_error`, raw JSON.
    #[must_use]
    pub fn close_ref(&self) -> &str {
        if self.flags.join_ref_missing {
            "null"
        } else {
            self.join_ref()
        }
    }

    /// The boxed part, made on first use.
    pub fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

/// The second of unix time in which this turn began.
#[must_use]
pub fn unix_second(io: &Io<'_>) -> u32 {
    u32::try_from(io.unix_ms() / 1000).unwrap_or(u32::MAX)
}

/// Whether so many letters wait for the control core already that nobody should be made to wait for it: then less is said to it. What
/// is not said for that has an answer of its own where it would have been said.
#[must_use]
pub fn is_control_busy(io: &Io<'_>) -> bool {
    io.waiting_for_control() >= limits::CONTROL_LETTERS_WAITING_MAX
}

const _: () = assert!(
    size_of::<Channel>() <= 64,
    "a channel is held once per member"
);
const _: () = assert!(
    size_of::<Socket>() <= 128,
    "a socket is held once per connection"
);
