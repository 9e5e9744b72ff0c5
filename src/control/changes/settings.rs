//! How a tenant's row changes are read, as its extension says.
//!
//! What comes in: the settings of an extension, as they are stored. What goes out: [`ChangesSettings`], or a sentence that says which of
//! them is wrong. What always holds: the slot's name is one that PostgreSQL takes (`mistakes_are_named`). Deliberately absent: where the
//! database is; `database::Settings` knows that.

use crate::control::replication::Way;
use crate::control::tenants::Live;
use crate::limits;
use crate::tenant::TenantId;
use serde_json::{Map, Value};
use std::time::Duration;

/// See the room's documentation. Two equal settings read the same changes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChangesSettings {
    /// `publication`: what is published is told.
    pub publication: Box<str>,
    /// `slot_name`: what the slot's name begins with.
    pub slot_name: Box<str>,
    /// `poll_interval_ms`: time between two readings of a polled slot that has nothing new.
    pub poll_interval: Duration,
    /// `poll_max_changes`: a reading of a polled slot begins no further transaction after so many messages.
    pub poll_changes_max: u32,
    /// `poll_max_record_bytes`: a larger change comes without its larger values.
    pub record_bytes_max: usize,
    /// `subcriber_pool_size` (sic), or else `subs_pool_size`: connections that ask for row level security.
    pub check_connections_max: usize,
    /// `cdc_engine`, `stream` or `poll`: how the slot is read. One that cannot be streamed is polled.
    pub way: Way,
    /// `temporary_slot`: the slot ends with its connection, so that a break is a gap and nothing is kept for a server that is gone.
    pub is_slot_temporary: bool,
}

impl ChangesSettings {
    /// What a tenant that the process serves says. None where it has no database.
    #[must_use]
    pub fn in_live(live: &Live, tenant: TenantId) -> Option<Result<Self, String>> {
        live.database(tenant).map(|settings| Self::parse(settings))
    }

    /// Reads the settings of an extension.
    ///
    /// # Errors
    ///
    /// A sentence that names the first setting that is wrong.
    pub fn parse(settings: &Map<String, Value>) -> Result<Self, String> {
        let given = Given(settings);
        let pool = match given.number("subcriber_pool_size")? {
            Some(number) => Some(number),
            None => given.number("subs_pool_size")?,
        };
        let interval = given.number("poll_interval_ms")?.unwrap_or(100);
        let changes = given.number("poll_max_changes")?.unwrap_or(100);
        let bytes = given.number("poll_max_record_bytes")?;
        Ok(Self {
            publication: given.text("publication", "supabase_realtime")?.into(),
            slot_name: slot_name(given.text("slot_name", "supabase_realtime_replication_slot")?)?
                .into(),
            poll_interval: Duration::from_millis(interval).clamp(
                limits::CHANGES_POLL_INTERVAL_MIN,
                limits::CHANGES_POLL_INTERVAL_MAX,
            ),
            poll_changes_max: u32::try_from(changes)
                .unwrap_or(u32::MAX)
                .clamp(1, limits::CHANGES_POLL_MESSAGES_MAX),
            record_bytes_max: bytes.map_or(1_048_576, |bytes| {
                usize::try_from(bytes).unwrap_or(usize::MAX)
            }),
            check_connections_max: pool.map_or(4, |pool| {
                usize::try_from(pool)
                    .unwrap_or(usize::MAX)
                    .clamp(1, limits::DATABASE_POOL_CONNECTIONS_MAX)
            }),
            way: match given.text("cdc_engine", "stream")? {
                "stream" => Way::Stream,
                "poll" => Way::Poll,
                other => {
                    return Err(said(
                        "cdc_engine",
                        &format!("is neither stream nor poll: {other}"),
                    ));
                }
            },
            is_slot_temporary: given.flag("temporary_slot")?,
        })
    }
}

/// A name that PostgreSQL takes for a slot.
fn slot_name(name: &str) -> Result<&str, String> {
    let is_right = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.len() > limits::SLOT_NAME_BYTES_MAX || !name.bytes().all(is_right) {
        return Err(said(
            "slot_name",
            &format!("is not made of up to 63 lower case letters, digits and underscores: {name}"),
        ));
    }
    Ok(name)
}

fn said(name: &str, what: &str) -> String {
    format!("the setting {name} of the extension {what}")
}

/// Settings as they are stored.
struct Given<'a>(&'a Map<String, Value>);

impl<'a> Given<'a> {
    fn text(&self, name: &str, absent: &'static str) -> Result<&'a str, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(absent),
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            Some(Value::String(_)) => Err(said(name, "is empty")),
            Some(_) => Err(said(name, "is not a string")),
        }
    }

    /// A number that is no less than nothing; some clients of the management API send strings.
    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let number = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        number
            .map(Some)
            .ok_or_else(|| said(name, "is not a whole number"))
    }

    fn flag(&self, name: &str) -> Result<bool, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(said(name, "is neither true nor false")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(given: &Value) -> Result<ChangesSettings, String> {
        ChangesSettings::parse(given.as_object().unwrap())
    }

    #[test]
    fn what_is_absent_has_the_defaults_of_the_table() {
        let expected = ChangesSettings {
            publication: "supabase_realtime".into(),
            slot_name: "supabase_realtime_replication_slot".into(),
            poll_interval: Duration::from_millis(100),
            poll_changes_max: 100,
            record_bytes_max: 1_048_576,
            check_connections_max: 4,
            way: Way::Stream,
            is_slot_temporary: false,
        };
        assert_eq!(settings(&json!({})), Ok(expected.clone()));
        let nothing = json!({"publication": null, "slot_name": null, "poll_interval_ms": null, "temporary_slot": null});
        assert_eq!(settings(&nothing), Ok(expected));
    }

    #[test]
    fn what_is_given_is_taken_within_bounds() {
        let check = |given: Value, seen: fn(&ChangesSettings) -> String, expected: &str| {
            assert_eq!(seen(&settings(&given).unwrap()), expected, "{given}");
        };
        let interval = |it: &ChangesSettings| it.poll_interval.as_millis().to_string();
        check(json!({"poll_interval_ms": 250}), interval, "250");
        check(json!({"poll_interval_ms": "250"}), interval, "250");
        check(json!({"poll_interval_ms": 0}), interval, "10");
        check(
            json!({"poll_interval_ms": 10_000_000_u64}),
            interval,
            "60000",
        );
        let changes = |it: &ChangesSettings| it.poll_changes_max.to_string();
        check(json!({"poll_max_changes": 0}), changes, "1");
        check(json!({"poll_max_changes": 7}), changes, "7");
        let pool = |it: &ChangesSettings| it.check_connections_max.to_string();
        check(json!({"subcriber_pool_size": 7}), pool, "7");
        check(json!({"subs_pool_size": 3}), pool, "3");
        check(
            json!({"subs_pool_size": 3, "subcriber_pool_size": 2}),
            pool,
            "2",
        );
        check(json!({"subcriber_pool_size": 0}), pool, "1");
        check(json!({"subcriber_pool_size": 1_000_000}), pool, "256");
        let bytes = |it: &ChangesSettings| it.record_bytes_max.to_string();
        check(json!({"poll_max_record_bytes": 64}), bytes, "64");
        let way = |it: &ChangesSettings| it.way.to_string();
        check(json!({"cdc_engine": "poll"}), way, "poll");
        let temporary = |it: &ChangesSettings| it.is_slot_temporary.to_string();
        check(json!({"temporary_slot": true}), temporary, "true");
    }

    #[test]
    fn mistakes_are_named() {
        let check = |name: &str, value: Value, part: &str| {
            let error = settings(&json!({name: value})).unwrap_err();
            assert!(error.contains(name) && error.contains(part), "{error}");
        };
        check("publication", json!(""), "is empty");
        check("publication", json!(1), "is not a string");
        check("slot_name", json!("Upper"), "lower case");
        check("slot_name", json!("a-b"), "lower case");
        check("slot_name", json!("a".repeat(64)), "63");
        check("poll_interval_ms", json!(-1), "is not a whole number");
        check("poll_interval_ms", json!("soon"), "is not a whole number");
        check("poll_max_changes", json!(1.5), "is not a whole number");
        check("poll_max_record_bytes", json!([]), "is not a whole number");
        check(
            "subcriber_pool_size",
            json!("many"),
            "is not a whole number",
        );
        check("subs_pool_size", json!(true), "is not a whole number");
        check("cdc_engine", json!("wal2json"), "neither stream nor poll");
        check("temporary_slot", json!("yes"), "neither true nor false");
        assert!(settings(&json!({"slot_name": "a".repeat(63)})).is_ok());
    }
}
