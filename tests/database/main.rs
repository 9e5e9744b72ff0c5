//! Tests against a real PostgreSQL: the rooms that speak to a tenant's database, and the whole server while that database fails.
//!
//! One cluster for all of them, started here and stopped at the end; each test takes a database of its own from it. A test is
//! an async function that gets the cluster; it runs on a thread, a tokio runtime and a `LocalSet` of its own, like the control
//! core. A new file of tests names them in `tests![…]` and is added to [`TABLES`].

#![expect(
    unreachable_pub,
    reason = "a test binary exports nothing; `pub` marks what other files of it use"
)]

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use realtime::control::database::Settings;
use serde_json::{Value, json};

use postgres::{Cluster, Database};

/// A test: what it panics with is its failure.
pub type Test = fn(Arc<Cluster>) -> Pin<Box<dyn Future<Output = ()>>>;

/// The table of a file's tests: `tests![a_sentence_that_is_true, another];` names async functions `fn(Arc<Cluster>)`.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// Tests of this file, for the table in `main.rs`.
        pub const TESTS: &[(&str, crate::Test)] =
            &[$((stringify!($name), |cluster| Box::pin($name(cluster)))),*];
    };
}

mod asking;
mod catalog;
mod changes;
mod connect;
mod control_database;
mod dev;
mod exceptions;
mod dice;
mod faults;
mod filters;
mod generated;
mod harness;
mod hub;
mod janitor;
mod policies;
mod postgres;
mod replay;
mod schema;
mod send;
mod session;
mod source;
mod stream;
mod tenants;
mod turns;
mod values;
mod visibility;
mod world;

// A client and a server of the conformance tests.
#[path = "../conformance/clock.rs"]
#[expect(dead_code, reason = "what only tests/conformance needs of it")]
mod clock;
#[path = "../conformance/server.rs"]
#[expect(dead_code, reason = "what only tests/conformance needs of it")]
mod server;
#[path = "../conformance/socket.rs"]
#[expect(dead_code, reason = "what only tests/conformance needs of it")]
mod socket;
#[path = "../conformance/token.rs"]
#[expect(dead_code, reason = "what only tests/conformance needs of it")]
mod token;

/// Every file of tests.
const TABLES: &[(&str, &[(&str, Test)])] = &[
    ("catalog", catalog::TESTS),
    ("changes", changes::TESTS),
    ("connect", connect::TESTS),
    ("control_database", control_database::original::TESTS),
    ("control_database", control_database::processes::TESTS),
    ("control_database", control_database::sharing::TESTS),
    ("control_database", control_database::start::TESTS),
    ("dev", dev::TESTS),
    ("exceptions", exceptions::TESTS),
    ("faults::changes", faults::changes::crashes::TESTS),
    ("faults::changes", faults::changes::ends::TESTS),
    ("faults::changes", faults::changes::publication::TESTS),
    ("faults::changes", faults::changes::slots::TESTS),
    ("faults", faults::joins::TESTS),
    ("faults", faults::stream::TESTS),
    ("filters", filters::answers::TESTS),
    ("filters", filters::asked::TESTS),
    ("filters", filters::checks::TESTS),
    ("generated", generated::TESTS),
    ("harness", harness::TESTS),
    ("hub", hub::TESTS),
    ("janitor", janitor::TESTS),
    ("policies", policies::TESTS),
    ("replay", replay::TESTS),
    ("schema", schema::TESTS),
    ("send", send::TESTS),
    ("session", session::TESTS),
    ("source", source::breaks::TESTS),
    ("source", source::slots::TESTS),
    ("source", source::speed::TESTS),
    ("stream", stream::chaos::TESTS),
    ("stream", stream::faults::TESTS),
    ("stream", stream::rows::TESTS),
    ("tenants", tenants::TESTS),
    ("values", values::asked::TESTS),
    ("values", values::documents::TESTS),
    ("values", values::made::TESTS),
    ("values", values::simple::TESTS),
    ("visibility", visibility::TESTS),
    ("visibility", visibility::slow::TESTS),
];

/// How many tests run at once; most of them wait for a database.
const THREADS: usize = 8;

thread_local! {
    /// Where this thread panicked last.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    // A failure says what it has to say in its own message, and where; backtraces of async functions say nothing.
    panic::set_hook(Box::new(|panic| {
        PLACE.set(panic.location().map(ToString::to_string));
    }));
    let cluster: Arc<OnceLock<Arc<Cluster>>> = Arc::default();
    let rows = TABLES
        .iter()
        .flat_map(|(file, tests)| tests.iter().map(move |(name, test)| (file, name, *test)));
    let trials = rows.map(|(file, name, test)| {
        let cluster = Arc::clone(&cluster);
        Trial::test(format!("{file}::{name}"), move || {
            // Started by the first test that runs, so that `--list` starts nothing.
            let cluster = cluster.get_or_init(|| Arc::new(Cluster::start()));
            run(test, Arc::clone(cluster))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // The cluster ends with its handle; leaving by `exit` would rely on the script noticing.
    drop(cluster);
    conclusion.exit_code()
}

fn run(test: Test, cluster: Arc<Cluster>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let all = || tokio::task::LocalSet::new().block_on(&runtime, test(cluster));
    panic::catch_unwind(AssertUnwindSafe(all)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        let place = PLACE.take().unwrap_or_default();
        Failed::from(format!("{} ({place})", text.unwrap_or("it panicked")))
    })
}

impl Database {
    /// What the server makes of this database's extension.
    pub fn settings(&self) -> Settings {
        self.settings_with(&json!({}))
    }

    /// The same with more settings, or others.
    pub fn settings_with(&self, more: &Value) -> Settings {
        let extensions = self.extensions(more);
        let settings = extensions[0]["settings"].as_object();
        Settings::parse(settings.expect("it is an object")).expect("every setting is right")
    }
}
