//! The publication of `realtime.messages` (spec: broadcast-from-database 1 and 2).
//!
//! What comes in: a replication session, or any connection. What goes out: whether the publication publishes what it should, and one
//! that does. What always holds: it exists before the slot does, or the slot could not read what was written in between.
//! Deliberately absent: publications of the tenant.

use crate::control::replication::{Fault, Session};
use tokio_postgres::Client;

/// Its name.
pub const NAME: &str = "supabase_realtime_messages_publication";

/// One row, while there is a table: true when it is published as it should be, false when the publication is to be made anew, null when
/// there is none. No row without a table.
const STATE: &str = "select (select not p.puballtables and p.pubinsert \
     and exists (select from pg_catalog.pg_publication_rel r where r.prpubid = p.oid and r.prrelid = messages.oid) \
     and not exists (select from pg_catalog.pg_publication_tables t where t.pubname = p.pubname \
       and (t.schemaname <> 'realtime' or t.tablename !~ '^messages(_|$)')) \
     from pg_catalog.pg_publication p where p.pubname = 'supabase_realtime_messages_publication') \
     from pg_catalog.pg_class messages where messages.oid = pg_catalog.to_regclass('realtime.messages')";

/// What was found.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Publication {
    /// It publishes the table.
    Right,
    /// It publishes something else, or not all of it.
    Wrong,
    /// There is none.
    Missing,
    /// There is no table to publish.
    NoTable,
}

fn state<T: AsRef<str>>(row: Option<Option<T>>) -> Publication {
    match row {
        None => Publication::NoTable,
        Some(None) => Publication::Missing,
        Some(Some(text)) if text.as_ref() == "t" => Publication::Right,
        Some(Some(_)) => Publication::Wrong,
    }
}

/// Looks at it.
///
/// # Errors
///
/// What the database said.
pub async fn look(client: &Client) -> Result<Publication, tokio_postgres::Error> {
    let rows = client.query_typed(STATE, &[]).await?;
    let value = match rows.first() {
        None => None,
        Some(row) => Some(row.try_get::<_, Option<bool>>(0)?),
    };
    Ok(state(value.map(|value| {
        value.map(|is_right| if is_right { "t" } else { "f" })
    })))
}

/// Makes sure of it. Returns what was found.
///
/// # Errors
///
/// [`Fault::TableMissing`], or [`Fault::PublicationRefused`] with what the database said.
pub async fn ensure(session: &mut Session) -> Result<Publication, Fault> {
    let rows = session.query(STATE).await?;
    let found = state(rows.first().map(|row| row.first().cloned().flatten()));
    let create = format!("create publication {NAME} for table realtime.messages");
    let sql = match found {
        Publication::Right => return Ok(found),
        Publication::NoTable => return Err(Fault::TableMissing),
        Publication::Missing => create,
        Publication::Wrong => format!("drop publication {NAME}; {create}"),
    };
    match session.query(&sql).await {
        Ok(_) => Ok(found),
        // Somebody else has made it at the same time.
        Err(Fault::Broken(text)) if text.contains("42710") => Ok(found),
        Err(Fault::Broken(text) | Fault::Refused(text)) => Err(Fault::PublicationRefused(text)),
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_is_no_table_and_no_value_no_publication() {
        let check = |row, expected| assert_eq!(state::<&str>(row), expected, "{row:?}");
        check(None, Publication::NoTable);
        check(Some(None), Publication::Missing);
        check(Some(Some("t")), Publication::Right);
        check(Some(Some("f")), Publication::Wrong);
    }
}
