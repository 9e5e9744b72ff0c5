//! Whatever breaks between the table and the server while rows are written: each is told once.

use std::ops::Range;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::load::{Load, assert_complete, assert_rest};
use super::{Follower, Stage, pause, rounds};
use crate::clock;
use crate::dice::Dice;
use crate::faults::{RECOVERY, eventually, kill};
use crate::postgres::{ADMIN, Cluster};
use crate::token;

tests![
    every_row_is_told_once_while_streams_are_killed,
    every_row_is_told_once_while_a_slot_is_polled,
    every_row_is_told_once_while_postgresql_crashes_and_is_stopped,
    every_row_is_told_once_to_those_who_may_see_it,
    checks_that_are_killed_cost_nobody_a_row,
    who_joins_meanwhile_is_told_the_rest,
    a_commit_that_waits_for_a_standby_is_told_to_those_who_will_see_it,
];

const WRITERS: Range<i64> = 1..5;

/// A follower of all rows, one of a writer's, and one of two entries, of which each change is told in one message.
fn followers(stage: &Stage) -> Vec<Follower> {
    let table = |more: &str| json!({"event": "INSERT", "schema": "public", "table": "numbered", "filter": more});
    let entries = [
        json!([{"event": "*", "schema": "public", "table": "numbered"}]),
        json!([table("writer=in.(0,1)")]),
        json!([table("writer=gte.0"), {"event": "*", "schema": "*"}]),
    ];
    entries
        .iter()
        .map(|entries| Follower::join(&stage.server, entries))
        .collect()
}

/// Ends the load and compares what everybody heard with what the table holds.
#[track_caller]
fn compare(stage: &Stage, load: Load, followers: Vec<Follower>) {
    eventually("rows are written", RECOVERY, || load.committed() > 50);
    load.end();
    stage.end_row("numbered", 1);
    let there = stage.rows("numbered");
    let log = stage.server.log_end();
    let mut heard_by_first = Vec::new();
    for (index, mut follower) in followers.into_iter().enumerate() {
        let heard = follower.rows_until(1);
        if index == 1 {
            let own: Vec<_> = there
                .iter()
                .filter(|row| row.writer == 1)
                .copied()
                .collect();
            assert_complete(&heard, &own, &log);
        } else {
            assert_complete(&heard, &there, &log);
            if heard_by_first.is_empty() {
                heard_by_first.clone_from(&heard);
            }
            assert!(
                heard == heard_by_first,
                "two followers heard different orders"
            );
        }
        follower.is_told_nothing();
    }
}

async fn every_row_is_told_once_while_streams_are_killed(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let followers = followers(&stage);
    let load = Load::start(&stage.database, "numbered", WRITERS);
    let mut dice = Dice(1);
    for _ in 0..2 * rounds() {
        pause(Duration::from_millis(100 + dice.below(500)));
        stage.end_reader();
    }
    pause(Duration::from_millis(300));
    compare(&stage, load, followers);
}

async fn every_row_is_told_once_while_a_slot_is_polled(cluster: Arc<Cluster>) {
    let stage = Stage::with(
        &cluster,
        &json!({"cdc_engine": "poll", "poll_interval_ms": 20}),
        &[],
    );
    let followers = followers(&stage);
    let load = Load::start(&stage.database, "numbered", WRITERS);
    let mut dice = Dice(2);
    for _ in 0..2 * rounds() {
        pause(Duration::from_millis(100 + dice.below(500)));
        assert!(kill(&stage.database, "realtime%") > 0);
    }
    pause(Duration::from_millis(300));
    // It is polled indeed: nobody streams.
    let walsenders = "select count(*) from pg_stat_replication r join pg_stat_activity a using (pid) \
        join pg_replication_slots s on s.active_pid = r.pid \
        where s.database = current_database() and slot_name like 'supabase_realtime_replication_slot%'";
    assert_eq!(stage.database.sql(walsenders), "0");
    compare(&stage, load, followers);
}

async fn every_row_is_told_once_while_postgresql_crashes_and_is_stopped(_: Arc<Cluster>) {
    let own = Arc::new(Cluster::start_with(ADMIN, &[]));
    let stage = Stage::new(&own);
    let followers = followers(&stage);
    let load = Load::start(&stage.database, "numbered", WRITERS);
    let mut dice = Dice(3);
    for round in 0..rounds() {
        let before = load.committed();
        eventually("rows are written", RECOVERY, || {
            load.committed() > before + 20
        });
        pause(Duration::from_millis(dice.below(300)));
        if round % 2 == 0 {
            own.stop();
            own.start_again();
        } else {
            crash(&stage, &own);
        }
    }
    let before = load.committed();
    eventually("rows are written", RECOVERY, || {
        load.committed() > before + 20
    });
    stage.next_reader();
    compare(&stage, load, followers);
}

/// Kills a process of PostgreSQL as the kernel does when memory is short. All others end, and the log is read again.
fn crash(stage: &Stage, cluster: &Cluster) {
    let recoveries = || {
        cluster
            .log()
            .matches("all server processes terminated; reinitializing")
            .count()
    };
    let before = recoveries();
    let reader = stage.next_reader();
    let status = Command::new("kill").args(["-KILL", &reader]).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "there was no process {reader}"
    );
    eventually("PostgreSQL has noticed", RECOVERY, || recoveries() > before);
    eventually("PostgreSQL is there again", RECOVERY, || {
        let output = cluster
            .psql_command("postgres")
            .args(["-c", "select 1"])
            .output();
        output.expect("psql comes with PostgreSQL").status.success()
    });
}

/// The entries of a follower of the guarded table, and its token.
fn guarded(stage: &Stage, parity: i64) -> Follower {
    let entries = json!([{"event": "*", "schema": "public", "table": "guarded"}]);
    let claims = json!({"role": "authenticated", "exp": clock::unix_s() + 3600, "parity": parity});
    Follower::join_as(&stage.server, &entries, &token::sign(&claims))
}

async fn every_row_is_told_once_to_those_who_may_see_it(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let mut followers = [0, 1].map(|parity| guarded(&stage, parity));
    let load = Load::start(&stage.database, "guarded", WRITERS);
    let mut dice = Dice(4);
    for _ in 0..rounds() {
        pause(Duration::from_millis(100 + dice.below(500)));
        stage.end_reader();
    }
    compare_guarded(&stage, load, &mut followers);
}

/// Ends the load and compares what the followers of both parities heard with what the table holds for them.
#[track_caller]
fn compare_guarded(stage: &Stage, load: Load, followers: &mut [Follower; 2]) {
    load.end();
    stage.end_row("guarded", 1);
    let there = stage.rows("guarded");
    for (parity, follower) in [0, 1].into_iter().zip(followers) {
        let own: Vec<_> = there
            .iter()
            .filter(|row| row.writer % 2 == parity)
            .copied()
            .collect();
        assert_complete(&follower.rows_until(1), &own, &stage.server.log_end());
        follower.is_told_nothing();
    }
}

/// For half a second, ends every connection for checks as soon as it is there.
const HUNT: &str = "do $$ begin
      for i in 1..100 loop
        perform pg_terminate_backend(pid) from pg_stat_activity
          where datname = current_database() and application_name = 'realtime_rls';
        perform pg_stat_clear_snapshot(), pg_sleep(0.005);
      end loop;
    end $$";

/// What could not be asked about is asked about again: nobody sees more, or less.
async fn checks_that_are_killed_cost_nobody_a_row(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let mut followers = [0, 1].map(|parity| guarded(&stage, parity));
    let load = Load::start(&stage.database, "guarded", WRITERS);
    let mut dice = Dice(5);
    // Whoever asks has tried in vain as often as it does by itself, at least once.
    let was_in_vain = || {
        let log = stage.server.log();
        log.contains("row level security could not be asked about")
    };
    let mut hunts = 0;
    while hunts < rounds() || !was_in_vain() {
        assert!(hunts < rounds() + 60, "nothing was in vain");
        pause(Duration::from_millis(20 + dice.below(150)));
        stage.database.sql(HUNT);
        hunts += 1;
    }
    compare_guarded(&stage, load, &mut followers);
}

async fn who_joins_meanwhile_is_told_the_rest(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let first = stage.follow();
    let load = Load::start(&stage.database, "numbered", WRITERS);
    let mut later = Vec::new();
    for round in 0..2 * rounds() {
        pause(Duration::from_millis(50));
        if round == rounds() {
            stage.end_reader();
        }
        later.push((stage.follow(), stage.rows("numbered")));
    }
    load.end();
    stage.end_row("numbered", 1);
    let there = stage.rows("numbered");
    let log = stage.server.log_end();
    for (mut follower, since) in later {
        assert_rest(&follower.rows_until(1), &there, &since, &log);
        follower.is_told_nothing();
    }
    let mut first = first;
    assert_complete(&first.rows_until(1), &there, &log);
}

/// A commit is in the log, and in the stream, before others see its rows; as long as it waits for a standby, it stays so. Policies that
/// are asked meanwhile know nothing of the row.
async fn a_commit_that_waits_for_a_standby_is_told_to_those_who_will_see_it(_: Arc<Cluster>) {
    let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
    let stage = Stage::new(&cluster);
    let mut followers = [0, 1].map(|parity| guarded(&stage, parity));
    let standbys = |names: &str| {
        let set = format!("alter system set synchronous_standby_names = '{names}'");
        stage.database.sql(&set);
        stage.database.sql("select pg_reload_conf()");
        let shown = "select current_setting('synchronous_standby_names')";
        eventually("the setting is read", RECOVERY, || {
            stage.database.sql(shown) == names
        });
    };
    standbys("nobody");
    let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    let said = "select count(*) from pg_stat_replication where application_name = 'realtime_changes_reader' \
        and sent_lsn >= pg_current_wal_lsn()";
    thread::scope(|scope| {
        scope.spawn(|| {
            let sql = "set synchronous_commit = on; insert into public.guarded values (2, 1, 0)";
            stage.database.sql(sql);
        });
        eventually("the commit is said and not done", RECOVERY, || {
            stage.database.sql(waits) == "1" && stage.database.sql(said) == "1"
        });
        for follower in &mut followers {
            follower.is_told_no_change();
        }
        standbys("");
    });
    stage.end_row("guarded", 1);
    let rows = followers.map(|mut follower| follower.rows_until(1).len());
    assert_eq!(rows, [1, 0], "{}", stage.server.log_end());
}
