//! The whole data plane over seeds: clients that do what comes to their mind, on a simulated kernel that does what kernels may do.
//!
//! What comes in: a seed. It decides everything: how many shards, how small their mailboxes, what goes wrong, who does what when. What
//! goes out: nothing, or the first thing that a model of the protocol (`simulation/model.rs`) did not expect, and the seed.
//!
//! ```sh
//! cargo test --test simulation                 # 200 new seeds
//! SIM_SEEDS=5000 cargo test --test simulation  # more of them
//! SIM_SEED=17 cargo test --test simulation     # one of them again
//! ```

extern crate realtime;

#[path = "simulation/actions.rs"]
mod actions;
#[path = "simulation/check.rs"]
mod check;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/reading.rs"]
mod reading;
#[path = "../src/shard/tests/world.rs"]
mod world;

use dice::Dice;
use model::{Model, TENANTS};
use shards::Options;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::{Faults, Setup, World, generous};

/// Seeds of a run, over both tests, unless `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 200;

/// Looks at whether everything has arrived.
const ROUNDS: usize = 6;

/// What clients do between two looks at whether everything has arrived.
const ACTIONS_PER_ROUND: usize = 60;

#[test]
fn nothing_is_lost_on_a_kernel_that_loses_nothing() {
    over_seeds(Faults::lossless());
}

#[test]
fn who_remains_misses_nothing_when_connections_break() {
    over_seeds(Faults::all());
}

fn over_seeds(faults: Faults) {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse()
                .unwrap_or_else(|_| panic!("{name} is a number")),
        )
    };
    if let Some(seed) = number("SIM_SEED") {
        return run(seed, faults);
    }
    let random = RandomState::new();
    for n in 0..number("SIM_SEEDS").unwrap_or(SEEDS).div_ceil(2) {
        // Short enough to be typed.
        let seed = random.hash_one(n) >> 32;
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, faults)));
        assert!(
            outcome.is_ok(),
            "what went wrong stands above; to see it again: SIM_SEED={seed} cargo test --test simulation"
        );
    }
}

/// One simulation from nothing to nothing.
fn run(seed: u64, faults: Faults) {
    let mut dice = Dice::new(seed);
    let options = Options {
        shards: 1 + dice.below(4),
        mailbox_letters: 1 + dice.below(8),
        spill_letters: 1 + dice.below(16),
        connections_max: 1024,
        ..Options::default()
    };
    let world = World::new(Setup {
        seed: seed ^ 0x5eed,
        faults: if dice.one_in(8) {
            Faults::none()
        } else {
            faults
        },
        options,
        tenants: [(); TENANTS].map(|()| generous()).into(),
        seeks_tenants: false,
    });
    let mut model = Model::new(world, dice);
    for _ in 0..ROUNDS {
        for _ in 0..ACTIONS_PER_ROUND {
            model.act();
        }
        model.settle();
    }
    model.end();
}
