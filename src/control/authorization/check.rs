//! One check as statements: two transactions at most, each of them sent whole and rolled back whole (spec: authorization-rls 2, 3).
//!
//! What comes in: who asks, and what. What goes out: a verdict, or the first error of the database. What always holds: everything is
//! enqueued at the first poll, so that no statement of another check can come in between, and a check that is given up half-way has
//! been sent to its end; every setting is local to its transaction, so that nothing of it meets the next one
//! (`nothing_is_left_behind`); no statement behind one that failed can succeed, since their transaction is aborted, so that a role
//! that may not be taken on is never replaced by the connection's own.

use super::asker::Asker;
use crate::control::database::statement;
use crate::limits;
use crate::mail::{Checks, Verdict};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};
use uuid::Uuid;

/// As the connection's user. All columns that are not named take their defaults.
const PROBES: &str = "insert into realtime.messages (id, topic, extension, inserted_at, updated_at) \
    select probe.id, $1, probe.extension, now() at time zone 'utc', now() at time zone 'utc' \
    from unnest($2, $3) as probe(id, extension)";

/// Takes the role on. One that does not exist is an error of PostgreSQL's own; the connection's user and superusers are made one, by a
/// name that no role can have: a signed but careless token would see everything (spec: authorization-rls 6). The branches are tried
/// in their order, and what fails aborts the transaction, so nothing is ever done as a role that is refused.
const SETTINGS: &str = "select \
    case when $1 in (session_user, current_user) then pg_catalog.set_config('role', '', true) \
        when pg_catalog.set_config('role', $1, true) is null then null \
        when pg_catalog.current_setting('is_superuser') <> 'off' then pg_catalog.set_config('role', '', true) end, \
    pg_catalog.set_config('realtime.topic', $2, true), \
    pg_catalog.set_config('request.jwt.claims', $3, true), \
    pg_catalog.set_config('request.jwt.claim.sub', $4, true), \
    pg_catalog.set_config('request.jwt.claim.role', $1, true), \
    pg_catalog.set_config('request.headers', $5, true)";

/// As the client's role.
const SEEN: &str = "select id from realtime.messages where id = any($1)";

/// As the client's role. Nothing of the row comes back: a member may write without reading.
const WRITE: &str = "insert into realtime.messages (topic, extension, inserted_at, updated_at) \
    values ($1, $2, now() at time zone 'utc', now() at time zone 'utc')";

/// Evaluates `checks`; `begun` is called when the database has come to them.
pub(super) async fn evaluate(
    client: &Client,
    asker: &Asker<'_>,
    checks: Checks,
    begun: impl FnOnce(),
) -> Result<Verdict, Failure> {
    let mut begun = Some(begun);
    let reads = checks.broadcast_read || checks.presence_read;
    let begun_reading = if reads { begun.take() } else { None };
    let reading = async {
        if reads {
            read(client, asker, checks, begun_reading).await
        } else {
            Ok(Verdict::default())
        }
    };
    let writing = async {
        if checks.writes {
            write(client, asker, begun).await
        } else {
            Ok(Verdict::default())
        }
    };
    // In this order, as everything below: the first poll enqueues.
    let (read, written) = tokio::join!(biased; reading, writing);
    let (read, written) = (read?, written?);
    Ok(Verdict {
        broadcast_write: written.broadcast_write,
        presence_write: written.presence_write,
        ..read
    })
}

/// What went wrong, and where.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the database or the connection said.
    pub error: Error,
    /// It said so when the role was to be taken on.
    pub is_about_role: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            is_about_role: false,
        }
    }
}

fn about_role(error: Error) -> Failure {
    Failure {
        error,
        is_about_role: true,
    }
}

async fn begin(client: &Client, begun: Option<impl FnOnce()>) -> Result<(), Error> {
    let text = statement::begin(limits::POLICY_STATEMENT_TIMEOUT);
    let outcome = client.batch_execute(&text).await;
    if let Some(begun) = begun {
        begun();
    }
    outcome
}

async fn take_on(client: &Client, asker: &Asker<'_>) -> Result<(), Failure> {
    let values = [
        asker.role,
        asker.topic,
        asker.claims,
        asker.sub,
        &asker.headers,
    ];
    let [a, b, c, d, e] = &values;
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (a, Type::TEXT),
        (b, Type::TEXT),
        (c, Type::TEXT),
        (d, Type::TEXT),
        (e, Type::TEXT),
    ];
    let outcome = client.execute_typed(SETTINGS, &parameters).await;
    outcome.map(drop).map_err(about_role)
}

/// Rows that the connection's user inserts, and the client's role sees or does not see.
async fn read(
    client: &Client,
    asker: &Asker<'_>,
    checks: Checks,
    begun: Option<impl FnOnce()>,
) -> Result<Verdict, Failure> {
    let [broadcast, presence] = [Uuid::new_v4(), Uuid::new_v4()];
    let probes = [
        (checks.broadcast_read, broadcast, "broadcast"),
        (checks.presence_read, presence, "presence"),
    ];
    let (ids, extensions): (Vec<Uuid>, Vec<&str>) = probes
        .into_iter()
        .filter(|(is_asked, ..)| *is_asked)
        .map(|(_, id, extension)| (id, extension))
        .unzip();
    let probe: [(&(dyn ToSql + Sync), Type); 3] = [
        (&asker.topic, Type::TEXT),
        (&ids, Type::UUID_ARRAY),
        (&extensions, Type::TEXT_ARRAY),
    ];
    let see: [(&(dyn ToSql + Sync), Type); 1] = [(&ids, Type::UUID_ARRAY)];
    let (began, inserted, took_on, seen, _) = tokio::join!(
        biased;
        begin(client, begun),
        client.execute_typed(PROBES, &probe),
        take_on(client, asker),
        client.query_typed(SEEN, &see),
        client.batch_execute("rollback"),
    );
    began?;
    inserted?;
    took_on?;
    let seen = seen?;
    let is_seen = |id: Uuid| {
        seen.iter()
            .any(|row| row.try_get::<_, Uuid>(0).is_ok_and(|seen| seen == id))
    };
    Ok(Verdict {
        broadcast_read: checks.broadcast_read.then(|| is_seen(broadcast)),
        presence_read: checks.presence_read.then(|| is_seen(presence)),
        ..Verdict::default()
    })
}

/// Rows that the client's role inserts or cannot insert: broadcast, then presence, each from the same state.
async fn write(
    client: &Client,
    asker: &Asker<'_>,
    begun: Option<impl FnOnce()>,
) -> Result<Verdict, Failure> {
    let row = |extension: &'static &'static str| -> [(&(dyn ToSql + Sync), Type); 2] {
        [(&asker.topic, Type::TEXT), (extension, Type::TEXT)]
    };
    let (broadcast, presence) = (row(&"broadcast"), row(&"presence"));
    let (began, took_on, kept, broadcast, back, presence, _) = tokio::join!(
        biased;
        begin(client, begun),
        take_on(client, asker),
        client.batch_execute("savepoint before_row"),
        client.execute_typed(WRITE, &broadcast),
        client.batch_execute("rollback to savepoint before_row"),
        client.execute_typed(WRITE, &presence),
        client.batch_execute("rollback"),
    );
    began?;
    took_on?;
    kept?;
    let broadcast = is_written(broadcast)?;
    back?;
    Ok(Verdict {
        broadcast_write: Some(broadcast),
        presence_write: Some(is_written(presence)?),
        ..Verdict::default()
    })
}

/// A row that no policy allows, or that the role has no privilege for, is refused with one and the same code.
fn is_written(outcome: Result<u64, Error>) -> Result<bool, Error> {
    match outcome {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        Err(error) => Err(error),
    }
}
