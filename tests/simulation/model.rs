//! What the protocol promises: clients as they see themselves, and what each of them may read.
//!
//! A client knows of each topic two things: what its channel will be when all that it has sent is handled (`sent`), and what it is by
//! what it has read (`read`). What it sends decides the first and notes what has to come back; what it reads must be in what was noted,
//! and decides the second. Messages and presences are numbered, so that each is known wherever it turns up.

use super::dice::Dice;
use super::world::{Client, World};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Tenants.
pub(crate) const TENANTS: usize = 2;

/// Topics of each tenant; the tenants use the same names.
pub(crate) const TOPICS: usize = 3;

/// A topic of a tenant.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(crate) struct Topic {
    pub(crate) tenant: usize,
    pub(crate) number: usize,
}

impl Topic {
    /// As clients write it.
    pub(crate) fn name(self) -> String {
        format!("realtime:topic{}", self.number)
    }
}

/// An actor by its number.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(crate) struct ActorId(pub(crate) usize);

/// A membership by its number.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(crate) struct MemberId(pub(crate) usize);

/// A client and what it knows.
pub(crate) struct Actor {
    pub(crate) client: Client,
    pub(crate) tenant: usize,
    pub(crate) channels: [Channel; TOPICS],
    /// What it waits to be answered, by ref.
    pub(crate) asked: BTreeMap<String, Asked>,
    pub(crate) last_ref: u64,
    /// Joins that will be refused and are not yet: each blocks the joins behind it for 5 s.
    pub(crate) refusals: usize,
    pub(crate) state: Life,
    /// Has read an ok reply to a join: it counts as a user until it ends.
    pub(crate) is_user: bool,
    pub(crate) received: BTreeSet<u64>,
}

/// Where a client is in its life.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) enum Life {
    /// Sends and reads.
    Alive,
    /// Has said that it goes, in a way that lets what it sent before be handled.
    Leaving,
    /// Is gone, and everything it sent was handled.
    Gone,
    /// Is gone, and some of what it sent may have been lost.
    Broken,
}

/// What a client knows of a topic.
#[derive(Copy, Clone, Default)]
pub(crate) struct Channel {
    pub(crate) sent: Option<MemberId>,
    pub(crate) read: Option<MemberId>,
    /// The very next thing on this topic is the `phx_close` of this membership.
    pub(crate) closing: Option<MemberId>,
}

/// One channel from its join to its end.
pub(crate) struct Membership {
    pub(crate) actor: ActorId,
    pub(crate) topic: Topic,
    pub(crate) join_ref: String,
    pub(crate) ack: bool,
    pub(crate) to_self: bool,
    /// Presence was asked for: there will be a state.
    pub(crate) presence: bool,
    pub(crate) key: String,
    /// What it tracks, when all that was sent is handled.
    pub(crate) tracked: Option<u64>,
    /// When the reply was read.
    pub(crate) open_since: Option<u64>,
    /// A broadcast that is no object was sent: the end is `phx_error`.
    pub(crate) is_to_crash: bool,
    /// Ids of the broadcasts in the order they came.
    pub(crate) received: Vec<u64>,
    /// Metas by key and `phx_ref`, since the state came.
    pub(crate) view: Option<BTreeMap<(String, String), Value>>,
}

/// What has to come back for a ref.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Heartbeat,
    /// An ok reply, and behind it the `phx_close` of what was there before.
    Join(MemberId, Option<MemberId>),
    /// An error reply, and behind it the same.
    RefusedJoin(Topic, Option<MemberId>),
    /// An ok reply with the channel's `join_ref`, and its `phx_close`.
    Leave(MemberId),
    /// An ok reply with the `join_ref` that was sent.
    LeaveOfNothing(Topic, String),
    /// An ok reply on a channel.
    Ok(MemberId),
    Unmatched(Topic),
}

impl Asked {
    pub(crate) fn is_join(&self) -> bool {
        matches!(self, Self::Join(..) | Self::RefusedJoin(..))
    }
}

/// How a broadcast is sent.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) enum Form {
    Text,
    UserJson,
    UserBinary,
    Opaque,
}

impl Form {
    /// Whether 1.0.0 can be told.
    pub(crate) fn is_for_v1(self) -> bool {
        matches!(self, Self::Text | Self::UserJson)
    }
}

/// A broadcast that was sent.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: Topic,
    pub(crate) form: Form,
    /// Nobody, when the control core sent it.
    pub(crate) by: Option<MemberId>,
    /// A join of its sender was not answered: the message may wait, and then go with the sender.
    pub(crate) may_wait: bool,
    pub(crate) at: u64,
}

/// Everything.
pub(crate) struct Model {
    pub(crate) world: World,
    pub(crate) dice: Dice,
    pub(crate) actors: Vec<Actor>,
    pub(crate) members: Vec<Membership>,
    /// By id.
    pub(crate) messages: Vec<Message>,
    /// Messages before this one were looked for already.
    pub(crate) checked: usize,
    pub(crate) tracks: u64,
    /// Tenants that were disconnected, now or later: the letters of the control core take their time, so nobody knows who was there.
    pub(crate) disconnected: [bool; TENANTS],
    /// Counts what happens, so that "before" has a meaning.
    pub(crate) now: u64,
}

impl Model {
    pub(crate) fn new(world: World, dice: Dice) -> Self {
        Self {
            world,
            dice,
            actors: Vec::new(),
            members: Vec::new(),
            messages: Vec::new(),
            checked: 0,
            tracks: 0,
            disconnected: [false; TENANTS],
            now: 0,
        }
    }

    pub(crate) fn actor_ids(&self) -> impl Iterator<Item = ActorId> + use<> {
        (0..self.actors.len()).map(ActorId)
    }

    pub(crate) fn actor(&mut self, id: ActorId) -> &mut Actor {
        &mut self.actors[id.0]
    }

    pub(crate) fn member(&mut self, id: MemberId) -> &mut Membership {
        &mut self.members[id.0]
    }

    pub(crate) fn channel(&mut self, id: ActorId, topic: Topic) -> &mut Channel {
        &mut self.actors[id.0].channels[topic.number]
    }

    /// Whether the message never reaches this member: it is the sender's own, or its serializer cannot say it.
    pub(crate) fn is_left_out(&self, message: &Message, member: &Membership) -> bool {
        let by = message.by.map(|by| &self.members[by.0]);
        let is_own = by.is_some_and(|by| by.actor == member.actor && !by.to_self);
        let vsn = self.world.vsn(self.actors[member.actor.0].client);
        is_own || (vsn == 1 && !message.form.is_for_v1())
    }
}
