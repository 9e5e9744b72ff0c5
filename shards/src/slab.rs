//! Slots with generations: everything the runtime knows about one socket, and the reason why a late completion can
//! never reach the next socket in the same slot.
//!
//! # Invariants
//!
//! - A slot is freed only when no operation of it is with the kernel; freeing changes its generation.
//!   (`a_freed_slot_is_not_found_by_its_old_id`)
//! - Chunks never move and never grow, so the memory of a connection is the size of its slot.
//! - At most `capacity` slots exist; [`Slab::insert`] says so instead of growing further.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::driver::Socket;
use crate::ids::ConnectionId;
use crate::metrics::Traffic;
use crate::shared_bytes::LocalBytes;
use crate::wheel::NOWHERE;

/// Slots per chunk: 16 KiB of them.
const CHUNK: usize = 256;

/// No slot.
const END: u32 = u32::MAX;

/// Slots that one shard can have at most: the index must fit into the token of an operation.
pub(crate) const CAPACITY_MAX: usize = 1 << 24;

/// States of a connection and operations it has with the kernel, as bits.
pub(crate) mod flag {
    /// The product may use it and hears of it.
    pub(crate) const LIVE: u32 = 1 << 0;
    /// Stands in the list of slots to look at before the end of the turn.
    pub(crate) const DIRTY: u32 = 1 << 1;
    /// A receive is with the kernel.
    pub(crate) const RECEIVING: u32 = 1 << 2;
    /// Waits in the list of receives that starved for buffers.
    pub(crate) const PARKED: u32 = 1 << 3;
    /// A send is with the kernel.
    pub(crate) const SENDING: u32 = 1 << 4;
    /// The front of the queue is a coalesced buffer, to be given back to the pool.
    pub(crate) const POOLED: u32 = 1 << 5;
    /// Sends what is queued and then half-closes.
    pub(crate) const CLOSING: u32 = 1 << 6;
    /// Ends as soon as the kernel has given everything back.
    pub(crate) const ABORTING: u32 = 1 << 7;
    /// Is to become an ordinary descriptor.
    pub(crate) const DETACHING: u32 = 1 << 8;
    /// The half-close was asked for.
    pub(crate) const SHUT: u32 = 1 << 9;
    /// Another operation (half-close, detach) is with the kernel.
    pub(crate) const BUSY: u32 = 1 << 10;
    /// The peer's FIN was seen, or receiving failed: nothing more will come.
    pub(crate) const FINISHED: u32 = 1 << 11;
    /// The receive was asked to end.
    pub(crate) const RECEIVE_CANCELLED: u32 = 1 << 12;
    /// The send was asked to end.
    pub(crate) const SEND_CANCELLED: u32 = 1 << 13;
    /// Adopted in this turn: the driver does not know the socket yet.
    pub(crate) const ADOPTED: u32 = 1 << 14;
    /// The slot is in use.
    pub(crate) const TAKEN: u32 = 1 << 15;
    /// The peer is not expected to send any more: closes without a half-close.
    pub(crate) const FINAL: u32 = 1 << 16;

    /// The kernel still has something of this slot.
    pub(crate) const WITH_KERNEL: u32 = RECEIVING | SENDING | BUSY;
}

/// One socket.
pub(crate) struct Slot {
    /// The front of the send queue; while [`flag::SENDING`], it is with the kernel.
    pub(crate) front: Option<LocalBytes>,
    /// The queue behind the front.
    #[expect(
        clippy::box_collection,
        reason = "a slot is one cache line, and hardly any socket has a queue"
    )]
    pub(crate) rest: Option<Box<VecDeque<LocalBytes>>>,
    /// Where its bytes are counted, beside the shard's own counts.
    pub(crate) traffic: Option<Arc<Traffic>>,
    /// Which life of the slot this is.
    pub(crate) generation: u32,
    /// What the driver calls the socket.
    pub(crate) socket: Socket,
    /// Bytes of the front that were sent already.
    pub(crate) front_sent: u32,
    /// Bytes in the queue that were not sent yet, those with the kernel included.
    pub(crate) queued_bytes: u32,
    /// The unix second of the next visit; while closing, the monotonic millisecond the closing began; while free, the
    /// next free slot.
    pub(crate) visit_at: u32,
    /// The monotonic millisecond (wrapping) of the last progress of sending.
    pub(crate) progress_ms: u32,
    /// The bits of [`flag`].
    pub(crate) flags: u32,
    /// The bucket of the wheel of visits, or [`NOWHERE`].
    pub(crate) visit_bucket: u8,
    /// The bucket of the wheel of stalls, or [`NOWHERE`].
    pub(crate) stall_bucket: u8,
}

const _: () = assert!(size_of::<Slot>() <= 64, "a slot is one cache line");

impl Slot {
    /// Whether any of the bits is set.
    pub(crate) const fn is(&self, any: u32) -> bool {
        self.flags & any != 0
    }

    /// Whether nothing is left to do for it until something happens: nothing queued, nothing to end, and somebody waits for input.
    pub(crate) const fn is_at_rest(&self) -> bool {
        self.front.is_none()
            && !self.is(flag::CLOSING | flag::ABORTING | flag::DETACHING)
            && self.is(flag::RECEIVING | flag::PARKED | flag::FINISHED)
    }

    /// Sets bits.
    pub(crate) const fn set(&mut self, bits: u32) {
        self.flags |= bits;
    }

    /// Clears bits.
    pub(crate) const fn clear(&mut self, bits: u32) {
        self.flags &= !bits;
    }

    const fn free(generation: u32, next: u32) -> Self {
        Self {
            front: None,
            rest: None,
            traffic: None,
            generation,
            socket: Socket::NONE,
            front_sent: 0,
            queued_bytes: 0,
            visit_at: next,
            progress_ms: 0,
            flags: 0,
            visit_bucket: NOWHERE,
            stall_bucket: NOWHERE,
        }
    }
}

/// The slots of one shard.
pub(crate) struct Slab {
    chunks: Vec<Box<[Slot]>>,
    /// The head of the list of free slots, last freed first: its memory is still warm.
    free: u32,
    count: usize,
    capacity: usize,
}

impl Slab {
    /// A slab of at most `capacity` slots; allocates nothing.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            chunks: Vec::new(),
            free: END,
            count: 0,
            capacity: capacity.min(CAPACITY_MAX),
        }
    }

    /// Slots in use.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// Takes a slot for `socket`; `None` when all are in use.
    pub(crate) fn insert(&mut self, socket: Socket, flags: u32) -> Option<ConnectionId> {
        if self.count >= self.capacity {
            return None;
        }
        if self.free == END {
            self.grow();
        }
        let index = self.free;
        let slot = self.at_mut(index);
        debug_assert!(
            !slot.is(flag::TAKEN),
            "slot {index} is on the free list and in use"
        );
        let next = slot.visit_at;
        slot.visit_at = 0;
        slot.socket = socket;
        slot.flags = flag::TAKEN | flags;
        let id = ConnectionId::new(index, slot.generation);
        self.free = next;
        self.count += 1;
        Some(id)
    }

    /// Gives the slot of `id` back. Its socket belongs to the caller from here on.
    ///
    /// # Panics
    ///
    /// When an operation of it is still with the kernel: its completion would find somebody else.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Socket> {
        let next = self.free;
        let slot = self.get_mut(id)?;
        assert!(
            !slot.is(flag::WITH_KERNEL),
            "a slot is freed while the kernel works on it"
        );
        let socket = slot.socket;
        *slot = Slot::free(slot.generation.wrapping_add(1), next);
        self.free = id.index();
        self.count -= 1;
        Some(socket)
    }

    /// The slot of `id`, if it is still that socket's.
    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Slot> {
        let slot = self
            .chunks
            .get(id.index() as usize / CHUNK)?
            .get(id.index() as usize % CHUNK)?;
        (slot.generation == id.generation() && slot.is(flag::TAKEN)).then_some(slot)
    }

    /// The slot of `id`, if it is still that socket's.
    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Slot> {
        let slot = self
            .chunks
            .get_mut(id.index() as usize / CHUNK)?
            .get_mut(id.index() as usize % CHUNK)?;
        (slot.generation == id.generation() && slot.is(flag::TAKEN)).then_some(slot)
    }

    /// The id of whoever is in slot `index` now.
    pub(crate) fn id_at(&self, index: u32) -> Option<ConnectionId> {
        let slot = self
            .chunks
            .get(index as usize / CHUNK)?
            .get(index as usize % CHUNK)?;
        slot.is(flag::TAKEN)
            .then(|| ConnectionId::new(index, slot.generation))
    }

    /// Every id in use.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        (0..(self.chunks.len() * CHUNK) as u32).filter_map(|index| self.id_at(index))
    }

    fn at_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    fn grow(&mut self) {
        let first = (self.chunks.len() * CHUNK) as u32;
        let last = first + CHUNK as u32 - 1;
        let chunk =
            (first..=last).map(|index| Slot::free(0, if index == last { END } else { index + 1 }));
        self.chunks.push(chunk.collect());
        self.free = first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_is_not_found_by_its_old_id() {
        let mut slab = Slab::new(10);
        let old = slab.insert(Socket(5), flag::LIVE).unwrap();
        assert_eq!(slab.remove(old), Some(Socket(5)));
        let new = slab.insert(Socket(6), flag::LIVE).unwrap();
        assert_eq!(old.index(), new.index());
        assert_ne!(old, new);
        assert!(slab.get(old).is_none());
        assert!(slab.remove(old).is_none());
        assert_eq!(slab.get(new).unwrap().socket, Socket(6));
        assert_eq!(slab.id_at(new.index()), Some(new));
    }

    #[test]
    fn the_slab_is_full_at_its_capacity_and_usable_again_after_a_removal() {
        let mut slab = Slab::new(300);
        let ids: Vec<_> = (0..300)
            .map(|n| slab.insert(Socket(n), flag::LIVE).unwrap())
            .collect();
        assert!(slab.insert(Socket(300), flag::LIVE).is_none());
        assert_eq!(slab.ids().count(), 300);
        slab.remove(ids[17]);
        let again = slab.insert(Socket(300), flag::LIVE).unwrap();
        assert_eq!((again.index(), again.generation()), (17, 1));
        assert_eq!(slab.count(), 300);
    }

    #[test]
    #[should_panic(expected = "while the kernel works on it")]
    fn a_slot_with_an_operation_in_flight_is_never_freed() {
        let mut slab = Slab::new(1);
        let id = slab.insert(Socket(0), flag::LIVE | flag::SENDING).unwrap();
        slab.remove(id);
    }
}
