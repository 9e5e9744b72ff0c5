//! Tenants in one file, for a server that has nothing else: redb in `DATA_DIR`.
//!
//! Secrets are encrypted in it as they are in PostgreSQL ([`Cipher`]), with `DB_ENC_KEY` or `DB_ENC_KEY_GCM`; where neither is set, with
//! the key in `tenants.key` beside the file, which is made when it is missing. Both files have mode 0600 and are made in a directory of
//! mode 0700. A backup without the key, wherever that is, is of no use to a thief, and of none to its owner either. A file of the first
//! format, which held secrets as they are, is encrypted when it is opened; pages that the storage engine has not used again may still
//! show what stood in them.

use super::cipher::GCM_KEY_BYTES;
use super::{
    Answer, Cipher, ExtensionRecord, Flag, StoreError, StoreNews, TenantRecord, TenantStore,
};
use aws_lc_rs::rand;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// External id to record, as JSON.
const TENANTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tenants");

/// What is known of the file itself.
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");

/// The format of this version, under the key `format` of [`ABOUT`].
const FORMAT: u64 = 2;

/// The format that held secrets as they are.
const PLAIN_FORMAT: u64 = 1;

const FILE_NAME: &str = "tenants.redb";

const KEY_FILE_NAME: &str = "tenants.key";

/// Memory for pages of the file, in bytes: a few thousand tenants fit.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// The embedded store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    database: Arc<Database>,
    path: Arc<Path>,
    cipher: Arc<Cipher>,
}

impl EmbeddedStore {
    /// Opens the store in `directory`, which is made if it is missing. `cipher` has the keys of the environment.
    ///
    /// # Errors
    ///
    /// [`StoreError`] says in a sentence what stands in the way. The server does not start.
    pub fn open(directory: &Path, cipher: Cipher) -> Result<Self, StoreError> {
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
        let mut store = Self {
            database: Arc::new(database),
            path: path.into(),
            // Used for nothing before the key is there.
            cipher: Arc::new(Cipher::new(None, None, false)),
        };
        let format = store.format()?;
        // Only now: whoever has the file has the key.
        let is_new = format == PLAIN_FORMAT || !store.holds_secrets()?;
        store.cipher = Arc::new(with_key_file(directory, cipher.or_gcm(), is_new)?);
        if format == PLAIN_FORMAT {
            store.encrypt_all()?;
        }
        Ok(store)
    }

    /// Makes the tables of a new file, and makes sure that an old one can be read.
    fn format(&self) -> Result<u64, StoreError> {
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
        match format {
            PLAIN_FORMAT | FORMAT => Ok(format),
            format => Err(StoreError::Newer {
                path: self.path.to_path_buf(),
                format,
            }),
        }
    }

    /// The records as they are stored.
    fn decoded(&self) -> Result<Vec<TenantRecord>, StoreError> {
        let rows = self.rows()?;
        rows.iter().map(|(key, row)| decode(key, row)).collect()
    }

    /// Brings a file of the first format up to date.
    fn encrypt_all(&self) -> Result<(), StoreError> {
        self.put_blocking(&mut self.decoded()?)
    }

    /// Whether there is something that takes a key to read.
    fn holds_secrets(&self) -> Result<bool, StoreError> {
        let holds = |record: &TenantRecord| {
            record.jwt_secret.is_some()
                || record.extensions.iter().any(ExtensionRecord::has_secrets)
        };
        Ok(self.decoded()?.iter().any(holds))
    }

    /// All tenants; blocks, for use before there is a runtime.
    ///
    /// # Errors
    ///
    /// As [`TenantStore::list`].
    pub fn list_blocking(&self) -> Result<Vec<TenantRecord>, StoreError> {
        let rows = self.rows()?;
        rows.iter()
            .map(|(key, row)| self.opened(key, row))
            .collect()
    }

    fn rows(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.run(|database| {
            let read = database.begin_read()?;
            let table = read.open_table(TENANTS)?;
            table
                .iter()?
                .map(|row| {
                    row.map(|(key, value)| (key.value().to_owned(), value.value().to_owned()))
                        .map_err(redb::Error::from)
                })
                .collect()
        })
    }

    /// Stores tenants, all or none of them, whoever had their external ids before, and fills in the stored texts of their secrets;
    /// blocks.
    ///
    /// # Errors
    ///
    /// As [`TenantStore::put`], but nobody is in the way.
    pub fn put_blocking(&self, records: &mut [TenantRecord]) -> Result<(), StoreError> {
        for record in &mut *records {
            self.cipher
                .seal_record(record)
                .map_err(|error| StoreError::Secret {
                    external_id: record.external_id.clone(),
                    error,
                })?;
        }
        let row = |record: &TenantRecord| {
            let row = serde_json::to_vec(&record.at_rest()).expect("a record has only text keys");
            (record.external_id.clone(), row)
        };
        let rows: Vec<_> = records.iter().map(row).collect();
        self.run(|database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(TENANTS)?;
                for (key, value) in &rows {
                    table.insert(key.as_str(), value.as_slice())?;
                }
                write.open_table(ABOUT)?.insert("format", FORMAT)?;
            }
            write.commit()?;
            Ok(())
        })
    }

    fn put_one(&self, record: TenantRecord) -> Result<TenantRecord, StoreError> {
        let row = self.row(&record.external_id)?;
        let known = row.map(|row| decode(&record.external_id, &row));
        if known
            .transpose()?
            .is_some_and(|known| known.id != record.id)
        {
            let external_id = record.external_id;
            return Err(StoreError::Taken { external_id });
        }
        let mut records = [record];
        self.put_blocking(&mut records)?;
        let [record] = records;
        Ok(record)
    }

    fn get_blocking(&self, external_id: &str) -> Result<Option<TenantRecord>, StoreError> {
        let row = self.row(external_id)?;
        row.map(|row| self.opened(external_id, &row)).transpose()
    }

    fn row(&self, external_id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.run(|database| {
            let table = database.begin_read()?.open_table(TENANTS)?;
            Ok(table
                .get(external_id)?
                .map(|value| value.value().to_owned()))
        })
    }

    fn opened(&self, external_id: &str, row: &[u8]) -> Result<TenantRecord, StoreError> {
        let mut record = decode(external_id, row)?;
        match self.cipher.open_record(&mut record) {
            Ok(()) => Ok(record),
            Err(error) => Err(StoreError::Secret {
                external_id: external_id.to_owned(),
                error,
            }),
        }
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
        error: error.to_string(),
    })
}

/// The cipher with the key of this directory: the one that is there, or a new one where the environment has none and nothing was
/// encrypted yet (`is_new`).
fn with_key_file(directory: &Path, cipher: Cipher, is_new: bool) -> Result<Cipher, StoreError> {
    let path = directory.join(KEY_FILE_NAME);
    let failed = |error| StoreError::KeyFile {
        path: path.clone(),
        error,
    };
    let key = match fs::read(&path) {
        Ok(key) if key.len() == GCM_KEY_BYTES => key,
        Ok(key) => {
            let text = format!("it holds {} bytes", key.len());
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Err(_) if cipher.can_write() => return Ok(cipher),
        // Another key would open nothing of what is there.
        Err(_) if !is_new => return Err(StoreError::KeyMissing { path }),
        Err(_) => new_key(directory, &path).map_err(failed)?,
    };
    Ok(cipher.and_key(&key))
}

/// Makes a key. It is on the disk, whole, before anything is encrypted with it.
fn new_key(directory: &Path, path: &Path) -> io::Result<Vec<u8>> {
    let mut key = vec![0; GCM_KEY_BYTES];
    rand::fill(&mut key).map_err(|_| io::Error::other("there is no randomness"))?;
    let new = directory.join("tenants.key.new");
    // Left by a start that was cut off.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(directory)?.sync_all()?;
    Ok(key)
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
        self.elsewhere(move |store| store.put_one(record))
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
        Box::pin(async { Ok(()) })
    }

    fn flag<'a>(&'a self, name: &'a str, tenant: &'a TenantRecord) -> Answer<'a, bool> {
        let is_on = Flag::is_on(None, name, tenant);
        Box::pin(async move { Ok(is_on) })
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
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn record(name: &str) -> TenantRecord {
        let mut record = TenantRecord::new(name, &TEST_DEFAULTS, 1_700_000_000);
        record.id = format!("id of {name}");
        record.jwt_secret = Some("secret".to_owned());
        record.jwt_jwks =
            Some(serde_json::json!({"keys": [{"kid": "a", "n": 12_345_678_901_234_567_890_u64}]}));
        record
    }

    /// Opens it as a server without any key in its environment does.
    fn open(directory: &Path) -> Result<EmbeddedStore, StoreError> {
        EmbeddedStore::open(directory, Cipher::new(None, None, false))
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
            let store = open(&scratch.0.join("deep")).unwrap();
            block_on(async {
                store.put(b.clone()).await.unwrap();
                store.put(a.clone()).await.unwrap();
                assert!(store.delete("b").await.unwrap());
                assert!(!store.delete("b").await.unwrap());
                store.put(b.clone()).await.unwrap();
            });
        }
        let store = open(&scratch.0.join("deep")).unwrap();
        assert_eq!(store.list_blocking().unwrap(), [a.clone(), b]);
        assert_eq!(block_on(store.get("a")).unwrap(), Some(a));
        assert_eq!(block_on(store.get("c")).unwrap(), None);
    }

    #[test]
    fn file_is_for_its_owner_alone() {
        let scratch = Scratch::new("mode");
        let store = open(&scratch.0).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&store.path), mode(&scratch.0)), (0o600, 0o700));
        assert_eq!(mode(&scratch.0.join(KEY_FILE_NAME)), 0o600);
    }

    #[test]
    fn second_server_on_one_directory_is_told_so() {
        let scratch = Scratch::new("locked");
        let _first = open(&scratch.0).unwrap();
        let error = open(&scratch.0).err().unwrap().to_string();
        assert!(
            error.contains("is in use by another process") && error.contains("DATA_DIR"),
            "{error}"
        );
    }

    #[test]
    fn unusable_directory_is_named() {
        let scratch = Scratch::new("file");
        fs::create_dir_all(&scratch.0).unwrap();
        let file = scratch.0.join("not-a-directory");
        fs::write(&file, "x").unwrap();
        let error = open(&file).err().unwrap().to_string();
        assert!(
            error.contains("not-a-directory") && error.contains("DATA_DIR"),
            "{error}"
        );
        fs::create_dir_all(scratch.0.join("data/tenants.redb")).unwrap();
        let error = open(&scratch.0.join("data")).err().unwrap().to_string();
        assert!(error.contains("cannot be opened for writing"), "{error}");
    }

    #[test]
    fn file_of_a_later_version_is_refused() {
        let scratch = Scratch::new("newer");
        {
            let store = open(&scratch.0).unwrap();
            store
                .run(|database| {
                    let write = database.begin_write()?;
                    write.open_table(ABOUT)?.insert("format", FORMAT + 1)?;
                    write.commit()?;
                    Ok(())
                })
                .unwrap();
        }
        let error = open(&scratch.0).err().unwrap().to_string();
        assert!(error.contains("later version"), "{error}");
    }

    #[test]
    fn nothing_secret_stands_in_the_file() {
        let scratch = Scratch::new("secret");
        let check = |cipher: fn() -> Cipher| {
            let store = EmbeddedStore::open(&scratch.0, cipher()).unwrap();
            let mut record = record("a");
            record.jwt_secret = Some("nobody-may-read-this".to_owned());
            store.put_blocking(&mut [record.clone()]).unwrap();
            assert_eq!(store.list_blocking().unwrap(), [record]);
            let row = store.row("a").unwrap().unwrap();
            assert!(!String::from_utf8_lossy(&row).contains("nobody-may-read-this"));
            store.delete_blocking("a").unwrap();
        };
        check(|| Cipher::new(Some(b"supabaserealtime"), None, false));
        assert!(
            !scratch.0.join(KEY_FILE_NAME).exists(),
            "the environment has a key"
        );
        check(|| Cipher::new(None, Some(&[7; 32]), false));
        assert!(
            !scratch.0.join(KEY_FILE_NAME).exists(),
            "the environment has a key"
        );
        check(|| Cipher::new(None, None, false));
        assert!(scratch.0.join(KEY_FILE_NAME).exists());
    }

    #[test]
    fn a_key_that_comes_later_reads_what_the_key_file_has_encrypted() {
        let scratch = Scratch::new("later");
        let later = || Cipher::new(Some(b"supabaserealtime"), None, false);
        drop(open(&scratch.0).unwrap().put_blocking(&mut [record("a")]));
        let store = EmbeddedStore::open(&scratch.0, later()).unwrap();
        store.put_blocking(&mut [record("b")]).unwrap();
        assert_eq!(store.list_blocking().unwrap(), [record("a"), record("b")]);
        drop(store);
        // And a key that is gone is named.
        let error = open(&scratch.0)
            .unwrap()
            .list_blocking()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("tenant b") && error.contains("DB_ENC_KEY"),
            "{error}"
        );
    }

    #[test]
    fn a_file_of_the_first_format_is_encrypted() {
        let scratch = Scratch::new("plain");
        {
            let store = open(&scratch.0).unwrap();
            let row = serde_json::to_vec(&record("a")).unwrap();
            assert!(String::from_utf8_lossy(&row).contains("\"secret\""));
            let plain = store.run(|database| {
                let write = database.begin_write()?;
                write.open_table(TENANTS)?.insert("a", row.as_slice())?;
                write.open_table(ABOUT)?.insert("format", PLAIN_FORMAT)?;
                write.commit()?;
                Ok(())
            });
            plain.unwrap();
        }
        for _ in 0..2 {
            let store = open(&scratch.0).unwrap();
            assert_eq!(store.list_blocking().unwrap(), [record("a")]);
            let row = store.row("a").unwrap().unwrap();
            assert!(!String::from_utf8_lossy(&row).contains("\"secret\""));
        }
    }

    #[test]
    fn a_key_file_that_is_gone_is_named_and_not_made_anew() {
        let scratch = Scratch::new("gone");
        let mut public = record("public");
        public.jwt_secret = None;
        drop(open(&scratch.0).unwrap().put_blocking(&mut [public]));
        // Nothing that is there takes a key.
        fs::remove_file(scratch.0.join(KEY_FILE_NAME)).unwrap();
        drop(open(&scratch.0).unwrap().put_blocking(&mut [record("a")]));
        let key = fs::read(scratch.0.join(KEY_FILE_NAME)).unwrap();
        fs::remove_file(scratch.0.join(KEY_FILE_NAME)).unwrap();
        for _ in 0..2 {
            let error = open(&scratch.0).err().unwrap().to_string();
            assert!(
                error.contains("tenants.key") && error.contains("is missing"),
                "{error}"
            );
        }
        fs::write(scratch.0.join(KEY_FILE_NAME), key).unwrap();
        let store = open(&scratch.0).unwrap();
        assert_eq!(store.get_blocking("a").unwrap(), Some(record("a")));
    }

    #[test]
    fn a_key_file_that_is_none_is_named() {
        let scratch = Scratch::new("key");
        drop(open(&scratch.0).unwrap());
        fs::write(scratch.0.join(KEY_FILE_NAME), "short").unwrap();
        let error = open(&scratch.0).err().unwrap().to_string();
        assert!(
            error.contains("tenants.key") && error.contains("5 bytes"),
            "{error}"
        );
    }
}
