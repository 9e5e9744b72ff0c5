//! The start of a session, step by step (spec: tenant-database 2.1).
//!
//! What comes in: settings. What goes out: an open [`Pool`] in a database whose schema is as the server needs it, which one
//! it is, and the snapshot from which on rows are broadcast; or a [`Failure`]. What always holds: every step has a bound, so that a database that accepts
//! connections and then says nothing fails the start. Deliberately absent: retries.

use super::Failure;
use crate::control::clock;
use crate::control::database::partitions::ensure_partitions;
use crate::control::database::{Pool, Settings, connect, migrate};
use crate::control::messages::{Identity, Snapshot};
use crate::control::traces;
use crate::error::ErrorCode;
use crate::limits;
use crate::mail::AskError;
use std::rc::Rc;
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// What a start has led to.
pub(super) struct Started {
    pub(super) pool: Pool,
    pub(super) database: Identity,
    pub(super) since: Snapshot,
    pub(super) prepared: Prepared,
    /// Whether the host's name leads to IPv4 addresses only.
    pub(super) is_ipv4_only: bool,
}

/// What there is to say of a schema that is as it should be.
#[derive(Default)]
pub(super) struct Prepared {
    /// What would work better if somebody with more privileges helped.
    pub(super) notes: Vec<String>,
    /// Partitions that could not be made. The session goes on, and tries again later.
    pub(super) partition_errors: Vec<String>,
    /// Migrations of the original that the database has had, where that was looked at.
    pub(super) upstream_versions: Option<usize>,
}

/// Starts. `connected` is called as soon as the database has let somebody in.
pub(super) async fn start(
    settings: Rc<Settings>,
    connected: impl FnOnce(),
) -> Result<Started, Failure> {
    let probe = connect(&settings, "realtime_connect_probe").await?;
    connected();
    let room = check_room(&probe.client, &settings);
    step("count its connections", room).await?;
    let is_needed = async { Ok(migrate::is_needed(&probe.client).await?) };
    let is_ipv4_only = probe.is_ipv4_only();
    let prepared = if step("show its schema", is_needed).await? {
        drop(probe);
        prepare(&settings).await?
    } else {
        partitions(&probe.client).await
    };
    let pool = Pool::open(settings).await?;
    let lease = pool.lease().await.map_err(Failure::from)?;
    let snapshot = async { Ok(Snapshot::take(&lease).await?) };
    let since = step("take a snapshot", snapshot).await?;
    let identity = async { Ok(Identity::ask(&lease).await?) };
    let database = step("say which one it is", identity).await?;
    drop(lease);
    Ok(Started {
        pool,
        database,
        since,
        prepared,
        is_ipv4_only,
    })
}

/// Brings the schema up to date and makes the partitions of the coming days. Leads to nothing where nothing is missing.
pub(super) async fn prepare(settings: &Settings) -> Result<Prepared, Failure> {
    let mut connection = connect(settings, "realtime_migrations").await?;
    let mut span = traces::work("migrate", None);
    span.set("server.address", &settings.host);
    let migrated = async {
        let outcome = migrate::migrate(&mut connection.client).await;
        outcome.map_err(|error| Failure {
            code: ErrorCode::MigrationsFailedToRun,
            text: error.to_string(),
            told: AskError::Unreachable,
        })
    };
    let bound = limits::DATABASE_MIGRATION_TIMEOUT;
    let migrated = within(bound, "be migrated", migrated).await;
    if let Err(failure) = &migrated {
        span.fail(&failure.text);
    }
    drop(span);
    let migrated = migrated?;
    let prepared = partitions(&connection.client).await;
    Ok(Prepared {
        notes: migrated.notes,
        upstream_versions: Some(migrated.upstream_versions),
        ..prepared
    })
}

/// Makes the partitions of the coming days, on a connection of its own.
pub(super) async fn make_partitions(settings: &Settings) -> Result<Prepared, Failure> {
    let connection = connect(settings, "realtime_janitor").await?;
    Ok(partitions(&connection.client).await)
}

/// A partition that cannot be made is not needed at once, as a rule: it never fails a start.
async fn partitions(client: &Client) -> Prepared {
    let made = ensure_partitions(client, clock::unix_seconds());
    let bound = limits::DATABASE_STEP_TIMEOUT;
    let partition_errors = match tokio::time::timeout(bound, made).await {
        Ok(errors) => errors.iter().map(ToString::to_string).collect(),
        Err(_) => vec![format!(
            "the partitions of realtime.messages were not made within {} ms",
            bound.as_millis()
        )],
    };
    Prepared {
        partition_errors,
        ..Prepared::default()
    }
}

/// Whether the database has connections left for all parts of the server. Its own background processes and streams of replication
/// have places of their own.
async fn check_room(client: &Client, settings: &Settings) -> Result<(), Failure> {
    let sql = "SELECT current_setting('max_connections')::bigint - count(*) FROM pg_catalog.pg_stat_activity \
         WHERE backend_type = 'client backend' AND application_name <> ALL ($1)";
    let ours: &[&str] = &["realtime_connect", "realtime_connect_probe"];
    let rows = client
        .query_typed(sql, &[(&ours, Type::TEXT_ARRAY)])
        .await?;
    let available: i64 = match rows.first() {
        Some(row) => row.try_get(0)?,
        None => 0,
    };
    let required = settings.connections_required();
    if i64::try_from(required).is_ok_and(|required| required < available) {
        return Ok(());
    }
    Err(Failure {
        code: ErrorCode::DatabaseLackOfConnections,
        text: format!(
            "Only {available} available connections. At least {required} connections are required."
        ),
        told: AskError::LackOfConnections,
    })
}

/// A question that is answered at once by a database that is well.
async fn step<T>(what: &str, step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    within(limits::DATABASE_STEP_TIMEOUT, what, step).await
}

/// What `step` returns, if it does within `bound`.
async fn within<T>(
    bound: Duration,
    what: &str,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(bound, step).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::unreachable(format!(
            "the database took longer than {} ms to {what}",
            bound.as_millis()
        ))),
    }
}
