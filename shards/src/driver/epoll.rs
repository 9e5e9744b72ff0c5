//! The epoll driver: the same events as the ring's, out of readiness, for systems that forbid `io_uring`.
//!
//! Level-triggered. A receive is interest in reading, kept until it ends; a send is tried at once and finished when the
//! socket is writable again. Events that an operation has at once wait in a list for the next [`Driver::wait`], so the
//! shard sees them exactly when it would see a completion. A shortage of receive buffers ends a receive with ENOBUFS,
//! as the ring's does.
#![expect(
    unsafe_code,
    reason = "epoll and raw descriptors: no safe crate among the dependencies covers them"
)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use super::{BUFFER_BYTES, BUFFER_COUNT, Driver, DriverKind, Event, LOOKS_MAX, Socket, Token};
use crate::ids::{ConnectionId, Tick};
use crate::mesh::{Bells, Node};
use crate::shared_bytes::LocalBytes;
use crate::table::Table;
use crate::wheel::Clock;

/// Readiness events taken per wait.
const READY_MAX: usize = 1024;

/// Receives of one socket per look: more would starve the others.
const RECEIVES_PER_READY_MAX: usize = 8;

/// Sockets accepted per wait and listener.
const ACCEPTS_PER_READY_MAX: usize = 64;

/// A shard's epoll instance.
pub(crate) struct Epoll {
    epoll: OwnedFd,
    listeners: Vec<TcpListener>,
    me: Node,
    bells: Arc<Bells>,
    clock: Clock,
    states: Table<State>,
    pending: Vec<Event>,
    ready: Vec<libc::epoll_event>,
    buffers: Vec<u8>,
    free: Vec<u16>,
    /// Buffers given to the shard in this wait.
    given: usize,
    /// A socket had more than one look takes.
    unfinished: bool,
}

/// Kinds of tokens.
mod kind {
    pub(super) const SOCKET: u8 = 1;
    pub(super) const LISTENER: u8 = 2;
    pub(super) const BELL: u8 = 3;
}

/// What is under way on a socket.
struct State {
    socket: Socket,
    /// What the kernel watches for.
    interest: u32,
    receiving: bool,
    send: Option<Sending>,
}

struct Sending {
    bytes: LocalBytes,
    start: u32,
    at: u32,
    end: u32,
}

impl Epoll {
    /// An instance that watches nothing but the doorbell yet.
    pub(crate) fn new(
        listeners: Vec<TcpListener>,
        me: Node,
        bells: Arc<Bells>,
        clock: Clock,
    ) -> io::Result<Self> {
        // JUSTIFICATION: there is no safe epoll in the dependencies.
        // SAFETY: no pointer is passed.
        let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let epoll = own(epoll);
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        let driver = Self {
            epoll,
            listeners,
            me,
            clock,
            states: Table::new(),
            pending: Vec::new(),
            // JUSTIFICATION: the array is filled by the kernel and has no other constructor.
            // SAFETY: epoll_event is plain data for which zero is a value.
            ready: vec![unsafe { zeroed() }; READY_MAX],
            buffers: vec![0; BUFFER_COUNT * BUFFER_BYTES],
            free: (0..BUFFER_COUNT as u16).rev().collect(),
            given: 0,
            unfinished: false,
            bells,
        };
        if let Some(bell) = driver.bells.eventfd(me) {
            driver.control(
                libc::EPOLL_CTL_ADD,
                bell.as_raw_fd(),
                libc::EPOLLIN as u32,
                Token::of_shard(kind::BELL, 0),
            )?;
        }
        Ok(driver)
    }

    fn control(&self, operation: i32, fd: RawFd, interest: u32, token: Token) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest,
            u64: token.0,
        };
        // JUSTIFICATION: there is no safe epoll in the dependencies.
        // SAFETY: `event` lives for the whole call; the kernel copies it.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) })
            .map(drop)
    }

    /// The state of a socket with an operation.
    fn open(&mut self, id: ConnectionId, socket: Socket) -> &mut State {
        if self.states.get(id).is_none() {
            self.states.insert(
                id,
                State {
                    socket,
                    interest: 0,
                    receiving: false,
                    send: None,
                },
            );
        }
        self.states.get_mut(id).expect("it was inserted above")
    }

    /// Watches for what is under way, and for nothing else: a socket that is watched for nothing would still report
    /// its end, in every wait.
    fn watch(&mut self, id: ConnectionId) {
        let Some(state) = self.states.get_mut(id) else {
            return;
        };
        let reading = if state.receiving {
            libc::EPOLLIN as u32
        } else {
            0
        };
        let writing = if state.send.is_some() {
            libc::EPOLLOUT as u32
        } else {
            0
        };
        let (before, after) = (state.interest, reading | writing);
        state.interest = after;
        let operation = match (before, after) {
            (before, after) if before == after => return,
            (0, _) => libc::EPOLL_CTL_ADD,
            (_, 0) => libc::EPOLL_CTL_DEL,
            _ => libc::EPOLL_CTL_MOD,
        };
        let fd = state.socket.0 as RawFd;
        let done = self.control(operation, fd, after, Token::new(kind::SOCKET, id));
        debug_assert!(done.is_ok(), "epoll refuses a socket of ours: {done:?}");
    }

    fn take_ready(&mut self, token: Token) {
        match token.kind() {
            kind::BELL => self.hear(),
            kind::LISTENER => self.accept_ready(token.detail() as u16),
            _ => {
                let id = token.id();
                if self.states.get(id).is_some_and(|state| state.receiving) {
                    self.receive_ready(id);
                }
                if self
                    .states
                    .get(id)
                    .is_some_and(|state| state.send.is_some())
                {
                    self.send_ready(id);
                }
            }
        }
    }

    fn hear(&mut self) {
        if let Some(bell) = self.bells.eventfd(self.me) {
            let mut count = [0_u8; size_of::<u64>()];
            // JUSTIFICATION: std reads through `File`, which owns; this is another's descriptor.
            // SAFETY: the buffer is valid for its length.
            let _ = unsafe { libc::read(bell.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
            self.pending.push(Event::Rung);
        }
    }

    fn accept_ready(&mut self, listener: u16) {
        let fd = self.listeners[usize::from(listener)].as_raw_fd();
        for _ in 0..ACCEPTS_PER_READY_MAX {
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // JUSTIFICATION: std's accept asks for the peer's address, which nobody wants, and leaves the socket
            // blocking: one system call more for each.
            // SAFETY: both pointers may be null.
            match check(unsafe {
                libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), flags)
            }) {
                Ok(socket) => self.pending.push(Event::Accepted(Socket(socket as u32))),
                Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                    libc::EAGAIN | libc::EINTR | libc::ECONNABORTED => return,
                    errno => {
                        let done = self.control(
                            libc::EPOLL_CTL_DEL,
                            fd,
                            0,
                            Token::of_shard(kind::LISTENER, listener.into()),
                        );
                        debug_assert!(done.is_ok(), "epoll refuses a listener of ours: {done:?}");
                        self.pending.push(Event::AcceptEnded { listener, errno });
                        return;
                    }
                },
            }
        }
    }

    fn receive_ready(&mut self, id: ConnectionId) {
        let Some(socket) = self.states.get(id).map(|state| state.socket) else {
            return;
        };
        for _ in 0..RECEIVES_PER_READY_MAX {
            let Some(&buffer) = self.free.last() else {
                // The others of this wait took them: they are back before the next one, which reports this socket
                // again. When the shard holds all of them, it would be reported without end.
                if self.given == 0 {
                    self.end_receive(id, libc::ENOBUFS);
                }
                return;
            };
            let target = &mut self.buffers[usize::from(buffer) * BUFFER_BYTES..][..BUFFER_BYTES];
            // JUSTIFICATION: std's streams own their descriptor; the shard's sockets are numbers.
            // SAFETY: the buffer is valid for its length.
            let got = unsafe {
                libc::recv(
                    socket.0 as RawFd,
                    target.as_mut_ptr().cast(),
                    target.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            match check_size(got) {
                Ok(0) => return self.end_receive(id, 0),
                Ok(length) => {
                    self.free.pop();
                    self.given += 1;
                    self.pending.push(Event::Received {
                        id,
                        buffer,
                        length: length as u32,
                        more: true,
                    });
                    if length < BUFFER_BYTES {
                        return;
                    }
                }
                Err(libc::EAGAIN | libc::EINTR) => return,
                Err(errno) => return self.end_receive(id, errno),
            }
        }
        self.unfinished = true;
    }

    /// Waits for readiness and takes what is ready.
    fn look(&mut self, timeout_ms: i32) {
        // JUSTIFICATION: there is no safe epoll in the dependencies.
        // SAFETY: the array is valid for READY_MAX events.
        let count = check(unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.ready.as_mut_ptr(),
                READY_MAX as i32,
                timeout_ms,
            )
        });
        self.unfinished = false;
        // EINTR is the only error that can happen; nothing is ready then.
        for ready in 0..count.unwrap_or(0) {
            self.take_ready(Token(self.ready[ready as usize].u64));
        }
    }

    fn end_receive(&mut self, id: ConnectionId, errno: i32) {
        let Some(state) = self.states.get_mut(id).filter(|state| state.receiving) else {
            return;
        };
        state.receiving = false;
        self.watch(id);
        self.pending.push(Event::Ended { id, errno });
    }

    fn send_ready(&mut self, id: ConnectionId) {
        let Some(state) = self.states.get_mut(id) else {
            return;
        };
        let socket = state.socket;
        let Some(send) = state.send.as_mut() else {
            return;
        };
        let mut failure = None;
        while send.at < send.end {
            let rest = &send.bytes[send.at as usize..send.end as usize];
            let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
            // JUSTIFICATION: std's streams own their descriptor; the shard's sockets are numbers.
            // SAFETY: the bytes are valid for their length.
            match check_size(unsafe {
                libc::send(socket.0 as RawFd, rest.as_ptr().cast(), rest.len(), flags)
            }) {
                Ok(count) => send.at += count as u32,
                Err(libc::EINTR) => {}
                Err(libc::EAGAIN) => return self.watch(id),
                Err(errno) => {
                    failure = Some(errno);
                    break;
                }
            }
        }
        self.end_send(id, failure);
    }

    fn end_send(&mut self, id: ConnectionId, failure: Option<i32>) {
        let Some(send) = self.states.get_mut(id).and_then(|state| state.send.take()) else {
            return;
        };
        self.watch(id);
        let count = send.at - send.start;
        let result = match failure {
            Some(errno) if count == 0 => Err(errno),
            _ => Ok(count),
        };
        self.pending.push(Event::Sent {
            id,
            bytes: send.bytes,
            result,
        });
    }
}

impl Driver for Epoll {
    fn kind(&self) -> DriverKind {
        DriverKind::Epoll
    }

    fn now(&self) -> (Tick, u64) {
        (self.clock.now(), self.clock.unix_ms())
    }

    fn accept(&mut self, listener: u16) {
        let fd = self.listeners[usize::from(listener)].as_raw_fd();
        let token = Token::of_shard(kind::LISTENER, listener.into());
        if let Err(error) = self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32, token) {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            self.pending.push(Event::AcceptEnded { listener, errno });
        }
    }

    fn sockets_max(&self) -> Option<usize> {
        None
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Socket> {
        SockRef::from(&socket).set_nonblocking(true)?;
        Ok(Socket(socket.into_raw_fd() as u32))
    }

    fn receive(&mut self, id: ConnectionId, socket: Socket) {
        self.open(id, socket).receiving = true;
        self.watch(id);
    }

    fn send(&mut self, id: ConnectionId, socket: Socket, bytes: LocalBytes, start: u32, end: u32) {
        self.open(id, socket).send = Some(Sending {
            bytes,
            start,
            at: start,
            end,
        });
        self.send_ready(id);
    }

    fn cancel_receive(&mut self, id: ConnectionId, _socket: Socket) {
        self.end_receive(id, libc::ECANCELED);
    }

    fn cancel_send(&mut self, id: ConnectionId, _socket: Socket) {
        self.end_send(id, Some(libc::ECANCELED));
    }

    fn shut(&mut self, id: ConnectionId, socket: Socket) {
        // JUSTIFICATION: the descriptor is a number here; borrowing it gives socket2's safe shutdown.
        // SAFETY: the shard closes a socket only after its last operation, so it is open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(socket.0 as RawFd) };
        // A socket that cannot be shut down is not connected any more, and the receive says so.
        let _ = SockRef::from(&borrowed).shutdown(std::net::Shutdown::Write);
        self.pending.push(Event::Shut { id });
    }

    fn detach(&mut self, id: ConnectionId, socket: Socket) {
        // JUSTIFICATION: the descriptor is a number here; borrowing it gives std's safe duplication.
        // SAFETY: the shard closes a socket only after its last operation, so it is open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(socket.0 as RawFd) };
        let result = borrowed
            .try_clone_to_owned()
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
        self.pending.push(Event::Detached { id, result });
    }

    fn close(&mut self, id: Option<ConnectionId>, socket: Socket) {
        if let Some(id) = id {
            self.states.remove(id);
        }
        drop(own(socket.0 as RawFd));
    }

    fn ring(&mut self, node: Node) {
        self.bells.wake(node);
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) {
        let timeout_ms = match timeout {
            _ if !self.pending.is_empty() => 0,
            None => -1,
            // Rounded up: a timer that is woken for too early would be woken for again and again.
            Some(timeout) => {
                i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
            }
        };
        self.given = 0;
        self.look(timeout_ms);
        for _ in 0..LOOKS_MAX {
            if !self.unfinished || self.free.len() < BUFFER_COUNT / 2 {
                break;
            }
            self.look(0);
        }
        events.append(&mut self.pending);
    }

    fn buffer(&mut self, buffer: u16, length: u32) -> &mut [u8] {
        &mut self.buffers[usize::from(buffer) * BUFFER_BYTES..][..length as usize]
    }

    fn recycle(&mut self, buffer: u16) {
        debug_assert!(
            self.free.len() < BUFFER_COUNT,
            "buffer {buffer} is given back twice"
        );
        self.free.push(buffer);
    }

    fn buffers_free(&self) -> usize {
        self.free.len()
    }
}

/// A descriptor to wake a thread with.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // JUSTIFICATION: there is no safe eventfd in the dependencies.
    // SAFETY: no pointer is passed.
    check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).map(own)
}

/// Takes a descriptor that nobody else owns.
fn own(fd: RawFd) -> OwnedFd {
    // JUSTIFICATION: the kernel's answers and the shard's handles are numbers.
    // SAFETY: every caller has just got `fd` from the kernel, or is the driver that got it and gives it up now.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The result of a system call.
fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The result of a system call that counts bytes, or its errno.
fn check_size(result: isize) -> Result<usize, i32> {
    usize::try_from(result).map_err(|_| {
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)
    })
}
