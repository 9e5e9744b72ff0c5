//! A connection to the tenant's database for threads that wait.
//!
//! In: statements. Out: what PostgreSQL says, warnings as errors.
//! `tokio-postgres` has no blocking side, so it runs on a tokio runtime of the connection's own, which
//! is driven only while a statement is under way.

use std::future::poll_fn;
use std::sync::mpsc::{self, Receiver};

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, NoTls, Row, Statement};

/// One connection.
pub(in crate::scenario) struct Database {
    runtime: Runtime,
    client: Client,
    /// What the database says beside its answers: `realtime.send` turns every error into a warning.
    notices: Receiver<String>,
}

impl Database {
    /// Connects.
    ///
    /// # Errors
    ///
    /// What is wrong with the address or in the database, for a person to read.
    pub(in crate::scenario) fn connect(url: &str) -> Result<Self, String> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("runtime: {error}"))?;
        let (sender, notices) = mpsc::channel();
        let client = runtime.block_on(async {
            let (client, mut connection) =
                tokio_postgres::connect(url, NoTls).await.map_err(said)?;
            tokio::spawn(async move {
                // The end of the connection is the next statement's error.
                while let Some(Ok(message)) =
                    poll_fn(|context| connection.poll_message(context)).await
                {
                    if let AsyncMessage::Notice(notice) = message {
                        // Nobody listens when the run is over.
                        let _ = sender.send(notice.message().to_owned());
                    }
                }
            });
            Ok::<_, String>(client)
        })?;
        Ok(Self {
            runtime,
            client,
            notices,
        })
    }

    /// Prepares a statement.
    ///
    /// # Errors
    ///
    /// What the database said.
    pub(in crate::scenario) fn prepare(&self, statement: &str) -> Result<Statement, String> {
        let prepared = self.client.prepare(statement);
        self.runtime.block_on(prepared).map_err(said)
    }

    /// Executes a statement.
    ///
    /// # Errors
    ///
    /// What the database said; a warning is an error here.
    pub(in crate::scenario) fn execute(
        &self,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<(), String> {
        let executed = self.client.execute(statement, values);
        self.runtime.block_on(executed).map_err(said)?;
        match self.notices.try_recv() {
            Ok(notice) => Err(format!("the database warned: {notice}")),
            Err(_) => Ok(()),
        }
    }

    /// Executes statements one after another, whatever the database notes about them.
    ///
    /// # Errors
    ///
    /// What the database said.
    pub(in crate::scenario) fn set_up(&self, statements: &str) -> Result<(), String> {
        let executed = self.client.batch_execute(statements);
        self.runtime.block_on(executed).map_err(said)?;
        while self.notices.try_recv().is_ok() {}
        Ok(())
    }

    /// The rows of a query.
    ///
    /// # Errors
    ///
    /// What the database said.
    pub(in crate::scenario) fn query(
        &self,
        query: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, String> {
        let rows = self.client.query(query, values);
        self.runtime.block_on(rows).map_err(said)
    }
}

fn said(error: tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("the database said: {error}"),
        None => format!("the database: {error}"),
    }
}
