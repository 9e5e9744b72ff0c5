//! The control thread's end of the mesh.
//!
//! The control thread is not the runtime's: it waits with whatever it likes for the port's descriptor to become
//! readable, and calls in.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use crate::ids::{Peer, ShardId};
use crate::mesh::{Incoming, Outgoing};
use crate::topology;

/// Mailboxes to and from every shard. Its owner receives until there is nothing, calls [`ControlPort::arm`], waits for
/// the descriptor to be readable if that said so, and calls [`ControlPort::disarm`].
///
/// ```text
/// loop {
///     while let Some((shard, mail)) = port.receive() { … }
///     if port.arm() { wait until port.doorbell() is readable, or something else happens }
///     port.disarm();
/// }
/// ```
pub struct ControlPort<M> {
    outgoing: Outgoing<M>,
    incoming: Incoming<M>,
    bell: Option<File>,
    cpu: Option<usize>,
    next: usize,
}

impl<M: Send> ControlPort<M> {
    pub(crate) fn new(
        mailboxes: (Outgoing<M>, Incoming<M>),
        cpu: Option<usize>,
    ) -> io::Result<Self> {
        let (outgoing, incoming) = mailboxes;
        let bell = match outgoing.bells().eventfd(outgoing.me()) {
            Some(fd) => Some(File::from(fd.try_clone_to_owned()?)),
            None => None,
        };
        Ok(Self {
            outgoing,
            incoming,
            bell,
            cpu,
            next: 0,
        })
    }

    /// How many shards there are.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.incoming.count()
    }

    /// Sends a letter; it is never refused. What finds its mailbox full is kept here, in order, and the shard rings
    /// when it has made room.
    pub fn send(&mut self, to: ShardId, mail: M) {
        self.outgoing.retry();
        let node = self.outgoing.node(Peer::Shard(to));
        self.outgoing.post(node, mail);
        self.ring();
    }

    /// Takes a letter, from each shard in turn; letters of one shard come in the order they were sent.
    pub fn receive(&mut self) -> Option<(ShardId, M)> {
        self.outgoing.retry();
        self.ring();
        for _ in 0..self.incoming.count() {
            let index = self.next;
            self.next = (self.next + 1) % self.incoming.count();
            if let Some(mail) = self.incoming.take(index) {
                let bells = self.outgoing.bells();
                self.incoming.for_each_to_ring(|node| bells.wake(node));
                return Some((ShardId(self.incoming.waiting(index).0.0), mail));
            }
        }
        None
    }

    /// Letters that wait here because a mailbox was full.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.outgoing.spilled()
    }

    /// The descriptor that becomes readable when a shard rings: an eventfd, non-blocking. In a simulation there is
    /// none.
    #[must_use]
    pub fn doorbell(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(AsFd::as_fd)
    }

    /// Says that the control thread is about to sleep. Returns whether it may: if not, there is mail to receive.
    pub fn arm(&mut self) -> bool {
        self.outgoing.retry();
        self.ring();
        let doorbell = self.outgoing.bells().doorbell(self.outgoing.me());
        doorbell.asleep();
        if self.incoming.is_empty() && !self.outgoing.can_retry() {
            return true;
        }
        doorbell.awake();
        false
    }

    /// Says that the control thread is awake, and takes the ring out of the descriptor. Needed after every
    /// [`ControlPort::arm`], harmless otherwise.
    pub fn disarm(&mut self) {
        self.outgoing.bells().doorbell(self.outgoing.me()).awake();
        if let Some(bell) = &mut self.bell {
            // EAGAIN: nobody rang.
            let _ = bell.read(&mut [0; 8]);
        }
    }

    /// Pins the calling thread to the core that the placement kept for control.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn pin_current_thread(&self) -> io::Result<()> {
        topology::pin(self.cpu)
    }

    fn ring(&mut self) {
        let bells = self.outgoing.bells().clone();
        self.outgoing.for_each_to_ring(|node| bells.wake(node));
    }
}
