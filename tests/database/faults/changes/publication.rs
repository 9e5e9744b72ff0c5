//! The publication and its tables change while followers are there.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::{Load, assert_complete};
use super::{Follower, Stage, pause, rounds};
use crate::clock;
use crate::faults::{RECOVERY, TENANT};
use crate::postgres::Cluster;
use crate::token;

tests![
    a_publication_that_was_dropped_is_waited_for,
    a_table_that_is_added_is_followed_by_those_who_follow_all,
    a_table_that_is_removed_is_an_error_for_its_followers,
    columns_that_come_and_go_cost_no_row,
];

/// Less than the time to the next look that comes by itself.
const SOONER: Duration = Duration::from_secs(30);

/// The publication is looked at once a minute. Spec: postgres-changes 4.2.
const CHECK: Duration = Duration::from_secs(75);

async fn a_publication_that_was_dropped_is_waited_for(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let mut follower = stage.follow();
    stage
        .database
        .sql("drop publication supabase_realtime; insert into public.numbered values (1, 1, 1)");
    follower.is_warned(CHECK);
    stage
        .database
        .sql("create publication supabase_realtime for table public.numbered");
    // It may be tried, and fail, more than once until then.
    let deadline = clock::now() + CHECK;
    while follower.told(clock::left(deadline)).0 != "ok" {}
    let since = stage.rows("numbered");
    let load = Load::start(&stage.database, "numbered", 2..4);
    stage.compare_rest(load, &mut follower, &since, 1);
}

async fn a_table_that_is_added_is_followed_by_those_who_follow_all(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let mut all = Follower::join(&stage.server, &json!([{"event": "*", "schema": "public"}]));
    let mut one = stage.follow();
    stage.database.sql("create table public.late (n int primary key); alter publication supabase_realtime add table public.late");
    // Each of its rows may be the first that is told, and after that all are.
    let deadline = clock::now() + CHECK;
    let mut n = 0;
    let first = loop {
        n += 1;
        stage
            .database
            .sql(&format!("insert into public.late values ({n})"));
        if let Some(change) = all.change(Duration::from_millis(500)) {
            break change;
        }
        assert!(clock::now() < deadline, "{}", stage.server.log_end());
    };
    assert_eq!(first["table"], "late", "{first}");
    stage.database.sql(&format!(
        "insert into public.late select generate_series({}, {})",
        n + 1,
        n + 20
    ));
    let mut told = first["record"]["n"].as_i64();
    for _ in told.expect("it is a number")..n + 20 {
        let change = all
            .change(RECOVERY)
            .expect("every row is told from then on");
        told = told.map(|n| n + 1);
        assert_eq!(
            (&change["table"], change["record"]["n"].as_i64()),
            (&json!("late"), told)
        );
    }
    // Those who follow another table go on with it, and hear nothing else.
    let since = stage.rows("numbered");
    let load = Load::start(&stage.database, "numbered", 1..3);
    stage.compare_rest(load, &mut one, &since, 1);
}

async fn a_table_that_is_removed_is_an_error_for_its_followers(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let mut all = Follower::join(&stage.server, &json!([{"event": "*", "schema": "public"}]));
    let entries = json!([{"event": "*", "schema": "public", "table": "guarded"}]);
    let mut its_own = Follower::join(&stage.server, &entries);
    stage
        .database
        .sql("alter publication supabase_realtime drop table public.guarded");
    // The next row of any table tells that something has changed.
    stage.end_row("numbered", 0);
    let text = its_own.is_warned(SOONER);
    let expected = "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect \
                    parameters: [event: *, schema: public, table: guarded, filters: [], select: nil]";
    assert_eq!(text, expected);
    stage
        .database
        .sql("insert into public.guarded values (0, 1, 1)");
    // Who comes later is told the same.
    let mut later = Follower::start(&stage.server, TENANT, &entries, &token::good());
    assert_eq!(later.is_warned(RECOVERY), expected);
    let since = stage.rows("numbered");
    let load = Load::start(&stage.database, "numbered", 1..3);
    stage.compare_rest(load, &mut all, &since, 1);
    for follower in [&mut its_own, &mut later] {
        assert_eq!(follower.change(Duration::ZERO), None);
    }
}

async fn columns_that_come_and_go_cost_no_row(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let mut follower = stage.follow();
    let load = Load::start(&stage.database, "numbered", 1..4);
    for _ in 0..rounds() {
        pause(Duration::from_millis(150));
        stage
            .database
            .sql("alter table public.numbered add column more int default 7");
        pause(Duration::from_millis(150));
        stage
            .database
            .sql("alter table public.numbered alter column more type text");
        pause(Duration::from_millis(150));
        stage
            .database
            .sql("alter table public.numbered drop column more");
    }
    load.end();
    stage
        .database
        .sql("alter table public.numbered add column last text default 'x'");
    stage.end_row("numbered", 1);
    let heard = follower.rows_until(1);
    assert_complete(&heard, &stage.rows("numbered"), &stage.server.log_end());
    stage
        .database
        .sql("insert into public.numbered (writer, n, t) values (1, 0, 0)");
    let change = follower.change(RECOVERY).expect("a row is told");
    assert_eq!(
        change["record"],
        json!({"writer": 1, "n": 0, "t": 0, "last": "x"})
    );
    let columns: Vec<&Value> = change["columns"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|column| &column["name"])
        .collect();
    assert_eq!(columns, ["writer", "n", "t", "last"]);
}
