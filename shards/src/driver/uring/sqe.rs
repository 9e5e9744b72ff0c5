//! Submission entries: how each operation is put to the kernel.

use std::os::fd::RawFd;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use super::buf_ring::GROUP;
use crate::driver::{Socket, Token};

/// Marks a socket that is an ordinary descriptor beside direct ones.
const ORDINARY: u32 = 1 << 31;

/// What a [`Socket`] is to the kernel.
#[derive(Copy, Clone)]
pub(super) enum Target {
    /// A place in the ring's own table.
    Direct(u32),
    /// A descriptor of the process.
    Ordinary(RawFd),
}

/// The handle of an ordinary descriptor.
pub(super) const fn ordinary(fd: RawFd, direct: bool) -> Socket {
    Socket(if direct {
        fd as u32 | ORDINARY
    } else {
        fd as u32
    })
}

/// Builds an entry for either kind of descriptor.
macro_rules! entry {
    ($target:expr, |$fd:ident| $entry:expr) => {
        match $target {
            Target::Direct(index) => {
                let $fd = types::Fixed(index);
                $entry
            }
            Target::Ordinary(fd) => {
                let $fd = types::Fd(fd);
                $entry
            }
        }
    };
}

impl Target {
    /// What `socket` is, on a ring with or without direct descriptors.
    pub(super) const fn new(socket: Socket, direct: bool) -> Self {
        if direct && socket.0 & ORDINARY == 0 {
            Self::Direct(socket.0)
        } else {
            Self::Ordinary((socket.0 & !ORDINARY) as RawFd)
        }
    }

    /// Receives until told otherwise, into buffers of the ring.
    pub(super) fn receive(self, token: Token) -> Entry {
        entry!(self, |fd| opcode::RecvMulti::new(fd, GROUP).build()).user_data(token.0)
    }

    /// Sends all of `bytes`: a short send is taken up again by the kernel.
    pub(super) fn send(self, bytes: &[u8], token: Token) -> Entry {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        entry!(self, |fd| opcode::Send::new(
            fd,
            bytes.as_ptr(),
            bytes.len() as u32
        )
        .flags(flags)
        .build())
        .user_data(token.0)
    }

    /// Half-closes. The kernel does this on a worker thread of the ring.
    pub(super) fn shut(self, token: Token) -> Entry {
        entry!(self, |fd| opcode::Shutdown::new(fd, libc::SHUT_WR).build()).user_data(token.0)
    }

    /// Closes; only a failure is reported.
    pub(super) fn close(self, token: Token) -> Entry {
        entry!(self, |fd| opcode::Close::new(fd).build())
            .flags(Flags::SKIP_SUCCESS)
            .user_data(token.0)
    }
}

/// Accepts until told otherwise.
pub(super) fn accept(listener: RawFd, direct: bool, token: Token) -> Entry {
    let accept = opcode::AcceptMulti::new(types::Fd(listener));
    // A direct descriptor has no close-on-exec flag: no other process can have it.
    let accept = if direct {
        accept.allocate_file_index(true)
    } else {
        accept.flags(libc::SOCK_CLOEXEC)
    };
    accept.build().user_data(token.0)
}

/// Ends the operation `which` early; only a failure is reported.
pub(super) fn cancel(which: Token, token: Token) -> Entry {
    opcode::AsyncCancel::new(which.0)
        .build()
        .flags(Flags::SKIP_SUCCESS)
        .user_data(token.0)
}

/// Makes an ordinary descriptor of a direct one.
pub(super) fn install(index: u32, token: Token) -> Entry {
    opcode::FixedFdInstall::new(types::Fixed(index), 0)
        .build()
        .user_data(token.0)
}

/// Puts a completion `letter` into another ring; only a failure is reported.
pub(super) fn ring(ring: RawFd, letter: Token, token: Token) -> Entry {
    let entry = opcode::MsgRingData::new(types::Fd(ring), 0, letter.0, None).build();
    entry.flags(Flags::SKIP_SUCCESS).user_data(token.0)
}

/// What is added to an eventfd's counter.
static ONE: [u8; 8] = 1_u64.to_ne_bytes();

/// Writes to an eventfd; only a failure is reported.
pub(super) fn wake(eventfd: RawFd, token: Token) -> Entry {
    let entry = opcode::Write::new(types::Fd(eventfd), ONE.as_ptr(), ONE.len() as u32).build();
    entry.flags(Flags::SKIP_SUCCESS).user_data(token.0)
}

/// Reports every write to an eventfd. Its counter is never read: each write wakes, and 2^64 of them do not happen.
pub(super) fn watch(eventfd: RawFd, token: Token) -> Entry {
    opcode::PollAdd::new(types::Fd(eventfd), libc::POLLIN as u32)
        .multi(true)
        .build()
        .user_data(token.0)
}
