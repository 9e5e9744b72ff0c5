//! Changes by SQL, for databases that a replication connection does not get through to: a pooler in between, no line in `pg_hba.conf`.
//!
//! What comes in: settings, a slot, a publication. What goes out: the same [`Event`]s as those of a [`Stream`](super::Stream), some
//! milliseconds later. What always holds: at most [`limits::REPLICATION_POLL_ROWS`] messages are held here at one time; the slot ends with the
//! connection. Deliberately absent: a way around the REPLICATION attribute, which PostgreSQL demands for every slot.

use super::pgoutput::{Message, decode};
use super::slot::Fault;
use super::stream::{Created, Row, Target};
use super::{Event, Lsn};
use crate::control::clock;
use crate::control::database::{ConnectError, Connection, connect};
use crate::limits;
use std::collections::VecDeque;
use std::time::Duration;
use tokio_postgres::SimpleQueryMessage;

/// A connection that reads a slot by SQL.
#[derive(Debug)]
pub struct Poll {
    connection: Connection,
    /// The server's process of this connection.
    pub pid: i32,
    /// Begins to read what is new.
    begin: String,
    fetch: String,
    events: VecDeque<Event>,
    /// A reading is under way, of everything before this position.
    reading: Option<Lsn>,
    /// How long to wait before the next one.
    pause: Duration,
}

impl Poll {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`Fault`]; what a connection's error says.
    pub async fn open(target: Target<'_>) -> Result<Self, Fault> {
        let connection = connect(target.settings, target.application_name).await;
        let connection = connection.map_err(|error| match error {
            ConnectError::TooManyConnections { .. } => Fault::TooMany(error.to_string()),
            other => Fault::Broken(other.to_string()),
        })?;
        let text = |text: &str| text.replace('\'', "''");
        let mut poll = Self {
            connection,
            pid: 0,
            begin: format!(
                "begin; declare changes no scroll cursor for select data from \
                 pg_catalog.pg_logical_slot_get_binary_changes('{}', null, null, 'proto_version', '1', 'publication_names', '{}', 'binary', 'true')",
                text(target.slot),
                text(target.publication)
            ),
            fetch: format!(
                "fetch forward {} from changes",
                limits::REPLICATION_POLL_ROWS
            ),
            events: VecDeque::new(),
            reading: None,
            pause: Duration::ZERO,
        };
        let rows = poll
            .query(
                "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; \
                 set extra_float_digits = 1; select pg_catalog.pg_backend_pid()",
            )
            .await?;
        let pid = rows
            .last()
            .and_then(|row| row.first()?.as_deref()?.parse().ok());
        poll.pid = pid.ok_or_else(|| Fault::Garbled("no pid".to_owned()))?;
        Ok(poll)
    }

    /// Runs one statement.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Fault> {
        let messages = self.connection.client.simple_query(sql).await?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let text = |index| row.get(index).map(str::to_owned);
                Some((0..row.len()).map(text).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Makes a temporary slot of this name for the plugin `pgoutput`. It exports no snapshot: what was committed before its position has
    /// to be read afterwards, when it may have come by the slot as well.
    ///
    /// # Errors
    ///
    /// [`Fault::SlotInUse`] when the name is taken; [`Fault::Refused`] without the REPLICATION attribute.
    pub async fn create_slot(&mut self, name: &str) -> Result<Created, Fault> {
        let sql = format!(
            "select lsn from pg_catalog.pg_create_logical_replication_slot('{}', 'pgoutput', true)",
            name.replace('\'', "''")
        );
        let timeout = tokio::time::timeout(limits::REPLICATION_SLOT_TIMEOUT, self.query(&sql));
        let rows = match timeout.await.unwrap_or(Err(Fault::TimedOut)) {
            Err(Fault::Broken(text)) if text.contains("42710") => {
                return Err(Fault::SlotInUse {
                    slot: name.to_owned(),
                    is_elsewhere: false,
                });
            }
            outcome => outcome?,
        };
        let position = rows
            .first()
            .and_then(|row| row.first()?.as_deref()?.parse().ok());
        Ok(Created {
            consistent: position
                .ok_or_else(|| Fault::Garbled("a slot without a position".to_owned()))?,
            snapshot: None,
        })
    }

    /// What comes next. To be called until it returns: dropped before, the poll is to be dropped as well.
    ///
    /// # Errors
    ///
    /// [`Fault`] ends the polling.
    pub async fn next(&mut self) -> Result<Event, Fault> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            match self.reading {
                Some(end) => self.read_page(end).await?,
                None => self.begin().await?,
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Fault> {
        tokio::time::sleep(self.pause).await;
        // What is not flushed yet is not decoded either.
        let rows = self
            .query("select pg_catalog.pg_current_wal_flush_lsn()")
            .await?;
        let end = rows
            .first()
            .and_then(|row| row.first()?.as_deref()?.parse().ok());
        self.reading = Some(end.unwrap_or_default());
        let began = clock::now();
        self.connection.client.batch_execute(&self.begin).await?;
        self.read_page(self.reading.unwrap_or_default()).await?;
        // The first page is there when everything was decoded.
        let took = clock::now().duration_since(began);
        let pause = took.saturating_mul(limits::BROADCAST_READ_PAUSE_FACTOR);
        self.pause = pause.max(limits::BROADCAST_POLL_INTERVAL);
        Ok(())
    }

    async fn read_page(&mut self, end: Lsn) -> Result<(), Fault> {
        let client = &self.connection.client;
        let page = client.query_typed(&self.fetch, &[]).await?;
        for row in &page {
            let data: &[u8] = row.try_get(0)?;
            self.events.push_back(match decode(data) {
                Ok(Message::Begin(begin)) => Event::Begin(begin),
                Ok(Message::Commit(commit)) => Event::Commit(commit),
                _ => Event::Message(bytes::Bytes::copy_from_slice(data)),
            });
        }
        if page.is_empty() {
            client.batch_execute("commit").await?;
            self.reading = None;
            self.events.push_back(Event::Passed(end));
        }
        Ok(())
    }
}
