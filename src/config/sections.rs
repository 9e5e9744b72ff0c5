//! Settings that belong together.

use super::parse::{ConfigError, Environment, Secret};
use super::report::Shown;
use super::unused::{self, Warning};
use crate::error::inspect_str;
use serde_json::Value;
use std::fmt;

/// The main database, where the tenants are. It is used when `DB_HOST` is set.
#[derive(Clone, Debug)]
pub struct MainDatabase {
    /// `DB_HOST`.
    pub host: String,
    /// `DB_PORT`.
    pub port: u16,
    /// `DB_USER`.
    pub user: String,
    /// `DB_PASSWORD`.
    pub password: Secret,
    /// `DB_NAME`.
    pub name: String,
    /// `DB_AFTER_CONNECT_QUERY`: run on every new connection.
    pub after_connect_query: Option<String>,
    /// `DB_IP_VERSION`: whether to use IPv6. None: as `DB_HOST` resolves.
    pub is_ipv6: Option<bool>,
    /// `DB_SSL`.
    pub has_tls: bool,
    /// `DB_SSL_CA_CERT`: a file; without it the server's certificate is not verified.
    pub ca_cert: Option<String>,
    /// `DB_POOL_SIZE`.
    pub connections_max: u32,
    /// `DB_QUEUE_TARGET`: how long a query may wait for a connection.
    pub checkout_timeout_ms: u64,
}

impl MainDatabase {
    pub(super) fn from_env(env: &Environment<'_>) -> Result<Option<Self>, ConfigError> {
        let is_ipv6 = match env.string("DB_IP_VERSION").as_deref() {
            None => None,
            Some("ipv4") => Some(false),
            Some("ipv6") => Some(true),
            // Parity: the sentence in front of the bracket is the original's.
            Some(other) => {
                let got = inspect_str(other);
                return Err(ConfigError(format!(
                    "Invalid IP version, please set either ipv6 or ipv4 (env DB_IP_VERSION, got {got})"
                )));
            }
        };
        let database = Self {
            host: env.string("DB_HOST").unwrap_or_default(),
            port: env.integer("DB_PORT", 5432)?,
            user: env.string_or("DB_USER", "supabase_admin"),
            password: env.secret_or("DB_PASSWORD", "postgres"),
            name: env.string_or("DB_NAME", "postgres"),
            after_connect_query: env.string("DB_AFTER_CONNECT_QUERY"),
            is_ipv6,
            has_tls: env.boolean("DB_SSL", false)?,
            ca_cert: env.string("DB_SSL_CA_CERT"),
            connections_max: env.positive("DB_POOL_SIZE", 5)?,
            checkout_timeout_ms: env.positive("DB_QUEUE_TARGET", 5000)?,
        };
        // Ours: an empty host would mean nothing to anybody, so it is none.
        Ok(Some(database).filter(|database| !database.host.is_empty()))
    }
}

/// What a tenant gets that is created without limits of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TenantDefaults {
    /// `TENANT_MAX_BYTES_PER_SECOND`: stored, never enforced.
    pub bytes_per_second_max: u32,
    /// `TENANT_MAX_CHANNELS_PER_CLIENT`.
    pub channels_per_socket_max: u32,
    /// `TENANT_MAX_CONCURRENT_USERS`.
    pub users_max: u32,
    /// `TENANT_MAX_EVENTS_PER_SECOND`.
    pub events_per_second_max: u32,
    /// `TENANT_MAX_JOINS_PER_SECOND`.
    pub joins_per_second_max: u32,
}

impl TenantDefaults {
    pub(super) fn from_env(env: &Environment<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            bytes_per_second_max: env.integer("TENANT_MAX_BYTES_PER_SECOND", 100_000)?,
            channels_per_socket_max: env.integer("TENANT_MAX_CHANNELS_PER_CLIENT", 100)?,
            users_max: env.integer("TENANT_MAX_CONCURRENT_USERS", 200)?,
            events_per_second_max: env.integer("TENANT_MAX_EVENTS_PER_SECOND", 100)?,
            joins_per_second_max: env.integer("TENANT_MAX_JOINS_PER_SECOND", 100)?,
        })
    }
}

/// The tenant of a self-hosted installation.
#[derive(Clone)]
pub struct SelfHost {
    /// `SEED_SELF_HOST`, exactly `true`: the tenant is made anew at start.
    pub seeds: bool,
    /// `SELF_HOST_TENANT_NAME`.
    pub tenant_name: String,
    /// `API_JWT_SECRET`, or the one of the documentation: the tenant's secret.
    pub jwt_secret: Secret,
    /// `API_JWT_JWKS`: the tenant's key set.
    pub jwt_jwks: Option<Value>,
    /// `DB_PORT` as the seed understands it: its default is not the one of [`MainDatabase::port`] (spec: control-database 5).
    pub database_port: u16,
}

/// Without the key set, in which keys may stand that sign.
impl fmt::Debug for SelfHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfHost")
            .field("seeds", &self.seeds)
            .field("tenant_name", &self.tenant_name)
            .field("has_jwt_jwks", &self.jwt_jwks.is_some())
            .field("database_port", &self.database_port)
            .finish_non_exhaustive()
    }
}

impl SelfHost {
    /// The tenant's secret when none is set: everybody knows it.
    pub const DEFAULT_JWT_SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";

    pub(super) fn from_env(env: &Environment<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            seeds: env.string("SEED_SELF_HOST").as_deref() == Some("true"),
            tenant_name: env.string_or("SELF_HOST_TENANT_NAME", "realtime-dev"),
            jwt_secret: env.secret_or("API_JWT_SECRET", Self::DEFAULT_JWT_SECRET),
            jwt_jwks: key_set(env)?,
            database_port: env.integer("DB_PORT", 5433)?,
        })
    }
}

/// A key set may hold keys that sign, so it is a secret.
fn key_set(env: &Environment<'_>) -> Result<Option<Value>, ConfigError> {
    let text = env.secret("API_JWT_JWKS");
    let Some(text) = text.filter(|text| !text.expose().trim().is_empty()) else {
        return Ok(None);
    };
    let got = match serde_json::from_str::<Value>(text.expose()) {
        Ok(Value::Object(set)) => return Ok(Some(Value::Object(set))),
        Ok(_) => "other JSON".to_owned(),
        Err(_) => format!("{} bytes that are no JSON", text.expose().len()),
    };
    Err(ConfigError(format!(
        "env API_JWT_JWKS expected a JSON object such as {{\"keys\":[]}}, got {got}"
    )))
}

/// The maintenance of tenant databases.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Janitor {
    /// `RUN_JANITOR`.
    pub is_enabled: bool,
    /// `JANITOR_SCHEDULE_TIMER_IN_MS`: period.
    pub period_ms: u64,
    /// `JANITOR_SCHEDULE_RANDOMIZE`: 1 to 59 minutes are added to each period.
    pub is_randomized: bool,
    /// `JANITOR_RUN_AFTER_IN_MS`: added to the first period.
    pub first_delay_ms: u64,
    /// `JANITOR_MAX_CHILDREN`, or its README name: tasks at the same time.
    pub tasks_max: u32,
    /// `JANITOR_CHILDREN_TIMEOUT`, or its README name: how long a task may take.
    pub task_timeout_ms: u64,
    /// `JANITOR_CHUNK_SIZE`: tenants of one task.
    pub tenants_per_task: u32,
}

impl Janitor {
    pub(super) fn from_env(env: &Environment<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            is_enabled: env.boolean("RUN_JANITOR", false)?,
            period_ms: env.positive("JANITOR_SCHEDULE_TIMER_IN_MS", 14_400_000)?,
            is_randomized: env.boolean("JANITOR_SCHEDULE_RANDOMIZE", true)?,
            first_delay_ms: env.integer("JANITOR_RUN_AFTER_IN_MS", 600_000)?,
            tasks_max: env.integer_or_alias(
                "JANITOR_MAX_CHILDREN",
                "JANITOR_CLEANUP_MAX_CHILDREN",
                5,
            )?,
            task_timeout_ms: env.integer_or_alias(
                "JANITOR_CHILDREN_TIMEOUT",
                "JANITOR_CLEANUP_CHILDREN_TIMEOUT",
                5000,
            )?,
            tenants_per_task: env.positive("JANITOR_CHUNK_SIZE", 10)?,
        })
    }
}

/// What is measured, and when.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `PROM_POLL_RATE`: shortest time between two looks at the machine.
    pub gauges_period_ms: u64,
    /// `METRICS_CLEANER_SCHEDULE_TIMER_IN_MS`: period in which series of absent tenants are removed.
    pub cleaner_period_ms: u64,
    /// Pushing, when `METRICS_PUSHER_ENABLED` and `METRICS_PUSHER_URL` are set.
    pub pusher: Option<MetricsPusher>,
}

/// Where metrics are pushed to.
#[derive(Clone)]
pub struct MetricsPusher {
    /// `METRICS_PUSHER_URL`.
    pub url: String,
    /// `METRICS_PUSHER_USER`.
    pub user: String,
    /// `METRICS_PUSHER_AUTH`: the password; without it nothing is authenticated.
    pub password: Option<Secret>,
    /// `METRICS_PUSHER_INTERVAL_MS`.
    pub period_ms: u64,
    /// `METRICS_PUSHER_TIMEOUT_MS`.
    pub timeout_ms: u64,
    /// `METRICS_PUSHER_COMPRESS`.
    pub compresses: bool,
    /// `METRICS_PUSHER_EXTRA_LABELS`: names and values.
    pub extra_labels: Vec<(String, String)>,
}

/// Without what of the URL may be secret.
impl fmt::Debug for MetricsPusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsPusher")
            .field("url", &Shown::url(&self.url))
            .field("user", &self.user)
            .field("period_ms", &self.period_ms)
            .finish_non_exhaustive()
    }
}

impl Metrics {
    pub(super) fn from_env(
        env: &Environment<'_>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            gauges_period_ms: env.positive("PROM_POLL_RATE", 5000)?,
            cleaner_period_ms: env.positive("METRICS_CLEANER_SCHEDULE_TIMER_IN_MS", 1_800_000)?,
            pusher: MetricsPusher::from_env(env, warnings)?,
        })
    }
}

impl MetricsPusher {
    fn from_env(
        env: &Environment<'_>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Option<Self>, ConfigError> {
        let is_enabled = env.boolean("METRICS_PUSHER_ENABLED", false)?;
        let pusher = Self {
            url: env.url("METRICS_PUSHER_URL").unwrap_or_default(),
            user: env.string_or("METRICS_PUSHER_USER", "realtime"),
            password: env.secret("METRICS_PUSHER_AUTH"),
            period_ms: env.positive("METRICS_PUSHER_INTERVAL_MS", 30_000)?,
            timeout_ms: env.positive("METRICS_PUSHER_TIMEOUT_MS", 15_000)?,
            compresses: env.boolean("METRICS_PUSHER_COMPRESS", true)?,
            extra_labels: extra_labels(env)?,
        };
        if is_enabled && pusher.url.is_empty() {
            warnings.push(unused::PUSHER_WITHOUT_URL);
        } else if is_enabled {
            check_pusher_url(&pusher.url)?;
        }
        Ok(Some(pusher).filter(|pusher| is_enabled && !pusher.url.is_empty()))
    }
}

/// A URL that can be posted to. One with credentials would be shown wherever it is; they have variables of their own.
fn check_pusher_url(url: &str) -> Result<(), ConfigError> {
    let name = "METRICS_PUSHER_URL";
    if Shown::has_credentials(url) {
        return Err(ConfigError(format!(
            "env {name} must not hold a user or a password: set METRICS_PUSHER_USER and METRICS_PUSHER_AUTH"
        )));
    }
    let uri = url.parse::<hyper::Uri>().ok();
    let is_good = uri.is_some_and(|uri| {
        let host = uri.host().filter(|host| !host.is_empty());
        matches!(uri.scheme_str(), Some("http" | "https")) && host.is_some()
    });
    if is_good {
        return Ok(());
    }
    // Its query may hold a token.
    let got = inspect_str(&Shown::url(url).text());
    Err(ConfigError(format!(
        "env {name} expected a URL such as http://localhost:8428/api/v1/import/prometheus, got {got}"
    )))
}

fn extra_labels(env: &Environment<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let name = "METRICS_PUSHER_EXTRA_LABELS";
    let pair = |item: String| match item.split_once('=') {
        Some((label, value)) if !label.trim().is_empty() => {
            Ok((label.trim().to_owned(), value.trim().to_owned()))
        }
        _ => {
            let got = inspect_str(&item);
            Err(ConfigError(format!(
                "env {name} expected pairs such as a=b,c=d, got {got}"
            )))
        }
    };
    env.list(name).into_iter().map(pair).collect()
}

/// Who may see `/admin`.
#[derive(Clone, Debug)]
pub enum DashboardAuth {
    /// Basic authentication. Without both of them nobody may.
    Basic {
        /// `DASHBOARD_USER`.
        user: Option<String>,
        /// `DASHBOARD_PASSWORD`.
        password: Option<Secret>,
    },
    /// Nobody: `zta` is asked for, which is not supported.
    Closed,
}

impl DashboardAuth {
    pub(super) fn from_env(env: &Environment<'_>, warnings: &mut Vec<Warning>) -> Self {
        if env.string("DASHBOARD_AUTH").as_deref() == Some("zta") {
            warnings.push(unused::DASHBOARD_ZTA);
            return Self::Closed;
        }
        Self::Basic {
            user: env.string("DASHBOARD_USER"),
            password: env.secret("DASHBOARD_PASSWORD"),
        }
    }
}
