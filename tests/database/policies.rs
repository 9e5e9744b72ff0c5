//! Policies, asked of a real database: every recorded case, and every way in which there is no verdict.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use realtime::control::clock;
use realtime::control::database::Pool;
use realtime::control::desk::Desk;
use realtime::control::session::Sessions;
use realtime::limits;
use realtime::mail::{Ask, AskError, Checks, Told, Verdict};
use realtime::tenant::TenantId;
use serde_json::{Value, json};

use crate::asking::{
    ALL, ALL_GRANTED, OPEN, READS, TENANT, World, context, context_of, environment_with, state_of,
    vectors,
};
use crate::postgres::{ADMIN, Cluster, Database, Kind};
use crate::world::until;

tests![
    policies_say_what_they_said_to_the_original,
    every_failure_has_its_reason,
    roles_that_may_not_be_taken_on_are_refused,
    a_role_that_the_user_is_no_member_of_is_refused,
    nothing_is_left_behind,
    times_of_checks_are_measured_by_what_they_ask,
    equal_checks_in_flight_share_one_evaluation,
    slow_evaluations_are_not_joined_late,
    a_check_that_is_given_up_goes_on_for_the_others,
    a_pool_that_is_not_free_is_protected,
    a_connection_that_is_killed_is_no_verdict,
    the_desk_asks_through_a_session_and_has_a_lost_schema_made_again,
    checks_share_a_connection_without_mixing,
];

/// The statements of a vector.
fn statements(list: &Value) -> String {
    let list = list.as_array().into_iter().flatten();
    let statements = list.map(|statement| statement.as_str().expect("a statement is a text"));
    statements.collect::<Vec<_>>().join(";\n")
}

fn today(database: &Database) -> String {
    database.sql("select to_char(now() at time zone 'utc', '\"realtime.messages_\"YYYY_MM_DD')")
}

async fn policies_say_what_they_said_to_the_original(cluster: Arc<Cluster>) {
    let vectors = vectors("authorization/policies.json");
    assert!(vectors.len() >= 20);
    for vector in vectors {
        let world = World::new(&cluster).await;
        world.database.sql(&statements(&vector["setup"]));
        world.database.sql(&statements(&vector["policies"]));
        if vector["name"] == "no-partition-for-today" {
            let partition = today(&world.database);
            world.database.sql(&format!("drop table {partition}"));
        }
        let asked = &vector["context"];
        let headers = asked["headers"].as_object().into_iter().flatten();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str(), value.as_str().expect("a header is a text")))
            .collect();
        let topic = asked["topic"].as_str().expect("a topic is a text");
        let context = context_of(topic, &asked["claims"], &headers);
        let presence_read = vector["extensions_checked"].is_null();
        let reads = Checks {
            presence_read,
            ..READS
        };
        let all = Checks {
            writes: true,
            ..reads
        };
        for checks in [reads, Checks::WRITES, all] {
            let verdict = world.check(&context, checks).await;
            compare(&vector, checks, &verdict);
        }
        assert_eq!(world.rows(), vector["rows_left"].to_string(), "{vector}");
    }
}

fn compare(vector: &Value, checks: Checks, verdict: &Result<Verdict, AskError>) {
    let reads = checks.broadcast_read;
    let half = if reads { "read_error" } else { "write_error" };
    let fails = &vector[half];
    if fails.is_null() {
        // The original's function can be asked for one extension alone; nobody asks it so for writes (spec: authorization-rls 3).
        let both_written = checks.writes && vector["extensions_checked"].is_null();
        let expect = |half: &str, extension: &str, is_asked: bool| {
            let value = &vector[half][extension];
            is_asked.then(|| value.as_bool()).flatten()
        };
        let expected = Verdict {
            broadcast_read: expect("read", "broadcast", reads),
            presence_read: expect("read", "presence", reads),
            broadcast_write: expect("write", "broadcast", checks.writes),
            presence_write: match verdict {
                Ok(verdict) if !both_written => verdict.presence_write,
                _ => expect("write", "presence", checks.writes),
            },
        };
        assert_eq!(*verdict, Ok(expected), "{vector}");
        return;
    }
    let reason = verdict.as_ref().expect_err(&vector.to_string());
    match fails["sqlstate"].as_str() {
        None => {}
        Some("23514") => assert_eq!(*reason, AskError::MissingPartition, "{vector}"),
        Some(code) => {
            let message = fails["message"].as_str().expect("an error has a message");
            assert_eq!(
                *reason,
                AskError::Policy(format!("ERROR {code}: {message}")),
                "{vector}"
            );
        }
    }
}

async fn every_failure_has_its_reason(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    let is_policy = |part: &'static str| move |reason: &AskError| matches!(reason, AskError::Policy(text) if text.contains(part));
    type Expected = Box<dyn Fn(&AskError) -> bool>;
    let cases: [(&str, &str, Expected); 7] = [
        (
            "create policy r on realtime.messages for select using (1 / (length(topic) - 4) = 1)",
            "drop policy r on realtime.messages",
            Box::new(is_policy("22012: division by zero")),
        ),
        (
            "create policy w on realtime.messages for insert with check (1 / (length(topic) - 4) = 1)",
            "drop policy w on realtime.messages",
            Box::new(is_policy("22012: division by zero")),
        ),
        (
            "create table secret (); revoke all on secret from authenticated; create policy r on realtime.messages for select using (exists (select from secret))",
            "drop policy r on realtime.messages; drop table secret",
            Box::new(is_policy("42501: permission denied for table secret")),
        ),
        (
            "revoke select on realtime.messages from authenticated",
            "grant select on realtime.messages to authenticated",
            Box::new(is_policy("42501: permission denied for table messages")),
        ),
        (
            "create function absent() returns boolean language plpgsql as $$ begin return exists (select from nowhere); end $$; create policy r on realtime.messages for select using (absent())",
            "drop policy r on realtime.messages; drop function absent",
            Box::new(is_policy("42P01: relation \"nowhere\" does not exist")),
        ),
        (
            "create policy r on realtime.messages for select using (pg_sleep(20) is null)",
            "drop policy r on realtime.messages",
            Box::new(
                |reason| matches!(reason, AskError::Canceled(text) if text.contains("57014: canceling statement due to statement timeout")),
            ),
        ),
        (
            "alter schema realtime rename to away",
            "alter schema away rename to realtime",
            Box::new(
                |reason| matches!(reason, AskError::Other(text) if text.contains("the schema \"realtime\" of the tenant's database is not complete")),
            ),
        ),
    ];
    world.database.sql(OPEN);
    // The shorter time of the database counts. It meets new connections only.
    world.database.sql(&format!(
        "alter database {} set statement_timeout = '300 ms'",
        world.database.name
    ));
    let world = World {
        pool: Pool::open(Rc::new(world.database.settings()))
            .await
            .expect("it can be connected to"),
        ..world
    };
    world
        .database
        .sql("drop policy r on realtime.messages; drop policy w on realtime.messages");
    world
        .database
        .sql("create policy other on realtime.messages for all to anon using (true)");
    for (before, after, is_expected) in cases {
        world.database.sql(before);
        let reason = world.check_all().await.expect_err(before);
        assert!(is_expected(&reason), "{before}: {reason:?}");
        world.database.sql(after);
        let anon = world.check(&context("room", "anon"), ALL).await;
        assert_eq!(anon, Ok(ALL_GRANTED), "after {before}");
    }
    assert_eq!(world.rows(), "0");
    assert!(
        world
            .lines()
            .iter()
            .any(|line| line == "RlsPolicyError: ERROR 22012: division by zero")
    );
}

async fn roles_that_may_not_be_taken_on_are_refused(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world.database.sql(OPEN);
    world.database.sql(
        "do $$ begin create role another_superuser superuser; exception when duplicate_object then end $$",
    );
    let policy = |text: &str| Err(AskError::Policy(text.to_owned()));
    let may_not = |role: &str| policy(&format!("the role {role:?} may not be taken on"));
    let cases = [
        (json!({"role": "authenticated"}), Ok(ALL_GRANTED)),
        (json!({"role": "service_role"}), Ok(ALL_GRANTED)),
        (json!({"role": ADMIN}), may_not(ADMIN)),
        (
            json!({"role": "another_superuser"}),
            may_not("another_superuser"),
        ),
        (
            json!({"role": "none"}),
            policy("the role none may not be taken on"),
        ),
        (json!({"role": ""}), policy("the token has no role")),
        (json!({"role": null}), policy("the token has no role")),
        (json!({"role": 5}), policy("the token has no role")),
        (json!({}), policy("the token has no role")),
        (
            json!({"role": "None"}),
            policy("ERROR 22023: role \"None\" does not exist"),
        ),
        (
            json!({"role": "anon\0"}),
            policy("ERROR 22021: invalid byte sequence for encoding \"UTF8\": 0x00"),
        ),
        (
            json!({"role": "public"}),
            policy("ERROR 22023: role \"public\" does not exist"),
        ),
    ];
    for (claims, expected) in cases {
        for checks in [READS, Checks::WRITES, ALL] {
            let verdict = world.check(&context_of("room", &claims, &[]), checks).await;
            match (&expected, verdict) {
                (Ok(_), verdict) => assert!(verdict.is_ok(), "{claims} {verdict:?}"),
                (expected, verdict) => assert_eq!(verdict, *expected, "{claims}"),
            }
        }
    }
    assert_eq!(world.rows(), "0");
}

/// The server's user need not be a superuser: then it is refused by its name, and what it may not become by PostgreSQL.
async fn a_role_that_the_user_is_no_member_of_is_refused(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world.database.sql(OPEN);
    world.database.sql(
        "do $$ begin create role modest login bypassrls password 'postgres'; exception when duplicate_object then end $$;
         grant anon to modest;
         grant usage on schema realtime to modest; grant all on all tables in schema realtime to modest",
    );
    let settings = world.database.settings_with(&json!({"db_user": "modest"}));
    let pool = Pool::open(Rc::new(settings))
        .await
        .expect("it can be connected to");
    let world = World { pool, ..world };
    let check = async |role: &str| world.check(&context("room", role), ALL).await;
    assert_eq!(check("anon").await, Ok(ALL_GRANTED));
    let refused = |text: &str| Err(AskError::Policy(text.to_owned()));
    assert_eq!(
        check("modest").await,
        refused("the role \"modest\" may not be taken on")
    );
    assert_eq!(
        check("authenticated").await,
        refused("ERROR 42501: permission denied to set role \"authenticated\"")
    );
}

async fn times_of_checks_are_measured_by_what_they_ask(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world.database.sql(OPEN);
    let somebody = context("room", "authenticated");
    for checks in [READS, ALL, Checks::WRITES, READS] {
        let verdict = world.check(&somebody, checks).await;
        assert!(verdict.is_ok(), "{verdict:?}");
    }
    let nobody = context("room", "nobody");
    assert!(world.check(&nobody, ALL).await.is_err());
    let latencies = world.usage.latencies();
    let asked = [
        &latencies.read_authorization,
        &latencies.write_authorization,
    ];
    assert_eq!(asked.map(|of| of.tally().count()), [3, 2]);
    assert!(asked.iter().all(|of| of.tally().above == 0));
}

async fn nothing_is_left_behind(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    let before = state_of(&world.pool).await;
    assert_eq!(before[0], ADMIN);
    let claims = json!({"role": "authenticated", "sub": "me"});
    let context = context_of("room", &claims, &[("x-a", "b")]);
    for policies in [
        "select 1",
        OPEN,
        "drop policy r on realtime.messages; create policy r on realtime.messages for select to public using (1 / 0 = 1)",
        "drop policy w on realtime.messages; create policy w on realtime.messages for insert to public with check (1 / 0 = 1)",
        // What a policy sets for its session as well.
        "drop policy r on realtime.messages; create policy r on realtime.messages for select to public
            using (set_config('request.headers', 'left', false) is not null and set_config('statement_timeout', '1', false) is not null)",
    ] {
        world.database.sql(policies);
        for checks in [READS, Checks::WRITES, ALL] {
            let _ = world.check(&context, checks).await;
            assert_eq!(state_of(&world.pool).await, before, "{policies} {checks:?}");
        }
    }
    let unknown = context_of("room", &json!({"role": "nobody"}), &[]);
    assert!(world.check(&unknown, ALL).await.is_err());
    assert_eq!(state_of(&world.pool).await, before);
    assert_eq!(world.rows(), "0");
}

/// A policy that counts how often it is asked for a row of broadcast.
const COUNTING: &str = "create sequence evaluations; grant usage on sequence evaluations to public;
    create policy r on realtime.messages for select to public using (extension <> 'broadcast' or nextval('evaluations') > 0)";

async fn equal_checks_in_flight_share_one_evaluation(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world.database.sql(COUNTING);
    let evaluations = || -> u32 {
        let count = world
            .database
            .sql("select case when is_called then last_value else 0 end from evaluations");
        count.parse().expect("it is a number")
    };
    let ask = |topic: &str, claims: Value, header: &str, checks: Checks| {
        let (authorizer, pool) = (world.authorizer.clone(), world.pool.clone());
        let context = context_of(topic, &claims, &[("x-a", header)]);
        tokio::task::spawn_local(
            async move { authorizer.check(TENANT, &pool, &context, checks).await },
        )
    };
    let granted = |verdict: Result<Verdict, AskError>| {
        assert_eq!(
            verdict.map(|verdict| verdict.broadcast_read),
            Ok(Some(true))
        );
    };
    let claims = || json!({"role": "anon", "sub": "a"});
    let same: Vec<_> = (0..1000)
        .map(|_| ask("room", claims(), "b", READS))
        .collect();
    for check in same {
        granted(check.await.expect("it does not panic"));
    }
    assert_eq!(evaluations(), 1);
    granted(
        world
            .check(&context_of("room", &claims(), &[("x-a", "b")]), READS)
            .await,
    );
    assert_eq!(evaluations(), 2, "nothing is kept");
    let other = json!({"role": "anon", "sub": "b"});
    let role = json!({"role": "authenticated", "sub": "a"});
    let broadcast = Checks {
        presence_read: false,
        ..READS
    };
    let different = [
        ask("room", claims(), "b", READS),
        ask("room2", claims(), "b", READS),
        ask("room", other, "b", READS),
        ask("room", role, "b", READS),
        ask("room", claims(), "c", READS),
        ask("room", claims(), "b", broadcast),
        ask("room", claims(), "b", ALL),
    ];
    for check in different {
        granted(check.await.expect("it does not panic"));
    }
    assert_eq!(evaluations(), 2 + 7);
}

async fn slow_evaluations_are_not_joined_late(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world.database.sql(
        "create sequence evaluations; grant usage on sequence evaluations to public;
         create policy r on realtime.messages for select to public
            using (nextval('evaluations') > 0 and pg_sleep(3) is not null)",
    );
    let asked = context("room", "anon");
    let broadcast = Checks {
        presence_read: false,
        ..READS
    };
    let early = world.check(&asked, broadcast);
    let late = async {
        // A sequence shows its value before the statement that took it is through.
        until("it has begun", async || {
            world.database.sql("select is_called from evaluations") == "t"
        })
        .await;
        tokio::time::sleep(limits::POLICY_SHARED_WITHIN * 2).await;
        tokio::join!(
            world.check(&asked, broadcast),
            world.check(&asked, broadcast)
        )
    };
    let (early, (one, other)) = tokio::join!(early, late);
    for verdict in [early, one, other] {
        assert_eq!(
            verdict.map(|verdict| verdict.broadcast_read),
            Ok(Some(true))
        );
    }
    let count = world.database.sql("select last_value from evaluations");
    assert_eq!(count, "2", "those who came late share one of their own");
}

async fn a_check_that_is_given_up_goes_on_for_the_others(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world.database.sql(OPEN);
    let asked = context("room", "anon");
    let first = Box::pin(world.check(&asked, ALL));
    let second = Box::pin(world.check(&asked, ALL));
    let mut first = first;
    let started = tokio::time::timeout(Duration::ZERO, first.as_mut()).await;
    assert!(started.is_err(), "it takes a round trip");
    let (_, verdict) = tokio::join!(async { drop(first) }, second);
    assert_eq!(verdict, Ok(ALL_GRANTED));
    assert_eq!(state_of(&world.pool).await[0], ADMIN);
}

async fn a_pool_that_is_not_free_is_protected(cluster: Arc<Cluster>) {
    let world = World::with(&cluster, json!({"db_queue_target": 200})).await;
    world.database.sql("create policy r on realtime.messages for select to public using (topic <> 'slow' or pg_sleep(4) is not null)");
    let slow = context("slow", "anon");
    let slow = world.check(
        &slow,
        Checks {
            presence_read: false,
            ..READS
        },
    );
    let fast = async {
        // Behind the slow one, on the only connection.
        tokio::task::yield_now().await;
        let start = clock::now();
        let (one, other) = (context("one", "anon"), context("other", "anon"));
        assert_eq!(world.check(&one, READS).await, Err(AskError::PoolExhausted));
        let waited = clock::now().duration_since(start);
        assert!(waited >= limits::POLICY_BEGIN_TIMEOUT_MIN, "{waited:?}");
        let start = clock::now();
        assert_eq!(
            world.check(&other, READS).await,
            Err(AskError::PoolExhausted)
        );
        assert!(
            clock::now().duration_since(start) < limits::POLICY_BEGIN_TIMEOUT_MIN,
            "it does not wait"
        );
        // Another tenant's checks are not refused.
        let verdict = world
            .authorizer
            .check(TenantId(2), &world.pool, &other, READS)
            .await;
        assert_eq!(verdict, Err(AskError::PoolExhausted), "it has waited");
    };
    let (verdict, ()) = tokio::join!(slow, fast);
    assert_eq!(
        verdict.map(|verdict| verdict.broadcast_read),
        Ok(Some(true))
    );
    let lines = world.lines();
    let trips = lines
        .iter()
        .filter(|line| *line == "IncreaseConnectionPool: Too many database timeouts");
    assert_eq!(trips.count(), 2, "one of each tenant: {lines:?}");
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("ErrorExecutingTransaction: ")),
        "{lines:?}"
    );
}

async fn a_connection_that_is_killed_is_no_verdict(cluster: Arc<Cluster>) {
    let world = World::new(&cluster).await;
    world.database.sql(OPEN);
    world.database.sql("drop policy r on realtime.messages; create policy r on realtime.messages for select to public using (pg_sleep(10) is not null)");
    let asked = context("room", "anon");
    let check = world.check(&asked, ALL);
    let name = &world.database.name;
    let other = world.database.client(ADMIN).await;
    let kill = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}' \
         and query like 'select id from realtime.messages%' and wait_event = 'PgSleep'"
    );
    // There is no event for a statement that has begun in another process.
    let kill = until("the check sleeps", async || {
        let killed = other.query(&kill, &[]).await.expect("it is a statement");
        !killed.is_empty()
    });
    let (verdict, ()) = tokio::join!(check, kill);
    assert_eq!(verdict, Err(AskError::Unreachable));
    world.database.sql("drop policy r on realtime.messages; create policy r on realtime.messages for select to public using (true)");
    assert_eq!(
        world.check(&asked, ALL).await,
        Ok(ALL_GRANTED),
        "the pool is back"
    );
}

/// From the outside in: a question finds its database, and a schema that somebody has dropped comes back.
async fn the_desk_asks_through_a_session_and_has_a_lost_schema_made_again(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    let extensions = database.extensions(&json!({}));
    let settings = extensions[0]["settings"]
        .as_object()
        .expect("it is an object");
    let (environment, _lines) = environment_with(Some(settings));
    let sessions = Sessions::new(Rc::clone(&environment));
    let desk = Desk::start(sessions, environment);
    assert_eq!(desk.ask(TENANT, Ask::Connect).await, Ok(Told::Connected));
    assert_eq!(
        desk.ask(TenantId(99), Ask::Connect).await,
        Err(AskError::Unreachable)
    );
    let policies = || Ask::Policies {
        context: context("room", "service_role"),
        checks: ALL,
    };
    let granted = Ok(Told::Verdict(ALL_GRANTED));
    assert_eq!(desk.ask(TENANT, policies()).await, granted);
    database.sql("select realtime.send('{}', 'e', 'room', true)");
    let replay = Ask::Replay {
        topic: "room".into(),
        since_ms: 0,
        limit: 1,
    };
    let replayed = desk.ask(TENANT, replay).await;
    assert!(
        matches!(&replayed, Ok(Told::Replayed(messages)) if messages.len() == 1),
        "{replayed:?}"
    );
    database.sql("drop schema realtime cascade");
    let lost = desk.ask(TENANT, policies()).await;
    assert!(matches!(lost, Err(AskError::Other(_))), "{lost:?}");
    until("the schema comes back", async || {
        desk.ask(TENANT, policies()).await == granted
    })
    .await;
}

/// Hundreds of checks of different people at the same time on one connection: each gets the verdict of its own claims.
async fn checks_share_a_connection_without_mixing(cluster: Arc<Cluster>) {
    // Nobody is refused because so many wait.
    let world = World::with(&cluster, json!({"db_queue_target": 15_000})).await;
    world.database.sql(
        "create policy r on realtime.messages for select to authenticated
            using (current_setting('request.jwt.claim.sub') = realtime.topic() and extension = 'broadcast');
         create policy w on realtime.messages for insert to anon
            with check (current_setting('request.jwt.claims')::json->>'sub' = topic and extension = 'presence')",
    );
    let checks = (0..600).map(|index| {
        let (authorizer, pool) = (world.authorizer.clone(), world.pool.clone());
        tokio::task::spawn_local(async move {
            let role = ["authenticated", "anon", "nobody"][index % 3];
            let sub = if index % 2 == 0 { "room" } else { "other" };
            let context = context_of("room", &json!({"role": role, "sub": sub, "n": index}), &[]);
            let (is_same, reads) = (sub == "room", role == "authenticated");
            let expected = Verdict {
                broadcast_read: Some(reads && is_same),
                presence_read: Some(false),
                broadcast_write: Some(false),
                presence_write: Some(!reads && is_same),
            };
            let verdict = authorizer.check(TENANT, &pool, &context, ALL).await;
            match role {
                "nobody" => assert!(matches!(verdict, Err(AskError::Policy(_))), "{verdict:?}"),
                _ => assert_eq!(verdict, Ok(expected), "{context:?}"),
            }
        })
    });
    for check in checks.collect::<Vec<_>>() {
        check.await.expect("each has its own verdict");
    }
    assert_eq!(world.rows(), "0");
}
