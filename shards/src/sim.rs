//! Shards on a simulated kernel: the same handler, one thread, a clock that is moved, faults by a seed.
//!
//! What comes in: a seed, chances of faults, what the peers do. What goes out: what the handler did. What always holds:
//! the same seed and the same calls give the same run, to the last byte. Nothing waits.
//!
//! Only detached and adopted sockets are real, because the product hands them to code that wants a descriptor; they
//! are pairs of local sockets.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::control_port::ControlPort;
pub use crate::driver::sim::Faults;
use crate::driver::sim::{SimDriver, World};
use crate::handler::Handler;
use crate::ids::{ShardId, Tick};
use crate::mesh::{Bells, Node, mesh};
use crate::metrics::ShardMetrics;
use crate::options::Options;
use crate::shard::Shard;

/// Turns without rest after which a simulation is called endless.
const TURNS_MAX: usize = 1_000_000;

/// The other end of a simulated connection.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct PeerId(u32);

/// A simulation.
pub struct Sim<H: Handler> {
    world: Rc<RefCell<World>>,
    bells: Arc<Bells>,
    shards: Vec<Simulated<H>>,
    /// The control thread's mailboxes.
    pub control: ControlPort<H::Mail>,
}

struct Simulated<H: Handler> {
    shard: Shard<H, SimDriver>,
    wait: Option<Duration>,
    since: Tick,
    stopped: bool,
}

impl<H: Handler> Sim<H> {
    /// `shards` shards with small mailboxes, so that they are full at times.
    pub fn new(seed: u64, faults: Faults, shards: usize, make: impl FnMut(ShardId) -> H) -> Self {
        let options = Options {
            shards,
            mailbox_letters: 8,
            spill_letters: 32,
            connections_max: 1024,
            ..Options::default()
        };
        Self::with_options(seed, faults, options, make)
    }

    /// Shards with these options; those about cores, addresses and kernels mean nothing here.
    pub fn with_options(
        seed: u64,
        faults: Faults,
        options: Options,
        mut make: impl FnMut(ShardId) -> H,
    ) -> Self {
        let world = World::new(seed, faults, options.shards);
        let bells = Bells::new((0..=options.shards).map(|_| None).collect());
        let mut mailboxes = mesh(&bells, options.mailbox_letters);
        let control = mailboxes
            .pop()
            .expect("the mesh has one node more than there are shards");
        let control = ControlPort::new(control, None).expect("there is no descriptor to duplicate");
        let shards = mailboxes.into_iter().enumerate().map(|(index, mailboxes)| {
            let id = ShardId(index as u16);
            let driver = SimDriver::new(id.0, Rc::clone(&world), Arc::clone(&bells));
            let mut shard =
                Shard::new(id, &options, make(id), driver, mailboxes, 1, Arc::default());
            shard.start();
            let wait = shard.plan();
            Simulated {
                shard,
                wait,
                since: Tick::default(),
                stopped: false,
            }
        });
        Self {
            shards: shards.collect(),
            world,
            bells,
            control,
        }
    }

    /// A peer that connects to a shard; it is accepted when the shard gets to it.
    pub fn connect(&mut self, shard: ShardId) -> PeerId {
        PeerId(self.world.borrow_mut().connect(shard))
    }

    /// What a peer can do.
    pub fn peer(&self, id: PeerId) -> SimPeer<'_> {
        SimPeer {
            world: &self.world,
            id,
        }
    }

    /// The handler of a shard.
    pub fn handler(&self, shard: ShardId) -> &H {
        &self.shards[usize::from(shard.0)].shard.handler
    }

    /// What a shard has counted so far.
    pub fn metrics(&self, shard: ShardId) -> &ShardMetrics {
        &self.shards[usize::from(shard.0)].shard.core.metrics
    }

    /// Whether a shard has left its loop.
    #[must_use]
    pub fn is_stopped(&self, shard: ShardId) -> bool {
        self.shards[usize::from(shard.0)].stopped
    }

    /// The time of the simulation.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.world.borrow().now
    }

    /// One turn of one shard that has something to do, chosen by the seed. Returns whether there was one.
    pub fn step(&mut self) -> bool {
        let now = self.now();
        let runnable: Vec<usize> = (0..self.shards.len())
            .filter(|index| self.is_runnable(*index, now))
            .collect();
        if runnable.is_empty() {
            return false;
        }
        let chosen = runnable[self.world.borrow_mut().dice.below(runnable.len())];
        let simulated = &mut self.shards[chosen];
        if simulated.shard.turn(simulated.wait) {
            simulated.wait = simulated.shard.plan();
            simulated.since = now;
        } else {
            simulated.shard.finish();
            simulated.stopped = true;
        }
        true
    }

    /// At most `count` turns.
    pub fn steps(&mut self, count: usize) {
        for _ in 0..count {
            if !self.step() {
                return;
            }
        }
    }

    /// Turns until no shard has anything to do before time moves on.
    ///
    /// # Panics
    ///
    /// When that does not happen: two shards keep each other busy.
    pub fn run_until_idle(&mut self) {
        for _ in 0..TURNS_MAX {
            if !self.step() {
                return;
            }
        }
        panic!("the shards do not come to rest");
    }

    /// Moves the clock, stopping wherever a shard wakes on the way.
    pub fn advance(&mut self, by: Duration) {
        let target = self.now().after(by);
        loop {
            self.run_until_idle();
            let wakes = self
                .shards
                .iter()
                .filter(|simulated| !simulated.stopped)
                .filter_map(Simulated::wakes_at);
            let Some(next) = wakes.min().filter(|next| *next <= target) else {
                break;
            };
            self.world.borrow_mut().now = next;
        }
        self.world.borrow_mut().now = target;
        self.run_until_idle();
    }

    fn is_runnable(&self, index: usize, now: Tick) -> bool {
        let simulated = &self.shards[index];
        let node = Node(index as u16);
        !simulated.stopped
            && (simulated.wakes_at().is_some_and(|at| at <= now)
                || self.bells.is_rung(node)
                || self.world.borrow_mut().is_ready(node.0))
    }
}

impl<H: Handler> Simulated<H> {
    fn wakes_at(&self) -> Option<Tick> {
        self.wait.map(|wait| self.since.after(wait))
    }
}

/// A peer of a simulated connection.
pub struct SimPeer<'a> {
    world: &'a RefCell<World>,
    id: PeerId,
}

impl SimPeer<'_> {
    /// Sends bytes; they are lost if the connection has ended, as they would be.
    ///
    /// # Panics
    ///
    /// After [`SimPeer::fin`].
    pub fn write(&self, bytes: &[u8]) {
        self.world.borrow_mut().peer_write(self.id.0, bytes);
    }

    /// Everything that has arrived since the last call.
    pub fn read(&self) -> Vec<u8> {
        self.world.borrow_mut().peer_read(self.id.0)
    }

    /// Says that nothing more will be sent.
    pub fn fin(&self) {
        self.world.borrow_mut().peer_fin(self.id.0);
    }

    /// Breaks the connection.
    pub fn reset(&self) {
        self.world.borrow_mut().peer_reset(self.id.0);
    }

    /// Whether everything was read that will ever come.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.world.borrow().peer_is_ended(self.id.0)
    }

    /// Whether the shard has given its end of the connection up.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.world.borrow().peer_is_closed(self.id.0)
    }

    /// Whether the connection is broken.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.world.borrow().peer_is_reset(self.id.0)
    }
}
