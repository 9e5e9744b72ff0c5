//! Traces, as a collector gets them: a listener that decodes what is posted to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use prost::Message;
use serde_json::json;

use super::{PATIENCE, SETUP, Test, wait_for_line};
use crate::server::{self, Server};
use crate::socket::{self, Event, Headers};
use crate::token;

pub const TESTS: &[Test] = &[
    (
        "a_collector_gets_a_span_for_each_request",
        a_collector_gets_a_span_for_each_request,
    ),
    (
        "the_last_spans_are_sent_before_the_end",
        the_last_spans_are_sent_before_the_end,
    ),
    (
        "work_in_a_database_has_a_span_that_says_how_it_went",
        work_in_a_database_has_a_span,
    ),
    (
        "a_collector_that_refuses_is_told_of_once",
        a_collector_that_refuses_is_told_of_once,
    ),
];

/// One post.
struct Post {
    line: String,
    headers: Headers,
    request: ExportTraceServiceRequest,
}

/// A collector that answers with `status`.
struct Collector {
    url: String,
    posts: Receiver<Post>,
}

impl Collector {
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let (sender, posts) = mpsc::channel();
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let sender = sender.clone();
                thread::spawn(move || take(socket, status, &sender));
            }
        });
        Self {
            url: format!("http://127.0.0.1:{port}"),
            posts,
        }
    }

    fn env(&self) -> [(&str, &str); 4] {
        [
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k%20v"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ]
    }

    /// The first span that is meant, with the post that it came in.
    #[track_caller]
    fn find(&self, is_meant: impl Fn(&Span) -> bool) -> (Post, Span) {
        loop {
            let post = self.posts.recv_timeout(PATIENCE).expect("spans are posted");
            let found = spans(&post.request).find(|span| is_meant(span)).cloned();
            if let Some(span) = found {
                return (post, span);
            }
        }
    }
}

fn spans(request: &ExportTraceServiceRequest) -> impl Iterator<Item = &Span> {
    let scopes = request.resource_spans.iter().flat_map(|it| &it.scope_spans);
    scopes.flat_map(|scope| &scope.spans)
}

fn take(socket: TcpStream, status: &str, posts: &Sender<Post>) {
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let mut headers = Headers::new();
    loop {
        let mut header = String::new();
        match reader.read_line(&mut header) {
            Ok(count) if count > 2 => {
                let (name, value) = header.split_once(':').expect("a header");
                headers.insert(name.to_lowercase(), value.trim().to_owned());
            }
            _ => break,
        }
    }
    let length = headers.get("content-length").and_then(|it| it.parse().ok());
    let mut body = vec![0; length.expect("the body's length is known")];
    reader.read_exact(&mut body).expect("the body comes");
    let request = ExportTraceServiceRequest::decode(&*body).expect("it is what it says");
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    let _ = reader.get_mut().write_all(answer.as_bytes());
    // The test may be over.
    let _ = posts.send(Post {
        line,
        headers,
        request,
    });
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|it| it.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

const REQUEST_ID: &str = "a-request-id-of-27-letters.";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A request, with an id and a caller's trace.
fn ask(server: &Server, method: &str, path: &str, host: &str, body: &[u8]) -> u16 {
    let bearer = format!("Bearer {}", token::of_role("service_role", 60));
    let headers = [
        ("host", host),
        ("x-request-id", REQUEST_ID),
        ("traceparent", PARENT),
        ("authorization", &*bearer),
        ("content-type", "application/json"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    match socket::request(server.address, method, path, &headers.into(), body) {
        Ok(Event::Upgrade { status, .. }) => status,
        other => panic!("{other:?} instead of an answer"),
    }
}

fn a_collector_gets_a_span_for_each_request() {
    let collector = Collector::start("200 OK");
    let tenants = [server::tenant("traced", &json!({}))];
    let server = Server::start(SETUP, &tenants, &collector.env());
    assert_eq!(
        ask(&server, "GET", "/api/ping", "traced.localhost", b""),
        200
    );
    let (post, span) = collector.find(|span| span.name == "GET /api/ping");
    assert_eq!(post.line, "POST /v1/traces HTTP/1.1\r\n");
    assert_eq!(post.headers["content-type"], "application/x-protobuf");
    assert_eq!(post.headers["api-key"], "k v");
    let resource = post.request.resource_spans[0]
        .resource
        .as_ref()
        .expect("it has one");
    assert_eq!(
        text(&resource.attributes, "service.name").as_deref(),
        Some("realtime")
    );
    let version = text(&resource.attributes, "service.version");
    assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(span.kind(), SpanKind::Server);
    for (key, expected) in [
        ("http.request.method", "GET"),
        ("http.route", "/api/ping"),
        ("http.response.status_code", "200"),
        ("request_id", REQUEST_ID),
        ("tenant", "traced"),
    ] {
        assert_eq!(
            text(&span.attributes, key).as_deref(),
            Some(expected),
            "{key}"
        );
    }
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert_eq!(hex(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&span.parent_span_id), "b7ad6b7169203331");
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    // A path that is no route stands in no name: there are too many of them.
    assert_eq!(
        ask(&server, "GET", "/no/such/route", "traced.localhost", b""),
        404
    );
    let status = |span: &Span| text(&span.attributes, "http.response.status_code");
    let (_, span) = collector.find(|span| status(span).as_deref() == Some("404"));
    assert_eq!(
        (&*span.name, text(&span.attributes, "http.route")),
        ("GET", None)
    );
}

fn the_last_spans_are_sent_before_the_end() {
    let collector = Collector::start("200 OK");
    let mut env = collector.env();
    env[3].1 = "3600000";
    let server = Server::start(SETUP, &[], &env);
    assert_eq!(
        ask(&server, "GET", "/api/nothing-but-this", "localhost", b""),
        404
    );
    server.terminate();
    assert_eq!(server.exit_code_within(PATIENCE), Some(0));
    let id = |span: &Span| text(&span.attributes, "request_id");
    collector.find(|span| id(span).as_deref() == Some(REQUEST_ID));
}

fn work_in_a_database_has_a_span() {
    let collector = Collector::start("200 OK");
    // Nobody listens there.
    let extension = json!({"type": "postgres_cdc_rls", "settings": {
        "region": "x", "db_host": "127.0.0.1", "db_port": "9", "db_name": "postgres",
        "db_user": "supabase_admin", "db_password": "postgres", "ssl_enforced": false
    }});
    let tenants = [server::tenant(
        "stored",
        &json!({"extensions": [extension]}),
    )];
    let server = Server::start(SETUP, &tenants, &collector.env());
    let body = br#"{"messages":[{"topic":"t","event":"e","payload":{},"private":true}]}"#;
    let _ = ask(&server, "POST", "/api/broadcast", "stored.localhost", body);
    let (_, span) = collector.find(|span| span.name == "check policies");
    assert_eq!(span.kind(), SpanKind::Client);
    assert_eq!(text(&span.attributes, "tenant").as_deref(), Some("stored"));
    let status = span.status.expect("it has failed");
    assert!(!status.message.is_empty(), "{status:?}");
}

fn a_collector_that_refuses_is_told_of_once() {
    let collector = Collector::start("401 Unauthorized");
    let server = Server::start(SETUP, &[], &collector.env());
    for _ in 0..3 {
        assert_eq!(ask(&server, "GET", "/healthcheck", "localhost", b""), 200);
        collector.find(|_| true);
    }
    wait_for_line(
        &server,
        "spans were not exported: the collector at 127.0.0.1:",
    );
    assert!(
        server.log().contains("it answered 401 Unauthorized"),
        "{}",
        server.log_end()
    );
    assert_eq!(server.log().matches("spans were not exported").count(), 1);
}
