//! The whole server, as a child process, while its tenants' database fails in every way that databases do.
//!
//! In goes a [`Fixture`]: a server whose tenant [`TENANT`] has a database; a second tenant, [`OTHER`], has one that stays well and
//! must not notice anything. Faults are made in SQL, or by stopping a cluster that belongs to the test alone. What is asked
//! for is what clients see, what the database saw, and that the fault is over when its cause is.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock;
use crate::postgres::{Cluster, Database, Kind};
use crate::server::{self, Server, Setup};
use crate::token;
use peer::Peer;

pub mod changes;
pub mod joins;
pub mod peer;
pub mod stream;

/// The tenant whose database fails.
const TENANT: &str = "faulty";

/// The tenant whose database does not.
const OTHER: &str = "fine";

/// Longest time from the end of a fault to the end of its consequences.
pub const RECOVERY: Duration = Duration::from_secs(60);

/// Everything is allowed, but for the topics by which tests make the database fail.
const POLICIES: &str = "
    create function public.fault(topic text) returns boolean language plpgsql as $$
    begin
      if topic like 'raises:%' then perform 1 / 0; end if;
      if topic like 'sleeps:%' then perform pg_sleep(split_part(topic, ':', 2)::float); end if;
      return true;
    end $$;
    create policy all_of_it on realtime.messages for all to authenticated
      using (public.fault(realtime.topic())) with check (public.fault(realtime.topic()));";

/// A running server and its tenants' databases.
struct Fixture {
    server: Server,
    faulty: Database,
    fine: Database,
}

impl Fixture {
    /// Both tenants' databases are in `cluster`; neither is connected to yet.
    fn cold(cluster: &Arc<Cluster>, faulty: Database, more: &Value) -> Self {
        let fine = cluster.database(Kind::Supabase);
        let mut tenants = vec![tenant_of(TENANT, &faulty), tenant_of(OTHER, &fine)];
        for (name, value) in more.as_object().into_iter().flatten() {
            tenants[0][name] = value.clone();
        }
        let server = Server::start(SETUP, &tenants, ENVIRONMENT);
        Self {
            server,
            faulty,
            fine,
        }
    }

    /// Both tenants' databases are connected to and have [`POLICIES`].
    fn warm(cluster: &Arc<Cluster>) -> Self {
        Self::warm_with(cluster, cluster.database(Kind::Supabase), &json!({}))
    }

    /// The same with another database, and more attributes of its tenant.
    fn warm_with(cluster: &Arc<Cluster>, faulty: Database, more: &Value) -> Self {
        let fixture = Self::cold(cluster, faulty, more);
        for (tenant, database) in [(TENANT, &fixture.faulty), (OTHER, &fixture.fine)] {
            fixture.migrate(tenant);
            database.sql(POLICIES);
        }
        fixture
    }

    /// Has the server make its schema: the join is refused, because nobody has made policies.
    fn migrate(&self, tenant: &str) {
        let refusal = self.peer_of(tenant).join("realtime:migrate");
        let text =
            "Unauthorized: You do not have permissions to read from this Channel topic: migrate";
        assert_eq!(refusal, Err(text.to_owned()), "{}", self.server.log_end());
    }

    fn peer(&self) -> Peer {
        self.peer_of(TENANT)
    }

    fn peer_of(&self, tenant: &str) -> Peer {
        Peer::connect(&self.server, tenant, &token::good())
    }

    /// The other tenant joins, promptly, and hears itself.
    #[track_caller]
    fn other_is_fine(&self) {
        let start = clock::now();
        let mut peer = self.peer_of(OTHER);
        assert_eq!(peer.join("realtime:fine"), Ok(()));
        peer.push(
            "realtime:fine",
            "broadcast",
            &json!({"type": "broadcast", "event": "e", "payload": {}}),
        );
        assert!(peer.broadcast("realtime:fine", PROMPTLY).is_some());
        assert!(
            start.elapsed() < PROMPTLY,
            "the other tenant waited for {:?}",
            start.elapsed()
        );
    }
}

/// Both drivers and every number of shards are what tests/conformance is for.
pub const SETUP: Setup = Setup {
    driver: "epoll",
    shards: 2,
};

/// Refusals come at once, and sockets that say nothing stay.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("CHANNEL_ERROR_BACKOFF_MS", "50"),
    ("IDLE_TIMEOUT_MS", "3600000"),
];

/// No query, no connection and no refusal in between: a debug build on a busy machine. Less than any timeout of the server's.
const PROMPTLY: Duration = Duration::from_secs(9);

fn tenant_of(external_id: &str, database: &Database) -> Value {
    let attributes = json!({
        "extensions": database.extensions(&json!({})),
        "max_joins_per_second": 100_000,
        "max_channels_per_client": 10_000,
        "max_concurrent_users": 100_000,
        "max_events_per_second": 1_000_000,
    });
    server::tenant(external_id, &attributes)
}

/// Looks until it is true; a database has no event for this.
#[track_caller]
pub fn eventually(what: &str, deadline: Duration, mut is_true: impl FnMut() -> bool) {
    let start = clock::now();
    let (_keep, never) = mpsc::channel::<()>();
    while !is_true() {
        assert!(
            start.elapsed() < deadline,
            "after {deadline:?} it is still not true that {what}"
        );
        // A pause between two looks, not a wait for something that is known to take so long.
        let _ = never.recv_timeout(Duration::from_millis(100));
    }
}

/// Ends the database's backends of this `application_name` and says how many there were.
fn kill(database: &Database, application_name: &str) -> usize {
    let ended = database.sql(&format!(
        "select pg_terminate_backend(pid) from pg_stat_activity \
         where datname = current_database() and application_name like '{application_name}'"
    ));
    ended.lines().count()
}
