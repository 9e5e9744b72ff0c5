//! What the janitor does in whose database.

use crate::postgres::{Cluster, Kind};
use crate::world::World;
use realtime::control::janitor::sweep;
use serde_json::json;
use std::sync::Arc;
use tokio::net::TcpListener;

tests![
    old_days_are_dropped_and_coming_ones_made,
    a_silent_database_costs_its_own_turn_alone,
    whoever_was_connected_is_visited_once_more,
];

const PARTITIONS: &str =
    "select count(*) from pg_inherits where inhparent = 'realtime.messages'::regclass";

/// A partition of long ago, and none of the coming days.
const NEGLECTED: &str = "
do $$ declare name text; begin
  for name in select inhrelid::regclass from pg_inherits where inhparent = 'realtime.messages'::regclass loop
    execute 'drop table ' || name;
  end loop;
end $$;
create table realtime.messages_2001_02_03 partition of realtime.messages for values from ('2001-02-03') to ('2001-02-04')";

async fn old_days_are_dropped_and_coming_ones_made(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let tenant = world.tenant("t", &database, &json!({})).id;
    world.sessions.open(tenant).await.expect("PostgreSQL runs");
    database.sql(NEGLECTED);
    sweep(&world.environment, vec![tenant]).await;
    assert_eq!(database.sql(PARTITIONS), "5");
    assert_eq!(
        database.sql("select to_regclass('realtime.messages_2001_02_03') is null"),
        "t"
    );
    assert_eq!(world.logged("JanitorFailedToDeleteOldMessages"), 0);
    // Somebody holds the old partition: the coming days are made all the same.
    database.sql(NEGLECTED);
    let reader = database.client(&database.user).await;
    let hold = "begin; select * from realtime.messages";
    reader.batch_execute(hold).await.expect("it may read");
    sweep(&world.environment, vec![tenant]).await;
    assert_eq!(database.sql(PARTITIONS), "6");
    assert_eq!(
        world.logged("JanitorFailedToDeleteOldMessages: Scheduled cleanup failed for tenants: [\"t\"]: partition realtime.messages_2001_02_03: "),
        1
    );
}

async fn a_silent_database_costs_its_own_turn_alone(cluster: Arc<Cluster>) {
    let world = World::with(&[
        ("JANITOR_CHILDREN_TIMEOUT", "3000"),
        ("JANITOR_MAX_CHILDREN", "1"),
    ]);
    let silent = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("there are ports");
    let port = silent.local_addr().expect("it is bound").port().to_string();
    let database = cluster.database(Kind::Supabase);
    let first = world
        .tenant("silent", &database, &json!({"db_port": port}))
        .id;
    let second = world.tenant("t", &database, &json!({})).id;
    world.sessions.open(second).await.expect("PostgreSQL runs");
    database.sql(NEGLECTED);
    sweep(&world.environment, vec![first, second]).await;
    assert_eq!(database.sql(PARTITIONS), "5");
    assert_eq!(
        world.logged("JanitorFailedToDeleteOldMessages: Scheduled cleanup failed for tenants: [\"silent\"]: the database took longer than 3000 ms"),
        1
    );
}

async fn whoever_was_connected_is_visited_once_more(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let tenant = world.tenant("t", &database, &json!({})).id;
    assert_eq!(world.sessions.take_connected(), []);
    world.sessions.open(tenant).await.expect("PostgreSQL runs");
    assert_eq!(world.sessions.take_connected(), [tenant]);
    assert_eq!(world.sessions.take_connected(), [tenant], "it still is");
    world.tenant("t", &database, &json!({"db_pool": 2}));
    world.told(tenant, true).await;
    world.told(tenant, false).await;
    assert_eq!(world.sessions.take_connected(), [tenant], "it was");
    assert_eq!(world.sessions.take_connected(), []);
}
