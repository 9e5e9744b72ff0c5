//! A message to its topic's owner, where it gets its place in the order and its encodings.

use super::Fanout;
use super::registry::Arrivals;
use crate::connection::{ConnectionId, Io};
use crate::limits;
use crate::mail::{
    Audience, Batch, Content, Mail, Member, Presence, PresenceAction, PresenceState, Publish,
    Receivers, To, TopicRef,
};
use crate::metrics::Relayed;
use crate::phoenix;
use crate::presence::PhxRef;
use shards::{Peer, ShardId, SharedBytes};
use std::borrow::Cow;
use std::sync::Arc;

impl Fanout {
    /// A member publishes a message on its topic. `except` is the member that does not get it.
    pub fn publish(
        &mut self,
        io: &mut Io<'_>,
        topic: TopicRef,
        content: Content<'_>,
        audience: Audience,
        except: Option<Member>,
    ) {
        let Some(entry) = self.registry.get(topic) else {
            return;
        };
        let owner = entry.key.owner(self.shard_count);
        if owner == self.shard {
            let to = Receivers {
                except,
                ..Receivers::all(audience)
            };
            self.order(io, topic, &content, to);
        } else if let Some(theirs) = entry.owner {
            let publish = Publish {
                to: To::Topic(theirs),
                content: content.into_owned(),
                except,
                audience,
                id: None,
            };
            io.mail(Peer::Shard(owner), Mail::Publish(Box::new(publish)));
        }
    }

    /// A message from another shard, or from the control core, for a topic that this shard owns.
    pub fn on_publish(&mut self, io: &mut Io<'_>, publish: &Publish) {
        let topic = match &publish.to {
            To::Topic(topic) => Some(*topic),
            To::Key(key) => self.registry.find(key.hash(), |other| {
                other.is(key.tenant(), key.is_private(), key.name())
            }),
        };
        if let Some(topic) = topic {
            let to = Receivers {
                audience: publish.audience,
                except: publish.except,
                id: publish.id,
            };
            self.order(io, topic, &publish.content, to);
        }
    }

    /// A member's presence changes.
    pub fn presence(
        &mut self,
        io: &mut Io<'_>,
        topic: TopicRef,
        id: ConnectionId,
        action: PresenceAction,
    ) {
        let Some(entry) = self.registry.get(topic) else {
            return;
        };
        let owner = entry.key.owner(self.shard_count);
        let Some(theirs) = entry.owner else { return };
        let presence = Presence {
            topic: theirs,
            member: self.member(id),
            action,
        };
        if owner == self.shard {
            self.on_presence(io, presence);
        } else {
            io.mail(Peer::Shard(owner), Mail::Presence(Box::new(presence)));
        }
    }

    /// A member that has just joined wants the state: it comes at the end of the owner's turn, once for all who asked in it, as an
    /// [`Outcome`](super::Outcome) or by letter.
    pub fn presence_state(
        &mut self,
        io: &mut Io<'_>,
        topic: TopicRef,
        id: ConnectionId,
        join_ref: Box<[u8]>,
    ) {
        self.presence(io, topic, id, PresenceAction::State { join_ref });
    }

    /// A member is about to leave. Says whether the owner, another shard, has been asked to send first what was published before;
    /// its answer is [`Mail::Settled`]. Where this shard owns the topic, [`Fanout::remove_member`] does the same at once.
    #[must_use]
    pub fn settle(&self, io: &mut Io<'_>, topic: TopicRef, id: ConnectionId) -> bool {
        let Some(entry) = self.registry.get(topic) else {
            return false;
        };
        let owner = entry.key.owner(self.shard_count);
        match entry.owner {
            Some(topic) if owner != self.shard => {
                let connection = id;
                io.mail(Peer::Shard(owner), Mail::Settle { topic, connection });
                true
            }
            _ => false,
        }
    }

    /// A member on another shard is about to leave a topic that this shard owns. What waits for the end of the turn goes out first.
    pub fn on_settle(
        &mut self,
        io: &mut Io<'_>,
        from: ShardId,
        topic: TopicRef,
        connection: ConnectionId,
    ) {
        let owned = self.registry.get_mut(topic);
        match owned.and_then(|entry| entry.owned.as_mut()) {
            Some(owned) if owned.unsealed() > 0 => {
                let member = Member {
                    shard: from,
                    connection,
                };
                owned.arrivals.get_or_insert_default().leaving.push(member);
            }
            _ => io.mail(Peer::Shard(from), Mail::Settled(connection)),
        }
    }

    /// A presence for a topic that this shard owns.
    pub fn on_presence(&mut self, io: &mut Io<'_>, presence: Presence) {
        let Presence {
            topic,
            member,
            action,
        } = presence;
        self.phx_refs = self.phx_refs.wrapping_add(1);
        let phx_ref = PhxRef::new(
            io.unix_ms() * 1_000_000 + io.now().0 % 1_000_000,
            self.shard.0,
            self.phx_refs,
        );
        let Some(owned) = self
            .registry
            .get_mut(topic)
            .and_then(|entry| entry.owned.as_mut())
        else {
            return;
        };
        let diff = match action {
            PresenceAction::Track { key, meta } => Some(
                owned
                    .roster
                    .get_or_insert_default()
                    .track(member, &key, &meta, phx_ref),
            ),
            PresenceAction::Untrack => {
                let roster = owned.roster.as_mut();
                let diff = roster.and_then(|roster| roster.untrack(member));
                if owned
                    .roster
                    .as_ref()
                    .is_some_and(|roster| roster.members() == 0)
                {
                    owned.roster = None;
                }
                diff
            }
            PresenceAction::State { join_ref } => {
                let arrivals = owned.arrivals.get_or_insert_default();
                if member.shard == self.shard {
                    arrivals.await_state(member.connection);
                }
                arrivals.states.push((member, join_ref));
                self.dirty.push(topic);
                None
            }
        };
        if let Some(diff) = diff {
            if let Some(entry) = self.registry.get(topic) {
                let (thread, bytes) = (usize::from(self.shard.0), phoenix::json_term_size(&diff));
                entry.usage.count_payload(thread, Relayed::Presence, bytes);
            }
            let content = Content::Json {
                event: "presence_diff",
                payload: Cow::Owned(diff),
            };
            self.order(io, topic, &content, Receivers::all(Audience::Presence));
        }
    }

    /// Gives a message its place in the order of a topic that this shard owns.
    fn order(&mut self, io: &mut Io<'_>, topic: TopicRef, content: &Content<'_>, to: Receivers) {
        let Some(entry) = self.registry.get_mut(topic) else {
            return;
        };
        let Some(owned) = entry
            .owned
            .as_mut()
            .filter(|owned| !owned.shards.is_empty())
        else {
            return;
        };
        let spare = &mut self.spare_batches;
        let batch = owned
            .batch
            .get_or_insert_with(|| spare.pop().unwrap_or_default());
        let was_empty = batch.is_empty();
        if batch.push(&entry.key, content, owned.wanted, to).is_err() {
            self.outcome.too_long.push(entry.key.tenant());
            if was_empty && let Some(unused) = owned.batch.take() {
                spare.push(unused);
            }
            return;
        }
        let bytes = batch.bytes();
        if was_empty {
            self.dirty.push(topic);
        }
        if bytes > limits::BATCH_BYTES_MAX {
            self.seal(io, topic);
        }
    }

    /// Ends the turn: every topic that got messages goes out.
    pub fn flush(&mut self, io: &mut Io<'_>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for topic in dirty.drain(..) {
            self.seal(io, topic);
            self.state(io, topic);
        }
        // Deliveries publish nothing, so nothing became dirty meanwhile; the allocation is kept.
        debug_assert!(self.dirty.is_empty(), "a delivery does not publish");
        self.dirty = dirty;
    }

    /// Sends what a topic got since it was sealed last to its member shards, and lets go who waited for that. Presence states wait for
    /// the end of the turn ([`Fanout::flush`]): no diff may overtake them.
    pub(super) fn seal(&mut self, io: &mut Io<'_>, topic: TopicRef) {
        let Some(owned) = self
            .registry
            .get_mut(topic)
            .and_then(|entry| entry.owned.as_mut())
        else {
            return;
        };
        let Some(mut growing) = owned.batch.take() else {
            return;
        };
        let mut arrivals = owned.arrivals.take();
        let batch = Arc::new(growing.seal());
        if self.spare_batches.len() < limits::SPARE_BATCHES_MAX {
            self.spare_batches.push(growing);
        }
        self.send_out(io, topic, &batch, arrivals.as_deref_mut());
        let Some(mut arrivals) = arrivals else {
            return;
        };
        for member in std::mem::take(&mut arrivals.leaving) {
            io.mail(Peer::Shard(member.shard), Mail::Settled(member.connection));
        }
        if arrivals.wait_for_state() {
            let entry = self.registry.get_mut(topic);
            if let Some(owned) = entry.and_then(|entry| entry.owned.as_mut()) {
                owned.arrivals = Some(arrivals);
            }
        }
    }

    /// A letter to every member shard, and this shard's own members.
    fn send_out(
        &mut self,
        io: &mut Io<'_>,
        topic: TopicRef,
        batch: &Arc<Batch>,
        arrivals: Option<&mut Arrivals>,
    ) {
        let entry = self.registry.get(topic);
        let owned = entry.and_then(|entry| entry.owned.as_ref());
        let Some(owned) = owned.filter(|_| !batch.entries.is_empty()) else {
            return;
        };
        let mut here = None;
        for served in &owned.shards {
            if served.shard == self.shard {
                here = Some(served.topic);
            } else {
                let letter = Mail::Deliver {
                    topic: served.topic,
                    batch: Arc::clone(batch),
                };
                io.mail(Peer::Shard(served.shard), letter);
            }
        }
        if let Some(topic) = here {
            let arrivals = arrivals.map_or(&[][..], |arrivals| arrivals.sort());
            self.deliver_to(io, topic, batch, arrivals);
        }
    }

    /// Every diff of before is on its way: members that have come in this turn get the presence state.
    fn state(&mut self, io: &mut Io<'_>, topic: TopicRef) {
        let entry = self.registry.get_mut(topic);
        let Some(owned) = entry.and_then(|entry| entry.owned.as_mut()) else {
            return;
        };
        let Some(arrivals) = owned.arrivals.take() else {
            return;
        };
        if arrivals.states.is_empty() {
            return;
        }
        let roster = owned.roster.as_ref();
        let state = roster.map_or_else(|| String::from("{}"), |roster| roster.state());
        let state = SharedBytes::from(state.into_bytes());
        for (member, join_ref) in arrivals.states {
            let mut shards = owned.shards.iter();
            let Some(served) = shards.find(|served| served.shard == member.shard) else {
                continue;
            };
            let state = PresenceState {
                topic: served.topic,
                connection: member.connection,
                join_ref,
                state: state.clone(),
            };
            if member.shard == self.shard {
                self.outcome.states.push(state);
            } else {
                let letter = Mail::PresenceState(Box::new(state));
                io.mail(Peer::Shard(member.shard), letter);
            }
        }
    }
}
