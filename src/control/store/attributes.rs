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
const TAKEN: &str = "has already been taken";
/// The words of the original's library for a text of more than [`limits::TENANT_NAME_BYTES_MAX`].
const LONG: &str = "should be at most 255 character(s)";
const _: () = assert!(limits::TENANT_NAME_BYTES_MAX == 255, "as the text says");

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

/// The limits that the environment has defaults for. Null, and a text that is blank, are no limits of a new tenant: it gets the
/// defaults, which a tenant that is there does not (spec: http-api 3.4).
const DEFAULTED: [&str; 5] = [
    "max_bytes_per_second",
    "max_channels_per_client",
    "max_concurrent_users",
    "max_events_per_second",
    "max_joins_per_second",
];

/// `attributes` of a new tenant, without those that its defaults stand for.
#[must_use]
pub fn of_new(attributes: &Map<String, Value>) -> Map<String, Value> {
    let mut attributes = attributes.clone();
    for name in DEFAULTED {
        if attributes
            .get(name)
            .is_some_and(|value| value.is_null() || is_blank(value))
        {
            attributes.remove(name);
        }
    }
    attributes
}

/// Whether a store can hold this name. PostgreSQL has no text with a zero in it.
#[must_use]
pub fn is_storable(external_id: &str) -> bool {
    !external_id.is_empty() && !external_id.contains('\0')
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

/// Whether PostgreSQL's `numeric` can hold it. Numbers are as they were written, with every digit.
fn is_storable_number(number: &Number) -> bool {
    let text = number.to_string();
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let fraction = digits.split_once('.').map_or(0, |(_, digits)| digits.len());
    let bound = limits::TENANT_NUMBER_FRACTION_DIGITS_MAX;
    let exponent = exponent.parse::<i64>().ok();
    let exponent = exponent.filter(|exponent| (-bound..=bound).contains(exponent));
    let fits = |exponent| i64::try_from(fraction).is_ok_and(|digits| digits - exponent <= bound);
    exponent.is_some_and(fits) && number.as_f64().is_some_and(f64::is_finite)
}

/// One attribute. Null in a column that may be null is the default that such a row is read with; the original stores the null.
fn apply_one(
    record: &mut TenantRecord,
    attribute: &str,
    value: &Value,
    now: i64,
) -> Result<(), Value> {
    match attribute {
        "external_id" => set(&mut record.external_id, required(name(value))),
        "name" => set(
            &mut record.name,
            text(value).map(|name| name.unwrap_or_else(|| record.external_id.clone())),
        ),
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
            or(integer(value), TenantRecord::PRESENCE_EVENTS_PER_SECOND),
        ),
        "max_payload_size_in_kb" => set(
            &mut record.max_payload_size_in_kb,
            or(integer(value), TenantRecord::PAYLOAD_SIZE_IN_KB),
        ),
        "max_client_presence_events_per_window" => set(
            &mut record.max_client_presence_events_per_window,
            integer(value),
        ),
        "client_presence_window_ms" => set(&mut record.client_presence_window_ms, integer(value)),
        "presence_enabled" => set(&mut record.presence_enabled, unless_blank(value, boolean)),
        "suspend" => set(&mut record.suspend, or(boolean(value), false)),
        "private_only" => set(&mut record.private_only, unless_blank(value, boolean)),
        "postgres_cdc_default" => set(
            &mut record.postgres_cdc_default,
            or(text(value), TenantRecord::POSTGRES_CDC.to_owned()),
        ),
        "broadcast_adapter" => set(
            &mut record.broadcast_adapter,
            or(adapter(value), BroadcastAdapter::GenRpc),
        ),
        "feature_flags" => set(&mut record.feature_flags, unless_blank(value, object)),
        "migrations_ran" => set(&mut record.migrations_ran, or(integer(value), 0)),
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

/// What must not be null; a blank text, which a form sends for a field that nobody has filled, is the default.
fn unless_blank<T: Default>(
    value: &Value,
    cast: impl Fn(&Value) -> Cast<T>,
) -> Result<T, &'static str> {
    if is_blank(value) {
        Ok(T::default())
    } else {
        required(cast(value))
    }
}

fn is_blank(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.trim().is_empty())
}

fn or<T>(cast: Cast<T>, default: T) -> Result<T, &'static str> {
    Ok(cast?.unwrap_or(default))
}

fn text(value: &Value) -> Cast<String> {
    match value {
        Value::Null => Ok(None),
        _ if is_blank(value) => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(INVALID),
    }
}

/// A text that stands in an index of the control database.
fn name(value: &Value) -> Cast<String> {
    let name = text(value)?;
    if name
        .as_ref()
        .is_some_and(|name| name.len() > limits::TENANT_NAME_BYTES_MAX)
    {
        return Err(LONG);
    }
    Ok(name)
}

/// Numbers may come as strings, since forms have nothing else.
fn integer(value: &Value) -> Cast<i32> {
    match value {
        Value::Null => Ok(None),
        _ if is_blank(value) => Ok(None),
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
        _ if is_blank(value) => Ok(None),
        Value::String(text) => match text.as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(INVALID),
        },
        _ => Err(INVALID),
    }
}

fn object(value: &Value) -> Cast<Map<String, Value>> {
    match value {
        Value::Null => Ok(None),
        _ if is_blank(value) => Ok(None),
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
    let given = |key| entry.get(key).unwrap_or(&Value::Null);
    let (kind, given) = match (
        required(name(given("type"))),
        required(object(given("settings"))),
    ) {
        (Ok(kind), Ok(settings)) => (kind, settings),
        (kind, settings) => {
            let mut errors = Map::new();
            for (key, error) in [("type", kind.err()), ("settings", settings.err())] {
                if let Some(text) = error {
                    errors.insert(key.to_owned(), json!([text]));
                }
            }
            return Err(errors.into());
        }
    };
    let kind = if kind == "postgres" {
        TenantRecord::POSTGRES_CDC.to_owned()
    } else {
        kind
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
            json!({"private_only": null}),
            r#"{"private_only":["can't be blank"]}"#,
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
            json!({"extensions": [{}, {"settings": 5}]}),
            r#"{"extensions":[{"settings":["can't be blank"],"type":["can't be blank"]},{"settings":["is invalid"],"type":["can't be blank"]}]}"#,
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
        let (fits, long) = ("x".repeat(255), "x".repeat(256));
        check(
            json!({"external_id": long}),
            r#"{"external_id":["should be at most 255 character(s)"]}"#,
        );
        check(
            json!({"extensions": [{"type": long, "settings": {}}, {"type": fits, "settings": {}}]}),
            r#"{"extensions":[{"type":["should be at most 255 character(s)"]},{}]}"#,
        );
        assert!(applied(&json!({"jwt_secret": "s", "external_id": fits})).is_ok());
        assert_eq!(
            applied(&json!({})).unwrap_err(),
            r#"{"jwt_secret":["either jwt_secret or jwt_jwks must be provided"]}"#
        );
    }

    #[test]
    fn null_in_a_column_that_may_be_null_is_its_default() {
        let nullable = json!({
            "suspend": null, "name": null, "broadcast_adapter": null, "migrations_ran": null, "postgres_cdc_default": null,
            "max_presence_events_per_second": null, "max_payload_size_in_kb": null,
        });
        let mut record = TenantRecord::new("t", &TEST_DEFAULTS, 1);
        record.jwt_secret = Some("s".to_owned());
        let expected = record.clone();
        record.suspend = true;
        record.name = "n".to_owned();
        record.broadcast_adapter = BroadcastAdapter::Phoenix;
        record.migrations_ran = 7;
        record.postgres_cdc_default = "other".to_owned();
        record.max_presence_events_per_second = 7;
        record.max_payload_size_in_kb = 7;
        apply(&mut record, nullable.as_object().unwrap(), 1).unwrap();
        assert!(record == expected);
    }

    #[test]
    fn blank_texts_are_defaults() {
        let mut record = TenantRecord::new("t", &TEST_DEFAULTS, 1);
        record.jwt_secret = Some("s".to_owned());
        let expected = record.clone();
        (record.private_only, record.presence_enabled) = (true, true);
        record.jwt_jwks = Some(json!({"keys": []}));
        record.feature_flags.insert("f".to_owned(), json!(true));
        let blank = json!({"private_only": "", "presence_enabled": " ", "feature_flags": "", "jwt_jwks": ""});
        apply(&mut record, blank.as_object().unwrap(), 1).unwrap();
        assert!(record == expected);
    }

    #[test]
    fn numbers_that_postgresql_cannot_hold_are_invalid() {
        let check = |number: &str, is_storable| {
            let number: Value = serde_json::from_str(number).unwrap();
            assert_eq!(is_storable_value(&json!([number])), is_storable, "{number}");
        };
        let digits = |count: usize| format!("0.{}1", "0".repeat(count - 1));
        check("1e300", true);
        check("1e309", false);
        check("-1.5E-16382", true);
        check("-1.5E-16383", false);
        check("1e-16383", true);
        check("1e-16384", false);
        check("0e-20000", false);
        check("0e99999999999999999999", false);
        check("0e16383", true);
        check("0e16384", false);
        check(&digits(16_383), true);
        check(&digits(16_384), false);
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
