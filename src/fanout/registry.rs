//! The topics that a shard knows, and the members of each.

use super::held::Holds;
use crate::connection::ConnectionId;
use crate::mail::{Encoded, Member, Serializers, TopicKey, TopicRef};
use crate::phoenix::Vsn;
use crate::presence::Roster;
use crate::tenant::Usage;
use hashbrown::HashTable;
use rustc_hash::FxHashMap;
use shards::ShardId;
use smallvec::SmallVec;
use std::sync::Arc;
use uuid::Uuid;

/// Topics by name and by reference.
#[derive(Default)]
pub(super) struct Registry {
    /// Indexes of `places`, by the hash of the key.
    by_hash: HashTable<u32>,
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Place {
    generation: u32,
    topic: Option<Box<Topic>>,
}

/// One topic on one shard.
pub struct Topic {
    /// Its name.
    pub key: Arc<TopicKey>,
    /// The counters of its tenant.
    pub usage: Arc<Usage>,
    /// The members on this shard.
    pub members: Members,
    /// What members have read by replay: a live message with one of these ids is not for them.
    pub(super) replayed: Option<Box<ReplayedIds>>,
    /// Sockets whose join waits for the owner's answer.
    pub waiting: Vec<ConnectionId>,
    /// Joins that wait for messages that were kept.
    pub(super) holds: Option<Box<Holds>>,
    /// The serializers that the owner was asked for.
    pub asked: Serializers,
    /// Those that it has confirmed.
    pub active: Serializers,
    /// The topic in its owner's registry, once the owner has answered.
    pub owner: Option<TopicRef>,
    /// What only the owner keeps.
    pub owned: Option<Box<Owned>>,
}

/// The ids that members have read by replay, by socket.
pub(super) type ReplayedIds = FxHashMap<ConnectionId, Box<[Uuid]>>;

/// What the owner of a topic keeps.
#[derive(Default)]
pub struct Owned {
    /// The shards that have members, this one included, and their own names for the topic.
    pub shards: SmallVec<[Served; 2]>,
    /// What any of them needs.
    pub wanted: Serializers,
    /// What was published and not yet sealed, in turns in which something was.
    pub batch: Option<Box<Encoded>>,
    /// Who is present; most topics have nobody.
    pub roster: Option<Box<Roster>>,
    /// Who came since the topic was sealed last, where that matters.
    pub arrivals: Option<Box<Arrivals>>,
}

/// Members that came or went while messages of their topic waited for the end of the turn. The messages stay in one batch for
/// everybody, so that a thousand joins of one turn cost one delivery: these members get a part of it.
#[derive(Default)]
pub struct Arrivals {
    /// Members on this shard, in no order.
    pub here: Vec<Arrival>,
    /// Members of any shard that want the presence state, and the `join_ref` of their channel, raw JSON.
    pub states: Vec<(Member, Box<[u8]>)>,
    /// Members of other shards that leave as soon as they have got what was published before.
    pub leaving: Vec<Member>,
}

/// A member on the owner's shard that has just come.
#[derive(Copy, Clone, Debug)]
pub struct Arrival {
    /// Its socket.
    pub id: ConnectionId,
    /// So many messages of the batch were published before it came.
    pub before: usize,
    /// Whether the presence state is still to come, and with it what the diffs of the batch say.
    pub awaits_state: bool,
}

impl Arrival {
    /// What is known of the same member besides.
    fn add(&mut self, other: Self) {
        self.before = self.before.max(other.before);
        self.awaits_state |= other.awaits_state;
    }
}

impl Arrivals {
    /// A member comes that gets nothing of the first messages of the batch, so many.
    pub fn add(&mut self, id: ConnectionId, before: usize) {
        self.here.push(Arrival {
            id,
            before,
            awaits_state: false,
        });
    }

    /// A member awaits the presence state. One that has come before all messages of the batch, in whatever turn, gets the others.
    pub fn await_state(&mut self, id: ConnectionId) {
        // Whoever asks came last, nearly always. What is written down twice is made one when it is used: looking for it here would
        // cost a thousand joins of one turn a million comparisons.
        match self.here.last_mut() {
            Some(last) if last.id == id => last.awaits_state = true,
            _ => self.here.push(Arrival {
                id,
                before: 0,
                awaits_state: true,
            }),
        }
    }

    /// Brings the members of this shard into the order of their ids, each once.
    pub fn sort(&mut self) -> &[Arrival] {
        self.here.sort_unstable_by_key(|arrival| arrival.id);
        self.here.dedup_by(|other, one| {
            let is_same = other.id == one.id;
            if is_same {
                one.add(*other);
            }
            is_same
        });
        &self.here
    }

    /// The arrival of one member, if it has one, while they are in no order.
    #[must_use]
    pub fn find(&self, id: ConnectionId) -> Option<Arrival> {
        let own = self.here.iter().filter(|arrival| arrival.id == id);
        own.copied().reduce(|mut one, other| {
            one.add(other);
            one
        })
    }

    /// What was published so far has been delivered. Says whether somebody waits for the presence state all the same.
    pub fn wait_for_state(&mut self) -> bool {
        self.here.retain_mut(|arrival| {
            arrival.before = 0;
            arrival.awaits_state
        });
        !self.states.is_empty()
    }

    /// The member has left.
    pub fn remove(&mut self, member: Member) {
        self.here.retain(|arrival| arrival.id != member.connection);
        self.states.retain(|(wishes, _)| *wishes != member);
    }
}

/// A member shard as the owner sees it.
#[derive(Copy, Clone)]
pub struct Served {
    /// The shard.
    pub shard: ShardId,
    /// Its name for the topic.
    pub topic: TopicRef,
    /// What its members speak.
    pub serializers: Serializers,
}

impl Owned {
    /// Messages that wait for the end of the turn.
    #[must_use]
    pub fn unsealed(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.entries().len())
    }

    /// The shard has members that speak these serializers.
    pub fn set_shard(&mut self, shard: ShardId, topic: TopicRef, serializers: Serializers) {
        self.shards.retain(|served| served.shard != shard);
        self.shards.push(Served {
            shard,
            topic,
            serializers,
        });
        self.sum_up();
    }

    /// The shard has no members any more, unless it has subscribed anew under another reference.
    pub fn remove_shard(&mut self, shard: ShardId, topic: TopicRef) {
        self.shards
            .retain(|served| served.shard != shard || served.topic != topic);
        self.sum_up();
    }

    /// Whether nobody is interested in the topic any more.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.shards.is_empty()
    }

    fn sum_up(&mut self) {
        self.wanted = self
            .shards
            .iter()
            .fold(Serializers::default(), |sum, served| {
                sum.union(served.serializers)
            });
    }
}

impl Registry {
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(&TopicKey) -> bool) -> Option<TopicRef> {
        let index = *self
            .by_hash
            .find(hash, |&index| self.key(index).is_some_and(&is_it))?;
        Some(TopicRef {
            index,
            generation: self.places[index as usize].generation,
        })
    }

    pub(super) fn insert(&mut self, key: Arc<TopicKey>, usage: Arc<Usage>) -> TopicRef {
        let hash = key.hash();
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1)
                .expect("there are fewer topics than sockets times channels")
        });
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        place.topic = Some(Box::new(Topic {
            key,
            usage,
            members: Members::default(),
            replayed: None,
            waiting: Vec::new(),
            holds: None,
            asked: Serializers::default(),
            active: Serializers::default(),
            owner: None,
            owned: None,
        }));
        let topic = TopicRef {
            index,
            generation: place.generation,
        };
        let places = &self.places;
        self.by_hash.insert_unique(hash, index, |&index| {
            places[index as usize]
                .topic
                .as_ref()
                .map_or(0, |topic| topic.key.hash())
        });
        topic
    }

    pub(super) fn get(&self, topic: TopicRef) -> Option<&Topic> {
        let place = self.places.get(topic.index as usize)?;
        if place.generation == topic.generation {
            place.topic.as_deref()
        } else {
            None
        }
    }

    pub(super) fn get_mut(&mut self, topic: TopicRef) -> Option<&mut Topic> {
        let place = self.places.get_mut(topic.index as usize)?;
        if place.generation == topic.generation {
            place.topic.as_deref_mut()
        } else {
            None
        }
    }

    pub(super) fn remove(&mut self, topic: TopicRef) {
        let Some(entry) = self.get(topic) else { return };
        let found = self
            .by_hash
            .find_entry(entry.key.hash(), |&index| index == topic.index);
        found.expect("every topic is found by its hash").remove();
        self.places[topic.index as usize].topic = None;
        self.free.push(topic.index);
    }

    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    fn key(&self, index: u32) -> Option<&TopicKey> {
        self.places[index as usize]
            .topic
            .as_ref()
            .map(|topic| &*topic.key)
    }
}

/// What a member may read. Members of public topics read everything.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Reads {
    /// Broadcasts.
    pub broadcast: bool,
    /// Presence diffs.
    pub presence: bool,
}

impl Reads {
    /// Everything.
    pub const ALL: Self = Self {
        broadcast: true,
        presence: true,
    };
}

/// A member of a topic on this shard: 12 bytes.
#[derive(Copy, Clone)]
pub(super) struct Here {
    pub(super) id: ConnectionId,
    pub(super) vsn: Vsn,
    pub(super) reads: Reads,
}

const _: () = assert!(size_of::<Here>() <= 12, "deliveries walk over these");

/// The members of a topic on this shard, in no order.
#[derive(Default)]
pub struct Members {
    pub(super) here: SmallVec<[Here; 2]>,
}

impl Members {
    pub(super) fn add(&mut self, id: ConnectionId, vsn: Vsn, reads: Reads) -> u32 {
        self.here.push(Here { id, vsn, reads });
        u32::try_from(self.here.len() - 1).expect("a shard has fewer sockets than 2^32")
    }

    /// Changes what the member at this place may read.
    pub(super) fn set_reads(&mut self, member: u32, reads: Reads) {
        if let Some(here) = self.here.get_mut(member as usize) {
            here.reads = reads;
        }
    }

    /// Removes the member at this place; the last one takes it.
    pub(super) fn remove(&mut self, member: u32) -> Option<ConnectionId> {
        self.here.swap_remove(member as usize);
        if self.here.spilled() && self.here.len() < self.here.capacity() / 4 {
            self.here.shrink_to_fit();
        }
        self.here.get(member as usize).map(|moved| moved.id)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.here.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.here.len()
    }
}
