//! The tenants of record.
//!
//! What comes in and goes out: [`TenantRecord`]s, with the names that the management API and the schema `_realtime` use (spec:
//! control-database 2 and 3). What always holds: a record that was put is there after a restart, or `put` has failed; what is secret in
//! it is encrypted wherever it is stored. Deliberately absent: what a changed record means to sockets, and any cache; a read asks the
//! store.
//!
//! There are two stores: [`EmbeddedStore`], a single file, for servers without a database of their own, and the one in PostgreSQL, in a
//! room of its own (`control::main_database`), because it needs connections. Both keep the same contract
//! (`tests/database/control_database/contract.rs`).

mod attributes;
mod cipher;
mod embedded;
mod flag;
mod record;

pub use attributes::{FieldErrors, apply, database_extension, is_storable, of_new};
pub use cipher::{Cipher, CipherError, FieldError, Sealed};
pub use embedded::EmbeddedStore;
pub use flag::Flag;
#[cfg(test)]
pub use record::TEST_DEFAULTS;
pub use record::{BroadcastAdapter, ExtensionRecord, TenantRecord, Version};

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

/// What a store answers, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where tenants are kept.
pub trait TenantStore: fmt::Debug + Send + Sync {
    /// The tenant of this external id.
    fn get<'a>(&'a self, external_id: &'a str) -> Answer<'a, Option<TenantRecord>>;

    /// All tenants, ordered by external id.
    fn list(&self) -> Answer<'_, Vec<TenantRecord>>;

    /// Stores a tenant under its external id, in place of the one that was there, and gives it back as it is stored.
    /// [`StoreError::Taken`] when there is another tenant of that external id; [`StoreError::Stale`], of stores that are shared, when it
    /// is not any more what the record was made from.
    fn put(&self, record: TenantRecord) -> Answer<'_, TenantRecord>;

    /// Forgets a tenant. False when there was none.
    fn delete<'a>(&'a self, external_id: &'a str) -> Answer<'a, bool>;

    /// Whether others write to it as well: then a tenant that is not known here may exist, and there is [`Self::news`].
    fn is_shared(&self) -> bool;

    /// What others did to the store, one by one; waits until there is something. For one listener. It may be given up at any moment
    /// without losing what it would have said. What was done here may be told as well, and the same thing twice: whoever hears it compares.
    fn news(&self) -> Answer<'_, StoreNews>;

    /// Tells the other processes that use the store. Never an error that matters: they find changes by themselves after a while.
    fn announce(&self, news: StoreNews) -> Answer<'_, ()>;

    /// Whether a feature is on for a tenant (spec: control-database 2.3).
    fn flag<'a>(&'a self, name: &'a str, tenant: &'a TenantRecord) -> Answer<'a, bool>;
}

/// Something that happened to the tenants of a store that is shared. Each names the tenant's external id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreNews {
    /// It is another one than before, or it is gone, or it is new: it is to be read again.
    Changed(String),
    /// Somebody asked for its reload.
    Reload(String),
    /// Somebody asked for the end of its database connections.
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
    /// The file of the key cannot be used.
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: std::io::Error,
    },
    /// There are secrets, and no key.
    KeyMissing {
        /// Where the file of the key was.
        path: PathBuf,
    },
    /// A stored record cannot be read.
    Record {
        /// Whose record.
        external_id: String,
        /// What is wrong with it.
        error: String,
    },
    /// A secret of a record cannot be encrypted or decrypted.
    Secret {
        /// Whose record.
        external_id: String,
        /// Which field, and why.
        error: FieldError,
    },
    /// There is another tenant of that external id.
    Taken {
        /// The external id.
        external_id: String,
    },
    /// Somebody else has changed or deleted the tenant since it was read: it is to be read again.
    Stale {
        /// The external id.
        external_id: String,
    },
    /// The control database does not answer, or did not in time.
    Unreachable {
        /// What happened, in a sentence.
        error: String,
    },
    /// The control database answered with an error.
    Refused {
        /// What it said.
        error: String,
    },
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
            Self::KeyFile { path, error } => write!(
                f,
                "the key of the tenant store, {}, cannot be used: {error}. It has to hold {} bytes that only this user may read; set \
                 DB_ENC_KEY to do without it",
                path.display(),
                cipher::GCM_KEY_BYTES
            ),
            Self::KeyMissing { path } => write!(
                f,
                "the key of the tenant store, {}, is missing, and there are tenants with secrets that were encrypted. Bring the file \
                 back, or set DB_ENC_KEY or DB_ENC_KEY_GCM to the key that they were encrypted with",
                path.display()
            ),
            Self::Secret { external_id, error } => write!(
                f,
                "the stored {} of tenant {external_id} {}",
                error.field, error.error
            ),
            Self::Taken { external_id } => {
                write!(f, "the external id {external_id} has already been taken")
            }
            Self::Stale { external_id } => {
                write!(
                    f,
                    "somebody else has changed the tenant {external_id} meanwhile"
                )
            }
            Self::Unreachable { error } => {
                write!(f, "the control database cannot be reached: {error}")
            }
            Self::Refused { error } => write!(f, "the control database refused: {error}"),
            Self::Interrupted => write!(f, "the work on the tenant store was interrupted"),
        }
    }
}

impl std::error::Error for StoreError {}

#[cfg(test)]
mod tests;
