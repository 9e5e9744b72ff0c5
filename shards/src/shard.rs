//! The loop of one shard: wait, take completions, mail and timers, call the handler, send what came of it.
//!
//! What comes in: events of the driver, letters of the other threads, time. What goes out: operations for the driver,
//! letters, doorbells. What always holds:
//!
//! - A turn takes what was there when it began, in batches: completions, then mailboxes, then timers, then the
//!   handler's `on_turn_end`, then each socket that something happened to once. Of mailboxes and sockets there is a bound, by what
//!   they cost; the next turn goes on from there.
//! - While more than `spill_letters` letters wait for full mailboxes of other shards, received bytes are held, with their buffers; the
//!   kernel then runs out of buffers and the peers' windows close. Nothing is lost, nothing grows without end.
//! - Before the shard sleeps it says so and looks into its mailboxes once more (`doorbell.rs`).
//!
//! Absent: threads. Whoever owns the shard calls [`Shard::plan`], has the driver wait, and calls [`Shard::turn`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::driver::{Driver, Event, Socket};
use crate::handler::Handler;
use crate::ids::{ConnectionId, Peer, ShardId, Tick};
use crate::io::{Core, Io};
use crate::listener::Accepting;
use crate::mesh::{Incoming, Outgoing};
use crate::metrics::ShardMetrics;
use crate::options::Options;
use crate::send_queue::Pool;
use crate::slab::{Slab, flag};
use crate::wheel::{NOWHERE, Timers, Wheel};

/// The longest sleep. Nothing needs it; it bounds the damage if a wake-up were ever lost.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// A shard: product, state and kernel.
pub(crate) struct Shard<H: Handler, D> {
    pub(crate) handler: H,
    pub(crate) core: Core<H::Mail>,
    pub(crate) driver: D,
    incoming: Incoming<H::Mail>,
    pub(crate) accepting: Accepting,
    /// Receives that ended for want of buffers.
    pub(crate) parked: VecDeque<ConnectionId>,
    /// Input that waits until the mail has gone.
    held: VecDeque<Event>,
    events: Vec<Event>,
    due: Vec<(u32, u8)>,
    /// The mailbox that is looked into first, each turn another.
    first_mailbox: usize,
    /// When the last turn ended.
    ended: (Tick, u64),
    spill_letters: usize,
}

impl<H: Handler, D: Driver> Shard<H, D> {
    /// A shard that has not started.
    pub(crate) fn new(
        shard: ShardId,
        options: &Options,
        handler: H,
        driver: D,
        mailboxes: (Outgoing<H::Mail>, Incoming<H::Mail>),
        listener_count: u16,
        metrics: Arc<ShardMetrics>,
    ) -> Self {
        let (now, unix_ms) = driver.now();
        let sockets_max = driver.sockets_max().unwrap_or(usize::MAX);
        let core = Core {
            shard,
            shard_count: options.shards,
            kind: driver.kind(),
            now,
            unix_ms,
            slab: Slab::new(options.connections_max.min(sockets_max)),
            live_count: 0,
            dirty: Vec::new(),
            queued_count: 0,
            adopted: Vec::new(),
            visits: Wheel::new(unix_second(unix_ms)),
            stalls: Wheel::new(now.second()),
            timers: Timers::default(),
            outgoing: mailboxes.0,
            pool: Pool::default(),
            metrics,
            last_turn: Duration::ZERO,
            stall_after: options.stall_after,
            linger: options.linger,
            stopping: false,
        };
        Self {
            handler,
            core,
            driver,
            incoming: mailboxes.1,
            accepting: Accepting::new(listener_count),
            parked: VecDeque::new(),
            held: VecDeque::new(),
            events: Vec::new(),
            due: Vec::new(),
            first_mailbox: 0,
            ended: (now, unix_ms),
            spill_letters: options.spill_letters,
        }
    }

    /// The first turn: tells the handler and opens the listeners.
    pub(crate) fn start(&mut self) {
        self.handler.on_start(&mut Io {
            core: &mut self.core,
        });
        self.flush();
    }

    /// How long the driver may wait for events. When that is not "not at all", the shard counts as asleep from here
    /// on, and [`Shard::turn`] must follow.
    pub(crate) fn plan(&mut self) -> Option<Duration> {
        let (now, unix_ms) = self.ended;
        let at_once = Some(Duration::ZERO);
        if self.core.stopping
            || !self.core.dirty.is_empty()
            || !self.core.outgoing.own().is_empty()
            || (!self.held.is_empty() && !self.is_holding())
            || (!self.parked.is_empty() && !self.is_holding() && self.driver.buffers_free() > 0)
        {
            return at_once;
        }
        let mut wait = SLEEP_MAX;
        if let Some(at) = self.core.timers.next() {
            wait = wait.min(at.since(now));
        }
        if let Some(at) = self.accepting.retry_at() {
            wait = wait.min(at.since(now));
        }
        if let Some(second) = self.core.visits.next() {
            wait = wait.min(Duration::from_millis(
                (u64::from(second) * 1000).saturating_sub(unix_ms),
            ));
        }
        if let Some(second) = self.core.stalls.next() {
            wait = wait.min(Duration::from_nanos(
                (u64::from(second) * 1_000_000_000).saturating_sub(now.0),
            ));
        }
        if wait.is_zero() {
            return at_once;
        }
        let me = self.core.outgoing.me();
        let doorbell = self.core.outgoing.bells().doorbell(me);
        doorbell.asleep();
        if !self.incoming.is_empty() || self.core.outgoing.can_retry() {
            doorbell.awake();
            return at_once;
        }
        Some(wait)
    }

    /// Waits for the driver and does everything that is there to do. Returns whether the shard goes on.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> bool {
        let mut events = std::mem::take(&mut self.events);
        self.driver.wait(timeout, &mut events);
        let me = self.core.outgoing.me();
        self.core.outgoing.bells().doorbell(me).awake();
        (self.core.now, self.core.unix_ms) = self.driver.now();
        self.core.metrics.turns.add(1);
        self.core.metrics.completions.add(events.len() as u64);

        self.take_events(&mut events);
        self.events = events;
        self.take_mail();
        self.take_timers();
        self.take_wheels();
        self.handler.on_turn_end(&mut Io {
            core: &mut self.core,
        });
        self.flush();
        while self.core.stopping && !self.core.dirty.is_empty() {
            // There is no next turn, and what ends the connections is among it.
            self.flush();
        }

        self.ended = self.driver.now();
        self.note_turn();
        !self.core.stopping
    }

    /// Counts the turn that has just ended, and says how things stand behind it.
    fn note_turn(&mut self) {
        let core = &mut self.core;
        core.last_turn = self.ended.0.since(core.now);
        let nanos = u64::try_from(core.last_turn.as_nanos()).unwrap_or(u64::MAX);
        let metrics = &core.metrics;
        metrics.turn_ns.observe(nanos);
        metrics.turn_ns_max.raise(nanos);
        metrics.completion_overflows.set(self.driver.overflows());
        metrics.sockets.set(core.slab.count() as u64);
        metrics.connections.set(core.live_count as u64);
        metrics.mail_waiting.set(core.outgoing.spilled() as u64);
    }

    /// Closes every socket, and gives the kernel a bounded time to let go of them and the others to take the last mail.
    /// The handler is not called again.
    pub(crate) fn finish(&mut self) {
        for id in self.core.slab.ids().collect::<Vec<_>>() {
            self.core.end(id, flag::ABORTING);
            if let Some(slot) = self.core.slab.get_mut(id) {
                let before = slot.queued_bytes;
                slot.drop_queue();
                slot.set(flag::ABORTING);
                self.core.note_queued(before, 0);
                self.core.touch(id);
            }
        }
        for event in std::mem::take(&mut self.held) {
            self.discard(event);
        }
        for _ in 0..FINISH_TURNS_MAX {
            self.core.outgoing.retry();
            self.flush();
            if self.core.slab.count() == 0 && self.core.outgoing.spilled() == 0 {
                break;
            }
            let mut events = std::mem::take(&mut self.events);
            self.driver
                .wait(Some(Duration::from_millis(1)), &mut events);
            for event in events.drain(..) {
                self.discard(event);
            }
            self.events = events;
        }
        self.driver.wait(Some(Duration::ZERO), &mut Vec::new());
    }

    fn is_holding(&self) -> bool {
        let outgoing = &self.core.outgoing;
        outgoing.spilled() > self.spill_letters
            && outgoing.spilled() - outgoing.spilled_to_control() > self.spill_letters
    }

    fn take_events(&mut self, events: &mut Vec<Event>) {
        let mut holding = self.is_holding();
        while !holding && let Some(event) = self.held.pop_front() {
            self.take_event(event);
            holding = self.is_holding();
        }
        if holding {
            self.core.metrics.turns_held.add(1);
        }
        for event in events.drain(..) {
            if matches!(event, Event::Received { .. } | Event::Ended { .. })
                && (!self.held.is_empty() || self.is_holding())
            {
                self.held.push_back(event);
            } else {
                self.take_event(event);
            }
        }
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Received {
                id,
                buffer,
                length,
                more,
            } => self.on_received(id, buffer, length, more),
            Event::Ended { id, errno } => self.on_receive_ended(id, errno),
            Event::Sent { id, bytes, result } => self.on_sent(id, bytes, result),
            Event::Shut { id } => self.on_shut(id),
            Event::Detached { id, result } => self.on_detached(id, result),
            Event::Accepted(socket) => self.on_accepted(socket),
            Event::AcceptEnded { listener, errno } => {
                if errno != 0 {
                    self.core.metrics.accept_errors.add(1);
                }
                self.accepting.ended(listener, errno, self.core.now);
            }
            Event::Rung => self.core.metrics.doorbells_heard.add(1),
        }
    }

    fn on_accepted(&mut self, socket: Socket) {
        if let Some(id) = self.core.slab.insert(socket, flag::LIVE) {
            self.core.metrics.accepts.add(1);
            self.core.live_count += 1;
            self.core.touch(id);
            self.handler.on_accept(
                &mut Io {
                    core: &mut self.core,
                },
                id,
            );
        } else {
            self.core.metrics.accept_errors.add(1);
            self.driver.close(None, socket);
        }
    }

    fn take_mail(&mut self) {
        self.core.outgoing.retry();
        let own = self.core.outgoing.own().len();
        for _ in 0..own {
            let Some(mail) = self.core.outgoing.own().pop_front() else {
                break;
            };
            let from = Peer::Shard(self.core.shard);
            self.core.metrics.mail_received.add(1);
            self.handler.on_mail(
                &mut Io {
                    core: &mut self.core,
                },
                from,
                mail,
            );
        }
        let count = self.incoming.count();
        self.first_mailbox = (self.first_mailbox + 1) % count.max(1);
        let before = self.core.queued_count;
        for index in (self.first_mailbox..count).chain(0..self.first_mailbox) {
            let (from, waiting) = self.incoming.waiting(index);
            let from = self.core.outgoing.peer(from);
            for taken in 0..waiting {
                // One of each mailbox is always taken: nobody waits for those who have more to say.
                if taken > 0 && self.core.queued_count - before >= MAIL_BUFFERS_MAX {
                    break;
                }
                let Some(mail) = self.incoming.take(index) else {
                    break;
                };
                self.core.metrics.mail_received.add(1);
                self.handler.on_mail(
                    &mut Io {
                        core: &mut self.core,
                    },
                    from,
                    mail,
                );
            }
        }
    }

    fn take_timers(&mut self) {
        let mark = self.core.timers.mark();
        while let Some(key) = self.core.timers.pop(self.core.now, mark) {
            self.handler.on_timer(
                &mut Io {
                    core: &mut self.core,
                },
                key,
            );
        }
    }

    fn take_wheels(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        let second = unix_second(self.core.unix_ms);
        let set_back = self.core.visits.advance(second, &mut due);
        for (index, bucket) in due.drain(..) {
            self.visit(index, bucket, if set_back { u32::MAX } else { second });
        }
        self.core.stalls.advance(self.core.now.second(), &mut due);
        for (index, bucket) in due.drain(..) {
            self.look_for_stall(index, bucket);
        }
        self.due = due;
    }

    fn visit(&mut self, index: u32, bucket: u8, second: u32) {
        let Some(id) = self.core.slab.id_at(index) else {
            return;
        };
        let Some(slot) = self.core.slab.get_mut(id) else {
            return;
        };
        if slot.visit_bucket != bucket {
            return;
        }
        slot.visit_bucket = NOWHERE;
        if slot.visit_at > second {
            slot.visit_bucket = self.core.visits.insert(index, slot.visit_at, NOWHERE);
        } else if slot.is(flag::LIVE) {
            self.handler.on_visit(
                &mut Io {
                    core: &mut self.core,
                },
                id,
            );
        }
    }

    /// Sends what the turn left behind, arms what must be armed and rings who must be woken.
    fn flush(&mut self) {
        self.adopt_sockets();
        let mut dirty = std::mem::take(&mut self.core.dirty);
        for id in dirty.drain(..dirty.len().min(FLUSH_SOCKETS_MAX)) {
            self.advance(id);
        }
        debug_assert!(
            self.core.dirty.is_empty(),
            "nothing becomes dirty while the dirty are flushed"
        );
        self.core.dirty = dirty;
        if !self.is_holding() {
            self.unpark();
        }
        self.accepting.arm(self.core.now, &mut self.driver);
        let Self {
            core,
            driver,
            incoming,
            ..
        } = self;
        let rung = &core.metrics.doorbells_rung;
        let mut ring = |node| {
            rung.add(1);
            driver.ring(node);
        };
        core.outgoing.for_each_to_ring(&mut ring);
        incoming.for_each_to_ring(&mut ring);
    }
}

/// Sockets that one turn sends to at most. A fan-out to more of them goes on in the next turn, behind what has come in meanwhile:
/// nobody else waits for all of it. At 1 to 10 µs a send, this is 4 to 40 ms.
const FLUSH_SOCKETS_MAX: usize = 4_096;

/// Buffers that the letters of one turn may queue before the others have to wait for the next: a letter may be for ten thousand
/// sockets, and a mailbox holds thousands of letters. At 20 to 50 ns a buffer, this is 1 to 3 ms. So much is taken at once all the
/// same that what many letters say to one socket is sent in one go.
const MAIL_BUFFERS_MAX: u64 = 65_536;

/// Turns that the end of a shard takes at most, a millisecond each.
const FINISH_TURNS_MAX: usize = 1_000;

/// The second since 1970.
fn unix_second(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms / 1000).unwrap_or(u32::MAX)
}
