//! The control database before there are threads: it is waited for, made ready and read.
//!
//! What comes in: the configuration. What goes out: [`Opening`], by which tenants are read and written before anything serves, and from it
//! [`Opened`], with which the process goes on. What always holds: a database that is not there yet is waited for, for
//! [`limits::CONTROL_DATABASE_START_TIMEOUT`], and each attempt says why; a wrong password, name or key ends the start at once, with the
//! name of the variable. Deliberately absent: which tenants are to be there.

use super::engine::{BACKFILL_FLAG, Engine, usable};
use super::schema::{self, Place};
use super::settings::{APPLICATION_NAME, explain, may_pass, settings};
use super::{MainStore, rows};
use crate::config::{Config, MainDatabase};
use crate::control::clock;
use crate::control::database::{Connection, Settings, connect};
use crate::control::store::{Cipher, CipherError, StoreError, TenantRecord};
use crate::limits;
use rustc_hash::FxHashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Why the process does not start. The text is a sentence for the operator.
#[derive(Debug)]
pub enum MainDatabaseError {
    /// It cannot be connected to.
    Connect(String),
    /// There is no key for the secrets in it.
    Key(CipherError),
    /// It says no.
    Store(StoreError),
}

impl From<StoreError> for MainDatabaseError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for MainDatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(text) => write!(f, "the control database cannot be used: {text}"),
            Self::Key(error) => write!(f, "a secret in the control database {error}"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MainDatabaseError {}

/// The control database, for whoever writes the first tenants.
pub struct Opening {
    connection: Connection,
    settings: Settings,
    place: Place,
    cipher: Arc<Cipher>,
    period: Duration,
}

/// What the process goes on with.
pub struct Opened {
    /// The store.
    pub store: MainStore,
    /// What answers for it, to be started.
    pub engine: Engine,
    /// The tenants that are there.
    pub records: Vec<TenantRecord>,
    /// What is wrong with those that cannot be used.
    pub broken: Vec<StoreError>,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

/// Connects, and makes the schema ready. `say` gets sentences for the log. Needs a `LocalSet`.
///
/// # Errors
///
/// [`MainDatabaseError`]; the process does not start.
pub async fn open(
    database: &MainDatabase,
    config: &Config,
    say: impl Fn(&str),
) -> Result<Opening, MainDatabaseError> {
    let cipher = Cipher::of(config);
    if !cipher.can_write() {
        return Err(MainDatabaseError::Key(CipherError::NoKeyToWrite));
    }
    let settings = settings(database);
    let mut connection = reached(&settings, limits::CONTROL_DATABASE_START_TIMEOUT, &say).await?;
    let is_led = settings.manner.after_connect.is_some();
    let (place, notes) = schema::prepare(&mut connection.client, is_led).await?;
    notes.iter().for_each(|note| say(note));
    Ok(Opening {
        connection,
        settings,
        place,
        cipher: Arc::new(cipher),
        period: Duration::from_millis(config.tenant_cache_ms),
    })
}

/// Waits for other processes that are starting, as long as they may take.
fn lock_sql() -> String {
    format!(
        "set local lock_timeout = {}; select pg_catalog.pg_advisory_xact_lock({})",
        limits::MIGRATION_LOCK_TIMEOUT.as_millis(),
        schema::ADVISORY_LOCK
    )
}

/// A connection, as soon as there is one.
async fn reached(
    settings: &Settings,
    patience: Duration,
    say: &impl Fn(&str),
) -> Result<Connection, MainDatabaseError> {
    let start = clock::now();
    let mut pause = limits::CONTROL_DATABASE_RETRY_PAUSE;
    loop {
        let error = match connect(settings, APPLICATION_NAME).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let (waited, text) = (start.elapsed(), explain(&error));
        if !may_pass(&error) {
            return Err(MainDatabaseError::Connect(text));
        }
        if waited + pause > patience {
            let text = format!("{text}. It was tried for {} s", waited.as_secs());
            return Err(MainDatabaseError::Connect(text));
        }
        say(&format!(
            "the control database is not there yet: {text}. It is tried again in {} ms, for {} s at most",
            pause.as_millis(),
            patience.as_secs()
        ));
        sleep(pause).await;
        pause = (pause * 2).min(limits::CONTROL_DATABASE_RETRY_PAUSE_MAX);
    }
}

impl Opening {
    /// The tenants that are there.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; of single tenants that cannot be used nothing is said yet.
    pub async fn records(&self) -> Result<Vec<TenantRecord>, StoreError> {
        let stored = rows::list(&self.connection.client, &self.place, &self.cipher).await?;
        usable(stored).map(|(records, _)| records)
    }

    /// Begins a change of several tenants, which ends with [`Self::put`]. Other processes that start meanwhile wait for it.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn begin(&self) -> Result<(), StoreError> {
        let sql = format!("begin; {}", lock_sql());
        let begun = self.connection.client.batch_execute(&sql).await;
        begun.map_err(|error| rows::store_error(&error))
    }

    /// Writes tenants, made from [`Self::records`] after [`Self::begin`].
    ///
    /// # Errors
    ///
    /// [`StoreError`]; none of them is there.
    pub async fn put(&self, records: &[TenantRecord]) -> Result<(), StoreError> {
        for record in records {
            let record = self.sealed(record)?;
            rows::put(&self.connection.client, &self.place, &record).await?;
        }
        let done = self.connection.client.batch_execute("commit").await;
        done.map_err(|error| rows::store_error(&error))
    }

    /// Makes a tenant anew, whoever had its external id; and turns on what the original's seed does.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn seed(&mut self, record: &TenantRecord) -> Result<(), StoreError> {
        let record = self.sealed(record)?;
        let failed = |error: tokio_postgres::Error| rows::store_error(&error);
        let client = &mut self.connection.client;
        rows::enable_flag(client, &self.place, BACKFILL_FLAG).await?;
        let transaction = client.transaction().await.map_err(failed)?;
        let inside = transaction.client();
        // Two processes that start at once would both find nobody to delete.
        inside.batch_execute(&lock_sql()).await.map_err(failed)?;
        rows::delete(inside, &self.place, &record.external_id).await?;
        rows::put(inside, &self.place, &record).await?;
        transaction.commit().await.map_err(failed)
    }

    fn sealed(&self, record: &TenantRecord) -> Result<TenantRecord, StoreError> {
        let mut record = record.clone();
        match self.cipher.seal_record(&mut record) {
            Ok(()) => Ok(record),
            Err(error) => Err(StoreError::Secret {
                external_id: record.external_id,
                error,
            }),
        }
    }

    /// Reads everything once more, and closes the connection.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the database does not answer, or no tenant in it can be used.
    pub async fn finish(self) -> Result<Opened, StoreError> {
        let stored = rows::list(&self.connection.client, &self.place, &self.cipher).await?;
        let version = |one: &rows::Stored| (one.external_id.clone(), one.version.clone());
        let versions: FxHashMap<String, String> = stored.iter().map(version).collect();
        let old = stored.iter().filter(|one| !one.is_gcm_migrated);
        let old = old.filter_map(|one| one.record.as_ref().ok().cloned());
        let old = old.collect();
        let (records, broken) = usable(stored)?;
        let (store, questions) = MainStore::new();
        let engine = Engine {
            questions,
            settings: self.settings,
            place: self.place,
            cipher: self.cipher,
            versions,
            old,
            period: self.period,
        };
        Ok(Opened {
            store,
            engine,
            records,
            broken,
        })
    }
}
