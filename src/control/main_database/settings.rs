//! From the variables of the control database to the settings of a connection, and back to their names when something is wrong.
//!
//! What comes in: [`MainDatabase`]. What goes out: [`Settings`], and sentences for the operator. What always holds: a sentence names the
//! variable to look at. Deliberately absent: connecting.

use crate::config::MainDatabase;
use crate::control::database::{ConnectError, Families, Manner, Settings};
use crate::limits;
use std::path::PathBuf;
use std::time::Duration;

/// The connections' `application_name`, by which people know the original's.
pub(super) const APPLICATION_NAME: &str = "supabase_mt_realtime";

/// How the control database is connected to.
pub(super) fn settings(database: &MainDatabase) -> Settings {
    let pool_size = usize::try_from(database.connections_max).unwrap_or(usize::MAX);
    Settings {
        host: database.host.clone(),
        port: database.port,
        name: database.name.clone(),
        user: database.user.clone(),
        password: database.password.clone(),
        ssl_enforced: database.has_tls,
        pool_size: pool_size.clamp(1, limits::DATABASE_POOL_CONNECTIONS_MAX),
        queue_target: Duration::from_millis(database.checkout_timeout_ms)
            .min(limits::DATABASE_QUEUE_TARGET_MAX),
        subscription_pool_size: 0,
        manner: Manner {
            families: match database.is_ipv6 {
                None => Families::Both,
                Some(true) => Families::V6,
                Some(false) => Families::V4,
            },
            // Without DB_SSL the file has no meaning, as in the original.
            ca_cert: database.ca_cert.as_ref().map(PathBuf::from),
            after_connect: database.after_connect_query.clone(),
        },
    }
}

/// What an error means to whoever set the variables.
pub(super) fn explain(error: &ConnectError) -> String {
    match error {
        ConnectError::HostNotFound { host, error } => {
            format!("the host {host} (DB_HOST) cannot be found: {error}")
        }
        ConnectError::Unreachable { place, error } => {
            format!("nobody answers at {place} (DB_HOST, DB_PORT): {error}")
        }
        ConnectError::Tls { place, error } => format!(
            "no TLS with {place}: {error}. See DB_SSL, and DB_SSL_CA_CERT for the certificates that are believed"
        ),
        ConnectError::Denied { place, error } => format!(
            "{place} refuses the user or the password: {error}. Check DB_USER and DB_PASSWORD"
        ),
        ConnectError::NoSuchDatabase { place, error } => {
            format!("{place} has no such database: {error}. Check DB_NAME")
        }
        ConnectError::AfterConnect { error } => {
            format!("DB_AFTER_CONNECT_QUERY failed: {error}")
        }
        error @ (ConnectError::TimedOut { .. }
        | ConnectError::TooManyConnections { .. }
        | ConnectError::Other { .. }) => error.to_string(),
    }
}

/// Whether a database that is only starting, or whose name is only being published, would have said the same.
pub(super) fn may_pass(error: &ConnectError) -> bool {
    match error {
        ConnectError::HostNotFound { .. }
        | ConnectError::Unreachable { .. }
        | ConnectError::TimedOut { .. }
        | ConnectError::TooManyConnections { .. }
        | ConnectError::Other { .. } => true,
        ConnectError::Tls { .. }
        | ConnectError::Denied { .. }
        | ConnectError::NoSuchDatabase { .. }
        | ConnectError::AfterConnect { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(variables: &[(&str, &str)]) -> Settings {
        let get = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let (config, _) = Config::from_env(get).unwrap();
        settings(&config.database.unwrap())
    }

    #[test]
    fn variables_decide_how_it_is_connected_to() {
        let defaults = read(&[("DB_HOST", "db")]);
        assert_eq!(
            (defaults.port, defaults.pool_size, defaults.ssl_enforced),
            (5432, 5, false)
        );
        assert_eq!(defaults.queue_target, Duration::from_secs(5));
        assert_eq!(defaults.manner, Manner::default());
        let all = read(&[
            ("DB_HOST", "db"),
            ("DB_PORT", "1"),
            ("DB_SSL", "true"),
            ("DB_SSL_CA_CERT", "/ca.pem"),
            ("DB_IP_VERSION", "ipv6"),
            ("DB_AFTER_CONNECT_QUERY", "SET search_path TO _realtime"),
            ("DB_POOL_SIZE", "7"),
            ("DB_QUEUE_TARGET", "70"),
        ]);
        assert_eq!((all.port, all.pool_size, all.ssl_enforced), (1, 7, true));
        assert_eq!(all.queue_target, Duration::from_millis(70));
        let manner = Manner {
            families: Families::V6,
            ca_cert: Some("/ca.pem".into()),
            after_connect: Some("SET search_path TO _realtime".to_owned()),
        };
        assert_eq!(all.manner, manner);
    }

    #[test]
    fn errors_name_the_variable() {
        let place = || "db:5432".to_owned();
        let error = || "FATAL no".to_owned();
        for (said, variable, passes) in [
            (
                ConnectError::HostNotFound {
                    host: place(),
                    error: std::io::ErrorKind::NotFound.into(),
                },
                "DB_HOST",
                true,
            ),
            (
                ConnectError::Unreachable {
                    place: place(),
                    error: std::io::ErrorKind::ConnectionRefused.into(),
                },
                "DB_PORT",
                true,
            ),
            (
                ConnectError::Tls {
                    place: place(),
                    error: error(),
                },
                "DB_SSL_CA_CERT",
                false,
            ),
            (
                ConnectError::Denied {
                    place: place(),
                    error: error(),
                },
                "DB_PASSWORD",
                false,
            ),
            (
                ConnectError::NoSuchDatabase {
                    place: place(),
                    error: error(),
                },
                "DB_NAME",
                false,
            ),
            (
                ConnectError::AfterConnect { error: error() },
                "DB_AFTER_CONNECT_QUERY",
                false,
            ),
            (
                ConnectError::Other {
                    place: place(),
                    error: error(),
                },
                "db:5432",
                true,
            ),
        ] {
            let text = explain(&said);
            assert!(text.contains(variable) && !text.contains("db_"), "{text}");
            assert_eq!(may_pass(&said), passes, "{text}");
        }
    }
}
