//! A start with a control database: what is waited for, what ends it, and what is seeded.

use std::sync::Arc;
use std::time::Duration;

use realtime::config::Config;
use realtime::control::boot::{BootTenants, boot_tenants};
use realtime::control::clock;
use realtime::control::main_database::open;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::original::{LATER, SEED};
use super::{config, opened, variables};
use crate::connect::cluster_with_certificate;
use crate::postgres::{ADMIN, Cluster, Database, Kind};
use crate::world::PATIENCE;

tests![
    a_database_that_is_not_there_yet_is_waited_for,
    mistakes_end_the_start_at_once,
    certificates_are_verified_where_there_is_an_authority,
    the_seed_makes_the_tenant_anew,
    processes_that_seed_at_once_all_start,
    without_the_seed_nobody_is_made,
    described_tenants_are_stored_in_the_database,
    a_tenant_without_a_database_does_not_keep_the_server_from_starting,
];

async fn a_database_that_is_not_there_yet_is_waited_for(_: Arc<Cluster>) {
    let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
    let database = cluster.database(Kind::Empty);
    let config = config(&database, &[]);
    let settings = config.database.as_ref().expect("DB_HOST is set");
    cluster.stop();
    let tried = Notify::new();
    let say = |text: &str| {
        assert!(
            text.contains("is not there yet") && text.contains("DB_HOST"),
            "{text}"
        );
        tried.notify_one();
    };
    let start = async {
        tried.notified().await;
        cluster.start_again();
    };
    let (opening, ()) = tokio::join!(open(settings, &config, say), start);
    opening
        .expect("it is there now")
        .finish()
        .await
        .expect("it is empty");
}

async fn mistakes_end_the_start_at_once(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    for (variable, value, parts) in [
        (
            "DB_PASSWORD",
            "wrong",
            ["DB_PASSWORD", "password authentication failed"],
        ),
        ("DB_NAME", "nowhere", ["DB_NAME", "does not exist"]),
        ("DB_SSL", "true", ["DB_SSL", "no TLS"]),
        (
            "DB_AFTER_CONNECT_QUERY",
            "set nothing",
            ["DB_AFTER_CONNECT_QUERY", "syntax error"],
        ),
        ("DB_ENC_KEY", "", ["DB_ENC_KEY", "is not set"]),
    ] {
        let start = clock::now();
        let error = opened(&config(&database, &[(variable, value)])).await.err();
        let error = error.expect("it is wrong").to_string();
        for part in parts {
            assert!(error.contains(part), "{variable}: {error}");
        }
        assert!(
            !error.contains("wrong") && !error.contains(&database.password),
            "{error}"
        );
        assert!(start.elapsed() < Duration::from_secs(20), "{variable}");
    }
}

async fn certificates_are_verified_where_there_is_an_authority(_: Arc<Cluster>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/database");
    let authority = format!("{folder}/control_database/authority.pem");
    let cluster = Arc::new(cluster_with_certificate("control_database/signed.pem"));
    let database = cluster.database(Kind::Empty);
    let attempt = async |ca: &str| {
        let config = config(&database, &[("DB_SSL", "true"), ("DB_SSL_CA_CERT", ca)]);
        opened(&config)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(attempt("").await, Ok(()), "whoever answers is believed");
    assert_eq!(attempt(&authority).await, Ok(()));
    for wrong in [
        format!("{folder}/tls.pem"),
        format!("{folder}/nowhere.pem"),
        format!("{folder}/main.rs"),
    ] {
        let error = attempt(&wrong)
            .await
            .expect_err("nobody there has signed it");
        assert!(error.contains("DB_SSL_CA_CERT"), "{wrong}: {error}");
    }
}

/// Boots as the server does: before there is a runtime.
async fn boot(database: &Database, more: &[(&str, &str)]) -> Result<BootTenants, String> {
    let mut variables = variables(database);
    variables.extend(
        more.iter()
            .map(|(name, value)| (leaked(name), (*value).to_owned())),
    );
    let booted = tokio::task::spawn_blocking(move || {
        let get = |name: &str| {
            let found = variables
                .iter()
                .rev()
                .find(|(variable, _)| *variable == name);
            found
                .map(|(_, value)| value.clone())
                .filter(|value| !value.is_empty())
        };
        let (config, _) = Config::from_env(get).expect("the variables are right");
        boot_tenants(&config, 2, clock::unix_seconds()).map_err(|error| error.to_string())
    });
    timeout(PATIENCE, booted)
        .await
        .expect("it ends")
        .expect("it does not panic")
}

/// Names of variables live as long as the process.
fn leaked(name: &str) -> &'static str {
    Box::leak(name.to_owned().into_boxed_str())
}

const SEEDS: (&str, &str) = ("SEED_SELF_HOST", "true");

async fn the_seed_makes_the_tenant_anew(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(&format!("{SEED}{LATER} update feature_flags set enabled = false; insert into tenants (id, external_id, jwt_secret, inserted_at, updated_at) \
        values (gen_random_uuid(), 'other', 'ZWewxC7Jqe8eWJBCZKlBkg==', now(), now());"));
    let booted = boot(
        &database,
        &[
            SEEDS,
            ("API_JWT_SECRET", "a"),
            ("API_JWT_JWKS", "{\"keys\":[]}"),
        ],
    )
    .await
    .expect("it starts");
    let tenant = booted.self_host.expect("it was made");
    assert_ne!(tenant.id, "d4448862-666f-4af2-9966-78298e8af6bf");
    assert_eq!(
        (tenant.max_concurrent_users, tenant.jwt_secret.as_deref()),
        (200, Some("a"))
    );
    assert_eq!(tenant.jwt_jwks, Some(json!({"keys": []})));
    let settings = Value::Object(tenant.database().expect("it has one").clone());
    assert_eq!(settings["db_port"], database.port.to_string());
    assert_eq!(settings["db_name"], database.name);
    assert_eq!(booted.directory.len(), 2);
    assert!(booted.engine.is_some() && booted.store.is_shared());
    let row = "select jwt_secret, max_concurrent_users, (select count(*) from _realtime.extensions) from _realtime.tenants \
               where external_id = 'realtime-dev'";
    assert_eq!(database.sql(row), "ZWewxC7Jqe8eWJBCZKlBkg==|200|1");
    assert_eq!(
        database.sql("select enabled from _realtime.feature_flags"),
        "t"
    );
    // Its own database has its schema and the partitions of the coming days.
    let partitions =
        "select count(*) from pg_inherits where inhparent = 'realtime.messages'::regclass";
    assert_eq!(database.sql(partitions), "5");
    // A second start takes back what was changed; that is what it is for.
    database.sql("update _realtime.tenants set max_concurrent_users = 1");
    let again = boot(&database, &[SEEDS]).await.expect("it starts");
    assert_eq!(
        again.self_host.expect("it was made").max_concurrent_users,
        200
    );
}

async fn processes_that_seed_at_once_all_start(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let path = std::env::temp_dir().join(format!("realtime-seeds-{}", std::process::id()));
    let described = json!([{"external_id": "described", "jwt_secret": "s"}]);
    std::fs::write(&path, described.to_string()).expect("it can be written");
    let file = path.to_str().expect("it is text").to_owned();
    let more = [
        SEEDS,
        ("EMBEDDED_TENANTS", &file),
        ("DB_NAME", &database.name),
    ];
    for _ in 0..5 {
        let boot = || boot(&database, &more);
        let (a, b, c, d) = tokio::join!(boot(), boot(), boot(), boot());
        for booted in [a, b, c, d] {
            booted.map(drop).expect("it starts");
        }
        database.sql("delete from _realtime.tenants");
    }
    std::fs::remove_file(path).expect("it is there");
}

async fn without_the_seed_nobody_is_made(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let booted = boot(&database, &[("API_JWT_SECRET", "a")])
        .await
        .expect("it starts");
    assert!(booted.self_host.is_none() && booted.directory.is_empty());
    assert_eq!(database.sql("select count(*) from _realtime.tenants"), "0");
    assert_eq!(
        database.sql("select count(*) from _realtime.feature_flags"),
        "0"
    );
    // And nothing is changed of who is there, whatever the environment says.
    let known = cluster.database(Kind::Empty);
    known.sql(&format!("{SEED}{LATER}"));
    let booted = boot(&known, &[("API_JWT_SECRET", "a")])
        .await
        .expect("it starts");
    let secret = booted.self_host.expect("it was there").jwt_secret;
    assert_eq!(
        secret.as_deref(),
        Some("super-secret-jwt-token-with-at-least-32-characters-long")
    );
}

async fn described_tenants_are_stored_in_the_database(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let file = std::env::temp_dir().join(format!("realtime-described-{}.json", std::process::id()));
    let describe =
        |tenants: &Value| std::fs::write(&file, tenants.to_string()).expect("it can be written");
    let path = file
        .to_str()
        .expect("temporary folders have plain names")
        .to_owned();
    describe(
        &json!([{"external_id": "a", "jwt_secret": "s", "max_joins_per_second": 3}, {"external_id": "b", "jwt_jwks": {"keys": []}}]),
    );
    let booted = boot(&database, &[("EMBEDDED_TENANTS", &path)])
        .await
        .expect("it starts");
    assert_eq!(booted.directory.len(), 2);
    let id = database.sql("select id from _realtime.tenants where external_id = 'a'");
    describe(&json!([{"external_id": "a", "suspend": true}]));
    let booted = boot(&database, &[("EMBEDDED_TENANTS", &path)])
        .await
        .expect("it starts");
    assert_eq!(booted.directory.len(), 2);
    let row = format!(
        "select max_joins_per_second, suspend, id = '{id}' from _realtime.tenants where external_id = 'a'"
    );
    assert_eq!(database.sql(&row), "3|t|t");
    let _ = std::fs::remove_file(&file);
}

async fn a_tenant_without_a_database_does_not_keep_the_server_from_starting(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    // The user of the control database may make its tables, but not what a tenant's database needs.
    let role = format!("maker_{}", database.name);
    database.sql(&format!(
        "create role {role} login password 'postgres'; grant create on database {} to {role}",
        database.name
    ));
    let booted = boot(&database, &[SEEDS, ("DB_USER", &role)])
        .await
        .expect("it starts");
    assert_eq!(booted.directory.len(), 1);
    assert!(booted.directory.find("realtime-dev").is_some());
}
