//! Tenants as rows: what is asked of the tables, and how a row and a record become each other.
//!
//! What comes in: a connection and the tables' place. What goes out: records. What always holds: a row is read as one JSON object, so a
//! column that does not exist is a default and one that we do not know is none of our business; a change is a single statement.
//! Deliberately absent: when, and what is done about errors.

use super::schema::Place;
use crate::control::database::connect::describe;
use crate::control::store::{
    BroadcastAdapter, Cipher, ExtensionRecord, Flag, Sealed, StoreError, TenantRecord, Version,
};
use crate::limits;
use crate::logging::timestamp;
use serde_json::{Map, Value, json};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

/// A row as it was read.
pub(super) struct Stored {
    /// The tenant; an error says which field of it cannot be used.
    pub(super) record: Result<TenantRecord, StoreError>,
    pub(super) external_id: String,
    /// Another text after every change.
    pub(super) version: String,
    /// Whether its secrets have been encrypted anew (`gcm_migrated_at`), or that cannot be noted.
    pub(super) is_gcm_migrated: bool,
}

/// What a statement's error means to whoever asked.
pub(super) fn store_error(error: &tokio_postgres::Error) -> StoreError {
    let text = describe(error);
    let Some(said) = error.as_db_error() else {
        return StoreError::Unreachable { error: text };
    };
    let code = said.code();
    // Of these the database itself is the cause: it ends, or it only reads.
    let is_away = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::READ_ONLY_SQL_TRANSACTION,
    ]
    .contains(code);
    if is_away {
        StoreError::Unreachable { error: text }
    } else {
        StoreError::Refused { error: text }
    }
}

/// The version of a row and of those that belong to it: the transactions that wrote them.
fn version_of(place: &Place) -> String {
    format!(
        "t.xmin::text || coalesce((select string_agg('/' || e.id || ':' || e.xmin, '' order by e.id) \
         from {} e where e.tenant_external_id = t.external_id), '')",
        place.extensions()
    )
}

fn select(place: &Place) -> String {
    format!(
        "select t.external_id, to_jsonb(t)::text, extract(epoch from t.inserted_at)::bigint, extract(epoch from t.updated_at)::bigint, \
         (select coalesce(jsonb_agg(jsonb_build_array(e.type, e.settings, extract(epoch from e.inserted_at)::bigint, \
         extract(epoch from e.updated_at)::bigint) order by e.inserted_at, e.id), '[]')::text \
         from {} e where e.tenant_external_id = t.external_id), {} from {} t",
        place.extensions(),
        version_of(place),
        place.tenants()
    )
}

/// The tenant of this external id.
pub(super) async fn get(
    client: &Client,
    place: &Place,
    cipher: &Cipher,
    external_id: &str,
) -> Result<Option<Stored>, StoreError> {
    let sql = format!("{} where t.external_id = $1", select(place));
    let rows = client
        .query_typed(&sql, &[(&external_id, Type::TEXT)])
        .await;
    let rows = rows.map_err(|error| store_error(&error))?;
    rows.first().map(|row| stored(row, cipher)).transpose()
}

/// All tenants, ordered by external id.
pub(super) async fn list(
    client: &Client,
    place: &Place,
    cipher: &Cipher,
) -> Result<Vec<Stored>, StoreError> {
    let sql = format!(
        "{} where t.external_id is not null order by t.external_id collate \"C\"",
        select(place)
    );
    let rows = client.query_typed(&sql, &[]).await;
    let rows = rows.map_err(|error| store_error(&error))?;
    rows.iter().map(|row| stored(row, cipher)).collect()
}

/// Tenants whose secrets have not been encrypted anew, as far as this flag lets them be: one that is on for all, or in their own map.
pub(super) async fn old(
    client: &Client,
    place: &Place,
    cipher: &Cipher,
    (flag, is_on): (&str, bool),
) -> Result<Vec<Stored>, StoreError> {
    // A column that does not exist yet is not null.
    let sql = format!(
        "{} where t.external_id is not null and to_jsonb(t) -> 'gcm_migrated_at' = 'null' \
         and coalesce(to_jsonb(t) -> 'feature_flags' -> $1, to_jsonb($2)) = 'true' limit {}",
        select(place),
        limits::CONTROL_DATABASE_RENEWALS_WAITING_MAX
    );
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&flag, Type::TEXT), (&is_on, Type::BOOL)];
    let rows = client.query_typed(&sql, &parameters).await;
    let rows = rows.map_err(|error| store_error(&error))?;
    rows.iter().map(|row| stored(row, cipher)).collect()
}

/// External ids and the versions of their rows.
pub(super) async fn versions(
    client: &Client,
    place: &Place,
) -> Result<Vec<(String, String)>, StoreError> {
    let sql = format!(
        "select t.external_id, {} from {} t where t.external_id is not null",
        version_of(place),
        place.tenants()
    );
    let rows = client.query_typed(&sql, &[]).await;
    let rows = rows.map_err(|error| store_error(&error))?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, _>>()
        .map_err(|error| store_error(&error))
}

/// Writes a tenant: one that was read in place of what was read, if it still is that, and one that was made as a new one. What is secret
/// in it has been encrypted before.
pub(super) async fn put(
    client: &Client,
    place: &Place,
    record: &TenantRecord,
) -> Result<(), StoreError> {
    let columns = columns(client, place).await?;
    let known = |name: &&&str| columns.iter().any(|column| column == **name);
    let columns: Vec<&str> = COLUMNS.iter().filter(known).copied().collect();
    let (tenant, extensions) = (tenant_json(record), extensions_json(record));
    let kinds: Vec<&str> = record
        .extensions
        .iter()
        .map(|extension| extension.kind.as_str())
        .collect();
    let version = record.version.read();
    let mut parameters: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> = vec![
        (&tenant, Type::TEXT),
        (&extensions, Type::TEXT),
        (&kinds, Type::TEXT_ARRAY),
    ];
    if let Some(version) = &version {
        parameters.push((version, Type::TEXT));
    }
    let sql = put_sql(place, &columns, version.is_some());
    let external_id = || record.external_id.clone();
    match client.query_typed(&sql, &parameters).await {
        Ok(rows) if !rows.is_empty() => Ok(()),
        // Somebody else has written or deleted it.
        Ok(_) if version.is_some() => Err(StoreError::Stale {
            external_id: external_id(),
        }),
        // There is a tenant of that name.
        Ok(_) => Err(StoreError::Taken {
            external_id: external_id(),
        }),
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Err(StoreError::Taken {
            external_id: external_id(),
        }),
        Err(error) => Err(store_error(&error)),
    }
}

/// One statement: the tenant, the extensions that it has no more, those that it has. It returns a row where the tenant was written.
fn put_sql(place: &Place, columns: &[&str], was_read: bool) -> String {
    let list = columns.join(", ");
    let changes: Vec<String> = columns
        .iter()
        .filter(|column| **column != "id")
        .map(|column| format!("{column} = r.{column}"))
        .collect();
    let (tenants, extensions) = (place.tenants(), place.extensions());
    let row = format!("jsonb_populate_record(null::{tenants}, $1::text::jsonb)");
    // Whoever comes second waits for the first one's row, and finds another version there.
    let put = if was_read {
        format!(
            "update {tenants} t set {} from {row} r where t.id = r.id and {} = $4 returning t.external_id",
            changes.join(", "),
            version_of(place)
        )
    } else {
        format!(
            "insert into {tenants} as t ({list}) select {list} from {row} on conflict (external_id) do nothing returning t.external_id"
        )
    };
    format!(
        "with put as ({put}), \
         gone as (delete from {extensions} e using put \
           where e.tenant_external_id = put.external_id and e.type <> all ($3)), \
         kept as (insert into {extensions} (id, type, settings, tenant_external_id, inserted_at, updated_at) \
           select e.id, e.type, e.settings, put.external_id, e.inserted_at, e.updated_at \
           from put, jsonb_populate_recordset(null::{extensions}, $2::text::jsonb) e \
           on conflict (tenant_external_id, type) do update set settings = excluded.settings, \
             inserted_at = excluded.inserted_at, updated_at = excluded.updated_at) \
         select external_id from put"
    )
}

/// The columns of the table of tenants, as they are at this moment.
async fn columns(client: &Client, place: &Place) -> Result<Vec<String>, StoreError> {
    let sql = "select attname::text from pg_catalog.pg_attribute \
         where attrelid = $1::text::regclass and attnum > 0 and not attisdropped";
    let tenants = place.tenants();
    let rows = client.query_typed(sql, &[(&tenants, Type::TEXT)]).await;
    let rows = rows.map_err(|error| store_error(&error))?;
    let names = rows.iter().map(|row| row.try_get(0));
    names
        .collect::<Result<_, _>>()
        .map_err(|error| store_error(&error))
}

/// Forgets a tenant. False when there was none.
pub(super) async fn delete(
    client: &Client,
    place: &Place,
    external_id: &str,
) -> Result<bool, StoreError> {
    let sql = format!(
        "with gone as (delete from {} where tenant_external_id = $1) delete from {} where external_id = $1",
        place.extensions(),
        place.tenants()
    );
    let outcome = client
        .execute_typed(&sql, &[(&external_id, Type::TEXT)])
        .await;
    outcome
        .map(|rows| rows > 0)
        .map_err(|error| store_error(&error))
}

/// The flag of this name. None where it is not stored, and where there is no table of flags yet.
pub(super) async fn flag(
    client: &Client,
    place: &Place,
    name: &str,
) -> Result<Option<Flag>, StoreError> {
    let sql = format!(
        "select to_jsonb(f)::text from {} f where f.name = $1",
        place.flags()
    );
    let rows = match client.query_typed(&sql, &[(&name, Type::TEXT)]).await {
        Ok(rows) => rows,
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(None),
        Err(error) => return Err(store_error(&error)),
    };
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let text: &str = row.try_get(0).map_err(|error| store_error(&error))?;
    let flag: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    let percentage = flag.get("rollout_percentage").and_then(Value::as_i64);
    Ok(Some(Flag {
        enabled: flag.get("enabled").and_then(Value::as_bool) == Some(true),
        rollout_percentage: percentage
            .and_then(|percentage| i32::try_from(percentage).ok())
            .unwrap_or(100),
        bucket_key: flag
            .get("bucket_key")
            .and_then(Value::as_str)
            .map(str::to_owned),
    }))
}

/// Turns a flag on for all tenants, as the original's seed does. Nothing where there is no table of flags.
pub(super) async fn enable_flag(
    client: &Client,
    place: &Place,
    name: &str,
) -> Result<(), StoreError> {
    let sql = format!(
        "insert into {} as f (id, name, enabled, inserted_at, updated_at) \
         values ($1, $2, true, now() at time zone 'UTC', now() at time zone 'UTC') \
         on conflict (name) do update set enabled = true, updated_at = excluded.updated_at where not f.enabled",
        place.flags()
    );
    let id = Uuid::new_v4();
    let outcome = client
        .execute_typed(&sql, &[(&id, Type::UUID), (&name, Type::TEXT)])
        .await;
    match outcome {
        Err(error) if error.code() != Some(&SqlState::UNDEFINED_TABLE) => Err(store_error(&error)),
        _ => Ok(()),
    }
}

/// What we write of a tenant, where it exists.
const COLUMNS: [&str; 23] = [
    "id",
    "name",
    "external_id",
    "jwt_secret",
    "jwt_jwks",
    "max_concurrent_users",
    "max_events_per_second",
    "max_joins_per_second",
    "max_channels_per_client",
    "max_bytes_per_second",
    "max_presence_events_per_second",
    "max_payload_size_in_kb",
    "max_client_presence_events_per_window",
    "client_presence_window_ms",
    "presence_enabled",
    "suspend",
    "private_only",
    "postgres_cdc_default",
    "broadcast_adapter",
    "feature_flags",
    "migrations_ran",
    "inserted_at",
    "updated_at",
];

fn tenant_json(record: &TenantRecord) -> String {
    let stored = record.at_rest();
    json!({
        "id": stored.id,
        "name": stored.name,
        "external_id": stored.external_id,
        "jwt_secret": stored.jwt_secret,
        "jwt_jwks": stored.jwt_jwks,
        "max_concurrent_users": stored.max_concurrent_users,
        "max_events_per_second": stored.max_events_per_second,
        "max_joins_per_second": stored.max_joins_per_second,
        "max_channels_per_client": stored.max_channels_per_client,
        "max_bytes_per_second": stored.max_bytes_per_second,
        "max_presence_events_per_second": stored.max_presence_events_per_second,
        "max_payload_size_in_kb": stored.max_payload_size_in_kb,
        "max_client_presence_events_per_window": stored.max_client_presence_events_per_window,
        "client_presence_window_ms": stored.client_presence_window_ms,
        "presence_enabled": stored.presence_enabled,
        "suspend": stored.suspend,
        "private_only": stored.private_only,
        "postgres_cdc_default": stored.postgres_cdc_default,
        "broadcast_adapter": stored.broadcast_adapter,
        "feature_flags": stored.feature_flags,
        "migrations_ran": stored.migrations_ran,
        "inserted_at": timestamp(stored.inserted_at),
        "updated_at": timestamp(stored.updated_at),
    })
    .to_string()
}

fn extensions_json(record: &TenantRecord) -> String {
    let row = |extension: &ExtensionRecord| {
        json!({
            "id": Uuid::new_v4().to_string(),
            "type": extension.kind,
            "settings": extension.at_rest(),
            "inserted_at": timestamp(extension.inserted_at),
            "updated_at": timestamp(extension.updated_at),
        })
    };
    Value::Array(record.extensions.iter().map(row).collect()).to_string()
}

fn stored(row: &Row, cipher: &Cipher) -> Result<Stored, StoreError> {
    let read = || -> Result<_, tokio_postgres::Error> {
        let texts: (String, &str) = (row.try_get(0)?, row.try_get(1)?);
        let times: (Option<i64>, Option<i64>) = (row.try_get(2)?, row.try_get(3)?);
        let more: (&str, String) = (row.try_get(4)?, row.try_get(5)?);
        Ok((texts, times, more))
    };
    let ((external_id, tenant), times, (extensions, version)) =
        read().map_err(|error| store_error(&error))?;
    let broken = |error: serde_json::Error| StoreError::Record {
        external_id: external_id.clone(),
        error: error.to_string(),
    };
    let tenant: Map<String, Value> = serde_json::from_str(tenant).map_err(broken)?;
    let extensions: Vec<Value> = serde_json::from_str(extensions).map_err(broken)?;
    let times = (times.0.unwrap_or(0), times.1.unwrap_or(0));
    let mut record = record_of(&tenant, &extensions, times);
    record.version = Version::of(version.clone());
    let opened = cipher.open_record(&mut record);
    let is_gcm_migrated = tenant.get("gcm_migrated_at") != Some(&Value::Null);
    Ok(Stored {
        record: match opened {
            Ok(()) => Ok(record),
            Err(error) => Err(StoreError::Secret {
                external_id: external_id.clone(),
                error,
            }),
        },
        external_id,
        version,
        is_gcm_migrated,
    })
}

/// A row as a record whose secrets are still encrypted. What is not there, or null, has the default of the newest schema.
fn record_of(
    tenant: &Map<String, Value>,
    extensions: &[Value],
    (inserted_at, updated_at): (i64, i64),
) -> TenantRecord {
    let text = |name: &str| tenant.get(name).and_then(Value::as_str).map(str::to_owned);
    let optional = |name: &str| {
        let number = tenant.get(name).and_then(Value::as_i64);
        number.and_then(|number| i32::try_from(number).ok())
    };
    let number = |name: &str, default| optional(name).unwrap_or(default);
    let flag = |name: &str| tenant.get(name).and_then(Value::as_bool) == Some(true);
    let external_id = text("external_id").unwrap_or_default();
    TenantRecord {
        id: text("id").unwrap_or_default(),
        name: text("name").unwrap_or_else(|| external_id.clone()),
        external_id,
        jwt_secret: text("jwt_secret"),
        jwt_jwks: tenant
            .get("jwt_jwks")
            .filter(|keys| !keys.is_null())
            .cloned(),
        max_concurrent_users: number("max_concurrent_users", 200),
        max_events_per_second: number("max_events_per_second", 100),
        max_joins_per_second: number("max_joins_per_second", 500),
        max_channels_per_client: number("max_channels_per_client", 100),
        max_bytes_per_second: number("max_bytes_per_second", 100_000),
        max_presence_events_per_second: number("max_presence_events_per_second", 1000),
        max_payload_size_in_kb: number("max_payload_size_in_kb", 3000),
        max_client_presence_events_per_window: optional("max_client_presence_events_per_window"),
        client_presence_window_ms: optional("client_presence_window_ms"),
        presence_enabled: flag("presence_enabled"),
        suspend: flag("suspend"),
        private_only: flag("private_only"),
        postgres_cdc_default: text("postgres_cdc_default")
            .unwrap_or_else(|| TenantRecord::POSTGRES_CDC.to_owned()),
        broadcast_adapter: match text("broadcast_adapter").as_deref() {
            Some("phoenix") => BroadcastAdapter::Phoenix,
            _ => BroadcastAdapter::GenRpc,
        },
        feature_flags: tenant
            .get("feature_flags")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default(),
        migrations_ran: number("migrations_ran", 0),
        extensions: extensions.iter().filter_map(extension_of).collect(),
        inserted_at,
        updated_at,
        sealed: Sealed::default(),
        version: Version::default(),
    }
}

/// An extension as [`select`] builds it: type, settings, two times.
fn extension_of(row: &Value) -> Option<ExtensionRecord> {
    let time = |index: usize| row.get(index).and_then(Value::as_i64).unwrap_or(0);
    Some(ExtensionRecord {
        kind: row.get(0)?.as_str()?.to_owned(),
        settings: row
            .get(1)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default(),
        inserted_at: time(2),
        updated_at: time(3),
        sealed: Sealed::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_row_has_the_defaults_of_the_table() {
        let row = json!({"id": "i", "external_id": "t", "jwt_secret": null, "suspend": null, "unknown": 1});
        let record = record_of(row.as_object().unwrap(), &[], (1, 2));
        assert_eq!(
            (record.name.as_str(), record.external_id.as_str()),
            ("t", "t")
        );
        assert_eq!(
            (record.max_joins_per_second, record.max_payload_size_in_kb),
            (500, 3000)
        );
        assert!(!record.suspend && record.jwt_secret.is_none() && record.feature_flags.is_empty());
        assert_eq!(record.broadcast_adapter, BroadcastAdapter::GenRpc);
        assert_eq!((record.inserted_at, record.updated_at), (1, 2));
    }
}
