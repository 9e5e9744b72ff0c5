//! The ring driver: one `io_uring` per shard, entered once per turn.
//!
//! Sockets are direct descriptors where the kernel can turn one back into an ordinary one (6.8); the limit of open files
//! then holds per ring and not for the whole process. Adopted sockets stay ordinary: they are few, and were ordinary
//! before. Receives are multishot, out of a ring of provided buffers; an idle connection holds none.
//!
//! # Invariants
//!
//! - The bytes of a send stay in `in_flight` until its completion; the kernel reads them until then, whatever happens to
//!   the connection.
//! - Nothing is submitted that points to memory of a shorter life than the ring.
#![expect(
    unsafe_code,
    reason = "submission entries point to memory that the kernel uses later"
)]

mod buf_ring;
mod open;
mod sqe;

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::CancelBuilder;
use io_uring::{IoUring, cqueue, squeue};
use socket2::SockRef;

use super::{Driver, DriverKind, Event, LOOKS_MAX, Socket, Token};
use crate::ids::{ConnectionId, Tick};
use crate::mesh::{Bells, Node};
use crate::options::Options;
use crate::shared_bytes::LocalBytes;
use crate::table::Table;
use crate::wheel::Clock;
use buf_ring::BufRing;
pub(crate) use open::why_refused;
use open::{Enter, Opened};

/// Kinds of tokens.
mod kind {
    pub(super) const RECEIVE: u8 = 1;
    pub(super) const SEND: u8 = 2;
    pub(super) const SHUT: u8 = 3;
    pub(super) const DETACH: u8 = 4;
    pub(super) const CANCEL: u8 = 5;
    pub(super) const CLOSE: u8 = 6;
    pub(super) const ACCEPT: u8 = 7;
    /// A letter of another ring.
    pub(super) const BELL: u8 = 8;
    /// The own eventfd is readable.
    pub(super) const EVENTFD: u8 = 9;
    /// A letter to another ring; comes back only when it failed.
    pub(super) const RING: u8 = 10;
    /// A write to another's eventfd; comes back only when it failed.
    pub(super) const WAKE: u8 = 11;
}

/// A shard's ring.
pub(crate) struct Uring {
    // Dropped in this order: the ring before the memory it works on.
    ring: IoUring,
    enter: Enter,
    buffers: BufRing,
    in_flight: Table<LocalBytes>,
    listeners: Vec<TcpListener>,
    /// Size of the table of direct descriptors; `None`: sockets are ordinary ones.
    direct: Option<u32>,
    me: Node,
    bells: Arc<Bells>,
    clock: Clock,
    pending: Vec<Event>,
    /// The eventfd must be watched (again).
    deaf: bool,
    /// A receive that was drained left something in its socket.
    unfinished: bool,
    overflows: u64,
}

impl Uring {
    /// A ring with everything registered, to be used by the calling thread only.
    pub(crate) fn new(
        listeners: Vec<TcpListener>,
        options: &Options,
        me: Node,
        bells: Arc<Bells>,
        clock: Clock,
    ) -> io::Result<Self> {
        let Opened {
            ring,
            enter,
            buffers,
            direct,
        } = open::open(options)?;
        for listener in &listeners {
            // The ring waits itself; a non-blocking file would make it fail with EAGAIN instead.
            listener.set_nonblocking(false)?;
        }
        bells.set_ring_fd(me, Some(ring.as_raw_fd()));
        Ok(Self {
            ring,
            enter,
            buffers,
            in_flight: Table::new(),
            listeners,
            direct,
            me,
            bells,
            clock,
            pending: Vec::new(),
            deaf: true,
            unfinished: false,
            overflows: 0,
        })
    }

    /// Puts an entry into the submission queue; when that is full, the kernel takes what is in it first.
    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // JUSTIFICATION: submission is unsafe by nature.
            // SAFETY: entries are made in this module only; what they point to is the bytes in `in_flight`, which stay
            // until the completion, and statics.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            self.buffers.publish();
            self.enter.enter(&mut self.ring, 0, None);
            self.drain();
        }
    }

    /// Turns the completions that are there into events.
    fn drain(&mut self) {
        let Self {
            ring,
            buffers,
            in_flight,
            pending,
            deaf,
            unfinished,
            bells,
            overflows,
            ..
        } = self;
        *overflows += u64::from(ring.submission().cq_overflow());
        for cqe in ring.completion() {
            let token = Token(cqe.user_data());
            let (result, more) = (cqe.result(), cqueue::more(cqe.flags()));
            match token.kind() {
                kind::RECEIVE => {
                    *unfinished |= cqueue::sock_nonempty(cqe.flags());
                    let buffer = cqueue::buffer_select(cqe.flags());
                    pending.push(received(token.id(), result, more, buffer, buffers));
                }
                kind::SEND => {
                    let id = token.id();
                    let bytes = in_flight
                        .remove(id)
                        .expect("a send has its bytes until its completion");
                    let result = u32::try_from(result).map_err(|_| -result);
                    pending.push(Event::Sent { id, bytes, result });
                }
                kind::ACCEPT => {
                    if result >= 0 {
                        pending.push(Event::Accepted(Socket(result as u32)));
                    }
                    if !more {
                        let errno = if result < 0 { -result } else { 0 };
                        pending.push(Event::AcceptEnded {
                            listener: token.detail() as u16,
                            errno,
                        });
                    }
                }
                kind::BELL => pending.push(Event::Rung),
                kind::EVENTFD => {
                    *deaf |= !more;
                    pending.push(Event::Rung);
                }
                kind::SHUT => pending.push(Event::Shut { id: token.id() }),
                kind::DETACH => pending.push(Event::Detached {
                    id: token.id(),
                    result: installed(result),
                }),
                // The ring of the other is gone or its queue is full: its eventfd is always there.
                kind::RING => bells.wake(Node(token.detail() as u16)),
                // What could not be cancelled has ended; what could not be closed or woken was not there.
                kind::CANCEL | kind::CLOSE | kind::WAKE => {}
                unknown => unreachable!("a completion of kind {unknown} that was never submitted"),
            }
        }
    }

    /// Takes the rest of what the peers have sent (see [`Driver::wait`]). Without a receive that left something behind
    /// this does nothing, and when nothing has come since it enters the kernel no more than that.
    fn look_again(&mut self) {
        for _ in 0..LOOKS_MAX {
            if !std::mem::take(&mut self.unfinished) || self.buffers.is_short() {
                return;
            }
            self.enter.enter(&mut self.ring, 0, None);
            self.drain();
        }
    }

    fn target(&self, socket: Socket) -> sqe::Target {
        sqe::Target::new(socket, self.direct.is_some())
    }
}

/// The event of a receive's completion.
fn received(
    id: ConnectionId,
    result: i32,
    more: bool,
    buffer: Option<u16>,
    buffers: &mut BufRing,
) -> Event {
    if let Some(buffer) = buffer {
        buffers.taken();
        if result > 0 {
            return Event::Received {
                id,
                buffer,
                length: result as u32,
                more,
            };
        }
        buffers.recycle(buffer);
    }
    Event::Ended { id, errno: -result }
}

/// The ordinary descriptor that a direct one was turned into.
fn installed(result: i32) -> Result<OwnedFd, i32> {
    if result < 0 {
        return Err(-result);
    }
    // JUSTIFICATION: the kernel's answer is a number.
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(result) };
    non_blocking(fd)
}

/// Outside of a ring, sockets are used without waiting.
fn non_blocking(fd: OwnedFd) -> Result<OwnedFd, i32> {
    match SockRef::from(&fd).set_nonblocking(true) {
        Ok(()) => Ok(fd),
        Err(error) => Err(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

impl Driver for Uring {
    fn kind(&self) -> DriverKind {
        DriverKind::Uring
    }

    fn now(&self) -> (Tick, u64) {
        (self.clock.now(), self.clock.unix_ms())
    }

    fn accept(&mut self, listener: u16) {
        let fd = self.listeners[usize::from(listener)].as_raw_fd();
        let token = Token::of_shard(kind::ACCEPT, listener.into());
        self.push(&sqe::accept(fd, self.direct.is_some(), token));
    }

    fn sockets_max(&self) -> Option<usize> {
        self.direct.map(|count| count as usize)
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Socket> {
        SockRef::from(&socket).set_nonblocking(false)?;
        Ok(sqe::ordinary(socket.into_raw_fd(), self.direct.is_some()))
    }

    fn receive(&mut self, id: ConnectionId, socket: Socket) {
        let entry = self.target(socket).receive(Token::new(kind::RECEIVE, id));
        self.push(&entry);
    }

    fn send(&mut self, id: ConnectionId, socket: Socket, bytes: LocalBytes, start: u32, end: u32) {
        let entry = self.target(socket).send(
            &bytes[start as usize..end as usize],
            Token::new(kind::SEND, id),
        );
        let before = self.in_flight.insert(id, bytes);
        assert!(
            before.is_none(),
            "a second send while the first is with the kernel"
        );
        self.push(&entry);
    }

    fn cancel_receive(&mut self, id: ConnectionId, _socket: Socket) {
        self.push(&sqe::cancel(
            Token::new(kind::RECEIVE, id),
            Token::new(kind::CANCEL, id),
        ));
    }

    fn cancel_send(&mut self, id: ConnectionId, _socket: Socket) {
        self.push(&sqe::cancel(
            Token::new(kind::SEND, id),
            Token::new(kind::CANCEL, id),
        ));
    }

    fn shut(&mut self, id: ConnectionId, socket: Socket) {
        let entry = self.target(socket).shut(Token::new(kind::SHUT, id));
        self.push(&entry);
    }

    fn detach(&mut self, id: ConnectionId, socket: Socket) {
        match self.target(socket) {
            sqe::Target::Direct(index) => {
                self.push(&sqe::install(index, Token::new(kind::DETACH, id)))
            }
            sqe::Target::Ordinary(fd) => {
                let result = duplicate(fd).and_then(non_blocking);
                self.pending.push(Event::Detached { id, result });
            }
        }
    }

    fn close(&mut self, _id: Option<ConnectionId>, socket: Socket) {
        let entry = self.target(socket).close(Token::of_shard(kind::CLOSE, 0));
        self.push(&entry);
    }

    fn ring(&mut self, node: Node) {
        if let Some(fd) = self.bells.ring_fd(node) {
            let token = Token::of_shard(kind::RING, node.0.into());
            self.push(&sqe::ring(fd, Token::of_shard(kind::BELL, 0), token));
        } else if let Some(fd) = self.bells.eventfd(node).map(|fd| fd.as_raw_fd()) {
            self.push(&sqe::wake(fd, Token::of_shard(kind::WAKE, 0)));
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) {
        if std::mem::take(&mut self.deaf)
            && let Some(fd) = self.bells.eventfd(self.me).map(|fd| fd.as_raw_fd())
        {
            self.push(&sqe::watch(fd, Token::of_shard(kind::EVENTFD, 0)));
        }
        self.buffers.publish();
        let waits = timeout != Some(Duration::ZERO) && self.pending.is_empty();
        if waits {
            self.enter.enter(&mut self.ring, 1, timeout);
        } else {
            self.enter.enter(&mut self.ring, 0, None);
        }
        self.drain();
        self.look_again();
        if events.is_empty() {
            // Nearly always. The two vectors take turns, and no event is copied.
            std::mem::swap(events, &mut self.pending);
        } else {
            events.append(&mut self.pending);
        }
    }

    fn buffer(&mut self, buffer: u16, length: u32) -> &mut [u8] {
        self.buffers.bytes(buffer, length)
    }

    fn recycle(&mut self, buffer: u16) {
        self.buffers.recycle(buffer);
    }

    fn buffers_free(&self) -> usize {
        self.buffers.free()
    }

    fn overflows(&self) -> u64 {
        self.overflows
    }
}

/// A second descriptor of an ordinary socket.
fn duplicate(fd: RawFd) -> Result<OwnedFd, i32> {
    // JUSTIFICATION: the descriptor is a number here; borrowing it gives std's safe duplication.
    // SAFETY: the shard closes a socket only after its last operation, so it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed
        .try_clone_to_owned()
        .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}

/// How long the end of a ring waits for what is still under way.
const CANCEL_WAIT: Duration = Duration::from_millis(100);

impl Drop for Uring {
    fn drop(&mut self) {
        self.bells.set_ring_fd(self.me, None);
        // The memory goes right after the ring: nothing may be under way that uses it. Nothing found (ENOENT) is the
        // usual answer.
        let _ = self
            .ring
            .submitter()
            .register_sync_cancel(Some(CANCEL_WAIT.into()), CancelBuilder::any());
    }
}
