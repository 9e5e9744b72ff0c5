//! Secrets that were stored in the legacy format, encrypted anew (spec: control-database 4.2, backfill).
//!
//! What comes in: the external id of a tenant. What goes out: whether all of its secrets are in the current format now. What always
//! holds: a secret is replaced only where it still is what was read, so a change by somebody else is never taken back; nothing but
//! secrets and the note changes, not even the time of the last change. Deliberately absent: whether it is wanted.

use super::rows::store_error;
use super::schema::Place;
use crate::control::store::{Cipher, ExtensionRecord, FieldError, StoreError, TenantRecord};
use serde_json::{Map, Value};
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

/// Encrypts the secrets of a tenant anew, and notes it when all of them are. False when somebody else changed them meanwhile, or there is
/// no such tenant.
///
/// # Errors
///
/// [`StoreError`]: a secret cannot be decrypted, or the database says no.
pub(super) async fn encrypt_anew(
    client: &Client,
    place: &Place,
    cipher: &Cipher,
    external_id: &str,
) -> Result<bool, StoreError> {
    let sql = format!(
        "select id, jwt_secret from {} where external_id = $1 and gcm_migrated_at is null",
        place.tenants()
    );
    let failed = |error: tokio_postgres::Error| store_error(&error);
    let secret = |field, error| StoreError::Secret {
        external_id: external_id.to_owned(),
        error: FieldError { field, error },
    };
    let rows = client
        .query_typed(&sql, &[(&external_id, Type::TEXT)])
        .await;
    let rows = rows.map_err(failed)?;
    let Some(row) = rows.first() else {
        return Ok(false);
    };
    let id: Uuid = row.try_get(0).map_err(failed)?;
    let old: Option<String> = row.try_get(1).map_err(failed)?;
    let mut is_complete = true;
    if let Some(old) = old.filter(|old| Cipher::is_legacy(old)) {
        let plain = cipher
            .open(&old)
            .map_err(|error| secret("jwt_secret", error))?;
        let new = cipher
            .seal(&plain)
            .map_err(|error| secret("jwt_secret", error))?;
        let sql = format!(
            "update {} set jwt_secret = $1 where id = $2 and jwt_secret = $3",
            place.tenants()
        );
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&new, Type::TEXT), (&id, Type::UUID), (&old, Type::TEXT)];
        let changed = client.execute_typed(&sql, &parameters).await;
        is_complete &= changed.map_err(failed)? == 1;
    }
    is_complete &= encrypt_settings_anew(client, place, cipher, external_id).await?;
    if is_complete {
        let sql = format!(
            "update {} set gcm_migrated_at = now() at time zone 'UTC' where id = $1",
            place.tenants()
        );
        let noted = client.execute_typed(&sql, &[(&id, Type::UUID)]).await;
        noted.map_err(failed)?;
    }
    Ok(is_complete)
}

async fn encrypt_settings_anew(
    client: &Client,
    place: &Place,
    cipher: &Cipher,
    external_id: &str,
) -> Result<bool, StoreError> {
    let failed = |error: tokio_postgres::Error| store_error(&error);
    let sql = format!(
        "select id, settings::text from {} where tenant_external_id = $1 and type = $2",
        place.extensions()
    );
    let kind = TenantRecord::POSTGRES_CDC;
    let rows = client
        .query_typed(&sql, &[(&external_id, Type::TEXT), (&kind, Type::TEXT)])
        .await;
    let mut is_complete = true;
    for row in rows.map_err(failed)? {
        let id: Uuid = row.try_get(0).map_err(failed)?;
        let old: Option<String> = row.try_get(1).map_err(failed)?;
        let Some(old) = old else { continue };
        let settings: Map<String, Value> =
            serde_json::from_str(&old).map_err(|error| StoreError::Record {
                external_id: external_id.to_owned(),
                error: error.to_string(),
            })?;
        let Some(new) = anew(settings, cipher, external_id)? else {
            continue;
        };
        let sql = format!(
            "update {} set settings = $1::text::jsonb where id = $2 and settings = $3::text::jsonb",
            place.extensions()
        );
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&new, Type::TEXT), (&id, Type::UUID), (&old, Type::TEXT)];
        let changed = client.execute_typed(&sql, &parameters).await;
        is_complete &= changed.map_err(failed)? == 1;
    }
    Ok(is_complete)
}

/// The settings with what is secret in them encrypted anew. None where nothing was in the legacy format.
fn anew(
    mut settings: Map<String, Value>,
    cipher: &Cipher,
    external_id: &str,
) -> Result<Option<String>, StoreError> {
    let mut is_another = false;
    for field in ExtensionRecord::SECRET_SETTINGS {
        let Some(Value::String(text)) = settings.get_mut(field) else {
            continue;
        };
        if Cipher::is_legacy(text) {
            let plain = cipher.open(text).and_then(|plain| cipher.seal(&plain));
            *text = plain.map_err(|error| StoreError::Secret {
                external_id: external_id.to_owned(),
                error: FieldError { field, error },
            })?;
            is_another = true;
        }
    }
    Ok(is_another.then(|| Value::Object(settings).to_string()))
}
