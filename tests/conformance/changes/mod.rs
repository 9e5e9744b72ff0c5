//! Row changes through the built server: recorded vectors and directed tests, each with a database and a tenant of its own.
//!
//! In go `vectors/postgres-changes/*.json` (`vector.rs`), what this server answers otherwise (`ours.rs`) and the directed tests
//! (`cases/`); out comes a result per vector and per directed test. A [`world::World`] is a cluster with one server before it;
//! there are two, so that both drivers and one and several shards deliver changes. A vector is played in one of them, because
//! what it shows is decided by the control core, which is the same everywhere; a directed test in both.
//!
//! Always holds: nothing is waited for by time. The end of delivery is marked by a row of a table that only the tests write
//! (`probe.mark`), to which every channel is subscribed too.

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};

use crate::server::Setup;
use cases::Case;
use vector::Vector;
use world::World;

mod cases;
mod ears;
mod ours;
mod params;
mod play;
mod sql;
mod texts;
mod value;
mod vector;
mod world;

/// Tests of the harness itself.
pub const TESTS: &[(&str, fn())] = &[
    ("every_vector_can_be_read", vector::every_vector_can_be_read),
    (
        "numbers_are_equal_as_decimals",
        value::numbers_are_equal_as_decimals,
    ),
    (
        "texts_are_inspected_as_elixir_does",
        texts::texts_are_inspected_as_elixir_does,
    ),
];

/// The setups that deliver changes in these tests.
const SETUPS: [Setup; 2] = [
    Setup {
        driver: "uring",
        shards: 3,
    },
    Setup {
        driver: "epoll",
        shards: 1,
    },
];

/// How many of these tests run at once.
pub const THREADS: usize = 24;

/// One test: what it is called, what its tenant is like, and what it does.
struct Test {
    name: String,
    what: What,
}

enum What {
    Vector(Vector),
    Params,
    Case(&'static Case),
}

/// The tests whose names hold `filter`. The servers and clusters end with the last of them.
///
/// Others are left out here already: a database of each would have to be made.
pub fn trials(filter: &str) -> Vec<Trial> {
    let mut tests: [Vec<Test>; 2] = Default::default();
    // Those that take long come first.
    for case in cases::all() {
        for tests in &mut tests {
            let (name, what) = (case.name.to_owned(), What::Case(case));
            tests.push(Test { name, what });
        }
    }
    for tests in &mut tests {
        let (name, what) = ("params".to_owned(), What::Params);
        tests.push(Test { name, what });
    }
    for (index, vector) in vector::all().into_iter().enumerate() {
        let (name, what) = (vector.name.clone(), What::Vector(vector));
        tests[index % SETUPS.len()].push(Test { name, what });
    }
    let worlds = SETUPS.into_iter().zip(tests).map(|(setup, mut tests)| {
        tests.retain(|test| test.full_name(setup).contains(filter));
        let tenants = tests.iter().map(Test::tenant).collect();
        (Arc::new(World::new(setup, tenants)), tests)
    });
    let mut trials: Vec<(usize, Trial)> = Vec::new();
    for (world, tests) in worlds {
        for (index, test) in tests.into_iter().enumerate() {
            trials.push((index, test.trial(index, &world)));
        }
    }
    trials.sort_by_key(|(index, _)| *index);
    trials.into_iter().map(|(_, trial)| trial).collect()
}

impl Test {
    fn tenant(&self) -> world::Tenant {
        let (settings, limits) = match &self.what {
            What::Vector(vector) => (vector.settings(), serde_json::json!({})),
            What::Params => Default::default(),
            What::Case(case) => ((case.settings)(), (case.limits)()),
        };
        world::Tenant { settings, limits }
    }

    fn full_name(&self, setup: Setup) -> String {
        format!("{}::changes::{}", setup.name(), self.name)
    }

    fn trial(self, index: usize, world: &Arc<World>) -> Trial {
        let world = Arc::clone(world);
        Trial::test(self.full_name(world.setup), move || {
            let running = world.running().map_err(Failed::from)?;
            let place = running.place(index);
            let run = || match &self.what {
                What::Vector(vector) => play::play(&place, vector),
                What::Params => params::play(&place),
                What::Case(case) => (case.run)(&place),
            };
            crate::caught(run, || place.server.log_about(&place.tenant))
        })
    }
}
