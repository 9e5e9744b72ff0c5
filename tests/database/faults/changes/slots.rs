//! The slot is lost, or keeps too much of the log: followers are told that rows may be missing, and when that is over.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::load::{Load, assert_orderly};
use super::{SLOTS, Stage, fill, kept, pause, rounds};
use crate::faults::{RECOVERY, eventually};
use crate::postgres::{ADMIN, Cluster};

tests![
    a_temporary_slot_ends_with_its_connection_and_followers_are_told,
    a_slot_that_somebody_dropped_is_made_again,
    a_slot_that_keeps_too_much_of_the_log_is_given_up,
    a_server_that_slept_gives_its_slot_up_when_it_keeps_too_much,
    a_slot_that_postgresql_gave_up_is_made_again,
];

async fn a_temporary_slot_ends_with_its_connection_and_followers_are_told(cluster: Arc<Cluster>) {
    let stage = Stage::with(&cluster, &json!({"temporary_slot": true}), &[]);
    let mut followers = [stage.follow(), stage.follow()];
    assert_eq!(
        stage.database.sql(&format!("select temporary {SLOTS}")),
        "t"
    );
    for round in 0..i64::try_from(rounds()).expect("there are few rounds") {
        stage.end_reader();
        for follower in &mut followers {
            follower.is_warned(RECOVERY);
            follower.is_subscribed();
        }
        let since = stage.rows("numbered");
        let writers = 10 * round + 1..10 * round + 3;
        let load = Load::start(&stage.database, "numbered", writers);
        pause(super::LOAD);
        load.end();
        stage.end_row("numbered", round);
        let new: Vec<_> = stage
            .rows("numbered")
            .into_iter()
            .filter(|row| !since.contains(row))
            .collect();
        for follower in &mut followers {
            super::load::assert_complete(
                &follower.rows_until(round),
                &new,
                &stage.server.log_end(),
            );
            follower.is_told_nothing();
        }
        assert_eq!(stage.slots(), "1");
    }
}

/// Ends whoever reads the slot, and drops it before it is read again.
const DROP: &str = "do $$
    declare dropped boolean := false;
    begin
      while not dropped loop
        perform pg_terminate_backend(active_pid) from pg_replication_slots
          where database = current_database() and slot_name like 'supabase_realtime_replication_slot%' and active_pid is not null;
        begin
          perform pg_drop_replication_slot(slot_name) from pg_replication_slots
            where database = current_database() and slot_name like 'supabase_realtime_replication_slot%';
          dropped := found;
        exception when object_in_use then null;
        end;
      end loop;
    end $$";

async fn a_slot_that_somebody_dropped_is_made_again(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let mut follower = stage.follow();
    stage.database.sql(DROP);
    follower.is_warned(RECOVERY);
    follower.is_subscribed();
    let since = stage.rows("numbered");
    let load = Load::start(&stage.database, "numbered", 1..3);
    stage.compare_rest(load, &mut follower, &since, 1);
    assert_eq!(stage.slots(), "1");
}

/// A bound that one filling passes several times over, looked at twice a second.
const SMALL: &[(&str, &str)] = &[
    ("REPLICATION_SLOT_WAL_BYTES_MAX", "8388608"),
    ("REPLICATION_WATCHDOG_INTERVAL_MS", "500"),
];

async fn a_slot_that_keeps_too_much_of_the_log_is_given_up(_: Arc<Cluster>) {
    let own = Arc::new(Cluster::start_with(ADMIN, &[]));
    let stage = Stage::with(&own, &json!({}), SMALL);
    let mut follower = stage.follow();
    // A slot keeps what it would need to read a transaction that is still open.
    let mut client = stage.database.client(ADMIN).await;
    let transaction = client
        .transaction()
        .await
        .expect("a transaction can be begun");
    let insert = "insert into public.numbered values (1, 1, 1)";
    transaction
        .batch_execute(insert)
        .await
        .expect("nobody else has this key");
    fill(&stage);
    let text = follower.is_warned(RECOVERY);
    assert!(!text.is_empty());
    eventually("the log is let go", RECOVERY, || kept(&stage) < 8 << 20);
    // A slot is made only when the transactions that it cannot read are over.
    transaction.commit().await.expect("it is open");
    follower.is_subscribed();
    let since = stage.rows("numbered");
    let load = Load::start(&stage.database, "numbered", 2..4);
    stage.compare_rest(load, &mut follower, &since, 1);
    follower.is_told_nothing();
    assert_eq!(stage.slots(), "1");
}

/// The server does nothing while much is written. Whether it then reads on or gives up is a matter of who comes first; what it
/// may not do is to leave out rows in silence, or to keep the log.
async fn a_server_that_slept_gives_its_slot_up_when_it_keeps_too_much(_: Arc<Cluster>) {
    let own = Arc::new(Cluster::start_with(ADMIN, &[]));
    let stage = Stage::with(&own, &json!({}), SMALL);
    let mut follower = stage.follow();
    stage.server.signal("STOP");
    stage
        .database
        .sql("insert into public.numbered select 1, n, n from generate_series(1, 20000) n");
    fill(&stage);
    stage.server.signal("CONT");
    eventually("the log is let go", RECOVERY, || kept(&stage) < 8 << 20);
    let was_warned = follower
        .peer
        .wait_for(Duration::ZERO, super::is_about_subscription)
        .is_some();
    if was_warned {
        follower.is_subscribed();
    }
    stage.end_row("numbered", 1);
    let heard = follower.rows_until(1);
    assert_orderly(&heard, &stage.server.log_end());
    assert!(
        was_warned || heard.len() == 20_000,
        "{} rows came",
        heard.len()
    );
    let since = stage.rows("numbered");
    let load = Load::start(&stage.database, "numbered", 2..4);
    stage.compare_rest(load, &mut follower, &since, 2);
}

async fn a_slot_that_postgresql_gave_up_is_made_again(_: Arc<Cluster>) {
    let own = Arc::new(Cluster::start_with(
        ADMIN,
        &["max_slot_wal_keep_size = 16MB", "max_wal_size = 64MB"],
    ));
    let stage = Stage::new(&own);
    let mut follower = stage.follow();
    stage.server.signal("STOP");
    eventually("PostgreSQL gives the slot up", RECOVERY, || {
        fill(&stage);
        stage.database.sql(&format!(
            "checkpoint; select count(*) {SLOTS} and wal_status <> 'lost'"
        )) == "0"
    });
    stage.server.signal("CONT");
    follower.is_warned(RECOVERY);
    follower.is_subscribed();
    let since = stage.rows("numbered");
    let load = Load::start(&stage.database, "numbered", 1..3);
    stage.compare_rest(load, &mut follower, &since, 1);
    assert_eq!(
        stage.database.sql(&format!("select wal_status {SLOTS}")),
        "reserved"
    );
}
