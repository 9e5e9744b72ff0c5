//! Many writers with every kind of transaction, while streams die all the time.

use super::pooler;
use super::station::{Station, prepared};
use crate::dice::Dice;
use crate::postgres::Cluster;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

tests![
    every_committed_row_comes_once_whatever_dies,
    every_committed_row_comes_once_from_a_polled_slot,
];

const WRITERS: u64 = 6;
const TRANSACTIONS: usize = 60;

/// Snapshots are taken as often as the watchdog looks: several times during a long transaction.
const VARIABLES: [(&str, &str); 1] = [("REPLICATION_WATCHDOG_INTERVAL_MS", "500")];

/// What the writers have committed, by writer, in order.
type Committed = Rc<RefCell<HashMap<u64, Vec<String>>>>;

/// Writes transactions that are short or long, committed or not, with and without subtransactions that are rolled back.
async fn write(client: tokio_postgres::Client, writer: u64, committed: Committed) {
    let mut dice = Dice(writer + 1);
    for transaction in 0..TRANSACTIONS {
        let mut rows = Vec::new();
        client
            .batch_execute("begin")
            .await
            .expect("the database runs");
        for row in 0..=dice.below(5) {
            let event = format!("{writer} {transaction} {row}");
            let insert = format!(
                "insert into realtime.messages (topic, extension, payload, event, private) values ('room', 'broadcast', '{{}}', '{event}', false)"
            );
            let (sql, counts) = match dice.below(5) {
                0 | 1 => (
                    format!("select realtime.send('{{}}', '{event}', 'room', false)"),
                    true,
                ),
                2 => (insert, true),
                3 => (format!("savepoint s; {insert}; release s"), true),
                _ => (format!("savepoint s; {insert}; rollback to s"), false),
            };
            client.batch_execute(&sql).await.expect("the database runs");
            if counts {
                rows.push(event);
            }
            if dice.below(4) == 0 {
                tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
            }
        }
        if dice.below(12) == 0 {
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        if dice.below(6) == 0 {
            client
                .batch_execute("rollback")
                .await
                .expect("the database runs");
        } else {
            client
                .batch_execute("commit")
                .await
                .expect("the database runs");
            committed
                .borrow_mut()
                .entry(writer)
                .or_default()
                .extend(rows);
        }
    }
}

/// Lets the writers write while streams are killed, and compares.
async fn compare(station: &mut Station) -> u32 {
    let committed = Committed::default();
    let writing = Rc::new(Cell::new(WRITERS));
    for writer in 0..WRITERS {
        let (client, committed) = (station.client().await, Rc::clone(&committed));
        let writing = Rc::clone(&writing);
        tokio::task::spawn_local(async move {
            write(client, writer, committed).await;
            writing.set(writing.get() - 1);
        });
    }
    let killer = station.killer().await;
    let kills = Rc::new(Cell::new(0));
    let (count, still) = (Rc::clone(&kills), Rc::clone(&writing));
    let killing = tokio::task::spawn_local(async move {
        let mut dice = Dice(99);
        while still.get() > 0 {
            tokio::time::sleep(Duration::from_millis(100 + dice.below(900))).await;
            count.set(count.get() + killer.kill().await);
        }
    });
    let mut heard: HashMap<u64, Vec<String>> = HashMap::new();
    let mut last_words = false;
    loop {
        if killing.is_finished() && !last_words {
            last_words = true;
            station.streams().await;
            station.send("the end").await;
        }
        let Some(seen) = station.next_within(Duration::from_millis(200)).await else {
            continue;
        };
        if seen.event == "the end" {
            break;
        }
        let writer = seen
            .event
            .split(' ')
            .next()
            .and_then(|word| word.parse().ok());
        heard
            .entry(writer.expect("a writer's row"))
            .or_default()
            .push(seen.event);
    }
    for writer in 0..WRITERS {
        let (heard, committed) = (&heard[&writer], &committed.borrow()[&writer]);
        assert!(
            heard == committed,
            "{heard:#?}\nis not\n{committed:#?}\n{:#?}",
            station.log()
        );
    }
    kills.get()
}

async fn every_committed_row_comes_once_whatever_dies(cluster: Arc<Cluster>) {
    let mut station = Station::start(prepared(&cluster).await, &VARIABLES).await;
    station.streams().await;
    let kills = compare(&mut station).await;
    assert!(kills >= 3, "{kills} streams were killed");
    assert!(station.measures.read_from_table.get() > 0);
}

async fn every_committed_row_comes_once_from_a_polled_slot(cluster: Arc<Cluster>) {
    let mut database = prepared(&cluster).await;
    let statements = database.port;
    database.port = pooler::start(statements).await;
    let mut station = Station::start(database, &VARIABLES).await;
    station.streams().await;
    station.database.port = statements;
    assert_eq!(
        station.count_logged(
            "StartReplicationFailed: Error starting replication: unsupported startup parameter"
        ),
        1
    );
    let line = "rows of realtime.messages are read from a slot (engine: poll)";
    assert_eq!(station.count_logged(line), 1);
    let kills = compare(&mut station).await;
    assert!(kills >= 3, "{kills} connections were killed");
}
