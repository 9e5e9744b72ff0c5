//! The table that the load writes to, in the tenant's database.

use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use crate::scenario::rows::{Database, Table};
use crate::tokens::USER_PREFIX;

use super::{Plan, Rls};

/// Where the table is.
pub(super) const SCHEMA: &str = "public";

/// Its name.
pub(super) const TABLE: &str = "load_changes";

/// Makes the table if it is not there, empties it, publishes it, and says who may see its rows.
///
/// # Errors
///
/// What is wrong with the address or in the database, for a person to read.
pub(super) fn set_up(plan: &Plan) -> Result<(), String> {
    let database = Database::connect(&plan.database)?;
    database.set_up(&format!(
        "create table if not exists {SCHEMA}.{TABLE} (
             id bigint generated always as identity primary key,
             owner uuid not null,
             stamp text not null,
             pad text not null);
         truncate {SCHEMA}.{TABLE} restart identity;
         grant usage on schema {SCHEMA} to authenticated;
         grant select on {SCHEMA}.{TABLE} to authenticated;
         drop policy if exists load_reads on {SCHEMA}.{TABLE};
         {}",
        security(plan.rls)
    ))?;
    publish(&database, &plan.publication)
}

fn security(rls: Rls) -> String {
    let condition = match rls {
        Rls::None => return format!("alter table {SCHEMA}.{TABLE} disable row level security"),
        Rls::One | Rls::All => "auth.uid() is not null",
        Rls::Own => "owner = auth.uid()",
    };
    format!(
        "alter table {SCHEMA}.{TABLE} enable row level security;
         create policy load_reads on {SCHEMA}.{TABLE} for select to authenticated using ({condition})"
    )
}

/// Adds the table to the publication, which is made if there is none.
fn publish(database: &Database, publication: &str) -> Result<(), String> {
    let quoted = format!("\"{}\"", publication.replace('"', "\"\""));
    let known = "select from pg_publication where pubname = $1";
    if database.query(known, &[&publication])?.is_empty() {
        database.set_up(&format!("create publication {quoted}"))?;
    }
    let published = "select from pg_publication_tables \
                     where pubname = $1 and schemaname = $2 and tablename = $3";
    if database
        .query(published, &[&publication, &SCHEMA, &TABLE])?
        .is_empty()
    {
        let add = format!("alter publication {quoted} add table {SCHEMA}.{TABLE}");
        database.set_up(&add)?;
    }
    Ok(())
}

/// The table, over a connection of its own.
pub(super) struct Changes {
    database: Database,
    statement: Statement,
    members: i64,
}

impl Changes {
    /// Connects and prepares the statement.
    ///
    /// # Errors
    ///
    /// What is wrong with the address or in the database, for a person to read.
    pub(super) fn connect(plan: &Plan) -> Result<Self, String> {
        let database = Database::connect(&plan.database)?;
        let statement = database.prepare(&format!(
            "insert into {SCHEMA}.{TABLE} (owner, stamp, pad) \
             select ('{USER_PREFIX}' || lpad((($2::bigint + number - 1) % $3::bigint)::text, 12, '0'))::uuid, \
                    payload::jsonb ->> 'load', payload::jsonb ->> 'pad' \
             from unnest($1::text[]) with ordinality as row (payload, number) order by number"
        ))?;
        Ok(Self {
            database,
            statement,
            members: i64::try_from(plan.subscribers).map_err(|error| error.to_string())?,
        })
    }
}

impl Table for Changes {
    fn insert(&mut self, first: u32, payloads: &[String]) -> Result<(), String> {
        let first = i64::from(first);
        let values: [&(dyn ToSql + Sync); 3] = [&payloads, &first, &self.members];
        self.database.execute(&self.statement, &values)
    }
}
