//! The life of one socket on a shard: receive, ordered send, detach, close.
//!
//! Events change the slot; [`Shard::advance`] then looks at the slot as a whole, once per turn, and asks the driver for
//! whatever the state calls for. So no order of events needs a case of its own.
//!
//! # Invariants
//!
//! - One receive and one send of a socket are with the kernel at most.
//! - The handler hears of the end of a connection once, and of nothing after it.
//! - A slot is freed only when the kernel has given everything back (`slab.rs` asserts it).

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::driver::{Driver, Event, Socket};
use crate::handler::{Closed, Handler};
use crate::ids::ConnectionId;
use crate::io::Io;
use crate::shard::Shard;
use crate::shared_bytes::LocalBytes;
use crate::slab::{Slot, flag};
use crate::wheel::NOWHERE;

/// A closing socket is cut off after so many times `linger`, even if it trickles on.
const LINGERS_MAX: u32 = 10;

impl<H: Handler, D: Driver> Shard<H, D> {
    /// Bytes arrived.
    pub(crate) fn on_received(&mut self, id: ConnectionId, buffer: u16, length: u32, more: bool) {
        let slot = self.with_kernel(id);
        if !more {
            slot.clear(flag::RECEIVING | flag::RECEIVE_CANCELLED);
        }
        let live = slot.is(flag::LIVE);
        if let Some(traffic) = &slot.traffic {
            traffic.received.add(length.into());
        }
        if !more {
            self.core.touch(id);
        }
        self.core.metrics.bytes_in.add(length.into());
        if live {
            let bytes = self.driver.buffer(buffer, length);
            self.handler.on_bytes(
                &mut Io {
                    core: &mut self.core,
                },
                id,
                bytes,
            );
        }
        self.driver.recycle(buffer);
    }

    /// The receive ended: FIN, no buffer, cancelled, or an error.
    pub(crate) fn on_receive_ended(&mut self, id: ConnectionId, errno: i32) {
        let slot = self.with_kernel(id);
        slot.clear(flag::RECEIVING | flag::RECEIVE_CANCELLED);
        match errno {
            libc::ENOBUFS => {
                if !slot.is(flag::PARKED) {
                    slot.set(flag::PARKED);
                    self.parked.push_back(id);
                    self.core.metrics.receives_parked.add(1);
                }
            }
            // Interrupted or cancelled: whoever cancelled knows what follows, and everybody else receives again.
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            0 => {
                slot.set(flag::FINISHED);
                // A detached socket shows its end to its next owner.
                if !slot.is(flag::DETACHING) && self.core.end(id, flag::CLOSING) {
                    self.handler.on_close(
                        &mut Io {
                            core: &mut self.core,
                        },
                        id,
                        Closed::Peer,
                    );
                }
            }
            errno => {
                slot.set(flag::FINISHED);
                self.fail(id, errno);
            }
        }
        self.core.touch(id);
    }

    /// A send ended.
    pub(crate) fn on_sent(
        &mut self,
        id: ConnectionId,
        bytes: LocalBytes,
        result: Result<u32, i32>,
    ) {
        let now_ms = self.core.now.wrapping_ms();
        let slot = self.with_kernel(id);
        slot.clear(flag::SENDING | flag::SEND_CANCELLED);
        match result {
            Ok(count) => {
                slot.progress_ms = now_ms;
                if let Some(traffic) = &slot.traffic {
                    traffic.sent.add(count.into());
                }
                if slot.is(flag::ABORTING) {
                    drop(bytes);
                } else {
                    let slot = self
                        .core
                        .slab
                        .get_mut(id)
                        .expect("it was there a line above");
                    let before = slot.queued_bytes;
                    slot.piece_sent(bytes, count, &mut self.core.pool);
                    let after = slot.queued_bytes;
                    self.core.note_queued(before, after);
                }
                self.core.metrics.bytes_out.add(count.into());
            }
            Err(libc::EINTR | libc::EAGAIN) => drop(bytes),
            Err(errno) => {
                drop(bytes);
                self.fail(id, errno);
            }
        }
        // Of most sockets nothing is left to do, and there are as many of these events as frames.
        if self
            .core
            .slab
            .get(id)
            .is_some_and(|slot| !slot.is_at_rest())
        {
            self.core.touch(id);
        }
    }

    /// The half-close ended.
    pub(crate) fn on_shut(&mut self, id: ConnectionId) {
        self.with_kernel(id).clear(flag::BUSY);
        self.core.touch(id);
    }

    /// The socket is an ordinary descriptor, or could not be made one.
    pub(crate) fn on_detached(&mut self, id: ConnectionId, result: Result<OwnedFd, i32>) {
        self.with_kernel(id).clear(flag::BUSY);
        match result {
            Ok(descriptor) => {
                // The product may have closed it meanwhile; then the descriptor closes here and the slot by its state.
                if self.core.end(id, flag::ABORTING) {
                    self.handler.on_detached(
                        &mut Io {
                            core: &mut self.core,
                        },
                        id,
                        descriptor,
                    );
                }
            }
            Err(errno) => self.fail(id, errno),
        }
        self.core.touch(id);
    }

    /// The connection is of no use any more.
    fn fail(&mut self, id: ConnectionId, errno: i32) {
        let heard = self.core.end(id, flag::ABORTING);
        if let Some(slot) = self.core.slab.get_mut(id) {
            slot.set(flag::ABORTING);
            let before = slot.queued_bytes;
            slot.drop_queue();
            self.core.note_queued(before, 0);
        }
        if heard {
            self.handler.on_close(
                &mut Io {
                    core: &mut self.core,
                },
                id,
                Closed::Reset(errno),
            );
        }
    }

    /// An event of a shard that is ending: only what the kernel gives back matters.
    pub(crate) fn discard(&mut self, event: Event) {
        match event {
            Event::Received {
                id, buffer, more, ..
            } => {
                self.driver.recycle(buffer);
                if !more {
                    self.with_kernel(id).clear(flag::RECEIVING);
                }
                self.core.touch(id);
            }
            Event::Ended { id, .. } => {
                self.with_kernel(id).clear(flag::RECEIVING);
                self.core.touch(id);
            }
            Event::Sent { id, .. } => {
                self.with_kernel(id).clear(flag::SENDING);
                self.core.touch(id);
            }
            Event::Shut { id } | Event::Detached { id, .. } => {
                self.with_kernel(id).clear(flag::BUSY);
                self.core.touch(id);
            }
            Event::Accepted(socket) => self.driver.close(None, socket),
            Event::AcceptEnded { .. } | Event::Rung => {}
        }
    }

    /// Lets the driver know the sockets that were adopted in this turn.
    pub(crate) fn adopt_sockets(&mut self) {
        while let Some((id, descriptor)) = self.core.adopted.pop() {
            let socket = self.driver.adopt(descriptor);
            let Some(slot) = self.core.slab.get_mut(id) else {
                continue;
            };
            slot.clear(flag::ADOPTED);
            match socket {
                Ok(socket) => slot.socket = socket,
                Err(error) => self.fail(id, error.raw_os_error().unwrap_or(libc::EIO)),
            }
        }
    }

    /// Receives again for those who starved, at most as many as there are buffers: more would only starve again.
    pub(crate) fn unpark(&mut self) {
        let count = self.parked.len().min(self.driver.buffers_free());
        for id in self.parked.drain(..count) {
            if let Some(slot) = self.core.slab.get_mut(id)
                && slot.is(flag::PARKED)
            {
                slot.clear(flag::PARKED);
                if !slot.is(flag::ABORTING | flag::DETACHING | flag::FINISHED) {
                    slot.set(flag::RECEIVING);
                    self.driver.receive(id, slot.socket);
                }
            }
        }
    }

    /// Asks the driver for whatever the state of the slot calls for.
    pub(crate) fn advance(&mut self, id: ConnectionId) {
        let Some(slot) = self.core.slab.get_mut(id) else {
            return;
        };
        slot.clear(flag::DIRTY);
        debug_assert!(!slot.is(flag::ADOPTED), "adopted sockets are known by now");
        if !slot.is(flag::ABORTING) {
            self.send_next(id);
        }
        let Some(slot) = self.core.slab.get_mut(id) else {
            return;
        };
        let socket = slot.socket;
        let idle = !slot.is(flag::SENDING) && slot.is_drained();
        if slot.is(flag::CLOSING) && idle && !slot.is(flag::ABORTING) {
            // A receive that starved for buffers has left something unread, and closing now would reset.
            let is_final = slot.is(flag::FINAL) && slot.is(flag::RECEIVING);
            slot.clear(flag::FINAL);
            if slot.is(flag::FINISHED) || is_final {
                slot.set(flag::ABORTING);
            } else if !slot.is(flag::SHUT) {
                slot.set(flag::SHUT | flag::BUSY);
                self.driver.shut(id, socket);
                self.core.metrics.half_closes.add(1);
            }
        }
        if slot.is(flag::ABORTING) {
            self.abort(id);
        } else if slot.is(flag::DETACHING) {
            if slot.is(flag::RECEIVING) {
                if !slot.is(flag::RECEIVE_CANCELLED) {
                    slot.set(flag::RECEIVE_CANCELLED);
                    self.driver.cancel_receive(id, socket);
                }
            } else if idle && !slot.is(flag::BUSY) {
                slot.set(flag::BUSY);
                self.driver.detach(id, socket);
            }
        } else if !slot.is(flag::RECEIVING | flag::PARKED | flag::FINISHED) {
            slot.set(flag::RECEIVING);
            self.driver.receive(id, socket);
        }
    }

    /// Starts the next send, if there is something to send and none is under way.
    fn send_next(&mut self, id: ConnectionId) {
        let Some(slot) = self.core.slab.get_mut(id) else {
            return;
        };
        if slot.is(flag::SENDING) {
            return;
        }
        let Some(piece) = slot.next_piece(&mut self.core.pool) else {
            return;
        };
        slot.set(flag::SENDING);
        let watched = slot.stall_bucket != NOWHERE;
        self.driver
            .send(id, slot.socket, piece.bytes, piece.start, piece.end);
        self.core.metrics.sends.add(1);
        self.core.metrics.coalesced.add(piece.coalesced);
        if !watched {
            self.core.watch(id, self.core.stall_after);
        }
    }

    /// Takes back what the kernel has of a socket, or closes it when there is nothing.
    fn abort(&mut self, id: ConnectionId) {
        let Some(slot) = self.core.slab.get_mut(id) else {
            return;
        };
        let socket = slot.socket;
        if slot.is(flag::RECEIVING) && !slot.is(flag::RECEIVE_CANCELLED) {
            slot.set(flag::RECEIVE_CANCELLED);
            self.driver.cancel_receive(id, socket);
        }
        if slot.is(flag::SENDING) && !slot.is(flag::SEND_CANCELLED) {
            slot.set(flag::SEND_CANCELLED);
            self.driver.cancel_send(id, socket);
        }
        let queued = slot.queued_bytes;
        if !slot.is(flag::WITH_KERNEL)
            && let Some(socket) = self.core.slab.remove(id)
        {
            self.core.note_queued(queued, 0);
            if socket != Socket::NONE {
                self.driver.close(Some(id), socket);
            }
            self.accepting.socket_closed();
        }
    }

    /// The wheel says that the slot's progress should be looked at.
    pub(crate) fn look_for_stall(&mut self, index: u32, bucket: u8) {
        let Some(id) = self.core.slab.id_at(index) else {
            return;
        };
        let now_ms = self.core.now.wrapping_ms();
        let (stall_ms, linger_ms) = (millis(self.core.stall_after), millis(self.core.linger));
        let Some(slot) = self.core.slab.get_mut(id) else {
            return;
        };
        if slot.stall_bucket != bucket {
            return;
        }
        slot.stall_bucket = NOWHERE;
        let idle_ms = now_ms.wrapping_sub(slot.progress_ms);
        if slot.is(flag::ABORTING) {
        } else if slot.is(flag::CLOSING) {
            let closing_ms = now_ms.wrapping_sub(slot.visit_at);
            if idle_ms >= linger_ms || closing_ms >= linger_ms.saturating_mul(LINGERS_MAX) {
                slot.set(flag::ABORTING);
                let before = slot.queued_bytes;
                slot.drop_queue();
                self.core.note_queued(before, 0);
                self.core.touch(id);
            } else {
                self.core.watch(
                    id,
                    self.core
                        .linger
                        .saturating_sub(Duration::from_millis(idle_ms.into())),
                );
            }
        } else if slot.queued_bytes > 0 {
            if idle_ms >= stall_ms {
                self.core.watch(id, self.core.stall_after);
                self.handler.on_stalled(
                    &mut Io {
                        core: &mut self.core,
                    },
                    id,
                );
            } else {
                let left = Duration::from_millis((stall_ms - idle_ms).into());
                self.core.watch(id, left);
            }
        }
    }

    /// The slot of an event. It must be there: a slot lives as long as the kernel has something of it.
    fn with_kernel(&mut self, id: ConnectionId) -> &mut Slot {
        self.core
            .slab
            .get_mut(id)
            .expect("a slot outlives its operations")
    }
}

/// Milliseconds, at most 24 days, so that wrapping differences stay meaningful.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis())
        .unwrap_or(u32::MAX)
        .min(i32::MAX as u32)
}
