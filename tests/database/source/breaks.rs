//! Connections break in every way, and each row still comes once.

use super::reader::{HASTE, PATIENCE, Reader, a_while, kill, prepared, until};
use super::wire::Wire;
use crate::postgres::{ADMIN, Cluster, Database};
use crate::stream::pooler;
use realtime::control::changes::source::Word;
use realtime::control::clock;
use serde_json::{Value, json};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

tests![
    every_row_comes_once_while_walsenders_are_killed,
    every_row_comes_once_while_polled_connections_are_killed,
    every_row_comes_once_while_the_database_stops_and_starts,
    every_row_comes_once_while_the_network_is_cut,
    every_row_comes_once_behind_a_pooler,
    stream_that_says_nothing_is_restored,
    half_a_transaction_goes_on_where_it_broke,
    half_a_transaction_goes_on_where_it_broke_when_polled,
    nothing_is_confirmed_that_is_not_done,
    nothing_is_confirmed_that_is_not_done_when_polled,
    quiet_tables_do_not_hold_the_log,
    quiet_tables_do_not_hold_the_log_when_polled,
];

/// Inserts rows of growing numbers in transactions of several sizes until it is told to stop, whatever happens to its connection.
async fn write(database: Rc<Access>, stop: Rc<Cell<bool>>) {
    let mut next = 1;
    while !stop.get() {
        let Some(client) = database.client().await else {
            a_while(20).await;
            continue;
        };
        // What became of the last one is not known when its connection broke.
        let Ok(row) = client
            .query_one("select coalesce(max(n), 0) from numbers", &[])
            .await
        else {
            continue;
        };
        next = next.max(u64::try_from(row.get::<_, i64>(0)).expect("it counts up") + 1);
        while !stop.get() {
            let last = next + next % 4;
            let insert = format!(
                "set synchronous_commit = on; insert into numbers select n, 'text' from generate_series({next}, {last}) n"
            );
            if client.batch_execute(&insert).await.is_err() {
                break;
            }
            next = last + 1;
            a_while(1).await;
        }
    }
}

/// How to get to a database, whatever becomes of its handle.
struct Access {
    config: tokio_postgres::Config,
}

impl Access {
    fn to(database: &Database) -> Rc<Self> {
        let mut config = tokio_postgres::Config::new();
        config.host(&database.host).port(database.cluster.port());
        config.user(&database.user).password(&database.password);
        config.dbname(&database.name);
        Rc::new(Self { config })
    }

    async fn client(&self) -> Option<tokio_postgres::Client> {
        let (client, driver) = self.config.connect(tokio_postgres::NoTls).await.ok()?;
        tokio::spawn(async move {
            let _ = driver.await;
        });
        Some(client)
    }
}

/// Takes words while `breaks` does what it does, with whatever is taken being done a few words later; then compares.
async fn compare(reader: &mut Reader, breaks: impl AsyncFn(&Access)) {
    let access = Access::to(&reader.database);
    let stop = Rc::new(Cell::new(false));
    let writing = tokio::task::spawn_local(write(Rc::clone(&access), Rc::clone(&stop)));
    let mut breaking = Box::pin(breaks(&access));
    let mut words = 0_u32;
    loop {
        tokio::select! {
            biased;
            () = &mut breaking => break,
            word = reader.source.next() => {
                assert!(!matches!(word, Word::Gap(_)), "{word:?} {:#?}", reader.world.log());
                reader.take(word);
                words += 1;
                // As often in the middle of a transaction as at its end, and sometimes long after.
                if words.is_multiple_of(7) && words % 100 > 20 {
                    reader.finish();
                }
            }
            // Nobody waits for more before he does what he has.
            () = a_while(20) => reader.finish(),
        }
    }
    drop(breaking);
    stop.set(true);
    timeout(PATIENCE, writing)
        .await
        .expect("it stops")
        .expect("it does not panic");
    let committed = reader.database.sql("select n from numbers order by n");
    let committed: Vec<u64> = committed
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    let last = *committed.last().expect("something was written");
    while reader.dispatched.last() != Some(&last) {
        let word = reader.word().await;
        assert!(!matches!(word, Word::Gap(_)), "{word:?}");
        reader.take(word);
        reader.finish();
    }
    assert!(
        reader.dispatched == committed,
        "{} rows were dispatched, {} committed: {:?} {:#?}",
        reader.dispatched.len(),
        committed.len(),
        reader
            .dispatched
            .iter()
            .zip(&committed)
            .find(|(one, other)| one != other),
        reader.world.log()
    );
    assert_eq!(reader.measures.gaps.get(), 0);
}

async fn kill_all_the_time(access: &Access) {
    let killer = access.client().await.expect("the database runs");
    let mut kills = 0;
    for _ in 0..40 {
        a_while(150).await;
        kills += u32::from(kill(&killer).await);
    }
    assert!(kills >= 3, "{kills} connections were killed");
}

async fn every_row_comes_once_while_walsenders_are_killed(cluster: Arc<Cluster>) {
    let mut reader = Reader::up_from(&cluster).await;
    compare(&mut reader, kill_all_the_time).await;
    assert!(reader.measures.streams.get() > 3);
    assert!(reader.measures.skipped.get() > 0);
    assert_eq!(reader.measures.slots.get(), 1);
}

async fn every_row_comes_once_while_polled_connections_are_killed(cluster: Arc<Cluster>) {
    let mut reader = Reader::start(prepared(&cluster), &json!({"cdc_engine": "poll"}), &[]);
    assert!(reader.up().await);
    compare(&mut reader, kill_all_the_time).await;
    assert!(reader.measures.streams.get() > 3);
    assert_eq!(reader.measures.slots.get(), 1);
}

async fn every_row_comes_once_behind_a_pooler(cluster: Arc<Cluster>) {
    let mut database = prepared(&cluster);
    database.port = pooler::start(database.port).await;
    let mut reader = Reader::start(database, &json!({}), &[]);
    assert!(reader.up().await);
    let line = "row changes cannot be streamed and are polled: ";
    assert_eq!(reader.world.logged(line), 1, "{:#?}", reader.world.log());
    compare(&mut reader, kill_all_the_time).await;
}

async fn every_row_comes_once_while_the_database_stops_and_starts(_: Arc<Cluster>) {
    let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
    let mut reader = Reader::up_from(&cluster).await;
    let measures = Rc::clone(&reader.measures);
    compare(&mut reader, async |_| {
        for _ in 0..3 {
            a_while(700).await;
            let before = measures.streams.get();
            cluster.stop();
            cluster.start_again();
            until("it is read again", || async {
                measures.streams.get() > before
            })
            .await;
        }
        a_while(700).await;
    })
    .await;
    assert!(reader.measures.streams.get() > 3);
}

async fn every_row_comes_once_while_the_network_is_cut(cluster: Arc<Cluster>) {
    let mut database = prepared(&cluster);
    let wire = Wire::start(database.port).await;
    database.port = wire.port;
    let mut reader = Reader::start(database, &json!({}), &[]);
    assert!(reader.up().await);
    let measures = Rc::clone(&reader.measures);
    compare(&mut reader, async |_| {
        for _ in 0..4 {
            a_while(300).await;
            let before = measures.streams.get();
            wire.cut();
            // Once more while it is being restored.
            a_while(130).await;
            wire.cut();
            until("it is read again", || async {
                measures.streams.get() > before
            })
            .await;
        }
        a_while(300).await;
    })
    .await;
    assert!(reader.measures.streams.get() > 4);
}

async fn stream_that_says_nothing_is_restored(cluster: Arc<Cluster>) {
    let mut database = prepared(&cluster);
    let wire = Wire::start(database.port).await;
    database.port = wire.port;
    let mut reader = Reader::start(database, &json!({}), &HASTE);
    assert!(reader.up().await);
    reader.insert(1..=1).await;
    reader.dispatch_until(1).await;
    wire.stall();
    reader
        .sql("insert into numbers select n, repeat('x', 500) from generate_series(2, 100) n")
        .await;
    let down = async { while !matches!(reader.word().await, Word::Down(_)) {} };
    down.await;
    wire.flow();
    assert!(!reader.up().await);
    reader.dispatch_until(100).await;
    assert!(reader.dispatched.iter().copied().eq(1..=100));
    assert_eq!(
        reader
            .world
            .logged("PoolingReplicationError: ReplicationConnection is not responding"),
        1
    );
}

async fn half_a_transaction(cluster: Arc<Cluster>, settings: &Value) {
    const ROWS: usize = 10_000;
    let mut reader = Reader::start(prepared(&cluster), settings, &[]);
    assert!(reader.up().await);
    reader.insert(1..=ROWS as u64).await;
    reader.take_rows(ROWS / 2).await;
    reader.finish();
    // Taken and not done: it comes again.
    reader.take_rows(ROWS / 4).await;
    assert!(reader.kill().await);
    assert!(!reader.up().await);
    reader.insert(10_001..=10_003).await;
    reader.dispatch_until(10_003).await;
    assert_eq!(reader.dispatched.len(), ROWS + 3);
    assert!(reader.dispatched.iter().copied().eq(1..=10_003));
}

async fn half_a_transaction_goes_on_where_it_broke(cluster: Arc<Cluster>) {
    half_a_transaction(cluster, &json!({})).await;
}

async fn half_a_transaction_goes_on_where_it_broke_when_polled(cluster: Arc<Cluster>) {
    half_a_transaction(cluster, &json!({"cdc_engine": "poll"})).await;
}

async fn confirms_nothing(cluster: Arc<Cluster>, settings: &Value) {
    let mut reader = Reader::start(prepared(&cluster), settings, &[]);
    assert!(reader.up().await);
    let before = reader.slot_says("confirmed_flush_lsn");
    // In one transaction: a polled slot is not read on before it is done.
    reader.insert(1..=10).await;
    assert!(reader.take_rows(10).await.into_iter().eq(1..=10));
    for _ in 0..3 {
        assert!(reader.kill().await);
        assert!(!reader.up().await);
        assert!(reader.take_rows(10).await.into_iter().eq(1..=10));
    }
    // Longer than what is done may wait to be confirmed.
    a_while(1500).await;
    assert_eq!(reader.slot_says("confirmed_flush_lsn"), before);
    reader.finish_transaction().await;
    let confirmed = format!("confirmed_flush_lsn > '{before}'");
    until("what is done is confirmed", || async {
        reader.slot_says(&confirmed) == "t"
    })
    .await;
    assert!(reader.kill().await);
    assert!(!reader.up().await);
    reader.insert(11..=11).await;
    assert_eq!(reader.take_rows(1).await, [11]);
}

async fn nothing_is_confirmed_that_is_not_done(cluster: Arc<Cluster>) {
    confirms_nothing(cluster, &json!({})).await;
}

async fn nothing_is_confirmed_that_is_not_done_when_polled(cluster: Arc<Cluster>) {
    confirms_nothing(cluster, &json!({"cdc_engine": "poll"})).await;
}

/// Others write while the published table is quiet.
async fn others_write(reader: &Reader) {
    reader
        .sql("insert into other select n, repeat('x', 500) from generate_series(1, 1000) n")
        .await;
}

/// Dispatches what comes until the database knows that everything of now is done.
async fn confirm_all(reader: &mut Reader) {
    let end = reader.database.sql("select pg_current_wal_lsn()");
    let confirmed = format!("confirmed_flush_lsn >= '{end}'");
    let deadline = clock::now() + PATIENCE;
    while reader.slot_says(&confirmed) != "t" {
        assert!(clock::now() < deadline, "{:#?}", reader.world.log());
        if let Ok(word) = timeout(Duration::from_millis(50), reader.source.next()).await {
            reader.take(word);
            reader.finish();
        }
    }
}

async fn holds_no_log(cluster: Arc<Cluster>, settings: &Value) {
    let mut reader = Reader::start(prepared(&cluster), settings, &[]);
    assert!(reader.up().await);
    others_write(&reader).await;
    confirm_all(&mut reader).await;
    // Behind a commit that is confirmed, so that the next connection says none.
    reader.insert(1..=3).await;
    reader.dispatch_until(3).await;
    confirm_all(&mut reader).await;
    assert!(reader.kill().await);
    assert!(!reader.up().await);
    others_write(&reader).await;
    confirm_all(&mut reader).await;
    // And behind a transaction of which a half is done.
    reader.insert(4..=9).await;
    reader.take_rows(3).await;
    reader.finish();
    assert!(reader.kill().await);
    assert!(!reader.up().await);
    others_write(&reader).await;
    confirm_all(&mut reader).await;
    assert!(reader.dispatched.iter().copied().eq(1..=9));
    assert_eq!(reader.measures.slots.get(), 1);
}

async fn quiet_tables_do_not_hold_the_log(cluster: Arc<Cluster>) {
    holds_no_log(cluster, &json!({})).await;
}

async fn quiet_tables_do_not_hold_the_log_when_polled(cluster: Arc<Cluster>) {
    holds_no_log(cluster, &json!({"cdc_engine": "poll"})).await;
}
