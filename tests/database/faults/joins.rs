//! Faults that clients see when they join: no connection, no schema, no verdict.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Fixture, PROMPTLY, RECOVERY, TENANT, eventually, kill, tenant_of};
use crate::clock;
use crate::faults::peer::Peer;
use crate::postgres::{ADMIN, Cluster, Database, Kind};
use crate::server::Server;
use crate::token;

tests![
    a_database_that_is_down_is_found_again,
    killed_pool_connections_come_back,
    a_connection_killed_during_a_check_lets_nobody_in,
    a_connection_killed_during_the_migration_is_tried_again,
    connections_killed_all_the_time_cost_only_joins,
    a_policy_that_raises_refuses_its_topic_only,
    a_policy_that_sleeps_delays_its_tenant_only,
    a_database_reset_is_survived,
    changed_credentials_lock_out_until_they_are_right,
    a_thousand_joins_are_one_attempt_to_connect,
];

/// What a join of a tenant may be told whose database cannot be reached.
fn is_unreachable(reason: &str) -> bool {
    [
        "UnableToConnectToProject: Realtime was unable to connect to the project database",
        "DatabaseConnectionRateLimitReached: Too many database connections attempts per second",
        "InitializingProjectConnection: Realtime is initializing the project connection",
        "InitializingProjectConnection: Connecting to the project database",
    ]
    .contains(&reason)
}

#[track_caller]
fn assert_unreachable(outcome: Result<(), String>) {
    let reason = outcome.expect_err("nobody may be let in");
    assert!(is_unreachable(&reason), "{reason}");
}

async fn a_database_that_is_down_is_found_again(cluster: Arc<Cluster>) {
    // What was committed shall be there after the power cut.
    let own = Arc::new(Cluster::start_with(ADMIN, &["synchronous_commit = on"]));
    let database = own.database(Kind::Supabase);
    database.cluster.stop();
    let fixture = Fixture::cold(&cluster, database, &json!({}));
    assert!(fixture.server.is_healthy());
    let mut peer = fixture.peer();
    let start = clock::now();
    assert_unreachable(peer.join("realtime:a"));
    // A refused TCP connection is no timeout.
    assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    fixture.migrate(super::OTHER);
    fixture.faulty.cluster.start_again();
    eventually("the schema is made", RECOVERY, || {
        let _refused = peer.join("realtime:a");
        fixture
            .faulty
            .sql("select to_regclass('realtime.messages') is not null")
            == "t"
    });
    fixture.faulty.sql(super::POLICIES);
    peer.join_at_last("realtime:a", RECOVERY);
    // And again, while it is in use.
    fixture.faulty.cluster.stop();
    assert_unreachable(peer.join("realtime:b"));
    fixture.faulty.cluster.start_again();
    peer.join_at_last("realtime:b", RECOVERY);
    // The members from before are still members.
    peer.push(
        "realtime:a",
        "broadcast",
        &json!({"type": "broadcast", "event": "e", "payload": {"n": 1}}),
    );
    let heard = peer
        .broadcast("realtime:a", PROMPTLY)
        .expect("a member hears itself");
    assert_eq!(heard["payload"]["n"], 1);
}

async fn killed_pool_connections_come_back(cluster: Arc<Cluster>) {
    let fixture = Fixture::warm(&cluster);
    let mut peer = fixture.peer();
    assert_eq!(peer.join("realtime:before"), Ok(()));
    for round in 0..3 {
        assert!(
            kill(&fixture.faulty, "realtime_connect") > 0,
            "there was a connection"
        );
        peer.join_at_last(&format!("realtime:after {round}"), RECOVERY);
    }
    fixture.other_is_fine();
}

async fn a_connection_killed_during_a_check_lets_nobody_in(cluster: Arc<Cluster>) {
    let fixture = Fixture::warm(&cluster);
    let mut peer = fixture.peer();
    peer.start_join("realtime:sleeps:600", &json!({"private": true}));
    let sleeping = "select count(*) > 0 from pg_stat_activity where datname = current_database() \
                    and application_name = 'realtime_connect' and wait_event = 'PgSleep'";
    eventually("the policy sleeps", RECOVERY, || {
        fixture.faulty.sql(sleeping) == "t"
    });
    assert!(kill(&fixture.faulty, "realtime_connect") > 0);
    let reason = peer
        .joined("realtime:sleeps:600")
        .expect_err("there is no verdict");
    assert!(!reason.is_empty());
    peer.join_at_last("realtime:after", RECOVERY);
}

async fn a_connection_killed_during_the_migration_is_tried_again(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    // A type of a transaction that is still open: whoever makes one of that name waits for its end.
    let mut blocker = database.client(ADMIN).await;
    let transaction = blocker
        .transaction()
        .await
        .expect("a transaction can be begun");
    let types =
        "create type realtime.action as enum ('X'); create type realtime.wal_column as (x int)";
    transaction
        .batch_execute(types)
        .await
        .expect("the names are free");
    let fixture = Fixture::cold(&cluster, database, &json!({}));
    let mut peer = fixture.peer();
    peer.start_join("realtime:a", &json!({"private": true}));
    let waiting = "select count(*) > 0 from pg_stat_activity where datname = current_database() \
                   and application_name = 'realtime_migrations' and wait_event_type = 'Lock'";
    eventually("the migration waits", RECOVERY, || {
        fixture.faulty.sql(waiting) == "t"
    });
    assert!(kill(&fixture.faulty, "realtime_migrations") > 0);
    let refusal = peer
        .joined("realtime:a")
        .expect_err("there is no schema to ask");
    assert!(
        is_unreachable(&refusal) || refusal.starts_with("Unauthorized"),
        "{refusal}"
    );
    transaction.rollback().await.expect("it is open");
    eventually("the schema is made", RECOVERY, || {
        let _refused = peer.join("realtime:a");
        fixture.faulty.sql(
            "select to_regprocedure('realtime.send_binary(bytea,text,text,boolean)') is not null",
        ) == "t"
    });
    fixture.faulty.sql(super::POLICIES);
    peer.join_at_last("realtime:a", RECOVERY);
}

async fn connections_killed_all_the_time_cost_only_joins(cluster: Arc<Cluster>) {
    let fixture = Fixture::warm(&cluster);
    let mut member = fixture.peer();
    assert_eq!(member.join("realtime:member"), Ok(()));
    let topics: Vec<String> = (0..40).map(|number| format!("realtime:{number}")).collect();
    let mut peer = fixture.peer();
    for topic in &topics {
        peer.start_join(topic, &json!({"private": true}));
        // Whatever phase each of its connections is in.
        kill(&fixture.faulty, "realtime%");
    }
    // Each is answered, yes or no.
    let refused: Vec<&String> = topics
        .iter()
        .filter(|topic| peer.joined(topic).is_err())
        .collect();
    for topic in refused {
        peer.join_at_last(topic, RECOVERY);
    }
    member.push(
        "realtime:member",
        "broadcast",
        &json!({"type": "broadcast", "event": "e", "payload": {}}),
    );
    assert!(member.broadcast("realtime:member", PROMPTLY).is_some());
    fixture.other_is_fine();
}

async fn a_policy_that_raises_refuses_its_topic_only(cluster: Arc<Cluster>) {
    let fixture = Fixture::warm(&cluster);
    let mut peer = fixture.peer();
    let text =
        "Unauthorized: You do not have permissions to read from this Channel topic: raises:1";
    assert_eq!(peer.join("realtime:raises:1"), Err(text.to_owned()));
    assert_eq!(peer.join("realtime:a"), Ok(()));
    let log = fixture.server.log();
    assert!(
        log.contains("RlsPolicyError"),
        "{}",
        fixture.server.log_end()
    );
    // A write that cannot be judged does not pass, and its channel stays.
    fixture.faulty.sql(
        "create policy no_writes on realtime.messages as restrictive for insert to authenticated \
         with check (1 / (case when realtime.topic() = 'a' then 0 else 1 end) = 1)",
    );
    peer.push(
        "realtime:a",
        "broadcast",
        &json!({"type": "broadcast", "event": "lost", "payload": {}}),
    );
    fixture
        .faulty
        .sql("drop policy no_writes on realtime.messages");
    assert_eq!(peer.join("realtime:b"), Ok(()));
    peer.push(
        "realtime:b",
        "broadcast",
        &json!({"type": "broadcast", "event": "heard", "payload": {}}),
    );
    assert_eq!(
        peer.broadcast("realtime:b", PROMPTLY).expect("b may write")["event"],
        "heard"
    );
    assert!(
        peer.broadcast("realtime:a", Duration::from_millis(500))
            .is_none()
    );
}

async fn a_policy_that_sleeps_delays_its_tenant_only(cluster: Arc<Cluster>) {
    let fixture = Fixture::warm(&cluster);
    let mut slow = fixture.peer();
    slow.start_join("realtime:sleeps:600", &json!({"private": true}));
    let sleeping = "select count(*) from pg_stat_activity where datname = current_database() \
                    and application_name = 'realtime_connect' and wait_event = 'PgSleep'";
    eventually("the policy sleeps", RECOVERY, || {
        fixture.faulty.sql(sleeping) != "0"
    });
    fixture.other_is_fine();
    let refusal = slow
        .joined("realtime:sleeps:600")
        .expect_err("there is no verdict in time");
    let known = [
        "QueryCanceled",
        "UnableToConnectToProject",
        "IncreaseConnectionPool",
        "Realtime was unable to connect",
    ];
    assert!(
        known.iter().any(|start| refusal.starts_with(start)),
        "{refusal}"
    );
    eventually("the statement is ended as well", RECOVERY, || {
        fixture.faulty.sql(sleeping) == "0"
    });
    fixture.peer().join_at_last("realtime:after", RECOVERY);
}

async fn a_database_reset_is_survived(cluster: Arc<Cluster>) {
    let fixture = Fixture::warm(&cluster);
    let mut peer = fixture.peer();
    peer.join_streamed("realtime:before");
    fixture.faulty.sql(
        "drop schema realtime cascade; create schema realtime; \
         grant usage on schema realtime to anon, authenticated, service_role",
    );
    eventually("the schema is made again", 2 * RECOVERY, || {
        let _refused = peer.join("realtime:after");
        fixture.faulty.sql(
            "select to_regprocedure('realtime.send_binary(bytea,text,text,boolean)') is not null",
        ) == "t"
    });
    fixture.faulty.sql("drop function public.fault(text)");
    fixture.faulty.sql(super::POLICIES);
    peer.join_at_last("realtime:after", RECOVERY);
    fixture
        .faulty
        .sql("select realtime.send('{\"n\": 1}', 'e', 'before', true)");
    let heard = peer.broadcast("realtime:before", RECOVERY);
    assert_eq!(heard.expect("rows are streamed again")["payload"]["n"], 1);
    fixture.other_is_fine();
}

async fn changed_credentials_lock_out_until_they_are_right(cluster: Arc<Cluster>) {
    let mut database = cluster.database(Kind::Supabase);
    // The superuser is everybody's; a role of its own can be changed.
    let role = format!("login_of_{}", database.name);
    database.sql(&format!(
        "create role {role} login superuser password 'first'"
    ));
    database.user.clone_from(&role);
    database.password = "first".to_owned();
    let fixture = Fixture::warm_with(&cluster, database, &json!({}));
    let mut member = fixture.peer();
    assert_eq!(member.join("realtime:before"), Ok(()));
    fixture
        .faulty
        .sql(&format!("alter role {role} password 'second'"));
    kill(&fixture.faulty, "realtime%");
    assert_unreachable(fixture.peer().join("realtime:locked out"));
    for secret in ["first", "second"] {
        assert!(
            !fixture.server.log().contains(&format!("\"{secret}\"")),
            "a password is logged"
        );
    }
    // A server that is told the new one gets in; meanwhile the old one's members stay.
    let mut renewed = tenant_of(TENANT, &fixture.faulty);
    renewed["extensions"][0]["settings"]["db_password"] = json!("second");
    let second = Server::start(super::SETUP, &[renewed], super::ENVIRONMENT);
    assert_eq!(
        Peer::connect(&second, TENANT, &token::good()).join("realtime:a"),
        Ok(())
    );
    drop(second);
    fixture
        .faulty
        .sql(&format!("alter role {role} password 'first'"));
    fixture.peer().join_at_last("realtime:after", RECOVERY);
    member.push(
        "realtime:before",
        "broadcast",
        &json!({"type": "broadcast", "event": "e", "payload": {}}),
    );
    assert!(member.broadcast("realtime:before", PROMPTLY).is_some());
}

async fn a_thousand_joins_are_one_attempt_to_connect(cluster: Arc<Cluster>) {
    // Another server instead of the first one, to which the prepared database is new.
    let Fixture { server, faulty, .. } = Fixture::warm(&cluster);
    drop(server);
    let server = Server::start(
        super::SETUP,
        &[tenant_of(TENANT, &faulty)],
        super::ENVIRONMENT,
    );
    let before = attempts(&faulty);
    let mut peers: Vec<Peer> = (0..50)
        .map(|_| Peer::connect(&server, TENANT, &token::good()))
        .collect();
    let topic = |number: usize| format!("realtime:{}", number % 100);
    let start = clock::now();
    for number in 0..1000 {
        peers[number / 20].start_join(&topic(number), &json!({"private": true}));
    }
    for number in 0..1000 {
        assert_eq!(
            peers[number / 20].joined(&topic(number)),
            Ok(()),
            "{}",
            server.log_end()
        );
    }
    assert!(start.elapsed() < RECOVERY, "{:?}", start.elapsed());
    let after = attempts(&faulty);
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        // `db_pool` is one, and nothing was lost meanwhile.
        assert!(
            after - before <= 1,
            "{} connections as {name}",
            after - before
        );
    }
    assert!(after[0].1 > before[0].1, "it was probed: {after:?}");
}

/// How often the database was connected to, by purpose.
fn attempts(database: &Database) -> Vec<(&'static str, usize)> {
    let log = database.cluster.log();
    let count = |name: &str| {
        let end = format!("application_name={name}");
        let name_of_database = format!("database={} ", database.name);
        log.lines()
            .filter(|line| line.contains(&name_of_database) && line.ends_with(&end))
            .count()
    };
    [
        "realtime_connect_probe",
        "realtime_connect",
        "realtime_migrations",
    ]
    .map(|name| (name, count(name)))
    .to_vec()
}
