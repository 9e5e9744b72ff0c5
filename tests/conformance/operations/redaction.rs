//! No secret and no token in any line, whatever is done wrong, at the level that says most.
//!
//! Secrets are everywhere: in the environment, in tenants, in URLs, headers, joins and pushes, and wherever they are wrong. What the
//! server has said is read as a whole afterwards. That it has said something about each of these things is checked as well.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};

use super::{PATIENCE, SETUP, Test, wait_for_line};
use crate::server::{self, Server};
use crate::socket::{self, Event, Headers, Writer};
use crate::token;

pub const TESTS: &[Test] = &[
    ("no_secret_stands_in_a_text_line", || look("text")),
    ("no_secret_stands_in_a_json_line", || look("json")),
];

/// Secrets of the environment. None of them may be said.
const SECRETS: &[(&str, &str)] = &[
    ("API_JWT_SECRET", "api-secret-x7Qp2-that-nobody-may-read"),
    (
        "API_JWT_SECRET_NEXT",
        "next-secret-x7Qp2-that-nobody-may-read",
    ),
    (
        "METRICS_JWT_SECRET",
        "metrics-secret-x7Qp2-that-nobody-may-read",
    ),
    ("DASHBOARD_PASSWORD", "dashboard-x7Qp2"),
    ("SECRET_KEY_BASE", "base-x7Qp2"),
    ("LOGFLARE_API_KEY", "logflare-x7Qp2"),
    ("DB_ENC_KEY", "cipher-x7Qp2-key"),
    ("API_TOKEN_BLOCKLIST", "blocked-x7Qp2"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=otel-x7Qp2"),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "http://me:otel-x7Qp2@127.0.0.1:9",
    ),
    ("OTEL_TRACES_EXPORTER", "otlp"),
    ("OTEL_BSP_SCHEDULE_DELAY", "100"),
];

/// A part of every secret.
const MARK: &str = "x7Qp2";

const TENANT_SECRET: &str = "tenant-secret-x7Qp2-that-nobody-may-read";
const DATABASE_PASSWORD: &str = "database-x7Qp2";

fn look(format: &str) {
    let database = refusing_database();
    let extension = json!({"type": "postgres_cdc_rls", "settings": {
        "region": "x", "db_host": "127.0.0.1", "db_port": database.to_string(), "db_name": "postgres",
        "db_user": "supabase_admin", "db_password": DATABASE_PASSWORD, "ssl_enforced": false
    }});
    let tenants = [
        server::tenant("plain", &json!({"jwt_secret": TENANT_SECRET})),
        server::tenant(
            "stored",
            &json!({"jwt_secret": TENANT_SECRET, "extensions": [extension]}),
        ),
    ];
    let mut env = SECRETS.to_vec();
    env.extend([
        ("LOG_LEVEL", "debug"),
        ("LOG_FORMAT", format),
        ("CONNECT_ERROR_BACKOFF_MS", "10"),
        ("CHANNEL_ERROR_BACKOFF_MS", "10"),
    ]);
    let server = Server::start(SETUP, &tenants, &env);
    let tokens = tokens();
    for token in &tokens {
        upgrade(&server, token);
        requests(&server, token);
    }
    joins(&server, &tokens);
    // Each kind of thing has been spoken about.
    for words in [
        "MalformedJWT",
        "InvalidJWTToken",
        "JwtSignatureError",
        "UnableToConnectToTenantDatabase",
        "CONNECTED TO RealtimeWeb.UserSocket in ",
        "JOINED realtime:",
        "REFUSED JOIN realtime:",
        "InvalidJoinPayload",
        "spans were not exported",
        "POST /api/broadcast",
        "Sent 401 in",
        "LOGFLARE_API_KEY is set and has no effect",
    ] {
        wait_for_line(&server, words);
    }
    server.terminate();
    wait_for_line(&server, "Drained");
    let log = server.log();
    for line in log.lines() {
        assert!(!line.contains(MARK), "a secret: {line}");
        assert!(!line.contains("eyJ"), "a token: {line}");
        for token in &tokens {
            let signature = token.rsplit('.').next().unwrap_or(token);
            assert!(!line.contains(signature), "a signature: {line}");
        }
        let is_json = serde_json::from_str::<Value>(line).is_ok();
        let is_of_log = line.contains("level") || line.contains("] ");
        assert!(format != "json" || is_json || !is_of_log, "no JSON: {line}");
    }
}

/// Good and bad ones.
fn tokens() -> Vec<String> {
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let now = crate::clock::unix_s();
    let claims = |exp: i64| json!({"role": "authenticated", "exp": now + exp, "sub": "someone"});
    let good = token::sign_with(&header, &claims(3600), TENANT_SECRET);
    vec![
        token::sign_with(&header, &claims(-100), TENANT_SECRET),
        token::sign_with(
            &header,
            &claims(3600),
            "another-secret-than-the-tenants-x7Qp2",
        ),
        token::sign_with(&header, &json!({"role": 5}), TENANT_SECRET),
        token::sign_with(&json!({"alg": "none"}), &claims(3600), TENANT_SECRET),
        format!("{}.signature-x7Qp2", &good[..good.len() / 2]),
        "eyJub3RoaW5nIjoieDdRcDIifQ".to_owned(),
        good,
    ]
}

fn upgrade(server: &Server, token: &str) {
    for query in [
        format!("vsn=2.0.0&apikey={token}&log_level=info"),
        format!(
            "vsn=1.0.0&apikey={}&log_level=debug",
            token.replace('.', "%2E")
        ),
    ] {
        let mut writer = Writer::connect(server.address).expect("the server accepts");
        let (sender, events) = std::sync::mpsc::channel();
        writer.read_into(move |event| sender.send(event).is_ok());
        let path = format!("/socket/websocket?{query}");
        writer
            .upgrade(&path, "plain.localhost", &Headers::new())
            .expect("the server reads a head");
        let answer = events.recv_timeout(PATIENCE).expect("the server answers");
        assert!(matches!(answer, Event::Upgrade { .. }), "{answer:?}");
    }
}

fn requests(server: &Server, token: &str) {
    let body = br#"{"messages":[{"topic":"t","event":"e","payload":{},"private":true}]}"#;
    let targets = [
        ("POST", "/api/broadcast".to_owned(), "plain.localhost"),
        ("POST", "/api/broadcast".to_owned(), "stored.localhost"),
        (
            "POST",
            format!("/api/broadcast?apikey={token}"),
            "plain.localhost",
        ),
        ("GET", format!("/metrics?token={token}"), "localhost"),
        ("GET", "/api/tenants".to_owned(), "localhost"),
        ("GET", format!("/api/tenants/{token}"), "localhost"),
        (
            "GET",
            format!("/socket/longpoll?apikey={token}"),
            "plain.localhost",
        ),
    ];
    for (method, path, host) in targets {
        for authorization in [
            format!("Bearer {token}"),
            format!("Basic {token}"),
            token.to_owned(),
        ] {
            let headers = [
                ("host", host),
                ("authorization", &*authorization),
                ("apikey", token),
                ("x-api-key", token),
                ("cookie", token),
                ("content-type", "application/json"),
            ];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let body: &[u8] = if method == "POST" { body } else { b"" };
            let answer = socket::request(server.address, method, &path, &headers.into(), body);
            assert!(
                matches!(answer, Ok(Event::Upgrade { .. })),
                "{path}: {answer:?}"
            );
        }
    }
}

/// Joins with tokens in all places, new tokens, and payloads that make no sense, on tenants with and without a database.
fn joins(server: &Server, tokens: &[String]) {
    let good = tokens.last().expect("there are some");
    for host in ["plain.localhost", "stored.localhost"] {
        let mut writer = Writer::connect(server.address).expect("the server accepts");
        let (sender, events) = std::sync::mpsc::channel();
        writer.read_into(move |event| sender.send(event).is_ok());
        let path = format!("/socket/websocket?vsn=2.0.0&apikey={good}&log_level=info");
        writer
            .upgrade(&path, host, &Headers::new())
            .expect("the server reads a head");
        let mut send = |topic: &str, event: &str, payload: Value| {
            let message = json!(["1", "1", topic, event, payload]).to_string();
            writer.text(&message).expect("the server reads");
        };
        for (index, token) in tokens.iter().enumerate() {
            let topic = format!("realtime:{index}");
            let config = json!({"private": index % 2 == 1});
            send(
                &topic,
                "phx_join",
                json!({"config": config, "access_token": token, "user_token": token}),
            );
            send(&topic, "access_token", json!({"access_token": token}));
            let broken = json!({"config": {"broadcast": token}, "access_token": token});
            send(&format!("realtime:broken-{index}"), "phx_join", broken);
            send(
                &topic,
                "broadcast",
                json!({"type": "broadcast", "event": "e", "payload": {"token": token}}),
            );
            send(&topic, token, json!({}));
        }
        writer.text(&format!("[{good}")).expect("the server reads");
        // The last join is waited for.
        let last = format!("realtime:{}", tokens.len() - 1);
        let is_last = |event: &Event| match event {
            Event::Text(text) => text.contains(&last) && text.contains("phx_reply"),
            Event::Close { .. } | Event::End => true,
            _ => false,
        };
        while !is_last(&events.recv_timeout(PATIENCE).expect("the server goes on")) {}
    }
}

/// A database that wants another password. It is there until the test process ends.
pub(super) fn refusing_database() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || refuse(socket));
        }
    });
    port
}

/// Asks for the password in plain text, and then says that it is the wrong one (PostgreSQL's protocol, message formats).
fn refuse(mut socket: TcpStream) {
    let mut bytes = [0; 4096];
    if socket.read(&mut bytes).is_err() || socket.write_all(b"R\0\0\0\x08\0\0\0\x03").is_err() {
        return;
    }
    let _ = socket.read(&mut bytes);
    let fields =
        b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"supabase_admin\"\0\0";
    let length = u32::try_from(fields.len() + 4).expect("it is short");
    let error = [b"E", &length.to_be_bytes()[..], fields].concat();
    let _ = socket.write_all(&error);
}
