//! Schema `realtime` of a tenant's database: set up where it is missing, completed where it is old, left alone otherwise.
//!
//! What comes in: a connection of its own. What goes out: [`Migrated`], or a sentence that names the missing privilege and the statement
//! that gives it. What always holds: everything is done in one transaction under an advisory lock, so two servers do not collide and a
//! failure leaves nothing half done; what exists is never dropped nor rewritten, except `realtime.send` of an old upstream; where
//! nothing is missing, nothing is written. (`plan`'s tests and `tests/database/schema.rs` hold all of that.) Deliberately absent:
//! undoing.

mod error;
mod plan;
mod steps;
mod survey;
mod versions;

pub use error::{MigrationError, Privilege, said};
pub use survey::Survey;

use super::partitions;
use crate::control::clock;
use crate::limits;
use plan::{Plan, plan};
use steps::Step;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Transaction};
use versions::UPSTREAM_VERSIONS;

/// How many migrations the original has, up to the release that this server follows: a database that has had as many is complete.
pub const UPSTREAM_MIGRATIONS: usize = UPSTREAM_VERSIONS.len();

/// What was done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Migrated {
    /// The steps that were executed; none when nothing was missing.
    pub applied: Vec<&'static str>,
    /// What works without us but not as it could: sentences for the operator, each with the statement that helps.
    pub notes: Vec<String>,
    /// Rows in upstream's own bookkeeping, for the tenant's `migrations_ran`. 0: it never migrated this database.
    pub upstream_versions: usize,
}

/// Whether [`migrate`] would do something, or refuse to: one round trip, two where upstream's bookkeeping exists.
///
/// # Errors
///
/// What PostgreSQL, or the way to it, said.
pub async fn is_needed(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let survey = Survey::take(client).await?;
    Ok(plan(&survey).map_or(true, |plan| !plan.steps.is_empty()))
}

/// Brings schema `realtime` up to date; any number of servers may do it at the same time, any number of times.
///
/// # Errors
///
/// [`MigrationError`]; nothing has changed then.
pub async fn migrate(client: &mut Client) -> Result<Migrated, MigrationError> {
    let mut attempt = 1;
    loop {
        match attempt_once(client).await {
            Err(error) if error.is_collision() && attempt < limits::MIGRATION_ATTEMPTS_MAX => {
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

async fn attempt_once(client: &mut Client) -> Result<Migrated, MigrationError> {
    let survey = Survey::take(client).await?;
    let Plan { steps, notes, .. } = plan(&survey)?;
    if steps.is_empty() {
        return Ok(Migrated {
            applied: Vec::new(),
            notes,
            upstream_versions: survey.upstream_versions.len(),
        });
    }
    let transaction = client.transaction().await?;
    transaction.batch_execute(&preamble()).await?;
    // Another server may have had the lock, and done everything.
    let survey = Survey::take(&transaction).await?;
    let Plan {
        steps,
        equals_upstreams,
        notes,
    } = plan(&survey)?;
    for step in &steps {
        let outcome = transaction.batch_execute(step.sql).await;
        outcome.map_err(|error| MigrationError::Step {
            name: step.name,
            error,
        })?;
    }
    if steps.iter().any(|step| step.name == "messages") {
        // Nobody may find the table without a place for today's rows: a send would be lost.
        let outcome = transaction
            .batch_execute(&partitions::statements(clock::unix_seconds()))
            .await;
        outcome.map_err(|error| MigrationError::Step {
            name: "partitions",
            error,
        })?;
    }
    let recorded = if equals_upstreams {
        record_all(&transaction).await?
    } else {
        record(&transaction, &steps, &survey).await?
    };
    transaction.commit().await?;
    Ok(Migrated {
        applied: steps.iter().map(|step| step.name).collect(),
        notes,
        upstream_versions: survey.upstream_versions.len() + recorded,
    })
}

/// What every migration's transaction starts with.
fn preamble() -> String {
    format!(
        "set local lock_timeout = {}; set local statement_timeout = {}; set local search_path = pg_catalog; \
         set local timezone = 'UTC'; set local client_min_messages = warning; select pg_advisory_xact_lock({ADVISORY_LOCK})",
        limits::MIGRATION_LOCK_TIMEOUT.as_millis(),
        limits::MIGRATION_STATEMENT_TIMEOUT.as_millis(),
    )
}

/// The lock that servers take in a tenant's database while they migrate it: the ASCII codes of "realtime".
const ADVISORY_LOCK: i64 = 0x7265_616c_7469_6d65;

/// Leaves upstream's bookkeeping as its migrations would have: it can take this database over at any time.
async fn record_all(transaction: &Transaction<'_>) -> Result<usize, MigrationError> {
    transaction.batch_execute(UPSTREAMS_BOOKKEEPING).await?;
    transaction
        .execute_typed(
            "insert into realtime.schema_migrations (version, inserted_at) select version, now() from unnest($1) as version",
            &[(&UPSTREAM_VERSIONS.as_slice(), Type::INT8_ARRAY)],
        )
        .await?;
    Ok(UPSTREAM_VERSIONS.len())
}

/// Nobody of the project may read it: what the default privileges gave is taken back.
const UPSTREAMS_BOOKKEEPING: &str = "create table if not exists realtime.schema_migrations \
    (version bigint primary key, inserted_at timestamp(0) without time zone); \
    do $$ declare grantee text; begin \
      for grantee in select rolname from pg_roles where rolname in ('postgres', 'dashboard_user') and rolname <> current_user loop \
        execute format('revoke all on realtime.schema_migrations from %I', grantee); \
      end loop; \
    end $$";

/// Notes the steps in our own bookkeeping, and in upstream's those that upstream could not execute a second time.
async fn record(
    transaction: &Transaction<'_>,
    steps: &[&'static Step],
    survey: &Survey,
) -> Result<usize, MigrationError> {
    transaction.batch_execute(BOOKKEEPING).await?;
    let numbers: Vec<i64> = steps.iter().map(|step| step.number).collect();
    let names: Vec<&str> = steps.iter().map(|step| step.name).collect();
    transaction
        .execute_typed(
            "insert into realtime.rs_schema_migrations (version, name) select * from unnest($1, $2) \
             on conflict (version) do update set name = excluded.name, inserted_at = now()",
            &[(&numbers, Type::INT8_ARRAY), (&names, Type::TEXT_ARRAY)],
        )
        .await?;
    if !survey.is_upstreams() || !survey.may_record_upstream {
        return Ok(0);
    }
    let versions: Vec<i64> = steps
        .iter()
        .filter_map(|step| step.upstream_version)
        .collect();
    let recorded = transaction
        .execute_typed(
            "insert into realtime.schema_migrations (version, inserted_at) select version, now() from unnest($1) as version \
             on conflict (version) do nothing",
            &[(&versions, Type::INT8_ARRAY)],
        )
        .await?;
    Ok(usize::try_from(recorded).expect("there are fewer steps than that"))
}

const BOOKKEEPING: &str = "create table if not exists realtime.rs_schema_migrations \
    (version bigint primary key, name text not null, inserted_at timestamptz not null default now())";
