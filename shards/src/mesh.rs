//! Shard to shard, and shards to control: one bounded mailbox per ordered pair of threads, one doorbell per thread.
//!
//! What comes in: letters for a [`Node`]. What goes out: the same letters, at that node, in order. What always holds:
//!
//! - Nothing is lost and nothing overtakes: a letter that finds its mailbox full waits in a spill queue at the sender,
//!   and so does every later one for the same mailbox. (`a_full_mailbox_spills_and_keeps_the_order`)
//! - A thread that waits for room in a mailbox is rung by whoever makes room.
//!
//! Absent: a bound on the spill. Whoever fills it takes no more input while what waits for shards is above a mark
//! (`shard.rs`); what is under way already must go somewhere. What waits for control never holds up input: a shard can do
//! without control, so the product asks how much waits ([`Outgoing::spilled_to_control`]) and says less.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::atomic::{AtomicBool, AtomicI32, Ordering, fence};
use crate::doorbell::Doorbell;
use crate::ids::{Peer, ShardId};

/// A thread of the mesh: the shards from 0, then control.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct Node(pub(crate) u16);

/// What one thread shows the others: on a cache line of its own, because every sender reads it.
#[repr(align(64))]
struct Bell {
    doorbell: Doorbell,
    /// Has mail that found its mailbox full.
    starving: AtomicBool,
    /// Was rung, where there is no descriptor to do it (in a simulation).
    rung: AtomicBool,
    /// The ring that a letter between rings can be sent to, or -1.
    ring_fd: AtomicI32,
    /// Wakes the thread whatever it waits with.
    eventfd: Option<File>,
}

/// The doorbells of all threads.
pub(crate) struct Bells {
    bells: Box<[Bell]>,
}

impl Bells {
    /// One bell per node; `eventfds` has as many entries.
    pub(crate) fn new(eventfds: Vec<Option<OwnedFd>>) -> Arc<Self> {
        let bell = |eventfd: Option<OwnedFd>| Bell {
            doorbell: Doorbell::new(),
            starving: AtomicBool::new(false),
            rung: AtomicBool::new(false),
            ring_fd: AtomicI32::new(-1),
            eventfd: eventfd.map(File::from),
        };
        Arc::new(Self {
            bells: eventfds.into_iter().map(bell).collect(),
        })
    }

    fn at(&self, node: Node) -> &Bell {
        &self.bells[usize::from(node.0)]
    }

    /// The doorbell of `node`.
    pub(crate) fn doorbell(&self, node: Node) -> &Doorbell {
        &self.at(node).doorbell
    }

    /// The descriptor `node` is woken by.
    pub(crate) fn eventfd(&self, node: Node) -> Option<BorrowedFd<'_>> {
        self.at(node).eventfd.as_ref().map(AsFd::as_fd)
    }

    /// The ring of `node`, once it has told.
    pub(crate) fn ring_fd(&self, node: Node) -> Option<i32> {
        let fd = self.at(node).ring_fd.load(Ordering::Acquire);
        (fd >= 0).then_some(fd)
    }

    /// Tells the others the ring of `node`.
    pub(crate) fn set_ring_fd(&self, node: Node, fd: Option<i32>) {
        self.at(node)
            .ring_fd
            .store(fd.unwrap_or(-1), Ordering::Release);
    }

    /// Wakes `node` through its eventfd.
    pub(crate) fn wake(&self, node: Node) {
        let bell = self.at(node);
        match &bell.eventfd {
            // A full counter (EAGAIN) wakes as well, and nothing else can go wrong with an eventfd.
            Some(eventfd) => drop((&*eventfd).write(&1_u64.to_ne_bytes())),
            None => bell.rung.store(true, Ordering::Release),
        }
    }

    /// Whether `node` was rung without a descriptor.
    pub(crate) fn is_rung(&self, node: Node) -> bool {
        self.at(node).rung.load(Ordering::Acquire)
    }

    /// Whether `node` was rung without a descriptor; forgets it.
    pub(crate) fn take_rung(&self, node: Node) -> bool {
        self.at(node).rung.swap(false, Ordering::AcqRel)
    }
}

/// Mailboxes of one thread, outgoing side.
pub(crate) struct Outgoing<M> {
    me: Node,
    boxes: Vec<Option<OutBox<M>>>,
    own: VecDeque<M>,
    spilled: usize,
    bells: Arc<Bells>,
}

struct OutBox<M> {
    producer: Producer<M>,
    spill: VecDeque<M>,
    /// Something was pushed since the last look at the doorbell.
    touched: bool,
}

/// Mailboxes of one thread, incoming side.
pub(crate) struct Incoming<M> {
    boxes: Vec<InBox<M>>,
    bells: Arc<Bells>,
}

struct InBox<M> {
    from: Node,
    consumer: Consumer<M>,
    /// Something was taken out since the last look at whether the sender waits for room.
    drained: bool,
}

/// Both sides of every thread's mailboxes, in the order of the nodes.
pub(crate) fn mesh<M>(bells: &Arc<Bells>, letters: usize) -> Vec<(Outgoing<M>, Incoming<M>)> {
    let count = bells.bells.len() as u16;
    let mut outgoing: Vec<Outgoing<M>> = (0..count)
        .map(|me| Outgoing {
            me: Node(me),
            boxes: Vec::with_capacity(usize::from(count)),
            own: VecDeque::new(),
            spilled: 0,
            bells: Arc::clone(bells),
        })
        .collect();
    let mut incoming: Vec<Incoming<M>> = (0..count)
        .map(|_| Incoming {
            boxes: Vec::new(),
            bells: Arc::clone(bells),
        })
        .collect();
    for from in 0..count {
        for to in 0..count {
            let out = (from != to).then(|| {
                let (producer, consumer) = RingBuffer::new(letters.max(1));
                incoming[usize::from(to)].boxes.push(InBox {
                    from: Node(from),
                    consumer,
                    drained: false,
                });
                OutBox {
                    producer,
                    spill: VecDeque::new(),
                    touched: false,
                }
            });
            outgoing[usize::from(from)].boxes.push(out);
        }
    }
    outgoing.into_iter().zip(incoming).collect()
}

impl<M> Outgoing<M> {
    /// The node of `peer`.
    pub(crate) fn node(&self, peer: Peer) -> Node {
        match peer {
            Peer::Shard(ShardId(index)) => Node(index),
            Peer::Control => Node(self.boxes.len() as u16 - 1),
        }
    }

    /// Who `node` is.
    pub(crate) fn peer(&self, node: Node) -> Peer {
        if usize::from(node.0) + 1 == self.boxes.len() {
            Peer::Control
        } else {
            Peer::Shard(ShardId(node.0))
        }
    }

    /// Posts a letter; returns whether it had to be kept here.
    pub(crate) fn post(&mut self, to: Node, mail: M) -> bool {
        let Some(out) = &mut self.boxes[usize::from(to.0)] else {
            self.own.push_back(mail);
            return false;
        };
        out.touched = true;
        let mail = if out.spill.is_empty() {
            match out.producer.push(mail) {
                Ok(()) => return false,
                Err(rtrb::PushError::Full(mail)) => mail,
            }
        } else {
            mail
        };
        if out.producer.is_abandoned() {
            // That thread has stopped; nobody will ever read this.
            return false;
        }
        out.spill.push_back(mail);
        if self.spilled == 0 {
            self.bells
                .at(self.me)
                .starving
                .store(true, Ordering::Relaxed);
        }
        self.spilled += 1;
        true
    }

    /// Letters that wait here for room.
    pub(crate) const fn spilled(&self) -> usize {
        self.spilled
    }

    /// Those of them that are for control.
    pub(crate) fn spilled_to_control(&self) -> usize {
        let control = self.boxes.last().and_then(Option::as_ref);
        control.map_or(0, |out| out.spill.len())
    }

    /// Moves what was kept here into the mailboxes, as far as there is room.
    pub(crate) fn retry(&mut self) {
        if self.spilled == 0 {
            return;
        }
        for out in self.boxes.iter_mut().flatten() {
            if !out.spill.is_empty() && out.producer.is_abandoned() {
                self.spilled -= out.spill.len();
                out.spill.clear();
            }
            while let Some(mail) = out.spill.pop_front() {
                match out.producer.push(mail) {
                    Ok(()) => {
                        out.touched = true;
                        self.spilled -= 1;
                    }
                    Err(rtrb::PushError::Full(mail)) => {
                        out.spill.push_front(mail);
                        break;
                    }
                }
            }
        }
        if self.spilled == 0 {
            self.bells
                .at(self.me)
                .starving
                .store(false, Ordering::Relaxed);
        }
    }

    /// Whether [`Outgoing::retry`] would move something.
    pub(crate) fn can_retry(&self) -> bool {
        self.spilled > 0
            && self.boxes.iter().flatten().any(|out| {
                !out.spill.is_empty() && (!out.producer.is_full() || out.producer.is_abandoned())
            })
    }

    /// Letters to itself that wait for the next turn.
    pub(crate) const fn own(&mut self) -> &mut VecDeque<M> {
        &mut self.own
    }

    /// Calls `ring` for every thread that must be woken for what was posted since the last call.
    pub(crate) fn for_each_to_ring(&mut self, mut ring: impl FnMut(Node)) {
        for (node, out) in self.boxes.iter_mut().enumerate() {
            if let Some(out) = out
                && std::mem::take(&mut out.touched)
                && self.bells.bells[node].doorbell.must_ring()
            {
                ring(Node(node as u16));
            }
        }
    }

    /// The doorbells.
    pub(crate) fn bells(&self) -> &Arc<Bells> {
        &self.bells
    }

    /// Its own place.
    pub(crate) const fn me(&self) -> Node {
        self.me
    }
}

impl<M> Incoming<M> {
    /// How many mailboxes there are.
    pub(crate) fn count(&self) -> usize {
        self.boxes.len()
    }

    /// How many letters can be taken from mailbox number `index` now, and whose they are.
    pub(crate) fn waiting(&self, index: usize) -> (Node, usize) {
        let inbox = &self.boxes[index];
        (inbox.from, inbox.consumer.slots())
    }

    /// Takes one letter from mailbox number `index`.
    pub(crate) fn take(&mut self, index: usize) -> Option<M> {
        let inbox = &mut self.boxes[index];
        let mail = inbox.consumer.pop().ok();
        inbox.drained |= mail.is_some();
        mail
    }

    /// Whether all mailboxes are empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.boxes.iter().all(|inbox| inbox.consumer.is_empty())
    }

    /// Calls `ring` for every thread that sleeps while it waits for the room that was made here.
    pub(crate) fn for_each_to_ring(&mut self, mut ring: impl FnMut(Node)) {
        for inbox in &mut self.boxes {
            if std::mem::take(&mut inbox.drained) {
                // Between taking and looking, as in the doorbell: the sender says that it starves, fences, and looks
                // for room once more before it sleeps.
                fence(Ordering::SeqCst);
                let bell = self.bells.at(inbox.from);
                if bell.starving.load(Ordering::Relaxed) && bell.doorbell.must_ring() {
                    ring(inbox.from);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Mailboxes = Vec<(Outgoing<u32>, Incoming<u32>)>;

    fn three_nodes(letters: usize) -> (Arc<Bells>, Mailboxes) {
        let bells = Bells::new(vec![None, None, None]);
        let mesh = mesh(&bells, letters);
        (bells, mesh)
    }

    fn take_all(incoming: &mut Incoming<u32>) -> Vec<(u16, u32)> {
        let mut all = Vec::new();
        for index in 0..incoming.count() {
            let (from, waiting) = incoming.waiting(index);
            all.extend(
                (0..waiting)
                    .map_while(|_| incoming.take(index))
                    .map(|mail| (from.0, mail)),
            );
        }
        all
    }

    #[test]
    fn every_pair_has_a_mailbox_each_way_and_self_mail_stays_home() {
        let (_, mut mesh) = three_nodes(4);
        for (from, (outgoing, _)) in mesh.iter_mut().enumerate() {
            for to in 0..3 {
                outgoing.post(Node(to), from as u32 * 10 + u32::from(to));
            }
        }
        assert_eq!(take_all(&mut mesh[0].1), [(1, 10), (2, 20)]);
        assert_eq!(take_all(&mut mesh[1].1), [(0, 1), (2, 21)]);
        assert_eq!(take_all(&mut mesh[2].1), [(0, 2), (1, 12)]);
        assert_eq!(mesh[1].0.own().pop_front(), Some(11));
        assert_eq!(mesh[0].0.peer(Node(2)), Peer::Control);
        assert_eq!(mesh[0].0.node(Peer::Control), Node(2));
    }

    #[test]
    fn a_full_mailbox_spills_and_keeps_the_order() {
        let (_, mut mesh) = three_nodes(2);
        let (mut a, mut rest) = (mesh.remove(0), mesh);
        for n in 0..5 {
            a.0.post(Node(1), n);
        }
        assert_eq!((a.0.spilled(), a.0.spilled_to_control()), (3, 0));
        assert!(!a.0.can_retry());
        assert_eq!(take_all(&mut rest[0].1), [(0, 0), (0, 1)]);
        assert!(a.0.can_retry());
        a.0.post(Node(1), 5);
        a.0.retry();
        assert_eq!(take_all(&mut rest[0].1), [(0, 2), (0, 3)]);
        a.0.retry();
        assert_eq!(take_all(&mut rest[0].1), [(0, 4), (0, 5)]);
        assert_eq!(a.0.spilled(), 0);
    }

    #[test]
    fn mail_for_a_thread_that_has_stopped_is_dropped() {
        let (_, mut mesh) = three_nodes(1);
        let stopped = mesh.remove(1);
        for n in 0..3 {
            mesh[0].0.post(Node(1), n);
        }
        assert_eq!(mesh[0].0.spilled(), 2);
        drop(stopped);
        mesh[0].0.retry();
        mesh[0].0.post(Node(1), 3);
        assert_eq!(mesh[0].0.spilled(), 0);
    }

    #[test]
    fn only_a_sleeper_is_rung_and_only_once() {
        let (bells, mut mesh) = three_nodes(2);
        let mut rung = Vec::new();
        mesh[0].0.post(Node(1), 1);
        mesh[0].0.for_each_to_ring(|node| rung.push(node));
        assert_eq!(rung, [], "node 1 is awake");
        bells.doorbell(Node(1)).asleep();
        mesh[0].0.for_each_to_ring(|node| rung.push(node));
        assert_eq!(rung, [], "nothing was posted since");
        mesh[0].0.post(Node(1), 2);
        mesh[0].0.post(Node(1), 3);
        mesh[2].0.post(Node(1), 4);
        mesh[0].0.for_each_to_ring(|node| rung.push(node));
        mesh[2].0.for_each_to_ring(|node| rung.push(node));
        assert_eq!(rung, [Node(1)]);
    }

    #[test]
    fn a_sender_that_waits_for_room_is_rung_when_there_is_some() {
        let (bells, mut mesh) = three_nodes(1);
        mesh[0].0.post(Node(1), 1);
        mesh[0].0.post(Node(1), 2);
        bells.doorbell(Node(0)).asleep();
        let mut rung = Vec::new();
        take_all(&mut mesh[1].1);
        mesh[1].1.for_each_to_ring(|node| rung.push(node));
        assert_eq!(rung, [Node(0)]);
    }
}
