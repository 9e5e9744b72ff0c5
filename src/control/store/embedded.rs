//! Tenants in one file, for a server that has nothing else: redb in `DATA_DIR`.
//!
//! The file holds tenant secrets as they are. It is made with mode 0600 in a directory of mode 0700, so that only the server's
//! user reads it; a backup of it is as secret as the keys themselves.

use super::{Answer, StoreError, StoreNews, TenantRecord, TenantStore};
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// External id to record, as JSON.
const TENANTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tenants");

/// What is known of the file itself.
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");

/// The format of this version, under the key `format` of [`ABOUT`].
const FORMAT: u64 = 1;

const FILE_NAME: &str = "tenants.redb";

/// Memory for pages of the file, in bytes: a few thousand tenants fit.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// The embedded store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    database: Arc<Database>,
    path: Arc<Path>,
}

impl EmbeddedStore {
    /// Opens the store in `directory`, which is made if it is missing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] says in a sentence what stands in the way. The server does not start.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| StoreError::Directory {
                path: directory.to_owned(),
                error,
            })?;
        let path: PathBuf = directory.join(FILE_NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| StoreError::File {
                path: path.clone(),
                error,
            })?;
        let database = FileBackend::new(file)
            .and_then(|file| {
                Database::builder()
                    .set_cache_size(CACHE_BYTES)
                    .create_with_backend(file)
            })
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                    StoreError::InUse { path: path.clone() }
                }
                error => StoreError::Storage {
                    path: path.clone(),
                    error: Box::new(error.into()),
                },
            })?;
        let store = Self {
            database: Arc::new(database),
            path: path.into(),
        };
        store.check_format()?;
        Ok(store)
    }

    /// Makes the tables of a new file, or makes sure that an old one can be read.
    fn check_format(&self) -> Result<(), StoreError> {
        let format = self.run(|database| {
            let write = database.begin_write()?;
            let format = {
                let mut about = write.open_table(ABOUT)?;
                write.open_table(TENANTS)?;
                let format = about.get("format")?.map(|format| format.value());
                if format.is_none() {
                    about.insert("format", FORMAT)?;
                }
                format.unwrap_or(FORMAT)
            };
            write.commit()?;
            Ok(format)
        })?;
        if format > FORMAT {
            Err(StoreError::Newer {
                path: self.path.to_path_buf(),
                format,
            })
        } else {
            Ok(())
        }
    }

    /// All tenants; blocks, for use before there is a runtime.
    ///
    /// # Errors
    ///
    /// As [`TenantStore::list`].
    pub fn list_blocking(&self) -> Result<Vec<TenantRecord>, StoreError> {
        let rows: Vec<(String, Vec<u8>)> = self.run(|database| {
            let read = database.begin_read()?;
            let table = read.open_table(TENANTS)?;
            table
                .iter()?
                .map(|row| {
                    row.map(|(key, value)| (key.value().to_owned(), value.value().to_owned()))
                        .map_err(redb::Error::from)
                })
                .collect()
        })?;
        rows.into_iter()
            .map(|(key, value)| decode(&key, &value))
            .collect()
    }

    /// Stores tenants, all or none of them; blocks.
    ///
    /// # Errors
    ///
    /// As [`TenantStore::put`].
    pub fn put_blocking(&self, records: &[TenantRecord]) -> Result<(), StoreError> {
        let rows: Vec<(&str, Vec<u8>)> = records
            .iter()
            .map(|record| {
                (
                    record.external_id.as_str(),
                    serde_json::to_vec(record).expect("a record has only text keys"),
                )
            })
            .collect();
        self.run(|database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(TENANTS)?;
                for (key, value) in &rows {
                    table.insert(key, value.as_slice())?;
                }
            }
            write.commit()?;
            Ok(())
        })
    }

    fn get_blocking(&self, external_id: &str) -> Result<Option<TenantRecord>, StoreError> {
        let row: Option<Vec<u8>> = self.run(|database| {
            let table = database.begin_read()?.open_table(TENANTS)?;
            Ok(table
                .get(external_id)?
                .map(|value| value.value().to_owned()))
        })?;
        row.map(|row| decode(external_id, &row)).transpose()
    }

    fn delete_blocking(&self, external_id: &str) -> Result<bool, StoreError> {
        self.run(|database| {
            let write = database.begin_write()?;
            let was_there = write.open_table(TENANTS)?.remove(external_id)?.is_some();
            write.commit()?;
            Ok(was_there)
        })
    }

    fn run<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        work(&self.database).map_err(|error| StoreError::Storage {
            path: self.path.to_path_buf(),
            error: Box::new(error),
        })
    }

    /// Runs `work` where it may wait for the disk.
    fn elsewhere<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<'static, T> {
        let store = self.clone();
        Box::pin(async move {
            tokio::task::spawn_blocking(move || work(&store))
                .await
                .unwrap_or(Err(StoreError::Interrupted))
        })
    }
}

fn decode(external_id: &str, row: &[u8]) -> Result<TenantRecord, StoreError> {
    serde_json::from_slice(row).map_err(|error| StoreError::Record {
        external_id: external_id.to_owned(),
        error,
    })
}

impl TenantStore for EmbeddedStore {
    fn get<'a>(&'a self, external_id: &'a str) -> Answer<'a, Option<TenantRecord>> {
        let external_id = external_id.to_owned();
        self.elsewhere(move |store| store.get_blocking(&external_id))
    }

    fn list(&self) -> Answer<'_, Vec<TenantRecord>> {
        self.elsewhere(Self::list_blocking)
    }

    fn put(&self, record: TenantRecord) -> Answer<'_, TenantRecord> {
        self.elsewhere(move |store| {
            store.put_blocking(std::slice::from_ref(&record))?;
            Ok(record)
        })
    }

    fn delete<'a>(&'a self, external_id: &'a str) -> Answer<'a, bool> {
        let external_id = external_id.to_owned();
        self.elsewhere(move |store| store.delete_blocking(&external_id))
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn news(&self) -> Answer<'_, StoreNews> {
        Box::pin(std::future::pending())
    }

    fn announce(&self, _: StoreNews) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::TEST_DEFAULTS;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A directory of its own, gone when dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("realtime-store-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn record(name: &str) -> TenantRecord {
        let mut record = TenantRecord::new(name, &TEST_DEFAULTS, 1_700_000_000);
        record.jwt_secret = Some("secret".to_owned());
        record.jwt_jwks =
            Some(serde_json::json!({"keys": [{"kid": "a", "n": 12_345_678_901_234_567_890_u64}]}));
        record
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn reopened_store_has_the_tenants() {
        let scratch = Scratch::new("reopen");
        let (a, b) = (record("a"), record("b"));
        {
            let store = EmbeddedStore::open(&scratch.0.join("deep")).unwrap();
            block_on(async {
                store.put(b.clone()).await.unwrap();
                store.put(a.clone()).await.unwrap();
                assert!(store.delete("b").await.unwrap());
                assert!(!store.delete("b").await.unwrap());
                store.put(b.clone()).await.unwrap();
            });
        }
        let store = EmbeddedStore::open(&scratch.0.join("deep")).unwrap();
        assert_eq!(store.list_blocking().unwrap(), [a.clone(), b]);
        assert_eq!(block_on(store.get("a")).unwrap(), Some(a));
        assert_eq!(block_on(store.get("c")).unwrap(), None);
    }

    #[test]
    fn file_is_for_its_owner_alone() {
        let scratch = Scratch::new("mode");
        let store = EmbeddedStore::open(&scratch.0).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&store.path), mode(&scratch.0)), (0o600, 0o700));
    }

    #[test]
    fn second_server_on_one_directory_is_told_so() {
        let scratch = Scratch::new("locked");
        let _first = EmbeddedStore::open(&scratch.0).unwrap();
        let error = EmbeddedStore::open(&scratch.0).err().unwrap().to_string();
        assert!(
            error.contains("is in use by another process") && error.contains("DATA_DIR"),
            "{error}"
        );
    }

    #[test]
    fn unusable_directory_is_named() {
        let scratch = Scratch::new("file");
        std::fs::create_dir_all(&scratch.0).unwrap();
        let file = scratch.0.join("not-a-directory");
        std::fs::write(&file, "x").unwrap();
        let error = EmbeddedStore::open(&file).err().unwrap().to_string();
        assert!(
            error.contains("not-a-directory") && error.contains("DATA_DIR"),
            "{error}"
        );
        std::fs::create_dir_all(scratch.0.join("data/tenants.redb")).unwrap();
        let error = EmbeddedStore::open(&scratch.0.join("data"))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("cannot be opened for writing"), "{error}");
    }

    #[test]
    fn file_of_a_later_version_is_refused() {
        let scratch = Scratch::new("newer");
        {
            let store = EmbeddedStore::open(&scratch.0).unwrap();
            store
                .run(|database| {
                    let write = database.begin_write()?;
                    write.open_table(ABOUT)?.insert("format", FORMAT + 1)?;
                    write.commit()?;
                    Ok(())
                })
                .unwrap();
        }
        let error = EmbeddedStore::open(&scratch.0).err().unwrap().to_string();
        assert!(error.contains("later version"), "{error}");
    }
}
