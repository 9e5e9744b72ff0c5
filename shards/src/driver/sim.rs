//! The simulated kernel: sockets are queues, time is a number, and everything that may go wrong does, by the seed.
//!
//! One [`World`] holds the sockets of all shards of a simulation; each shard has a [`SimDriver`] that reaches into it.
//! Nothing happens by itself: an operation makes progress when its shard waits. What a real kernel may do, this one
//! does often: it delivers few bytes at a time, completes late and in parts, runs out of buffers, refuses to accept,
//! loses doorbells and resets connections, each with the chance that [`Faults`] gives it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{BUFFER_BYTES, Driver, DriverKind, Event, Socket};
use crate::ids::{ConnectionId, ShardId, Tick};
use crate::mesh::{Bells, Node};
use crate::shared_bytes::LocalBytes;

/// Receive buffers of a simulated shard: few, so that they run out.
const BUFFERS: usize = 32;

/// Bytes under way to a peer that does not read.
const PIPE_BYTES_MAX: usize = 64 * 1024;

/// When a simulation begins, in milliseconds since 1970.
const BEGIN_UNIX_MS: u64 = 1_700_000_000_000;

/// Chances of what goes wrong, each of 1,000 each time it could.
#[derive(Copy, Clone, Debug, Default)]
pub struct Faults {
    /// A receive delivers only some of the bytes that are there.
    pub short_receive: u16,
    /// A send completes with a part of its bytes.
    pub short_send: u16,
    /// A completion waits for the next turn.
    pub late: u16,
    /// A receive ends for want of a buffer although there are some.
    pub no_buffer: u16,
    /// A doorbell between shards does not ring; the mail is seen at the next timeout.
    pub lost_doorbell: u16,
    /// An accept ends with an error.
    pub accept_error: u16,
    /// A connection is reset when it is used.
    pub reset: u16,
}

impl Faults {
    /// A kernel without faults.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything that no byte is lost by: all but resets.
    #[must_use]
    pub const fn lossless() -> Self {
        Self {
            short_receive: 300,
            short_send: 200,
            late: 250,
            no_buffer: 100,
            lost_doorbell: 50,
            accept_error: 100,
            reset: 0,
        }
    }

    /// Everything.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            reset: 5,
            ..Self::lossless()
        }
    }
}

/// Numbers by the seed (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) const fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    const fn happens(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.below(1000) < per_mille as usize
    }

    /// All of `count`, or by chance some of it, but at least one.
    const fn part(&mut self, count: usize, per_mille: u16) -> usize {
        if count > 1 && self.happens(per_mille) {
            1 + self.below(count - 1)
        } else {
            count
        }
    }
}

/// One socket and its peer.
#[derive(Default)]
pub(crate) struct Link {
    shard: u16,
    to_shard: VecDeque<u8>,
    to_peer: VecDeque<u8>,
    /// The peer has sent everything.
    peer_ended: bool,
    /// The shard has sent everything.
    shard_ended: bool,
    /// The connection is broken.
    reset: bool,
    /// The shard has given its end up.
    closed: bool,
    receive: Option<ConnectionId>,
    send: Option<Sending>,
    /// A real socket in the place of the peer (adopted) or of the shard (detached).
    real: Option<UnixStream>,
    detached: bool,
}

struct Sending {
    id: ConnectionId,
    bytes: LocalBytes,
    start: u32,
    at: u32,
    end: u32,
}

/// What a simulated kernel holds for one shard.
#[derive(Default)]
struct Lane {
    backlog: VecDeque<u32>,
    accepting: bool,
    events: VecDeque<Event>,
}

/// Everything outside of the shards.
pub(crate) struct World {
    pub(crate) now: Tick,
    pub(crate) dice: Dice,
    faults: Faults,
    links: Vec<Link>,
    lanes: Vec<Lane>,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, shards: usize) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            now: Tick::default(),
            dice: Dice::new(seed),
            faults,
            links: Vec::new(),
            lanes: (0..shards).map(|_| Lane::default()).collect(),
        }))
    }

    /// A new peer that asks `shard` for a connection.
    pub(crate) fn connect(&mut self, shard: ShardId) -> u32 {
        let index = self.links.len() as u32;
        self.links.push(Link {
            shard: shard.0,
            ..Link::default()
        });
        self.lanes[usize::from(shard.0)].backlog.push_back(index);
        index
    }

    /// A peer writes; what is not taken because the connection has ended is lost, as it would be.
    pub(crate) fn peer_write(&mut self, index: u32, bytes: &[u8]) {
        let link = &mut self.links[index as usize];
        assert!(!link.peer_ended, "a peer writes after its FIN");
        if !link.reset && !link.closed {
            link.to_shard.extend(bytes);
        }
        link.pump();
    }

    /// A peer reads everything that has arrived.
    pub(crate) fn peer_read(&mut self, index: u32) -> Vec<u8> {
        let link = &mut self.links[index as usize];
        link.pump();
        link.to_peer.drain(..).collect()
    }

    pub(crate) fn peer_fin(&mut self, index: u32) {
        self.links[index as usize].peer_ended = true;
        self.links[index as usize].pump();
    }

    pub(crate) fn peer_reset(&mut self, index: u32) {
        self.links[index as usize].break_up();
    }

    /// Whether the peer has read everything there will ever be.
    pub(crate) fn peer_is_ended(&self, index: u32) -> bool {
        let link = &self.links[index as usize];
        link.to_peer.is_empty() && (link.shard_ended || link.closed || link.reset)
    }

    pub(crate) fn peer_is_closed(&self, index: u32) -> bool {
        self.links[index as usize].closed
    }

    pub(crate) fn peer_is_reset(&self, index: u32) -> bool {
        self.links[index as usize].reset
    }

    /// Whether a wait of `shard` would give it something.
    pub(crate) fn is_ready(&mut self, shard: u16) -> bool {
        let lane = &self.lanes[usize::from(shard)];
        if !lane.events.is_empty() || (lane.accepting && !lane.backlog.is_empty()) {
            return true;
        }
        self.links
            .iter_mut()
            .filter(|link| link.shard == shard)
            .any(|link| {
                link.pump();
                link.can_receive() || link.can_send()
            })
    }

    fn link(&mut self, socket: Socket) -> &mut Link {
        &mut self.links[socket.0 as usize]
    }

    fn lane(&mut self, shard: u16) -> &mut Lane {
        &mut self.lanes[usize::from(shard)]
    }

    fn accept(&mut self, shard: u16) {
        let lane = &mut self.lanes[usize::from(shard)];
        while lane.accepting
            && let Some(index) = lane.backlog.pop_front()
        {
            if self.dice.happens(self.faults.accept_error) {
                lane.backlog.push_front(index);
                lane.accepting = false;
                let errno = if self.dice.happens(500) {
                    libc::ECONNABORTED
                } else {
                    libc::EMFILE
                };
                lane.events
                    .push_back(Event::AcceptEnded { listener: 0, errno });
            } else {
                lane.events.push_back(Event::Accepted(Socket(index)));
            }
        }
    }

    /// Lets the operations of a shard make progress.
    fn progress(&mut self, shard: u16, buffers: &mut Buffers) {
        self.accept(shard);
        let Self {
            links,
            lanes,
            dice,
            faults,
            ..
        } = self;
        let events = &mut lanes[usize::from(shard)].events;
        for link in links.iter_mut().filter(|link| link.shard == shard) {
            link.pump();
            if (link.can_receive() || link.can_send()) && dice.happens(faults.reset) {
                link.break_up();
            }
            if link.can_receive() && !dice.happens(faults.late) {
                link.receive_some(dice, faults, buffers, events);
            }
            if link.can_send() && !dice.happens(faults.late) {
                link.send_some(dice, faults, events);
            }
        }
    }
}

impl Link {
    const fn break_up(&mut self) {
        self.reset = true;
    }

    fn can_receive(&self) -> bool {
        self.receive.is_some() && (!self.to_shard.is_empty() || self.peer_ended || self.reset)
    }

    fn can_send(&self) -> bool {
        self.send.is_some() && (self.to_peer.len() < PIPE_BYTES_MAX || self.reset)
    }

    fn receive_some(
        &mut self,
        dice: &mut Dice,
        faults: &Faults,
        buffers: &mut Buffers,
        events: &mut VecDeque<Event>,
    ) {
        let Some(id) = self.receive else { return };
        if self.reset || self.to_shard.is_empty() {
            self.receive = None;
            let errno = if self.reset { libc::ECONNRESET } else { 0 };
            events.push_back(Event::Ended { id, errno });
            return;
        }
        let buffer = if dice.happens(faults.no_buffer) {
            None
        } else {
            buffers.free.pop()
        };
        let Some(buffer) = buffer else {
            self.receive = None;
            events.push_back(Event::Ended {
                id,
                errno: libc::ENOBUFS,
            });
            return;
        };
        let length = dice.part(self.to_shard.len().min(BUFFER_BYTES), faults.short_receive);
        let target = &mut buffers.bytes[usize::from(buffer) * BUFFER_BYTES..][..length];
        target
            .iter_mut()
            .zip(self.to_shard.drain(..length))
            .for_each(|(to, from)| *to = from);
        // Now and then a multishot receive ends with bytes.
        let more = !dice.happens(faults.short_receive / 4);
        if !more {
            self.receive = None;
        }
        events.push_back(Event::Received {
            id,
            buffer,
            length: length as u32,
            more,
        });
    }

    fn send_some(&mut self, dice: &mut Dice, faults: &Faults, events: &mut VecDeque<Event>) {
        let Some(mut send) = self.send.take() else {
            return;
        };
        if self.reset {
            events.push_back(Event::Sent {
                id: send.id,
                bytes: send.bytes,
                result: Err(libc::ECONNRESET),
            });
            return;
        }
        let rest = &send.bytes[send.at as usize..send.end as usize];
        let room = PIPE_BYTES_MAX.saturating_sub(self.to_peer.len());
        let count = dice.part(rest.len().min(room), faults.short_send);
        self.to_peer.extend(&rest[..count]);
        self.pump();
        send.at += count as u32;
        if send.at == send.end || dice.happens(faults.short_send) {
            let result = Ok(send.at - send.start);
            events.push_back(Event::Sent {
                id: send.id,
                bytes: send.bytes,
                result,
            });
        } else {
            self.send = Some(send);
        }
    }

    /// Moves bytes between the queues and the real socket that stands for one of the ends.
    fn pump(&mut self) {
        let Some(real) = &mut self.real else { return };
        // For a detached link the real socket is the shard's end, otherwise the peer's.
        let (inward, outward) = if self.detached {
            (&mut self.to_peer, &mut self.to_shard)
        } else {
            (&mut self.to_shard, &mut self.to_peer)
        };
        while !outward.is_empty() {
            let (front, _) = outward.as_slices();
            match real.write(front) {
                Ok(count) => drop(outward.drain(..count)),
                Err(_) => break,
            }
        }
        let mut chunk = [0; 4096];
        let ended = loop {
            match real.read(&mut chunk) {
                Ok(0) => break true,
                Ok(count) => inward.extend(&chunk[..count]),
                Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
            }
        };
        if self.detached {
            self.shard_ended |= ended;
            if self.peer_ended && self.to_shard.is_empty() {
                let _ = real.shutdown(std::net::Shutdown::Write);
            }
        } else {
            self.peer_ended |= ended;
            if (self.shard_ended || self.closed) && self.to_peer.is_empty() {
                let _ = real.shutdown(std::net::Shutdown::Write);
            }
        }
    }
}

/// The receive buffers of one shard.
struct Buffers {
    bytes: Vec<u8>,
    free: Vec<u16>,
}

/// One shard's way into the world.
pub(crate) struct SimDriver {
    shard: u16,
    world: Rc<RefCell<World>>,
    bells: Arc<Bells>,
    buffers: Buffers,
}

impl SimDriver {
    pub(crate) fn new(shard: u16, world: Rc<RefCell<World>>, bells: Arc<Bells>) -> Self {
        let buffers = Buffers {
            bytes: vec![0; BUFFERS * BUFFER_BYTES],
            free: (0..BUFFERS as u16).rev().collect(),
        };
        Self {
            shard,
            world,
            bells,
            buffers,
        }
    }

    fn answer(&mut self, event: Event) {
        self.world
            .borrow_mut()
            .lane(self.shard)
            .events
            .push_back(event);
    }
}

impl Driver for SimDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Sim
    }

    fn now(&self) -> (Tick, u64) {
        let now = self.world.borrow().now;
        (now, BEGIN_UNIX_MS + now.0 / 1_000_000)
    }

    fn accept(&mut self, _listener: u16) {
        self.world.borrow_mut().lane(self.shard).accepting = true;
    }

    fn sockets_max(&self) -> Option<usize> {
        None
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Socket> {
        let real = UnixStream::from(socket);
        real.set_nonblocking(true)?;
        let mut world = self.world.borrow_mut();
        world.links.push(Link {
            shard: self.shard,
            real: Some(real),
            ..Link::default()
        });
        Ok(Socket(world.links.len() as u32 - 1))
    }

    fn receive(&mut self, id: ConnectionId, socket: Socket) {
        let before = self.world.borrow_mut().link(socket).receive.replace(id);
        assert!(
            before.is_none(),
            "a second receive while the first is with the kernel"
        );
    }

    fn send(&mut self, id: ConnectionId, socket: Socket, bytes: LocalBytes, start: u32, end: u32) {
        assert!(
            start < end && end as usize <= bytes.len(),
            "a send of {start}..{end} of {} bytes",
            bytes.len()
        );
        let mut world = self.world.borrow_mut();
        let link = world.link(socket);
        assert!(!link.shard_ended, "a send after the half-close");
        let before = link.send.replace(Sending {
            id,
            bytes,
            start,
            at: start,
            end,
        });
        assert!(
            before.is_none(),
            "a second send while the first is with the kernel"
        );
    }

    fn cancel_receive(&mut self, id: ConnectionId, socket: Socket) {
        if self
            .world
            .borrow_mut()
            .link(socket)
            .receive
            .take()
            .is_some()
        {
            self.answer(Event::Ended {
                id,
                errno: libc::ECANCELED,
            });
        }
    }

    fn cancel_send(&mut self, id: ConnectionId, socket: Socket) {
        let send = self.world.borrow_mut().link(socket).send.take();
        if let Some(send) = send {
            let count = send.at - send.start;
            let result = if count > 0 {
                Ok(count)
            } else {
                Err(libc::ECANCELED)
            };
            self.answer(Event::Sent {
                id,
                bytes: send.bytes,
                result,
            });
        }
    }

    fn shut(&mut self, id: ConnectionId, socket: Socket) {
        self.world.borrow_mut().link(socket).shard_ended = true;
        self.answer(Event::Shut { id });
    }

    fn detach(&mut self, id: ConnectionId, socket: Socket) {
        let result = UnixStream::pair().and_then(|(inner, outer)| {
            inner.set_nonblocking(true)?;
            outer.set_nonblocking(true)?;
            let mut world = self.world.borrow_mut();
            let link = world.link(socket);
            // The peer keeps its link; what the shard had of it is the real socket's now.
            link.real = Some(inner);
            link.detached = true;
            link.pump();
            Ok(OwnedFd::from(outer))
        });
        let result = result.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
        self.answer(Event::Detached { id, result });
    }

    fn close(&mut self, _id: Option<ConnectionId>, socket: Socket) {
        let mut world = self.world.borrow_mut();
        let link = world.link(socket);
        assert!(
            link.receive.is_none() && link.send.is_none(),
            "a close under a running operation"
        );
        if link.detached {
            return;
        }
        link.closed = true;
        if !link.to_shard.is_empty() {
            // Closing with unread input resets, and the reset overtakes what the peer has not read.
            link.reset = true;
            link.to_peer.clear();
        }
        link.pump();
    }

    fn ring(&mut self, node: Node) {
        let mut world = self.world.borrow_mut();
        let lost = world.faults.lost_doorbell;
        let control = usize::from(node.0) == world.lanes.len();
        if control || !world.dice.happens(lost) {
            self.bells.wake(node);
        }
    }

    fn wait(&mut self, _timeout: Option<Duration>, events: &mut Vec<Event>) {
        let mut world = self.world.borrow_mut();
        world.progress(self.shard, &mut self.buffers);
        if self.bells.take_rung(Node(self.shard)) {
            world.lane(self.shard).events.push_back(Event::Rung);
        }
        let World {
            dice,
            faults,
            lanes,
            ..
        } = &mut *world;
        let lane = &mut lanes[usize::from(self.shard)];
        let count = lane.events.len();
        let count = if dice.happens(faults.late) {
            dice.part(count.max(1), 1000).min(count)
        } else {
            count
        };
        events.extend(lane.events.drain(..count));
    }

    fn buffer(&mut self, buffer: u16, length: u32) -> &mut [u8] {
        &mut self.buffers.bytes[usize::from(buffer) * BUFFER_BYTES..][..length as usize]
    }

    fn recycle(&mut self, buffer: u16) {
        assert!(
            !self.buffers.free.contains(&buffer),
            "buffer {buffer} is given back twice"
        );
        self.buffers.free.push(buffer);
    }

    fn buffers_free(&self) -> usize {
        self.buffers.free.len()
    }
}
