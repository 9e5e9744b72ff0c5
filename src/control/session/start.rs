//! The start of a session, step by step (spec: tenant-database 2.1).
//!
//! What comes in: settings. What goes out: an open [`Pool`] in a database whose schema is as the server needs it, and the snapshot
//! from which on rows are broadcast; or a [`Failure`]. What always holds: every step has a bound, so that a database that accepts
//! connections and then says nothing fails the start. Deliberately absent: retries.

use super::Failure;
use crate::control::clock;
use crate::control::database::connect::describe;
use crate::control::database::migrate::migrate;
use crate::control::database::partitions::ensure_partitions;
use crate::control::database::{Connection, Pool, Settings, connect};
use crate::control::messages::Snapshot;
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
    pub(super) since: Snapshot,
    /// Whether the host's name leads to IPv4 addresses only.
    pub(super) is_ipv4_only: bool,
    /// Partitions that could not be made: the sessions goes on, and tries again later.
    pub(super) partition_errors: Vec<String>,
}

/// Starts. `connected` is called as soon as the database has let somebody in.
pub(super) async fn start(
    settings: Rc<Settings>,
    connected: impl FnOnce(),
) -> Result<Started, Failure> {
    let is_ipv4_only = {
        let probe = connect(&settings, "realtime_connect_probe").await?;
        connected();
        within(
            limits::DATABASE_STEP_TIMEOUT,
            "count its connections",
            check_room(&probe.client, &settings),
        )
        .await?;
        probe.is_ipv4_only()
    };
    let partition_errors = prepare(&settings).await?;
    let pool = Pool::open(settings).await?;
    let lease = pool.lease().await.map_err(|error| Failure {
        code: ErrorCode::UnableToConnectToTenantDatabase,
        text: error.to_string(),
        told: AskError::Unreachable,
    })?;
    let snapshot = async { Snapshot::take(&lease).await.map_err(Failure::from) };
    let since = within(
        limits::DATABASE_STEP_TIMEOUT,
        "tell its snapshot",
        snapshot,
    )
    .await?;
    drop(lease);
    Ok(Started {
        pool,
        since,
        is_ipv4_only,
        partition_errors,
    })
}

/// Brings the schema up to date and makes the partitions of the coming days. Both lead to nothing where nothing is missing. Returns
/// what is wrong with single partitions.
pub(super) async fn prepare(settings: &Settings) -> Result<Vec<String>, Failure> {
    let mut connection: Connection = connect(settings, "realtime_migrations").await?;
    let migrated = async {
        migrate(&mut connection.client)
            .await
            .map_err(|error| Failure {
                code: ErrorCode::MigrationsFailedToRun,
                text: error.to_string(),
                told: AskError::Unreachable,
            })
    };
    within(limits::DATABASE_MIGRATION_TIMEOUT, "be migrated", migrated).await?;
    partitions(&connection.client).await
}

/// Makes the partitions of the coming days, on a connection of their own.
pub(super) async fn make_partitions(settings: &Settings) -> Result<Vec<String>, Failure> {
    let connection = connect(settings, "realtime_janitor").await?;
    partitions(&connection.client).await
}

async fn partitions(client: &Client) -> Result<Vec<String>, Failure> {
    let made = async { Ok(ensure_partitions(client, clock::unix_seconds()).await) };
    let errors = within(
        limits::DATABASE_MIGRATION_TIMEOUT,
        "make its partitions",
        made,
    )
    .await?;
    Ok(errors.iter().map(ToString::to_string).collect())
}

/// Whether the database has connections left for all parts of the server. Its own background processes and streams of replication
/// have places of their own.
async fn check_room(client: &Client, settings: &Settings) -> Result<(), Failure> {
    let sql = "SELECT current_setting('max_connections')::bigint - count(*) FROM pg_catalog.pg_stat_activity \
         WHERE backend_type = 'client backend' AND application_name <> ALL ($1)";
    let ours: &[&str] = &["realtime_connect", "realtime_connect_probe"];
    let rows = client.query_typed(sql, &[(&ours, Type::TEXT_ARRAY)]).await?;
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

/// What `step` returns, if it does within `bound`.
async fn within<T>(
    bound: Duration,
    what: &str,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(bound, step).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure {
            code: ErrorCode::UnableToConnectToTenantDatabase,
            text: format!(
                "the database took longer than {} ms to {what}",
                bound.as_millis()
            ),
            told: AskError::Unreachable,
        }),
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self {
            code: ErrorCode::UnableToConnectToTenantDatabase,
            text: describe(&error),
            told: AskError::Unreachable,
        }
    }
}
