//! The page, read as Prometheus reads it.

use super::*;
use crate::control::log::Log;
use crate::control::outgoing::Outgoing;
use crate::control::tenants::tests::{record, registry};
use crate::mail::TopicHasher;
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::LocalSet;

/// A page as a scraper has it.
#[derive(Default)]
struct Read {
    kinds: BTreeMap<String, String>,
    /// Names with labels as they are written.
    series: BTreeMap<String, String>,
}

impl Read {
    /// Reads the text format strictly: every series belongs to the family above it, none comes twice.
    fn of(page: &str) -> Self {
        let mut read = Self::default();
        let mut family = "";
        assert!(page.ends_with("# EOF\n"));
        for line in page.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap();
                assert!(!text.is_empty() && !text.contains('\\'), "{line}");
                family = name;
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, family, "TYPE comes behind HELP");
                let before = read.kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} comes twice");
            } else if line != "# EOF" {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap();
                assert_eq!(name, family, "{line}");
                assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
                check_labels(labels.strip_suffix('}').unwrap());
                let before = read.series.insert(series.to_owned(), value.to_owned());
                assert_eq!(before, None, "{series} comes twice");
            }
        }
        read
    }

    /// The value of a series with the labels of the test's node.
    fn value(&self, name: &str, labels: &str) -> Option<&str> {
        let mut labels: Vec<_> = labels
            .split(',')
            .filter(|label| !label.is_empty())
            .collect();
        labels.extend([
            r#"host="127.0.0.1""#,
            r#"id="realtime@127.0.0.1""#,
            r#"region="nil""#,
        ]);
        labels.sort_unstable();
        let series = format!("{name}{{{}}}", labels.join(","));
        self.series.get(&series).map(String::as_str)
    }

    fn tenants(&self, name: &str) -> BTreeSet<&str> {
        let series = self.series.keys();
        let series = series.filter_map(|series| series.strip_prefix(name)?.strip_prefix('{'));
        series
            .filter_map(|labels| Some(labels.split_once("tenant=\"")?.1.split_once('"')?.0))
            .collect()
    }
}

/// Labels of which no value holds a comma.
fn check_labels(labels: &str) {
    let names: Vec<&str> = labels
        .split(',')
        .map(|label| {
            let (name, value) = label.split_once('=').unwrap();
            assert!(
                value.len() >= 2 && value.starts_with('"') && value.ends_with('"'),
                "{label}"
            );
            name
        })
        .collect();
    assert!(
        names.is_sorted() && names.starts_with(&["host", "id"]),
        "{names:?}"
    );
}

fn node() -> Node {
    let (config, _) = Config::from_env(|_| None).unwrap();
    Node::of(&config)
}

/// A tenant that has been here in every way, with a different number in every place.
fn busy(name: &str) -> Seen {
    let (tenant, _) = registry().apply(&record(name));
    assert!(tenant.usage.try_add_user(9) && tenant.usage.try_add_user(9));
    let _ = tenant.usage.count(0, Counter::DbEvents, 40);
    let _ = tenant.usage.count(1, Counter::DbEvents, 2);
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
    let seen = Seen::new(&tenant, Some(Rc::new(changes)), Some(Rc::new(messages)));
    seen.expect("it has been here")
}

/// Name, reason, kind and value of what is said of [`busy`].
const BUSY: &str = "
realtime_connections_connected - gauge 2
realtime_channel_db_events - counter 42
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

#[test]
fn every_number_is_where_it_belongs() {
    let page = page(&node(), &[busy("a"), busy("b")]);
    let read = Read::of(&page);
    let mut expected = 2;
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
    let of_node = |name| (read.kinds[name].as_str(), read.value(name, ""));
    let users = of_node("realtime_connections_global_connected");
    assert_eq!(users, ("gauge", Some("4")));
    let events = of_node("realtime_channel_global_db_events");
    assert_eq!(events, ("counter", Some("84")));
    assert_eq!(read.series.len(), expected, "and nothing else");
}

#[test]
fn both_parts_end_and_families_stand_without_series() {
    let page = page(&node(), &[]);
    assert_eq!(page.matches("# EOF\n").count(), 2);
    let (of_node, of_tenants) = page.split_once("# EOF\n").unwrap();
    assert!(of_node.contains("\nrealtime_connections_global_connected{"));
    let names: BTreeSet<&str> = BUSY
        .lines()
        .filter_map(|row| row.split_once(' '))
        .map(|row| row.0)
        .collect();
    let read = Read::of(of_tenants);
    assert_eq!(
        read.kinds.keys().collect::<Vec<_>>(),
        names.iter().collect::<Vec<_>>()
    );
    assert!(read.series.is_empty());
}

#[test]
fn names_of_tenants_are_escaped() {
    let page = page(&node(), &[busy("a\"\\\nb")]);
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
    let page = page(&Node::of(&config), &[]);
    let expected = r#"realtime_connections_global_connected{host="127.0.0.1",id="pink@127.0.0.1",region="eu-1"} 0"#;
    assert!(page.lines().any(|line| line == expected), "{page}");
}

#[test]
fn a_tenant_that_was_never_here_has_no_series() {
    let mut registry = registry();
    let (away, _) = registry.apply(&record("away"));
    assert!(Seen::new(&away, None, None).is_none());
    let (left, _) = registry.apply(&record("left"));
    let _ = left.usage.count(0, Counter::Joins, 1);
    let (listens, _) = registry.apply(&record("listens"));
    let asks = registry.apply(&record("asks")).0;
    let seen = [
        Seen::new(&left, None, None),
        Seen::new(&listens, Some(Rc::default()), None),
        Seen::new(&asks, None, Some(Rc::default())),
    ];
    let seen = seen.map(|seen| seen.expect("it has been here"));
    let page = page(&node(), &seen);
    let read = Read::of(&page);
    let check = |name: &str, expected: &[&str]| {
        assert_eq!(
            read.tenants(name),
            expected.iter().copied().collect(),
            "{name}"
        );
    };
    check(
        "realtime_connections_connected",
        &["asks", "left", "listens"],
    );
    check("realtime_channel_db_events", &["listens"]);
    check("realtime_postgres_changes_dropped_total", &["listens"]);
    check("realtime_broadcast_from_database_lag_bytes", &["asks"]);
}

#[test]
fn the_page_is_read_where_things_are_counted() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let mut registry = registry();
        let (tenant, _) = registry.apply(&record("b"));
        registry.apply(&record("a"));
        let environment = Rc::new(Environment {
            config: Arc::new(Config::from_env(|_| None).unwrap().0),
            tenants: registry.watch(),
            outgoing: Outgoing::new().0,
            notices: mpsc::channel(1).0,
            hasher: TopicHasher::new(1),
            cell: 1,
            log: Log::for_test().0,
        });
        let sessions = Sessions::new(Rc::clone(&environment));
        let hub = Hub::start(sessions.clone(), Rc::clone(&environment));
        let metrics = Metrics::start(hub, sessions, environment);
        let users = async || {
            let page = metrics.page().await.expect("it can be written");
            let read = Read::of(&page);
            let name = "realtime_connections_connected";
            assert_eq!(read.value(name, "tenant=\"a\""), None);
            read.value(name, "tenant=\"b\"").map(str::to_owned)
        };
        assert_eq!(users().await, None);
        assert!(tenant.usage.try_add_user(1));
        assert_eq!(users().await.as_deref(), Some("1"));
        tenant.usage.remove_user();
        let _ = tenant.usage.count(0, Counter::Joins, 1);
        assert_eq!(users().await.as_deref(), Some("0"));
    });
}
