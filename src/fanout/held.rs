//! What is published while a join waits for messages that were kept: it is handed over behind them, so nothing is missed between the
//! two (`what_is_published_while_kept_messages_are_awaited_is_not_missed`).

use super::Fanout;
use super::deliver::Reader;
use super::registry::Arrival;
use crate::connection::{ConnectionId, Io};
use crate::limits;
use crate::mail::{Batch, TopicRef};
use std::sync::Arc;
use uuid::Uuid;

/// The joins that hold a topic.
#[derive(Default)]
pub(super) struct Holds(Vec<Held>);

/// One of them.
struct Held {
    id: ConnectionId,
    batches: Vec<Arc<Batch>>,
    bytes: usize,
}

impl Holds {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps a batch for all of them. Those who have too much already get none of it.
    pub(super) fn keep(&mut self, batch: &Arc<Batch>) {
        let bytes = batch.bytes();
        for held in &mut self.0 {
            held.bytes += bytes;
            if held.bytes > limits::HELD_BYTES_MAX {
                held.batches = Vec::new();
            } else {
                held.batches.push(Arc::clone(batch));
            }
        }
    }
}

impl Fanout {
    /// A socket that is about to become a member waits for more than the topic, which is kept until [`Fanout::let_go`], and with it what
    /// is published on it.
    pub fn hold(&mut self, io: &mut Io<'_>, topic: TopicRef, id: ConnectionId) {
        // What was published before belongs to those who were members then.
        self.seal(io, topic);
        if let Some(entry) = self.registry.get_mut(topic) {
            let held = Held {
                id,
                batches: Vec::new(),
                bytes: 0,
            };
            entry.holds.get_or_insert_default().0.push(held);
        }
    }

    /// A socket that holds a topic becomes a member of it now: what was published since. None when that was too much to be kept.
    pub fn take_held(
        &mut self,
        io: &mut Io<'_>,
        topic: TopicRef,
        id: ConnectionId,
    ) -> Option<Vec<Arc<Batch>>> {
        self.seal(io, topic);
        let holds = self.registry.get_mut(topic)?.holds.as_mut()?;
        let held = holds.0.iter_mut().find(|held| held.id == id)?;
        (held.bytes <= limits::HELD_BYTES_MAX).then(|| std::mem::take(&mut held.batches))
    }

    /// A socket that held a topic is a member of it now, or will not become one.
    pub fn let_go(&mut self, io: &mut Io<'_>, topic: TopicRef, id: ConnectionId) {
        if let Some(entry) = self.registry.get_mut(topic) {
            if let Some(holds) = &mut entry.holds {
                holds.0.retain(|held| held.id != id);
            }
            entry.holds.take_if(|holds| holds.is_empty());
            self.forget_if_unused(io, topic);
        }
    }

    /// Hands a new member what was held for it, but for presences: the state says those.
    pub fn hand_over_held(
        &mut self,
        io: &mut Io<'_>,
        topic: TopicRef,
        id: ConnectionId,
        batches: &[Arc<Batch>],
    ) {
        let Some(entry) = self.registry.get(topic).filter(|_| !batches.is_empty()) else {
            return;
        };
        let Some(here) = entry.members.here.iter().rfind(|here| here.id == id) else {
            return;
        };
        let arrival = Arrival {
            id,
            before: 0,
            awaits_state: true,
        };
        let has_read: &[Uuid] = entry
            .replayed
            .as_deref()
            .and_then(|replayed| replayed.get(&id))
            .map_or(&[], |ids| ids);
        let reader = Reader {
            here,
            shard: self.shard,
            has_read,
            arrival: Some(&arrival),
        };
        let mut events = 0;
        for batch in batches {
            let (parts, fits) = reader.take(io, batch, false, self.queued_bytes_max);
            events += parts.events;
            if !fits {
                self.outcome.slow.push(id);
                break;
            }
        }
        self.count(topic, events, 0);
    }
}
