//! What becomes of a row, and of many.

use super::station::{Station, prepared, until};
use crate::connect::cluster_with_tls;
use crate::postgres::Cluster;
use realtime::control::clock;
use realtime::control::messages::row::Dropped;
use realtime::metrics::Relayed;
use realtime::tenant::Counter;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

tests![
    rows_become_broadcasts_with_their_ids,
    rows_that_are_none_are_logged_and_counted,
    updates_and_deletes_lead_to_nothing,
    columns_of_any_type_may_be_added,
    rows_over_the_limits_are_counted,
    rows_before_the_snapshot_are_history,
    transaction_that_was_open_at_the_snapshot_is_broadcast,
    stream_is_encrypted_where_tls_is_enforced,
    rows_take_milliseconds,
    hundred_thousand_rows_of_one_transaction_arrive_in_order,
];

async fn rows_become_broadcasts_with_their_ids(cluster: Arc<Cluster>) {
    let mut station = Station::streaming(&cluster).await;
    station
        .sql(
            "select realtime.send('{\"a\": 1.50, \"id\": \"x\"}', 'ev', 'room:1', true); \
             select realtime.send_binary('\\x00ff', 'bin', 'room:2', false); \
             insert into realtime.messages (id, topic, extension, payload, event, private) values \
               ('00000000-0000-4000-8000-00000000000A', 'r\"q', 'presence', '[1,  2]', 'plain', false)",
        )
        .await;
    let first = station.next().await;
    assert_eq!(
        (first.topic.as_str(), first.private),
        ("realtime:room:1", true)
    );
    assert_eq!((first.event.as_str(), first.is_binary), ("ev", false));
    assert_eq!(first.body, "{\"a\": 1.50, \"id\": \"x\"}");
    let second = station.next().await;
    assert_eq!(
        (second.topic.as_str(), second.private),
        ("realtime:room:2", false)
    );
    assert!(second.is_binary && second.event == "bin");
    let third = station.next().await;
    assert_eq!(
        (third.topic.as_str(), third.event.as_str()),
        ("realtime:r\"q", "plain")
    );
    assert_eq!(third.body, "[1, 2]");
    assert_eq!(
        third.metadata,
        "{\"id\":\"00000000-0000-4000-8000-00000000000a\"}"
    );
    assert_eq!(station.measures.delivered.get(), 3);
    assert_eq!(station.measures.read_from_table.get(), 0);
    let usage = &station.tenant.usage;
    assert_eq!(usage.total(Counter::Events), 3);
    let latencies = usage.latencies();
    for way in [
        &latencies.committed_to_broadcast,
        &latencies.inserted_to_broadcast,
    ] {
        let tally = way.tally();
        assert_eq!(
            (tally.count(), tally.above),
            (3, 0),
            "within 5 s: {tally:?}"
        );
    }
    let payloads = usage.payloads(Relayed::Broadcast).expect("three were sent");
    // The bodies as they were sent, and what surrounds each (spec: websocket-protocol 9.4).
    assert_eq!((payloads.count(), payloads.sum), (3, 22 + 2 + 6 + 3 * 6));
}

async fn rows_that_are_none_are_logged_and_counted(cluster: Arc<Cluster>) {
    let mut station = Station::streaming(&cluster).await;
    let insert =
        "insert into realtime.messages (topic, extension, payload, event, private) values ";
    station
        .sql(&format!(
            "{insert} ('r', 'broadcast', '{{}}', null, true); {insert} ('r', 'broadcast', null, 'e', true); \
             {insert} ('r', 'broadcast', '{{}}', 'e', null); {insert} (repeat('t', 250), 'broadcast', '{{}}', 'e', true)"
        ))
        .await;
    assert!(station.flush().await.is_empty());
    for (dropped, text) in [
        (Dropped::EventMissing, ":event_missing"),
        (Dropped::PayloadMissing, ":payload_missing"),
        (Dropped::PrivateMissing, ":private_missing"),
        (
            Dropped::NameTooLong,
            "topic or event of more than 255 bytes",
        ),
    ] {
        assert_eq!(station.measures.dropped(dropped), 1, "{dropped}");
        let line = format!("UnableToBroadcastChanges: {text}");
        assert_eq!(station.count_logged(&line), 1, "{line}");
    }
}

async fn updates_and_deletes_lead_to_nothing(cluster: Arc<Cluster>) {
    let mut station = Station::streaming(&cluster).await;
    station.send("one").await;
    station
        .sql("update realtime.messages set event = 'other'; delete from realtime.messages; truncate realtime.messages")
        .await;
    assert_eq!(station.flush().await, ["one"]);
    // Nor does a row that was changed look like a new one after a break.
    station.send("two").await;
    station
        .sql("update realtime.messages set payload = '{}' where event = 'two'")
        .await;
    assert_eq!(station.flush().await, ["two"]);
    assert!(station.kill().await);
    station.state_is(false).await;
    station.streams().await;
    assert!(station.flush().await.is_empty());
}

async fn columns_of_any_type_may_be_added(cluster: Arc<Cluster>) {
    let mut station = Station::streaming(&cluster).await;
    station
        .sql(
            "create type realtime.mood as enum ('good', 'bad'); \
             alter table realtime.messages add column mood realtime.mood default 'good', add column at point default '(1,2)', \
               add column n numeric[] default '{1.5}', add column price money default 3",
        )
        .await;
    station.send("one").await;
    assert_eq!(station.flush().await, ["one"]);
    assert!(station.kill().await);
    station.send("two").await;
    assert_eq!(station.flush().await, ["two"]);
}

async fn rows_over_the_limits_are_counted(cluster: Arc<Cluster>) {
    let mut station = Station::streaming(&cluster).await;
    station
        .sql("select realtime.send(jsonb_build_object('a', repeat('x', 3000500)), 'large', 'room', false)")
        .await;
    assert!(station.flush().await.is_empty());
    assert_eq!(station.measures.dropped(Dropped::PayloadSizeExceeded), 1);
    assert_eq!(
        station.count_logged("UnableToBroadcastChanges: :payload_size_exceeded"),
        1
    );
    // What the counters' task publishes when the limit is reached, and when it is no more.
    let usage = &station.tenant.usage;
    let limit = station.tenant.limits.events_per_second_max;
    let _ = usage.publish(Counter::Events, f64::from(limit), limit);
    station.send("too many").await;
    station
        .logged("UnableToBroadcastChanges: :too_many_requests")
        .await;
    assert_eq!(station.measures.dropped(Dropped::TooManyRequests), 1);
    let _ = station.tenant.usage.publish(Counter::Events, 0.0, limit);
    assert!(station.flush().await.is_empty());
}

async fn rows_before_the_snapshot_are_history(cluster: Arc<Cluster>) {
    let database = prepared(&cluster).await;
    database.sql("select realtime.send('{}', 'old', 'room', false)");
    let mut station = Station::start(database, &[]).await;
    station.send("new").await;
    assert_eq!(station.flush().await, ["new"]);
}

/// `realtime.send` inserts in a subtransaction, which PostgreSQL's own snapshots do not list.
async fn transaction_that_was_open_at_the_snapshot_is_broadcast(cluster: Arc<Cluster>) {
    let database = prepared(&cluster).await;
    let open = database.client(&database.user).await;
    open.batch_execute("begin; select realtime.send('{}', 'early', 'room', false)")
        .await
        .expect("it is a statement");
    // Later ids are over, so that the open ones stand in between.
    database.sql("select realtime.send('{}', 'old', 'room', false)");
    let mut station = Station::start(database, &[]).await;
    // Its slot waits for the open transaction; rows come from the table meanwhile.
    station.send("meanwhile").await;
    assert_eq!(station.next().await.event, "meanwhile");
    open.batch_execute("select realtime.send('{}', 'late', 'room', false); commit")
        .await
        .expect("it is a statement");
    assert_eq!(station.next().await.event, "early");
    assert_eq!(station.next().await.event, "late");
    station.streams().await;
    assert!(station.flush().await.is_empty());
}

async fn stream_is_encrypted_where_tls_is_enforced(_: Arc<Cluster>) {
    let cluster = Arc::new(cluster_with_tls());
    for (host, enforced) in [
        ("127.0.0.1", true),
        ("localhost", true),
        ("localhost", false),
    ] {
        let more = json!({"ssl_enforced": enforced, "db_host": host});
        let mut station = Station::start_with(prepared(&cluster).await, &more, &[]).await;
        station.streams().await;
        station.send("one").await;
        assert_eq!(station.flush().await, ["one"]);
        let encrypted = station.database.sql(
            "select ssl from pg_stat_ssl join pg_stat_activity using (pid) \
             where application_name = 'realtime_replication_connection' and datname = current_database()",
        );
        assert_eq!(encrypted == "t", enforced, "{host}");
    }
}

#[expect(clippy::print_stdout, reason = "a figure, for whoever runs it")]
async fn rows_take_milliseconds(cluster: Arc<Cluster>) {
    let mut station = Station::streaming(&cluster).await;
    let client = station.client().await;
    // As a database is that keeps what it has confirmed; the tests' cluster is in a hurry otherwise.
    let commit = "set synchronous_commit = on";
    client.batch_execute(commit).await.expect("it is a setting");
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = clock::now();
        client
            .batch_execute("select realtime.send('{}', 'e', 'room', true)")
            .await
            .expect("it is a statement");
        station.next().await;
        times.push(clock::now().duration_since(start));
    }
    times.sort();
    println!(
        "from realtime.send to the shards: p50 {:?}, p99 {:?}",
        times[100], times[198]
    );
    // The fastest tenth: the others may have waited for a busy machine.
    assert!(times[20] < Duration::from_millis(50), "{:?}", times[20]);
}

#[expect(clippy::print_stdout, reason = "a figure, for whoever runs it")]
async fn hundred_thousand_rows_of_one_transaction_arrive_in_order(cluster: Arc<Cluster>) {
    const ROWS: usize = 100_000;
    let mut station = Station::streaming(&cluster).await;
    let insert = "insert into realtime.messages (topic, extension, payload, event, private) \
         select 'room', 'broadcast', '{\"text\": \"a message of the usual size, more or less\"}', n::text, false \
         from generate_series(1, 100000) n";
    station.sql(insert).await;
    let start = clock::now();
    for n in 1..=ROWS {
        assert_eq!(station.next().await.event, n.to_string());
    }
    let rate = ROWS as f64 / clock::now().duration_since(start).as_secs_f64();
    println!("rows of one transaction: {rate:.0} per second");
    // Killed in the middle of the same again, which is then read from the table.
    station.sql(insert).await;
    for n in 1..=ROWS {
        assert_eq!(station.next().await.event, n.to_string());
        if n == ROWS / 3 {
            assert!(station.kill().await);
        }
    }
    assert!(station.flush().await.is_empty());
    assert!(station.measures.read_from_table.get() > 0);
    // What is remembered of them is forgotten again.
    until("the stream is up again", || async {
        station.measures.streams.get() == 2
    })
    .await;
    assert_eq!(station.measures.delivered.get(), 2 * ROWS as u64 + 1);
}
