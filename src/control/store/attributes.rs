//! A description of a tenant from outside to a record: casting and validation (spec: http-api 3.4, control-database 3).

use super::cipher::Sealed;
use super::record::{BroadcastAdapter, ExtensionRecord, TenantRecord};
use crate::limits;
use serde_json::{Map, Number, Value, json};
use std::collections::HashSet;

/// What is wrong with which field, as the management API answers it: `{"external_id":["can't be blank"]}`.
pub type FieldErrors = Map<String, Value>;

const BLANK: &str = "can't be blank";
const INVALID: &str = "is invalid";
const TOO_LONG: &str = "should be at most 255 character(s)";
const _: () = assert!(limits::TENANT_NAME_BYTES_MAX == 255, "the text says so");
const TAKEN: &str = "has already been taken";

/// Changes `record` as `attributes` say; what they do not mention stays, and names that are no attribute are ignored. `now` in
/// Unix seconds.
///
/// # Errors
///
/// One entry per field that is wrong. The record is then half changed: the caller throws it away.
pub fn apply(
    record: &mut TenantRecord,
    attributes: &Map<String, Value>,
    now: i64,
) -> Result<(), FieldErrors> {
    let mut errors = FieldErrors::new();
    for (name, value) in attributes {
        let applied = if is_storable_value(value) {
            apply_one(record, name, value, now)
        } else if TenantRecord::ATTRIBUTES.contains(&name.as_str()) {
            Err(json!([INVALID]))
        } else {
            Ok(())
        };
        if let Err(error) = applied {
            errors.insert(name.clone(), error);
        }
    }
    if record.external_id.trim().is_empty() {
        errors
            .entry("external_id")
            .or_insert_with(|| json!([BLANK]));
    }
    if errors.is_empty() && record.jwt_secret.is_none() && record.jwt_jwks.is_none() {
        errors.insert(
            "jwt_secret".to_owned(),
            json!(["either jwt_secret or jwt_jwks must be provided"]),
        );
    }
    record.updated_at = now;
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

/// Whether a store can hold this name. PostgreSQL has no text with a zero in it, and an index has no room for a long one.
#[must_use]
pub fn is_storable(external_id: &str) -> bool {
    let is_short = external_id.len() <= limits::TENANT_NAME_BYTES_MAX;
    is_short && !external_id.is_empty() && !external_id.contains('\0')
}

/// Whether a store can hold this value: its texts, and its numbers, which PostgreSQL bounds.
fn is_storable_value(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => true,
        Value::Number(number) => is_storable_number(number),
        Value::String(text) => !text.contains('\0'),
        Value::Array(list) => list.iter().all(is_storable_value),
        Value::Object(object) => object
            .iter()
            .all(|(name, value)| !name.contains('\0') && is_storable_value(value)),
    }
}

/// Whether PostgreSQL's `numeric` has this number: a double's range before the point, and so many digits behind it.
fn is_storable_number(number: &Number) -> bool {
    let text = number.to_string();
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let places = digits.split_once('.').map_or(0, |(_, places)| places.len());
    let bound = i64::try_from(limits::NUMBER_SCALE_MAX).expect("it is small");
    let places = i64::try_from(places).unwrap_or(i64::MAX);
    let is_in_bounds = |exponent: i64| {
        exponent.saturating_abs() <= bound && places.saturating_sub(exponent) <= bound
    };
    number.as_f64().is_some_and(f64::is_finite) && exponent.parse().is_ok_and(is_in_bounds)
}

/// One attribute.
fn apply_one(record: &mut TenantRecord, name: &str, value: &Value, now: i64) -> Result<(), Value> {
    match name {
        "external_id" => set(
            &mut record.external_id,
            required(text(value)).and_then(short),
        ),
        "name" => set(&mut record.name, required(text(value))),
        "jwt_secret" => set(&mut record.jwt_secret, text(value)),
        "jwt_jwks" => set(
            &mut record.jwt_jwks,
            object(value).map(|keys| keys.map(Value::Object)),
        ),
        "max_concurrent_users" => set(&mut record.max_concurrent_users, required(integer(value))),
        "max_events_per_second" => set(&mut record.max_events_per_second, required(integer(value))),
        "max_joins_per_second" => set(&mut record.max_joins_per_second, required(integer(value))),
        "max_channels_per_client" => set(
            &mut record.max_channels_per_client,
            required(integer(value)),
        ),
        "max_bytes_per_second" => set(&mut record.max_bytes_per_second, required(integer(value))),
        "max_presence_events_per_second" => set(
            &mut record.max_presence_events_per_second,
            required(integer(value)),
        ),
        "max_payload_size_in_kb" => {
            set(&mut record.max_payload_size_in_kb, required(integer(value)))
        }
        "max_client_presence_events_per_window" => set(
            &mut record.max_client_presence_events_per_window,
            integer(value),
        ),
        "client_presence_window_ms" => set(&mut record.client_presence_window_ms, integer(value)),
        "presence_enabled" => set(&mut record.presence_enabled, required(boolean(value))),
        "suspend" => set(&mut record.suspend, required(boolean(value))),
        "private_only" => set(&mut record.private_only, required(boolean(value))),
        "postgres_cdc_default" => set(&mut record.postgres_cdc_default, required(text(value))),
        "broadcast_adapter" => set(&mut record.broadcast_adapter, required(adapter(value))),
        "feature_flags" => set(&mut record.feature_flags, required(object(value))),
        "migrations_ran" => set(&mut record.migrations_ran, required(integer(value))),
        "extensions" => {
            record.extensions = extensions(value, now)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A value that was cast: nothing where the input is null or blank.
type Cast<T> = Result<Option<T>, &'static str>;

fn set<T>(field: &mut T, cast: Result<T, &'static str>) -> Result<(), Value> {
    *field = cast.map_err(|text| json!([text]))?;
    Ok(())
}

fn required<T>(cast: Cast<T>) -> Result<T, &'static str> {
    cast?.ok_or(BLANK)
}

fn text(value: &Value) -> Cast<String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(INVALID),
    }
}

/// A text that an index has room for.
fn short(text: String) -> Result<String, &'static str> {
    if text.len() > limits::TENANT_NAME_BYTES_MAX {
        return Err(TOO_LONG);
    }
    Ok(text)
}

/// Numbers may come as strings, since forms have nothing else.
fn integer(value: &Value) -> Cast<i32> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => text.parse().map(Some).map_err(|_| INVALID),
        Value::Number(number) => number
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
            .map(Some)
            .ok_or(INVALID),
        _ => Err(INVALID),
    }
}

fn boolean(value: &Value) -> Cast<bool> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(value) => Ok(Some(*value)),
        Value::String(text) => match text.as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            text if text.trim().is_empty() => Ok(None),
            _ => Err(INVALID),
        },
        _ => Err(INVALID),
    }
}

fn object(value: &Value) -> Cast<Map<String, Value>> {
    match value {
        Value::Null => Ok(None),
        Value::Object(object) => Ok(Some(object.clone())),
        _ => Err(INVALID),
    }
}

fn adapter(value: &Value) -> Cast<BroadcastAdapter> {
    match text(value)?.as_deref() {
        None => Ok(None),
        Some("phoenix") => Ok(Some(BroadcastAdapter::Phoenix)),
        Some("gen_rpc") => Ok(Some(BroadcastAdapter::GenRpc)),
        Some(_) => Err(INVALID),
    }
}

/// The settings that the extension of a database cannot do without, in the order in which the original complains.
const REQUIRED_SETTINGS: [&str; 6] = [
    "db_password",
    "db_user",
    "db_name",
    "db_port",
    "db_host",
    "region",
];

fn extensions(value: &Value, now: i64) -> Result<Vec<ExtensionRecord>, Value> {
    let list = value.as_array().ok_or_else(|| json!([INVALID]))?;
    let parsed: Vec<Result<ExtensionRecord, Value>> = list
        .iter()
        .map(|entry| entry.as_object().map(|entry| extension(entry, now)))
        .collect::<Option<_>>()
        .ok_or_else(|| json!([INVALID]))?;
    // A tenant has one of each type at most.
    let mut kinds = HashSet::new();
    let parsed: Vec<_> = parsed
        .into_iter()
        .map(|entry| match entry {
            Ok(entry) if !kinds.insert(entry.kind.clone()) => Err(json!({"type": [TAKEN]})),
            entry => entry,
        })
        .collect();
    if parsed.iter().any(Result::is_err) {
        // The answer is aligned with the input: an entry that is right is an empty object.
        return Err(parsed
            .into_iter()
            .map(|entry| entry.err().unwrap_or_else(|| json!({})))
            .collect());
    }
    Ok(parsed.into_iter().filter_map(Result::ok).collect())
}

fn extension(entry: &Map<String, Value>, now: i64) -> Result<ExtensionRecord, Value> {
    let kind = match text(entry.get("type").unwrap_or(&Value::Null)) {
        Ok(Some(kind)) if kind == "postgres" => TenantRecord::POSTGRES_CDC.to_owned(),
        Ok(Some(kind)) => short(kind).map_err(|text| json!({"type": [text]}))?,
        Ok(None) => return Err(json!({"type": [BLANK]})),
        Err(text) => return Err(json!({"type": [text]})),
    };
    let given = match object(entry.get("settings").unwrap_or(&Value::Null)) {
        Ok(Some(settings)) => settings,
        Ok(None) => return Err(json!({"settings": [BLANK]})),
        Err(text) => return Err(json!({"settings": [text]})),
    };
    let settings = if kind == TenantRecord::POSTGRES_CDC {
        cdc_settings(given)?
    } else {
        given
    };
    Ok(ExtensionRecord {
        kind,
        settings,
        inserted_at: now,
        updated_at: now,
        sealed: Sealed::default(),
    })
}

/// The extension of a database with these settings, and the defaults of all others. `now` in Unix seconds.
///
/// # Errors
///
/// As for the settings of an extension in [`apply`].
pub fn database_extension(given: Map<String, Value>, now: i64) -> Result<ExtensionRecord, Value> {
    Ok(ExtensionRecord {
        kind: TenantRecord::POSTGRES_CDC.to_owned(),
        settings: cdc_settings(given)?,
        inserted_at: now,
        updated_at: now,
        sealed: Sealed::default(),
    })
}

/// The settings of a database, with what is set when nothing is said.
fn cdc_settings(given: Map<String, Value>) -> Result<Map<String, Value>, Value> {
    let mut settings = Map::new();
    settings.insert("poll_interval_ms".to_owned(), json!(100));
    settings.insert("poll_max_changes".to_owned(), json!(100));
    settings.insert("poll_max_record_bytes".to_owned(), json!(1_048_576));
    settings.insert("publication".to_owned(), json!("supabase_realtime"));
    settings.insert(
        "slot_name".to_owned(),
        json!("supabase_realtime_replication_slot"),
    );
    settings.extend(given);
    // Parity: stored and shown under the original's misspelling, which wins over a value given under it (spec: http-api 3.4).
    if let Some(pool) = settings.remove("postgres_changes_pool") {
        settings.insert("subcriber_pool_size".to_owned(), pool);
    }
    let wrong: Vec<String> = REQUIRED_SETTINGS
        .iter()
        .filter_map(|name| match settings.get(*name) {
            None | Some(Value::Null) => Some(format!("{name} {BLANK}")),
            Some(Value::String(_)) => None,
            Some(_) => Some(format!("{name} {INVALID}")),
        })
        .collect();
    if wrong.is_empty() {
        Ok(settings)
    } else {
        Err(json!({"settings": wrong}))
    }
}

#[cfg(test)]
mod tests {
    use super::super::TEST_DEFAULTS;
    use super::*;

    fn applied(attributes: &Value) -> Result<TenantRecord, String> {
        let mut record = TenantRecord::new("t", &TEST_DEFAULTS, 1);
        apply(&mut record, attributes.as_object().unwrap(), 2)
            .map(|()| record)
            .map_err(|errors| Value::Object(errors).to_string())
    }

    #[test]
    fn every_cause_has_its_text() {
        let check = |attributes: Value, expected: &str| {
            let mut attributes = attributes;
            attributes
                .as_object_mut()
                .unwrap()
                .entry("jwt_secret")
                .or_insert(json!("s"));
            assert_eq!(applied(&attributes).unwrap_err(), expected, "{attributes}");
        };
        check(
            json!({"external_id": null}),
            r#"{"external_id":["can't be blank"]}"#,
        );
        check(
            json!({"external_id": " "}),
            r#"{"external_id":["can't be blank"]}"#,
        );
        check(
            json!({"external_id": 5}),
            r#"{"external_id":["is invalid"]}"#,
        );
        check(
            json!({"max_concurrent_users": "x"}),
            r#"{"max_concurrent_users":["is invalid"]}"#,
        );
        check(
            json!({"max_concurrent_users": 1.5}),
            r#"{"max_concurrent_users":["is invalid"]}"#,
        );
        check(
            json!({"max_concurrent_users": 3_000_000_000_u32}),
            r#"{"max_concurrent_users":["is invalid"]}"#,
        );
        check(
            json!({"max_concurrent_users": null}),
            r#"{"max_concurrent_users":["can't be blank"]}"#,
        );
        check(
            json!({"private_only": "yes"}),
            r#"{"private_only":["is invalid"]}"#,
        );
        check(
            json!({"private_only": 1}),
            r#"{"private_only":["is invalid"]}"#,
        );
        check(
            json!({"suspend": null}),
            r#"{"suspend":["can't be blank"]}"#,
        );
        check(json!({"jwt_jwks": []}), r#"{"jwt_jwks":["is invalid"]}"#);
        check(
            json!({"broadcast_adapter": "pg2"}),
            r#"{"broadcast_adapter":["is invalid"]}"#,
        );
        check(
            json!({"extensions": {}}),
            r#"{"extensions":["is invalid"]}"#,
        );
        check(
            json!({"extensions": ["x"]}),
            r#"{"extensions":["is invalid"]}"#,
        );
        check(
            json!({"extensions": [{"settings": {}}]}),
            r#"{"extensions":[{"type":["can't be blank"]}]}"#,
        );
        check(
            json!({"extensions": [{"type": "postgres"}]}),
            r#"{"extensions":[{"settings":["can't be blank"]}]}"#,
        );
        check(
            json!({"extensions": [{"type": "other", "settings": {}}, {"type": "postgres", "settings": {"db_port": 5, "region": "r",
                "db_host": "h", "db_name": "n", "db_user": "u"}}]}),
            r#"{"extensions":[{},{"settings":["db_password can't be blank","db_port is invalid"]}]}"#,
        );
        let cdc = json!({"type": "postgres", "settings": {"region": "r", "db_host": "h", "db_port": "5", "db_name": "n", "db_user": "u",
            "db_password": "p"}});
        check(
            json!({"extensions": [cdc, cdc]}),
            r#"{"extensions":[{},{"type":["has already been taken"]}]}"#,
        );
        check(json!({"name": "a\0"}), r#"{"name":["is invalid"]}"#);
        check(
            json!({"feature_flags": {"a": [{"\0": 1}]}}),
            r#"{"feature_flags":["is invalid"]}"#,
        );
        let huge: Value = serde_json::from_str("1e999").unwrap();
        check(
            json!({"jwt_jwks": {"keys": [huge]}}),
            r#"{"jwt_jwks":["is invalid"]}"#,
        );
        for number in [
            "1e-20000",
            "-1.5E-16383",
            "0e20000",
            "1e-99999999999999999999",
        ] {
            let number: Value = serde_json::from_str(number).unwrap();
            check(
                json!({"feature_flags": {"a": number}}),
                r#"{"feature_flags":["is invalid"]}"#,
            );
        }
        check(
            json!({"external_id": "x".repeat(256)}),
            r#"{"external_id":["should be at most 255 character(s)"]}"#,
        );
        check(
            json!({"extensions": [{"type": "x".repeat(256), "settings": {}}]}),
            r#"{"extensions":[{"type":["should be at most 255 character(s)"]}]}"#,
        );
        assert_eq!(
            applied(&json!({})).unwrap_err(),
            r#"{"jwt_secret":["either jwt_secret or jwt_jwks must be provided"]}"#
        );
    }

    #[test]
    fn what_is_as_large_as_it_may_be_is_taken() {
        let number = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let record = applied(&json!({
            "jwt_secret": "s", "external_id": "x".repeat(255),
            "extensions": [{"type": "x".repeat(255), "settings": {}}],
            "feature_flags": {"a": number("1e-16383"), "b": number("1.5e300"), "c": number("0E+16383")}
        }));
        assert!(record.is_ok(), "{record:?}");
    }

    #[test]
    fn forms_of_numbers_and_booleans_are_cast() {
        let record = applied(&json!({
            "jwt_jwks": {"keys": []}, "max_events_per_second": "7", "max_joins_per_second": 8, "private_only": "1",
            "presence_enabled": "false", "client_presence_window_ms": null, "unknown": "\0"
        }))
        .unwrap();
        assert_eq!(
            (record.max_events_per_second, record.max_joins_per_second),
            (7, 8)
        );
        assert!(
            record.private_only
                && !record.presence_enabled
                && record.client_presence_window_ms.is_none()
        );
        assert_eq!((record.inserted_at, record.updated_at), (1, 2));
    }

    #[test]
    fn postgres_extension_is_rewritten_and_completed() {
        let settings = json!({"db_host": "h", "db_port": "1", "db_name": "n", "db_user": "u", "db_password": "p", "region": "r",
            "postgres_changes_pool": 9, "poll_interval_ms": 5});
        let record = applied(
            &json!({"jwt_secret": "s", "extensions": [{"type": "postgres", "settings": settings}]}),
        )
        .unwrap();
        assert!(record.has_database());
        let settings = &record.extensions[0].settings;
        assert_eq!(record.extensions[0].kind, "postgres_cdc_rls");
        assert_eq!(
            (
                &settings["subcriber_pool_size"],
                &settings["poll_interval_ms"]
            ),
            (&json!(9), &json!(5))
        );
        assert_eq!(settings["publication"], "supabase_realtime");
        assert!(!settings.contains_key("postgres_changes_pool"));
    }
}
