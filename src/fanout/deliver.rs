//! A topic's batch to its members on this shard: hop 9 of the broadcast, one pointer per member.

use super::Fanout;
use super::registry::{Arrival, Here};
use crate::connection::{self, ConnectionId, Io, LocalBytes};
use crate::limits;
use crate::mail::{Audience, Batch, Entry, TopicRef};
use crate::phoenix::Vsn;
use crate::tenant::Counter;
use shards::ShardId;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;
use uuid::Uuid;

/// Members that some message of a batch leaves out, on this shard.
type Excepted = SmallVec<[ConnectionId; 8]>;

impl Fanout {
    /// Queues a batch for every member on this shard.
    pub fn deliver(&mut self, io: &mut Io<'_>, topic: TopicRef, batch: &Arc<Batch>) {
        self.deliver_to(io, topic, batch, &[]);
    }

    /// The same on the owner's shard, where members may have come after some of the messages: they are in the order of their ids.
    pub(super) fn deliver_to(
        &mut self,
        io: &mut Io<'_>,
        topic: TopicRef,
        batch: &Arc<Batch>,
        arrivals: &[Arrival],
    ) {
        let Some(entry) = self.registry.get_mut(topic) else {
            return;
        };
        if let Some(holds) = &mut entry.holds {
            holds.keep(batch);
        }
        let excepted = excepted(batch, self.shard);
        let of_presence = batch
            .entries
            .iter()
            .filter(|entry| entry.audience == Audience::Presence)
            .count() as u64;
        let of_broadcast = batch.entries.len() as u64 - of_presence;
        let tripped = of_broadcast > 0 && entry.usage.is_tripped(Counter::Events);
        // Of several messages the first ends the channel: the others find none (spec 5.8).
        let ends_after_one = tripped && batch.entries.len() > 1;
        let whole = [Vsn::V1, Vsn::V2].map(|vsn| batch.frames(vsn));
        let whole = whole.map(|frames| frames.map(|frames| LocalBytes::from(frames.clone())));
        let (mut events, mut presences) = (0, 0);

        // Ids matter to members that have replayed; nearly always there are none of either.
        let replayed = entry
            .replayed
            .as_deref()
            .filter(|_| batch.entries.iter().any(|entry| entry.id.is_some()));

        for here in &entry.members.here {
            let has_read: &[Uuid] = replayed
                .and_then(|replayed| replayed.get(&here.id))
                .map_or(&[], |ids| ids);
            let arrival = arrival_of(arrivals, here.id);
            let gets_all = !ends_after_one
                && has_read.is_empty()
                && arrival.is_none()
                && (here.reads.broadcast || of_broadcast == 0)
                && (here.reads.presence || of_presence == 0)
                && !is_among(&excepted, here.id);
            let (gets_events, fits) = if gets_all {
                presences += of_presence;
                let fits = whole[here.vsn as usize].as_ref().is_none_or(|frames| {
                    connection::queue(io, here.id, frames.clone(), self.queued_bytes_max)
                });
                (of_broadcast, fits)
            } else {
                let reader = Reader {
                    here,
                    shard: self.shard,
                    has_read,
                    arrival,
                };
                let (parts, fits) = reader.take(io, batch, ends_after_one, self.queued_bytes_max);
                presences += parts.presences;
                (parts.events, fits)
            };
            events += gets_events;
            if !fits {
                self.outcome.slow.push(here.id);
            }
            if tripped && gets_events > 0 {
                self.outcome.tripped.push((here.id, topic));
            }
        }
        self.count(topic, events, presences);
    }

    /// A member of a topic that this shard owns is about to leave, and can still read: it gets what was published while it was there.
    /// The others get that with the rest of the turn's, or a thousand that leave in one turn would cost a thousand deliveries.
    pub(super) fn hand_over(&mut self, io: &mut Io<'_>, topic: TopicRef, member: u32) {
        let Some(entry) = self.registry.get(topic) else {
            return;
        };
        let Some((here, owned)) = entry
            .members
            .here
            .get(member as usize)
            .zip(entry.owned.as_deref())
        else {
            return;
        };
        let Some(batch) = owned.batch.as_deref() else {
            return;
        };
        let arrivals = owned.arrivals.as_deref();
        let arrival = arrivals.and_then(|arrivals| arrivals.find(here.id));
        let replayed = entry.replayed.as_deref();
        let reader = Reader {
            here,
            shard: self.shard,
            has_read: replayed
                .and_then(|replayed| replayed.get(&here.id))
                .map_or(&[], |ids| ids),
            arrival: arrival.as_ref(),
        };
        let parts = Parts::of(batch.entries(), &reader, false);
        let ranges = || parts.ranges(batch.entries(), here.vsn);
        if ranges().map(|range| range.len()).sum::<usize>() > limits::SHARED_PAYLOAD_BYTES_MIN {
            // So much is better shared with everybody at once.
            return self.seal(io, topic);
        }
        let frames = batch.frames(here.vsn);
        let mut out = Vec::new();
        for range in ranges() {
            out.extend_from_slice(&frames[range]);
        }
        let (id, events, presences) = (here.id, parts.events, parts.presences);
        if !connection::queue_bytes(io, id, out, self.queued_bytes_max) {
            self.outcome.slow.push(id);
        }
        self.count(topic, events, presences);
    }

    /// Counts what members of this shard have got.
    pub(super) fn count(&mut self, topic: TopicRef, events: u64, presences: u64) {
        let Some(entry) = self.registry.get(topic) else {
            return;
        };
        for (counter, n) in [
            (Counter::Events, events),
            (Counter::PresenceEvents, presences),
        ] {
            if n > 0 && entry.usage.count(usize::from(self.shard.0), counter, n) {
                self.outcome.started.push((entry.key.tenant(), counter));
            }
        }
    }
}

/// Members of this shard that some message leaves out, each once, in the order of ids: every member is looked for among them.
fn excepted(batch: &Batch, shard: ShardId) -> Excepted {
    let mut excepted: Excepted = batch
        .entries
        .iter()
        .filter_map(|entry| entry.except)
        .filter(|member| member.shard == shard)
        .map(|member| member.connection)
        .collect();
    excepted.sort_unstable();
    excepted.dedup();
    excepted
}

/// Whether a member is in a list that is in order. Short ones, which is nearly all, are faster gone through.
fn is_among(list: &[ConnectionId], id: ConnectionId) -> bool {
    if list.len() <= 8 {
        list.contains(&id)
    } else {
        list.binary_search(&id).is_ok()
    }
}

fn arrival_of(arrivals: &[Arrival], id: ConnectionId) -> Option<&Arrival> {
    let place = arrivals.binary_search_by_key(&id, |arrival| arrival.id);
    place.ok().map(|place| &arrivals[place])
}

/// A member, and what decides which messages of a batch it gets.
pub(super) struct Reader<'a> {
    pub(super) here: &'a Here,
    pub(super) shard: ShardId,
    /// What it has read by replay.
    pub(super) has_read: &'a [Uuid],
    pub(super) arrival: Option<&'a Arrival>,
}

impl Reader<'_> {
    /// Queues for the member what it gets of a batch, and says whether there was room.
    pub(super) fn take(
        &self,
        io: &mut Io<'_>,
        batch: &Batch,
        ends_after_one: bool,
        queued_bytes_max: usize,
    ) -> (Parts, bool) {
        let Here { id, vsn, .. } = *self.here;
        let parts = Parts::of(&batch.entries, self, ends_after_one);
        let frames = batch.frames(vsn);
        let fits = parts.ranges(&batch.entries, vsn).all(|range| {
            frames.is_none_or(|frames| {
                let part = LocalBytes::slice(frames, range);
                connection::queue(io, id, part, queued_bytes_max)
            })
        });
        (parts, fits)
    }

    /// Whether it gets a message, the `n`th of the batch.
    fn gets(&self, n: usize, entry: &Entry) -> bool {
        let may_read = match entry.audience {
            Audience::Broadcast => self.here.reads.broadcast,
            Audience::Presence => {
                self.here.reads.presence && !self.arrival.is_some_and(|it| it.awaits_state)
            }
        };
        let was_there = self.arrival.is_none_or(|arrival| n >= arrival.before);
        let is_excepted = entry
            .except
            .is_some_and(|except| except.connection == self.here.id && except.shard == self.shard);
        let is_known = entry.id.is_some_and(|id| self.has_read.contains(&id));
        may_read && was_there && !is_excepted && !is_known
    }
}

/// The messages of a batch that one member gets, as runs of neighbours.
pub(super) struct Parts {
    /// First and one past the last entry of each run.
    runs: SmallVec<[(usize, usize); 4]>,
    pub(super) events: u64,
    presences: u64,
}

impl Parts {
    /// With `ends_after_one`, up to the first broadcast.
    fn of(entries: &[Entry], reader: &Reader<'_>, ends_after_one: bool) -> Self {
        let mut parts = Self {
            runs: SmallVec::new(),
            events: 0,
            presences: 0,
        };
        for (n, entry) in entries.iter().enumerate() {
            if !reader.gets(n, entry) {
                continue;
            }
            match entry.audience {
                Audience::Broadcast => parts.events += 1,
                Audience::Presence => parts.presences += 1,
            }
            match parts.runs.last_mut() {
                Some((_, end)) if *end == n => *end = n + 1,
                _ => parts.runs.push((n, n + 1)),
            }
            if ends_after_one && parts.events > 0 {
                break;
            }
        }
        parts
    }

    /// Where their frames are among all frames of the serializer.
    fn ranges(&self, entries: &[Entry], vsn: Vsn) -> impl Iterator<Item = Range<usize>> {
        let end = move |n: usize| n.checked_sub(1).map_or(0, |last| entries[last].end(vsn));
        self.runs
            .iter()
            .map(move |&(first, last)| end(first)..end(last))
            .filter(|range| !range.is_empty())
    }
}
