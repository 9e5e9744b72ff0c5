//! The environment as typed settings.
//!
//! What comes in: a way to look up a variable. What goes out: a [`Config`], warnings to be logged once, a [`Report`] of what is in effect
//! and why, or the sentence with which the process does not start. What always holds: names, defaults and meanings are the original's
//! (spec: config), unless a field says otherwise; every variable of the original is kept, mapped, or warned about
//! (`every_variable_of_the_original_is_known`); a secret never shows, neither in debug output nor in a report
//! (`secrets_show_nowhere`). Deliberately absent: command lines, and settings of tenants.

mod parse;
mod report;
mod file;
mod sections;
mod traces;
mod unused;

pub use parse::{ConfigError, Secret};
pub use report::{Origin, Report, Setting, Shown, Source};
pub use sections::{
    DashboardAuth, Janitor, MainDatabase, Metrics, MetricsPusher, SelfHost, TenantDefaults,
};
pub use traces::{Sampler, Traces};
pub use unused::Warning;

use crate::error::Level;
use parse::Environment;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// Address family of the listeners: `REALTIME_IP_VERSION`.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum IpVersion {
    /// A dual-stack socket where there is IPv6, else IPv4.
    Auto,
    /// IPv4 only.
    V4,
    /// IPv6, and IPv4 mapped into it.
    V6,
}

/// The kernel interface of the shards: `DRIVER`.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Driver {
    /// `io_uring`, or epoll where it is not allowed.
    Auto,
    /// `io_uring` or not at all.
    Uring,
    /// epoll.
    Epoll,
}

/// Everything that an operator can set. Each field names its variable.
#[derive(Clone, Debug)]
pub struct Config {
    // -- listening --
    /// `PORT`: HTTP and WebSocket. 0 lets the kernel choose.
    pub port: u16,
    /// `BIND`, ours: address to listen on. None: all, of the family of `ip_version`.
    pub bind: Option<IpAddr>,
    /// `REALTIME_IP_VERSION`; anything but `ipv4` and `ipv6` is automatic.
    pub ip_version: IpVersion,
    /// `MAX_CONNECTIONS`: sockets of all shards together; an upgrade above gets 503.
    pub connections_max: u32,
    /// `RLIMIT_NOFILE`: open files to ask the kernel for, as many as it allows. `unlimited` is the largest number.
    pub open_files_max: Option<u64>,

    // -- threads --
    /// `SHARDS`, ours: number of shards. None: cores minus one, at least one.
    pub shards: Option<u16>,
    /// `CPU_AFFINITY`, ours: cores to use, the last one for the control core. None: those that the process may use.
    pub cores: Option<Vec<usize>>,
    /// `DRIVER`, ours.
    pub driver: Driver,

    // -- sockets --
    /// `MAX_HEADER_LENGTH`: longest value of a request header in bytes.
    pub header_value_bytes_max: u32,
    /// `WEBSOCKET_MAX_HEAP_SIZE`: bytes that may be queued for one socket.
    pub queued_bytes_max: u64,
    /// `IDLE_TIMEOUT_MS`, ours: time without a frame after which a socket is closed.
    pub idle_timeout_ms: u64,
    /// `NO_CHANNEL_TIMEOUT_IN_MS`, or its README name: period of the no-channel reaper.
    pub no_channel_timeout_ms: u64,
    /// `CONNECT_ERROR_BACKOFF_MS`: delay of a refused upgrade.
    pub connect_error_backoff_ms: u64,
    /// `CHANNEL_ERROR_BACKOFF_MS`: delay of a refused join.
    pub channel_error_backoff_ms: u64,
    /// `CLIENT_PRESENCE_MAX_CALLS`: presence calls of a channel per window, for tenants without a number of their own.
    pub client_presence_calls_max: u32,
    /// `CLIENT_PRESENCE_WINDOW_MS`: that window.
    pub client_presence_window_ms: u32,
    /// `ANY_HOST_SINGLE_TENANT`, ours: with a single tenant, `localhost` and addresses mean it.
    pub any_host_single_tenant: bool,

    // -- identity and secrets --
    /// `APP_NAME`. Ours: not required.
    pub app_name: String,
    /// `REGION`.
    pub region: Option<String>,
    /// `CLUSTER`.
    pub cluster: Option<String>,
    /// `API_JWT_SECRET`: none refuses every management call.
    pub api_jwt_secret: Option<Secret>,
    /// `API_JWT_SECRET_NEXT`: accepted as well, while the secret changes.
    pub api_jwt_secret_next: Option<Secret>,
    /// `API_TOKEN_BLOCKLIST`.
    pub api_token_blocklist: Vec<Secret>,
    /// `METRICS_JWT_SECRET`. Ours: none refuses every scrape, instead of not starting.
    pub metrics_jwt_secret: Option<Secret>,
    /// `METRICS_TOKEN_BLOCKLIST`.
    pub metrics_token_blocklist: Vec<Secret>,
    /// `JWT_CLAIM_VALIDATORS`: values that claims must have.
    pub claim_validators: Map<String, Value>,
    /// `REQUEST_ID_BAGGAGE_KEY`: the key of the W3C baggage that carries the request id.
    pub request_id_baggage_key: String,

    // -- tenants --
    /// The database of tenants: set with `DB_HOST`. Ours: without it, the embedded store.
    pub database: Option<MainDatabase>,
    /// `DATA_DIR`, ours: where the embedded store is.
    pub data_dir: PathBuf,
    /// `EMBEDDED_TENANTS`, ours: a JSON file of tenants that are stored at start.
    pub embedded_tenants: Option<PathBuf>,
    /// `DB_ENC_KEY`: the legacy cipher of stored secrets, 16 bytes.
    pub encryption_key: Option<Secret>,
    /// `DB_ENC_KEY_GCM`: the current cipher of stored secrets, 32 bytes.
    pub encryption_key_gcm: Option<Secret>,
    /// `DB_ENC_WRITE_GCM`, if there is a key for it.
    pub encrypts_with_gcm: bool,
    /// `TENANT_CACHE_EXPIRATION_IN_MS`.
    pub tenant_cache_ms: u64,
    /// What new tenants get.
    pub tenant_defaults: TenantDefaults,
    /// The tenant of a self-hosted installation.
    pub self_host: SelfHost,
    /// `SLOT_NAME_SUFFIX`.
    pub slot_name_suffix: Option<String>,
    /// `REPLICATION_WATCHDOG_INTERVAL_MS`, ours: time between two looks at the slot of broadcasts (the original's is fixed).
    pub replication_watchdog_interval_ms: u64,
    /// `REPLICATION_SLOT_WAL_BYTES_MAX`, ours: bytes of the write-ahead log that a tenant's database may keep for that slot. Above, the
    /// slot is given up and another one made.
    pub replication_slot_wal_bytes_max: u64,
    /// Maintenance of tenant databases.
    pub janitor: Janitor,

    // -- observing --
    /// `LOG_LEVEL`.
    pub log_level: Level,
    /// `LOG_FORMAT`, ours.
    pub log_format: LogFormat,
    /// `DISABLE_HEALTHCHECK_LOGGING`.
    pub logs_healthchecks: bool,
    /// What is measured, and where it goes.
    pub metrics: Metrics,
    /// Where traces go: set with `OTEL_TRACES_EXPORTER=otlp`.
    pub traces: Option<Traces>,
    /// `DASHBOARD_AUTH` with its user and password.
    pub dashboard: DashboardAuth,
}

/// How log lines are written: `LOG_FORMAT`.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// As the original writes them.
    Text,
    /// One JSON object per line.
    Json,
}

/// Everything that was read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The settings.
    pub config: Config,
    /// What is set and has no effect.
    pub warnings: Vec<Warning>,
    /// What is in effect, and why.
    pub report: Report,
}

impl Reading {
    /// Reads the environment of this process.
    ///
    /// # Errors
    ///
    /// As [`Reading::of`].
    pub fn of_process() -> Result<Self, ConfigError> {
        // What is no UTF-8 is a wrong value, not a missing one.
        let variable =
            |name: &str| std::env::var_os(name).map(|it| it.to_string_lossy().into_owned());
        Self::of(variable, |path| std::fs::read_to_string(path))
    }

    /// Reads the environment through `get`, and the file of `ENV_FILE` behind it through `read_file`.
    ///
    /// # Errors
    ///
    /// The first variable that is wrong, or why there is no such file. The caller prints the sentence and does not start.
    pub fn of(
        get: impl Fn(&str) -> Option<String>,
        read_file: impl Fn(&str) -> std::io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let file = match get("ENV_FILE") {
            None => BTreeMap::new(),
            Some(path) => {
                let text = read_file(&path).map_err(|error| {
                    let path = crate::error::inspect_str(&path);
                    ConfigError(format!(
                        "env ENV_FILE expected a file of lines NAME=value, got {path}: {error}"
                    ))
                })?;
                file::parse(&path, &text)?
            }
        };
        let lookup = |name: &str| {
            let own = get(name).map(|text| (text, Origin::Environment));
            own.or_else(|| file.get(name).map(|text| (text.clone(), Origin::File)))
        };
        let env = Environment::new(&lookup);
        let (config, warnings) = Config::of(&env)?;
        warnings.iter().for_each(|it| env.note_without_effect(it));
        Ok(Self {
            config,
            warnings,
            report: env.into_report(),
        })
    }
}

impl Config {
    /// The host in the name of this node: the original takes it from variables that would tell it an address, which are not ours.
    pub const HOST: &str = "127.0.0.1";

    /// What this node is called, as the original calls one that is alone.
    #[must_use]
    pub fn node(&self) -> String {
        format!("{}@{}", self.app_name, Self::HOST)
    }

    /// Reads the environment through `get`, without any file.
    ///
    /// # Errors
    ///
    /// As [`Reading::of`].
    pub fn from_env(
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        let get = |name: &str| get(name).map(|text| (text, Origin::Environment));
        Self::of(&Environment::new(&get))
    }

    fn of(env: &Environment<'_>) -> Result<(Self, Vec<Warning>), ConfigError> {
        let _ = env.string("ENV_FILE");
        let mut warnings = unused_but_set(env);
        check_shapes(env)?;
        let writes_gcm = env.boolean("DB_ENC_WRITE_GCM", false)?;
        let encryption_key_gcm = env.gcm_key("DB_ENC_KEY_GCM", 32)?;
        if writes_gcm && encryption_key_gcm.is_none() {
            warnings.push(unused::GCM_WITHOUT_KEY);
        }
        let config = Self {
            port: env.integer("PORT", 4000)?,
            bind: env.address("BIND")?,
            ip_version: ip_version(env),
            connections_max: env.positive("MAX_CONNECTIONS", 16_384)?,
            open_files_max: open_files(env)?,

            shards: shards(env)?,
            cores: env.cores("CPU_AFFINITY")?,
            driver: env.choice("DRIVER", &DRIVERS, Driver::Auto)?,

            header_value_bytes_max: env.positive("MAX_HEADER_LENGTH", 4096)?,
            queued_bytes_max: env.positive("WEBSOCKET_MAX_HEAP_SIZE", 50_000_000)?,
            idle_timeout_ms: env.positive("IDLE_TIMEOUT_MS", 60_000)?,
            no_channel_timeout_ms: env.integer_or_alias(
                "NO_CHANNEL_TIMEOUT_IN_MS",
                "DISCONNECT_SOCKET_ON_NO_CHANNELS_INTERVAL_IN_MS",
                600_000,
            )?,
            connect_error_backoff_ms: env.integer("CONNECT_ERROR_BACKOFF_MS", 2000)?,
            channel_error_backoff_ms: env.integer("CHANNEL_ERROR_BACKOFF_MS", 5000)?,
            client_presence_calls_max: env.integer("CLIENT_PRESENCE_MAX_CALLS", 5)?,
            client_presence_window_ms: env.positive("CLIENT_PRESENCE_WINDOW_MS", 30_000)?,
            any_host_single_tenant: env.boolean("ANY_HOST_SINGLE_TENANT", true)?,

            app_name: env.string_or("APP_NAME", "realtime"),
            region: env.string("REGION"),
            cluster: env.string("CLUSTER"),
            api_jwt_secret: env.secret("API_JWT_SECRET"),
            api_jwt_secret_next: env.secret("API_JWT_SECRET_NEXT"),
            api_token_blocklist: env.secrets("API_TOKEN_BLOCKLIST"),
            metrics_jwt_secret: env.secret("METRICS_JWT_SECRET"),
            metrics_token_blocklist: env.secrets("METRICS_TOKEN_BLOCKLIST"),
            claim_validators: claim_validators(env)?,
            request_id_baggage_key: env.string_or("REQUEST_ID_BAGGAGE_KEY", "request-id"),

            database: MainDatabase::from_env(env)?,
            data_dir: env.string_or("DATA_DIR", "data").into(),
            embedded_tenants: env.string("EMBEDDED_TENANTS").map(PathBuf::from),
            encryption_key: env.key("DB_ENC_KEY", 16)?,
            encrypts_with_gcm: writes_gcm && encryption_key_gcm.is_some(),
            encryption_key_gcm,
            tenant_cache_ms: env.integer("TENANT_CACHE_EXPIRATION_IN_MS", 30_000)?,
            tenant_defaults: TenantDefaults::from_env(env)?,
            self_host: SelfHost::from_env(env)?,
            slot_name_suffix: env.slot_suffix("SLOT_NAME_SUFFIX")?,
            replication_watchdog_interval_ms: env
                .positive("REPLICATION_WATCHDOG_INTERVAL_MS", 300_000)?,
            replication_slot_wal_bytes_max: env
                .positive("REPLICATION_SLOT_WAL_BYTES_MAX", 1 << 30)?,
            janitor: Janitor::from_env(env)?,

            log_level: env.choice("LOG_LEVEL", &levels(), Level::Info)?,
            log_format: env.choice("LOG_FORMAT", &FORMATS, LogFormat::Text)?,
            logs_healthchecks: !env.boolean("DISABLE_HEALTHCHECK_LOGGING", false)?,
            metrics: Metrics::from_env(env, &mut warnings)?,
            traces: Traces::from_env(env, &mut warnings)?,
            dashboard: DashboardAuth::from_env(env, &mut warnings),
        };
        Ok((config, warnings))
    }
}

const DRIVERS: [(&str, Driver); 3] = [
    ("auto", Driver::Auto),
    ("uring", Driver::Uring),
    ("epoll", Driver::Epoll),
];
const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// The levels, and an old name of one of them, which the original's logger still knows.
fn levels() -> Vec<(&'static str, Level)> {
    let levels = Level::ALL.map(|level| (level.as_str(), level));
    levels
        .into_iter()
        .chain([("warn", Level::Warning)])
        .collect()
}

/// Parity: other values than the two are automatic.
fn ip_version(env: &Environment<'_>) -> IpVersion {
    match env.string("REALTIME_IP_VERSION").as_deref() {
        Some("ipv4") => IpVersion::V4,
        Some("ipv6") => IpVersion::V6,
        _ => IpVersion::Auto,
    }
}

/// The original's start script gives this to `ulimit`, which also knows a word, unless it is set to nothing.
fn open_files(env: &Environment<'_>) -> Result<Option<u64>, ConfigError> {
    let name = "RLIMIT_NOFILE";
    let value = match env.raw(name).as_deref().map(str::trim) {
        Some("") => None,
        Some("unlimited") => Some(u64::MAX),
        _ => env.parsed_integer(1, name)?,
    };
    let _ = env.string(name);
    Ok(value)
}

fn shards(env: &Environment<'_>) -> Result<Option<u16>, ConfigError> {
    let shards = env.parsed_integer(1, "SHARDS")?;
    let _ = env.string("SHARDS");
    Ok(shards)
}

fn claim_validators(env: &Environment<'_>) -> Result<Map<String, Value>, ConfigError> {
    let Some(text) = env.string("JWT_CLAIM_VALIDATORS") else {
        return Ok(Map::new());
    };
    serde_json::from_str(&text).map_err(|_| {
        // Parity: the sentence in front of the bracket is the original's.
        ConfigError(format!(
            "JWT claim validators is not a valid JSON object (env JWT_CLAIM_VALIDATORS expected one such as {{\"iss\":\"me\"}}, got {})",
            crate::error::inspect_str(&text)
        ))
    })
}

/// Variables without effect whose wrong values kept the original from starting, and that nobody would notice here otherwise.
fn check_shapes(env: &Environment<'_>) -> Result<(), ConfigError> {
    let is_set = |name| env.raw(name).is_some();
    if is_set("HTTP_DYNAMIC_BUFFER_MIN") != is_set("HTTP_DYNAMIC_BUFFER_MAX") {
        let text = "env HTTP_DYNAMIC_BUFFER_MIN and HTTP_DYNAMIC_BUFFER_MAX must be set together, or neither of them";
        return Err(ConfigError(text.to_owned()));
    }
    let _: Option<u64> = env.parsed_integer(0, "HTTP_DYNAMIC_BUFFER_MIN")?;
    let _: Option<u64> = env.parsed_integer(0, "HTTP_DYNAMIC_BUFFER_MAX")?;
    let is_map = |text: &str| {
        serde_json::from_str::<std::collections::HashMap<String, String>>(text).is_ok()
    };
    match env.raw("REGION_MAPPING") {
        Some(text) if !is_map(&text) => {
            let got = crate::error::inspect_str(&text);
            Err(ConfigError(format!(
                "env REGION_MAPPING expected a JSON object of strings, got {got}"
            )))
        }
        _ => Ok(()),
    }
}

fn unused_but_set(env: &Environment<'_>) -> Vec<Warning> {
    let mut warnings: Vec<_> = unused::UNUSED
        .iter()
        .filter(|(variable, _)| env.raw(variable).is_some())
        .map(|&(variable, reason)| Warning { variable, reason })
        .collect();
    let master = env.raw("DB_MASTER_REGION");
    if master.is_some() && master != env.raw("REGION") {
        warnings.push(unused::MASTER_REGION);
    }
    warnings
}

#[cfg(test)]
mod tests;
