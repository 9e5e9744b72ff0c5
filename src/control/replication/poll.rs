//! Changes by SQL, for databases that a replication connection does not get through to: a pooler in between, no line in `pg_hba.conf`.
//!
//! What comes in: settings, a slot, a publication. What goes out: the same [`Event`]s as those of a [`Stream`](super::Stream), some
//! milliseconds later. What always holds: at most [`limits::REPLICATION_POLL_ROWS`] messages are held here at one time, the rest of a large
//! transaction waits in the database; with [`Polling::Kept`] nothing is confirmed that the reader has not confirmed. Deliberately absent: a way around the REPLICATION attribute, which PostgreSQL demands for every slot.

use super::pgoutput::{Message, decode};
use super::slot::Fault;
use super::stream::{Created, Format, Lifetime, Polling, Row, Target};
use super::{Event, Lsn};
use crate::control::clock;
use crate::control::database::quote::{identifier, literal};
use crate::control::database::{Connection, connect};
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
    slot: String,
    polling: Polling,
    events: VecDeque<Event>,
    reading: Option<Reading>,
    /// How long to wait before the next one.
    pause: Duration,
    /// The end of the last transaction that was read.
    said: Lsn,
    /// Everything before this is done.
    confirmed: Lsn,
    /// The database knows that everything before this is done.
    advanced: Lsn,
}

/// What is being read.
#[derive(Copy, Clone, Debug)]
struct Reading {
    /// Where the log ended before.
    end: Lsn,
    /// Messages so far.
    rows: usize,
    /// The first page is there when everything was decoded; so long that took.
    took: Duration,
}

impl Poll {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`Fault`]; what a connection's error says.
    pub async fn open(target: Target<'_>) -> Result<Self, Fault> {
        let connection = connect(target.settings, target.application_name).await?;
        let mut poll = Self {
            connection,
            pid: 0,
            begin: begin(target),
            slot: literal(target.slot),
            polling: target.polling,
            said: Lsn(0),
            confirmed: Lsn(0),
            advanced: Lsn(0),
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
                 set extra_float_digits = 1; set lc_monetary = 'C'; select pg_catalog.pg_backend_pid()",
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

    /// Makes a slot of this name for the plugin `pgoutput`. It exports no snapshot: what was committed before its position has
    /// to be read afterwards, when it may have come by the slot as well.
    ///
    /// # Errors
    ///
    /// [`Fault::SlotInUse`] when the name is taken; [`Fault::Refused`] without the REPLICATION attribute.
    pub async fn create_slot(&mut self, name: &str, lifetime: Lifetime) -> Result<Created, Fault> {
        let sql = format!(
            "select lsn from pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput', {})",
            literal(name),
            lifetime == Lifetime::Temporary
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

    /// Everything before this position is done: the database is told before the next reading.
    pub fn confirm(&mut self, position: Lsn) {
        self.confirmed = self.confirmed.max(position);
    }

    /// Returns when the connection is closed, by whomever.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// What has to be confirmed before anything new is read, where it stays until then.
    #[must_use]
    pub fn awaited(&self) -> Option<Lsn> {
        let is_dry = self.events.is_empty() && self.reading.is_none();
        let waits = is_dry && self.polling != Polling::Once && self.said > self.confirmed;
        waits.then_some(self.said)
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
                Some(reading) => self.read_page(reading).await?,
                None => self.begin().await?,
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Fault> {
        tokio::time::sleep(self.pause).await;
        self.advance().await?;
        // What is not flushed yet is not decoded either.
        let rows = self
            .query("select pg_catalog.pg_current_wal_flush_lsn()")
            .await?;
        let end = rows
            .first()
            .and_then(|row| row.first()?.as_deref()?.parse().ok());
        let began = clock::now();
        self.connection.client.batch_execute(&self.begin).await?;
        let mut reading = Reading {
            end: end.unwrap_or_default(),
            rows: 0,
            took: Duration::ZERO,
        };
        let page = self.fetch().await?;
        reading.took = clock::now().duration_since(began);
        self.take_page(reading, page).await
    }

    /// Tells the database what is done.
    async fn advance(&mut self) -> Result<(), Fault> {
        if self.polling == Polling::Once || self.confirmed <= self.advanced {
            return Ok(());
        }
        // Going back is an error, and the slot may be further than this connection knows.
        let sql = format!(
            "select pg_catalog.pg_replication_slot_advance(slot_name, '{0}') from pg_catalog.pg_replication_slots \
             where slot_name = {1} and confirmed_flush_lsn < '{0}'::pg_catalog.pg_lsn",
            self.confirmed, self.slot
        );
        self.query(&sql).await?;
        self.advanced = self.confirmed;
        Ok(())
    }

    async fn read_page(&mut self, reading: Reading) -> Result<(), Fault> {
        let page = self.fetch().await?;
        self.take_page(reading, page).await
    }

    async fn fetch(&self) -> Result<Vec<tokio_postgres::Row>, Fault> {
        Ok(self.connection.client.query_typed(&self.fetch, &[]).await?)
    }

    async fn take_page(
        &mut self,
        mut reading: Reading,
        page: Vec<tokio_postgres::Row>,
    ) -> Result<(), Fault> {
        for row in &page {
            let data: &[u8] = row.try_get(0)?;
            self.events.push_back(match decode(data) {
                Ok(Message::Begin(begin)) => Event::Begin(begin),
                Ok(Message::Commit(commit)) => {
                    self.said = commit.end;
                    Event::Commit(commit)
                }
                _ => Event::Message(bytes::Bytes::copy_from_slice(data)),
            });
        }
        reading.rows = reading.rows.saturating_add(page.len());
        self.reading = Some(reading);
        if page.is_empty() {
            self.connection.client.batch_execute("commit").await?;
            self.reading = None;
            self.end(reading);
        }
        Ok(())
    }

    /// Everything was read that a reading found.
    fn end(&mut self, reading: Reading) {
        let (pause, is_whole) = match self.polling {
            Polling::Once => {
                let pause = reading
                    .took
                    .saturating_mul(limits::BROADCAST_READ_PAUSE_FACTOR);
                (pause.max(limits::BROADCAST_POLL_INTERVAL), true)
            }
            Polling::Kept {
                interval,
                changes_max,
            } => {
                let pause = if reading.rows > 0 {
                    Duration::ZERO
                } else {
                    interval.max(reading.took)
                };
                let max = usize::try_from(changes_max).unwrap_or(usize::MAX);
                (pause, reading.rows < max)
            }
        };
        self.pause = pause;
        // One that ended at the bound has not seen the end of the log. There is an event in any case: before the next reading the caller
        // has to wait until this one is done, or the slot would say it again.
        let position = if is_whole { reading.end } else { self.said };
        self.events.push_back(Event::Passed(position));
    }
}

/// The statements that begin to read what is new.
fn begin(target: Target<'_>) -> String {
    let (verb, changes_max) = match target.polling {
        Polling::Once => ("get", "null".to_owned()),
        Polling::Kept { changes_max, .. } => ("peek", changes_max.to_string()),
    };
    let binary = match target.format {
        Format::Binary => ", 'binary', 'true'",
        Format::Text => "",
    };
    format!(
        "begin; declare changes no scroll cursor for select data from \
         pg_catalog.pg_logical_slot_{verb}_binary_changes({}, null, {changes_max}, \
         'proto_version', '1', 'publication_names', {}{binary})",
        literal(target.slot),
        // A list of identifiers.
        literal(&identifier(target.publication))
    )
}
