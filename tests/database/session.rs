//! The life of sessions: started once by many, kept, lost, restored, and ended.

use crate::postgres::{ADMIN, Cluster, Database, Kind};
use crate::world::{PATIENCE, World, advance, until};
use realtime::control::database::{Pool, PoolError, migrate};
use realtime::limits;
use realtime::mail::AskError;
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

tests![
    many_callers_share_one_attempt,
    failures_in_a_row_block_further_attempts,
    failures_have_a_code_and_say_nothing_of_the_password,
    a_database_without_room_is_left_alone,
    a_database_that_comes_back_is_connected_without_being_asked,
    nobody_connected_means_no_retries,
    a_killed_backend_is_replaced_under_the_session,
    a_database_that_stays_away_ends_the_session_after_ten_minutes,
    changed_settings_replace_the_session,
    wrong_settings_that_are_corrected_are_used_at_once,
    rows_between_two_sessions_are_broadcast,
    suspended_and_removed_tenants_have_no_session,
    an_idle_session_is_closed_after_twelve_minutes,
    a_session_ends_when_it_is_told_to,
    a_session_that_starts_ends_when_it_is_told_to,
    a_tenant_that_goes_while_its_session_starts_has_none,
    a_database_is_migrated_without_a_session,
    a_dropped_schema_is_made_again,
    a_silent_database_delays_nobody_else,
    a_database_that_is_being_set_up_is_not_unreachable,
    a_database_without_ipv6_is_noticed,
    a_tenant_without_a_database_is_unreachable,
];

/// Backends of `database` that bear this name.
fn backends(database: &Database, application_name: &str) -> String {
    let name = &database.name;
    database.sql(&format!(
        "select count(*) from pg_stat_activity where datname = '{name}' and application_name = '{application_name}'"
    ))
}

/// How often somebody logged in under this name.
fn logins(database: &Database, application_name: &str) -> usize {
    let start = format!(
        "database={} application_name={application_name}",
        database.name
    );
    let log = database.cluster.log();
    log.lines().filter(|line| line.ends_with(&start)).count()
}

async fn answers(pool: &Pool) {
    let lease = pool.lease().await.expect("the pool has a connection");
    let rows = lease.query_typed("select 1", &[]).await;
    assert_eq!(rows.expect("the database answers").len(), 1);
}

async fn many_callers_share_one_attempt(cluster: Arc<Cluster>) {
    let (world, database) = (Rc::new(World::new()), cluster.database(Kind::Supabase));
    let tenant = world.tenant("t", &database, &json!({})).id;
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let world = Rc::clone(&world);
        callers.spawn_local(async move { world.sessions.open(tenant).await.map(drop) });
    }
    for outcome in callers.join_all().await {
        assert_eq!(outcome, Ok(()));
    }
    for name in [
        "realtime_connect_probe",
        "realtime_migrations",
        "realtime_connect",
    ] {
        assert_eq!(logins(&database, name), 1, "{name}");
    }
    let pool = world.sessions.open(tenant).await.expect("it runs");
    answers(&pool).await;
    assert_eq!(pool.address(), Some([127, 0, 0, 1].into()));
    world.told(tenant, true).await;
    world
        .told_that(tenant, |state| state.is_connected && state.is_replicating)
        .await;
    // The first rows find their partitions.
    let partitions =
        "select count(*) >= 5 from pg_inherits where inhparent = 'realtime.messages'::regclass";
    assert_eq!(database.sql(partitions), "t");
}

/// Settings of a database where nobody listens.
async fn nowhere() -> Value {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("there are ports");
    let port = listener.local_addr().expect("it is bound").port();
    json!({"db_port": port.to_string()})
}

async fn failures_in_a_row_block_further_attempts(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Empty));
    let tenant = world.tenant("t", &database, &nowhere().await).id;
    let failed = |outcome: Result<Pool, AskError>| outcome.expect_err("nobody listens");
    let limit = limits::DATABASE_FAILURES_MAX as usize;
    for _ in 0..limit {
        assert_eq!(
            failed(world.sessions.open(tenant).await),
            AskError::Unreachable
        );
    }
    assert_eq!(
        failed(world.sessions.open(tenant).await),
        AskError::TooManyAttempts
    );
    assert_eq!(
        world.logged("UnableToConnectToTenantDatabase: nobody answers at 127.0.0.1:"),
        limit
    );
    let blocked = "DatabaseConnectionRateLimitReached: Too many connection attempts against the tenant database";
    assert_eq!(world.logged(blocked), 1);
    advance(Duration::from_secs(6)).await;
    assert_eq!(
        failed(world.sessions.open(tenant).await),
        AskError::Unreachable
    );
    // A session that runs is nobody's attempt.
    advance(Duration::from_secs(6)).await;
    world.tenant("t", &database, &json!({}));
    let pool = world
        .sessions
        .open(tenant)
        .await
        .expect("the settings are right now");
    for _ in 0..10 {
        world.sessions.open(tenant).await.expect("it runs");
    }
    answers(&pool).await;
}

async fn failures_have_a_code_and_say_nothing_of_the_password(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(&format!(
        "create role nobody_{name} login password 'right'; alter database {name} connection limit 0",
        name = database.name
    ));
    let check = async |more: Value, line: &str, told: AskError| {
        let world = World::new();
        let tenant = world.tenant("t", &database, &more).id;
        let outcome = world.sessions.open(tenant).await.map(drop);
        assert_eq!(outcome, Err(told), "{more}");
        let log = world.log();
        // That it is tried is said first, where it is.
        let mut lines = log.iter().filter(|it| {
            !it.starts_with("Tenant t is initializing") && *it != "Connection process starting up"
        });
        let failure = lines.next().expect("it failed");
        assert!(failure.starts_with(line), "{log:?} and not {line:?}");
        assert!(log.iter().all(|it| !it.contains("sesame")), "{log:?}");
    };
    let code = "UnableToConnectToTenantDatabase: ";
    let place = format!("127.0.0.1:{}", database.port);
    check(
        json!({"db_password": "sesame"}),
        &format!(
            "{code}{place} refuses the user or its password: FATAL password authentication failed"
        ),
        AskError::Unreachable,
    )
    .await;
    check(
        json!({"db_name": "atlantis", "db_password": "postgres"}),
        &format!("{code}{place} has no such database: FATAL database \"atlantis\" does not exist"),
        AskError::Unreachable,
    )
    .await;
    check(
        json!({"db_host": "nowhere.invalid"}),
        &format!("{code}the host nowhere.invalid cannot be found (nxdomain): "),
        AskError::Unreachable,
    )
    .await;
    check(
        json!({"ssl_enforced": true}),
        &format!(
            "{code}no TLS with {place}: error performing TLS handshake: server does not support TLS"
        ),
        AskError::Unreachable,
    )
    .await;
    check(
        json!({"db_port": "sesam"}),
        &format!("{code}db_port is no port: sesam"),
        AskError::Unreachable,
    )
    .await;
    check(
        json!({"db_user": format!("nobody_{}", database.name), "db_password": "right"}),
        "DatabaseLackOfConnections: the database accepts no more connections: FATAL too many connections for database",
        AskError::LackOfConnections,
    )
    .await;
}

async fn a_database_without_room_is_left_alone(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let more = json!({"db_pool": 256, "subs_pool_size": 256});
    let tenant = world.tenant("t", &database, &more).id;
    let outcome = world.sessions.open(tenant).await.map(drop);
    assert_eq!(outcome, Err(AskError::LackOfConnections));
    let log = world.log();
    assert!(
        log[2].starts_with("DatabaseLackOfConnections: Only "),
        "{log:?}"
    );
    assert!(
        log[2].ends_with(" available connections. At least 494 connections are required."),
        "{log:?}"
    );
    assert_eq!(logins(&database, "realtime_connect"), 0);
}

async fn a_database_that_comes_back_is_connected_without_being_asked(_: Arc<Cluster>) {
    let cluster = Cluster::start_with(ADMIN, &[]);
    let world = World::new();
    let port = json!({"db_port": cluster.port().to_string()});
    cluster.stop();
    let database = |port: &Value| {
        let mut settings = json!({
            "db_host": "127.0.0.1", "db_name": "postgres", "db_user": ADMIN, "db_password": "postgres",
            "region": "local", "ssl_enforced": false,
        });
        settings["db_port"] = port["db_port"].clone();
        json!({"extensions": [{"type": "postgres_cdc_rls", "settings": settings}]})
    };
    let tenant = world.tenant_of("t", &database(&port));
    assert!(tenant.usage.try_add_user(1));
    let outcome = world.sessions.open(tenant.id).await.map(drop);
    assert_eq!(outcome, Err(AskError::Unreachable));
    cluster.start_again();
    world.told(tenant.id, true).await;
    answers(&world.sessions.open(tenant.id).await.expect("it runs")).await;
}

async fn nobody_connected_means_no_retries(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let tenant = world.tenant("t", &database, &nowhere().await).id;
    world
        .sessions
        .open(tenant)
        .await
        .expect_err("nobody listens");
    for _ in 0..10 {
        advance(Duration::from_secs(60)).await;
    }
    assert_eq!(world.logged("UnableToConnectToTenantDatabase"), 1);
}

async fn a_killed_backend_is_replaced_under_the_session(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let tenant = world.tenant("t", &database, &json!({"db_pool": 2})).id;
    let pool = world.sessions.open(tenant).await.expect("it starts");
    until("both connections", async || {
        backends(&database, "realtime_connect") == "2"
    })
    .await;
    for _ in 0..3 {
        database.sql(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' and application_name = 'realtime_connect'",
            database.name
        ));
        let mut down = pool.down_since();
        let back = timeout(PATIENCE, down.wait_for(Option::is_none)).await;
        back.expect("it comes back").expect("the pool is there");
        until("a connection that answers", async || {
            match pool.lease().await {
                Ok(lease) => lease.query_typed("select 1", &[]).await.is_ok(),
                Err(_) => false,
            }
        })
        .await;
    }
    assert!(
        world.logged(
            "DatabaseConnectionDown: Database pool connection lost, recovery window opened"
        ) >= 1
    );
    assert_eq!(
        logins(&database, "realtime_connect_probe"),
        1,
        "it is the same session"
    );
}

async fn a_database_that_stays_away_ends_the_session_after_ten_minutes(_: Arc<Cluster>) {
    let cluster = Cluster::start_with(ADMIN, &[]);
    let world = World::new();
    let tenant = {
        let settings = json!({
            "db_host": "127.0.0.1", "db_port": cluster.port().to_string(), "db_name": "postgres", "db_user": ADMIN,
            "db_password": "postgres", "region": "local", "ssl_enforced": false,
        });
        let extension = json!([{"type": "postgres_cdc_rls", "settings": settings}]);
        world.tenant_of("t", &json!({"extensions": extension})).id
    };
    let pool = world.sessions.open(tenant).await.expect("it starts");
    world.told(tenant, true).await;
    cluster.stop();
    let mut down = pool.down_since();
    let lost = timeout(PATIENCE, down.wait_for(Option::is_some)).await;
    lost.expect("it is noticed").expect("the pool is there");
    until("the next attempt is refused", async || {
        pool.why_down().is_some()
    })
    .await;
    advance(limits::DATABASE_HEALTH_INTERVAL).await;
    until("the log says why", async || {
        world.logged("UnableToConnectToTenantDatabase: nobody answers at 127.0.0.1:") > 0
    })
    .await;
    // Within the window there is a session, without a connection to lend.
    advance(limits::DATABASE_RECOVERY_WINDOW - Duration::from_secs(60)).await;
    assert_eq!(world.sessions.open(tenant).await.map(drop), Ok(()));
    assert_eq!(pool.lease().await.expect_err("it is away"), PoolError::Gone);
    advance(Duration::from_secs(61)).await;
    world.told(tenant, false).await;
    let exceeded = "DatabaseConnectionRecoveryWindowExceeded: Database pool could not reconnect within 600000ms, terminating connection";
    assert_eq!(world.logged(exceeded), 1);
    cluster.start_again();
    answers(&world.sessions.open(tenant).await.expect("it starts anew")).await;
}

async fn changed_settings_replace_the_session(cluster: Arc<Cluster>) {
    let world = World::new();
    let (one, other) = (
        cluster.database(Kind::Supabase),
        cluster.database(Kind::Supabase),
    );
    let tenant = world.tenant("t", &one, &json!({})).id;
    let pool = world.sessions.open(tenant).await.expect("it starts");
    world.told(tenant, true).await;
    // What is no setting of the connection changes nothing, nor does another tenant.
    world.tenant("t", &one, &json!({"poll_interval_ms": 5}));
    world.tenant("u", &other, &json!({}));
    answers(&pool).await;
    world.tenant("t", &other, &json!({}));
    world.told(tenant, false).await;
    world.told(tenant, true).await;
    assert_eq!(
        pool.lease().await.expect_err("its session has ended"),
        PoolError::Gone
    );
    let pool = world.sessions.open(tenant).await.expect("it runs");
    assert_eq!(pool.settings().name, other.name);
    answers(&pool).await;
    until("no connection to the old one", async || {
        backends(&one, "realtime_connect") == "0"
    })
    .await;
}

async fn rows_between_two_sessions_are_broadcast(cluster: Arc<Cluster>) {
    let world = World::new();
    let (one, other) = (
        cluster.database(Kind::Supabase),
        cluster.database(Kind::Supabase),
    );
    let tenant = world.tenant("t", &one, &json!({}));
    assert!(tenant.usage.try_add_user(1));
    let send = |database: &Database, event: &str| {
        database.sql(&format!(
            "select realtime.send('{{}}', '{event}', 'room', false)"
        ));
    };
    world.sessions.open(tenant.id).await.expect("it starts");
    send(&one, "first");
    assert!(world.events_until("first").await.is_empty());
    // Other settings of the same database, wrong ones in between.
    world.tenant("t", &one, &nowhere().await);
    world.told(tenant.id, false).await;
    send(&one, "between");
    world.tenant("t", &one, &json!({"db_pool": 3}));
    world.told(tenant.id, true).await;
    send(&one, "second");
    assert_eq!(world.events_until("second").await, ["between"]);
    // Another database has a history of its own.
    world.tenant("t", &other, &json!({}));
    world.told(tenant.id, true).await;
    send(&one, "unheard");
    send(&other, "third");
    assert!(world.events_until("third").await.is_empty());
    // What is committed while nobody is connected is nobody's.
    tenant.usage.remove_user();
    let failures = world.logged("UnableToConnectToTenantDatabase");
    world.tenant("t", &other, &nowhere().await);
    world.told(tenant.id, false).await;
    until("nobody trying again", async || {
        world.logged("UnableToConnectToTenantDatabase") > failures
    })
    .await;
    send(&other, "unheard as well");
    world.tenant("t", &other, &json!({}));
    world.sessions.open(tenant.id).await.expect("it starts");
    send(&other, "fourth");
    assert!(world.events_until("fourth").await.is_empty());
}

async fn wrong_settings_that_are_corrected_are_used_at_once(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let tenant = world.tenant("t", &database, &json!({"db_password": "wrong"}));
    assert!(tenant.usage.try_add_user(1));
    // The pause between two attempts grows to the longest.
    for attempt in 0..4 {
        if attempt > 0 {
            // Failures longer ago than the window of DATABASE_FAILURES_MAX.
            advance(Duration::from_secs(6)).await;
        }
        let opened = world.sessions.open(tenant.id).await;
        opened.expect_err("the password is wrong");
    }
    world.tenant("t", &database, &json!({}));
    let connected = world.told(tenant.id, true);
    // The part of it that is not random.
    let pause = limits::DATABASE_RETRY_PAUSE_MAX / 2;
    timeout(pause, connected)
        .await
        .expect("before the pause is over");
}

async fn suspended_and_removed_tenants_have_no_session(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let attributes =
        |suspend: bool| json!({"extensions": database.extensions(&json!({})), "suspend": suspend});
    let tenant = world.tenant_of("t", &attributes(true)).id;
    let refused = world.sessions.open(tenant).await.map(drop);
    assert_eq!(refused, Err(AskError::Suspended));
    world.tenant_of("t", &attributes(false));
    world.sessions.open(tenant).await.expect("it starts");
    world.told(tenant, true).await;
    world.tenant_of("t", &attributes(true));
    world.told(tenant, false).await;
    until("its connections close", async || {
        backends(&database, "realtime_connect") == "0"
    })
    .await;
    world.tenant_of("t", &attributes(false));
    world.sessions.open(tenant).await.expect("it starts");
    world.told(tenant, true).await;
    world.remove("t");
    world.told(tenant, false).await;
    let gone = world.sessions.open(tenant).await.map(drop);
    assert_eq!(gone, Err(AskError::Unreachable));
    assert_eq!(logins(&database, "realtime_connect_probe"), 2);
}

async fn a_session_ends_when_it_is_told_to(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let tenant = world.tenant("t", &database, &json!({}));
    // Nobody is told of a session that there is not.
    world.sessions.end(tenant.id);
    let pool = world.sessions.open(tenant.id).await.expect("it starts");
    world.told(tenant.id, true).await;
    assert!(tenant.usage.try_add_user(1));
    world.sessions.end(tenant.id);
    world.told(tenant.id, false).await;
    let gone = pool.lease().await.map(drop);
    assert_eq!(gone, Err(PoolError::Gone));
    assert!(!world.sessions.state(tenant.id).is_connected);
    // Its user does not bring it back, but whoever needs it does.
    advance(limits::DATABASE_RETRY_PAUSE_MAX).await;
    assert_eq!(logins(&database, "realtime_connect_probe"), 1);
    world.sessions.open(tenant.id).await.expect("it starts");
    world.told(tenant.id, true).await;
    assert!(world.sessions.state(tenant.id).is_connected);
}

async fn a_session_that_starts_ends_when_it_is_told_to(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().expect("it has one").port().to_string();
    let tenant = world.tenant("t", &database, &json!({"db_port": port})).id;
    let opening = {
        let sessions = world.sessions.clone();
        tokio::task::spawn_local(async move { sessions.open(tenant).await.map(drop) })
    };
    silent.accept().await.expect("the server comes");
    world.sessions.end(tenant);
    let told = timeout(Duration::from_secs(5), opening).await;
    let told = told.expect("it is not waited for").expect("no panic");
    assert_eq!(told, Err(AskError::Unreachable));
    assert_eq!(world.logged("UnableToConnect"), 0);
}

async fn a_tenant_that_goes_while_its_session_starts_has_none(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let tenant = world.tenant("t", &database, &json!({})).id;
    let opening = {
        let sessions = world.sessions.clone();
        tokio::task::spawn_local(async move { sessions.open(tenant).await.map(drop) })
    };
    tokio::task::yield_now().await;
    world.remove("t");
    opening.await.expect("no panic").ok();
    until("no connection", async || {
        backends(&database, "realtime_connect") == "0"
    })
    .await;
    world.sessions.forget(tenant);
    assert!(!format!("{:?}", world.sessions).contains("seats: 1"));
}

async fn a_database_is_migrated_without_a_session(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let tenant = world.tenant("t", &database, &json!({})).id;
    assert!(!world.sessions.is_prepared(tenant));
    for _ in 0..2 {
        let migrations = world.sessions.migrate(tenant).await;
        assert_eq!(migrations, Ok(Some(migrate::UPSTREAM_MIGRATIONS)));
    }
    assert!(world.sessions.is_prepared(tenant) && !world.sessions.state(tenant).is_connected);
    assert_eq!(backends(&database, "realtime_connect"), "0");
    // With another database nothing is known any more.
    let other = cluster.database(Kind::Empty);
    let away = json!({"db_port": "1"});
    world.tenant("t", &other, &away);
    assert!(!world.sessions.is_prepared(tenant));
    assert_eq!(
        world.sessions.migrate(tenant).await,
        Err(AskError::Unreachable)
    );
    assert!(!world.sessions.is_prepared(tenant));
}

async fn an_idle_session_is_closed_after_twelve_minutes(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let tenant = world.tenant("t", &database, &json!({}));
    let pool = world.sessions.open(tenant.id).await.expect("it starts");
    world.told(tenant.id, true).await;
    assert!(tenant.usage.try_add_user(1));
    let minutes = async |count: u32| {
        for _ in 0..count {
            advance(limits::DATABASE_USERS_INTERVAL).await;
            // Whatever was due at that moment has its answers.
            answers(&pool).await;
        }
    };
    minutes(20).await;
    tenant.usage.remove_user();
    minutes(limits::DATABASE_IDLE_SAMPLES).await;
    assert_eq!(logins(&database, "realtime_connect_probe"), 1);
    advance(limits::DATABASE_USERS_INTERVAL).await;
    world.told(tenant.id, false).await;
    until("its connections close", async || {
        backends(&database, "realtime_connect") == "0"
    })
    .await;
    // Whoever needs it next starts it again.
    world.sessions.open(tenant.id).await.expect("it starts");
}

async fn a_dropped_schema_is_made_again(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let tenant = world.tenant("t", &database, &json!({})).id;
    world.sessions.open(tenant).await.expect("it starts");
    let is_there =
        async || database.sql("select to_regclass('realtime.messages') is not null") == "t";
    assert!(is_there().await);
    // The stream runs on this thread and may hold what the drop waits for: nobody may block it.
    let owner = database.client(ADMIN).await;
    let drop_schema = async || {
        let dropped = owner.batch_execute("drop schema realtime cascade").await;
        dropped.expect("it waits for its turn");
    };
    // Somebody misses it.
    drop_schema().await;
    world.sessions.doubt(tenant);
    until("the schema", is_there).await;
    // Nobody does: the next look finds out.
    drop_schema().await;
    advance(limits::DATABASE_HEALTH_INTERVAL).await;
    until("the schema", is_there).await;
    let partitions =
        "select count(*) >= 5 from pg_inherits where inhparent = 'realtime.messages'::regclass";
    until("its partitions", async || database.sql(partitions) == "t").await;
}

async fn a_silent_database_delays_nobody_else(cluster: Arc<Cluster>) {
    let (world, database) = (Rc::new(World::new()), cluster.database(Kind::Supabase));
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("there are ports");
    let port = listener
        .local_addr()
        .expect("it is bound")
        .port()
        .to_string();
    let silent = world
        .tenant("silent", &database, &json!({"db_port": port}))
        .id;
    let sound = world.tenant("sound", &database, &json!({})).id;
    let waiting = {
        let world = Rc::clone(&world);
        tokio::task::spawn_local(async move { world.sessions.open(silent).await.map(drop) })
    };
    let (_accepted, _) = listener.accept().await.expect("somebody connects");
    world.sessions.open(sound).await.expect("it starts");
    assert!(!waiting.is_finished());
    advance(limits::DATABASE_CONNECTION_TIMEOUT).await;
    assert_eq!(
        waiting.await.expect("it does not panic"),
        Err(AskError::Unreachable)
    );
    let text = format!(
        "UnableToConnectToTenantDatabase: 127.0.0.1:{port} did not complete a connection within 10000 ms"
    );
    assert_eq!(world.logged(&text), 1);
}

async fn a_database_that_is_being_set_up_is_not_unreachable(cluster: Arc<Cluster>) {
    let (world, database) = (Rc::new(World::new()), cluster.database(Kind::Supabase));
    // Everything that wants to change the schema waits for this.
    let owner = database.client(ADMIN).await;
    let lock = "begin; lock table pg_type in share row exclusive mode";
    owner.batch_execute(lock).await.expect("nobody uses it");
    let tenant = world.tenant("t", &database, &json!({})).id;
    let waiting = {
        let world = Rc::clone(&world);
        tokio::task::spawn_local(async move { world.sessions.open(tenant).await.map(drop) })
    };
    let blocked = format!(
        "select exists(select from pg_stat_activity where datname = '{}' and wait_event_type = 'Lock')",
        database.name
    );
    until("the migration waits", async || {
        database.sql(&blocked) == "t"
    })
    .await;
    advance(limits::DATABASE_CONNECT_TIMEOUT).await;
    let outcome = waiting.await.expect("it does not panic");
    assert_eq!(outcome, Err(AskError::Initializing));
    owner.batch_execute("rollback").await.expect("it is there");
    world.told(tenant, true).await;
}

async fn a_database_without_ipv6_is_noticed(cluster: Arc<Cluster>) {
    let (world, database) = (World::new(), cluster.database(Kind::Supabase));
    let addresses = tokio::net::lookup_host(("localhost", database.port)).await;
    let is_ipv4_only = addresses
        .expect("it is a name")
        .all(|address| address.is_ipv4());
    let tenant = world
        .tenant("t", &database, &json!({"db_host": "localhost"}))
        .id;
    world.sessions.open(tenant).await.expect("it starts");
    let text =
        "DatabaseIpVersionIsIpv4: Tenant database host localhost resolved to an IPv4 address";
    assert_eq!(world.logged(text), usize::from(is_ipv4_only));
}

async fn a_tenant_without_a_database_is_unreachable(_: Arc<Cluster>) {
    let world = World::new();
    let tenant = world.tenant_of("t", &json!({})).id;
    assert_eq!(
        world.sessions.open(tenant).await.map(drop),
        Err(AskError::Unreachable)
    );
    assert_eq!(world.log(), [""; 0]);
}
