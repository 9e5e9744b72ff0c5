//! Reading from the table what no stream has said.
//!
//! What comes in: a [`Ledger`] and the name of an exported snapshot, if any. What goes out: rows to the [`Publisher`], in the order in
//! which they were inserted. What always holds: rows of one transaction keep their order; at most [`limits::BROADCAST_PAGE_ROWS`] rows
//! are in memory; nothing is read that is larger than the tenant may send. Deliberately absent: the order of commits, which a table
//! does not keep: transactions come in the order of their rows' `inserted_at`, which is when they began.

use super::ledger::{Ledger, Novelty};
use super::publish::Publisher;
use super::row::{Dropped, Key, Row};
use crate::control::database::connect::describe;
use crate::control::database::quote::literal;
use crate::control::database::{ConnectError, Connection, Settings, connect};
use crate::limits;
use crate::phoenix::Encoding;
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

/// A connection of its own: the transaction of a reading lasts longer than others could wait.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

/// Why a reading has not come to its end. What it delivered is in the ledger.
#[derive(Debug)]
pub enum ReadError {
    /// There is no table `realtime.messages`.
    TableMissing,
    /// There is no connection.
    Connect(ConnectError),
    /// The database said something else.
    Database(tokio_postgres::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableMissing => f.write_str("the table realtime.messages does not exist"),
            Self::Connect(error) => error.fmt(f),
            Self::Database(error) => f.write_str(&describe(error)),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<tokio_postgres::Error> for ReadError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(code)
                if [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME].contains(code) =>
            {
                Self::TableMissing
            }
            _ => Self::Database(error),
        }
    }
}

/// What a reading found.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// Rows that were new.
    pub rows: u64,
}

impl Reader {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`ReadError::Connect`].
    pub async fn open(settings: &Settings) -> Result<Self, ReadError> {
        let connection = connect(settings, "realtime_messages_catch_up").await;
        let connection = connection.map_err(ReadError::Connect)?;
        // The rows of a reading are wanted whatever a role is allowed in time; but nobody knows how long somebody else keeps a lock.
        let sql = format!(
            "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; set lock_timeout = {}",
            limits::BROADCAST_LOCK_TIMEOUT.as_millis()
        );
        connection.client.batch_execute(&sql).await?;
        Ok(Self { connection })
    }

    /// Delivers what the table shows now and the ledger does not know, and moves the ledger on.
    ///
    /// # Errors
    ///
    /// [`ReadError`]. The reader is to be dropped.
    pub async fn read(
        &self,
        ledger: &RefCell<Ledger>,
        publisher: &Publisher,
    ) -> Result<Found, ReadError> {
        // Taken first: whatever is over in it is visible to the reading.
        let since = ledger.borrow().since().clone();
        let snapshot = since.take_next(&self.connection.client).await?;
        let found = self.deliver(ledger, publisher, None).await?;
        ledger.borrow_mut().was_read(snapshot);
        Ok(found)
    }

    /// Delivers what an exported snapshot shows and the ledger does not know. The ledger stays where it is.
    ///
    /// # Errors
    ///
    /// [`ReadError`]. The reader is to be dropped.
    pub async fn read_snapshot(
        &self,
        ledger: &RefCell<Ledger>,
        publisher: &Publisher,
        snapshot: &str,
    ) -> Result<Found, ReadError> {
        self.deliver(ledger, publisher, Some(snapshot)).await
    }

    /// Rows that were missed (a condition of [`Snapshot::missed_rows`](super::Snapshot::missed_rows)) and are too old to be broadcast.
    /// None when counting takes too long.
    ///
    /// # Errors
    ///
    /// [`ReadError`]. The reader is to be dropped.
    pub async fn count_too_old(&self, missed: &str) -> Result<Option<u64>, ReadError> {
        let sql = format!(
            "set statement_timeout = {}; select pg_catalog.count(*) from realtime.messages where inserted_at <= {} and {missed}",
            limits::BROADCAST_COUNT_TIMEOUT.as_millis(),
            oldest(),
        );
        let outcome = self.connection.client.simple_query(&sql).await;
        self.connection
            .client
            .batch_execute("set statement_timeout = 0")
            .await?;
        let answer = match outcome {
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => return Ok(None),
            outcome => outcome?,
        };
        let count = answer.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        Ok(count)
    }

    async fn deliver(
        &self,
        ledger: &RefCell<Ledger>,
        publisher: &Publisher,
        snapshot: Option<&str>,
    ) -> Result<Found, ReadError> {
        let client = &self.connection.client;
        let mut begin = "begin transaction isolation level repeatable read, read only;".to_owned();
        if let Some(snapshot) = snapshot {
            begin.push_str(&format!("set transaction snapshot {}", literal(snapshot)));
        }
        client.batch_execute(&begin).await?;
        let has_bytes = !client.query_typed(HAS_BYTES, &[]).await?.is_empty();
        let missed = ledger.borrow().since().missed_rows();
        let select = select(&missed, has_bytes, publisher.payload_bytes_max());
        client
            .batch_execute(&format!("declare missed no scroll cursor for {select}"))
            .await?;
        let fetch = format!("fetch forward {} from missed", limits::BROADCAST_PAGE_ROWS);
        let mut found = Found::default();
        loop {
            let page = client.query_typed(&fetch, &[]).await?;
            if page.is_empty() {
                break;
            }
            for row in &page {
                let missed = Missed::of(row)?;
                // First of all: from the note in the ledger to the parcel nothing is awaited.
                let place = publisher.place().await;
                let novelty = match missed.key() {
                    Some(key) => ledger.borrow_mut().read(key, missed.xid),
                    None => Novelty::New,
                };
                if novelty == Novelty::New {
                    found.rows += 1;
                    publisher.publish_from_table(place, missed.row());
                }
            }
        }
        client.batch_execute("commit").await?;
        Ok(found)
    }
}

/// Whether the table has the column that came later.
const HAS_BYTES: &str = "select 1 from pg_catalog.pg_attribute \
     where attrelid = 'realtime.messages'::regclass and attname = 'binary_payload' and not attisdropped";

/// The time before which rows are not broadcast any more.
fn oldest() -> String {
    let seconds = limits::BROADCAST_CATCH_UP_AGE_MAX.as_secs();
    format!("(pg_catalog.now() at time zone 'utc') - pg_catalog.make_interval(secs => {seconds})")
}

/// Rows that a ledger may not know, in the order of their insertion. Rows of one transaction have one `inserted_at` by default, and are
/// then numbered by their commands.
fn select(missed: &str, has_bytes: bool, body_bytes_max: usize) -> String {
    let bytes = if has_bytes {
        "binary_payload"
    } else {
        "null::bytea"
    };
    format!(
        "select xmin::text::bigint, id, \
         case when pg_catalog.isfinite(inserted_at) then (extract(epoch from inserted_at) * 1000000)::bigint end, \
         topic, event, private, \
         case when {bytes} is null and pg_catalog.octet_length(payload::text) <= {body_bytes_max} then payload::text end, \
         case when pg_catalog.octet_length({bytes}) <= {body_bytes_max} then {bytes} end, \
         coalesce(pg_catalog.octet_length({bytes}), pg_catalog.octet_length(payload::text)) > {body_bytes_max} \
         from realtime.messages where inserted_at > {oldest} and {missed} \
         order by inserted_at, cmin::text::bigint, pg_catalog.age(xmin) desc, ctid",
        oldest = oldest(),
    )
}

/// A row of the reading.
struct Missed<'a> {
    xid: u32,
    id: Option<Uuid>,
    inserted_at_us: Option<i64>,
    topic: Option<&'a str>,
    event: Option<&'a str>,
    private: Option<bool>,
    json: Option<&'a str>,
    bytes: Option<&'a [u8]>,
    is_too_large: bool,
}

impl<'a> Missed<'a> {
    fn of(row: &'a tokio_postgres::Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            xid: u32::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0),
            id: row.try_get(1)?,
            inserted_at_us: row.try_get(2)?,
            topic: row.try_get(3)?,
            event: row.try_get(4)?,
            private: row.try_get(5)?,
            json: row.try_get(6)?,
            bytes: row.try_get(7)?,
            is_too_large: row.try_get::<_, Option<bool>>(8)?.unwrap_or(false),
        })
    }

    fn key(&self) -> Option<Key> {
        Some(Key {
            id: self.id?,
            inserted_at_us: self.inserted_at_us?,
        })
    }

    /// In the order of spec 4, as for a row of the stream.
    fn row(&self) -> Result<Row<'a>, Dropped> {
        let inserted_at_us = self.inserted_at_us.ok_or(Dropped::InsertedAtMissing)?;
        let event = self.event.ok_or(Dropped::EventMissing)?;
        let id = self.id.ok_or(Dropped::IdMissing)?;
        let topic = self.topic.ok_or(Dropped::TopicMissing)?;
        let private = self.private.ok_or(Dropped::PrivateMissing)?;
        if self.is_too_large {
            return Err(Dropped::PayloadSizeExceeded);
        }
        let (encoding, body) = match (self.bytes, self.json) {
            (Some(bytes), _) => (Encoding::Binary, bytes),
            (None, Some(json)) => (Encoding::Json, json.as_bytes()),
            (None, None) => return Err(Dropped::PayloadMissing),
        };
        Ok(Row {
            key: Key { id, inserted_at_us },
            event,
            topic,
            private,
            encoding,
            body: Cow::Borrowed(body),
        })
    }
}
