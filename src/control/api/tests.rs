//! Requests through the whole stack but hyper and sockets: what clients see, row by row (spec: http-api 1, 2, 4, 5).

mod codes;
mod pages;
mod private;
mod serve;
mod tenants;

use super::*;
use crate::auth::sign_hs256;
use crate::config::Config;
use crate::control::outgoing::Parcel;
use crate::control::store::{ExtensionRecord, Sealed, TenantRecord};
use crate::control::tenants::tests::{record, registry};

use crate::limits;
use crate::logging::Line;
use crate::mail::{
    Ask, AskError, Checks, Content, Context as MailContext, Publish, To, Told, Verdict,
};
use crate::phoenix::Encoding;
use crate::tenant::{Counter, TenantId};
use axum::routing::get;
use http_body_util::BodyExt;
use hyper::Request;
use tower::{ServiceExt, service_fn};

/// The stack with tenants `a`, `suspended` (suspended), `tiny` (a payload of 1 kB, 2 events), `none` (0 events), and `db`, which has a
/// database.
struct Stack {
    api: Api,
    app: App,
    registry: crate::control::tenants::Registry,
    parcels: mpsc::Receiver<Parcel>,
    notices: mpsc::Receiver<Notice>,
    lines: Box<dyn FnMut() -> Vec<Line>>,
    /// What the database was asked.
    asks: std::sync::mpsc::Receiver<(TenantId, MailContext, Checks)>,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: hyper::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

const EXP: i64 = 4_102_444_800;
const METRICS_SECRET: &str = "of the metrics";

fn token(claims: &str) -> String {
    sign_hs256(b"secret", claims)
}

fn good_token() -> String {
    token(&format!(r#"{{"role":"anon","exp":{EXP}}}"#))
}

impl Stack {
    fn new() -> Self {
        Self::with(Metrics::for_test(Some("# EOF")))
    }

    fn with(metrics: Metrics) -> Self {
        let mut registry = registry();
        for name in ["a", "suspended", "tiny", "none", "db"] {
            let mut record = record(name);
            record.suspend = name == "suspended";
            if name == "tiny" {
                (record.max_payload_size_in_kb, record.max_events_per_second) = (1, 2);
            }
            if name == "none" {
                record.max_events_per_second = 0;
            }
            if name == "db" {
                record.extensions.push(ExtensionRecord {
                    kind: TenantRecord::POSTGRES_CDC.to_owned(),
                    settings: serde_json::Map::new(),
                    inserted_at: 0,
                    updated_at: 0,
                    sealed: Sealed::default(),
                });
            }
            registry.apply(&record);
        }
        let (outgoing, parcels) = Outgoing::new();
        let (notify, notices) = mpsc::channel(100);
        let (log, lines) = Log::for_test();
        let (asked, asks) = std::sync::mpsc::channel();
        let desk = Desk::for_test(move |tenant, ask| {
            let Ask::Policies { context, checks } = ask else {
                panic!("{ask:?}");
            };
            let outcome = private::outcome_of(&context.topic);
            asked.send((tenant, context, checks)).unwrap();
            outcome.map(Told::Verdict)
        });
        let variables = |name: &str| match name {
            "METRICS_JWT_SECRET" => Some(METRICS_SECRET.to_owned()),
            "REGION" => Some("eu-1".to_owned()),
            "DASHBOARD_USER" | "DASHBOARD_PASSWORD" => Some("operator".to_owned()),
            _ => None,
        };
        let (config, _) = Config::from_env(variables).unwrap();
        let environment = Environment {
            config: Arc::new(config),
            tenants: registry.watch(),
            outgoing,
            notices: notify,
            hasher: TopicHasher::new(1),
            cell: 1,
            log,
        };
        let registrar = Registrar::closed();
        let api = Api::new(settings(), &environment, desk, metrics, registrar);
        Self {
            app: app(&api),
            api,
            registry,
            parcels,
            notices,
            lines: Box::new(lines),
            asks,
        }
    }

    async fn ask(&self, request: &str, body: &str) -> Answer {
        ask(&self.api, &self.app, request, body).await
    }

    fn published(&mut self) -> Vec<Publish> {
        let mut published = Vec::new();
        while let Ok(parcel) = self.parcels.try_recv() {
            match parcel {
                Parcel::Publish(publish) => published.push(*publish),
                _ => panic!("only messages are expected"),
            }
        }
        published
    }
}

fn settings() -> Settings {
    Settings {
        any_host_single_tenant: true,
        request_id_baggage_key: "request-id".to_owned(),
        header_value_bytes_max: 4096,
        connect_error_backoff: Duration::ZERO,
        healthcheck_is_silent: false,
        tenant_name: "a".to_owned(),
    }
}

/// `request` says method, path, and headers: `POST /x | host: a | accept: y`.
async fn ask(api: &Api, app: &App, request: &str, body: &str) -> Answer {
    let mut parts = request.split(" | ");
    let (method, path) = parts.next().unwrap().split_once(' ').unwrap();
    let mut builder = Request::builder().method(method).uri(path);
    for header in parts {
        let (name, value) = header.split_once(": ").unwrap();
        builder = builder.header(name, value);
    }
    let request = builder.body(Body::from(body.to_owned())).unwrap();
    let (api, app) = (api.clone(), app.clone());
    let service = service_fn(move |request| {
        let (api, app) = (api.clone(), app.clone());
        async move { Ok::<_, std::convert::Infallible>(app.answer(&api, request).await) }
    });
    let (head, body) = service.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

/// The short word for the type of an answer.
fn kind(answer: &Answer) -> &str {
    match answer.header("content-type") {
        None => "-",
        Some("text/html; charset=utf-8") => "html",
        Some("application/json; charset=utf-8") => "json",
        Some("text/plain; charset=utf-8") => "text",
        Some(other) => other,
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

fn topic(publish: &Publish) -> &str {
    match &publish.to {
        To::Key(key) => key.text(),
        To::Topic(_) => panic!("topics of others are known by their key"),
    }
}

const BATCH: &str = "POST /api/broadcast | host: a.localhost | content-type: application/json";
const SINGLE: &str =
    "POST /api/broadcast/room/events/e | host: a.localhost | content-type: application/json";
const ONE: &str = r#"{"messages":[{"topic":"room","event":"e","payload":{"a":1}}]}"#;

fn with_token(request: &str) -> String {
    format!("{request} | authorization: Bearer {}", good_token())
}

/// Request, body, status with the type of the answer, answer. `{token}` is a good token, `{one}` a batch of one public message,
/// `{many}` one of 101; `{batch}` and `{single}` are requests with everything they need, and a tenant behind a colon instead of `a`.
const ANSWERS: &str = r#"
GET /healthcheck ;; ;; 200 text ;; ok
GET /healthcheck | host: whatever ;; ;; 200 text ;; ok
HEAD /healthcheck ;; ;; 200 text ;;
POST /healthcheck | content-type: application/json ;; {} ;; 404 html ;; Not Found
GET /admin/dashboard ;; ;; 401 - ;; Unauthorized
GET /admin/x | authorization: Basic {operator} ;; ;; 404 html ;; Not Found
POST /admin/dashboard | authorization: Basic {operator} ;; ;; 404 html ;; Not Found
GET /admin ;; ;; 404 html ;; Not Found
GET /nope ;; ;; 404 html ;; Not Found
GET /nope | accept: */* ;; ;; 404 html ;; Not Found
GET /nope | accept: application/json ;; ;; 404 json ;; "Not Found"
GET /nope | accept: application/json, text/plain, */* ;; ;; 404 html ;; Not Found
GET /api/nope ;; ;; 404 html ;; Not Found
GET /metrics | authorization: Bearer {metrics} ;; ;; 200 text ;; # EOF
GET /metrics | authorization: Bearer {metrics} | accept: text/html ;; ;; 200 text ;; # EOF
HEAD /metrics | authorization: Bearer {metrics} ;; ;; 200 text ;;
GET /metrics/eu-1 | authorization: Bearer {metrics} ;; ;; 200 text ;; # EOF
GET /metrics/eu%2D1 | authorization: Bearer {metrics} ;; ;; 200 text ;; # EOF
GET /metrics/eu-2 | authorization: Bearer {metrics} ;; ;; 200 text ;;
GET /metrics/%ff | authorization: Bearer {metrics} ;; ;; 200 text ;;
GET /metrics/eu-1/x | authorization: Bearer {metrics} ;; ;; 404 html ;; Not Found
POST /metrics | authorization: Bearer {metrics} ;; ;; 404 html ;; Not Found
GET /metrics ;; ;; 403 - ;;
HEAD /metrics ;; ;; 403 - ;;
GET /metrics/eu-1 ;; ;; 403 - ;;
GET /metrics/eu-2 ;; ;; 403 - ;;
GET /metrics | authorization: Bearer {token} ;; ;; 403 - ;;
GET /metrics | authorization: bearer {metrics} ;; ;; 403 - ;;
GET /metrics | authorization: nospace ;; ;; 403 - ;;
GET /metrics | apikey: {metrics} ;; ;; 403 - ;;
GET /api/broadcast ;; ;; 404 html ;; Not Found
PUT /api/broadcast ;; ;; 404 html ;; Not Found
GET /api/broadcast/t/events/e ;; ;; 404 html ;; Not Found
POST /api/broadcast | content-type: application/x-www-form-urlencoded ;; _method=put ;; 404 html ;; Not Found
POST /nope | content-type: application/json ;; not json ;; 400 html ;; Bad Request
POST /nope | content-type: application/json | accept: application/json ;; not json ;; 400 json ;; "Bad Request"
GET /api/ping | host: a.x ;; ;; 200 json ;; {"message":"Success"}
HEAD /api/ping | host: a.x ;; ;; 200 json ;;
GET /api/ping | host: suspended.x ;; ;; 200 json ;; {"message":"Success"}
GET /api/ping | host: nosuch.x ;; ;; 401 json ;; {"message":"Tenant not found in database"}
GET /api/ping | host: none.x ;; ;; 429 json ;; {"message":"Too many requests"}
GET /api/ping | host: a.x | accept: text/html ;; ;; 406 html ;; Not Acceptable
{batch} ;; {one} ;; 202 - ;;
{batch} ;; not json ;; 400 html ;; Bad Request
{batch} | accept: text/html ;; {one} ;; 406 html ;; Not Acceptable
POST /realtime/v1/api/broadcast | host: a.x | content-type: application/json | apikey: {token} ;; {one} ;; 202 - ;;
POST /api/broadcast | host: a.x | content-type: application/json | authorization: bEaReR {token} ;; {one} ;; 202 - ;;
POST /api/broadcast | host: a.x | content-type: application/json ;; {one} ;; 401 json ;; {"message":"Unauthorized"}
POST /api/broadcast | host: a.x | authorization: Bearer potato ;; {one} ;; 401 json ;; {"message":"Unauthorized"}
POST /api/broadcast | host: a.x | authorization: Basic abc ;; {one} ;; 401 json ;; {"message":"Unauthorized"}
POST /api/broadcast | host: a.x | authorization: nospace ;; {one} ;; 401 json ;; {"message":"Unauthorized"}
POST /api/broadcast | host: a.x | apikey: {expired} ;; {one} ;; 401 json ;; {"message":"Unauthorized"}
POST /api/broadcast | host: a.x | apikey: {roleless} ;; {one} ;; 401 json ;; {"message":"Unauthorized"}
{batch:nosuch} ;; {one} ;; 401 json ;; {"message":"Tenant not found in database"}
{batch:SUSPENDED} ;; {one} ;; 403 json ;; {"message":"Tenant is suspended"}
{batch:suspended} ;; {} ;; 403 json ;; {"message":"Tenant is suspended"}
{batch:none} ;; {one} ;; 429 json ;; {"message":"Too many requests"}
{batch} ;; {} ;; 422 json ;; {"errors":{"messages":["can't be blank"]}}
{batch} ;; [] ;; 422 json ;; {"errors":{"messages":["can't be blank"]}}
{batch} ;; "x" ;; 422 json ;; {"errors":{"messages":["can't be blank"]}}
{batch} ;; {"messages":[{"topic":"t","event":"e","payload":{}},{}]} ;; 422 json ;; {"errors":{"messages":[{},{"event":["can't be blank"],"payload":["can't be blank"],"topic":["can't be blank"]}]}}
{batch+text/plain} ;; {one} ;; 422 json ;; {"errors":{"messages":["can't be blank"]}}
{batch+application/x-www-form-urlencoded} ;; messages=1 ;; 422 json ;; {"errors":{"messages":["is invalid"]}}
{batch+application/x-www-form-urlencoded} ;; messages[0][topic]=t&messages[0][event]=e&messages[0][payload][a]=1 ;; 202 - ;;
{batch} ;; {many} ;; 429 json ;; {"message":"Too many messages to broadcast, please reduce the batch size"}
{batch} ;; {"messages":[{"topic":"room","event":"e","payload":{"a":1},"private":true}]} ;; 202 - ;;
{single} ;; {} ;; 202 - ;;
{single+application/octet-stream} ;; ;; 202 - ;;
POST /realtime/v1/api/broadcast/r/events/e | host: a.x | apikey: {token} ;; ;; 202 - ;;
{single+text/plain} ;; x ;; 415 json ;; {"error":"Unsupported Media Type. Use application/json or application/octet-stream"}
{single:nosuch+text/plain} ;; x ;; 415 json ;; {"error":"Unsupported Media Type. Use application/json or application/octet-stream"}
{single} | accept: application/octet-stream ;; {} ;; 202 - ;;
{single} | accept: text/html ;; {} ;; 406 html ;; Not Acceptable
{single} ;; nope ;; 400 html ;; Bad Request
POST /api/broadcast/r/events/e | host: a.x ;; ;; 401 json ;; {"message":"Unauthorized"}
POST /api/broadcast/%ff/events/e | host: a.x | apikey: {token} ;; ;; 400 html ;; Bad Request
{single:nosuch} ;; {} ;; 401 json ;; {"message":"Tenant not found in database"}
{single:suspended} ;; {} ;; 403 json ;; {"message":"Tenant is suspended"}
{single:none} ;; {} ;; 429 json ;; {"message":"Too many requests"}
{single:tiny} ;; {large} ;; 422 json ;; {"errors":{"payload":["Payload size exceeds tenant limit"]}}
{single:tiny+application/octet-stream} ;; {large} ;; 422 json ;; {"errors":{"payload":["Payload size exceeds tenant limit"]}}
POST /api/broadcast/%20/events/e | host: a.x | apikey: {token} ;; ;; 422 json ;; {"errors":{"topic":["can't be blank"]}}
POST /api/broadcast/%20/events/%09 | host: tiny.x | content-type: application/json | apikey: {token} ;; {large} ;; 422 json ;; {"errors":{"event":["can't be blank"],"payload":["Payload size exceeds tenant limit"],"topic":["can't be blank"]}}
POST /api/broadcast/r/events/e?private=true | host: a.x | apikey: {token} ;; ;; 422 json ;; {"message":"Tenant database unavailable"}
POST /api/broadcast/r/events/e?private=1 | host: a.x | apikey: {token} ;; ;; 202 - ;;
{private:yes} ;; {} ;; 202 - ;;
{private:no} ;; {"private":false} ;; 202 - ;;
{private:no} ;; {"private":true,"private":1} ;; 202 - ;;
{private:no+application/octet-stream} ;; {"private":false} ;; 403 json ;; {"message":"Unauthorized"}
POST /api/broadcast/no/events/e | host: db.x | content-type: application/json | apikey: {token} ;; {"private":true} ;; 403 json ;; {"message":"Unauthorized"}
POST /api/broadcast/no/events/e | host: db.x | content-type: application/json | apikey: {token} ;; {"private":"true"} ;; 403 json ;; {"message":"Unauthorized"}
POST /api/broadcast/no/events/e | host: db.x | content-type: application/json | apikey: {token} ;; {"private":{}} ;; 202 - ;;
{private:no} ;; {} ;; 403 json ;; {"message":"Unauthorized"}
{private:away} ;; {} ;; 422 json ;; {"message":"Tenant database unavailable"}
{private:full} ;; {} ;; 422 json ;; {"message":"Tenant database has too many connections"}
{private:often} ;; {} ;; 422 json ;; {"message":"Connect rate limit reached"}
{private:suspended} ;; {} ;; 403 json ;; {"message":"Tenant is suspended"}
{private:starting} ;; {} ;; 422 json ;; {"message":"Tenant database connection initializing"}
{private:policy} ;; {} ;; 422 json ;; {"message":"RLS policy error"}
{private:slow} ;; {} ;; 422 json ;; {"message":"Query canceled"}
{private:partition} ;; {} ;; 422 json ;; {"message":"Missing messages partition"}
{private:pool} ;; {} ;; 429 json ;; {"message":"Connection pool exhausted"}
{private:other} ;; {} ;; 500 json ;; {"message":"Unable to authorize broadcast"}
POST /api/broadcast/yes/events/e?private=true | host: db.x | apikey: {no-role} ;; ;; 401 json ;; {"message":"Unauthorized"}
POST /api/broadcast/no/events/e?private=TRUE | host: db.x | apikey: {token} ;; ;; 202 - ;;
"#;

/// A row with its placeholders filled.
fn filled(row: &str) -> String {
    let mut row = row.to_owned();
    for (name, path) in [
        ("{batch", "broadcast"),
        ("{single", "broadcast/room/events/e"),
    ] {
        if let Some((options, rest)) = row.strip_prefix(name).and_then(|row| row.split_once('}')) {
            let (tenant, kind) = options
                .split_once('+')
                .unwrap_or((options, "application/json"));
            let tenant = tenant.strip_prefix(':').unwrap_or("a");
            row = format!(
                "POST /api/{path} | host: {tenant}.x | content-type: {kind} | apikey: {{token}}{rest}"
            );
        }
    }
    if let Some((options, rest)) = row
        .strip_prefix("{private:")
        .and_then(|row| row.split_once('}'))
    {
        let (topic, kind) = options
            .split_once('+')
            .unwrap_or((options, "application/json"));
        row = format!(
            "POST /api/broadcast/{topic}/events/e?private=true | host: db.x | content-type: {kind} | apikey: {{token}}{rest}"
        );
    }
    let many = vec![r#"{"topic":"t","event":"e","payload":{}}"#; 101].join(",");
    row.replace("{token}", &good_token())
        .replace("{operator}", "b3BlcmF0b3I6b3BlcmF0b3I=")
        .replace("{metrics}", &sign_hs256(METRICS_SECRET.as_bytes(), "{}"))
        .replace("{expired}", &token(r#"{"role":"anon","exp":1}"#))
        .replace("{no-role}", &token(r#"{"role":5,"exp":4102444800}"#))
        .replace("{roleless}", &token(r#"{"exp":4102444800}"#))
        .replace("{one}", ONE)
        .replace("{many}", &format!(r#"{{"messages":[{many}]}}"#))
        .replace("{large}", &format!(r#"{{"k":"{}"}}"#, "x".repeat(1500)))
}

#[test]
fn every_request_gets_the_answer_of_the_original() {
    let stack = Stack::new();
    for row in ANSWERS.lines().filter(|row| !row.is_empty()) {
        let filled = filled(row);
        let columns: Vec<&str> = filled.split(";;").map(str::trim).collect();
        let answer = run(stack.ask(columns[0], columns[1]));
        let outcome = format!("{} {}", answer.status, kind(&answer));
        assert_eq!(outcome, columns[2], "{row}");
        assert_eq!(answer.body, columns[3], "{row}");
    }
}

#[test]
fn answers_have_the_headers_of_the_original() {
    let stack = Stack::new();
    let check = |request: &str, body: &str, expected: &str| {
        let answer = run(stack.ask(request, body));
        // Its length is hyper's to tell (`requests_on_one_connection_end_in_an_upgrade`).
        let names = answer.headers.keys().map(hyper::header::HeaderName::as_str);
        let mut names: Vec<_> = names.filter(|name| *name != "content-length").collect();
        names.sort_unstable();
        assert_eq!(names.join(" "), expected, "{request}");
        assert_eq!(
            answer.header("cache-control"),
            Some("max-age=0, private, must-revalidate"),
            "{request}"
        );
        assert_eq!(answer.header("vary"), Some("accept-encoding"), "{request}");
    };
    let plain = "cache-control content-type server vary x-request-id";
    check("GET /healthcheck", "", plain);
    check("HEAD /healthcheck", "", plain);
    check("GET /nope", "", plain);
    check("GET /api/broadcast", "", plain);
    let rated = "cache-control content-type server vary x-rate-limit x-rate-limit-remaining x-rate-rolling x-request-id";
    check(BATCH, ONE, rated);
    check(&with_token(BATCH), "{}", rated);
    check(&BATCH.replace("a.local", "nosuch.local"), ONE, plain);
    check(BATCH, "not json", "cache-control content-type server vary");
    check(
        &format!("{BATCH} | origin: http://x.example"),
        ONE,
        &format!("access-control-allow-origin {rated}"),
    );
    check(
        &format!("{} | origin: http://x.example", with_token(BATCH)),
        ONE,
        "access-control-allow-origin cache-control server vary x-rate-limit x-rate-limit-remaining x-rate-rolling \
         x-request-id",
    );
}

#[test]
fn preflights_are_answered() {
    let stack = Stack::new();
    for path in [
        "/api/broadcast",
        "/api/broadcast/t/events/e",
        "/realtime/v1/api/broadcast",
    ] {
        let request = format!(
            "OPTIONS {path} | origin: http://x.example | access-control-request-headers: authorization,x-y"
        );
        let answer = run(stack.ask(&request, ""));
        assert_eq!((answer.status, answer.body.as_str()), (204, ""));
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(
            answer.header("access-control-allow-methods"),
            Some("POST, OPTIONS")
        );
        assert_eq!(
            answer.header("access-control-allow-headers"),
            Some("authorization,x-y")
        );
    }
    assert_eq!(run(stack.ask("OPTIONS /healthcheck", "")).status, 404);
}

#[test]
fn request_ids_are_echoed_and_logged() {
    let mut stack = Stack::new();
    let answer = run(stack.ask(
        "GET /healthcheck | baggage: request-id=abcdef1234567890",
        "",
    ));
    assert_eq!(answer.header("x-request-id"), Some("abcdef1234567890"));
    let lines = (stack.lines)();
    let texts: Vec<_> = lines.iter().map(|line| &*line.message).collect();
    assert_eq!(texts[0], "GET /healthcheck");
    assert!(texts[1].starts_with("Sent 200 in "), "{texts:?}");
    assert!(
        lines
            .iter()
            .all(|line| line.request_id.as_deref() == Some("abcdef1234567890"))
    );
}

#[test]
fn rate_headers_tell_the_average_of_the_last_tick() {
    let mut stack = Stack::new();
    let rates = |answer: &Answer| {
        ["x-rate-rolling", "x-rate-limit", "x-rate-limit-remaining"]
            .map(|name| answer.header(name).map(str::to_owned))
    };
    let expect = |rolling: &str, limit: &str, remaining: &str| {
        [rolling, limit, remaining].map(|text| Some(text.to_owned()))
    };
    let first = run(stack.ask(BATCH, ONE));
    assert_eq!(rates(&first), expect("0", "100", "100"));
    let tenant = stack
        .registry
        .watch()
        .borrow()
        .directory
        .find("a")
        .unwrap()
        .id;
    assert_eq!(stack.notices.try_recv(), Ok(Notice::Started(tenant, None)));
    assert!(
        stack.notices.try_recv().is_err(),
        "the counter is started once"
    );
    let mut counters = crate::control::rates::Rates::default();
    let live = stack.api.live();
    counters.note(Duration::ZERO, &live, Notice::Started(tenant, None));
    counters.tick(limits::RATE_FIRST_TICK, &live);
    assert_eq!(rates(&run(stack.ask(BATCH, ONE))), expect("1", "100", "99"));
}

#[test]
fn messages_go_to_their_topics_as_they_were_sent() {
    let mut stack = Stack::new();
    let body = r#"{"messages":[
        {"topic":"r1","event":"e","payload":{"n": 1.50}},
        {"topic":"secret","event":"e","payload":{},"private":true},
        {"topic":"r2","event":"f","payload":{},"id":"abc","extra":1}]}"#;
    assert_eq!(run(stack.ask(&with_token(BATCH), body)).status, 202);
    let published = stack.published();
    let seen: Vec<_> = published
        .iter()
        .map(|publish| match &publish.content {
            Content::Json { event, payload } => (topic(publish), *event, &**payload),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        (
            "realtime:r1",
            "broadcast",
            r#"{"event":"e","payload":{"n": 1.50},"type":"broadcast"}"#,
        ),
        (
            "realtime:r2",
            "broadcast",
            r#"{"event":"f","meta":{"id":"abc"},"payload":{},"type":"broadcast"}"#,
        ),
    ];
    assert_eq!(seen, expected);
    let usage = &stack
        .registry
        .watch()
        .borrow()
        .directory
        .find("a")
        .unwrap()
        .usage
        .clone();
    assert_eq!(
        usage.total(Counter::Events),
        2,
        "one event for each message that goes out"
    );
}

#[test]
fn single_messages_are_user_broadcasts() {
    let mut stack = Stack::new();
    let mut check = |request: &str, body: &str, expected: (&str, &str, Encoding, &str)| {
        assert_eq!(
            run(stack.ask(&with_token(request), body)).status,
            202,
            "{request}"
        );
        let published = stack.published();
        let Content::User {
            event,
            metadata: None,
            encoding,
            bytes,
        } = &published[0].content
        else {
            panic!("{request}: {:?}", published[0].content);
        };
        let got = (
            topic(&published[0]),
            &**event,
            *encoding,
            std::str::from_utf8(bytes).unwrap(),
        );
        assert_eq!(got, expected, "{request}");
    };
    let other = |path: &str, kind: &str| {
        format!("POST /api/broadcast/{path} | host: a.x | content-type: {kind}")
    };
    check(
        SINGLE,
        r#" {"n": 1.50} "#,
        ("realtime:room", "e", Encoding::Json, r#"{"n": 1.50}"#),
    );
    check(
        SINGLE,
        "[1]",
        ("realtime:room", "e", Encoding::Json, r#"{"_json":[1]}"#),
    );
    check(
        SINGLE,
        "\"x\"",
        ("realtime:room", "e", Encoding::Json, r#"{"_json":"x"}"#),
    );
    check(SINGLE, "", ("realtime:room", "e", Encoding::Json, "{}"));
    check(
        "POST /api/broadcast/room/events/e | host: a.x",
        "nope",
        ("realtime:room", "e", Encoding::Json, "{}"),
    );
    check(
        &other("a%2Fb%20%22/events/%C3%A4+", "application/json"),
        "{}",
        ("realtime:a/b \"", "ä+", Encoding::Json, "{}"),
    );
    check(
        &other("t/events/e", "application/octet-stream"),
        "raw",
        ("realtime:t", "e", Encoding::Binary, "raw"),
    );
    check(
        &other("t/events/e", "application/octet-stream"),
        "",
        ("realtime:t", "e", Encoding::Binary, ""),
    );
}

#[test]
fn events_of_the_tenant_bound_what_may_be_sent() {
    let stack = Stack::new();
    let tenant = stack.api.live().directory.find("tiny").unwrap().clone();
    let check = |average: f64, request: &str, body: &str, status: u16, text: &str| {
        tenant.usage.publish(
            Counter::Events,
            average,
            tenant.limits.events_per_second_max,
        );
        let answer = run(stack.ask(&with_token(&request.replace("a.local", "tiny.local")), body));
        let expected = if text.is_empty() {
            String::new()
        } else {
            format!("{{\"message\":\"{text}\"}}")
        };
        assert_eq!(
            (answer.status, answer.body),
            (status, expected),
            "{average} {request}"
        );
    };
    let reduce = "Too many messages to broadcast, please reduce the batch size";
    check(1.0, BATCH, ONE, 202, "");
    check(2.0, BATCH, ONE, 429, reduce);
    check(3.0, BATCH, ONE, 429, "You have exceeded your rate limit");
    check(1.9, SINGLE, "{}", 202, "");
    check(2.0, SINGLE, "{}", 429, "You have exceeded your rate limit");
}

#[test]
fn bodies_beyond_the_bound_are_refused() {
    let stack = Stack::new();
    let body = "x".repeat(limits::HTTP_BODY_BYTES_MAX + 1);
    for request in [BATCH, SINGLE] {
        let answer = run(stack.ask(&request.replace("/json", "/octet-stream"), &body));
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (413, "Request Entity Too Large")
        );
        assert_eq!(
            (answer.header("connection"), answer.header("x-request-id")),
            (Some("close"), None)
        );
    }
}

#[test]
fn heads_beyond_the_bounds_are_refused() {
    let stack = Stack::new();
    let check = |request: &str, status: u16| assert_eq!(run(stack.ask(request, "")).status, status);
    let value = "v".repeat(4096);
    check(&format!("GET /healthcheck | x-y: {value}"), 200);
    check(&format!("GET /healthcheck | x-y: {value}v"), 431);
    let path = "p".repeat(limits::HTTP_REQUEST_LINE_BYTES_MAX - "GET / HTTP/1.1".len());
    check(&format!("GET /{path}"), 404);
    check(&format!("GET /{path}p"), 414);
}

#[test]
fn larger_answers_are_compressed_for_those_who_ask() {
    async fn body(bytes: usize) -> String {
        "x".repeat(bytes)
    }
    let stack = Stack::new();
    let routes = Router::new()
        .route("/300", get(|| body(300)))
        .route("/301", get(|| body(301)));
    let stack = Stack {
        app: App::new(routes),
        ..stack
    };
    let check = |request: &str, encoding: Option<&str>| {
        let answer = run(stack.ask(request, ""));
        assert_eq!(
            (answer.header("content-encoding"), answer.header("vary")),
            (encoding, Some("accept-encoding")),
            "{request}"
        );
    };
    check("GET /301 | accept-encoding: gzip", Some("gzip"));
    check("GET /300 | accept-encoding: gzip", None);
    check("GET /301 | accept-encoding: br", None);
    check("GET /301", None);
}

#[test]
fn panic_is_a_500_of_its_request_alone() {
    async fn fails(request: Request<Body>) -> Response<Body> {
        let (head, _) = request.into_parts();
        let exchange = Exchange::of(&head);
        let answer = exchange.check_accept(&head, &["json"]);
        panic!("a defect {}", answer.is_ok());
    }
    let mut stack = Stack::new();
    stack.app = App::new(
        Router::new()
            .route("/api/fails", get(fails))
            .route("/fine", get(healthcheck)),
    );
    let answer = run(stack.ask("GET /api/fails", ""));
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (500, "\"Internal Server Error\"")
    );
    assert!(answer.header("x-request-id").is_some());
    assert!(
        (stack.lines)()
            .iter()
            .any(|line| line.message.contains("a defect true"))
    );
    assert_eq!(run(stack.ask("GET /fine", "")).status, 200);
}

#[test]
fn refused_upgrades_are_those_of_a_shard() {
    let mut stack = Stack::new();
    let mut check = |request: &str, status: u16, body: &str, code: Option<&str>| {
        let answer = run(stack.ask(request, ""));
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (status, body),
            "{request}"
        );
        assert_eq!(answer.header("x-request-id"), None, "{request}");
        let codes: Vec<_> = (stack.lines)()
            .iter()
            .filter_map(|line| Some(line.code?.as_str()))
            .collect();
        assert_eq!(codes.first().copied(), code, "{request}");
    };
    let good = good_token();
    check("POST /socket/websocket | host: a.x", 400, "", None);
    check("GET /socket/websocket?vsn=3.0.0 | host: a.x", 403, "", None);
    check(
        "GET /socket/websocket | host: a.x",
        401,
        r#"{"error":"API key is missing"}"#,
        Some("MissingAPIKey"),
    );
    check(
        "GET /realtime/v1/websocket | host: b.x",
        404,
        r#"{"error":"Tenant not found"}"#,
        Some("TenantNotFound"),
    );
    let suspended = r#"{"error":"Realtime was disabled for this tenant"}"#;
    check(
        "GET /socket/websocket | host: suspended.x",
        403,
        suspended,
        Some("RealtimeDisabledForTenant"),
    );
    let missing = "'connection' header must contain 'upgrade', got []";
    check(
        &format!("GET /socket/websocket?apikey={good} | host: a.x"),
        400,
        missing,
        None,
    );
}

#[test]
fn metrics_that_cannot_be_written_are_a_500() {
    let stack = Stack::with(Metrics::for_test(None));
    let token = sign_hs256(METRICS_SECRET.as_bytes(), "{}");
    let answer = run(stack.ask(&format!("GET /metrics | authorization: Bearer {token}"), ""));
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (500, "Internal Server Error")
    );
}
