//! A session in a test's database that is open already, so that a statement takes its own time and no process's start.

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::postgres::Database;

/// The session. Its driver runs while a statement does.
pub struct Sql {
    runtime: Runtime,
    client: Client,
}

impl Sql {
    /// A session of the superuser.
    pub fn open(database: &Database) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let client = runtime.block_on(database.client(&database.user));
        let sql = Self { runtime, client };
        // A test that waits for a lock fails instead of waiting for ever.
        sql.run("set lock_timeout = '10s'");
        sql
    }

    /// Runs statements as one transaction.
    #[track_caller]
    pub fn run(&self, text: &str) {
        self.try_run(text)
            .unwrap_or_else(|error| panic!("{error}\nof {text}"));
    }

    /// The same; the error is what PostgreSQL says.
    pub fn try_run(&self, text: &str) -> Result<(), String> {
        let result = self.runtime.block_on(self.client.batch_execute(text));
        result.map_err(|error| match error.as_db_error() {
            Some(error) => error.to_string(),
            None => error.to_string(),
        })
    }

    /// The first value that a query selects, as text.
    #[track_caller]
    pub fn value(&self, query: &str) -> String {
        let messages = self.runtime.block_on(self.client.simple_query(query));
        let messages = messages.unwrap_or_else(|error| panic!("{error:?}\nof {query}"));
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_owned()),
            _ => None,
        });
        row.unwrap_or_else(|| panic!("{query} selects nothing"))
    }
}
