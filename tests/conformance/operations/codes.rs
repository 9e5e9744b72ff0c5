//! Lines that operators search for: codes of requests and sockets, and the ones without a code (spec: errors-and-logs).

use std::sync::mpsc::Receiver;

use serde_json::{Value, json};

use super::redaction::refusing_database;
use super::{PATIENCE, SETUP, Test, wait_for_line, wait_for_lines};
use crate::server::{self, Server};
use crate::socket::{self, Event, Headers, Writer};
use crate::token;

pub const TESTS: &[Test] = &[
    (
        "requests_that_are_refused_have_a_code",
        requests_that_are_refused_have_a_code,
    ),
    (
        "a_refused_connection_is_told_to_who_asks_for_everything",
        a_refused_connection_is_told_to_who_asks_for_everything,
    ),
    (
        "lines_about_a_token_say_whose_it_is",
        lines_about_a_token_say_whose_it_is,
    ),
    (
        "what_goes_on_is_told_in_the_originals_words",
        what_goes_on_is_told_in_the_originals_words,
    ),
    ("what_is_billed_is_measured", what_is_billed_is_measured),
    (
        "the_janitor_says_when_it_works",
        the_janitor_says_when_it_works,
    ),
];

/// Sends a request as somebody who may do everything.
fn request(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> u16 {
    let authorization = format!("Bearer {}", token::good());
    let mut all = Headers::from([
        ("host".to_owned(), "a.localhost".to_owned()),
        ("content-type".to_owned(), "application/json".to_owned()),
        ("authorization".to_owned(), authorization),
    ]);
    for (name, value) in headers {
        all.insert((*name).to_owned(), (*value).to_owned());
    }
    let body = match body {
        Value::Null => Vec::new(),
        Value::String(text) => text.clone().into_bytes(),
        body => body.to_string().into_bytes(),
    };
    match socket::request(server.address, method, path, &all, &body) {
        Ok(Event::Upgrade { status, .. }) => status,
        other => panic!("{other:?} instead of an answer"),
    }
}

fn requests_that_are_refused_have_a_code() {
    let server = Server::start(SETUP, &[server::tenant("a", &json!({}))], &[]);
    let ask = |method, path, headers: &[(&str, &str)], body: &Value| {
        request(&server, method, path, headers, body)
    };
    assert_eq!(ask("GET", "/nowhere", &[], &Value::Null), 404);
    wait_for_line(
        &server,
        "error_code=HttpClientError [warning] HttpClientError: Sent 404 response: Phoenix.Router.NoRouteError - no route found for GET \
         /nowhere (RealtimeWeb.Router)",
    );
    assert_eq!(ask("POST", "/api/broadcast", &[], &json!("{")), 400);
    wait_for_line(
        &server,
        "HttpClientError: Sent 400 response: Plug.Parsers.ParseError - malformed request",
    );
    assert_eq!(
        ask("GET", "/api/ping", &[("accept", "image/png")], &Value::Null),
        406
    );
    wait_for_line(
        &server,
        "HttpClientError: Sent 406 response: Phoenix.NotAcceptableError - no supported media type in accept header. \
         Expected one of [\"json\"]",
    );
    assert_eq!(
        ask("POST", "/api/broadcast", &[], &json!({"messages": [{}]})),
        422
    );
    wait_for_line(
        &server,
        "project=a external_id=a error_code=UnprocessableEntity [error] UnprocessableEntity: %{messages: [%{",
    );
    assert_eq!(
        ask(
            "PUT",
            "/api/tenants/b",
            &[],
            &json!({"tenant": {"suspend": "x"}})
        ),
        422
    );
    wait_for_line(
        &server,
        "[error] UnprocessableEntity: %{suspend: [\"is invalid\"]}",
    );
    assert_eq!(ask("PUT", "/api/tenants/b", &[], &json!({})), 400);
    wait_for_line(
        &server,
        "HttpClientError: Sent 400 response: Phoenix.ActionClauseError - there is no map `tenant` in the body",
    );
}

/// An upgrade at the tenant `a` with this query, and what comes of it.
fn connect(server: &Server, query: &str) -> (Writer, Receiver<Event>) {
    let mut writer = Writer::connect(server.address).expect("the server accepts");
    let (sender, events) = std::sync::mpsc::channel();
    writer.read_into(move |event| sender.send(event).is_ok());
    writer
        .upgrade(
            &format!("/socket/websocket?vsn=2.0.0&{query}"),
            "a.localhost",
            &Headers::new(),
        )
        .expect("the server reads a head");
    let answer = events.recv_timeout(PATIENCE).expect("the server answers");
    assert!(matches!(answer, Event::Upgrade { .. }), "{answer:?}");
    (writer, events)
}

const REFUSED: &str = "[info] REFUSED CONNECTION TO RealtimeWeb.UserSocket in 0ms\n  Transport: :websocket\n  Parameters: [FILTERED]\n";

fn a_refused_connection_is_told_to_who_asks_for_everything() {
    let env = [("CONNECT_ERROR_BACKOFF_MS", "1")];
    let server = Server::start(SETUP, &[server::tenant("a", &json!({}))], &env);
    for level in ["", "error", "warning", "info"] {
        let query = format!("apikey=no.good.token&log_level={level}");
        drop(connect(&server, &query));
    }
    wait_for_line(&server, &format!("project=a external_id=a {REFUSED}"));
    // On a connection that was something else before it is the same.
    let head = "GET /healthcheck HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut writer = Writer::connect(server.address).expect("the server accepts");
    writer.raw(head.as_bytes()).expect("the server reads");
    let path = "/socket/websocket?vsn=2.0.0&apikey=no.good.token&log_level=info";
    writer
        .upgrade(path, "a.localhost", &Headers::new())
        .expect("the server reads a head");
    wait_for_lines(&server, REFUSED, 2);
    let log = server.log();
    assert_eq!(log.matches(REFUSED).count(), 2);
    // It is no request of the request log.
    assert!(!log.contains("GET /socket"), "{log}");
}

fn lines_about_a_token_say_whose_it_is() {
    let env = [
        ("CONNECT_ERROR_BACKOFF_MS", "1"),
        ("CHANNEL_ERROR_BACKOFF_MS", "1"),
    ];
    let server = Server::start(SETUP, &[server::tenant("a", &json!({}))], &env);
    let now = crate::clock::unix_s();
    let of = |sub: &str, exp: i64| {
        token::sign(&json!({"role": "authenticated", "sub": sub, "exp": exp}))
    };
    let said = |sub: &str, exp: i64| {
        let code = "error_code=InvalidJWTToken";
        let text = "[warning] InvalidJWTToken: Token has expired ";
        wait_for_line(&server, &format!("{code} sub={sub} exp={exp} {text}"));
    };
    let late = now - 100;
    let query = format!("apikey={}&log_level=warning", of("at-upgrade", late));
    drop(connect(&server, &query));
    said("at-upgrade", late);
    let query = format!("apikey={}&log_level=warning", of("good", now + 3600));
    let (mut writer, events) = connect(&server, &query);
    let mut send = |event: &str, payload: Value| {
        let message = json!(["1", "1", "realtime:x", event, payload]);
        writer.text(&message.to_string()).expect("the server reads");
        events.recv_timeout(PATIENCE).expect("the server answers")
    };
    send(
        "phx_join",
        json!({"config": {}, "access_token": of("at-join", late)}),
    );
    said("at-join", late);
    send("phx_join", json!({"config": {}}));
    send("access_token", json!({"access_token": of("later", late)}));
    said("later", late);
}

fn what_goes_on_is_told_in_the_originals_words() {
    let settings = json!({
        "region": "x", "db_host": "127.0.0.1", "db_port": refusing_database().to_string(), "db_name": "postgres",
        "db_user": "supabase_admin", "db_password": "none", "ssl_enforced": false
    });
    let extension = json!({"type": "postgres_cdc_rls", "settings": settings});
    let tenant = server::tenant("a", &json!({"extensions": [extension]}));
    let env = [
        ("NO_CHANNEL_TIMEOUT_IN_MS", "300"),
        ("CHANNEL_ERROR_BACKOFF_MS", "1"),
    ];
    let server = Server::start(SETUP, &[tenant], &env);
    let (mut writer, _events) = connect(&server, &format!("apikey={}", token::good()));
    let join = json!(["1", "1", "realtime:x", "phx_join", {"config": {"private": true}}]);
    writer.text(&join.to_string()).expect("the server reads");
    wait_for_line(
        &server,
        "external_id=a [info] Tenant a is initializing: :\"realtime@127.0.0.1\"",
    );
    wait_for_line(
        &server,
        "external_id=a [info] Connection process starting up",
    );
    wait_for_line(
        &server,
        "external_id=a [info] Starting Realtime.RateCounter for: {:channel, :joins, \"a\"}",
    );
    // Its join was refused, and it has no other channel.
    wait_for_line(
        &server,
        "[info] Killing 1 transport pids with no channels open",
    );
    let token = format!(
        "Bearer {}",
        token::sign_with(
            &json!({"alg": "HS256", "typ": "JWT"}),
            &json!({}),
            token::METRICS_SECRET
        )
    );
    let scrape = [("authorization", &*token)];
    assert_eq!(
        request(&server, "GET", "/metrics", &scrape, &Value::Null),
        200
    );
    wait_for_line(&server, "[info] Collected cluster metrics in ");
    let change = json!({"tenant": {"jwt_secret": "another-secret-of-more-than-32-characters"}});
    assert_eq!(request(&server, "PUT", "/api/tenants/a", &[], &change), 200);
    wait_for_line(
        &server,
        "external_id=a [warning] Disconnecting all sockets for tenant a",
    );
}

fn what_is_billed_is_measured() {
    let tenants = [server::tenant("a", &json!({}))];
    let server = Server::start(SETUP, &tenants, &[("LOG_FORMAT", "json")]);
    let (mut writer, _events) = connect(&server, &format!("apikey={}", token::good()));
    let join = json!(["1", "1", "realtime:x", "phx_join", {"config": {}}]);
    writer.text(&join.to_string()).expect("the server reads");
    let words = "\"message\":\"Billing metrics: [:realtime, :rate_counter, :channel, :joins]\"";
    wait_for_line(&server, words);
    let log = server.log();
    let line = log.lines().find(|line| line.contains(words));
    let line: Value = serde_json::from_str(line.expect("it was said")).expect("it is JSON");
    assert_eq!(line["project"], "a");
    assert_eq!(line["measurements"], json!({"sum": 1, "limit": 100}));
}

fn the_janitor_says_when_it_works() {
    let env = [
        ("RUN_JANITOR", "true"),
        ("JANITOR_SCHEDULE_TIMER_IN_MS", "50"),
        ("JANITOR_SCHEDULE_RANDOMIZE", "false"),
        ("JANITOR_RUN_AFTER_IN_MS", "0"),
    ];
    let server = Server::start(SETUP, &[], &env);
    wait_for_line(&server, "[info] Janitor started\n");
    wait_for_line(&server, "[info] Janitor finished\n");
}
