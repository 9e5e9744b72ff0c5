//! Tenants before there are threads: the store is opened, seeded and read, so that the shards start with every tenant.
//!
//! What comes in: the configuration. What goes out: [`BootTenants`], or the sentence with which the process does not start. What
//! always holds: the seed never takes back what an operator has stored, unless `SEED_SELF_HOST` asks for it
//! (`seed_is_for_an_empty_store_or_on_request`); a tenant that cannot be used keeps no other from being served, unless all are like
//! that. Deliberately absent: whatever needs a tenant's database, but for the one that was seeded.

use super::clock;
use super::database::migrate::migrate;
use super::database::partitions::{drop_old_partitions, ensure_partitions};
use super::database::{Settings, connect};
use super::described::{Described, DescribedError};
use super::main_database::{self, Engine, MainDatabaseError, Opened};
use super::store::{
    Cipher, EmbeddedStore, ExtensionRecord, StoreError, TenantRecord, TenantStore,
    database_extension,
};
use super::tenants::{Common, Registry};
use crate::auth::ClaimValidators;
use crate::config::{Config, MainDatabase};
use crate::error::Level;
use crate::limits;
use crate::logging::{Line, Writer};
use crate::tenant::TenantDirectory;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// The tenants that the process starts with.
#[derive(Debug)]
pub struct BootTenants {
    /// The tenants of record.
    pub store: Arc<dyn TenantStore>,
    /// What answers for the store, where that is in a database: to be started on the control core's thread.
    pub engine: Option<Engine>,
    /// The same as snapshots; the control core goes on with it.
    pub registry: Registry,
    /// The same for each shard.
    pub directory: TenantDirectory,
    /// The tenant that a person who tries the server out means, if it is there.
    pub self_host: Option<TenantRecord>,
    /// The names that stand in `EMBEDDED_TENANTS`.
    pub described: HashSet<String>,
}

/// Why the process does not start. The text is a sentence for the operator.
#[derive(Debug)]
pub enum StartError {
    /// The store does not open, or does not work.
    Store(StoreError),
    /// The control database does not.
    MainDatabase(MainDatabaseError),
    /// The kernel refuses what waiting takes.
    Runtime(std::io::Error),
    /// `EMBEDDED_TENANTS` is not what it should be.
    Described(DescribedError),
}

impl From<DescribedError> for StartError {
    fn from(error: DescribedError) -> Self {
        Self::Described(error)
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<MainDatabaseError> for StartError {
    fn from(error: MainDatabaseError) -> Self {
        Self::MainDatabase(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::MainDatabase(error) => error.fmt(f),
            Self::Runtime(error) => write!(f, "the kernel refuses a runtime: {error}"),
            Self::Described(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// Opens the store, seeds it and reads it: the one in `DB_HOST`, or the embedded one. `threads` is the number of threads that count: the
/// shards and the control core.
///
/// # Errors
///
/// [`StartError`], a sentence for the operator.
pub fn boot_tenants(
    config: &Config,
    threads: usize,
    unix_now: i64,
) -> Result<BootTenants, StartError> {
    let path = config.embedded_tenants.as_deref();
    let described = path.map(Described::read).transpose()?;
    let described = described.as_ref();
    let (store, engine, records): (Arc<dyn TenantStore>, _, _) = match &config.database {
        None => {
            let (store, records) = boot_embedded(config, described, unix_now)?;
            (Arc::new(store), None, records)
        }
        Some(database) => {
            let opened = boot_database(database, config, described, unix_now)?;
            (Arc::new(opened.store), Some(opened.engine), opened.records)
        }
    };
    let mut registry = Registry::new(Common {
        threads,
        validators: Arc::new(ClaimValidators::new(config.claim_validators.clone())),
        client_presence_calls_max: config.client_presence_calls_max,
        client_presence_window_ms: config.client_presence_window_ms,
    });
    registry.apply_all(&records);
    let directory = registry.watch().borrow().directory.clone();
    let self_host = records
        .into_iter()
        .find(|record| record.external_id == config.self_host.tenant_name);
    Ok(BootTenants {
        store,
        engine,
        registry,
        directory,
        self_host,
        described: described.map(names_of).unwrap_or_default(),
    })
}

/// The names that stand in a file.
pub fn names_of(described: &Described) -> HashSet<String> {
    let tenants = described.tenants().iter();
    tenants.map(|one| one.external_id.clone()).collect()
}

fn boot_embedded(
    config: &Config,
    described: Option<&Described>,
    unix_now: i64,
) -> Result<(EmbeddedStore, Vec<TenantRecord>), StartError> {
    let store = EmbeddedStore::open(&config.data_dir, Cipher::of(config))?;
    let mut records = store.list_blocking()?;
    let mut changed = Vec::new();
    if let Some(seeded) = seed(config, &records, unix_now) {
        upsert(&mut records, vec![seeded.clone()]);
        changed.push(seeded);
    }
    if let Some(described) = described {
        let described = described.records(&records, &config.tenant_defaults, unix_now)?;
        upsert(&mut records, described.clone());
        changed.extend(described);
    }
    store.put_blocking(&mut changed)?;
    Ok((store, records))
}

fn boot_database(
    database: &MainDatabase,
    config: &Config,
    described: Option<&Described>,
    unix_now: i64,
) -> Result<Opened, StartError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    let opened = boot_opened(database, config, described, unix_now);
    LocalSet::new().block_on(&runtime, opened)
}

async fn boot_opened(
    database: &MainDatabase,
    config: &Config,
    described: Option<&Described>,
    unix_now: i64,
) -> Result<Opened, StartError> {
    // The log's thread is started later.
    let (region, cluster) = (config.region.clone(), config.cluster.clone());
    let writer = Writer::new(config.log_format, config.log_level, region, cluster);
    let say = |level, text: &str| writer.write(&Line::new(clock::unix_ms(), level, text));
    let warn = |text: &str| say(Level::Warning, text);
    let mut opening = main_database::open(database, config, warn).await?;
    // As the original's: it is made at every start, or never.
    let seeded = config
        .self_host
        .seeds
        .then(|| self_host_record(config, unix_now));
    if let Some(record) = &seeded {
        opening.seed(record).await?;
    }
    if let Some(described) = described {
        opening.begin().await?;
        let records = opening.records().await?;
        let described = described.records(&records, &config.tenant_defaults, unix_now)?;
        opening.put(&described).await?;
    }
    let opened = opening.finish().await?;
    for error in &opened.broken {
        say(Level::Error, &format!("a tenant is not served: {error}"));
    }
    if let Some(record) = &seeded
        && let Err(text) = prepare_database(record).await
    {
        say(Level::Error, &format!("Failed to set-up tenant: {text}"));
    }
    Ok(opened)
}

/// The seeded tenant's own database: its schema, and its partitions of old and coming days (spec: control-database 5, step 3).
async fn prepare_database(record: &TenantRecord) -> Result<(), String> {
    let Some(settings) = Settings::of(record) else {
        return Ok(());
    };
    let prepared = async {
        let connection = connect(&settings?, "realtime_migrations").await;
        let mut connection = connection.map_err(|error| error.to_string())?;
        let migrated = migrate(&mut connection.client).await;
        migrated.map_err(|error| error.to_string())?;
        let (client, now) = (&connection.client, clock::unix_seconds());
        let dropped = drop_old_partitions(client, now).await;
        dropped.map_err(|error| error.to_string())?;
        match ensure_partitions(client, now).await.first() {
            Some(error) => Err(error.to_string()),
            None => Ok(()),
        }
    };
    let bound = limits::DATABASE_MIGRATION_TIMEOUT;
    let outcome = tokio::time::timeout(bound, prepared).await;
    outcome.unwrap_or_else(|_| Err(format!("it took longer than {} ms", bound.as_millis())))
}

fn upsert(records: &mut Vec<TenantRecord>, changed: Vec<TenantRecord>) {
    let places: HashMap<String, usize> = records
        .iter()
        .enumerate()
        .map(|(place, record)| (record.external_id.clone(), place))
        .collect();
    for record in changed {
        match places.get(&record.external_id) {
            Some(place) => records[*place] = record,
            None => records.push(record),
        }
    }
}

/// The tenant of a self-hosted installation, where it is to be stored in the embedded store now.
///
/// With `SEED_SELF_HOST` it is made anew at every start, as in the original (spec: control-database 5). Without, it is made for an
/// embedded store that is empty, so that a first start has somebody to serve; later its keys follow the environment, where that names
/// some.
fn seed(config: &Config, records: &[TenantRecord], unix_now: i64) -> Option<TenantRecord> {
    let wanted = &config.self_host;
    let known = records
        .iter()
        .find(|record| record.external_id == wanted.tenant_name);
    let mut record = match known {
        Some(known) if !wanted.seeds => known.clone(),
        None if !wanted.seeds && !records.is_empty() => return None,
        _ => return Some(self_host_record(config, unix_now)),
    };
    if let Some(secret) = &config.api_jwt_secret {
        record.jwt_secret = Some(secret.expose().to_owned());
    }
    if wanted.jwt_jwks.is_some() {
        record.jwt_jwks.clone_from(&wanted.jwt_jwks);
    }
    (Some(&record) != known).then_some(record)
}

/// That tenant, made anew.
fn self_host_record(config: &Config, unix_now: i64) -> TenantRecord {
    let wanted = &config.self_host;
    let mut record = TenantRecord::new(&wanted.tenant_name, &config.tenant_defaults, unix_now);
    record.jwt_secret = Some(wanted.jwt_secret.expose().to_owned());
    record.jwt_jwks.clone_from(&wanted.jwt_jwks);
    record.extensions.extend(seeded_database(config, unix_now));
    record
}

/// The database of that tenant: the one that `DB_HOST` names, as the original's seed describes it (spec: control-database 5).
fn seeded_database(config: &Config, unix_now: i64) -> Option<ExtensionRecord> {
    let database = config.database.as_ref()?;
    let settings = [
        ("region", json!("us-east-1")),
        ("db_host", json!(database.host)),
        ("db_port", json!(config.self_host.database_port.to_string())),
        ("db_name", json!(database.name)),
        ("db_user", json!(database.user)),
        ("db_password", json!(database.password.expose())),
        ("ssl_enforced", json!(false)),
    ];
    let settings = settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Some(database_extension(settings, unix_now).expect("every required setting is a string"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SelfHost;
    use serde_json::Value;
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("realtime-boot-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        /// Boots with these variables, and with this text as `EMBEDDED_TENANTS`.
        fn boot(
            &self,
            variables: &[(&str, &str)],
            file: Option<&str>,
        ) -> Result<BootTenants, String> {
            let path = self.0.join("tenants.json");
            if let Some(text) = file {
                std::fs::write(&path, text).unwrap();
            }
            let get = |name: &str| match name {
                "DATA_DIR" => Some(self.0.join("data").display().to_string()),
                "EMBEDDED_TENANTS" => file.map(|_| path.display().to_string()),
                name => variables
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).to_owned()),
            };
            let (config, _) = Config::from_env(get).unwrap();
            boot_tenants(&config, 2, 1_700_000_000).map_err(|error| error.to_string())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn names(boot: &BootTenants) -> Vec<String> {
        let mut names: Vec<_> = boot
            .directory
            .iter()
            .map(|tenant| tenant.external_id.to_string())
            .collect();
        names.sort();
        names
    }

    fn secret(boot: &BootTenants) -> Option<&str> {
        boot.self_host.as_ref()?.jwt_secret.as_deref()
    }

    #[test]
    fn first_start_has_a_tenant_that_can_be_tried() {
        let scratch = Scratch::new("first");
        let boot = scratch
            .boot(&[("TENANT_MAX_EVENTS_PER_SECOND", "7")], None)
            .unwrap();
        assert_eq!(names(&boot), ["realtime-dev"]);
        assert_eq!(secret(&boot), Some(SelfHost::DEFAULT_JWT_SECRET));
        let tenant = boot.directory.find("realtime-dev").unwrap();
        assert_eq!(tenant.limits.events_per_second_max, 7);
        assert!(!tenant.has_database && !tenant.suspended);
    }

    #[test]
    fn seed_is_for_an_empty_store_or_on_request() {
        let scratch = Scratch::new("seed");
        let seeded = [
            ("API_JWT_SECRET", "mine"),
            ("SELF_HOST_TENANT_NAME", "own"),
            ("API_JWT_JWKS", "{\"keys\":[]}"),
        ];
        assert_eq!(secret(&scratch.boot(&seeded, None).unwrap()), Some("mine"));
        // Another name: the store is not empty, so nobody is added.
        let other = scratch
            .boot(&[("SELF_HOST_TENANT_NAME", "other")], None)
            .unwrap();
        assert_eq!(names(&other), ["own"]);
        assert!(other.self_host.is_none());
        drop(other);
        // What an operator has changed stays, but keys follow the environment where it names some.
        let changed = r#"[{"external_id": "own", "max_joins_per_second": 3}]"#;
        drop(
            scratch
                .boot(&[("SELF_HOST_TENANT_NAME", "own")], Some(changed))
                .unwrap(),
        );
        let boot = scratch
            .boot(
                &[("API_JWT_SECRET", "new"), ("SELF_HOST_TENANT_NAME", "own")],
                None,
            )
            .unwrap();
        assert_eq!(
            (
                secret(&boot),
                boot.self_host.as_ref().unwrap().max_joins_per_second
            ),
            (Some("new"), 3)
        );
        assert!(boot.self_host.as_ref().unwrap().jwt_jwks.is_some());
        drop(boot);
        let boot = scratch
            .boot(
                &[("SEED_SELF_HOST", "true"), ("SELF_HOST_TENANT_NAME", "own")],
                None,
            )
            .unwrap();
        assert_eq!(
            (
                secret(&boot),
                boot.self_host.as_ref().unwrap().max_joins_per_second
            ),
            (Some(SelfHost::DEFAULT_JWT_SECRET), 100)
        );
    }

    #[test]
    fn seeded_tenant_has_the_database_that_the_environment_names() {
        let settings = |variables: &[(&str, &str)]| {
            let get = |name: &str| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let (config, _) = Config::from_env(get).unwrap();
            let record = self_host_record(&config, 1);
            record.database().cloned().map(Value::Object)
        };
        assert_eq!(settings(&[]), None);
        assert_eq!(settings(&[("DB_NAME", "n")]), None);
        let mut expected = json!({
            "region": "us-east-1", "db_host": "db", "db_port": "5433", "db_name": "postgres", "db_user": "supabase_admin",
            "db_password": "postgres", "ssl_enforced": false, "poll_interval_ms": 100, "poll_max_changes": 100,
            "poll_max_record_bytes": 1_048_576, "publication": "supabase_realtime",
            "slot_name": "supabase_realtime_replication_slot",
        });
        assert_eq!(settings(&[("DB_HOST", "db")]).as_ref(), Some(&expected));
        let own = [
            ("DB_HOST", "h"),
            ("DB_PORT", "5432"),
            ("DB_NAME", "n"),
            ("DB_USER", "u"),
            ("DB_PASSWORD", "p"),
        ];
        for (name, value) in own {
            expected[name.to_lowercase()] = json!(value);
        }
        assert_eq!(settings(&own), Some(expected));
    }

    #[test]
    fn described_tenants_are_stored_and_stay() {
        let scratch = Scratch::new("described");
        let file = r#"[{"external_id": "t-susp", "jwt_secret": "s", "suspend": true, "max_payload_size_in_kb": 1, "inserted_at": "x"},
            {"external_id": "t-priv", "jwt_jwks": {"keys": []}, "private_only": "true"}]"#;
        let boot = scratch.boot(&[], Some(file)).unwrap();
        assert_eq!(names(&boot), ["realtime-dev", "t-priv", "t-susp"]);
        let suspended = boot.directory.find("t-susp").unwrap();
        assert!(suspended.suspended && suspended.limits.payload_bytes_max == 1500);
        assert!(boot.directory.find("t-priv").unwrap().private_only);
        drop(boot);
        assert_eq!(
            names(&scratch.boot(&[], None).unwrap()),
            ["realtime-dev", "t-priv", "t-susp"]
        );
    }

    #[test]
    fn mistakes_of_the_file_are_named_and_nothing_is_stored() {
        let scratch = Scratch::new("mistakes");
        let check = |file: &str, part: &str| {
            let error = scratch.boot(&[], Some(file)).unwrap_err();
            assert!(
                error.contains("tenants.json") && error.contains(part),
                "{file}: {error}"
            );
        };
        check("{}", "not a JSON array of tenants");
        check("[1]", "not a JSON array of tenants");
        check("[", "not a JSON array of tenants");
        check(
            r#"[{"jwt_secret": "s"}]"#,
            r#""external_id":["can't be blank"]"#,
        );
        check(
            r#"[{"external_id": "a"}]"#,
            "either jwt_secret or jwt_jwks must be provided",
        );
        check(
            r#"[{"external_id": "a", "jwt_secret": "s", "max_joins": 1}]"#,
            r#"there is no attribute "max_joins""#,
        );
        check(
            r#"[{"external_id": "a", "jwt_secret": "s"}, {"external_id": "a", "jwt_secret": "s"}]"#,
            "twice",
        );
        assert!(
            EmbeddedStore::open(&scratch.0.join("data"), Cipher::new(None, None, false))
                .unwrap()
                .list_blocking()
                .unwrap()
                .is_empty()
        );
        std::fs::remove_file(scratch.0.join("tenants.json")).unwrap();
        let (config, _) = Config::from_env(|name| match name {
            "DATA_DIR" => Some(scratch.0.join("data").display().to_string()),
            "EMBEDDED_TENANTS" => Some("/nowhere/tenants.json".to_owned()),
            _ => None,
        })
        .unwrap();
        assert!(
            boot_tenants(&config, 2, 1)
                .unwrap_err()
                .to_string()
                .contains("cannot be read")
        );
    }
}
