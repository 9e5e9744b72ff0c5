//! Defaults, aliases, warnings and refusals.

use super::*;
use std::cell::RefCell;
use std::collections::BTreeSet;

fn config(variables: &[(&str, &str)]) -> Result<(Config, Vec<Warning>), String> {
    let get = |name: &str| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    };
    Config::from_env(get).map_err(|error| error.to_string())
}

fn read(variables: &[(&str, &str)]) -> Config {
    let (config, warnings) = config(variables).expect("the variables are right");
    assert_eq!(warnings, [], "{variables:?}");
    config
}

#[test]
fn an_empty_environment_serves_on_port_4000() {
    let config = read(&[]);
    assert_eq!(
        (config.port, config.bind, config.ip_version),
        (4000, None, IpVersion::Auto)
    );
    assert_eq!(
        (config.connections_max, config.open_files_max),
        (16_384, None)
    );
    assert_eq!(
        (config.shards, config.cores, config.driver),
        (None, None, Driver::Auto)
    );
    assert_eq!(
        (config.header_value_bytes_max, config.queued_bytes_max),
        (4096, 50_000_000)
    );
    assert_eq!(
        (config.idle_timeout_ms, config.no_channel_timeout_ms),
        (60_000, 600_000)
    );
    assert_eq!(
        (
            config.connect_error_backoff_ms,
            config.channel_error_backoff_ms
        ),
        (2000, 5000)
    );
    assert_eq!(
        (
            config.client_presence_calls_max,
            config.client_presence_window_ms
        ),
        (5, 30_000)
    );
    assert!(config.any_host_single_tenant);
    assert!(config.database.is_none());
    assert_eq!(config.data_dir, PathBuf::from("data"));
    assert!(config.api_jwt_secret.is_none() && config.metrics_jwt_secret.is_none());
    assert_eq!(
        (config.log_level, config.log_format),
        (Level::Info, LogFormat::Text)
    );
    assert!(config.logs_healthchecks);
    assert_eq!(config.self_host.tenant_name, "realtime-dev");
    assert!(!config.self_host.seeds);
    assert_eq!(
        config.self_host.jwt_secret.expose(),
        SelfHost::DEFAULT_JWT_SECRET
    );
    assert_eq!(config.tenant_defaults.users_max, 200);
    assert_eq!(config.janitor.period_ms, 14_400_000);
    assert_eq!(config.replication_watchdog_interval_ms, 300_000);
    assert_eq!(config.replication_slot_wal_bytes_max, 1 << 30);
    assert!(config.metrics.pusher.is_none());
    assert_eq!(config.request_id_baggage_key, "request-id");
}

#[test]
fn values_reach_their_fields() {
    let config = read(&[
        ("PORT", "0"),
        ("BIND", "127.0.0.1"),
        ("RLIMIT_NOFILE", "unlimited"),
        ("REALTIME_IP_VERSION", "ipv6"),
        ("SHARDS", "2"),
        ("CPU_AFFINITY", "1-2"),
        ("DRIVER", "epoll"),
        ("LOG_LEVEL", "warning"),
        ("LOG_FORMAT", "json"),
        ("DISABLE_HEALTHCHECK_LOGGING", "1"),
        ("ANY_HOST_SINGLE_TENANT", "false"),
        ("API_TOKEN_BLOCKLIST", "a, b"),
        ("JWT_CLAIM_VALIDATORS", r#"{"iss":"me"}"#),
        ("API_JWT_SECRET", "s"),
        ("API_JWT_JWKS", r#"{"keys":[]}"#),
        ("SEED_SELF_HOST", "true"),
        ("EMBEDDED_TENANTS", "tenants.json"),
    ]);
    assert_eq!((config.port, config.bind), (0, Some([127, 0, 0, 1].into())));
    assert_eq!(
        (config.ip_version, config.shards, config.cores),
        (IpVersion::V6, Some(2), Some(vec![1, 2]))
    );
    assert_eq!(
        (config.driver, config.log_level, config.log_format),
        (Driver::Epoll, Level::Warning, LogFormat::Json)
    );
    assert_eq!(config.open_files_max, Some(u64::MAX));
    assert_eq!(
        read(&[("RLIMIT_NOFILE", "20000")]).open_files_max,
        Some(20_000)
    );
    assert_eq!(read(&[("RLIMIT_NOFILE", " ")]).open_files_max, None);
    assert_eq!(read(&[("LOG_LEVEL", "warn")]).log_level, Level::Warning);
    assert!(!config.logs_healthchecks && !config.any_host_single_tenant);
    assert_eq!(
        config.api_token_blocklist,
        [Secret::new("a".into()), Secret::new("b".into())]
    );
    assert_eq!(config.claim_validators.get("iss"), Some(&"me".into()));
    assert_eq!(config.self_host.jwt_secret.expose(), "s");
    assert_eq!(
        config.self_host.jwt_jwks,
        Some(serde_json::json!({"keys": []}))
    );
    assert!(config.self_host.seeds);
    assert_eq!(config.embedded_tenants, Some(PathBuf::from("tenants.json")));
    assert!(
        !read(&[("SEED_SELF_HOST", "TRUE")]).self_host.seeds,
        "a shell test: exactly true"
    );
    assert_eq!(
        read(&[("REALTIME_IP_VERSION", "ipv5")]).ip_version,
        IpVersion::Auto
    );
}

#[test]
fn the_main_database_is_used_when_it_has_a_host() {
    assert!(read(&[("DB_PORT", "5433")]).database.is_none());
    assert!(read(&[("DB_HOST", "")]).database.is_none());
    let database = read(&[("DB_HOST", "db"), ("DB_SSL", "true")])
        .database
        .expect("it has a host");
    assert_eq!(
        (database.port, &*database.user, &*database.name),
        (5432, "supabase_admin", "postgres")
    );
    assert!(database.has_tls);
    assert_eq!(database.connections_max, 5);
    let error = config(&[("DB_IP_VERSION", "4")]).err();
    assert_eq!(
        error.as_deref(),
        Some("Invalid IP version, please set either ipv6 or ipv4 (env DB_IP_VERSION, got \"4\")")
    );
}

/// What the command line tool of Supabase gives to the container, its own spaces and quotes included.
#[test]
fn the_environment_of_supabase_start_is_taken() {
    let (config, warnings) = config(&[
        ("PORT", "4000"),
        ("DB_HOST", "supabase_db_example"),
        ("DB_PORT", "5432"),
        ("DB_USER", "supabase_admin"),
        ("DB_PASSWORD", "postgres"),
        ("DB_NAME", "postgres"),
        ("DB_AFTER_CONNECT_QUERY", "SET search_path TO _realtime"),
        ("DB_ENC_KEY", "supabaserealtime"),
        (
            "API_JWT_SECRET",
            "super-secret-jwt-token-with-at-least-32-characters-long",
        ),
        ("API_JWT_JWKS", r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#),
        (
            "METRICS_JWT_SECRET",
            "super-secret-jwt-token-with-at-least-32-characters-long",
        ),
        ("APP_NAME", "realtime"),
        (
            "SECRET_KEY_BASE",
            "EAx3IQ/wRG1v47ZD4NE4/9RzBI8Jmil3x0yhcW4V2NHBP6c2iPIzwjofi2Ep4HIG",
        ),
        ("ERL_AFLAGS", "-proto_dist inet_tcp"),
        ("DNS_NODES", "''"),
        ("RLIMIT_NOFILE", ""),
        ("SEED_SELF_HOST", "true"),
        ("RUN_JANITOR", "true"),
        ("MAX_HEADER_LENGTH", "4096"),
        // Of older ones.
        ("FLY_ALLOC_ID", "abc123"),
        ("FLY_APP_NAME", "realtime"),
        ("ENABLE_TAILSCALE", "false"),
        ("REALTIME_IP_VERSION", "IPv4"),
    ])
    .expect("the tool starts the original with it");
    let warned: Vec<_> = warnings.iter().map(|warning| warning.variable).collect();
    assert_eq!(warned, ["SECRET_KEY_BASE", "ERL_AFLAGS", "DNS_NODES"]);
    assert_eq!((config.port, config.open_files_max), (4000, None));
    assert!(config.self_host.seeds && config.database.is_some());
}

#[test]
fn readme_names_are_aliases() {
    let readme = "DISCONNECT_SOCKET_ON_NO_CHANNELS_INTERVAL_IN_MS";
    assert_eq!(read(&[(readme, "7")]).no_channel_timeout_ms, 7);
    assert_eq!(
        read(&[(readme, "7"), ("NO_CHANNEL_TIMEOUT_IN_MS", "8")]).no_channel_timeout_ms,
        8
    );
    assert_eq!(
        read(&[("JANITOR_CLEANUP_MAX_CHILDREN", "9")])
            .janitor
            .tasks_max,
        9
    );
    assert_eq!(
        read(&[("JANITOR_CLEANUP_CHILDREN_TIMEOUT", "10")])
            .janitor
            .task_timeout_ms,
        10
    );
}

#[test]
fn wrong_values_are_named() {
    let check = |name: &str, value: &str, expected: &str| {
        let error = config(&[(name, value)]).err();
        assert_eq!(error.as_deref(), Some(expected), "{name}={value}");
    };
    check(
        "PORT",
        "http",
        "env PORT expected a Integer, got \"http\" (allowed: 0 to 65535)",
    );
    check(
        "PORT",
        "",
        "env PORT expected a Integer, got \"\" (allowed: 0 to 65535)",
    );
    check(
        "PORT",
        "70000",
        "env PORT expected an integer from 0 to 65535, got \"70000\"",
    );
    check(
        "SHARDS",
        "0",
        "env SHARDS expected an integer from 1 to 65535, got \"0\"",
    );
    check(
        "RUN_JANITOR",
        "yes",
        "env RUN_JANITOR expected a boolean or 0/1 values, got \"yes\" (allowed: true, false, 1, 0)",
    );
    check(
        "SLOT_NAME_SUFFIX",
        "blue-1",
        "env SLOT_NAME_SUFFIX expected at most 19 lower-case letters, digits and underscores, got \"blue-1\"",
    );
    check(
        "DRIVER",
        "iocp",
        "env DRIVER expected one of auto, uring, epoll, got \"iocp\"",
    );
    check(
        "JWT_CLAIM_VALIDATORS",
        "[]",
        "JWT claim validators is not a valid JSON object (env JWT_CLAIM_VALIDATORS expected one such as {\"iss\":\"me\"}, got \"[]\")",
    );
    check(
        "DB_ENC_KEY_GCM",
        "short",
        "DB_ENC_KEY_GCM must be exactly 32 bytes for AES-256-GCM, got 5 bytes",
    );
    check(
        "API_JWT_JWKS",
        "[]",
        "env API_JWT_JWKS expected a JSON object such as {\"keys\":[]}, got other JSON",
    );
    check(
        "API_JWT_JWKS",
        "secret",
        "env API_JWT_JWKS expected a JSON object such as {\"keys\":[]}, got 6 bytes that are no JSON",
    );
    check(
        "REGION_MAPPING",
        "[1]",
        "env REGION_MAPPING expected a JSON object of strings, got \"[1]\"",
    );
    let pair = "env HTTP_DYNAMIC_BUFFER_MIN and HTTP_DYNAMIC_BUFFER_MAX must be set together, or neither of them";
    check("HTTP_DYNAMIC_BUFFER_MIN", "1", pair);
    let levels = "emergency, alert, critical, error, warning, notice, info, debug, warn";
    check(
        "LOG_LEVEL",
        "loud",
        &format!("env LOG_LEVEL expected one of {levels}, got \"loud\""),
    );
    let labels = "env METRICS_PUSHER_EXTRA_LABELS expected pairs such as a=b,c=d, got \"a\"";
    check("METRICS_PUSHER_EXTRA_LABELS", "a", labels);
}

#[test]
fn a_push_needs_a_url_that_can_be_posted_to() {
    let check = |url: &str, expected: Result<(), &str>| {
        let get = |name: &str| match name {
            "METRICS_PUSHER_ENABLED" => Some("true".to_owned()),
            "METRICS_PUSHER_URL" => Some(url.to_owned()),
            _ => None,
        };
        let error = Config::from_env(get).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(error, expected.map_err(str::to_owned), "{url}");
    };
    check("http://localhost:8428/api/v1/import/prometheus", Ok(()));
    check("https://metrics/import?extra_label=a=b", Ok(()));
    check("http://[::1]:1/", Ok(()));
    check("https://metrics/import?mail=me@here", Ok(()));
    check(
        "ftp://metrics/import?token=hunter2",
        Err(
            "env METRICS_PUSHER_URL expected a URL such as http://localhost:8428/api/v1/import/prometheus, got \"ftp://metrics/import?***\"",
        ),
    );
    for url in [
        "metrics",
        "ftp://metrics/",
        "http:///x",
        "/x",
        "http://a b/",
    ] {
        let text = format!(
            "env METRICS_PUSHER_URL expected a URL such as http://localhost:8428/api/v1/import/prometheus, got \"{url}\""
        );
        check(url, Err(&text));
    }
    let text = "env METRICS_PUSHER_URL must not hold a user or a password: set METRICS_PUSHER_USER and METRICS_PUSHER_AUTH";
    for url in [
        "http://me:secret@metrics/",
        "http://me@metrics/",
        // A password with what ends a host elsewhere.
        "http://me:se/cret@metrics/",
        "http://me:se?cret@metrics/",
        "http://me:se#cret@metrics/",
        "http://me:se@cret@metrics/",
        "me:se/cret@metrics",
    ] {
        check(url, Err(text));
    }
    check("https://metrics:8428/import?mail=me@here", Ok(()));
}

#[test]
fn variables_without_effect_are_warned_about_once() {
    let warned = |variables: &[(&str, &str)]| -> Vec<&str> {
        let (_, warnings) = config(variables).expect("nothing is wrong");
        warnings.iter().map(|warning| warning.variable).collect()
    };
    assert_eq!(
        warned(&[("ERL_AFLAGS", "-proto_dist inet6_tcp"), ("PORT", "4000")]),
        ["ERL_AFLAGS"]
    );
    assert_eq!(warned(&[("DASHBOARD_AUTH", "zta")]), ["DASHBOARD_AUTH"]);
    let traffic = "MEASURE_TRAFFIC_INTERVAL_IN_MS";
    assert_eq!(warned(&[(traffic, "1000")]), [traffic]);
    assert_eq!(
        warned(&[("DB_ENC_WRITE_GCM", "true")]),
        ["DB_ENC_WRITE_GCM"]
    );
    let key = ("DB_ENC_KEY_GCM", "0123456789abcdef0123456789abcdef");
    assert_eq!(warned(&[("DB_ENC_WRITE_GCM", "true"), key]), [""; 0]);
    assert_eq!(
        warned(&[("METRICS_PUSHER_ENABLED", "true")]),
        ["METRICS_PUSHER_ENABLED"]
    );
    assert_eq!(
        warned(&[("DB_MASTER_REGION", "a"), ("REGION", "a")]),
        [""; 0]
    );
    assert_eq!(warned(&[("DB_MASTER_REGION", "a")]), ["DB_MASTER_REGION"]);
    let (_, warnings) = config(&[("DNS_NODES", "x")]).expect("nothing is wrong");
    let expected = "env DNS_NODES is set and has no effect: a node serves alone so far";
    assert_eq!(warnings[0].to_string(), expected);
}

#[test]
fn metrics_are_pushed_to_a_url() {
    let variables = [
        ("METRICS_PUSHER_ENABLED", "true"),
        ("METRICS_PUSHER_URL", "https://metrics"),
        ("METRICS_PUSHER_AUTH", "hunter2"),
        ("METRICS_PUSHER_EXTRA_LABELS", "a=b, c = d=e"),
    ];
    let pusher = read(&variables).metrics.pusher.expect("it is enabled");
    assert_eq!(
        (&*pusher.url, &*pusher.user, pusher.period_ms),
        ("https://metrics", "realtime", 30_000)
    );
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(pusher.extra_labels, [label("a", "b"), label("c", "d=e")]);
}

/// Everything that can be secret, set to something that nobody may read.
fn secrets() -> Vec<(&'static str, &'static str)> {
    let secret = "hunter2hunter2hu";
    let mut variables: Vec<_> = [
        "API_JWT_SECRET",
        "API_JWT_SECRET_NEXT",
        "METRICS_JWT_SECRET",
        "SECRET_KEY_BASE",
        "DB_PASSWORD",
        "DB_ENC_KEY",
        "API_TOKEN_BLOCKLIST",
        "METRICS_TOKEN_BLOCKLIST",
        "DASHBOARD_PASSWORD",
        "METRICS_PUSHER_AUTH",
        "LOGFLARE_API_KEY",
        "RELEASE_COOKIE",
        "ERL_CRASH_DUMP_S3_SECRET",
    ]
    .map(|name| (name, secret))
    .to_vec();
    variables.extend([
        ("DB_ENC_KEY_GCM", "hunter2hunter2hunter2hunter2hunt"),
        ("API_JWT_JWKS", r#"{"keys":[{"kty":"oct","k":"hunter2"}]}"#),
        ("CLUSTER_NATS_URL", "nats://hunter2@host"),
        ("DB_HOST", "db"),
        ("METRICS_PUSHER_ENABLED", "1"),
        ("METRICS_PUSHER_URL", "https://host/x?token=hunter2"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://hunter2@host"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=hunter2"),
    ]);
    variables
}

/// Reads these variables with everything that can be said of them, and a file behind them.
fn reading(variables: &[(&str, &str)], file: Option<&str>) -> Result<Reading, String> {
    let get = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let read_file = |_: &str| {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        file.map(str::to_owned).ok_or_else(missing)
    };
    Reading::of(get, read_file).map_err(|error| error.to_string())
}

#[test]
fn secrets_show_nowhere() {
    let read = reading(&secrets(), None).unwrap();
    let config = &read.config;
    assert!(
        config.database.is_some() && config.metrics.pusher.is_some() && config.traces.is_some()
    );
    let said = [
        format!("{read:?}"),
        read.report.text(),
        read.report.json(),
        format!("{:?}", read.warnings),
    ];
    for said in said {
        assert!(!said.contains("hunter2"), "{said}");
    }
    let text = read.report.text();
    for line in [
        "DB_ENC_KEY_GCM  *** (32 bytes or more)  (environment)",
        "API_TOKEN_BLOCKLIST  *** (1 of them)  (environment)",
        "METRICS_PUSHER_URL  https://host/x?***  (environment)",
        "CLUSTER_NATS_URL  *** (16 to 31 bytes)  (environment; without effect: a node serves alone so far)",
        "LOGFLARE_API_KEY  *** (16 to 31 bytes)  (environment; without effect: lines go to standard output)",
    ] {
        assert!(text.lines().any(|it| normal(it) == line), "{line}\n{text}");
    }
}

/// A line of a report without the spaces that align it.
fn normal(line: &str) -> String {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    format!("{name}  {}", rest.trim_start())
}

#[test]
fn a_report_says_where_each_value_comes_from() {
    let variables = [
        ("ENV_FILE", "realtime.env"),
        ("PORT", "4001"),
        ("JANITOR_CLEANUP_MAX_CHILDREN", "9"),
        ("RLIMIT_NOFILE", "unlimited"),
    ];
    let file = "PORT=4002\nREGION=eu\nLOG_LEVEL=error\n";
    let read = reading(&variables, Some(file)).unwrap();
    assert_eq!(
        (read.config.port, read.config.log_level),
        (4001, Level::Error)
    );
    let text = read.report.text();
    for line in [
        "ENV_FILE  realtime.env  (environment)",
        "PORT  4001  (environment)",
        "REGION  eu  (file)",
        "LOG_LEVEL  error  (file)",
        "JANITOR_MAX_CHILDREN  9  (alias JANITOR_CLEANUP_MAX_CHILDREN)",
        "RLIMIT_NOFILE  unlimited  (environment)",
        "MAX_CONNECTIONS  16384  (default)",
        "API_JWT_SECRET  (none)  (default)",
    ] {
        assert!(text.lines().any(|it| normal(it) == line), "{line}\n{text}");
    }
    let names: BTreeSet<_> = text.lines().map(|line| line.split(' ').next()).collect();
    assert_eq!(names.len(), text.lines().count(), "one line per variable");
}

#[test]
fn a_file_of_variables_must_be_there_and_right() {
    let named = [("ENV_FILE", "no.env")];
    let error = reading(&named, None).expect_err("there is none");
    let expected = "env ENV_FILE expected a file of lines NAME=value, got \"no.env\": ";
    assert!(error.starts_with(expected), "{error}");
    let error = reading(&named, Some("PORT=1\nx")).expect_err("a line without a name");
    assert!(error.ends_with("line 2 of no.env"), "{error}");
    let error = reading(&named, Some("PORT=x")).expect_err("a wrong value");
    assert!(error.starts_with("env PORT expected a Integer"), "{error}");
}

/// Variables that a platform or a start script sets for itself: nobody wants to read about them.
const SILENT: [&str; 3] = ["NODE_NAME", "POD_IP", "FLY_APP_NAME"];

/// Every name of spec config, sections 1 to 6.
const ORIGINAL: &str = "
    PORT REALTIME_IP_VERSION APP_NAME SECRET_KEY_BASE API_JWT_SECRET API_JWT_SECRET_NEXT API_TOKEN_BLOCKLIST
    METRICS_JWT_SECRET METRICS_TOKEN_BLOCKLIST JWT_CLAIM_VALIDATORS REGION CLUSTER MAX_CONNECTIONS MAX_HEADER_LENGTH
    NUM_ACCEPTORS HTTP_DYNAMIC_BUFFER_MIN HTTP_DYNAMIC_BUFFER_MAX WEBSOCKET_MAX_HEAP_SIZE NO_CHANNEL_TIMEOUT_IN_MS
    DISCONNECT_SOCKET_ON_NO_CHANNELS_INTERVAL_IN_MS CONNECT_ERROR_BACKOFF_MS CHANNEL_ERROR_BACKOFF_MS
    REQUEST_ID_BAGGAGE_KEY MEASURE_TRAFFIC_INTERVAL_IN_MS CLIENT_PRESENCE_MAX_CALLS CLIENT_PRESENCE_WINDOW_MS
    DB_HOST DB_PORT DB_USER DB_PASSWORD DB_NAME DB_ENC_KEY DB_ENC_KEY_GCM DB_ENC_WRITE_GCM DB_AFTER_CONNECT_QUERY
    DB_IP_VERSION DB_SSL DB_SSL_CA_CERT DB_POOL_SIZE DB_QUEUE_TARGET DB_QUEUE_INTERVAL DB_REPLICA_HOST
    DB_HOST_REPLICA_FRA DB_HOST_REPLICA_IAD DB_HOST_REPLICA_SIN DB_HOST_REPLICA_SJC DB_REPLICA_POOL_SIZE DB_MASTER_REGION
    TENANT_CACHE_EXPIRATION_IN_MS TENANT_MAX_BYTES_PER_SECOND TENANT_MAX_CHANNELS_PER_CLIENT TENANT_MAX_CONCURRENT_USERS
    TENANT_MAX_EVENTS_PER_SECOND TENANT_MAX_JOINS_PER_SECOND SEED_SELF_HOST SELF_HOST_TENANT_NAME API_JWT_JWKS
    SLOT_NAME_SUFFIX RUN_JANITOR JANITOR_SCHEDULE_TIMER_IN_MS JANITOR_SCHEDULE_RANDOMIZE JANITOR_RUN_AFTER_IN_MS
    JANITOR_MAX_CHILDREN JANITOR_CLEANUP_MAX_CHILDREN JANITOR_CHILDREN_TIMEOUT JANITOR_CLEANUP_CHILDREN_TIMEOUT
    JANITOR_CHUNK_SIZE MIGRATION_PARTITION_SLOTS CONNECT_PARTITION_SLOTS
    LOG_LEVEL LOGS_ENGINE LOGFLARE_API_KEY LOGFLARE_SOURCE_ID LOGFLARE_LOGGER_BACKEND_URL
    LOG_THROTTLE_JANITOR_INTERVAL_IN_MS DISABLE_HEALTHCHECK_LOGGING PROM_POLL_RATE METRICS_CLEANER_SCHEDULE_TIMER_IN_MS
    METRICS_RPC_TIMEOUT_IN_MS METRICS_PUSHER_ENABLED METRICS_PUSHER_URL METRICS_PUSHER_USER METRICS_PUSHER_AUTH
    METRICS_PUSHER_INTERVAL_MS METRICS_PUSHER_TIMEOUT_MS METRICS_PUSHER_COMPRESS METRICS_PUSHER_EXTRA_LABELS
    OTEL_SDK_DISABLED OTEL_TRACES_EXPORTER OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG OTEL_SERVICE_NAME
    OTEL_RESOURCE_ATTRIBUTES OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_HEADERS OTEL_EXPORTER_OTLP_TIMEOUT DASHBOARD_AUTH DASHBOARD_USER DASHBOARD_PASSWORD CF_TEAM_DOMAIN
    ERL_AFLAGS DNS_NODES CLUSTER_STRATEGIES GEN_RPC_TCP_SERVER_PORT GEN_RPC_TCP_CLIENT_PORT GEN_RPC_SSL_SERVER_PORT
    GEN_RPC_SSL_CLIENT_PORT GEN_RPC_CERTFILE GEN_RPC_KEYFILE GEN_RPC_CACERTFILE GEN_RPC_CONNECT_TIMEOUT_IN_MS
    GEN_RPC_SEND_TIMEOUT_IN_MS GEN_RPC_SOCKET_IP GEN_RPC_IPV6_ONLY GEN_RPC_MAX_BATCH_SIZE GEN_RPC_COMPRESS
    GEN_RPC_COMPRESSION_THRESHOLD_IN_BYTES GEN_RPC_SOCKET_BUFFER GEN_RPC_SOCKET_RECEIVE_BUFFER GEN_RPC_SOCKET_SEND_BUFFER
    MAX_GEN_RPC_CLIENTS MAX_GEN_RPC_CALL_CLIENTS RPC_TIMEOUT REBALANCE_CHECK_INTERVAL_IN_MS
    NODE_BALANCE_UPTIME_THRESHOLD_IN_MS BROADCAST_POOL_SIZE PRESENCE_POOL_SIZE PRESENCE_BROADCAST_PERIOD_IN_MS
    PRESENCE_PERMDOWN_PERIOD_IN_MS USERS_SCOPE_SHARDS POSTGRES_CDC_SCOPE_SHARDS MUSTER_SCOPE_SHARDS REGION_MAPPING
    AWS_EXECUTION_ENV PUBSUB_ADAPTER REGIONAL_BROADCASTING
    RLIMIT_NOFILE ERL_CRASH_DUMP ENABLE_ERL_CRASH_DUMP ERL_CRASH_DUMP_S3_BUCKET ERL_CRASH_DUMP_FOLDER
    ERL_CRASH_DUMP_FILE_NAME GENERATE_CLUSTER_CERTS CLUSTER_SECRET_ID CLUSTER_SECRET_REGION NODE_NAME POD_IP FLY_APP_NAME
    ELIXIR_ERL_OPTIONS RELEASE_COOKIE";

/// Those of our own (spec: config 8).
const OURS: &str = "SHARDS CPU_AFFINITY CLUSTER_NATS_URL DATA_DIR EMBEDDED_TENANTS DRIVER ANY_HOST_SINGLE_TENANT LOG_FORMAT IDLE_TIMEOUT_MS BIND
    ENV_FILE REPLICATION_WATCHDOG_INTERVAL_MS REPLICATION_SLOT_WAL_BYTES_MAX";

#[test]
fn every_variable_of_the_original_is_known() {
    let asked = RefCell::new(BTreeSet::new());
    let get = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        None
    };
    Config::from_env(get).expect("nothing is set");
    let asked = asked.into_inner();
    for name in ORIGINAL.split_whitespace().chain(OURS.split_whitespace()) {
        assert!(asked.contains(name) != SILENT.contains(&name), "{name}");
    }
    let warned: BTreeSet<_> = unused::UNUSED.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        warned.len(),
        unused::UNUSED.len(),
        "one reason per variable"
    );
}
