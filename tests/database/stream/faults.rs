//! Everything that can break does, and each row still comes once.

use super::station::{PATIENCE, Station, prepare, prepared, until};
use crate::postgres::{ADMIN, Cluster};
use realtime::control::clock;
use realtime::limits;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

tests![
    long_transaction_across_a_break_arrives_once,
    dropped_publication_is_made_again,
    changed_publication_is_made_again,
    slot_of_somebody_else_is_waited_for,
    leftover_slot_is_dropped,
    databases_of_one_server_have_slots_of_their_own,
    walsenders_used_up_are_waited_for,
    slots_used_up_are_waited_for,
    schema_dropped_and_made_again_goes_on,
    restarted_database_goes_on,
    user_without_replication_reads_the_table,
    log_beyond_the_bound_gives_the_slot_up,
    log_beyond_the_bound_gives_up_a_slot_that_is_being_made,
    locked_table_does_not_hide_a_slot_that_is_being_made,
    stream_that_says_nothing_is_given_up,
    row_that_waits_for_the_shards_survives_a_break,
    rows_that_are_too_old_are_counted,
    end_of_the_session_ends_the_slot,
];

async fn long_transaction_across_a_break_arrives_once(cluster: Arc<Cluster>) {
    let database = prepared(&cluster).await;
    let variables = [("REPLICATION_WATCHDOG_INTERVAL_MS", "300")];
    let mut station = Station::start(database, &variables).await;
    station.streams().await;
    let long = station.client().await;
    long.batch_execute("begin; select realtime.send('{}', 'long 1', 'room', false)")
        .await
        .expect("it is a statement");
    // Long enough for several snapshots, each of which has to know what the one before knew.
    for n in 0..20 {
        station.send(&format!("before {n}")).await;
        assert_eq!(station.next().await.event, format!("before {n}"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(station.kill().await);
    station.state_is(false).await;
    // The new slot waits for the long transaction; nobody else does.
    let start = clock::now();
    for n in 0..5 {
        station.send(&format!("during {n}")).await;
        assert_eq!(station.next().await.event, format!("during {n}"));
    }
    assert!(clock::now().duration_since(start) < PATIENCE);
    long.batch_execute("select realtime.send('{}', 'long 2', 'room', false); commit")
        .await
        .expect("it is a statement");
    assert_eq!(station.next().await.event, "long 1");
    assert_eq!(station.next().await.event, "long 2");
    station.streams().await;
    assert!(station.flush().await.is_empty());
}

async fn dropped_publication_is_made_again(cluster: Arc<Cluster>) {
    let mut station = Station::streaming(&cluster).await;
    station
        .sql("drop publication supabase_realtime_messages_publication")
        .await;
    // Nobody has noticed yet; decoding this row fails.
    station.send("one").await;
    assert_eq!(station.next().await.event, "one");
    station.logged("ReplicationConnectionDown").await;
    station.streams().await;
    station
        .sql(
            "drop publication supabase_realtime_messages_publication; \
             create publication supabase_realtime_messages_publication for table realtime.messages",
        )
        .await;
    station.send("two").await;
    assert_eq!(station.flush().await, ["two"]);
}

async fn changed_publication_is_made_again(cluster: Arc<Cluster>) {
    let database = prepared(&cluster).await;
    let variables = [("REPLICATION_WATCHDOG_INTERVAL_MS", "300")];
    let mut station = Station::start(database, &variables).await;
    station.streams().await;
    station
        .sql(
            "create table public.other (id int primary key); \
             alter publication supabase_realtime_messages_publication set table public.other",
        )
        .await;
    // Nothing says that this row is not published any more.
    station.send("one").await;
    assert_eq!(station.next().await.event, "one");
    let line = "Publication supabase_realtime_messages_publication contains unexpected tables. Recreating...";
    assert_eq!(station.logged(line).await, 1);
    station.streams().await;
    assert!(station.flush().await.is_empty());
}

async fn slot_of_somebody_else_is_waited_for(cluster: Arc<Cluster>) {
    let database = prepared(&cluster).await;
    let name = format!(
        "supabase_realtime_messages_replication_slot_{}",
        database.name
    );
    let other = database.client(ADMIN).await;
    other
        .batch_execute(&format!(
            "select pg_create_logical_replication_slot('{name}', 'pgoutput', true)"
        ))
        .await
        .expect("there is room for a slot");
    let mut station = Station::start(database, &[]).await;
    let line = "StartReplicationFailed: Temporary Replication slot already exists and in use";
    station.logged(line).await;
    // Not even now is a row late by more than a moment.
    station.send("one").await;
    assert_eq!(station.next().await.event, "one");
    drop(other);
    station.streams().await;
    assert!(station.flush().await.is_empty());
}

async fn leftover_slot_is_dropped(cluster: Arc<Cluster>) {
    let database = prepared(&cluster).await;
    let name = format!(
        "supabase_realtime_messages_replication_slot_{}",
        database.name
    );
    database.sql(&format!(
        "select pg_create_logical_replication_slot('{name}', 'pgoutput')"
    ));
    let mut station = Station::start(database, &[]).await;
    station.streams().await;
    assert_eq!(
        station.count_logged(&format!("replication slot {name} was there")),
        1
    );
    let temporary =
        format!("select temporary from pg_replication_slots where slot_name = '{name}'");
    assert_eq!(station.database.sql(&temporary), "t");
    station.send("one").await;
    assert_eq!(station.flush().await, ["one"]);
}

async fn databases_of_one_server_have_slots_of_their_own(cluster: Arc<Cluster>) {
    let variables = [("SLOT_NAME_SUFFIX", "shared")];
    let mut one = Station::start(prepared(&cluster).await, &variables).await;
    one.streams().await;
    let mut other = Station::start(prepared(&cluster).await, &variables).await;
    other.streams().await;
    one.send("of one").await;
    other.send("of the other").await;
    assert_eq!(one.flush().await, ["of one"]);
    assert_eq!(other.flush().await, ["of the other"]);
}

async fn walsenders_used_up_are_waited_for(_: Arc<Cluster>) {
    let cluster = Arc::new(Cluster::start_with(ADMIN, &["max_wal_senders = 1"]));
    let first = Station::streaming(&cluster).await;
    let mut second = Station::start(prepared(&cluster).await, &[]).await;
    second.logged("ReplicationMaxWalSendersReached: Tenant database has reached the maximum number of WAL senders").await;
    second.send("one").await;
    assert_eq!(second.next().await.event, "one");
    drop(first);
    second.streams().await;
    assert!(second.flush().await.is_empty());
}

async fn slots_used_up_are_waited_for(_: Arc<Cluster>) {
    let cluster = Arc::new(Cluster::start_with(ADMIN, &["max_replication_slots = 1"]));
    let database = prepared(&cluster).await;
    database.sql("select pg_create_physical_replication_slot('other')");
    let mut station = Station::start(database, &[]).await;
    station.logged("ReplicationMaxWalSendersReached").await;
    station.send("one").await;
    assert_eq!(station.next().await.event, "one");
    station
        .database
        .sql("select pg_drop_replication_slot('other')");
    station.streams().await;
    assert!(station.flush().await.is_empty());
}

async fn schema_dropped_and_made_again_goes_on(cluster: Arc<Cluster>) {
    let database = prepared(&cluster).await;
    let variables = [("REPLICATION_WATCHDOG_INTERVAL_MS", "300")];
    let mut station = Station::start(database, &variables).await;
    station.send("before").await;
    assert_eq!(station.flush().await, ["before"]);
    station
        .sql("drop schema realtime cascade; create schema realtime")
        .await;
    station.state_is(false).await;
    station.logged("StartReplicationFailed: Error creating publication: the table realtime.messages does not exist").await;
    prepare(&station.database).await;
    station.send("after").await;
    assert_eq!(station.next().await.event, "after");
    station.streams().await;
    assert!(station.flush().await.is_empty());
    // The same so fast that nobody sees the table missing.
    station
        .sql("drop schema realtime cascade; create schema realtime")
        .await;
    prepare(&station.database).await;
    station.send("again").await;
    assert_eq!(station.flush().await, ["again"]);
}

async fn restarted_database_goes_on(_: Arc<Cluster>) {
    let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
    let mut station = Station::start(prepared(&cluster).await, &[]).await;
    station.streams().await;
    station.send("before").await;
    assert_eq!(station.flush().await, ["before"]);
    // As the postmaster does it when a process crashes: every connection is lost.
    let victim = station.database.sql(
        "select pid from pg_stat_activity where application_name = 'realtime_replication_connection' and datname = current_database()",
    );
    let status = std::process::Command::new("kill")
        .args(["-KILL", &victim])
        .status();
    assert!(status.expect("kill is there").success());
    until("the database restarts", || async {
        cluster
            .log()
            .contains("all server processes terminated; reinitializing")
    })
    .await;
    station.state_is(false).await;
    until("the database is back", || async {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(cluster.port())
            .dbname(&station.database.name);
        config.user(ADMIN).password("postgres");
        config.connect(tokio_postgres::NoTls).await.is_ok()
    })
    .await;
    station.send("after").await;
    assert_eq!(station.next().await.event, "after");
    let start = clock::now();
    station.streams().await;
    // Pauses between attempts have grown meanwhile; nobody waits for the rest of one.
    assert!(clock::now().duration_since(start) < Duration::from_secs(15));
    assert!(station.flush().await.is_empty());
}

async fn user_without_replication_reads_the_table(cluster: Arc<Cluster>) {
    let database = prepared(&cluster).await;
    let user = format!("plain_{}", database.name);
    database.sql(&format!(
        "create role {user} login bypassrls password 'postgres'; grant usage on schema realtime to {user}; \
         grant select on all tables in schema realtime to {user}"
    ));
    let mut station = Station::start_with(database, &json!({"db_user": user}), &[]).await;
    station.streams().await;
    assert_eq!(
        station.count_logged("StartReplicationFailed: Error starting replication: "),
        1
    );
    assert_eq!(
        station.count_logged("rows of realtime.messages are read from the table"),
        1
    );
    // A look comes soon after the one before; a busy machine is late with some of them.
    let mut shortest = PATIENCE;
    for n in 0..10 {
        let start = clock::now();
        station.send(&n.to_string()).await;
        assert_eq!(station.next().await.event, n.to_string());
        shortest = shortest.min(clock::now().duration_since(start));
    }
    assert!(shortest < Duration::from_secs(2), "{shortest:?}");
    assert!(station.flush().await.is_empty());
}

async fn log_beyond_the_bound_gives_the_slot_up(_: Arc<Cluster>) {
    // Of its own: what other tests write would be beyond the bound as well.
    let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
    let database = prepared(&cluster).await;
    let variables = [
        ("REPLICATION_WATCHDOG_INTERVAL_MS", "200"),
        ("REPLICATION_SLOT_WAL_BYTES_MAX", "2000000"),
    ];
    let mut station = Station::start(database, &variables).await;
    station.streams().await;
    // More than waits anywhere on the way; nobody takes them.
    const ROWS: usize = 20_000;
    station
        .sql(
            "insert into realtime.messages (topic, extension, payload, event, private) \
             select 'room', 'broadcast', jsonb_build_object('a', repeat('x', 200)), n::text, false from generate_series(1, 20000) n",
        )
        .await;
    station.logged("ReplicationSlotLagTooHigh: ").await;
    station.state_is(false).await;
    for n in 1..=ROWS {
        assert_eq!(station.next().await.event, n.to_string());
    }
    station.streams().await;
    assert!(station.flush().await.is_empty());
}

/// A walsender that is stopped neither speaks nor dies.
async fn stream_that_says_nothing_is_given_up(cluster: Arc<Cluster>) {
    let database = prepared(&cluster).await;
    let variables = [("REPLICATION_WATCHDOG_INTERVAL_MS", "700")];
    let mut station = Station::start(database, &variables).await;
    station.streams().await;
    station.send("before").await;
    assert_eq!(station.flush().await, ["before"]);
    let pid = station.database.sql(
        "select pid from pg_stat_activity where application_name = 'realtime_replication_connection' and datname = current_database()",
    );
    let signal = |name: &str| {
        let status = std::process::Command::new("kill")
            .args([name, &pid])
            .status();
        assert!(status.expect("kill is there").success());
    };
    signal("-STOP");
    station
        .sql("select realtime.send(jsonb_build_object('a', repeat('x', 20000)), 'silent', 'room', false)")
        .await;
    let line = "ReplicationConnectionWatchdogTimeout: ReplicationConnection is not responding";
    station.logged(line).await;
    // The slot is taken as long as its process is there; rows come all the same.
    assert_eq!(station.next().await.event, "silent");
    signal("-CONT");
    station.streams().await;
    assert!(station.flush().await.is_empty());
}

/// The stream breaks while a row of it waits for a place among the letters.
async fn row_that_waits_for_the_shards_survives_a_break(cluster: Arc<Cluster>) {
    let database = prepared(&cluster).await;
    let variables = [("REPLICATION_WATCHDOG_INTERVAL_MS", "700")];
    let mut station = Station::start(database, &variables).await;
    station.streams().await;
    let count = limits::OUTGOING_LETTERS_MAX + 10;
    station
        .sql(&format!(
            "select realtime.send('{{}}', n::text, 'room', false) from generate_series(1, {count}) n"
        ))
        .await;
    until("letters being too many", async || {
        station.measures.delivered.get() >= limits::OUTGOING_LETTERS_MAX as u64
    })
    .await;
    station.kill().await;
    station.logged("ReplicationConnectionDown").await;
    for n in 1..=count {
        assert_eq!(station.next().await.event, n.to_string());
    }
    assert!(station.flush().await.is_empty());
    assert_eq!(station.measures.delivered.get(), count as u64 + 1);
}

async fn log_beyond_the_bound_gives_up_a_slot_that_is_being_made(_: Arc<Cluster>) {
    // Of its own: what other tests write would be beyond the bound as well.
    let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
    let database = prepared(&cluster).await;
    let variables = [
        ("REPLICATION_WATCHDOG_INTERVAL_MS", "200"),
        ("REPLICATION_SLOT_WAL_BYTES_MAX", "2000000"),
    ];
    // The slot waits for this transaction.
    let long = database.client(ADMIN).await;
    long.batch_execute("begin; select realtime.send('{}', 'long', 'room', false)")
        .await
        .expect("it is a statement");
    let mut station = Station::start(database, &variables).await;
    let slots = format!(
        "select count(*) from pg_replication_slots where slot_name = '{}'",
        station.slot
    );
    until("the slot is being made", || async {
        station.database.sql(&slots) == "1"
    })
    .await;
    station
        .sql(
            "create table public.large as select repeat('x', 1000) from generate_series(1, 4000); \
             select realtime.send('{}', 'meanwhile', 'room', false)",
        )
        .await;
    station.logged("ReplicationSlotLagTooHigh: ").await;
    until("the slot is given up", || async {
        station.database.sql(&slots) == "0"
    })
    .await;
    assert_eq!(station.next().await.event, "meanwhile");
    long.batch_execute("commit").await.expect("it is open");
    assert_eq!(station.next().await.event, "long");
    station.streams().await;
    assert!(station.flush().await.is_empty());
}

/// Whoever waits for the table does not watch the slot, so he does not wait for long.
async fn locked_table_does_not_hide_a_slot_that_is_being_made(_: Arc<Cluster>) {
    // Of its own: what other tests write would be beyond the bound as well.
    let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
    let database = prepared(&cluster).await;
    let variables = [
        ("REPLICATION_WATCHDOG_INTERVAL_MS", "200"),
        ("REPLICATION_SLOT_WAL_BYTES_MAX", "2000000"),
    ];
    let long = database.client(ADMIN).await;
    long.batch_execute("begin; select realtime.send('{}', 'long', 'room', false)")
        .await
        .expect("it is a statement");
    let mut station = Station::start(database, &variables).await;
    let slots = format!(
        "select count(*) from pg_replication_slots where slot_name = '{}'",
        station.slot
    );
    until("the slot is being made", || async {
        station.database.sql(&slots) == "1"
    })
    .await;
    long.batch_execute("lock table realtime.messages in access exclusive mode")
        .await
        .expect("nobody holds it for long");
    let waits = "select count(*) from pg_locks where not granted and relation = 'realtime.messages'::regclass";
    until("the reader waits for the table", || async {
        station.database.sql(waits) != "0"
    })
    .await;
    station
        .sql("create table public.large as select repeat('x', 1000) from generate_series(1, 4000)")
        .await;
    station.logged("ReplicationSlotLagTooHigh: ").await;
    long.batch_execute("commit").await.expect("it is open");
    assert_eq!(station.next().await.event, "long");
    station.streams().await;
    assert!(station.flush().await.is_empty());
}

async fn rows_that_are_too_old_are_counted(cluster: Arc<Cluster>) {
    let mut station = Station::streaming(&cluster).await;
    // Both are committed while there is no stream.
    let client = station.client().await;
    client
        .batch_execute(
            "begin; select pg_terminate_backend(pid) from pg_stat_activity \
               where application_name = 'realtime_replication_connection' and datname = current_database(); \
             insert into realtime.messages (topic, extension, payload, event, private, inserted_at) values \
               ('room', 'broadcast', '{}', 'old', false, now() - interval '4 hours'), \
               ('room', 'broadcast', '{}', 'new', false, now() - interval '2 hours')",
        )
        .await
        .expect("the statements are right");
    station.state_is(false).await;
    client.batch_execute("commit").await.expect("it is open");
    assert_eq!(station.flush().await, ["new"]);
    station
        .logged("1 rows of realtime.messages that no stream has said are older than 3 h")
        .await;
    assert_eq!(station.measures.too_old.get(), 1);
}

async fn end_of_the_session_ends_the_slot(cluster: Arc<Cluster>) {
    let station = Station::streaming(&cluster).await;
    let database = cluster.database(crate::postgres::Kind::Empty);
    let count = format!(
        "select count(*) from pg_replication_slots where slot_name = '{}'",
        station.slot
    );
    assert_eq!(database.sql(&count), "1");
    drop(station);
    until("the slot is gone", || async { database.sql(&count) == "0" }).await;
}
