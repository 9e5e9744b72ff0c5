//! What a handler can do: [`Io`], the shard's state as the product sees it during a call.
//!
//! Nothing here talks to the kernel. A call notes what is wanted in the slot and puts the slot on the list of those to
//! look at before the turn ends (`stream.rs`), so that a socket written to a hundred times in a turn costs one send.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::driver::{DriverKind, Socket};
use crate::handler::Close;
use crate::ids::{ConnectionId, Peer, ShardId, Tick};
use crate::mesh::Outgoing;
use crate::metrics::{ShardMetrics, Traffic};
use crate::send_queue::Pool;
use crate::shared_bytes::LocalBytes;
use crate::slab::{Slab, flag};
use crate::wheel::{NOWHERE, Timers, Wheel};

/// The part of a shard that handlers reach.
pub(crate) struct Core<M> {
    pub(crate) shard: ShardId,
    pub(crate) shard_count: usize,
    pub(crate) kind: DriverKind,
    pub(crate) now: Tick,
    pub(crate) unix_ms: u64,
    pub(crate) slab: Slab,
    pub(crate) live_count: usize,
    /// Slots with [`flag::DIRTY`].
    pub(crate) dirty: Vec<ConnectionId>,
    /// Buffers that were queued since the start: what a letter leads to.
    pub(crate) queued_count: u64,
    /// Sockets the driver does not know yet.
    pub(crate) adopted: Vec<(ConnectionId, OwnedFd)>,
    /// Seconds since 1970 to slots to visit.
    pub(crate) visits: Wheel,
    /// Seconds since the start to slots whose progress is to be looked at.
    pub(crate) stalls: Wheel,
    pub(crate) timers: Timers,
    pub(crate) outgoing: Outgoing<M>,
    pub(crate) pool: Pool,
    pub(crate) metrics: Arc<ShardMetrics>,
    /// How long the last turn took.
    pub(crate) last_turn: Duration,
    pub(crate) stall_after: Duration,
    pub(crate) linger: Duration,
    pub(crate) stopping: bool,
}

impl<M> Core<M> {
    /// Makes sure that the slot is looked at before the turn ends.
    pub(crate) fn touch(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slab.get_mut(id)
            && !slot.is(flag::DIRTY)
        {
            slot.set(flag::DIRTY);
            self.dirty.push(id);
        }
    }

    /// Makes sure that the slot's progress is looked at within `wait`.
    pub(crate) fn watch(&mut self, id: ConnectionId, wait: Duration) {
        let Some(slot) = self.slab.get_mut(id) else {
            return;
        };
        let due = self.now.after(wait).0.div_ceil(1_000_000_000);
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        slot.stall_bucket = self.stalls.insert(id.index(), due, slot.stall_bucket);
    }

    /// A queue has changed from so many bytes to so many.
    pub(crate) fn note_queued(&self, before: u32, after: u32) {
        let grown = u64::from(after).wrapping_sub(before.into());
        self.metrics.bytes_queued.add(grown);
    }

    /// Ends the product's use of a connection. Returns whether it still had it.
    pub(crate) fn end(&mut self, id: ConnectionId, state: u32) -> bool {
        let now_ms = self.now.wrapping_ms();
        let linger = self.linger;
        let Some(slot) = self.slab.get_mut(id) else {
            return false;
        };
        if !slot.is(flag::LIVE) {
            return false;
        }
        slot.clear(flag::LIVE | flag::DETACHING);
        slot.set(state);
        slot.progress_ms = now_ms;
        slot.visit_at = now_ms;
        slot.visit_bucket = NOWHERE;
        self.live_count -= 1;
        self.touch(id);
        if state & flag::CLOSING != 0 {
            self.watch(id, linger);
        }
        true
    }
}

/// A shard during one call of its [`Handler`](crate::Handler).
pub struct Io<'a, M> {
    pub(crate) core: &'a mut Core<M>,
}

impl<M> Io<'_, M> {
    /// Which shard this is.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.core.shard
    }

    /// How many shards there are.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.core.shard_count
    }

    /// The kernel interface it runs on; for reports only.
    #[must_use]
    pub fn driver(&self) -> DriverKind {
        self.core.kind
    }

    /// The moment this turn began.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.core.now
    }

    /// Milliseconds since 1970 when this turn began.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.core.unix_ms
    }

    /// Connections the product has on this shard.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.core.live_count
    }

    /// Queues `bytes`; they leave at the end of the turn, together with whatever else is queued. Returns how many
    /// bytes of memory the connection's queue takes now, each buffer's own cost included, or 0 when it is gone. There
    /// is no bound here: the caller has one.
    pub fn send(&mut self, id: ConnectionId, bytes: LocalBytes) -> usize {
        let now_ms = self.core.now.wrapping_ms();
        let Some(slot) = self
            .core
            .slab
            .get_mut(id)
            .filter(|slot| slot.is(flag::LIVE))
        else {
            return 0;
        };
        if slot.is_drained() {
            slot.progress_ms = now_ms;
        }
        let before = slot.queued_bytes;
        slot.push(bytes);
        let (after, queued) = (slot.queued_bytes, slot.queued_cost_bytes());
        if !slot.is(flag::DIRTY | flag::SENDING) {
            slot.set(flag::DIRTY);
            self.core.dirty.push(id);
        }
        self.core.queued_count += 1;
        self.core.note_queued(before, after);
        queued
    }

    /// Bytes queued for the connection and not sent yet; 0 when it is gone.
    #[must_use]
    pub fn queued_bytes(&self, id: ConnectionId) -> usize {
        let slot = self.core.slab.get(id).filter(|slot| slot.is(flag::LIVE));
        slot.map_or(0, |slot| slot.queued_bytes as usize)
    }

    /// Ends the connection. From now on there is no call for `id`, and nothing can be sent to it.
    pub fn close(&mut self, id: ConnectionId, how: Close) {
        let state = match how {
            Close::Flush | Close::Replace(_) => flag::CLOSING,
            Close::Final => flag::CLOSING | flag::FINAL,
            Close::Abort => flag::ABORTING,
        };
        if self.core.end(id, state)
            && let Some(slot) = self.core.slab.get_mut(id)
        {
            let before = slot.queued_bytes;
            match how {
                Close::Flush | Close::Final => {}
                Close::Replace(last) => {
                    slot.drop_unsent();
                    slot.push(last);
                }
                Close::Abort => slot.drop_queue(),
            }
            let after = slot.queued_bytes;
            self.core.note_queued(before, after);
        }
    }

    /// Asks for the socket as an ordinary descriptor: receiving stops, what is queued is sent, and then
    /// [`on_detached`](crate::Handler::on_detached) has it. `on_bytes` may still come before, and `on_close` instead,
    /// when the connection fails.
    pub fn detach(&mut self, id: ConnectionId) {
        if let Some(slot) = self
            .core
            .slab
            .get_mut(id)
            .filter(|slot| slot.is(flag::LIVE))
        {
            slot.set(flag::DETACHING);
            self.core.touch(id);
        }
    }

    /// Makes an ordinary connected socket a connection of this shard. `None` when there is no room; the socket is
    /// closed then. There is no `on_accept` for it.
    pub fn adopt(&mut self, socket: OwnedFd) -> Option<ConnectionId> {
        let id = self
            .core
            .slab
            .insert(Socket::NONE, flag::LIVE | flag::ADOPTED)?;
        self.core.live_count += 1;
        self.core.adopted.push((id, socket));
        self.core.touch(id);
        Some(id)
    }

    /// Sends a letter to a thread, possibly to this shard itself, which has it in its next turn.
    pub fn mail(&mut self, to: Peer, mail: M) {
        let node = self.core.outgoing.node(to);
        self.core.metrics.mail_sent.add(1);
        if self.core.outgoing.post(node, mail) {
            self.core.metrics.mail_spilled.add(1);
        }
    }

    /// Letters that wait here because the mailbox of control is full. Control may stand still while shards go on, so
    /// nothing is held up for them: the bound is the product's.
    #[must_use]
    pub fn waiting_for_control(&self) -> usize {
        self.core.outgoing.spilled_to_control()
    }

    /// Asks for [`on_timer`](crate::Handler::on_timer) with `key` at `at`. Timers cannot be cancelled: the product
    /// ignores a key that no longer means anything.
    pub fn set_timer(&mut self, at: Tick, key: u64) {
        self.core.timers.set(at, key);
    }

    /// Asks for [`on_visit`](crate::Handler::on_visit) at a second since 1970. The earliest request counts; a visit
    /// clears it. Seconds in the past mean the next one.
    pub fn visit_at(&mut self, id: ConnectionId, unix_second: u32) {
        let Some(slot) = self
            .core
            .slab
            .get_mut(id)
            .filter(|slot| slot.is(flag::LIVE))
        else {
            return;
        };
        let sooner = slot.visit_bucket == NOWHERE || unix_second < slot.visit_at;
        if sooner {
            slot.visit_at = unix_second;
            slot.visit_bucket = self
                .core
                .visits
                .insert(id.index(), unix_second, slot.visit_bucket);
        }
    }

    /// Leaves the loop after this turn; sockets that are still there are closed at once.
    pub fn stop(&mut self) {
        self.core.stopping = true;
    }

    /// Counts the connection's bytes from now on here as well, until it has ended to the last byte. Only this shard may write to
    /// `traffic`.
    pub fn count_traffic(&mut self, id: ConnectionId, traffic: &Arc<Traffic>) {
        let slot = self.core.slab.get_mut(id);
        if let Some(slot) = slot.filter(|slot| slot.is(flag::LIVE)) {
            slot.traffic = Some(Arc::clone(traffic));
        }
    }

    /// What this shard has counted so far.
    #[must_use]
    pub fn metrics(&self) -> &ShardMetrics {
        &self.core.metrics
    }

    /// How long the turn before this one took, the wait for events not counted.
    #[must_use]
    pub fn last_turn(&self) -> Duration {
        self.core.last_turn
    }
}
