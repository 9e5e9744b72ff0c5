//! The bare server on `io_uring`: one thread, one ring, multishot accept and receive, provided
//! buffers, one send for each socket and turn.
//!
//! In: a listening socket. Out: nothing but frames; it runs until it is told to stop.
//! Always holds: a slot is reused only when both its receive and its send have ended, so that no
//! completion can reach another connection than its own.

use std::alloc::{self, Layout};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::{Hub, Outbox, Session};

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 8192;

/// Provided buffers: their number (a power of two) and size.
const BUFFERS: u16 = 1024;
const BUFFER_BYTES: usize = 2048;
const BUFFER_GROUP: u16 = 0;

/// How often a turn looks for the rest of what a socket has, before it delivers what there is.
const LOOKS_MAX: usize = 16;

/// What an operation was, in the upper half of its `user_data`; the slot is in the lower one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Stop = 4,
}

const fn tag(operation: Operation, slot: u32) -> u64 {
    ((operation as u64) << 32) | slot as u64
}

/// One connection.
struct Slot {
    fd: OwnedFd,
    session: Session,
    outbox: Outbox,
    /// A multishot receive is armed.
    receives: bool,
    /// A send is on its way.
    sends: bool,
    /// The connection is over; it waits for its operations to end.
    over: bool,
}

/// Serves on `listener` until `stop` becomes readable: somebody wrote to its other end or closed it.
///
/// # Errors
///
/// When the ring cannot be set up or the kernel refuses to go on.
pub fn serve(listener: &TcpListener, stop: &OwnedFd) -> io::Result<()> {
    let mut server = Server {
        ring: ring()?,
        buffers: Buffers::new()?,
        hub: Hub::default(),
        slots: Vec::new(),
        free: Vec::new(),
        completions: Vec::new(),
        stopped: false,
    };
    server.buffers.register(&server.ring)?;
    server.arm_accept(listener);
    let stop = opcode::PollAdd::new(Fd(stop.as_raw_fd()), libc::POLLIN as u32)
        .build()
        .user_data(tag(Operation::Stop, 0));
    server.push(stop);
    while !server.stopped {
        server.turn(listener)?;
    }
    // The kernel may write to the buffers as long as a receive is armed.
    for slot in 0..server.slots.len() {
        server.end(slot as u32);
    }
    while server.slots.iter().any(Option::is_some) {
        server.turn(listener)?;
    }
    Ok(())
}

/// Whether this was a receive that left something in its socket.
fn has_more(completion: &cqueue::Entry) -> bool {
    completion.user_data() >> 32 == Operation::Receive as u64
        && cqueue::sock_nonempty(completion.flags())
}

/// A ring with everything that a single thread can use; with less where the kernel knows less.
fn ring() -> io::Result<IoUring> {
    let best = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS);
    best.or_else(|_| {
        IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
    })
}

struct Server {
    ring: IoUring,
    buffers: Buffers,
    hub: Hub,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// Completions taken from the ring and not yet looked at.
    completions: Vec<cqueue::Entry>,
    stopped: bool,
}

impl Server {
    /// Takes what has happened, then sends what came of it.
    ///
    /// A receive fills one buffer and says whether the socket has more, which comes with the next
    /// look. What a sender wrote at once has to be delivered at once: delivered in two halves it
    /// stays two halves for as long as the load lasts, and every member is sent to twice as often
    /// (10,000 members, 64 outstanding: 0.19 instead of 0.10 us a frame).
    fn turn(&mut self, listener: &TcpListener) -> io::Result<()> {
        let mut wanted = usize::from(self.completions.is_empty());
        for _ in 0..LOOKS_MAX {
            submit(|| self.ring.submit_and_wait(wanted))?;
            self.completions.extend(self.ring.completion());
            let completions = std::mem::take(&mut self.completions);
            for completion in &completions {
                self.on_completion(completion, listener);
            }
            self.buffers.publish();
            if !completions.iter().any(has_more) {
                break;
            }
            wanted = 0;
        }
        let mut hub = std::mem::take(&mut self.hub);
        hub.deliver(|slot, buffer| self.queue(slot, Rc::clone(buffer)));
        self.hub = hub;
        Ok(())
    }

    /// Puts an operation into the ring; when that is full, submits what is there first.
    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: the entries built here point into buffers that live until their completion:
            // those of sends are held by the slot's outbox, those of receives by `self.buffers`.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // What does not fit is tried again after the next look; an error that lasts shows up
            // in `turn`, which submits as well.
            let _ = submit(|| self.ring.submit());
            self.completions.extend(self.ring.completion());
        }
    }

    fn arm_accept(&mut self, listener: &TcpListener) {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(tag(Operation::Accept, 0));
        self.push(entry);
    }

    fn arm_receive(&mut self, slot: u32) {
        let Some(Some(connection)) = self.slots.get_mut(slot as usize) else {
            return;
        };
        connection.receives = true;
        let entry = opcode::RecvMulti::new(Fd(connection.fd.as_raw_fd()), BUFFER_GROUP)
            .build()
            .user_data(tag(Operation::Receive, slot));
        self.push(entry);
    }

    fn on_completion(&mut self, completion: &cqueue::Entry, listener: &TcpListener) {
        let slot = completion.user_data() as u32;
        match completion.user_data() >> 32 {
            kind if kind == Operation::Accept as u64 => {
                if completion.result() >= 0 {
                    self.on_accepted(completion.result());
                }
                if !cqueue::more(completion.flags()) && !self.stopped {
                    self.arm_accept(listener);
                }
            }
            kind if kind == Operation::Receive as u64 => self.on_received(slot, completion),
            kind if kind == Operation::Send as u64 => self.on_sent(slot, completion.result()),
            _ => self.stopped = true,
        }
    }

    fn on_accepted(&mut self, fd: i32) {
        // SAFETY: the kernel has just handed this descriptor over, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // A socket that refuses the option is slower, not wrong.
        let _ = socket2::SockRef::from(&fd).set_tcp_nodelay(true);
        let connection = Slot {
            fd,
            session: Session::default(),
            outbox: Outbox::default(),
            receives: false,
            sends: false,
            over: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(connection);
                slot
            }
            None => {
                self.slots.push(Some(connection));
                self.slots.len() as u32 - 1
            }
        };
        self.arm_receive(slot);
    }

    fn on_received(&mut self, slot: u32, completion: &cqueue::Entry) {
        let Some(Some(connection)) = self.slots.get_mut(slot as usize) else {
            return;
        };
        connection.receives = cqueue::more(completion.flags());
        let mut over = connection.over;
        if let Some(id) = cqueue::buffer_select(completion.flags()) {
            let bytes = self.buffers.bytes(id, completion.result().max(0) as usize);
            let mut reply = Vec::new();
            over |= self
                .hub
                .on_bytes(slot, &mut connection.session, bytes, &mut reply)
                .is_err();
            self.buffers.give_back(id);
            if !reply.is_empty() {
                self.queue(slot, Rc::new(reply));
            }
        }
        // ENOBUFS is no end: buffers come back in this turn.
        let starved = completion.result() == -libc::ENOBUFS;
        over |= completion.result() <= 0 && !starved;
        if over {
            self.end(slot);
        } else if !cqueue::more(completion.flags()) {
            self.buffers.publish();
            self.arm_receive(slot);
        }
    }

    /// Queues a buffer for a connection and starts to send it when nothing is on its way.
    fn queue(&mut self, slot: u32, buffer: Rc<Vec<u8>>) {
        if let Some(Some(connection)) = self.slots.get_mut(slot as usize)
            && !connection.over
            && connection.outbox.push(buffer)
        {
            self.send(slot);
        }
    }

    fn send(&mut self, slot: u32) {
        let Some(Some(connection)) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let Some(bytes) = connection.outbox.sending() else {
            return;
        };
        connection.sends = true;
        let entry = opcode::Send::new(
            Fd(connection.fd.as_raw_fd()),
            bytes.as_ptr(),
            bytes.len() as u32,
        )
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build()
        .user_data(tag(Operation::Send, slot));
        self.push(entry);
    }

    fn on_sent(&mut self, slot: u32, result: i32) {
        let Some(Some(connection)) = self.slots.get_mut(slot as usize) else {
            return;
        };
        connection.sends = false;
        if result <= 0 || connection.over {
            return self.end(slot);
        }
        if connection.outbox.on_sent(result as usize) {
            self.send(slot);
        }
    }

    /// Ends a connection: its operations are made to end, and the last one frees the slot.
    fn end(&mut self, slot: u32) {
        let Some(Some(connection)) = self.slots.get_mut(slot as usize) else {
            return;
        };
        if !connection.over {
            connection.over = true;
            self.hub.on_end(slot, &connection.session);
            // The other side may be gone already.
            let _ = socket2::SockRef::from(&connection.fd).shutdown(std::net::Shutdown::Both);
        }
        if !connection.receives && !connection.sends {
            self.slots[slot as usize] = None;
            self.free.push(slot);
        }
    }
}

/// An enter that a signal interrupts, or that finds the completion queue full, is not a failure.
fn submit(enter: impl Fn() -> io::Result<usize>) -> io::Result<()> {
    match enter() {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The provided-buffer ring (`io_uring_register_buf_ring(3)`) and the buffers in it.
struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: Box<[u8]>,
    tail: u16,
}

impl Buffers {
    fn layout() -> Layout {
        // The kernel wants whole pages.
        Layout::from_size_align(usize::from(BUFFERS) * size_of::<BufRingEntry>(), 4096)
            .expect("a page is a power of two")
    }

    fn new() -> io::Result<Self> {
        // SAFETY: the layout is not empty.
        let entries = unsafe { alloc::alloc_zeroed(Self::layout()) };
        Ok(Self {
            entries: NonNull::new(entries.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            memory: vec![0; usize::from(BUFFERS) * BUFFER_BYTES].into_boxed_slice(),
            tail: 0,
        })
    }

    /// Makes the ring known to the kernel, with every buffer in it.
    fn register(&mut self, ring: &IoUring) -> io::Result<()> {
        let address = self.entries.as_ptr() as u64;
        // SAFETY: the memory holds exactly `BUFFERS` entries on whole pages. `Server` drops its
        // ring, its first field, before its buffers, so that the kernel forgets them first.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, BUFFERS, BUFFER_GROUP, 0)
        }?;
        for id in 0..BUFFERS {
            self.give_back(id);
        }
        self.publish();
        Ok(())
    }

    fn bytes(&self, id: u16, count: usize) -> &[u8] {
        let start = usize::from(id) * BUFFER_BYTES;
        &self.memory[start..start + count]
    }

    /// Puts a buffer behind the tail; the kernel sees it at the next [`Buffers::publish`].
    fn give_back(&mut self, id: u16) {
        let index = usize::from(self.tail & (BUFFERS - 1));
        let start = usize::from(id) * BUFFER_BYTES;
        let address = self.memory[start..start + BUFFER_BYTES].as_mut_ptr() as u64;
        // SAFETY: the index is below `BUFFERS`, so the place is inside the allocation.
        let place = unsafe { self.entries.as_ptr().add(index) };
        // SAFETY: the place is valid, aligned and initialized with zeros, and the kernel reads only
        // entries before the published tail. Fields are set one by one: the tail itself lies in an
        // unused field of the first entry and must not be overwritten.
        let entry = unsafe { &mut *place };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the pointer is that of the ring's first, initialized entry.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is a valid, aligned u16 that the kernel only reads while we store.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, and freed once.
        unsafe { alloc::dealloc(self.entries.as_ptr().cast(), Self::layout()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bare::Running;
    use crate::link::Target;
    use crate::scenario::broadcast::{self, Plan};
    use crate::settings::Bench;

    #[test]
    fn members_get_everything_once_and_in_order() {
        let server = Running::start("bare-uring", 0, serve).unwrap();
        let target = Target::bare(server.address());
        let bench = Bench {
            cpus: vec![0],
            server: None,
        };
        for (topics, members, senders, outstanding, rate) in [
            (1, 50, 1, 8, None),
            (10, 5, 2, 4, None),
            (10, 5, 5, 1, Some(2000.0)),
        ] {
            let plan = Plan {
                members,
                topics,
                senders,
                outstanding,
                rate,
                seconds: 0.1,
                warm_up_seconds: 0.0,
                ..Plan::default()
            };
            let run = broadcast::run(&target, &plan, &bench).unwrap();
            assert_eq!(run.problems, [""; 0]);
            assert!(run.value("delivered").unwrap() > 0.0);
        }
        server.stop().unwrap();
    }
}
