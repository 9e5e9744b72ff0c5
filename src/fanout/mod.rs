//! Topic to sockets: encodes a message once and hands it to every member, here and on other shards.
//!
//! What comes in: members that join and leave, messages and presences of members, letters of other shards. What goes out: frames into
//! outboxes, letters to owners and member shards. A topic has one owner, the shard it hashes to; the owner puts its messages into one
//! order, encodes each once per serializer, and at the end of the turn seals what a topic got into one [`Batch`](crate::mail::Batch),
//! which goes to each member shard in one letter and to each member as one pointer.
//!
//! # Invariants
//!
//! - All members see the messages of a topic in the order that its owner gave them. (`members_on_all_shards_see_one_order`)
//! - A message is encoded once per serializer, however many members it has. (`a_message_is_encoded_once_per_serializer`)
//! - A member gets what was published after it joined and nothing from before. (`a_member_gets_nothing_from_before_its_join`)
//! - A topic without members and without an interested shard is forgotten. (`a_topic_without_members_is_forgotten`)
//! - No room here knows why a message is sent; quota and policy were asked in `channel`.

mod changes;
mod deliver;
mod held;
mod publish;
mod registry;

pub use changes::{Changes, Listener};
pub use registry::{Members, Reads, Topic};

use crate::connection::{ConnectionId, Io};
use crate::mail::{
    ChangeBatch, Encoded, Mail, Member, PresenceAction, PresenceState, Serializers, Subscribe,
    TopicHasher, TopicKey, TopicName, TopicRef,
};
use crate::phoenix::Vsn;
use crate::tenant::{Counter, TenantId, Usage};
use registry::Registry;
use shards::{Peer, ShardId};
use std::sync::Arc;
use uuid::Uuid;

/// The topics of one shard: those with members here, and those that it owns.
pub struct Fanout {
    shard: ShardId,
    shard_count: usize,
    hasher: TopicHasher,
    registry: Registry,
    /// Owned topics whose batch has grown in this turn.
    dirty: Vec<TopicRef>,
    /// Empty batches, for the next topics that something is published on.
    #[expect(
        clippy::vec_box,
        reason = "a box moves between here and its topic, without an allocation"
    )]
    spare_batches: Vec<Box<Encoded>>,
    /// What the deliveries of this turn ask of the rooms above.
    pub outcome: Outcome,
    /// Who listens to row changes.
    pub changes: Changes,
    queued_bytes_max: usize,
    phx_refs: u16,
    topics_owned: usize,
}

/// What deliveries found that is not for this room to decide.
#[derive(Default)]
pub struct Outcome {
    /// Readers whose queue has passed its bound: to be closed.
    pub slow: Vec<ConnectionId>,
    /// Members that got a message while their tenant's event limit was tripped: their channels are to be shut down (spec 9.3).
    pub tripped: Vec<(ConnectionId, TopicRef)>,
    /// Rate counters that came into being: the control core is to be told.
    pub started: Vec<(TenantId, Counter)>,
    /// Messages that could not be framed (a name over 255 bytes), to be logged.
    pub too_long: Vec<TenantId>,
    /// Presence states for members that have just joined.
    pub states: Vec<PresenceState>,
}

impl Outcome {
    /// Whether there is nothing to settle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slow.is_empty()
            && self.tripped.is_empty()
            && self.started.is_empty()
            && self.too_long.is_empty()
            && self.states.is_empty()
    }
}

/// A member that leaves.
#[derive(Copy, Clone, Debug)]
pub struct Leaver {
    /// The socket.
    pub id: ConnectionId,
    /// Its place among the members.
    pub member: u32,
    /// Whether it has a presence on the topic.
    pub is_tracked: bool,
    /// Whether the socket has ended, so that nothing can reach it any more.
    pub is_gone: bool,
}

/// Whether a member can be added at once.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Subscription {
    /// The topic's messages reach this shard.
    Active(TopicRef),
    /// The owner was asked; [`Fanout::on_subscribed`] names the sockets that wait for it.
    Awaited(TopicRef),
}

impl Fanout {
    /// An empty registry of this shard.
    #[must_use]
    pub fn new(
        shard: ShardId,
        shard_count: usize,
        hasher: TopicHasher,
        queued_bytes_max: usize,
    ) -> Self {
        Self {
            shard,
            shard_count,
            hasher,
            registry: Registry::default(),
            dirty: Vec::new(),
            spare_batches: Vec::new(),
            outcome: Outcome::default(),
            changes: Changes::default(),
            queued_bytes_max,
            phx_refs: 0,
            topics_owned: 0,
        }
    }

    /// Makes sure that a topic's messages arrive here, for a socket that is about to become a member of it.
    pub fn subscribe(
        &mut self,
        io: &mut Io<'_>,
        id: ConnectionId,
        name: TopicName<'_>,
        usage: &Arc<Usage>,
        vsn: Vsn,
    ) -> Subscription {
        let found = self.find(name.tenant, name.private, name.text);
        let topic = found.unwrap_or_else(|| {
            let key = Arc::new(TopicKey::new(&self.hasher, name));
            self.registry.insert(key, Arc::clone(usage))
        });
        let wanted = Serializers {
            v1: vsn == Vsn::V1,
            v2: vsn == Vsn::V2,
        };
        let entry = self
            .registry
            .get_mut(topic)
            .expect("it was found or inserted above");
        if entry.active.covers(wanted) {
            return Subscription::Active(topic);
        }
        let asked = entry.asked.union(wanted);
        let owner = entry.key.owner(self.shard_count);
        if owner == self.shard {
            entry.asked = asked;
            self.serve(io, topic, self.shard, topic, asked);
            return Subscription::Active(topic);
        }
        entry.waiting.push(id);
        if asked != entry.asked {
            entry.asked = asked;
            let usage = Arc::clone(usage);
            let subscribe = Subscribe {
                key: Arc::clone(&entry.key),
                topic,
                serializers: asked,
                usage,
            };
            io.mail(Peer::Shard(owner), Mail::Subscribe(Box::new(subscribe)));
        }
        Subscription::Awaited(topic)
    }

    /// A member shard wants the messages of a topic that this shard owns.
    pub fn on_subscribe(&mut self, io: &mut Io<'_>, from: ShardId, subscribe: &Subscribe) {
        let key = &subscribe.key;
        let found = self.registry.find(key.hash(), |other| {
            other.is(key.tenant(), key.is_private(), key.name())
        });
        let topic = found.unwrap_or_else(|| {
            self.registry
                .insert(Arc::clone(key), Arc::clone(&subscribe.usage))
        });
        self.serve(io, topic, from, subscribe.topic, subscribe.serializers);
        let subscribed = Mail::Subscribed {
            topic: subscribe.topic,
            owner: topic,
            serializers: subscribe.serializers,
        };
        io.mail(Peer::Shard(from), subscribed);
    }

    /// The owner's answer: returns the sockets whose joins waited for it. They hold the topic until all of them were added and
    /// [`Fanout::release`] was called.
    pub fn on_subscribed(
        &mut self,
        io: &mut Io<'_>,
        from: ShardId,
        topic: TopicRef,
        owner: TopicRef,
        serializers: Serializers,
    ) -> Vec<ConnectionId> {
        let Some(entry) = self.registry.get_mut(topic) else {
            // Whoever wanted to join left before the answer came.
            io.mail(
                Peer::Shard(from),
                Mail::Unsubscribe {
                    topic: owner,
                    theirs: topic,
                },
            );
            return Vec::new();
        };
        entry.owner = Some(owner);
        entry.active = serializers;
        if entry.active.covers(entry.asked) {
            entry.waiting.clone()
        } else {
            Vec::new()
        }
    }

    /// The sockets that [`Fanout::on_subscribed`] named are members now, or gone.
    pub fn release(&mut self, io: &mut Io<'_>, topic: TopicRef) {
        if let Some(entry) = self.registry.get_mut(topic) {
            entry.waiting = Vec::new();
            self.forget_if_unused(io, topic);
        }
    }

    /// A socket becomes a member of a topic that [`Fanout::subscribe`] said is active. Returns its place among the members.
    pub fn add_member(&mut self, topic: TopicRef, id: ConnectionId, vsn: Vsn, reads: Reads) -> u32 {
        let entry = self
            .registry
            .get_mut(topic)
            .expect("a topic that is waited for or has members is kept");
        // What was published before belongs to those who were members then.
        if let Some(owned) = entry.owned.as_mut()
            && owned.unsealed() > 0
        {
            let before = owned.unsealed();
            owned.arrivals.get_or_insert_default().add(id, before);
        }
        entry.members.add(id, vsn, reads)
    }

    /// What a member may read has changed; what was published before it gets by what it might read then.
    pub fn set_reads(&mut self, io: &mut Io<'_>, topic: TopicRef, member: u32, reads: Reads) {
        self.seal(io, topic);
        if let Some(entry) = self.registry.get_mut(topic) {
            entry.members.set_reads(member, reads);
        }
    }

    /// A member has read these messages by replay: live ones with the same ids are not for it.
    pub fn set_replayed(&mut self, topic: TopicRef, id: ConnectionId, ids: Box<[Uuid]>) {
        if let Some(entry) = self.registry.get_mut(topic) {
            entry.replayed.get_or_insert_default().insert(id, ids);
        }
    }

    /// Row changes reach those who listen to them on this shard.
    pub fn deliver_changes(&mut self, io: &mut Io<'_>, batch: &ChangeBatch) {
        let slow = self.changes.deliver(io, batch, self.queued_bytes_max);
        self.outcome.slow.extend(slow);
    }

    /// A member leaves; its presence, if it has one, leaves with it. Returns the socket that took its place in the list of members,
    /// to be told of its new place.
    pub fn remove_member(
        &mut self,
        io: &mut Io<'_>,
        topic: TopicRef,
        leaver: Leaver,
    ) -> Option<ConnectionId> {
        if !leaver.is_gone {
            // It is still there to read what was published before it left.
            self.hand_over(io, topic, leaver.member);
        }
        let member = self.member(leaver.id);
        let entry = self.registry.get_mut(topic)?;
        let owned = entry.owned.as_mut();
        if let Some(arrivals) = owned.and_then(|owned| owned.arrivals.as_mut()) {
            arrivals.remove(member);
        }
        let moved = entry.members.remove(leaver.member);
        if let Some(replayed) = &mut entry.replayed {
            replayed.remove(&leaver.id);
            if replayed.is_empty() {
                entry.replayed = None;
            }
        }
        if leaver.is_tracked {
            self.presence(io, topic, leaver.id, PresenceAction::Untrack);
        }
        self.forget_if_unused(io, topic);
        moved
    }

    /// A socket that waited for a topic is gone.
    pub fn stop_waiting(&mut self, io: &mut Io<'_>, topic: TopicRef, id: ConnectionId) {
        if let Some(entry) = self.registry.get_mut(topic) {
            entry.waiting.retain(|waiting| *waiting != id);
            self.forget_if_unused(io, topic);
        }
    }

    /// A member shard has no members of an owned topic any more.
    pub fn on_unsubscribe(
        &mut self,
        io: &mut Io<'_>,
        from: ShardId,
        topic: TopicRef,
        theirs: TopicRef,
    ) {
        self.seal(io, topic);
        if let Some(owned) = self
            .registry
            .get_mut(topic)
            .and_then(|entry| entry.owned.as_mut())
        {
            owned.remove_shard(from, theirs);
            self.forget_if_unused(io, topic);
        }
    }

    /// The topic of this name, as clients write it, if this shard knows it.
    #[must_use]
    pub fn find(&self, tenant: TenantId, private: bool, text: &str) -> Option<TopicRef> {
        let name = text.strip_prefix("realtime:")?;
        let hash = self.hasher.hash(tenant, private, name);
        self.registry
            .find(hash, |key| key.is(tenant, private, name))
    }

    /// The topic, while this shard has members of it or owns it.
    #[must_use]
    pub fn topic(&self, topic: TopicRef) -> Option<&Topic> {
        self.registry.get(topic)
    }

    /// A socket of this shard as a member, as the owners of topics call it.
    #[must_use]
    pub fn member(&self, id: ConnectionId) -> Member {
        Member {
            shard: self.shard,
            connection: id,
        }
    }

    /// Whether some topic's messages are not yet sealed.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Topics in the registry.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.registry.len()
    }

    /// Those of them that this shard owns.
    #[must_use]
    pub fn topics_owned(&self) -> usize {
        self.topics_owned
    }

    /// The owner's side of a subscription: from now on the shard gets the topic's messages in these serializers.
    fn serve(
        &mut self,
        io: &mut Io<'_>,
        topic: TopicRef,
        to: ShardId,
        their: TopicRef,
        serializers: Serializers,
    ) {
        self.seal(io, topic);
        let entry = self
            .registry
            .get_mut(topic)
            .expect("the caller has found it");
        self.topics_owned += usize::from(entry.owned.is_none());
        entry
            .owned
            .get_or_insert_default()
            .set_shard(to, their, serializers);
        if to == self.shard {
            entry.owner = Some(topic);
            entry.active = serializers;
        }
    }

    fn forget_if_unused(&mut self, io: &mut Io<'_>, topic: TopicRef) {
        let Some(entry) = self.registry.get_mut(topic) else {
            return;
        };
        if !entry.members.is_empty() || !entry.waiting.is_empty() || entry.holds.is_some() {
            return;
        }
        if entry.asked != Serializers::default() {
            let owner = entry.key.owner(self.shard_count);
            entry.asked = Serializers::default();
            entry.active = Serializers::default();
            match (owner == self.shard, entry.owner.take()) {
                (true, _) => {
                    if let Some(owned) = entry.owned.as_mut() {
                        owned.remove_shard(self.shard, topic);
                    }
                }
                (false, Some(theirs)) => {
                    io.mail(
                        Peer::Shard(owner),
                        Mail::Unsubscribe {
                            topic: theirs,
                            theirs: topic,
                        },
                    );
                }
                // Its answer is still under way; the letter that brings it finds the topic gone and says so.
                (false, None) => {}
            }
        }
        if entry.owned.as_ref().is_none_or(|owned| owned.is_unused()) {
            self.topics_owned -= usize::from(entry.owned.is_some());
            self.registry.remove(topic);
        }
    }
}
