//! The kernel behind one trait, so that nothing above can tell which one it is.
//!
//! What comes in: operations on sockets, each named by the connection it is for. What goes out: [`Event`]s, in the
//! order the kernel gave them. What always holds:
//!
//! - every operation is answered by exactly one event, except a receive (any number; the last one is
//!   [`Event::Ended`] or has `more` unset), an accept (likewise), and a cancel, a close and a ring (none);
//! - the bytes of a send are held by the driver until its event gives them back;
//! - a receive buffer belongs to the shard from its event until [`Driver::recycle`].
//!
//! Absent: policy. What to do about a failed operation is the shard's business.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::ids::{ConnectionId, Tick};
use crate::mesh::Node;
use crate::shared_bytes::LocalBytes;
use crate::slab::CAPACITY_MAX;

pub(crate) mod epoll;
pub(crate) mod sim;
pub(crate) mod uring;

/// What the driver calls a socket: a descriptor or an index of its own.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct Socket(pub(crate) u32);

impl Socket {
    /// No socket.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// Receive buffers of a shard: a power of two, as the ring of buffers demands.
pub(crate) const BUFFER_COUNT: usize = 1024;

/// Bytes of a receive buffer.
pub(crate) const BUFFER_BYTES: usize = 2048;

/// How often a wait looks again for the rest of what sockets had to give, without sleeping, before the shard gets what
/// there is. The rest then comes with the next turn.
pub(crate) const LOOKS_MAX: usize = 16;

/// What comes back with a completion: a kind of 8 bits, a slot's index of 24 and its generation of 32.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct Token(pub(crate) u64);

impl Token {
    /// An operation of a connection.
    pub(crate) fn new(kind: u8, id: ConnectionId) -> Self {
        assert!(
            (id.index() as usize) < CAPACITY_MAX,
            "an index takes 24 bits"
        );
        Self(u64::from(kind) << 56 | u64::from(id.index()) << 32 | u64::from(id.generation()))
    }

    /// An operation that is no connection's; `detail` says more.
    pub(crate) const fn of_shard(kind: u8, detail: u32) -> Self {
        Self((kind as u64) << 56 | detail as u64)
    }

    /// What kind of operation it was.
    pub(crate) const fn kind(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// The connection.
    pub(crate) const fn id(self) -> ConnectionId {
        ConnectionId::new(
            (self.0 >> 32) as u32 & (CAPACITY_MAX as u32 - 1),
            self.0 as u32,
        )
    }

    /// What `of_shard` was told.
    pub(crate) const fn detail(self) -> u32 {
        self.0 as u32
    }
}

/// Which kernel interface a shard runs on.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum DriverKind {
    /// `io_uring`.
    Uring,
    /// `epoll`, where `io_uring` is forbidden or missing.
    Epoll,
    /// A simulated kernel.
    Sim,
}

/// One thing the kernel has to say.
#[derive(Debug)]
pub(crate) enum Event {
    /// A socket was accepted.
    Accepted(Socket),
    /// Accepting on this listener ended with an errno; it must be asked for again.
    AcceptEnded {
        /// The listener's place in the list.
        listener: u16,
        /// Why, or 0.
        errno: i32,
    },
    /// Bytes arrived.
    Received {
        /// For whom.
        id: ConnectionId,
        /// The buffer they are in.
        buffer: u16,
        /// How many.
        length: u32,
        /// Whether the receive goes on by itself.
        more: bool,
    },
    /// The receive ended without bytes: 0 for a FIN, or an errno.
    Ended {
        /// For whom.
        id: ConnectionId,
        /// Why.
        errno: i32,
    },
    /// The send ended.
    Sent {
        /// For whom.
        id: ConnectionId,
        /// What was sent, given back.
        bytes: LocalBytes,
        /// How many bytes of it the kernel took, or an errno.
        result: Result<u32, i32>,
    },
    /// The half-close ended; a failure is of no interest, because the receive says so as well.
    Shut {
        /// For whom.
        id: ConnectionId,
    },
    /// The socket is an ordinary descriptor now, or could not be made one; the driver's own handle stays open.
    Detached {
        /// For whom.
        id: ConnectionId,
        /// The descriptor, or an errno.
        result: Result<OwnedFd, i32>,
    },
    /// Another thread rang.
    Rung,
}

/// A kernel, as one shard sees it.
pub(crate) trait Driver {
    /// Which one it is.
    fn kind(&self) -> DriverKind;

    /// Monotonic time, and milliseconds since 1970.
    fn now(&self) -> (Tick, u64);

    /// Accepts sockets from listener number `listener` until it says otherwise.
    fn accept(&mut self, listener: u16);

    /// How many sockets can be accepted at most at the same time, if the driver has a limit of its own.
    fn sockets_max(&self) -> Option<usize>;

    /// Makes an ordinary descriptor a socket of this driver.
    ///
    /// # Errors
    ///
    /// What the kernel says; the descriptor is closed.
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Socket>;

    /// Receives from `socket` until it says otherwise.
    fn receive(&mut self, id: ConnectionId, socket: Socket);

    /// Sends a part of `bytes`.
    fn send(&mut self, id: ConnectionId, socket: Socket, bytes: LocalBytes, start: u32, end: u32);

    /// Ends a receive early.
    fn cancel_receive(&mut self, id: ConnectionId, socket: Socket);

    /// Ends a send early.
    fn cancel_send(&mut self, id: ConnectionId, socket: Socket);

    /// Half-closes: the peer sees a FIN after the last byte.
    fn shut(&mut self, id: ConnectionId, socket: Socket);

    /// Asks for an ordinary descriptor of the socket.
    fn detach(&mut self, id: ConnectionId, socket: Socket);

    /// Closes the socket; none of its operations is under way. There is no `id` for one that was never given a slot.
    fn close(&mut self, id: Option<ConnectionId>, socket: Socket);

    /// Wakes another thread, which has said that it sleeps.
    fn ring(&mut self, node: Node);

    /// Hands everything over to the kernel, waits for an event for at most `timeout` (for ever, if there is none) and
    /// appends what there is.
    ///
    /// What a peer has sent at once should be one wait's events: delivered in two halves it is answered in two halves,
    /// each of which costs a send for every member, and a peer that goes by the answers keeps the halves apart for
    /// ever. So a wait that took only a part of what a socket had looks again, at most [`LOOKS_MAX`] times, and not
    /// when more than half of the receive buffers are the shard's.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>);

    /// The bytes of a receive.
    fn buffer(&mut self, buffer: u16, length: u32) -> &mut [u8];

    /// Gives a receive buffer back.
    fn recycle(&mut self, buffer: u16);

    /// How many receive buffers the kernel has, as far as is known.
    fn buffers_free(&self) -> usize;

    /// How often completions did not fit into their queue.
    fn overflows(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_brings_back_what_was_put_in() {
        for id in [
            ConnectionId::new(0, 0),
            ConnectionId::new(CAPACITY_MAX as u32 - 1, u32::MAX),
        ] {
            let token = Token::new(255, id);
            assert_eq!((token.kind(), token.id()), (255, id));
        }
        let token = Token::of_shard(3, 70_000);
        assert_eq!((token.kind(), token.detail()), (3, 70_000));
    }
}
