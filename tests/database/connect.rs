//! Connections and pools: address families, TLS, the settings of a session, leases.

use crate::postgres::{ADMIN, Cluster, Kind, PASSWORD};
use crate::world::{PATIENCE, advance, until};
use realtime::control::clock;
use realtime::control::database::{ConnectError, Lease, Pool, PoolError, Settings, connect};
use realtime::limits;
use serde_json::json;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

tests![
    a_session_is_in_utc_whatever_the_role_says,
    a_name_with_two_families_leads_to_the_one_that_answers,
    tls_is_used_where_it_is_enforced_and_only_there,
    a_connection_ends_with_its_handle,
    a_connection_is_lent_to_a_few_and_then_waited_for,
    leases_are_given_in_the_order_they_were_asked_for,
    a_connection_that_does_not_answer_is_replaced,
    a_pool_of_several_spreads_its_leases,
    a_database_that_hangs_up_at_once_is_not_hammered,
];

async fn show(settings: &Settings, name: &str) -> String {
    let connection = connect(settings, "realtime_connect")
        .await
        .expect("it connects");
    let sql = format!("select current_setting('{name}')");
    let rows = connection.client.query_typed(&sql, &[]).await;
    rows.expect("it is a statement")[0].get(0)
}

async fn a_session_is_in_utc_whatever_the_role_says(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    database.sql(&format!(
        "alter database {0} set timezone = 'Asia/Kathmandu'; alter database {0} set standard_conforming_strings = off; \
         alter database {0} set datestyle = 'German'",
        database.name
    ));
    let settings = database.settings();
    for (name, value) in [
        ("timezone", "UTC"),
        ("standard_conforming_strings", "on"),
        ("datestyle", "ISO, MDY"),
        ("application_name", "realtime_connect"),
    ] {
        assert_eq!(show(&settings, name).await, value, "{name}");
    }
}

async fn a_name_with_two_families_leads_to_the_one_that_answers(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    // The cluster listens on IPv4 alone; where `localhost` is both, the other one is refused first.
    let settings = database.settings_with(&json!({"db_host": "localhost"}));
    let addresses = tokio::net::lookup_host(("localhost", database.port)).await;
    let is_ipv4_only = addresses
        .expect("it is a name")
        .all(|address| address.is_ipv4());
    let connection = connect(&settings, "realtime_connect")
        .await
        .expect("it connects");
    assert!(connection.address().is_ipv4());
    assert_eq!(connection.is_ipv4_only(), is_ipv4_only);
    let connection = connect(&database.settings(), "realtime_connect").await;
    assert!(
        !connection.expect("it connects").is_ipv4_only(),
        "an address is no name"
    );
}

/// A cluster that speaks TLS, with a certificate that nobody has signed.
pub fn cluster_with_tls() -> Cluster {
    cluster_with_certificate("tls.pem")
}

/// A cluster that speaks TLS with the certificate and the key in this file of this folder.
pub fn cluster_with_certificate(file: &str) -> Cluster {
    let cluster = Cluster::start_with(ADMIN, &[]);
    let data = cluster.folder().join("data");
    cluster.stop();
    let owner = std::fs::metadata(&data).expect("it has data");
    let write = |name: &str, text: &[u8]| {
        let path = data.join(name);
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text))
            .expect("it can be written");
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("it can be given away");
    };
    let pem = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/database")
        .join(file);
    write(
        "tls.pem",
        &std::fs::read(pem).expect("it is a file of this folder"),
    );
    write(
        "postgresql.conf",
        b"ssl = on\nssl_cert_file = 'tls.pem'\nssl_key_file = 'tls.pem'\n",
    );
    cluster.start_again();
    cluster
}

async fn tls_is_used_where_it_is_enforced_and_only_there(_: Arc<Cluster>) {
    let cluster = Arc::new(cluster_with_tls());
    let database = cluster.database(Kind::Empty);
    let is_encrypted = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()";
    for (more, expected) in [
        (json!({"ssl_enforced": true}), true),
        (json!({"ssl_enforced": null}), true),
        (json!({"ssl_enforced": true, "db_host": "localhost"}), true),
        (json!({"ssl_enforced": false}), false),
    ] {
        let settings = database.settings_with(&more);
        let connection = connect(&settings, "realtime_connect")
            .await
            .expect("it connects");
        let rows = connection.client.query_typed(is_encrypted, &[]).await;
        let row = &rows.expect("it is a statement")[0];
        assert_eq!(row.get::<_, bool>(0), expected, "{more}");
        let version: Option<String> = row.get(1);
        assert_eq!(
            version.is_some_and(|version| version == "TLSv1.3"),
            expected,
            "{more}"
        );
    }
    // The password is checked behind it as well.
    let settings = database.settings_with(&json!({"ssl_enforced": true, "db_password": "wrong"}));
    let error = connect(&settings, "realtime_connect")
        .await
        .expect_err("it is wrong");
    assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
}

async fn a_connection_ends_with_its_handle(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let connection = connect(&database.settings(), "realtime_connect")
        .await
        .expect("it connects");
    let count = format!(
        "select count(*) from pg_stat_activity where datname = '{}' and application_name = 'realtime_connect'",
        database.name
    );
    assert_eq!(database.sql(&count), "1");
    let rows = connection
        .client
        .query_typed("select pg_backend_pid()", &[])
        .await;
    let pid: i32 = rows.expect("it answers")[0].get(0);
    database.sql(&format!("select pg_terminate_backend({pid})"));
    timeout(PATIENCE, connection.closed())
        .await
        .expect("its end is told");
    let connection = connect(&database.settings(), "realtime_connect")
        .await
        .expect("it connects");
    drop(connection);
    until("it closes", async || database.sql(&count) == "0").await;
}

async fn pool(settings: Settings) -> Pool {
    Pool::open(Rc::new(settings)).await.expect("it connects")
}

async fn a_connection_is_lent_to_a_few_and_then_waited_for(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let pool = pool(database.settings_with(&json!({"db_queue_target": 200}))).await;
    let mut leases = Vec::new();
    for _ in 0..limits::DATABASE_LEASES_PER_CONNECTION {
        leases.push(pool.lease().await.expect("there is room"));
    }
    assert_eq!(
        pool.lease().await.expect_err("all are lent"),
        PoolError::TimedOut
    );
    leases.pop();
    pool.lease().await.expect("one was given back");
    pool.close();
    assert_eq!(
        pool.lease().await.expect_err("it is closed"),
        PoolError::Gone
    );
    // What is lent can be used until it is given back.
    let rows = leases[0].query_typed("select 1", &[]).await;
    assert_eq!(rows.expect("it answers").len(), 1);
}

async fn leases_are_given_in_the_order_they_were_asked_for(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let pool = pool(database.settings()).await;
    let mut lent = Vec::new();
    for _ in 0..limits::DATABASE_LEASES_PER_CONNECTION {
        lent.push(pool.lease().await.expect("there is room"));
    }
    let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = JoinSet::new();
    for number in 0..64 {
        let (pool, order) = (pool.clone(), order.clone());
        waiting.spawn_local(async move {
            let lease: Lease = pool.lease().await.expect("it comes to its turn");
            order.send(number).expect("somebody listens");
            // Others run meanwhile.
            tokio::task::yield_now().await;
            drop(lease);
        });
        tokio::task::yield_now().await;
    }
    lent.truncate(lent.len() - 3);
    drop(lent);
    // Somebody who comes late does not get in front.
    let late = pool.lease();
    let (_, late) = tokio::join!(waiting.join_all(), late);
    late.expect("it comes to its turn as well");
    let mut numbers = Vec::new();
    while let Ok(number) = served.try_recv() {
        numbers.push(number);
    }
    assert_eq!(numbers, (0..64).collect::<Vec<_>>());
}

async fn a_pool_of_several_spreads_its_leases(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let pool = pool(database.settings_with(&json!({"db_pool": 3}))).await;
    until("three connections", async || {
        let mut leases = Vec::new();
        for _ in 0..3 {
            leases.push(pool.lease().await.expect("there is room"));
        }
        let mut pids = Vec::new();
        for lease in &leases {
            let rows = lease.query_typed("select pg_backend_pid()", &[]).await;
            pids.push(rows.expect("it answers")[0].get::<_, i32>(0));
        }
        pids.sort_unstable();
        pids.dedup();
        pids.len() == 3
    })
    .await;
}

/// Forwards to `target` until it is told to stop; what it has accepted then stays open and silent.
async fn proxy(target: (std::net::Ipv4Addr, u16), freeze: Rc<Notify>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("there are ports");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::task::spawn_local(async move {
        let mut forwarded = JoinSet::new();
        loop {
            let (mut client, _) = listener.accept().await.expect("it accepts");
            let mut server = TcpStream::connect(target).await.expect("PostgreSQL runs");
            let freeze = Rc::clone(&freeze);
            forwarded.spawn_local(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = freeze.notified() => std::future::pending().await,
                }
            });
        }
    });
    port
}

async fn a_connection_that_does_not_answer_is_replaced(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let freeze = Rc::new(Notify::new());
    let port = proxy(
        (std::net::Ipv4Addr::LOCALHOST, database.port),
        Rc::clone(&freeze),
    )
    .await;
    let pool = pool(
        database.settings_with(&json!({"db_port": port.to_string(), "db_password": PASSWORD})),
    )
    .await;
    pool.check_health().await;
    assert!(pool.down_since().borrow().is_none());
    freeze.notify_waiters();
    let check = {
        let pool = pool.clone();
        tokio::task::spawn_local(async move { pool.check_health().await })
    };
    tokio::task::yield_now().await;
    let lease = pool.lease().await.expect("nobody knows yet");
    advance(limits::DATABASE_HEALTH_TIMEOUT + Duration::from_millis(1)).await;
    check.await.expect("it does not panic");
    let query = timeout(PATIENCE, lease.query_typed("select 1", &[])).await;
    query
        .expect("it fails at once")
        .expect_err("its connection is cut");
    drop(lease);
    let lease = timeout(PATIENCE, pool.lease())
        .await
        .expect("it is replaced")
        .expect("it is replaced");
    let rows = lease.query_typed("select 1", &[]).await;
    assert_eq!(rows.expect("the new one answers").len(), 1);
}

async fn a_database_that_hangs_up_at_once_is_not_hammered(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let pool = pool(database.settings()).await;
    // From now on it lets everybody in, and soon out again.
    database.sql(&format!(
        "alter database {} set idle_session_timeout = '100ms'; \
         select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
        database.name
    ));
    let mut down = pool.down_since();
    let begin = clock::now();
    let mut losses = 0;
    while begin.elapsed() < Duration::from_secs(2) {
        let next = timeout(Duration::from_secs(2), down.changed()).await;
        losses += usize::from(next.is_ok() && down.borrow_and_update().is_some());
    }
    // 0.1, 0.2, 0.4 and 0.8 s are the shortest pauses.
    assert!((1..=6).contains(&losses), "{losses}");
}
