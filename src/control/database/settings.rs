//! A tenant's database as its extension describes it.
//!
//! What comes in: the settings of an extension, as they are stored. What goes out: [`Settings`], or a sentence that says which of
//! them is wrong. What always holds: a password never shows in debug output (`debug_output_has_no_secret`). Deliberately absent:
//! whether there is such a database.

use crate::config::Secret;
use crate::control::store::TenantRecord;
use crate::control::tenants::Live;
use crate::limits;
use crate::tenant::TenantId;
use serde_json::{Map, Value};
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

/// Where a tenant's database is and how it is to be used (spec: tenant-database 1). Two equal settings lead to the same connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// `db_host`: a name or an address.
    pub host: String,
    /// `db_port`.
    pub port: u16,
    /// `db_name`.
    pub name: String,
    /// `db_user`.
    pub user: String,
    /// `db_password`.
    pub password: Secret,
    /// `ssl_enforced`: TLS without a look at the certificate, or none.
    pub ssl_enforced: bool,
    /// `db_pool`: connections of the general pool, at least one.
    pub pool_size: usize,
    /// `db_queue_target`: how long a query may wait for one of them.
    pub queue_target: Duration,
    /// `subs_pool_size`: counts in the estimate of connections only.
    pub subscription_pool_size: usize,
    /// What only the server's own database has.
    pub manner: Manner,
}

/// How a connection is opened beyond where to. Tenants' databases have the default: both address families, any certificate, nothing that
/// is to be run first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Manner {
    /// The address families that are tried.
    pub families: Families,
    /// The file with the certificates that may have signed the database's. None: any certificate is believed.
    pub ca_cert: Option<PathBuf>,
    /// SQL that is run when the connection is open.
    pub after_connect: Option<String>,
}

/// Address families.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Families {
    /// Both, IPv6 first.
    #[default]
    Both,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

impl Settings {
    /// What a record says about its database. None where it has none.
    #[must_use]
    pub fn of(record: &TenantRecord) -> Option<Result<Self, String>> {
        record.database().map(Self::parse)
    }

    /// The same for a tenant that the process serves.
    #[must_use]
    pub fn in_live(live: &Live, tenant: TenantId) -> Option<Result<Self, String>> {
        live.database(tenant).map(|settings| Self::parse(settings))
    }

    /// Reads the settings of an extension.
    ///
    /// # Errors
    ///
    /// A sentence that names the first setting that is missing or wrong. The database is then not connected to.
    pub fn parse(settings: &Map<String, Value>) -> Result<Self, String> {
        let port = text(settings, "db_port")?;
        Ok(Self {
            host: text(settings, "db_host")?.to_owned(),
            port: port
                .trim()
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| format!("db_port is no port: {port}"))?,
            name: text(settings, "db_name")?.to_owned(),
            user: text(settings, "db_user")?.to_owned(),
            password: Secret::new(text(settings, "db_password")?.to_owned()),
            ssl_enforced: settings
                .get("ssl_enforced")
                .and_then(Value::as_bool)
                .unwrap_or(true),
            pool_size: connections(settings, "db_pool"),
            queue_target: Duration::from_millis(
                number(settings, "db_queue_target").unwrap_or(5000),
            )
            .min(limits::DATABASE_QUEUE_TARGET_MAX),
            subscription_pool_size: connections(settings, "subs_pool_size"),
            manner: Manner::default(),
        })
    }

    /// Connections that the database must have left before it is connected to: 95 % of those that all parts of the server may come to
    /// use (spec: tenant-database 2.1, step 2).
    #[must_use]
    pub fn connections_required(&self) -> usize {
        let all =
            self.pool_size + self.subscription_pool_size + limits::DATABASE_CONNECTIONS_AD_HOC;
        (all * 95).div_ceil(100)
    }
}

fn text<'a>(settings: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    match settings.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        None | Some(Value::Null | Value::String(_)) => Err(missing(name, "is missing")),
        Some(_) => Err(missing(name, "is not a string")),
    }
}

fn missing(name: impl Display, what: &str) -> String {
    format!("the setting {name} of the extension {what}")
}

/// A number that is no less than nothing; some clients of the management API send strings.
fn number(settings: &Map<String, Value>, name: &str) -> Option<u64> {
    match settings.get(name)? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn connections(settings: &Map<String, Value>, name: &str) -> usize {
    number(settings, name)
        .and_then(|number| usize::try_from(number).ok())
        .unwrap_or(1)
        .clamp(1, limits::DATABASE_POOL_CONNECTIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(change: &[(&str, Value)]) -> Result<Settings, String> {
        let mut map = json!({"db_host": "db", "db_port": "5432", "db_name": "n", "db_user": "u", "db_password": "secret"});
        let map = map.as_object_mut().unwrap();
        for (name, value) in change {
            map.insert((*name).to_owned(), value.clone());
        }
        Settings::parse(map)
    }

    #[test]
    fn what_is_absent_has_the_defaults_of_the_table() {
        let settings = settings(&[]).unwrap();
        assert!(settings.ssl_enforced);
        assert_eq!((settings.port, settings.pool_size), (5432, 1));
        assert_eq!(settings.queue_target, Duration::from_secs(5));
        assert_eq!(settings.connections_required(), 10);
    }

    #[test]
    fn values_are_read_as_the_original_reads_them() {
        let check = |name: &str, value: Value, seen: fn(&Settings) -> String, expected: &str| {
            let settings = settings(&[(name, value)]).unwrap();
            assert_eq!(seen(&settings), expected, "{name}");
        };
        let tls = |settings: &Settings| settings.ssl_enforced.to_string();
        check("ssl_enforced", json!(false), tls, "false");
        check("ssl_enforced", json!("false"), tls, "true");
        check("ssl_enforced", Value::Null, tls, "true");
        let pool = |settings: &Settings| settings.pool_size.to_string();
        check("db_pool", json!(5), pool, "5");
        check("db_pool", json!("5"), pool, "5");
        check("db_pool", json!(0), pool, "1");
        check("db_pool", json!(-1), pool, "1");
        check("db_pool", json!(1_000_000), pool, "256");
        let wait = |settings: &Settings| settings.queue_target.as_millis().to_string();
        check("db_queue_target", json!(0), wait, "0");
        check("db_queue_target", json!(70), wait, "70");
        check("db_queue_target", json!(1_000_000), wait, "15000");
        let required = |settings: &Settings| settings.connections_required().to_string();
        check("db_pool", json!(100), required, "104");
        check("subs_pool_size", json!(11), required, "19");
    }

    #[test]
    fn mistakes_are_named() {
        let check = |name: &str, value: Value, part: &str| {
            let error = settings(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(part), "{error}");
        };
        check("db_host", Value::Null, "is missing");
        check("db_name", json!(""), "is missing");
        check("db_user", json!(1), "is not a string");
        check("db_port", json!(5432), "is not a string");
        check("db_port", json!("54320000"), "is no port");
        check("db_port", json!("0"), "is no port");
        check("db_port", json!("x"), "is no port");
    }

    #[test]
    fn debug_output_has_no_secret() {
        assert!(!format!("{:?}", settings(&[]).unwrap()).contains("secret"));
    }
}
