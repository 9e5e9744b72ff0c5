//! An ordinary connection beside the stream: what the database says of the slot and its publication, and what is done about it.
//!
//! What comes in: names. What goes out: answers, or a [`Fault`]. What always holds: nothing takes longer than
//! [`limits::REPLICATION_CHECK_TIMEOUT`], and a connection that did is not used again; only a slot that nobody uses is dropped.
//! Deliberately absent: decisions.

use crate::control::clock;
use crate::control::database::{Connection, Settings, connect};
use crate::control::replication::slot::{self, Sight};
use crate::control::replication::{Fault, Lsn};
use crate::limits;
use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

/// How the connection shows in the database.
pub(super) const APPLICATION_NAME: &str = "realtime_subscription_manager";

/// See the room's documentation.
pub(super) struct Scout {
    settings: Rc<Settings>,
    connection: RefCell<Option<Rc<Connection>>>,
}

impl Scout {
    pub(super) fn new(settings: Rc<Settings>) -> Self {
        Self {
            settings,
            connection: RefCell::default(),
        }
    }

    /// The address that worked last; none before the first time.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let connection = self.connection.borrow();
        connection.as_ref().map(|connection| connection.address())
    }

    /// The database's number.
    pub(super) async fn database(&self) -> Result<u32, Fault> {
        const SQL: &str =
            "select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()";
        let rows = self.query(SQL, &[]).await?;
        let row = rows
            .first()
            .ok_or_else(|| Fault::Garbled("a database without a number".to_owned()))?;
        Ok(row.try_get(0)?)
    }

    /// Whether there is such a publication.
    pub(super) async fn publishes(&self, publication: &str) -> Result<bool, Fault> {
        const SQL: &str = "select from pg_catalog.pg_publication where pubname = $1";
        let rows = self.query(SQL, &[(&publication, Type::TEXT)]).await?;
        Ok(!rows.is_empty())
    }

    /// What there is to see of a slot.
    pub(super) async fn look(&self, name: &str) -> Result<Sight, Fault> {
        self.ask(async |client| Ok(slot::look(client, name).await?))
            .await
    }

    /// Drops a slot that nobody uses. One that is gone already is fine.
    pub(super) async fn drop_slot(&self, name: &str) -> Result<(), Fault> {
        const SQL: &str = "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots \
             where slot_name = $1";
        let dropped = self.query(SQL, &[(&name, Type::TEXT)]).await;
        match dropped.map_err(|fault| fault.of_slot(name)) {
            // Somebody else has dropped it in between.
            Err(Fault::SlotMissing(_)) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Ends the process that uses a slot, if it is still this one. Returns when it no longer uses it, or after
    /// [`limits::REPLICATION_SLOT_RELEASE_TIMEOUT`].
    pub(super) async fn terminate(&self, name: &str, pid: i32) -> Result<(), Fault> {
        const SQL: &str = "select pg_catalog.pg_terminate_backend(active_pid) from pg_catalog.pg_replication_slots \
             where slot_name = $1 and active_pid = $2";
        self.query(SQL, &[(&name, Type::TEXT), (&pid, Type::INT4)])
            .await?;
        let deadline = clock::now() + limits::REPLICATION_SLOT_RELEASE_TIMEOUT;
        loop {
            let slot = self.look(name).await?.slot;
            if slot.is_none_or(|slot| slot.active_pid != Some(pid)) || clock::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(limits::REPLICATION_SLOT_RELEASE_INTERVAL).await;
        }
    }

    /// Ends a process of this application name: what it does to a slot may not show yet. Returns when it is gone, or after
    /// [`limits::REPLICATION_SLOT_RELEASE_TIMEOUT`].
    pub(super) async fn end_process(&self, application_name: &str, pid: i32) -> Result<(), Fault> {
        const SQL: &str = "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity \
             where application_name = $1 and pid = $2";
        let deadline = clock::now() + limits::REPLICATION_SLOT_RELEASE_TIMEOUT;
        loop {
            let rows = self
                .query(SQL, &[(&application_name, Type::TEXT), (&pid, Type::INT4)])
                .await?;
            if rows.is_empty() || clock::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(limits::REPLICATION_SLOT_RELEASE_INTERVAL).await;
        }
    }

    /// How a process shows: its application name and how long it has been in its state, in words.
    pub(super) async fn describe(&self, pid: i32) -> Result<Option<String>, Fault> {
        const SQL: &str = "select pg_catalog.format('%s, %s for %s s', application_name, state, \
             pg_catalog.floor(extract(epoch from pg_catalog.now() - state_change))) \
             from pg_catalog.pg_stat_activity where pid = $1";
        let rows = self.query(SQL, &[(&pid, Type::INT4)]).await?;
        match rows.first() {
            Some(row) => Ok(row.try_get(0)?),
            None => Ok(None),
        }
    }

    /// Moves a slot that nobody uses past this position.
    pub(super) async fn advance(&self, name: &str, position: Lsn) -> Result<(), Fault> {
        const SQL: &str = "select pg_catalog.pg_replication_slot_advance(slot_name, $2::text::pg_lsn) \
             from pg_catalog.pg_replication_slots where slot_name = $1 and confirmed_flush_lsn < $2::text::pg_lsn";
        let position = position.to_string();
        self.query(SQL, &[(&name, Type::TEXT), (&position, Type::TEXT)])
            .await?;
        Ok(())
    }

    async fn query(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Fault> {
        self.ask(async |client| Ok(client.query_typed(sql, parameters).await?))
            .await
    }

    async fn ask<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let connection = self.connected().await?;
        let outcome = within(work(&connection.client)).await;
        if matches!(outcome, Err(Fault::TimedOut)) {
            connection.cut();
            self.connection.take();
        }
        outcome
    }

    async fn connected(&self) -> Result<Rc<Connection>, Fault> {
        let known = self.connection.borrow().clone();
        if let Some(connection) = known
            && !connection.client.is_closed()
        {
            return Ok(connection);
        }
        let connection = Rc::new(connect(&self.settings, APPLICATION_NAME).await?);
        self.connection.replace(Some(Rc::clone(&connection)));
        Ok(connection)
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(limits::REPLICATION_CHECK_TIMEOUT, work)
        .await
        .unwrap_or(Err(Fault::TimedOut))
}
