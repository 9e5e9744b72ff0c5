//! What is queued for one socket, and what of it goes into the next send.
//!
//! The first buffer is inline in the slot, because nearly always there is only one; the rest is boxed. When a send
//! starts and more than one buffer waits, they are copied into one buffer of a pool: one system call for a laggard's
//! whole backlog, which beats vectored sends. A buffer that is alone, or large, is sent as it is.
//!
//! # Invariants
//!
//! - The front is never replaced while the kernel sends it, and a front that was sent in part is sent to its end: bytes
//!   leave in the order they were queued, whole. (`a_partial_send_keeps_its_place`)

use crate::shared_bytes::LocalBytes;
use crate::slab::{Slot, flag};

/// Bytes of one send at most. A send is reported when all of it was taken, so this is how fine progress shows: at the
/// default of 30 s, whoever reads 2 KiB/s is not stalled.
const SEND_BYTES_MAX: u32 = 64 * 1024;

/// Bytes that are copied into one buffer at most, and the size from which a buffer is not worth copying.
const COALESCE_BYTES_MAX: usize = 64 * 1024;

/// Memory that a queued buffer takes beside its bytes, if nobody shares it: its counts, its vector, its place in the queue and
/// what the allocator adds. Millions of tiny frames would otherwise cost forty times the bytes that a bound on bytes allows.
const BUFFER_COST_BYTES: usize = 80;

/// Coalescing buffers kept for the next laggard; more are freed.
const POOL_BUFFERS_MAX: usize = 64;

/// Buffers to coalesce into.
#[derive(Default)]
pub(crate) struct Pool {
    spare: Vec<Vec<u8>>,
}

impl Pool {
    fn take(&mut self, capacity: usize) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.reserve_exact(capacity);
        buffer
    }

    fn give_back(&mut self, bytes: LocalBytes) {
        if self.spare.len() < POOL_BUFFERS_MAX
            && let Some(mut buffer) = bytes.reclaim()
        {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// A part of a buffer to be sent now.
pub(crate) struct Piece {
    pub(crate) bytes: LocalBytes,
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// Buffers that were copied to make it.
    pub(crate) coalesced: u64,
}

impl Slot {
    /// Queues `bytes` behind everything else.
    pub(crate) fn push(&mut self, bytes: LocalBytes) {
        if bytes.is_empty() {
            return;
        }
        self.queued_bytes = self.queued_bytes.saturating_add(bytes.len() as u32);
        if self.front.is_none() {
            self.front = Some(bytes);
        } else {
            self.rest.get_or_insert_default().push_back(bytes);
        }
    }

    /// Memory that the queue takes: its bytes, and what each buffer costs that waits behind the first.
    pub(crate) fn queued_cost_bytes(&self) -> usize {
        let waiting = self.rest.as_ref().map_or(0, |rest| rest.len());
        self.queued_bytes as usize + waiting * BUFFER_COST_BYTES
    }

    /// What to send next; the caller starts the send and sets [`flag::SENDING`].
    pub(crate) fn next_piece(&mut self, pool: &mut Pool) -> Option<Piece> {
        debug_assert!(!self.is(flag::SENDING), "one send at a time");
        let front = self.front.as_ref()?;
        let mut coalesced = 0;
        if self.front_sent == 0
            && front.len() < COALESCE_BYTES_MAX
            && let Some(rest) = &mut self.rest
            && !rest.is_empty()
        {
            let mut total = front.len();
            let mut count = 0;
            for bytes in rest.iter() {
                if total + bytes.len() > COALESCE_BYTES_MAX {
                    break;
                }
                total += bytes.len();
                count += 1;
            }
            if count > 0 {
                let mut buffer = pool.take(total);
                buffer.extend_from_slice(front);
                let mut goes_on = false;
                for bytes in rest.drain(..count) {
                    buffer.extend_from_slice(&bytes);
                    goes_on = bytes.goes_on();
                }
                let buffer = LocalBytes::from(buffer);
                self.front = Some(if goes_on { buffer.going_on() } else { buffer });
                self.set(flag::POOLED);
                coalesced = count as u64 + 1;
            }
        }
        let bytes = self.front.clone()?;
        let start = self.front_sent;
        let end = (bytes.len() as u32).min(start + SEND_BYTES_MAX);
        Some(Piece {
            bytes,
            start,
            end,
            coalesced,
        })
    }

    /// The kernel took `count` bytes of the piece and gave `bytes` back.
    pub(crate) fn piece_sent(&mut self, bytes: LocalBytes, count: u32, pool: &mut Pool) {
        drop(bytes);
        self.queued_bytes = self.queued_bytes.saturating_sub(count);
        self.front_sent += count;
        let done = self
            .front
            .as_ref()
            .is_none_or(|front| self.front_sent as usize >= front.len());
        if done {
            let front = self.front.take();
            self.front_sent = 0;
            if self.is(flag::POOLED)
                && let Some(front) = front
            {
                pool.give_back(front);
            }
            self.clear(flag::POOLED);
            if let Some(rest) = &mut self.rest {
                self.front = rest.pop_front();
                if rest.is_empty() {
                    self.rest = None;
                }
            }
        }
    }

    /// Drops what is queued and whose sending has not begun. What has begun is kept to its end, also where that is in other buffers.
    pub(crate) fn drop_unsent(&mut self) {
        if self.front_sent == 0 && !self.is(flag::SENDING) {
            self.front = None;
            self.clear(flag::POOLED);
        }
        let front = self.front.as_ref().map_or(0, |front| front.len() as u32);
        self.queued_bytes = front - self.front_sent.min(front);
        let mut goes_on = self.front.as_ref().is_some_and(LocalBytes::goes_on);
        let mut kept = 0;
        for bytes in self.rest.iter().flat_map(|rest| rest.iter()) {
            if !goes_on {
                break;
            }
            self.queued_bytes += bytes.len() as u32;
            goes_on = bytes.goes_on();
            kept += 1;
        }
        match &mut self.rest {
            Some(rest) if kept > 0 => rest.truncate(kept),
            _ => self.rest = None,
        }
    }

    /// Drops everything; what the kernel is sending is held by the driver.
    pub(crate) fn drop_queue(&mut self) {
        self.front = None;
        self.rest = None;
        self.front_sent = 0;
        self.queued_bytes = 0;
        self.clear(flag::POOLED);
    }

    /// Whether nothing is left to send.
    pub(crate) const fn is_drained(&self) -> bool {
        self.front.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Socket;
    use crate::slab::Slab;

    fn with_slot(test: impl FnOnce(&mut Slot, &mut Pool)) {
        let mut slab = Slab::new(1);
        let id = slab.insert(Socket(0), flag::LIVE).unwrap();
        test(slab.get_mut(id).unwrap(), &mut Pool::default());
    }

    fn bytes(length: usize, fill: u8) -> LocalBytes {
        LocalBytes::from(vec![fill; length])
    }

    /// Sends everything in pieces of at most `step` bytes and returns what left and how many sends it took.
    fn drain(slot: &mut Slot, pool: &mut Pool, step: u32) -> (Vec<u8>, usize) {
        let (mut sent, mut sends) = (Vec::new(), 0);
        while let Some(piece) = slot.next_piece(pool) {
            let count = step.min(piece.end - piece.start);
            sent.extend_from_slice(
                &piece.bytes[piece.start as usize..(piece.start + count) as usize],
            );
            slot.piece_sent(piece.bytes, count, pool);
            sends += 1;
        }
        assert_eq!(slot.queued_bytes, 0);
        assert!(slot.is_drained());
        (sent, sends)
    }

    #[test]
    fn a_single_buffer_is_sent_without_a_copy() {
        with_slot(|slot, pool| {
            let one = bytes(10, 1);
            slot.push(one.clone());
            assert_eq!(slot.next_piece(pool).unwrap().bytes.as_ptr(), one.as_ptr());
        });
    }

    #[test]
    fn a_backlog_leaves_in_one_send_up_to_the_bound() {
        with_slot(|slot, pool| {
            (1..=8).for_each(|n| slot.push(bytes(10_000, n)));
            assert_eq!(slot.queued_bytes, 80_000);
            let (sent, sends) = drain(slot, pool, u32::MAX);
            assert_eq!(sends, 2);
            assert_eq!(
                sent,
                (1..=8).flat_map(|n| vec![n; 10_000]).collect::<Vec<_>>()
            );
            assert_eq!(
                pool.spare.len(),
                1,
                "the second send used the first one's buffer"
            );
        });
    }

    #[test]
    fn a_partial_send_keeps_its_place() {
        with_slot(|slot, pool| {
            (1..=5).for_each(|n| slot.push(bytes(100, n)));
            slot.push(bytes(300_000, 6));
            slot.push(bytes(100, 7));
            let (sent, _) = drain(slot, pool, 7_777);
            let mut expected: Vec<u8> = (1..=5).flat_map(|n| vec![n; 100]).collect();
            expected.extend(vec![6; 300_000]);
            expected.extend(vec![7; 100]);
            assert_eq!(sent, expected);
        });
    }

    #[test]
    fn tiny_buffers_cost_more_than_their_bytes() {
        with_slot(|slot, _| {
            slot.push(bytes(10, 1));
            assert_eq!(slot.queued_cost_bytes(), 10);
            (0..1000).for_each(|_| slot.push(bytes(2, 1)));
            assert_eq!(slot.queued_bytes, 2010);
            assert_eq!(slot.queued_cost_bytes(), 2010 + 1000 * BUFFER_COST_BYTES);
            slot.drop_queue();
            assert_eq!(slot.queued_cost_bytes(), 0);
        });
    }

    #[test]
    fn a_large_buffer_is_sent_in_bounded_pieces() {
        with_slot(|slot, pool| {
            slot.push(bytes(1_000_000, 1));
            assert_eq!(drain(slot, pool, u32::MAX).1, 16);
        });
    }

    #[test]
    fn what_has_begun_is_kept_to_its_end() {
        with_slot(|slot, pool| {
            let parts = |slot: &mut Slot| {
                slot.push(bytes(100, 1).going_on());
                slot.push(bytes(70_000, 2).going_on());
                slot.push(bytes(1, 3));
                slot.push(bytes(10, 4));
            };
            // The kernel has the first part alone; the second is too large to be copied behind it.
            parts(slot);
            let piece = slot.next_piece(pool).unwrap();
            assert_eq!(piece.end, 100);
            slot.set(flag::SENDING);
            slot.drop_unsent();
            slot.clear(flag::SENDING);
            slot.push(bytes(5, 9));
            assert_eq!(slot.queued_bytes, 70_106);
            slot.piece_sent(piece.bytes, 100, pool);
            let rest = [vec![2; 70_000], vec![3; 1], vec![9; 5]].concat();
            assert_eq!(drain(slot, pool, 1000).0, rest);

            // Copied with what was before it, up to the bound: the copy goes on as its last part does.
            slot.push(bytes(10, 0));
            parts(slot);
            let piece = slot.next_piece(pool).unwrap();
            assert_eq!(piece.end, 110);
            slot.piece_sent(piece.bytes, 105, pool);
            slot.drop_unsent();
            let rest = [vec![1; 5], vec![2; 70_000], vec![3; 1]].concat();
            assert_eq!(drain(slot, pool, 1000).0, rest);

            parts(slot);
            slot.drop_unsent();
            assert_eq!((slot.queued_bytes, slot.is_drained()), (0, true));
        });
    }

    #[test]
    fn dropping_what_was_not_begun_keeps_what_was() {
        with_slot(|slot, pool| {
            slot.push(bytes(100, 1));
            slot.push(bytes(70_000, 2));
            slot.drop_unsent();
            assert_eq!((slot.queued_bytes, slot.is_drained()), (0, true));

            slot.push(bytes(100, 1));
            slot.push(bytes(70_000, 2));
            let piece = slot.next_piece(pool).unwrap();
            slot.piece_sent(piece.bytes, 40, pool);
            slot.drop_unsent();
            slot.push(bytes(10, 3));
            assert_eq!(slot.queued_bytes, 70);
            assert_eq!(
                drain(slot, pool, u32::MAX).0,
                [vec![1; 60], vec![3; 10]].concat()
            );
        });
    }
}
