//! Variables of the original that do nothing here, so that compose and Helm files stay as they are (spec: config, column Rust).

use std::fmt;

/// Something in the environment that has no effect, or not the one that it seems to have. To be logged once at start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    /// The variable.
    pub variable: &'static str,
    /// Why it has no effect.
    pub reason: &'static str,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "env {} is set and has no effect: {}",
            self.variable, self.reason
        )
    }
}

const ERLANG: &str = "there is no Erlang VM";
const RPC: &str = "nodes do not talk over Erlang's RPC, and so far not at all";
const DISCOVERY: &str = "a node serves alone so far";
const PER_CORE: &str = "work is spread over the shards, one per core; see SHARDS";
const REGIONS: &str = "a tenant is served by the node that its clients connect to";
const REPLICAS: &str = "tenants are kept in memory and read from DB_HOST alone";
const STDOUT: &str = "lines go to standard output";
const ONLY_TRACES: &str =
    "only traces are exported by OpenTelemetry; metrics are at /metrics, lines on standard output";
const SCRIPT: &str = "there is no start script; crashes are reported on standard error";
const BUFFERS: &str = "received bytes come in buffers that all connections of a shard share";
const NO_ADMIN: &str = "/admin knows basic authentication only";

/// Each variable and the reason.
pub(super) const UNUSED: &[(&str, &str)] = &[
    ("NUM_ACCEPTORS", PER_CORE),
    (
        "MEASURE_TRAFFIC_INTERVAL_IN_MS",
        "bytes are counted as they pass, and read when somebody asks",
    ),
    ("HTTP_DYNAMIC_BUFFER_MIN", BUFFERS),
    ("HTTP_DYNAMIC_BUFFER_MAX", BUFFERS),
    (
        "DB_QUEUE_INTERVAL",
        "the wait for a pooled connection is bounded by DB_QUEUE_TARGET alone",
    ),
    ("DB_REPLICA_HOST", REPLICAS),
    ("DB_REPLICA_POOL_SIZE", REPLICAS),
    ("DB_HOST_REPLICA_FRA", REPLICAS),
    ("DB_HOST_REPLICA_IAD", REPLICAS),
    ("DB_HOST_REPLICA_SIN", REPLICAS),
    ("DB_HOST_REPLICA_SJC", REPLICAS),
    (
        "MIGRATION_PARTITION_SLOTS",
        "a migration waits for its own database only, so all may run at the same time",
    ),
    ("CONNECT_PARTITION_SLOTS", PER_CORE),
    ("LOGS_ENGINE", STDOUT),
    ("LOGFLARE_API_KEY", STDOUT),
    ("LOGFLARE_SOURCE_ID", STDOUT),
    ("LOGFLARE_LOGGER_BACKEND_URL", STDOUT),
    (
        "LOG_THROTTLE_JANITOR_INTERVAL_IN_MS",
        "the table behind the bound on log lines is bounded itself",
    ),
    ("OTEL_METRICS_EXPORTER", ONLY_TRACES),
    ("OTEL_LOGS_EXPORTER", ONLY_TRACES),
    (
        "SECRET_KEY_BASE",
        "nothing is signed with it: there is no cookie and no long poll",
    ),
    ("CF_TEAM_DOMAIN", NO_ADMIN),
    ("ERL_AFLAGS", ERLANG),
    ("CLUSTER_NATS_URL", DISCOVERY),
    ("METRICS_RPC_TIMEOUT_IN_MS", DISCOVERY),
    ("DNS_NODES", DISCOVERY),
    ("CLUSTER_STRATEGIES", DISCOVERY),
    ("GEN_RPC_TCP_SERVER_PORT", RPC),
    ("GEN_RPC_TCP_CLIENT_PORT", RPC),
    ("GEN_RPC_SSL_SERVER_PORT", RPC),
    ("GEN_RPC_SSL_CLIENT_PORT", RPC),
    ("GEN_RPC_CERTFILE", RPC),
    ("GEN_RPC_KEYFILE", RPC),
    ("GEN_RPC_CACERTFILE", RPC),
    ("GEN_RPC_CONNECT_TIMEOUT_IN_MS", RPC),
    ("GEN_RPC_SEND_TIMEOUT_IN_MS", RPC),
    ("GEN_RPC_SOCKET_IP", RPC),
    ("GEN_RPC_IPV6_ONLY", RPC),
    ("GEN_RPC_MAX_BATCH_SIZE", RPC),
    ("GEN_RPC_COMPRESS", RPC),
    ("GEN_RPC_COMPRESSION_THRESHOLD_IN_BYTES", RPC),
    ("GEN_RPC_SOCKET_BUFFER", RPC),
    ("GEN_RPC_SOCKET_RECEIVE_BUFFER", RPC),
    ("GEN_RPC_SOCKET_SEND_BUFFER", RPC),
    ("MAX_GEN_RPC_CLIENTS", RPC),
    ("MAX_GEN_RPC_CALL_CLIENTS", RPC),
    ("RPC_TIMEOUT", RPC),
    ("REBALANCE_CHECK_INTERVAL_IN_MS", REGIONS),
    ("NODE_BALANCE_UPTIME_THRESHOLD_IN_MS", REGIONS),
    ("BROADCAST_POOL_SIZE", PER_CORE),
    ("PRESENCE_POOL_SIZE", PER_CORE),
    (
        "PRESENCE_BROADCAST_PERIOD_IN_MS",
        "presence is sent when it changes, not periodically",
    ),
    (
        "PRESENCE_PERMDOWN_PERIOD_IN_MS",
        "presence is sent when it changes, not periodically",
    ),
    ("USERS_SCOPE_SHARDS", PER_CORE),
    ("POSTGRES_CDC_SCOPE_SHARDS", PER_CORE),
    ("MUSTER_SCOPE_SHARDS", PER_CORE),
    ("REGION_MAPPING", REGIONS),
    (
        "AWS_EXECUTION_ENV",
        "nodes are not named after their platform",
    ),
    ("PUBSUB_ADAPTER", RPC),
    ("REGIONAL_BROADCASTING", REGIONS),
    ("ERL_CRASH_DUMP", ERLANG),
    ("ERL_CRASH_DUMP_SECONDS", ERLANG),
    ("ENABLE_ERL_CRASH_DUMP", SCRIPT),
    ("ERL_CRASH_DUMP_FOLDER", SCRIPT),
    ("ERL_CRASH_DUMP_FILE_NAME", SCRIPT),
    ("ERL_CRASH_DUMP_S3_BUCKET", SCRIPT),
    ("ERL_CRASH_DUMP_S3_HOST", SCRIPT),
    ("ERL_CRASH_DUMP_S3_PORT", SCRIPT),
    ("ERL_CRASH_DUMP_S3_KEY", SCRIPT),
    ("ERL_CRASH_DUMP_S3_SECRET", SCRIPT),
    ("GENERATE_CLUSTER_CERTS", RPC),
    ("CLUSTER_SECRET_ID", RPC),
    ("CLUSTER_SECRET_REGION", RPC),
    ("ELIXIR_ERL_OPTIONS", ERLANG),
    ("RELEASE_COOKIE", ERLANG),
    ("RELEASE_NODE", ERLANG),
    ("RELEASE_DISTRIBUTION", ERLANG),
];

/// The reasons of variables whose value decides. See `DASHBOARD_AUTH`.
pub(super) const DASHBOARD_ZTA: Warning = Warning {
    variable: "DASHBOARD_AUTH",
    reason: "zta is not supported, /admin stays closed",
};
/// See `DB_MASTER_REGION`.
pub(super) const MASTER_REGION: Warning = Warning {
    variable: "DB_MASTER_REGION",
    reason: "every node writes to DB_HOST itself",
};
/// See `DB_ENC_WRITE_GCM`.
pub(super) const GCM_WITHOUT_KEY: Warning = Warning {
    variable: "DB_ENC_WRITE_GCM",
    // In the original's words (spec: control-database 4.2).
    reason: "DB_ENC_WRITE_GCM is set but DB_ENC_KEY_GCM is missing, continuing with AES-128-ECB",
};
/// See `METRICS_PUSHER_ENABLED`.
pub(super) const PUSHER_WITHOUT_URL: Warning = Warning {
    variable: "METRICS_PUSHER_ENABLED",
    reason: "METRICS_PUSHER_URL is not set",
};
