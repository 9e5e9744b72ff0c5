//! The page, read as Prometheus reads it.

use super::roll::Row;
use super::*;
use crate::control::log::Log;
use crate::control::outgoing::Outgoing;
use crate::control::tenants::Registry;
use crate::control::tenants::tests::{record, registry};
use crate::control::{changes, messages};
use crate::error::ErrorCode;
use crate::mail::TopicHasher;
use crate::metrics::{Refused, Relayed, Slow};
use crate::phoenix::Vsn;
use crate::tenant::{Counter, Tenant};
use read::Read;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::task::LocalSet;

mod deploy;
mod read;

fn node() -> Node {
    let (config, _) = Config::from_env(|_| None).unwrap();
    Node::of(&config)
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test)
}

/// The tenants' part, of these.
fn tenants_part(node: &Node, rows: impl IntoIterator<Item = Row>) -> String {
    let mut roll = Roll::default();
    rows.into_iter().for_each(|row| roll.insert(row));
    let labels = node.labels();
    let mut text = Exposition::new(&labels);
    run(tenants::write(&mut text, &roll));
    text.end_part();
    text.into_text()
}

fn row_of(tenant: &Tenant) -> Row {
    let name = Arc::clone(&tenant.external_id);
    Row::new(tenant.id, name, Arc::clone(&tenant.usage))
}

/// A tenant that has been here in every way, with a different number in every place.
fn busy(name: &str) -> Row {
    let (tenant, _) = registry().apply(&record(name));
    let usage = &tenant.usage;
    assert!(usage.try_add_user(9) && usage.try_add_user(9));
    for (counter, count) in [
        (Counter::Joins, 31),
        (Counter::Events, 32),
        (Counter::PresenceEvents, 33),
        (Counter::DbEvents, 40),
    ] {
        let _ = usage.count(0, counter, count);
    }
    let _ = usage.count(1, Counter::DbEvents, 2);
    usage.traffic(0).received.add(51);
    usage.traffic(0).sent.add(52);
    for _ in 0..3 {
        usage.count_error(0, ErrorCode::MalformedJWT);
    }
    usage.count_error(1, ErrorCode::Unauthorized);
    let changes = changes::Measures::default();
    let (source, visibility) = (&changes.source, &changes.visibility);
    let cells = [
        &changes.subscriptions,
        &changes.seen,
        &changes.delivered,
        &changes.batches,
        &changes.deciding_us,
        &visibility.checks,
        &visibility.keys,
        &visibility.time_us,
        &visibility.transactions,
        &visibility.bisections,
        &visibility.connections,
        &visibility.given_up,
        &changes.lag_ms,
        &source.lag_bytes,
        &source.retained_bytes,
        &changes.gaps,
        &source.slots,
        &source.streams,
        &source.messages,
        &source.bytes,
    ];
    for (cell, number) in cells.into_iter().zip(101..) {
        cell.set(number);
    }
    for (reason, count) in changes::Dropped::ALL.into_iter().zip(201..) {
        changes.count_dropped(reason, count);
    }
    let messages = messages::Measures::default();
    let cells = [
        &messages.delivered,
        &messages.read_from_table,
        &messages.too_old,
        &messages.streams,
    ];
    for (cell, number) in cells.into_iter().zip(301..) {
        cell.set(number);
    }
    messages.lag.set(messages::Lag {
        bytes: 305,
        ms: 3060,
    });
    messages.count_drop(messages::Dropped::TooManyRequests);
    let mut row = row_of(&tenant);
    row.changes = Some(Rc::new(changes));
    row.messages = Some(Rc::new(messages));
    row
}

/// Name, reason, kind and value of what is said of [`busy`].
const BUSY: &str = "
realtime_connections_connected - gauge 2
realtime_connections_connected_cluster - gauge 2
realtime_channel_joins - counter 31
realtime_channel_events - counter 32
realtime_channel_presence_events - counter 33
realtime_channel_db_events - counter 42
realtime_channel_input_bytes - counter 51
realtime_channel_output_bytes - counter 52
realtime_subscriptions_manager_subscribers - gauge 101
realtime_replication_poller_changes_skip rate_limited counter 201
realtime_postgres_changes_seen_total - counter 102
realtime_postgres_changes_delivered_total - counter 103
realtime_postgres_changes_batches_total - counter 104
realtime_postgres_changes_deciding_seconds_total - counter 0.000105
realtime_postgres_changes_rls_checks_total - counter 106
realtime_postgres_changes_rls_keys_total - counter 107
realtime_postgres_changes_rls_seconds_total - counter 0.000108
realtime_postgres_changes_rls_transactions_total - counter 109
realtime_postgres_changes_rls_bisections_total - counter 110
realtime_postgres_changes_rls_connections_total - counter 111
realtime_postgres_changes_rls_connections_given_up_total - counter 112
realtime_postgres_changes_lag_seconds - gauge 0.113
realtime_postgres_changes_lag_bytes - gauge 114
realtime_postgres_changes_retained_wal_bytes - gauge 115
realtime_postgres_changes_gaps_total - counter 116
realtime_postgres_changes_slots_total - counter 117
realtime_postgres_changes_streams_total - counter 118
realtime_postgres_changes_stream_messages_total - counter 119
realtime_postgres_changes_stream_bytes_total - counter 120
realtime_postgres_changes_dropped_total rate_limited counter 201
realtime_postgres_changes_dropped_total table_gone counter 202
realtime_postgres_changes_dropped_total garbled counter 203
realtime_postgres_changes_dropped_total no_verdict counter 204
realtime_broadcast_from_database_delivered_total - counter 301
realtime_broadcast_from_database_read_from_table_total - counter 302
realtime_broadcast_from_database_too_old_total - counter 303
realtime_broadcast_from_database_streams_total - counter 304
realtime_broadcast_from_database_lag_bytes - gauge 305
realtime_broadcast_from_database_lag_seconds - gauge 3.060
realtime_broadcast_from_database_dropped_total inserted_at_missing counter 0
realtime_broadcast_from_database_dropped_total event_missing counter 0
realtime_broadcast_from_database_dropped_total id_missing counter 0
realtime_broadcast_from_database_dropped_total topic_missing counter 0
realtime_broadcast_from_database_dropped_total private_missing counter 0
realtime_broadcast_from_database_dropped_total payload_missing counter 0
realtime_broadcast_from_database_dropped_total payload_size_exceeded counter 0
realtime_broadcast_from_database_dropped_total too_many_requests counter 1
realtime_broadcast_from_database_dropped_total name_too_long counter 0
";

/// Families of tenants that are not in [`BUSY`].
const OTHERS: [&str; 8] = [
    "realtime_channel_error",
    "realtime_tenants_payload_size",
    "realtime_replication_poller_query_duration",
    "realtime_tenants_read_authorization_check",
    "realtime_tenants_write_authorization_check",
    "realtime_tenants_broadcast_from_database_latency_committed_at",
    "realtime_tenants_broadcast_from_database_latency_inserted_at",
    "realtime_tenants_replay",
];

#[test]
fn every_number_is_where_it_belongs() {
    let read = Read::of(&tenants_part(&node(), [busy("a"), busy("b")]));
    // Two codes of errors for each of both.
    let mut expected = 4;
    for row in BUSY.lines().filter(|row| !row.is_empty()) {
        let columns: Vec<&str> = row.split(' ').collect();
        let reason = match columns[1] {
            "-" => String::new(),
            reason => format!("reason=\"{reason}\","),
        };
        for tenant in ["a", "b"] {
            let labels = format!("{reason}tenant=\"{tenant}\"");
            let value = read.value(columns[0], &labels);
            assert_eq!(value, Some(columns[3]), "{row}");
            expected += 1;
        }
        assert_eq!(read.kinds[columns[0]], columns[2], "{row}");
        let is_ours = columns[0].contains("postgres_changes") || columns[0].contains("database");
        let is_total = columns[0].ends_with("_total");
        assert!(!is_ours || is_total == (columns[2] == "counter"), "{row}");
    }
    let errors = |code| {
        let labels = format!("code=\"{code}\",tenant=\"a\"");
        read.value("realtime_channel_error", &labels)
    };
    assert_eq!(errors("MalformedJWT"), Some("3"));
    assert_eq!(errors("Unauthorized"), Some("1"));
    assert_eq!(read.series.len(), expected, "and nothing else");
}

#[test]
fn families_stand_without_series() {
    let read = Read::of(&tenants_part(&node(), []));
    let in_table = BUSY.lines().filter_map(|row| row.split_once(' '));
    let names: BTreeSet<&str> = in_table.map(|row| row.0).chain(OTHERS).collect();
    assert_eq!(
        read.kinds.keys().collect::<Vec<_>>(),
        names.iter().collect::<Vec<_>>()
    );
    assert!(read.series.is_empty());
}

#[test]
fn sizes_and_times_are_histograms_with_the_originals_bounds() {
    let (tenant, _) = registry().apply(&record("a"));
    let usage = &tenant.usage;
    usage.count_payload(0, Relayed::Broadcast, 250);
    usage.count_payload(1, Relayed::Broadcast, 3_000_001);
    usage.count_payload(1, Relayed::Presence, 1);
    let latencies = usage.latencies();
    latencies.changes.observe(251);
    latencies.read_authorization.observe(11);
    latencies.write_authorization.observe(15_001);
    latencies.replay.observe(0);
    latencies.committed_to_broadcast.observe(10);
    latencies.inserted_to_broadcast.observe(5001);
    let read = Read::of(&tenants_part(&node(), [row_of(&tenant)]));
    let check = |name: &str, labels: &str, bounds: &[&str], below: &[&str]| {
        let labels = format!("{labels}tenant=\"a\"");
        for (bound, below) in bounds.iter().chain(&["+Inf"]).zip(below) {
            let value = read.value(
                &format!("{name}_bucket"),
                &format!("le=\"{bound}\",{labels}"),
            );
            assert_eq!(value, Some(*below), "{name} {bound}");
        }
        let bucket = format!("{name}_bucket");
        let of_these = |series: &&String| {
            series.starts_with(&bucket) && (labels.split(',')).all(|label| series.contains(label))
        };
        let buckets = read.series.keys().filter(of_these).count();
        assert_eq!(buckets, bounds.len() + 1, "{name}");
    };
    let wide = [
        "250.0",
        "500.0",
        "1000.0",
        "3000.0",
        "5000.0",
        "10000.0",
        "25000.0",
        "100000.0",
        "500000.0",
        "1000000.0",
        "3000000.0",
    ];
    let size = "realtime_tenants_payload_size";
    let of_broadcasts = "message_type=\"broadcast\",";
    check(
        size,
        of_broadcasts,
        &wide,
        &["1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "2"],
    );
    check(size, "message_type=\"presence\",", &wide, &["1"; 12]);
    let sum = read.value(
        &format!("{size}_sum"),
        &format!("{of_broadcasts}tenant=\"a\""),
    );
    assert_eq!(sum, Some("3000251"));
    let query = "realtime_replication_poller_query_duration";
    let of_query = ["0", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1"];
    check(query, "", &wide, &of_query);
    let asked = ["10.0", "250.0", "5000.0", "15000.0"];
    let read_check = "realtime_tenants_read_authorization_check";
    check(read_check, "", &asked, &["0", "1", "1", "1", "1"]);
    let write_check = "realtime_tenants_write_authorization_check";
    check(write_check, "", &asked, &["0", "0", "0", "0", "1"]);
    check("realtime_tenants_replay", "", &asked, &["1"; 5]);
    let way = ["10.0", "250.0", "5000.0"];
    let latency = "realtime_tenants_broadcast_from_database_latency_";
    check(&format!("{latency}committed_at"), "", &way, &["1"; 4]);
    check(
        &format!("{latency}inserted_at"),
        "",
        &way,
        &["0", "0", "0", "1"],
    );
}

#[test]
fn names_of_tenants_are_escaped() {
    let page = tenants_part(&node(), [busy("a\"\\\nb")]);
    let expected = r#"realtime_connections_connected{host="127.0.0.1",id="realtime@127.0.0.1",region="nil",tenant="a\"\\\nb"} 2"#;
    assert!(page.lines().any(|line| line == expected), "{page}");
}

#[test]
fn region_and_name_of_the_node_are_configured() {
    let variables = |name: &str| match name {
        "REGION" => Some("eu-1".to_owned()),
        "APP_NAME" => Some("pink".to_owned()),
        _ => None,
    };
    let (config, _) = Config::from_env(variables).unwrap();
    let page = tenants_part(&Node::of(&config), [busy("a")]);
    let expected = r#"realtime_connections_connected{host="127.0.0.1",id="pink@127.0.0.1",region="eu-1",tenant="a"} 2"#;
    assert!(page.lines().any(|line| line == expected), "{page}");
}

/// A server without shards, on paper.
struct Stage {
    registry: Registry,
    environment: Rc<Environment>,
    instruments: Instruments,
    metrics: Metrics,
}

impl Stage {
    /// To be called within the `LocalSet`.
    fn new(variables: &[(&str, &str)]) -> Self {
        let get = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let registry = registry();
        let environment = Rc::new(Environment {
            config: Arc::new(Config::from_env(get).unwrap().0),
            tenants: registry.watch(),
            outgoing: Outgoing::new().0,
            notices: mpsc::channel(1).0,
            hasher: TopicHasher::new(1),
            cell: 1,
            log: Log::for_test().0,
        });
        let instruments = Instruments::for_test(1);
        let sessions = Sessions::new(Rc::clone(&environment));
        let hub = Hub::start(sessions.clone(), Rc::clone(&environment));
        let metrics = Metrics::start(hub, sessions, Rc::clone(&environment), instruments.clone());
        Self {
            registry,
            environment,
            instruments,
            metrics,
        }
    }

    async fn text(&self) -> String {
        let page = self.metrics.page().await.expect("it can be written");
        let parts = page.parts();
        let parts = parts.iter().map(|part| str::from_utf8(part).unwrap());
        parts.collect()
    }

    async fn read(&self) -> Read {
        Read::of(&self.text().await)
    }

    fn add(&mut self, name: &str) -> Arc<Tenant> {
        self.registry.apply(&record(name)).0
    }
}

#[test]
fn both_parts_end_and_tenants_are_apart() {
    run(async {
        let stage = Stage::new(&[]);
        let page = stage.metrics.page().await.unwrap();
        let [node, tenants] = page
            .parts()
            .map(|part| String::from_utf8(part.into()).unwrap());
        for part in [&node, &tenants] {
            assert_eq!(part.matches("# EOF\n").count(), 1);
            assert!(part.ends_with("# EOF\n"));
        }
        assert!(node.contains("\nrealtime_connections_global_connected{"));
        assert!(tenants.contains("# TYPE realtime_connections_connected gauge\n"));
    });
}

#[test]
fn a_tenant_that_was_never_here_has_no_series() {
    run(async {
        let mut stage = Stage::new(&[]);
        let _away = stage.add("away");
        let left = stage.add("left");
        let _ = left.usage.count(0, Counter::Joins, 1);
        let refused = stage.add("refused");
        refused
            .usage
            .count_error(0, ErrorCode::JoinsRateLimitReached);
        let read = stage.read().await;
        let check = |name: &str, expected: &[&str]| {
            let expected = expected.iter().copied().collect();
            assert_eq!(read.tenants(name), expected, "{name}");
        };
        check("realtime_connections_connected", &["left", "refused"]);
        check("realtime_channel_error", &["refused"]);
        check("realtime_channel_db_events", &[]);
    });
}

#[test]
fn the_page_is_read_where_things_are_counted() {
    run(async {
        let mut stage = Stage::new(&[]);
        let tenant = stage.add("b");
        stage.add("a");
        let users = async |stage: &Stage| {
            let read = stage.read().await;
            let name = "realtime_connections_connected";
            assert_eq!(read.value(name, "tenant=\"a\""), None);
            read.value(name, "tenant=\"b\"").map(str::to_owned)
        };
        assert_eq!(users(&stage).await, None);
        assert!(tenant.usage.try_add_user(1));
        assert_eq!(users(&stage).await.as_deref(), Some("1"));
        tenant.usage.remove_user();
        let _ = tenant.usage.count(0, Counter::Joins, 1);
        assert_eq!(users(&stage).await.as_deref(), Some("0"));
    });
}

#[test]
fn the_node_says_what_its_threads_have_counted() {
    run(async {
        let stage = Stage::new(&[("MAX_CONNECTIONS", "77")]);
        let Instruments {
            board,
            control,
            runtime,
            ..
        } = &stage.instruments;
        runtime[0].sockets.set(5);
        runtime[0].connections.set(4);
        runtime[0].bytes_queued.set(6);
        runtime[0].turn_ns.observe(2_000_000);
        control.http_connections.add(2);
        control.letters_unsent.set(9);
        board[0].joins_ok.add(3);
        board[0].joins_refused.add(1);
        board[0].handled_ms.observe_many(11, 2);
        board[0].upgraded_ms[Vsn::V2 as usize].observe(1);
        board[0].count_refused(Refused::Token);
        board[0].slow[Slow::Stalled as usize].add(8);
        board[0].channels.set(12);
        let control = board.control();
        control.count_refused(Refused::TooManyUsers);
        control.count_refused_upgrade(Vsn::V1, Duration::from_secs(2));
        let read = stage.read().await;
        let check = |name: &str, labels: &str, expected: &str| {
            assert_eq!(read.value(name, labels), Some(expected), "{name} {labels}");
        };
        check("phoenix_connections_total", "", "7");
        check("phoenix_connections_active", "", "6");
        check("phoenix_connections_max", "", "77");
        let endpoint = r#"endpoint="RealtimeWeb.Endpoint""#;
        let joined = "phoenix_channel_joined_total";
        for (result, count) in [("ok", "3"), ("error", "1")] {
            let labels = format!("{endpoint},result=\"{result}\",transport=\"websocket\"");
            check(joined, &labels, count);
        }
        let handled = "phoenix_channel_handled_in_duration_milliseconds";
        check(
            &format!("{handled}_bucket"),
            &format!("{endpoint},le=\"10.0\""),
            "0",
        );
        check(
            &format!("{handled}_bucket"),
            &format!("{endpoint},le=\"100.0\""),
            "2",
        );
        check(&format!("{handled}_sum"), endpoint, "22");
        let connected = "phoenix_socket_connected_duration_milliseconds_count";
        let of = |result: &str, serializer: &str| {
            format!(
                "{endpoint},result=\"{result}\",serializer=\"{serializer}\",transport=\"websocket\""
            )
        };
        let v1 = "Elixir.Phoenix.Socket.V1.JSONSerializer";
        let v2 = "Elixir.RealtimeWeb.Socket.V2Serializer";
        check(connected, &of("ok", v2), "1");
        check(connected, &of("ok", v1), "0");
        check(connected, &of("error", v1), "1");
        let refused = "realtime_upgrades_refused_total";
        check(refused, r#"reason="token",shard="0""#, "1");
        check(refused, r#"reason="too_many_users",shard="control""#, "1");
        check(
            "realtime_slow_readers_closed_total",
            r#"reason="stalled",shard="0""#,
            "8",
        );
        check("realtime_shard_outbox_bytes", r#"shard="0""#, "6");
        check("realtime_shard_channels", r#"shard="0""#, "12");
        let turns = "realtime_shard_turn_duration_seconds";
        check(&format!("{turns}_bucket"), r#"le="0.001",shard="0""#, "0");
        check(&format!("{turns}_bucket"), r#"le="0.01",shard="0""#, "1");
        check(&format!("{turns}_sum"), r#"shard="0""#, "0.002000000");
        check(
            "realtime_shard_driver_info",
            r#"driver="sim",shard="0""#,
            "1",
        );
        check("realtime_control_letters_waiting", "", "9");
        check("realtime_control_http_connections", "", "2");
        check("realtime_metrics_tenants_left_out", "", "0");
        check("beam_system_schedulers_online_info", "", "1");
        for name in [
            "osmon_ram_usage",
            "osmon_cpu_avg1",
            "beam_memory_allocated_bytes",
        ] {
            let value = read.value(name, "").unwrap().parse::<f64>().unwrap();
            assert!(value > 0.0 || name == "osmon_cpu_avg1", "{name} {value}");
        }
    });
}

#[test]
fn sums_outlive_their_tenants() {
    run(async {
        let mut stage = Stage::new(&[]);
        let (one, two) = (stage.add("one"), stage.add("two"));
        for (tenant, count) in [(&one, 5), (&two, 7)] {
            let usage = &tenant.usage;
            let _ = usage.count(0, Counter::Events, count);
            usage.traffic(0).sent.add(count);
            usage.count_payload(0, Relayed::Broadcast, 1);
            usage.count_error(0, ErrorCode::Unauthorized);
        }
        let sums = |read: &Read| {
            let payloads = "message_type=\"broadcast\"";
            [
                ("realtime_channel_global_events", ""),
                ("realtime_channel_global_output_bytes", ""),
                ("realtime_payload_size_count", payloads),
                ("realtime_channel_global_error", "code=\"Unauthorized\""),
            ]
            .map(|(name, labels)| read.value(name, labels).unwrap().to_owned())
        };
        let before = stage.read().await;
        assert_eq!(sums(&before), ["12", "12", "2", "2"]);
        stage.registry.remove("two");
        let after = stage.read().await;
        assert_eq!(sums(&after), ["12", "12", "2", "2"]);
        let events = "realtime_channel_events";
        assert_eq!(after.tenants(events), BTreeSet::from(["one"]));
        // Made again, it begins anew, and the sum goes on.
        let again = stage.add("two");
        let _ = again.usage.count(0, Counter::Events, 1);
        let read = stage.read().await;
        assert_eq!(read.value(events, "tenant=\"two\""), Some("1"));
        assert_eq!(sums(&read)[0], "13");
        assert_eq!(sums(&stage.read().await)[0], "13", "nothing is added twice");
    });
}

/// Time is moved by tokio, whose clock stands still otherwise.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[test]
fn a_vacant_tenant_is_hidden_until_it_comes_back() {
    run(async {
        let variables = [
            ("RUN_JANITOR", "true"),
            ("METRICS_CLEANER_SCHEDULE_TIMER_IN_MS", "120000"),
            ("JANITOR_RUN_AFTER_IN_MS", "999999999"),
        ];
        let mut stage = Stage::new(&variables);
        let (gone, here) = (stage.add("gone"), stage.add("here"));
        let _ = gone.usage.count(0, Counter::Joins, 4);
        assert!(here.usage.try_add_user(1));
        let joins = "realtime_channel_joins";
        let shown = async |stage: &Stage| {
            let read = stage.read().await;
            let of_all = read.value("realtime_channel_global_joins", "");
            assert_eq!(of_all, Some("4"), "what is hidden counts");
            let tenants = read.tenants(joins).into_iter().map(str::to_owned);
            tenants.collect::<Vec<_>>()
        };
        assert_eq!(shown(&stage).await, ["gone", "here"]);
        pass(590).await;
        assert_eq!(shown(&stage).await, ["gone", "here"], "not for so long");
        pass(400).await;
        assert_eq!(shown(&stage).await, ["here"]);
        assert!(gone.usage.try_add_user(1));
        let read = stage.read().await;
        assert_eq!(read.value(joins, "tenant=\"gone\""), Some("4"), "as it was");
        gone.usage.remove_user();
        pass(1000).await;
        assert_eq!(shown(&stage).await, ["here"]);
    });
}

#[test]
fn without_a_janitor_nothing_is_hidden() {
    run(async {
        let variables = [("METRICS_CLEANER_SCHEDULE_TIMER_IN_MS", "120000")];
        let mut stage = Stage::new(&variables);
        let _ = stage.add("gone").usage.count(0, Counter::Joins, 4);
        stage.read().await;
        pass(10_000).await;
        let read = stage.read().await;
        let shown = read.tenants("realtime_channel_joins");
        assert_eq!(shown, BTreeSet::from(["gone"]));
        assert!(!stage.environment.config.janitor.is_enabled);
    });
}

#[test]
fn a_page_of_many_tenants_holds_nobody_up() {
    run(async {
        const TENANTS: usize = 1000;
        let mut stage = Stage::new(&[]);
        for n in 0..TENANTS {
            let usage = &stage.add(&format!("t{n:04}")).usage;
            let _ = usage.count(0, Counter::Joins, 1);
            usage.count_payload(0, Relayed::Broadcast, 1);
        }
        // Another task that always has something to do counts how often it gets its turn.
        let turns = Rc::new(Cell::new(0_usize));
        let counted = Rc::clone(&turns);
        let other = spawn_local(async move {
            loop {
                counted.set(counted.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        let read = stage.read().await;
        other.abort();
        assert_eq!(read.tenants("realtime_channel_joins").len(), TENANTS);
        let slices = read.series.len() / limits::METRICS_STEPS_PER_SLICE;
        assert!(
            turns.get() > slices / 2,
            "{} turns in {slices} slices",
            turns.get()
        );
    });
}

#[test]
fn tenants_beyond_the_bound_are_left_out_and_told_of() {
    run(async {
        let mut stage = Stage::new(&[]);
        for n in 0..limits::METRICS_TENANTS_MAX + 3 {
            let usage = &stage.add(&format!("t{n:05}")).usage;
            let _ = usage.count(0, Counter::Joins, 1);
        }
        let read = stage.read().await;
        let shown = read.tenants("realtime_channel_joins").len();
        assert_eq!(shown, limits::METRICS_TENANTS_MAX);
        assert_eq!(
            read.value("realtime_metrics_tenants_left_out", ""),
            Some("3")
        );
        let all = (limits::METRICS_TENANTS_MAX + 3).to_string();
        assert_eq!(read.value("realtime_channel_global_joins", ""), Some(&*all));
    });
}

#[test]
fn all_who_wait_get_the_same_page() {
    run(async {
        let stage = Stage::new(&[]);
        let (one, two) = tokio::join!(stage.metrics.page(), stage.metrics.page());
        let [one, two] = [one, two].map(|page| page.unwrap().parts()[0].as_ptr());
        assert_eq!(one, two, "their texts are in one place");
    });
}

#[test]
fn the_cleaner_comes_once_in_each_period() {
    let get = |name: &str| match name {
        "RUN_JANITOR" => Some("true".to_owned()),
        "METRICS_CLEANER_SCHEDULE_TIMER_IN_MS" => Some("120000".to_owned()),
        _ => None,
    };
    let (config, _) = Config::from_env(get).unwrap();
    let start = clock::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut cleaner = Cleaner::of(&config, start);
    let due = [60, 120, 121, 180, 240, 241].map(|seconds| cleaner.is_due(at(seconds)));
    assert_eq!(due, [false, true, false, false, true, false]);
}

#[test]
fn numbers_are_read_anew_after_a_moment() {
    run(async {
        let mut stage = Stage::new(&[]);
        let tenant = stage.add("a");
        let first = stage.metrics.scene().await.unwrap();
        assert_eq!(first.shards.len(), 1);
        stage.instruments.runtime[0].connections.add(3);
        let _ = tenant.usage.count(0, Counter::Events, 7);
        let same = stage.metrics.scene().await.unwrap();
        assert!(Arc::ptr_eq(&first, &same), "nobody reads them that often");
        tokio::time::sleep(limits::FIGURES_FRESH_FOR).await;
        let later = stage.metrics.scene().await.unwrap();
        assert!(later.uptime > first.uptime);
        assert_eq!(later.shards[0].connections, 3);
        assert_eq!(
            (
                first.totals.count(Counter::Events),
                later.totals.count(Counter::Events)
            ),
            (0, 7)
        );
    });
}
