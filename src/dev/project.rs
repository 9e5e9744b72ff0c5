//! The cluster as a Supabase project's database, and the tenant that it belongs to.
//!
//! What comes in: a running [`Cluster`]. What goes out: a database with roles, `auth` and schema `realtime`, and a tenant's record that
//! leads to it. What always holds: everything may be done again, and a tenant that has a database of somebody else's keeps it
//! (`foreign_database_is_left_alone`).

use super::cluster::{Cluster, SUPERUSER};
use crate::control::clock;
use crate::control::database::migrate::{migrate, said};
use crate::control::database::{Settings, connect, partitions};
use crate::control::store::{TenantRecord, apply};
use serde_json::{Map, Value, json};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// The database that `initdb` makes.
const DATABASE: &str = "postgres";

/// Who may log in with the cluster's password, beside the superuser.
const LOGINS: [&str; 2] = ["postgres", "authenticator"];

const PROJECT: &str = include_str!("../../migrations/dev/project.sql");

/// Marks the extension as ours, so that a port that changed may change in it.
const MARK: &str = "realtime_dev";

/// Makes the database ready for clients, policies and psql.
///
/// # Errors
///
/// A sentence.
pub(super) fn prepare(cluster: &Cluster) -> Result<(), String> {
    let settings = Settings::parse(&settings(cluster))?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the kernel refuses a runtime: {error}"))?;
    LocalSet::new().block_on(&runtime, prepare_through(&settings, cluster))
}

async fn prepare_through(settings: &Settings, cluster: &Cluster) -> Result<(), String> {
    let mut connection = connect(settings, "realtime_dev")
        .await
        .map_err(|error| error.to_string())?;
    let client = &mut connection.client;
    let failed =
        |error: tokio_postgres::Error| format!("the database is not ready: {}", said(&error));
    client.batch_execute(PROJECT).await.map_err(failed)?;
    for login in LOGINS {
        // Hexadecimal digits: there is nothing to escape.
        let password = cluster.password.expose();
        let statement = format!("alter role {login} password '{password}'");
        client.batch_execute(&statement).await.map_err(failed)?;
    }
    migrate(client).await.map_err(|error| error.to_string())?;
    match partitions::ensure_partitions(client, clock::unix_seconds())
        .await
        .first()
    {
        Some(error) => Err(error.to_string()),
        None => Ok(()),
    }
}

/// The tenant's record with these settings of its database, if it has to change.
///
/// # Errors
///
/// A sentence: it has another database.
pub(super) fn attach(
    record: &TenantRecord,
    settings: &Map<String, Value>,
    unix_now: i64,
) -> Result<Option<TenantRecord>, String> {
    if let Some(database) = record.database() {
        if !database.contains_key(MARK) {
            return Err(format!(
                "tenant {} has a database of its own already; set DATA_DIR to another folder to try this one",
                record.external_id
            ));
        }
        if settings
            .iter()
            .all(|(name, value)| database.get(name) == Some(value))
        {
            return Ok(None);
        }
    }
    let others = record.extensions.iter();
    let mut extensions: Vec<Value> = others
        .filter(|extension| extension.kind != TenantRecord::POSTGRES_CDC)
        .map(|extension| json!({"type": extension.kind, "settings": extension.settings}))
        .collect();
    extensions.push(json!({"type": TenantRecord::POSTGRES_CDC, "settings": settings}));
    let mut attributes = Map::new();
    attributes.insert("extensions".to_owned(), Value::Array(extensions));
    let mut record = record.clone();
    apply(&mut record, &attributes, unix_now)
        .map_err(|errors| format!("the tenant cannot be changed: {}", Value::Object(errors)))?;
    Ok(Some(record))
}

/// The settings of the extension that leads to this cluster.
pub(super) fn settings(cluster: &Cluster) -> Map<String, Value> {
    extension(cluster.port, cluster.password.expose())
}

fn extension(port: u16, password: &str) -> Map<String, Value> {
    let mut settings = Map::new();
    for (name, value) in [
        ("region", "local"),
        ("db_host", "127.0.0.1"),
        ("db_port", &port.to_string()),
        ("db_name", DATABASE),
        ("db_user", SUPERUSER),
        ("db_password", password),
    ] {
        settings.insert(name.to_owned(), value.into());
    }
    settings.insert("ssl_enforced".to_owned(), false.into());
    settings.insert(MARK.to_owned(), true.into());
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, SelfHost};

    fn tenant(database: Option<Map<String, Value>>) -> TenantRecord {
        let (config, _) = Config::from_env(|_| None).unwrap();
        let mut record = TenantRecord::new("t", &config.tenant_defaults, 1);
        record.jwt_secret = Some(SelfHost::DEFAULT_JWT_SECRET.to_owned());
        let Some(settings) = database else {
            return record;
        };
        attached(&record, &settings)
    }

    fn attached(record: &TenantRecord, settings: &Map<String, Value>) -> TenantRecord {
        attach(record, settings, 2).unwrap().expect("it changes")
    }

    fn ours(port: u16) -> Map<String, Value> {
        extension(port, "secret")
    }

    #[test]
    fn tenant_gets_the_database_and_follows_its_port() {
        let record = tenant(Some(ours(5000)));
        assert!(record.has_database());
        assert_eq!(record.database().unwrap()["db_port"], "5000");
        assert!(
            attach(&record, &ours(5000), 3).unwrap().is_none(),
            "nothing changes"
        );
        let moved = attached(&record, &ours(5001));
        assert_eq!(moved.database().unwrap()["db_port"], "5001");
        assert_eq!(moved.extensions.len(), 1);
        assert!(Settings::of(&moved).unwrap().is_ok());
    }

    #[test]
    fn foreign_database_is_left_alone() {
        let mut theirs = ours(5432);
        theirs.remove(MARK);
        let error = attach(&tenant(Some(theirs)), &ours(5000), 3).unwrap_err();
        assert!(error.contains("database of its own"), "{error}");
    }
}
