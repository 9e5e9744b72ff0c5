//! The server ends, well or not: what it leaves in the database, and what its clients find when they come back.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::load::Load;
use super::{Follower, SLOTS, Stage, fill, kept, pause, rounds};
use crate::faults::peer::Peer;
use crate::faults::{OTHER, RECOVERY, SETUP, TENANT, eventually, tenant_of};
use crate::postgres::{ADMIN, Cluster};
use crate::server::Server;
use crate::token;

tests![
    a_killed_server_leaves_a_slot_that_the_next_one_replaces,
    a_slot_that_nobody_asks_for_is_gone_with_the_next_start,
    a_terminated_server_takes_its_slot_along,
    a_frozen_server_is_taken_over_from,
    a_tenant_without_followers_has_no_slot,
    a_slot_of_another_tenant_is_left_alone,
];

/// Draining takes its time.
const DRAIN: Duration = Duration::from_secs(60);

async fn a_killed_server_leaves_a_slot_that_the_next_one_replaces(_: Arc<Cluster>) {
    // The log is the whole cluster's.
    let own = Arc::new(Cluster::start_with(ADMIN, &[]));
    let mut stage = Stage::new(&own);
    let _follower = stage.follow();
    for round in 0..i64::try_from(rounds()).expect("there are few rounds") {
        let writers = 10 * round + 1..10 * round + 3;
        let load = Load::start(&stage.database, "numbered", writers);
        pause(super::LOAD);
        stage.replace_server();
        let mut follower = stage.follow();
        let since = stage.rows("numbered");
        stage.compare_rest(load, &mut follower, &since, round);
        follower.is_told_nothing();
        assert_eq!(stage.slots(), "1");
    }
    // What the log keeps is what the slot that is there needs.
    fill(&stage);
    eventually("the log is let go", RECOVERY, || kept(&stage) < 8 << 20);
}

/// The last of a server's followers was there when it was killed, and does not come back.
async fn a_slot_that_nobody_asks_for_is_gone_with_the_next_start(cluster: Arc<Cluster>) {
    let mut stage = Stage::new(&cluster);
    let _follower = stage.follow();
    assert_eq!(stage.slots(), "1");
    stage.server.signal("KILL");
    eventually("the slot is nobody's", RECOVERY, || {
        stage.reader().is_none()
    });
    assert_eq!(stage.slots(), "1");
    stage.server = stage.another_server();
    eventually("the slot is gone", RECOVERY, || stage.slots() == "0");
}

async fn a_terminated_server_takes_its_slot_along(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let _follower = stage.follow();
    let load = Load::start(&stage.database, "numbered", 1..3);
    pause(super::LOAD);
    assert_eq!(stage.slots(), "1");
    let Stage {
        server, database, ..
    } = stage;
    server.terminate();
    assert!(server.ends_within(DRAIN));
    assert_eq!(database.sql(&format!("select count(*) {SLOTS}")), "0");
    load.end();
}

/// A server that answers nobody holds the slot all the same. Spec: postgres-changes 4.3, from the fifth attempt on it is ended.
async fn a_frozen_server_is_taken_over_from(cluster: Arc<Cluster>) {
    let mut stage = Stage::new(&cluster);
    let _follower = stage.follow();
    let frozen = stage.next_reader();
    stage.server.signal("STOP");
    let next = stage.another_server();
    let _old = std::mem::replace(&mut stage.server, next);
    let mut follower = stage.follow();
    let since = stage.rows("numbered");
    let load = Load::start(&stage.database, "numbered", 1..3);
    stage.compare_rest(load, &mut follower, &since, 1);
    assert_eq!(stage.slots(), "1");
    assert_ne!(stage.next_reader(), frozen);
    let log = stage.server.log();
    assert!(
        log.contains("ReplicationSlotBeingUsed"),
        "{}",
        stage.server.log_end()
    );
}

async fn a_tenant_without_followers_has_no_slot(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let mut peer = Peer::connect(&stage.server, TENANT, &token::good());
    peer.start_join("realtime:others", &json!({"postgres_changes": []}));
    assert_eq!(peer.joined("realtime:others"), Ok(()));
    assert_eq!(stage.slots(), "0");
    let _follower = stage.follow();
    assert_eq!(stage.slots(), "1");
}

async fn a_slot_of_another_tenant_is_left_alone(cluster: Arc<Cluster>) {
    let stage = Stage::new(&cluster);
    let mut follower = stage.follow();
    let since = stage.rows("numbered");
    let reader = stage.next_reader();
    // Another server has another tenant with the same database, and is killed, and starts, and is ended.
    let tenants = [tenant_of(OTHER, &stage.database)];
    let start = || Server::start(SETUP, &tenants, &stage.environment);
    let other = start();
    let _its_own = Follower::join_of(
        &other,
        OTHER,
        &json!([{"event": "*", "schema": "*"}]),
        &token::good(),
    );
    assert_eq!(stage.slots(), "2");
    drop(other);
    let other = start();
    eventually("its slot is gone", RECOVERY, || stage.slots() == "1");
    other.terminate();
    assert!(other.ends_within(DRAIN));
    assert_eq!(stage.next_reader(), reader);
    let load = Load::start(&stage.database, "numbered", 1..3);
    stage.compare_rest(load, &mut follower, &since, 1);
    follower.is_told_nothing();
}
