//! The tenants of record.
//!
//! What comes in and goes out: [`TenantRecord`]s, with the names that the management API and the schema `_realtime` use (spec:
//! control-database 2 and 3). What always holds: a record that was put is there after a restart, or `put` has failed.
//! Deliberately absent: what a changed record means to sockets, and any cache; a read asks the store.
//!
//! There is one store so far: [`EmbeddedStore`], a single file, for servers without a database of their own.

mod attributes;
mod embedded;
mod record;

pub use attributes::{FieldErrors, apply, database_extension, is_storable};
pub use embedded::EmbeddedStore;
#[cfg(test)]
pub use record::TEST_DEFAULTS;
pub use record::{BroadcastAdapter, ExtensionRecord, TenantRecord};

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

/// What a store answers, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where tenants are kept.
pub trait TenantStore: Send + Sync {
    /// The tenant of this external id.
    fn get<'a>(&'a self, external_id: &'a str) -> Answer<'a, Option<TenantRecord>>;

    /// All tenants, ordered by external id.
    fn list(&self) -> Answer<'_, Vec<TenantRecord>>;

    /// Stores a tenant under its external id, in place of the one that was there. Gives it back as it is stored.
    fn put(&self, record: TenantRecord) -> Answer<'_, TenantRecord>;

    /// Forgets a tenant. False when there was none.
    fn delete<'a>(&'a self, external_id: &'a str) -> Answer<'a, bool>;

    /// Whether other processes may write to it: a tenant that is not known may be there all the same.
    fn is_shared(&self) -> bool;

    /// What other processes and people did to it. A store of this process alone has no news.
    fn news(&self) -> Answer<'_, StoreNews>;

    /// Tells other processes. What cannot be told is only logged: they look by themselves from time to time.
    fn announce(&self, news: StoreNews) -> Answer<'_, ()>;
}

/// What happened to a tenant elsewhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreNews {
    /// It is to be read again, and may be gone.
    Changed(String),
    /// Its sockets and its database's sessions are to end.
    Reload(String),
    /// Its database's session is to end.
    Shutdown(String),
}

/// Why a store could not do it. The text is a sentence for the operator.
#[derive(Debug)]
pub enum StoreError {
    /// The directory of the store could not be made.
    Directory {
        /// `DATA_DIR`.
        path: PathBuf,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// The file could not be opened for writing.
    File {
        /// The store's file.
        path: PathBuf,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// Another process holds the file.
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// The file was written by a later version.
    Newer {
        /// The store's file.
        path: PathBuf,
        /// The format it says it has.
        format: u64,
    },
    /// Reading or writing failed.
    Storage {
        /// The store's file.
        path: PathBuf,
        /// What the storage engine said.
        error: Box<redb::Error>,
    },
    /// A stored record cannot be read.
    Record {
        /// Whose record.
        external_id: String,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// A tenant of this name was made by somebody else in between.
    Taken,
    /// The task that worked on the store has panicked or was cancelled.
    Interrupted,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, error } => write!(
                f,
                "the directory {} for the tenants cannot be made: {error}. Set DATA_DIR to a directory that this user may write to",
                path.display()
            ),
            Self::File { path, error } => write!(
                f,
                "the tenant store {} cannot be opened for writing: {error}. Check its owner and permissions, or set DATA_DIR to \
                 another directory",
                path.display()
            ),
            Self::InUse { path } => write!(
                f,
                "the tenant store {} is in use by another process. Stop that one, or set DATA_DIR to another directory",
                path.display()
            ),
            Self::Newer { path, format } => write!(
                f,
                "the tenant store {} has format {format}, which a later version of this server has written. Use that version",
                path.display()
            ),
            Self::Storage { path, error } => {
                write!(f, "the tenant store {} failed: {error}", path.display())
            }
            Self::Record { external_id, error } => {
                write!(
                    f,
                    "the stored record of tenant {external_id} cannot be read: {error}"
                )
            }
            Self::Taken => write!(f, "there is a tenant of this name already"),
            Self::Interrupted => write!(f, "the work on the tenant store was interrupted"),
        }
    }
}

impl std::error::Error for StoreError {}
