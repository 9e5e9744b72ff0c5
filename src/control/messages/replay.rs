//! Messages of the past, for a channel that has just been joined (spec: broadcast-from-database 6).
//!
//! What comes in: a topic, the earliest moment, how many. What goes out: the newest of its private broadcasts, oldest first. What
//! always holds: the query ends within [`limits::REPLAY_TIMEOUT`] (`replay_is_given_up_in_time`), and leaves nothing behind on its
//! connection. Deliberately absent: who may read them; the query runs as the connection's user, and the channel's read policy was
//! asked before.

use crate::control::database::statement;
use crate::limits;
use crate::mail::{AskError, Body, Replayed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

/// Inside, `binary_payload` is the table's column; where a database that the original has set up long ago has none, it is the
/// one of `absent` (scopes of SQL: the inner one first).
const QUERY: &str = "select kept.id, kept.event, kept.payload, kept.binary_payload \
    from (values (null::bytea)) as absent(binary_payload) cross join lateral (\
        select id, event, payload::text as payload, binary_payload from realtime.messages \
        where topic = $1 and private is true and extension = 'broadcast' and inserted_at >= $2 \
            and inserted_at < (now() at time zone 'utc') + interval '1 minute' \
        order by inserted_at desc limit $3\
    ) as kept";

/// The newest `limit` messages of a private topic since `since_ms`, in milliseconds since 1970; oldest first.
///
/// # Errors
///
/// Why there are none to be had: the time is up, or what the database said.
pub async fn replay(
    client: &Client,
    topic: &str,
    since_ms: i64,
    limit: u32,
) -> Result<Vec<Replayed>, AskError> {
    // Nothing was kept before 1970.
    let since = Duration::from_millis(u64::try_from(since_ms).unwrap_or(0));
    let since: SystemTime = UNIX_EPOCH + since.min(limits::REPLAY_SINCE_MAX);
    let limit = i64::from(limit);
    let parameters: [(&(dyn ToSql + Sync), Type); 3] = [
        (&topic, Type::TEXT),
        (&since, Type::TIMESTAMP),
        (&limit, Type::INT8),
    ];
    let begin = statement::begin(limits::REPLAY_TIMEOUT);
    let batch = async {
        // Enqueued whole at the first poll: other transactions share the connection.
        tokio::join!(
            biased;
            client.batch_execute(&begin),
            client.query_typed(QUERY, &parameters),
            client.batch_execute("rollback"),
        )
    };
    let (began, rows, _) = tokio::time::timeout(limits::REPLAY_TIMEOUT, batch)
        .await
        .map_err(|_| AskError::Canceled("the database did not answer in time".to_owned()))?;
    let rows = began.and(rows).map_err(|error| reason_of(&error))?;
    let messages = rows.iter().rev().map(message);
    messages
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()
        .map_err(|error| reason_of(&error))
}

/// A row as a message; nothing when it has no event, which no client could tell from others.
fn message(row: &Row) -> Result<Option<Replayed>, Error> {
    let Some(event) = row.try_get(1)? else {
        return Ok(None);
    };
    let json: Option<String> = row.try_get(2)?;
    let body = match row.try_get(3)? {
        Some(bytes) => Body::Binary(bytes),
        None => Body::Json(json.unwrap_or_else(|| "null".to_owned())),
    };
    Ok(Some(Replayed {
        id: row.try_get(0)?,
        event,
        body,
    }))
}

fn reason_of(error: &Error) -> AskError {
    statement::reason_of(error).unwrap_or_else(|| {
        AskError::Other(
            error
                .as_db_error()
                .map_or_else(|| error.to_string(), statement::text_of),
        )
    })
}
