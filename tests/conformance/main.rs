//! The built server, asked the questions of the protocol from outside.
//!
//! In goes the binary; out comes one result per question and setup: recorded conversations of the original server
//! (`transcripts/`) and directed tests (`cases/`), each on every [`Setup`] (driver and number of shards). All questions to one
//! setup go to one server at the same time; each has tenants of its own, so a leak between tenants shows as a frame that
//! nobody expected.
//!
//! The harness is libtest's look-alike, because most of these tests wait (for refusals, timers, expiry) and so all of them
//! run at once, far more than there are cores. Names can be given as for `cargo test`.

#![expect(
    unreachable_pub,
    reason = "a test binary exports nothing; `pub` marks what other files of it use"
)]

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use serde_json::{Value, json};

use cases::{Case, Context};
use postgres::{Cluster, Database, Kind};
use server::{Server, Setup};
use transcript::Transcript;

mod cases;
mod changes;
mod clock;
mod compare;
mod echo;
mod operations;
#[expect(dead_code, reason = "what only tests/database needs of it")]
#[path = "../database/postgres.rs"]
mod postgres;
mod replay;
mod server;
mod socket;
mod token;
mod transcript;

/// The recordings that are played, longest first.
const TRANSCRIPTS: &[&str] = &[
    "join_errors.v1",
    "join_errors.v2",
    "idle_timeout",
    "presence_two_clients.v1",
    "presence_two_clients.v2",
    "token_expiry.v2",
    "join_invalid_payloads.v2",
    "access_token_refresh.v2",
    "limits_joins",
    "limits_users",
    "limits_channels",
    "limits_events",
    "heartbeat_leave_misc.v2",
    "broadcast_matrix.v1",
    "broadcast_matrix.v2",
    "join_ok_variants.v1",
    "join_ok_variants.v2",
    "postgres_changes_rls.v2",
    "postgres_changes_filters.v2",
    "postgres_changes_types.v1",
    "postgres_changes_types.v2",
    "postgres_changes_errors.v1",
    "postgres_changes_errors.v2",
    "upgrade_refusals",
    "http_misc",
    "http_broadcast",
    "join_legacy_pg_topic.v2",
    "broadcast_private.v2",
    "system_and_db_broadcast",
];

/// Those in which `realtime-dev` needs its database.
const WITH_DATABASE: &[&str] = &[
    "join_errors.v1",
    "join_errors.v2",
    "access_token_refresh.v2",
    "join_invalid_payloads.v2",
    "join_ok_variants.v1",
    "join_ok_variants.v2",
    "join_legacy_pg_topic.v2",
    "http_broadcast",
    "broadcast_private.v2",
    "system_and_db_broadcast",
    "postgres_changes_rls.v2",
    "postgres_changes_filters.v2",
    "postgres_changes_types.v1",
    "postgres_changes_types.v2",
    "postgres_changes_errors.v1",
    "postgres_changes_errors.v2",
];

/// The recording of the management API: it names tenants in paths and bodies, so it has a server to itself.
const OF_TENANTS: &str = "http_tenants";

/// Recordings that end their server.
const LAST_TRANSCRIPTS: &[&str] = &["zz_server_shutdown"];

/// Tenants of the recordings, with what is not default.
fn recorded_tenants() -> [(&'static str, Value); 10] {
    [
        ("realtime-dev", json!({})),
        ("t-default", json!({})),
        ("t-users", json!({"max_concurrent_users": 2})),
        ("t-joins", json!({"max_joins_per_second": 1})),
        ("t-chans", json!({"max_channels_per_client": 2})),
        ("t-events", json!({"max_events_per_second": 2})),
        ("t-pres", json!({"max_presence_events_per_second": 1})),
        ("t-payload", json!({"max_payload_size_in_kb": 1})),
        ("t-priv", json!({"private_only": true})),
        ("t-susp", json!({"suspend": true})),
    ]
}

/// Tests in which nothing is said for more than a minute. They run beside all others.
const SILENT: [&str; 3] = [
    "::a_ping_counts_as_a_sign_of_life",
    "::transcript::idle_timeout",
    "::a_silent_socket_is_closed_after_60_to_66_seconds",
];

/// How many tests run at once; most of them wait.
const THREADS: usize = 112;

/// How many of the recordings that need a database.
const THREADS_ASKING: usize = 16;

/// How many of those that load the machine.
const THREADS_HEAVY: usize = 4;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let threads = arguments.test_threads.unwrap_or(THREADS);
    // A failure says what it has to say in its own message; interleaved backtraces of a hundred threads say nothing.
    panic::set_hook(Box::new(|_| {}));
    let mut trials = harness_trials();
    let cluster = Arc::default();
    let setups: Vec<Arc<Shared>> = Setup::ALL
        .into_iter()
        .map(|setup| Arc::new(Shared::new(setup, &cluster)))
        .collect();
    // Those of limits are timed to a fraction of a second: nothing else may load the machine meanwhile.
    let (limits, others): (Vec<&str>, _) = TRANSCRIPTS
        .iter()
        .partition(|case| case.starts_with("limits_"));
    // Each of those with a database makes a schema, two streams and a dozen connections: all at once they keep each other waiting
    // for longer than any of them was recorded.
    let mut asking = Vec::new();
    for case in others {
        let of_case = setups.iter().filter(|shared| runs_on(case, shared.setup));
        let trials = if WITH_DATABASE.contains(&case) {
            &mut asking
        } else {
            &mut trials
        };
        trials.extend(of_case.map(|shared| transcript_trial(case, shared)));
    }
    for case in LAST_TRANSCRIPTS {
        trials.extend(
            Setup::ALL
                .into_iter()
                .map(|setup| last_transcript_trial(case, setup)),
        );
    }
    asking.extend(
        Setup::ALL
            .into_iter()
            .map(|setup| trial_of_tenants(setup, &cluster)),
    );
    trials.extend(echo_trials());
    let mut heavy = Vec::new();
    for (index, case) in cases::all().enumerate() {
        let trials = if cases::is_heavy(case) {
            &mut heavy
        } else {
            &mut trials
        };
        trials.extend(setups.iter().map(|shared| case_trial(index, case, shared)));
    }
    let mut timed = Vec::new();
    for case in limits {
        timed.extend(setups.iter().map(|shared| transcript_trial(case, shared)));
    }
    let changes = changes::trials(arguments.filter.as_deref().unwrap_or(""));
    let run = |threads: usize, trials| {
        let mut arguments = arguments.clone();
        arguments.test_threads = Some(threads);
        libtest_mimic::run(&arguments, trials)
    };
    let (silent, trials): (Vec<Trial>, _) = trials
        .into_iter()
        .partition(|trial| SILENT.iter().any(|name| trial.name().ends_with(name)));
    // Servers end with their handles, those of changes with their last test; leaving by `exit` would leave them running.
    let conclusions = std::thread::scope(|scope| {
        let silent = scope.spawn(|| run(silent.len().max(1), silent));
        let waiting = run(threads, trials);
        let timed = run(threads, timed);
        let asking = run(threads.min(THREADS_ASKING), asking);
        let changing = run(threads.min(changes::THREADS), changes);
        let loading = run(threads.min(THREADS_HEAVY), heavy);
        let operating = run(threads.min(operations::THREADS), operations::trials());
        let silent = silent.join().expect("libtest-mimic catches what tests do");
        [waiting, timed, asking, changing, loading, operating, silent]
    });
    drop((setups, cluster));
    let failed = conclusions.iter().find(|one| one.has_failed());
    failed.map_or(ExitCode::SUCCESS, Conclusion::exit_code)
}

/// Tests of the harness itself: no server.
fn harness_trials() -> Vec<Trial> {
    let tables = [
        ("changes", changes::TESTS),
        ("clock", clock::TESTS),
        ("compare", compare::TESTS),
        ("replay", replay::TESTS),
        ("socket", socket::TESTS),
        ("token", token::TESTS),
        ("transcript", transcript::TESTS),
    ];
    let rows = tables
        .into_iter()
        .flat_map(|(module, tests)| tests.iter().map(move |test| (module, test)));
    rows.map(|(module, (name, test))| {
        Trial::test(format!("harness::{module}::{name}"), move || {
            caught(test, String::new)
        })
    })
    .collect()
}

/// The frame code behind the echo example, on both drivers.
fn echo_trials() -> Vec<Trial> {
    let trials = ["uring", "epoll"].into_iter().flat_map(|driver| {
        let server: Arc<OnceLock<Server>> = Arc::default();
        echo::CASES.iter().map(move |(name, run)| {
            let server = Arc::clone(&server);
            Trial::test(format!("{driver}_echo::{name}"), move || {
                let start = || server.get_or_init(|| Server::start_echo(driver));
                caught(|| run(start().address), String::new)
            })
        })
    });
    trials.collect()
}

/// Row changes are the control core's affair: two setups show what there is to see, one for each driver, one with several shards.
fn runs_on(case: &str, setup: Setup) -> bool {
    !case.starts_with("postgres_changes_") || (setup.driver == "uring") == (setup.shards > 1)
}

fn transcript_trial(case: &'static str, shared: &Arc<Shared>) -> Trial {
    let (name, shared) = (
        format!("{}::transcript::{case}", shared.setup.name()),
        Arc::clone(shared),
    );
    Trial::test(name, move || {
        let running = shared.running()?;
        let database = running.databases.get(case);
        caught(
            || play(&running.server, case, database),
            || running.server.log_end(),
        )
    })
}

fn last_transcript_trial(case: &'static str, setup: Setup) -> Trial {
    Trial::test(format!("{}::transcript::{case}", setup.name()), move || {
        caught(
            || {
                let server = Server::start(setup, &tenants_of(&slug(case)), &[]);
                play(&server, case, None);
            },
            String::new,
        )
    })
}

fn trial_of_tenants(setup: Setup, cluster: &SharedCluster) -> Trial {
    let cluster = Arc::clone(cluster);
    let name = format!("{}::transcript::{OF_TENANTS}", setup.name());
    Trial::test(name, move || {
        let databases: [Database; 3] =
            std::array::from_fn(|_| cluster_of(&cluster).database(Kind::Supabase));
        // The recorded ones had been connected before.
        let tenant = |name: &str, database: &Database| {
            let extensions = database.extensions(&json!({"region": "us-east-1"}));
            server::tenant(
                name,
                &json!({"extensions": extensions, "migrations_ran": 81}),
            )
        };
        let tenants = [
            tenant("realtime-dev", &databases[0]),
            tenant("t-default", &databases[1]),
            tenant("before", &databases[1]),
        ];
        let environment = [("DB_ENC_KEY", "supabaserealtime"), ("REGION", "local")];
        let server = Server::start(setup, &tenants, &environment);
        caught(
            || {
                for tenant in ["realtime-dev", "before"] {
                    migrate(&server, tenant);
                }
                let transcript = Transcript::read(OF_TENANTS);
                let mut transcript = transcript.unwrap_or_else(|error| panic!("{error}"));
                transcript.replace_in_bodies(&of_recorded_database(&databases[2]));
                let host_of = |host: &str| host.to_owned();
                if let Err(differences) = replay::play(&server, &transcript, &host_of, None) {
                    panic!("{OF_TENANTS} was answered differently:\n{differences}");
                }
            },
            || server.log_end(),
        )
    })
}

/// What the recorded requests say of a tenant's database, and what is to be said of this one.
fn of_recorded_database(database: &Database) -> [(String, String); 4] {
    let setting = |name: &str, recorded: &str, value: &str| {
        let text = |value: &str| format!("\"{name}\":\"{value}\"");
        (text(recorded), text(value))
    };
    [
        setting("db_name", "tenant10", &database.name),
        setting("db_port", "5499", &database.port.to_string()),
        setting("db_user", "supabase_admin", &database.user),
        setting("db_password", "postgres", &database.password),
    ]
}

fn case_trial(index: usize, case: &'static Case, shared: &Arc<Shared>) -> Trial {
    let (name, shared) = (
        format!("{}::{}", shared.setup.name(), case.name),
        Arc::clone(shared),
    );
    Trial::test(name, move || {
        let server = &shared.running()?.server;
        let context = Context {
            server,
            setup: shared.setup,
            tenant: case_tenant(index),
        };
        caught(|| (case.run)(&context), || server.log_end())
    })
}

/// The cluster of all tenants' databases, started by the first setup that needs it.
type SharedCluster = Arc<OnceLock<Arc<Cluster>>>;

/// The same, started if need be.
fn cluster_of(cluster: &SharedCluster) -> &Arc<Cluster> {
    // Slots and sessions for each tenant with a database, of every setup.
    let settings = [
        "max_replication_slots = 240",
        "max_wal_senders = 240",
        "max_connections = 900",
    ];
    cluster.get_or_init(|| Arc::new(Cluster::start_with(postgres::ADMIN, &settings)))
}

/// A setup's server, started by the first test that needs it.
struct Shared {
    setup: Setup,
    cluster: SharedCluster,
    running: OnceLock<Result<Running, String>>,
}

/// A server and its tenants' databases.
struct Running {
    server: Server,
    /// By the recording whose `realtime-dev` has it.
    databases: BTreeMap<&'static str, Database>,
}

impl Shared {
    fn new(setup: Setup, cluster: &SharedCluster) -> Self {
        Self {
            setup,
            cluster: Arc::clone(cluster),
            running: OnceLock::new(),
        }
    }

    fn running(&self) -> Result<&Running, Failed> {
        let start = || {
            panic::catch_unwind(AssertUnwindSafe(|| self.start()))
                .map_err(|panic| message_of(&*panic))
        };
        self.running
            .get_or_init(start)
            .as_ref()
            .map_err(|error| Failed::from(error.clone()))
    }

    fn start(&self) -> Running {
        let cluster = cluster_of(&self.cluster);
        let databases: BTreeMap<&str, Database> = WITH_DATABASE
            .iter()
            .map(|case| (*case, cluster.database(Kind::Supabase)))
            .collect();
        let mut tenants = Vec::new();
        for case in TRANSCRIPTS {
            let mut of_case = tenants_of(&slug(case));
            if let Some(database) = databases.get(case) {
                // The first is `realtime-dev`.
                of_case[0]["extensions"] = database.extensions(&json!({}));
            }
            tenants.extend(of_case);
        }
        tenants.push(server::tenant("realtime-dev", &json!({})));
        for (index, case) in cases::all().enumerate() {
            tenants.push(server::tenant(&case_tenant(index), &(case.limits)()));
        }
        let server = Server::start(self.setup, &tenants, &[]);
        std::thread::scope(|scope| {
            for (case, database) in &databases {
                scope.spawn(|| prepare(&server, case, database));
            }
        });
        Running { server, databases }
    }
}

/// Has the server make its schema in a recording's database, then adds what the recorded databases held.
fn prepare(server: &Server, case: &str, database: &Database) {
    migrate(server, &format!("realtime-dev-{}", slug(case)));
    database.sql(include_str!("objects.sql"));
}

/// Has the server make its schema in the database of `tenant`.
fn migrate(server: &Server, tenant: &str) {
    let host = format!("{tenant}.localhost");
    let bearer = format!("Bearer {}", token::of_role("service_role", 60));
    let headers = [
        ("host", host.as_str()),
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    // A private message makes the server ask the database, which it connects to first.
    let message =
        json!({"messages": [{"topic": "t", "event": "e", "payload": {}, "private": true}]});
    let answer = socket::request(
        server.address,
        "POST",
        "/api/broadcast",
        &headers.into(),
        message.to_string().as_bytes(),
    );
    assert!(
        matches!(answer, Ok(socket::Event::Upgrade { status: 202, .. })),
        "{tenant}: a private message was answered by {answer:?}\n{}",
        server.log_end()
    );
}

/// The external id of a directed test's own tenant.
fn case_tenant(index: usize) -> String {
    format!("case-{index}")
}

/// A case's name as a part of a host name.
fn slug(case: &str) -> String {
    case.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect()
}

/// The recorded tenants under names of their own for the case `slug`.
fn tenants_of(slug: &str) -> Vec<Value> {
    recorded_tenants()
        .iter()
        .map(|(name, limits)| server::tenant(&format!("{name}-{slug}"), limits))
        .collect()
}

/// Plays a recording against its own tenants.
fn play(server: &Server, case: &str, database: Option<&Database>) {
    let transcript = Transcript::read(case).unwrap_or_else(|error| panic!("{error}"));
    let known: BTreeMap<&str, Value> = recorded_tenants().into_iter().collect();
    let slug = slug(&transcript.case);
    let host_of = |host: &str| {
        let (label, domain) = host.split_once('.').unwrap_or((host, ""));
        if known.contains_key(label) {
            format!("{label}-{slug}.{domain}")
        } else {
            host.to_owned()
        }
    };
    if let Err(differences) = replay::play(server, &transcript, &host_of, database) {
        panic!("{case} was answered differently:\n{differences}");
    }
}

/// Runs a test; what it panics with becomes its failure, with the end of the server's log.
fn caught(test: impl FnOnce(), log: impl FnOnce() -> String) -> Result<(), Failed> {
    panic::catch_unwind(AssertUnwindSafe(test)).map_err(|panic| {
        let log = log();
        let log = if log.is_empty() {
            log
        } else {
            format!("\n-- the server's last lines --\n{log}")
        };
        Failed::from(format!("{}{log}", message_of(&*panic)))
    })
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked")
        .to_owned()
}
