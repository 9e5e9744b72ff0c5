//! A topic's batch to its members on this shard: hop 9 of the broadcast, one pointer per member.

use super::Fanout;
use super::registry::Here;
use crate::connection::{self, ConnectionId, Io, LocalBytes};
use crate::mail::{Audience, Batch, Entry, TopicRef};
use crate::phoenix::Vsn;
use crate::tenant::Counter;
use smallvec::SmallVec;
use uuid::Uuid;

/// Members that some message of a batch leaves out, on this shard.
type Excepted = SmallVec<[ConnectionId; 8]>;

impl Fanout {
    /// Queues a batch for every member on this shard.
    pub fn deliver(&mut self, io: &mut Io<'_>, topic: TopicRef, batch: &Batch) {
        let Some(entry) = self.registry.get(topic) else {
            return;
        };
        let mut excepted: Excepted = batch
            .entries
            .iter()
            .filter_map(|entry| entry.except)
            .filter(|member| member.shard == self.shard)
            .map(|member| member.connection)
            .collect();
        // Every member is looked for among them, and one who sends a thousand messages in a turn is one all the same.
        excepted.dedup();
        let of_presence = batch
            .entries
            .iter()
            .filter(|entry| entry.audience == Audience::Presence)
            .count() as u64;
        let of_broadcast = batch.entries.len() as u64 - of_presence;
        let tripped = of_broadcast > 0 && entry.usage.is_tripped(Counter::Events);
        let whole = [Vsn::V1, Vsn::V2]
            .map(|vsn| Some(batch.frames(vsn)).filter(|frames| !frames.is_empty()));
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
            let gets_all = has_read.is_empty()
                && (here.reads.broadcast || of_broadcast == 0)
                && (here.reads.presence || of_presence == 0)
                && !excepted.contains(&here.id);
            let (gets_events, fits) = if gets_all {
                presences += of_presence;
                let fits = whole[here.vsn as usize].as_ref().is_none_or(|frames| {
                    connection::queue(io, here.id, frames.clone(), self.queued_bytes_max)
                });
                (of_broadcast, fits)
            } else {
                let parts = Parts::of(batch, |entry| gets(here, entry, self.shard, has_read));
                presences += parts.presences;
                let fits = parts.queue(io, batch, here, self.queued_bytes_max);
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

/// Whether a member gets a message.
fn gets(here: &Here, entry: &Entry, shard: shards::ShardId, has_read: &[Uuid]) -> bool {
    let may_read = match entry.audience {
        Audience::Broadcast => here.reads.broadcast,
        Audience::Presence => here.reads.presence,
    };
    let is_excepted = entry
        .except
        .is_some_and(|except| except.connection == here.id && except.shard == shard);
    let is_known = entry.id.is_some_and(|id| has_read.contains(&id));
    may_read && !is_excepted && !is_known
}

/// The messages of a batch that one member gets, as runs of neighbours.
struct Parts {
    /// First and one past the last entry of each run.
    runs: SmallVec<[(usize, usize); 4]>,
    events: u64,
    presences: u64,
}

impl Parts {
    fn of(batch: &Batch, gets: impl Fn(&Entry) -> bool) -> Self {
        let mut parts = Self {
            runs: SmallVec::new(),
            events: 0,
            presences: 0,
        };
        for (n, entry) in batch
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| gets(entry))
        {
            match entry.audience {
                Audience::Broadcast => parts.events += 1,
                Audience::Presence => parts.presences += 1,
            }
            match parts.runs.last_mut() {
                Some((_, end)) if *end == n => *end = n + 1,
                _ => parts.runs.push((n, n + 1)),
            }
        }
        parts
    }

    fn queue(&self, io: &mut Io<'_>, batch: &Batch, here: &Here, queued_bytes_max: usize) -> bool {
        let end = |n: usize| {
            n.checked_sub(1)
                .map_or(0, |last| batch.entries[last].end(here.vsn))
        };
        self.runs
            .iter()
            .map(|&(first, last)| end(first)..end(last))
            .filter(|range| !range.is_empty())
            .all(|range| {
                connection::queue(
                    io,
                    here.id,
                    LocalBytes::slice(batch.frames(here.vsn), range),
                    queued_bytes_max,
                )
            })
    }
}
