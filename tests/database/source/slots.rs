//! Slots that are lost, given up, fought for and left behind.

use super::reader::{HASTE, Reader, prepared, until};
use crate::postgres::{ADMIN, Cluster};
use realtime::control::changes::source::{Swept, Word, sweep, sweep_all};
use realtime::limits;
use serde_json::json;
use std::rc::Rc;
use std::sync::Arc;

tests![
    slot_of_an_earlier_life_is_dropped,
    slot_of_a_dead_owner_is_taken_over,
    slot_that_is_dropped_by_somebody_is_a_gap,
    log_beyond_the_bound_is_a_gap,
    slot_that_the_database_invalidates_is_a_gap,
    publication_that_is_made_again_is_a_gap,
    publication_that_is_missing_is_waited_for,
    publication_of_any_name_is_read,
    temporary_slot_is_gone_with_its_connection,
    row_that_is_too_large_is_a_gap_of_one_transaction,
    end_drops_the_slot,
    end_drops_a_slot_that_is_being_made,
    tenants_of_one_database_have_slots_of_their_own,
    database_that_is_away_is_told_once,
    user_without_replication_is_told,
    sweep_drops_what_nobody_uses,
];

async fn slot_of_an_earlier_life_is_dropped(cluster: Arc<Cluster>) {
    let Reader {
        database, source, ..
    } = Reader::up_from(&cluster).await;
    drop(source);
    database.sql("insert into numbers values (1, 'between')");
    let mut second = Reader::start(database, &json!({}), &[]);
    assert!(second.up().await);
    second.insert(2..=2).await;
    assert_eq!(second.take_rows(1).await, [2]);
    let line = format!("replication slot {} was there", second.slot());
    assert_eq!(second.world.logged(&line), 1, "{:#?}", second.world.log());
}

async fn slot_of_a_dead_owner_is_taken_over(cluster: Arc<Cluster>) {
    let first = Reader::up_from(&cluster).await;
    let mut database = prepared(&cluster);
    database.name.clone_from(&first.database.name);
    let mut second = Reader::start(database, &json!({}), &[]);
    assert!(second.up().await);
    let line = format!(
        "ReplicationSlotBeingUsed: replication slot \"{}\" is active for PID ",
        second.slot()
    );
    // The first four are waited for. From the fifth on each ends that process; it may be back before the slot is dropped, as here it is
    // not dead.
    let count = second.world.logged(&line);
    let ended = second.world.logged("Replication slot in use - terminating");
    let waited = limits::CHANGES_SLOT_FAILURES_MAX as usize - 1;
    assert!(
        ended > 0 && count == waited + ended,
        "{:#?}",
        second.world.log()
    );
    second.insert(1..=1).await;
    assert_eq!(second.take_rows(1).await, [1]);
    second.finish();
    // The other one was not dead, and knows that it has missed something.
    let mut first = first;
    let text = first.gap().await;
    let ways = ["somebody else", "gone", "invalidated"];
    assert!(ways.iter().any(|way| text.contains(way)), "{text}");
}

async fn slot_that_is_dropped_by_somebody_is_a_gap(cluster: Arc<Cluster>) {
    for settings in [json!({}), json!({"cdc_engine": "poll"})] {
        let mut reader = Reader::start(prepared(&cluster), &settings, &[]);
        assert!(reader.up().await);
        let slot = reader.slot();
        // The row is written before the slot is dropped and committed afterwards: no slot that is made meanwhile begins before it.
        reader
            .sql(&format!(
                "do $$ begin \
                   insert into numbers values (1, 'lost'); \
                   loop begin \
                     perform pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = '{slot}'; \
                     perform pg_drop_replication_slot('{slot}'); \
                     exit; \
                   exception when object_in_use then null; end; end loop; \
                 end $$"
            ))
            .await;
        let text = reader.gap().await;
        // Noticed before it is read again, or by reading it.
        let is_said = text.contains("is gone") || text.contains("does not exist");
        assert!(is_said && text.contains(&slot), "{text}");
        assert!(reader.up().await, "it is another slot");
        reader.insert(2..=2).await;
        assert_eq!(reader.take_rows(1).await, [2]);
        assert_eq!(reader.measures.gaps.get(), 1);
        assert_eq!(reader.measures.slots.get(), 2);
    }
}

async fn log_beyond_the_bound_is_a_gap(_: Arc<Cluster>) {
    // Of its own: what other tests write would be beyond the bound as well.
    let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
    let mut variables = HASTE.to_vec();
    variables.push(("REPLICATION_SLOT_WAL_BYTES_MAX", "2000000"));
    for settings in [json!({}), json!({"cdc_engine": "poll"})] {
        let mut reader = Reader::start(prepared(&cluster), &settings, &variables);
        assert!(reader.up().await);
        assert_eq!(reader.world.logged("max_slot_wal_keep_size is -1"), 1);
        reader.insert(1..=1).await;
        assert_eq!(reader.take_rows(1).await, [1]);
        // Not done: the database has to keep it, and everything behind.
        reader
            .sql("insert into other select n, repeat('x', 1000) from generate_series(1, 4000) n")
            .await;
        let text = reader.gap().await;
        assert!(text.contains("REPLICATION_SLOT_WAL_BYTES_MAX"), "{text}");
        assert!(reader.up().await);
        assert_eq!(reader.measures.slots.get(), 2);
        reader.insert(2..=2).await;
        assert_eq!(reader.take_rows(1).await, [2]);
        assert_eq!(reader.world.logged("ReplicationSlotLagTooHigh: "), 1);
        reader.source.end().await;
    }
}

async fn slot_that_the_database_invalidates_is_a_gap(_: Arc<Cluster>) {
    let bounds = [
        "max_slot_wal_keep_size = '1MB'",
        "wal_keep_size = 0",
        "min_wal_size = '32MB'",
    ];
    let cluster = Arc::new(Cluster::start_with(ADMIN, &bounds));
    // Its watchdog is slower than the database.
    let variables = [("REPLICATION_WATCHDOG_INTERVAL_MS", "600000")];
    let mut reader = Reader::start(prepared(&cluster), &json!({}), &variables);
    assert!(reader.up().await);
    assert_eq!(reader.world.logged("max_slot_wal_keep_size is -1"), 0);
    reader.insert(1..=1).await;
    assert_eq!(reader.take_rows(1).await, [1]);
    reader
        .sql("insert into other select n, repeat('x', 1000) from generate_series(1, 40000) n")
        .await;
    reader.sql("select pg_switch_wal()").await;
    reader.sql("checkpoint").await;
    reader.gap().await;
    assert!(reader.up().await);
    reader.insert(2..=2).await;
    assert_eq!(reader.take_rows(1).await, [2]);
}

async fn publication_that_is_made_again_is_a_gap(cluster: Arc<Cluster>) {
    for settings in [json!({}), json!({"cdc_engine": "poll"})] {
        let mut reader = Reader::start(prepared(&cluster), &settings, &[]);
        assert!(reader.up().await);
        reader.insert(1..=1).await;
        reader.dispatch_until(1).await;
        reader.sql("drop publication supabase_realtime").await;
        // What is decoded where there is none fails.
        reader.insert(2..=2).await;
        let text = reader.gap().await;
        assert!(text.contains("does not exist"), "{text}");
        // Only another slot gets past it: this one is not tried again.
        assert_eq!(reader.world.logged("PoolingReplicationError: "), 1);
        // It is missed before a slot is made again.
        let line =
            "PoolingReplicationPreparationError: the publication supabase_realtime does not exist";
        until("the slot is dropped", || async {
            reader.slot_says("1").is_empty() && reader.world.logged(line) == 1
        })
        .await;
        reader
            .sql("create publication supabase_realtime for table numbers")
            .await;
        assert!(reader.up().await);
        reader.insert(3..=3).await;
        assert_eq!(reader.take_rows(1).await, [3]);
        assert_eq!(reader.world.logged(line), 1, "{:#?}", reader.world.log());
    }
}

async fn publication_that_is_missing_is_waited_for(cluster: Arc<Cluster>) {
    let database = prepared(&cluster);
    database.sql("drop publication supabase_realtime");
    let mut reader = Reader::start(database, &json!({}), &[]);
    let word = reader.word().await;
    assert!(matches!(word, Word::Down(_)), "{word:?}");
    assert_eq!(reader.slot_says("1"), "");
    reader
        .sql("create publication supabase_realtime for table numbers")
        .await;
    assert!(reader.up().await);
    assert_eq!(reader.measures.gaps.get(), 0);
}

async fn publication_of_any_name_is_read(cluster: Arc<Cluster>) {
    let name = "An \"odd\" name, isn't it";
    for engine in ["stream", "poll"] {
        let database = prepared(&cluster);
        database.sql("create publication \"An \"\"odd\"\" name, isn't it\" for table numbers");
        let settings = json!({"publication": name, "cdc_engine": engine, "slot_name": "other"});
        let mut reader = Reader::start(database, &settings, &[("SLOT_NAME_SUFFIX", "green")]);
        assert!(reader.up().await);
        assert!(reader.slot().starts_with("other_green_"));
        assert_eq!(reader.slot_says("temporary"), "f");
        reader.insert(1..=2).await;
        assert_eq!(reader.take_rows(2).await, [1, 2]);
    }
}

async fn temporary_slot_is_gone_with_its_connection(cluster: Arc<Cluster>) {
    for engine in ["stream", "poll"] {
        let settings = json!({"temporary_slot": true, "cdc_engine": engine});
        let mut reader = Reader::start(prepared(&cluster), &settings, &[]);
        assert!(reader.up().await);
        assert_eq!(reader.slot_says("temporary"), "t");
        reader.insert(1..=1).await;
        reader.dispatch_until(1).await;
        assert!(reader.kill().await);
        reader.gap().await;
        assert!(reader.up().await);
        reader.insert(2..=2).await;
        assert_eq!(reader.take_rows(1).await, [2]);
        assert_eq!(reader.measures.gaps.get(), 1);
    }
}

async fn row_that_is_too_large_is_a_gap_of_one_transaction(cluster: Arc<Cluster>) {
    let mut reader = Reader::up_from(&cluster).await;
    let bytes = limits::REPLICATION_MESSAGE_BYTES_MAX + 1;
    reader
        .sql(&format!(
            "insert into numbers values (1, repeat('x', {bytes})); insert into numbers values (2, 'small')"
        ))
        .await;
    reader.insert(3..=3).await;
    let text = reader.gap().await;
    assert!(text.contains("more than is read"), "{text}");
    assert!(reader.up().await);
    assert_eq!(reader.take_rows(1).await, [3]);
    assert_eq!(reader.measures.slots.get(), 1);
    reader.insert(4..=4).await;
    assert_eq!(reader.take_rows(2).await, [3, 4]);
}

async fn end_drops_the_slot(cluster: Arc<Cluster>) {
    for engine in ["stream", "poll"] {
        let settings = json!({"cdc_engine": engine});
        let mut reader = Reader::start(prepared(&cluster), &settings, &[]);
        assert!(reader.up().await);
        let slot = reader.slot();
        assert_eq!(reader.slot_says("1"), "1");
        reader.source.end().await;
        let count = format!("select count(*) from pg_replication_slots where slot_name = '{slot}'");
        assert_eq!(
            reader.database.sql(&count),
            "0",
            "{:#?}",
            reader.world.log()
        );
    }
}

async fn end_drops_a_slot_that_is_being_made(cluster: Arc<Cluster>) {
    for engine in ["stream", "poll"] {
        let database = prepared(&cluster);
        let open = database.client(ADMIN).await;
        open.batch_execute("begin; insert into numbers values (1, 'open')")
            .await
            .expect("it is a statement");
        let reader = Reader::start(database, &json!({"cdc_engine": engine}), &[]);
        until("the slot is being made", || async {
            reader.slot_says("1") == "1"
        })
        .await;
        let slot = reader.slot();
        reader.source.end().await;
        open.batch_execute("commit").await.expect("it is open");
        let count = format!("select count(*) from pg_replication_slots where slot_name = '{slot}'");
        assert_eq!(
            reader.database.sql(&count),
            "0",
            "{:#?}",
            reader.world.log()
        );
    }
}

async fn tenants_of_one_database_have_slots_of_their_own(cluster: Arc<Cluster>) {
    let database = prepared(&cluster);
    let mut again = prepared(&cluster);
    again.name.clone_from(&database.name);
    let mut one = Reader::start_as("one", database, &json!({}), &[]);
    let mut other = Reader::start_as("other", again, &json!({}), &[]);
    assert!(one.up().await && other.up().await);
    assert_ne!(one.slot(), other.slot());
    one.insert(1..=3).await;
    assert_eq!(one.take_rows(3).await, [1, 2, 3]);
    assert_eq!(other.take_rows(3).await, [1, 2, 3]);
    assert_eq!(other.world.logged("ReplicationSlotBeingUsed"), 0);
}

async fn database_that_is_away_is_told_once(_: Arc<Cluster>) {
    let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
    let mut reader = Reader::up_from(&cluster).await;
    cluster.stop();
    while !matches!(reader.word().await, Word::Down(_)) {}
    until("several attempts have failed", || async {
        reader.world.logged("ReplicationPollerConnectionFailed: ") > 0
    })
    .await;
    assert_eq!(reader.source.ready(), None);
    cluster.start_again();
    assert!(!reader.up().await);
    assert_eq!(reader.measures.gaps.get(), 0);
}

async fn user_without_replication_is_told(cluster: Arc<Cluster>) {
    let database = prepared(&cluster);
    let user = format!("plain_{}", database.name);
    database.sql(&format!("create role {user} login password 'postgres'"));
    let mut reader = Reader::start(database, &json!({"db_user": user}), &[]);
    let word = reader.word().await;
    assert!(
        matches!(&word, Word::Down(text) if text.contains("REPLICATION attribute")),
        "{word:?}"
    );
    let line = "PoolingReplicationPreparationError: ";
    assert!(reader.world.logged(line) > 0);
    reader.sql(&format!("alter role {user} replication")).await;
    assert!(reader.up().await);
    reader.insert(1..=1).await;
    assert_eq!(reader.take_rows(1).await, [1]);
}

async fn sweep_drops_what_nobody_uses(cluster: Arc<Cluster>) {
    let mut reader = Reader::up_from(&cluster).await;
    let settings = Rc::new(reader.database.settings());
    let environment = Rc::clone(&reader.world.environment);
    let (tenant, changes) = (Arc::clone(&reader.tenant), Rc::clone(&reader.changes));
    let swept =
        async |settings: &Rc<_>| sweep(&environment, &tenant, Rc::clone(settings), &changes).await;
    assert_eq!(swept(&settings).await, Swept::InUse);
    reader.database.sql(&format!(
        "select pg_create_logical_replication_slot('{}_of_others', 'pgoutput')",
        reader.database.name
    ));
    // One that never began, so that the first is dropped and its slot stays.
    let other = json!({"db_port": "1"});
    let never = Reader::start(prepared(&cluster), &other, &[]);
    drop(std::mem::replace(&mut reader.source, never.source));
    until("nobody uses the slot", || async {
        reader.slot_says("active") == "f"
    })
    .await;
    assert_eq!(swept(&settings).await, Swept::Dropped);
    assert_eq!(swept(&settings).await, Swept::Nothing);
    assert_eq!(reader.slot_says("1"), "");
    let others = format!(
        "select pg_drop_replication_slot('{}_of_others')",
        reader.database.name
    );
    reader.database.sql(&others);
    // Nobody there: no line that is counted.
    let away = Rc::new(reader.database.settings_with(&json!({"db_port": "1"})));
    assert_eq!(swept(&away).await, Swept::Failed);
    assert_eq!(reader.world.logged("DropReplicationSlotFailed"), 0);
    let all = (0..40).map(|_| {
        (
            Arc::clone(&reader.tenant),
            Rc::clone(&settings),
            Rc::clone(&reader.changes),
        )
    });
    sweep_all(Rc::clone(&reader.world.environment), all).await;
}
