//! Joins that read kept messages first: what their topic gets meanwhile waits for them (spec: websocket-protocol 6.5).
//!
//! What comes in: who reads, batches, who has read. What goes out: the messages that came after the moment for which the database
//! answered, or may have. What always holds: a message of the database that is committed while a member joins reaches it, by replay or
//! live, and not by both (`nothing_falls_between_replay_and_live_messages`). Deliberately absent: messages that the database does not
//! keep; who joins later gets no part of those.

use super::Fanout;
use super::registry::Topic;
use crate::connection::{self, ConnectionId, Io, LocalBytes};
use crate::limits;
use crate::mail::{Batch, TopicRef};
use crate::phoenix::Vsn;
use smallvec::SmallVec;
use std::collections::VecDeque;
use uuid::Uuid;

/// Those that read what was kept of a topic, and what it has got since the first of them began.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// Each with the number of the first message that it would miss.
    readers: SmallVec<[(ConnectionId, u64); 1]>,
    messages: VecDeque<Message>,
    /// The number of the oldest one in `messages`.
    oldest: u64,
    bytes: usize,
}

/// A message with its id, as one frame for each serializer; empty where nobody speaks that one.
#[derive(Debug)]
struct Message {
    id: Uuid,
    frames: [LocalBytes; 2],
}

impl Holds {
    fn next(&self) -> u64 {
        self.oldest + self.messages.len() as u64
    }

    fn place_of(&self, reader: ConnectionId) -> Option<usize> {
        self.readers.iter().position(|(id, _)| *id == reader)
    }

    fn keep(&mut self, batch: &Batch) {
        let mut begins = [0, 0];
        for entry in &batch.entries {
            let ends = [Vsn::V1, Vsn::V2].map(|vsn| entry.end(vsn));
            if let Some(id) = entry.id {
                let frames = [Vsn::V1, Vsn::V2].map(|vsn| {
                    let n = vsn as usize;
                    LocalBytes::slice(batch.frames(vsn), begins[n]..ends[n])
                });
                self.bytes += frames.iter().map(LocalBytes::len).sum::<usize>();
                self.messages.push_back(Message { id, frames });
            }
            begins = ends;
        }
        while self.bytes > limits::HELD_BYTES_MAX
            && let Some(oldest) = self.messages.pop_front()
        {
            self.bytes -= oldest.frames.iter().map(LocalBytes::len).sum::<usize>();
            self.oldest += 1;
        }
    }
}

impl Fanout {
    /// A socket that is about to become a member reads what was kept first. The topic, and what it gets from now on, is kept until
    /// [`Fanout::let_go`].
    pub fn hold(&mut self, topic: TopicRef, id: ConnectionId) {
        if let Some(entry) = self.registry.get_mut(topic) {
            let holds = entry.holds.get_or_insert_default();
            holds.readers.push((id, holds.next()));
        }
    }

    /// A socket that held a topic is a member of it now, or will not become one.
    pub fn let_go(&mut self, io: &mut Io<'_>, topic: TopicRef, id: ConnectionId) {
        let Some(entry) = self.registry.get_mut(topic) else {
            return;
        };
        if let Some(holds) = &mut entry.holds
            && let Some(place) = holds.place_of(id)
        {
            holds.readers.swap_remove(place);
            if holds.readers.is_empty() {
                entry.holds = None;
            }
        }
        self.forget_if_unused(io, topic);
    }

    /// Keeps what of a batch those may miss who read.
    pub(super) fn keep_for_readers(&mut self, topic: TopicRef, batch: &Batch) {
        if let Some(holds) = self
            .registry
            .get_mut(topic)
            .and_then(|entry| entry.holds.as_deref_mut())
        {
            holds.keep(batch);
        }
    }

    /// The database has answered a socket that is to become a member now. Returns whether all that the topic got meanwhile is still
    /// here.
    pub fn has_all_since(&mut self, io: &mut Io<'_>, topic: TopicRef, id: ConnectionId) -> bool {
        // What this turn has published belongs to it.
        self.seal(io, topic);
        let holds = self
            .registry
            .get(topic)
            .and_then(|entry| entry.holds.as_deref());
        holds.is_none_or(|holds| {
            holds
                .place_of(id)
                .is_none_or(|place| holds.readers[place].1 >= holds.oldest)
        })
    }

    /// Hands a new member what its topic got while it read; not what it has read.
    pub fn give_missed(&mut self, io: &mut Io<'_>, topic: TopicRef, member: u32) {
        let Some(entry) = self.registry.get(topic) else {
            return;
        };
        let Topic {
            members,
            holds: Some(holds),
            replayed,
            ..
        } = entry
        else {
            return;
        };
        let Some(here) = members.here.get(member as usize) else {
            return;
        };
        let Some(place) = holds.place_of(here.id).filter(|_| here.reads.broadcast) else {
            return;
        };
        let has_read = replayed
            .as_deref()
            .and_then(|replayed| replayed.get(&here.id));
        let has_read = has_read.map_or(&[][..], |ids| ids);
        let first = holds.readers[place].1.saturating_sub(holds.oldest);
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let (id, vsn, mut events) = (here.id, here.vsn as usize, 0);
        for message in holds.messages.iter().skip(first) {
            let frame = &message.frames[vsn];
            if frame.is_empty() || has_read.contains(&message.id) {
                continue;
            }
            events += 1;
            if !connection::queue(io, id, frame.clone(), self.queued_bytes_max) {
                self.outcome.slow.push(id);
                break;
            }
        }
        self.count(topic, events, 0);
    }
}
