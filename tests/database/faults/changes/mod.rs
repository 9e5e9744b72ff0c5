//! Faults between the rows of a published table and the clients that are told of their changes.
//!
//! In goes a [`Stage`]: a server with one tenant, whose database has a published table of numbered rows, and [`Follower`]s of it.
//! A [`load::Load`] writes rows all the time. What is asked for is what a follower heard, beside what the table holds.
//!
//! What must hold: whatever ends, but for the server itself, every committed row is told once, those of a writer in their order,
//! those of a transaction together. Where rows may have been missed, the follower is told so, and told when that is over.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use super::peer::{Message, Peer};
use super::{RECOVERY, SETUP, TENANT, eventually, tenant_of};
use crate::clock;
use crate::postgres::{Cluster, Database, Kind};
use crate::server::Server;
use crate::token;
use load::{Load, Row, assert_rest};

pub mod crashes;
pub mod ends;
mod load;
pub mod publication;
pub mod slots;

/// The end of what is compared is a row of nobody.
const NOBODY: i64 = 0;

/// The published tables: one that everybody sees whole, and one of which everybody sees the rows of some writers.
const TABLES: &str = "
    create table public.numbered (writer bigint, n bigint, t bigint, primary key (writer, n));
    create table public.guarded (writer bigint, n bigint, t bigint, primary key (writer, n));
    alter table public.guarded enable row level security;
    create policy parity on public.guarded for select to authenticated
      using (writer = 0 or writer % 2 = (auth.jwt() ->> 'parity')::int);
    alter publication supabase_realtime add table public.numbered, public.guarded;";

/// What a subscriber is told when its changes come from now on.
const SUBSCRIBED: &str = "Subscribed to PostgreSQL";

/// The slots of this database by which changes are read.
const SLOTS: &str = "from pg_replication_slots where database = current_database() \
    and slot_name like 'supabase_realtime_replication_slot%'";

/// How often the faults of a chaos test happen: CHAOS_ROUNDS, or as often as there is time for in every build.
fn rounds() -> u64 {
    let wanted = std::env::var("CHAOS_ROUNDS").ok();
    wanted.map_or(3, |text| text.parse().expect("CHAOS_ROUNDS is a number"))
}

/// How long rows are written where nothing else happens.
const LOAD: Duration = Duration::from_millis(200);

/// A time in which the load goes on; what happens meanwhile is seen later.
fn pause(duration: Duration) {
    let (_keep, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(duration);
}

/// A running server, its tenant and the tenant's database.
struct Stage {
    server: Server,
    database: Database,
    tenant: Value,
    environment: Vec<(&'static str, &'static str)>,
}

impl Stage {
    /// In a database of its own in `cluster`.
    fn new(cluster: &Arc<Cluster>) -> Self {
        Self::with(cluster, &json!({}), &[])
    }

    /// The same with more settings of the tenant's database, and more variables.
    fn with(
        cluster: &Arc<Cluster>,
        settings: &Value,
        variables: &[(&'static str, &'static str)],
    ) -> Self {
        let database = cluster.database(Kind::Supabase);
        database.sql(TABLES);
        let mut tenant = tenant_of(TENANT, &database);
        tenant["extensions"] = database.extensions(settings);
        let environment = [super::ENVIRONMENT, variables].concat();
        let server = Server::start(SETUP, std::slice::from_ref(&tenant), &environment);
        Self {
            server,
            database,
            tenant,
            environment,
        }
    }

    /// Another server for the same tenant, as if on another machine.
    fn another_server(&self) -> Server {
        Server::start(SETUP, std::slice::from_ref(&self.tenant), &self.environment)
    }

    /// Kills the server, and starts another one.
    fn replace_server(&mut self) {
        self.server.signal("KILL");
        self.server = self.another_server();
    }

    /// A follower of everything in the table of numbered rows.
    fn follow(&self) -> Follower {
        Follower::join(
            &self.server,
            &json!([{"event": "*", "schema": "public", "table": "numbered"}]),
        )
    }

    /// Lets `writers` write for a while, and compares what the follower, which was subscribed when the table held `since`, has heard
    /// since with what was written. `n` numbers the row that ends it.
    #[track_caller]
    fn compare_rest(&self, load: Load, follower: &mut Follower, since: &[Row], n: i64) {
        pause(LOAD);
        load.end();
        self.end_row("numbered", n);
        let heard = follower.rows_until(n);
        assert_rest(
            &heard,
            &self.rows("numbered"),
            since,
            &self.server.log_end(),
        );
    }

    /// How many slots there are for changes.
    fn slots(&self) -> String {
        self.database.sql(&format!("select count(*) {SLOTS}"))
    }

    /// The process that reads the slot now. Nobody, for a moment, while it is started anew.
    fn reader(&self) -> Option<String> {
        let pid = self.database.sql(&format!(
            "select active_pid {SLOTS} and active_pid is not null"
        ));
        (!pid.is_empty()).then_some(pid)
    }

    /// Waits until there is a process that reads the slot, and names it.
    fn next_reader(&self) -> String {
        let mut reader = None;
        eventually("the slot is read", RECOVERY, || {
            reader = self.reader();
            reader.is_some()
        });
        reader.expect("it was just seen")
    }

    /// Ends the process that reads the slot.
    fn end_reader(&self) {
        let reader = self.next_reader();
        self.database
            .sql(&format!("select pg_terminate_backend({reader})"));
    }

    /// Makes the row that ends what is compared.
    fn end_row(&self, table: &str, n: i64) {
        self.database.sql(&format!(
            "insert into public.{table} values ({NOBODY}, {n}, 0)"
        ));
    }

    /// The rows of `table` that are there, in the order of their writers.
    fn rows(&self, table: &str) -> Vec<Row> {
        let text = self.database.sql(&format!(
            "select writer, n, t from public.{table} where writer <> {NOBODY} order by writer, n"
        ));
        text.lines().map(Row::parse).collect()
    }
}

/// A client that is told of changes.
struct Follower {
    peer: Peer,
}

impl Follower {
    /// Joined, and told that changes come from now on. `entries` are those of the join.
    fn join(server: &Server, entries: &Value) -> Self {
        Self::join_as(server, entries, &token::good())
    }

    /// The same with another token.
    fn join_as(server: &Server, entries: &Value, token: &str) -> Self {
        Self::join_of(server, TENANT, entries, token)
    }

    /// The same of another tenant.
    fn join_of(server: &Server, tenant: &str, entries: &Value, token: &str) -> Self {
        let mut follower = Self::start(server, tenant, entries, token);
        follower.is_subscribed();
        follower
    }

    /// Joined; whether there is anything to be told of is not known yet.
    fn start(server: &Server, tenant: &str, entries: &Value, token: &str) -> Self {
        let mut peer = Peer::connect(server, tenant, token);
        peer.start_join(TOPIC, &json!({"postgres_changes": entries}));
        assert_eq!(peer.joined(TOPIC), Ok(()));
        Self { peer }
    }

    /// The next thing that is said about the subscription: status and text.
    #[track_caller]
    fn told(&mut self, within: Duration) -> (String, String) {
        let told = self.peer.wait_for(within, is_about_subscription);
        let told = told
            .unwrap_or_else(|| panic!("nothing was said of the subscription within {within:?}"));
        let text = |name: &str| told.payload[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("message"))
    }

    /// The next thing that is said is that changes come from now on.
    #[track_caller]
    fn is_subscribed(&mut self) {
        let told = self.told(RECOVERY);
        assert_eq!(told, ("ok".to_owned(), SUBSCRIBED.to_owned()));
    }

    /// What is said next is that changes may have been missed, or that there are none; its text.
    #[track_caller]
    fn is_warned(&mut self, within: Duration) -> String {
        let (status, text) = self.told(within);
        assert_eq!(status, "error", "{text}");
        text
    }

    /// Nothing was said about the subscription that is not expected.
    #[track_caller]
    fn is_told_nothing(&mut self) {
        let told = self.peer.wait_for(Duration::ZERO, is_about_subscription);
        assert!(told.is_none(), "{told:?}");
    }

    /// No change has come.
    #[track_caller]
    fn is_told_no_change(&mut self) {
        let change = self.change(Duration::ZERO);
        assert!(change.is_none(), "{change:?}");
    }

    /// The next change, as `data`.
    fn change(&mut self, within: Duration) -> Option<Value> {
        let change = self
            .peer
            .wait_for(within, |message| message.event == "postgres_changes");
        change.map(|mut message| message.payload["data"].take())
    }

    /// The rows whose insertion is told, up to the row of nobody with this number.
    #[track_caller]
    fn rows_until(&mut self, n: i64) -> Vec<Row> {
        let deadline = clock::now() + 2 * RECOVERY;
        let mut rows = Vec::new();
        loop {
            let Some(change) = self.change(clock::left(deadline)) else {
                panic!(
                    "the end did not come; {} rows did, the last is {:?}",
                    rows.len(),
                    rows.last()
                );
            };
            assert_eq!(
                (&change["type"], &change["errors"]),
                (&json!("INSERT"), &Value::Null),
                "{change}"
            );
            let row = Row::of(&change["record"]);
            if row.writer == NOBODY && row.n == n {
                return rows;
            }
            if row.writer != NOBODY {
                rows.push(row);
            }
        }
    }
}

/// What the log keeps for the slot, in bytes. A checkpoint lets a slot go on.
fn kept(stage: &Stage) -> u64 {
    let size = "coalesce(max(pg_current_wal_lsn() - restart_lsn), 0)::bigint";
    let text = stage
        .database
        .sql(&format!("checkpoint; select {size} {SLOTS}"));
    text.parse().expect("it is a number")
}

/// Writes 48 MiB of log that nobody is told of.
fn fill(stage: &Stage) {
    stage.database.sql(
        "create table if not exists public.filler (text text); alter table public.filler alter column text set storage external;
         insert into public.filler select repeat('x', 8000) from generate_series(1, 6000)",
    );
}

/// The topic of every follower, each on a socket of its own.
const TOPIC: &str = "realtime:changes";

fn is_about_subscription(message: &Message) -> bool {
    message.event == "system" && message.payload["extension"] == "postgres_changes"
}
