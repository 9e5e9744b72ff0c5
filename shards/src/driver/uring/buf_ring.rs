//! The ring of receive buffers that shard and kernel share.
//!
//! The kernel takes a buffer from the head when bytes arrive; the shard puts it back at the tail when it has read them.
//! A buffer is the kernel's from [`BufRing::recycle`] until its completion, and the shard's otherwise. Returns of a turn
//! are published together, before the ring is entered.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::driver::BUFFER_BYTES;

/// The number of the only buffer group.
pub(super) const GROUP: u16 = 0;

/// The kernel wants the entries on a page of their own.
const PAGE: usize = 4096;

/// The buffers and the ring that offers them.
pub(super) struct BufRing {
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    /// A power of two.
    count: u16,
    /// Where the next buffer is put, wrapping; what of it the kernel knows.
    tail: u16,
    published: u16,
    free: usize,
}

impl BufRing {
    /// Allocates `count` buffers (a power of two) and registers them.
    pub(super) fn register(ring: &IoUring, count: u16) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the ring masks its indices");
        let entries: NonNull<BufRingEntry> = allocate(Self::entries_layout(count)).cast();
        let bytes = allocate(Self::bytes_layout(count));
        let mut buffers = Self {
            entries,
            bytes,
            count,
            tail: 0,
            published: 0,
            free: 0,
        };
        let address = entries.as_ptr() as u64;
        // JUSTIFICATION: there is no safe way to share memory with the kernel.
        // SAFETY: the entries are page-aligned, `count` of them, and live until after the ring: `Uring` drops the ring
        // first, and a failed registration keeps nothing.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, count, GROUP, 0)
        }?;
        for buffer in 0..count {
            buffers.recycle(buffer);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Memory of a ring of `count` buffers that the kernel locks: the entries, not the buffers.
    pub(super) fn locked_bytes(count: u16) -> u64 {
        (Self::entries_layout(count).size().div_ceil(PAGE) * PAGE) as u64
    }

    fn entries_layout(count: u16) -> Layout {
        Layout::from_size_align(usize::from(count) * size_of::<BufRingEntry>(), PAGE)
            .expect("at most 512 KiB")
    }

    fn bytes_layout(count: u16) -> Layout {
        Layout::from_size_align(usize::from(count) * BUFFER_BYTES, PAGE).expect("at most 64 MiB")
    }

    fn at(&self, buffer: u16) -> NonNull<u8> {
        assert!(
            buffer < self.count,
            "the kernel names a buffer that it was never given"
        );
        // JUSTIFICATION: buffers are parts of one allocation that the kernel writes to as well.
        // SAFETY: the index was checked, and the allocation is `count` buffers long.
        unsafe { self.bytes.add(usize::from(buffer) * BUFFER_BYTES) }
    }

    /// The bytes of a completed receive.
    pub(super) fn bytes(&mut self, buffer: u16, length: u32) -> &mut [u8] {
        assert!(
            length as usize <= BUFFER_BYTES,
            "the kernel reports more bytes than a buffer has"
        );
        let start = self.at(buffer).as_ptr();
        // JUSTIFICATION: buffers are parts of one allocation that the kernel writes to as well.
        // SAFETY: the allocation was zeroed and is long enough; the shard asks between a completion and `recycle`, when
        // the kernel does not touch this buffer, and holds `&mut self` meanwhile.
        unsafe { std::slice::from_raw_parts_mut(start, length as usize) }
    }

    /// The kernel took a buffer.
    pub(super) const fn taken(&mut self) {
        self.free = self.free.saturating_sub(1);
    }

    /// Gives a buffer back; the kernel knows after [`BufRing::publish`].
    pub(super) fn recycle(&mut self, buffer: u16) {
        let address = self.at(buffer).as_ptr() as u64;
        let index = self.tail & (self.count - 1);
        // JUSTIFICATION: the ring is memory shared with the kernel.
        // SAFETY: the index is masked to the allocation.
        let entry = unsafe { self.entries.add(usize::from(index)) };
        // JUSTIFICATION: as above.
        // SAFETY: the kernel reads entries only up to the published tail; this one is beyond it, because no more than
        // `count` buffers exist. The field behind the tail (`resv` of entry 0) is not written here.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
        debug_assert!(
            self.free <= usize::from(self.count),
            "a buffer was given back twice"
        );
    }

    /// Tells the kernel of the buffers that were given back.
    pub(super) fn publish(&mut self) {
        if self.tail == self.published {
            return;
        }
        self.published = self.tail;
        // JUSTIFICATION: the tail is a field of memory shared with the kernel.
        // SAFETY: the entries are valid and initialized, and this is their first.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // JUSTIFICATION: as above.
        // SAFETY: the pointer is aligned and valid as long as the ring; both sides use it atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Buffers that the kernel has, as far as its completions tell.
    pub(super) const fn free(&self) -> usize {
        self.free
    }

    /// Whether the kernel has less than half of them.
    pub(super) fn is_short(&self) -> bool {
        self.free < usize::from(self.count / 2)
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        // JUSTIFICATION: the allocation is shared with the kernel and therefore raw.
        // SAFETY: it was made with this layout; the ring is gone by now.
        unsafe { dealloc(self.bytes.as_ptr(), Self::bytes_layout(self.count)) };
        // JUSTIFICATION: as above.
        // SAFETY: as above.
        unsafe {
            dealloc(
                self.entries.as_ptr().cast(),
                Self::entries_layout(self.count),
            )
        };
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // JUSTIFICATION: the memory is shared with the kernel, which no owned type of std allows for.
    // SAFETY: the layouts have a size.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}
