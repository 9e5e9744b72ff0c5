//! Built servers on one control database: what one of them, or somebody with SQL, does to a tenant, the others do as well.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use realtime::control::store::TenantRecord;
use serde_json::{Value, json};

use super::variables;
use crate::clock;
use crate::faults::peer::{PATIENCE, Peer};
use crate::postgres::{ADMIN, Cluster, Database, Kind};
use crate::server::{Server, Setup, free_port};
use crate::socket::{self, Event, Headers, Writer};
use crate::token;

tests![
    two_servers_see_each_others_tenants,
    no_body_is_a_500_with_postgresql,
    a_server_serves_on_while_its_control_database_is_away,
    a_wrong_password_is_a_sentence_and_no_secret,
];

const SETUP: Setup = Setup {
    driver: "auto",
    shards: 2,
};

/// A server whose control database is this one, with these tenants described.
fn start(database: &Database, tenants: &[Value], more: &[(&str, &str)]) -> Server {
    let known = variables(database);
    let mut env: Vec<(&str, &str)> = known
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    env.extend([("LOG_LEVEL", "info"), ("CONNECT_ERROR_BACKOFF_MS", "0")]);
    env.extend(more);
    Server::start(SETUP, tenants, &env)
}

/// A request to the management API; the status and the body of its answer.
fn manage(server: &Server, method: &str, path: &str, body: &Value) -> (u16, String) {
    let bearer = format!("Bearer {}", token::of_role("service_role", 600));
    let headers = Headers::from([
        ("host".to_owned(), "localhost".to_owned()),
        ("authorization".to_owned(), bearer),
        ("content-type".to_owned(), "application/json".to_owned()),
    ]);
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let answer = socket::request(server.address, method, path, &headers, body.as_bytes());
    match answer.expect("the server answers") {
        Event::Upgrade { status, body, .. } => (status, body),
        other => panic!("{other:?}"),
    }
}

/// Whether a socket of this tenant is let in.
fn serves(server: &Server, tenant: &str) -> bool {
    let mut writer = Writer::connect(server.address).expect("the server accepts");
    let (sender, events) = mpsc::channel();
    writer.read_into(move |event| sender.send(event).is_ok());
    let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
    let host = format!("{tenant}.localhost");
    let sent = writer.upgrade(&path, &host, &Headers::new());
    sent.expect("the server reads");
    match events.recv_timeout(PATIENCE).expect("it is answered") {
        Event::Upgrade { status, .. } => status == 101,
        other => panic!("{other:?}"),
    }
}

/// A socket that has joined a public channel.
fn joined(server: &Server, tenant: &str) -> Peer {
    let mut peer = Peer::connect(server, tenant, &token::good());
    peer.start_join("realtime:room", &json!({}));
    peer.joined("realtime:room").expect("it is public");
    peer
}

/// Asks until it is so, because the other server hears of it by itself.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = clock::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
    }
}

async fn two_servers_see_each_others_tenants(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    let often = [("TENANT_CACHE_EXPIRATION_IN_MS", "1000")];
    let (one, other) = (start(&database, &[], &often), start(&database, &[], &often));
    assert!(!serves(&other, "shared"));
    // A tenant that is made by one is served by the other, at once.
    let tenant = json!({"tenant": {"jwt_secret": token::SECRET, "extensions": database.extensions(&json!({}))}});
    let (status, body) = manage(&one, "PUT", "/api/tenants/shared", &tenant);
    assert_eq!(status, 201, "{body}\n{}", one.log_end());
    let mut peers = [joined(&one, "shared"), joined(&other, "shared")];
    assert_eq!(
        manage(&other, "GET", "/api/tenants/shared", &Value::Null),
        (200, body)
    );
    // A change that ends sockets ends those of the other.
    let suspend = |suspend: bool| json!({"tenant": {"suspend": suspend}});
    let (status, _) = manage(&one, "PATCH", "/api/tenants/shared", &suspend(true));
    assert_eq!(status, 200);
    for peer in &mut peers {
        assert_eq!(peer.closed(PATIENCE), Some(1012));
    }
    until("it is suspended", || !serves(&other, "shared"));
    let (status, _) = manage(&other, "PATCH", "/api/tenants/shared", &suspend(false));
    assert_eq!(status, 200);
    until("it is served again", || serves(&one, "shared"));
    // So does one that somebody makes with SQL, on both.
    let mut peers = [joined(&one, "shared"), joined(&other, "shared")];
    database.sql("update _realtime.tenants set private_only = true where external_id = 'shared'");
    for peer in &mut peers {
        assert_eq!(peer.closed(PATIENCE), Some(1012));
    }
    // A tenant that one deletes is unknown to the other.
    let (status, _) = manage(&other, "DELETE", "/api/tenants/shared", &Value::Null);
    assert_eq!(status, 204);
    assert_eq!(database.sql("select count(*) from _realtime.tenants"), "0");
    until("it is gone", || !serves(&one, "shared"));
    assert_eq!(
        manage(&one, "GET", "/api/tenants/shared", &Value::Null).0,
        404
    );
}

async fn no_body_is_a_500_with_postgresql(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let known = [json!({"external_id": "a", "jwt_secret": token::SECRET})];
    let server = start(&database, &known, &[]);
    let long = "x".repeat(5000);
    let numbers: Vec<Value> = ["1e-20000", "1e-16383", "1.5e300", "0e20000", "1e400"]
        .iter()
        .map(|text| serde_json::from_str(text).expect("it is JSON"))
        .collect();
    let mut values = vec![
        json!(null),
        json!(-1),
        json!("\0"),
        json!(long),
        json!([{"type": long, "settings": {}}]),
        json!([{"type": "x".repeat(255), "settings": {"n": numbers[1]}}]),
        json!({"\0": 1}),
        json!({(long.clone()): {"keys": long}}),
    ];
    values.extend(numbers.iter().map(|number| json!({"n": [number]})));
    values.extend(numbers);
    for name in TenantRecord::ATTRIBUTES {
        for value in &values {
            let mut attributes = serde_json::Map::new();
            attributes.insert((*name).to_owned(), value.clone());
            let (status, body) = manage(
                &server,
                "PUT",
                "/api/tenants/a",
                &json!({"tenant": attributes}),
            );
            assert!(
                matches!(status, 200 | 400 | 422),
                "{name} {value}: {status} {body}"
            );
        }
    }
    let path = format!("/api/tenants/{long}");
    assert_eq!(manage(&server, "GET", &path, &Value::Null).0, 404);
}

async fn a_server_serves_on_while_its_control_database_is_away(_: Arc<Cluster>) {
    let cluster = Arc::new(Cluster::start_with(ADMIN, &[]));
    let database = cluster.database(Kind::Empty);
    let tenants = [json!({"external_id": "known", "jwt_secret": token::SECRET})];
    let server = start(&database, &tenants, &[("DB_QUEUE_TARGET", "500")]);
    let mut peer = joined(&server, "known");
    // Clusters of tests commit without waiting for the disk, and this one is about to lose its memory.
    database.sql("checkpoint");
    cluster.stop();
    let patch = json!({"tenant": {"max_joins_per_second": 7}});
    assert_eq!(
        manage(&server, "PATCH", "/api/tenants/known", &patch).0,
        500
    );
    // Who is there stays, who comes is served, and a stranger is refused as ever.
    peer.push(
        "realtime:room",
        "broadcast",
        &json!({"type": "broadcast", "event": "e", "payload": {}}),
    );
    peer.start_join("realtime:other", &json!({}));
    peer.joined("realtime:other").expect("it is public");
    drop(joined(&server, "known"));
    assert!(!serves(&server, "stranger"));
    until("it is said", || {
        server
            .log()
            .contains("the control database cannot be reached")
    });
    cluster.start_again();
    let mut last = (0, String::new());
    let start = clock::now();
    while last.0 != 200 {
        last = manage(&server, "PATCH", "/api/tenants/known", &patch);
        let log = server.log_end();
        assert!(
            start.elapsed() < PATIENCE,
            "it never comes back: {last:?}\n{log}"
        );
    }
    assert_eq!(
        database.sql("select max_joins_per_second from _realtime.tenants"),
        "7"
    );
    peer.start_join("realtime:last", &json!({}));
    peer.joined("realtime:last").expect("it has lost nothing");
}

async fn a_wrong_password_is_a_sentence_and_no_secret(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    let mut known = variables(&database);
    known.push(("DB_PASSWORD", "not-the-password".to_owned()));
    let env: Vec<(&str, &str)> = known
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let binary = Path::new(env!("CARGO_BIN_EXE_realtime"));
    let started = Server::try_start(binary, &[], SETUP, &[], &env, free_port());
    let log = started.err().expect("it does not start");
    assert!(
        log.contains("realtime: the control database cannot be used")
            && log.contains("DB_PASSWORD"),
        "{log}"
    );
    assert!(!log.contains("not-the-password"), "{log}");
    // And it ends by itself, at once, with the code of a process that cannot serve.
    let mut command = std::process::Command::new(binary);
    let status = command
        .env_clear()
        .envs(env)
        .env("PORT", free_port().to_string())
        .output();
    let output = status.expect("it ends");
    assert_eq!(output.status.code(), Some(1));
}
