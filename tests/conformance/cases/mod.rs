//! Directed tests: one sentence each about what the server must do, beyond what the recordings show.
//!
//! A test gets a [`Context`]: the setup's server and a tenant of its own with the limits it asked for. It opens [`Client`]s,
//! which are strict: the next thing that comes must be the thing that is asked for. Silence is tested without waiting, by a
//! message sent afterwards that must be the next one to arrive.

use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clock;
use crate::compare::{self, Pairs};
use crate::server::{Server, Setup};
use crate::socket::{self, Event, Headers, Writer};
use crate::token;

mod broadcast;
mod fragmentation;
mod frames;
mod hostile;
mod http;
mod join;
mod limits;
mod metrics;
mod pages;
mod presence;
mod routing;
mod tenants;
mod token_events;
mod upgrade;

/// One test.
pub struct Case {
    /// A sentence that is true when it passes.
    pub name: &'static str,
    /// Attributes of its tenant, beyond the default ones.
    pub limits: fn() -> Value,
    pub run: fn(&Context<'_>),
}

/// All of them; those that load the machine come last.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let rooms = [
        upgrade::CASES,
        frames::CASES,
        routing::CASES,
        join::CASES,
        token_events::CASES,
        broadcast::CASES,
        presence::CASES,
        limits::CASES,
        http::CASES,
        metrics::CASES,
        pages::CASES,
        tenants::CASES,
        fragmentation::CASES,
        hostile::CASES,
    ];
    rooms.into_iter().flatten()
}

/// Whether `case` loads the machine so much that what is timed beside it would come late.
pub fn is_heavy(case: &Case) -> bool {
    hostile::CASES.iter().any(|heavy| heavy.name == case.name)
}

/// What a test works with.
pub struct Context<'a> {
    pub server: &'a Server,
    pub setup: Setup,
    pub tenant: String,
}

/// Nothing that works takes longer, on a busy machine and with the 5 s that a refusal takes.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The versions of the protocol.
pub const V1: &str = "1.0.0";
pub const V2: &str = "2.0.0";

impl Context<'_> {
    pub fn host(&self) -> String {
        format!("{}.localhost", self.tenant)
    }

    /// A client of version `vsn` with a good token.
    pub fn connect(&self, vsn: &str) -> Client {
        self.connect_with(vsn, &token::good())
    }

    pub fn connect_with(&self, vsn: &str, token: &str) -> Client {
        let mut client = self.open(
            &format!("/socket/websocket?vsn={vsn}&apikey={token}"),
            &Headers::new(),
        );
        let answer = client.next();
        assert!(
            matches!(answer, Event::Upgrade { status: 101, .. }),
            "the upgrade was answered by {answer:?}"
        );
        client.vsn_1 = vsn.starts_with('1');
        client
    }

    /// Sends an upgrade; its answer is the client's first event.
    pub fn open(&self, path: &str, headers: &Headers) -> Client {
        let mut client = self.dial();
        client
            .writer()
            .upgrade(path, &self.host(), headers)
            .expect("the server reads a head");
        client
    }

    /// A client that has joined `topic` with this `config`.
    pub fn joined(&self, vsn: &str, topic: &str, config: &Value) -> Client {
        let mut client = self.connect(vsn);
        client.join(topic, config);
        client
    }

    /// A connection on which nothing was sent.
    pub fn dial(&self) -> Client {
        let writer = Writer::connect(self.server.address).expect("the server accepts");
        let (sender, events) = mpsc::channel();
        writer.read_into(move |event| sender.send((event, clock::now())).is_ok());
        Client {
            writer: Some(writer),
            events,
            vsn_1: false,
            refs: 0,
        }
    }

    /// One HTTP request to the tenant.
    pub fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Event {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut headers: Headers = headers.iter().map(own).collect();
        headers
            .entry("host".to_owned())
            .or_insert_with(|| self.host());
        socket::request(self.server.address, method, path, &headers, body)
            .expect("the server answers")
    }

    /// The page of metrics.
    pub fn metrics(&self) -> String {
        let header = json!({"alg": "HS256", "typ": "JWT"});
        let token = token::sign_with(&header, &json!({}), token::METRICS_SECRET);
        let headers = [("authorization", &*format!("Bearer {token}"))];
        let page = match self.http("GET", "/metrics", &headers, b"") {
            Event::Upgrade {
                status: 200,
                headers,
                body,
            } if headers["content-type"] == "text/plain; charset=utf-8" => body,
            other => panic!("{other:?} instead of metrics"),
        };
        assert_eq!(page.matches("# EOF\n").count(), 2, "{page}");
        page
    }

    /// The value of the first series of this metric that is about this tenant.
    pub fn metric(&self, name: &str) -> Option<String> {
        let (start, end) = (format!("{name}{{"), format!("tenant=\"{}\"}}", self.tenant));
        self.metrics().lines().find_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.starts_with(&start) && series.ends_with(&end)).then(|| value.to_owned())
        })
    }
}

/// One WebSocket.
pub struct Client {
    writer: Option<Writer>,
    events: Receiver<(Event, Instant)>,
    vsn_1: bool,
    /// The last `ref` used.
    refs: u32,
}

impl Client {
    pub fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().expect("it was not aborted")
    }

    /// What comes next.
    #[track_caller]
    pub fn next(&mut self) -> Event {
        self.next_within(TIMEOUT).0
    }

    /// What comes next, and when it came.
    #[track_caller]
    pub fn next_within(&mut self, timeout: Duration) -> (Event, Instant) {
        self.events
            .recv_timeout(timeout)
            .unwrap_or_else(|_| panic!("nothing came within {timeout:?}"))
    }

    /// What comes next within `timeout`, and when it came.
    pub fn try_next(&mut self, timeout: Duration) -> Option<(Event, Instant)> {
        self.events.recv_timeout(timeout).ok()
    }

    /// Sends a message of five parts in the client's version.
    pub fn send(
        &mut self,
        join_ref: &Value,
        msg_ref: &Value,
        topic: &str,
        event: &str,
        payload: &Value,
    ) {
        let text = if self.vsn_1 {
            json!({"topic": topic, "event": event, "payload": payload, "ref": msg_ref, "join_ref": join_ref})
        } else {
            json!([join_ref, msg_ref, topic, event, payload])
        };
        self.text(&text.to_string());
    }

    pub fn text(&mut self, text: &str) {
        self.writer().text(text).expect("the server reads");
    }

    pub fn binary(&mut self, bytes: &[u8]) {
        self.writer().binary(bytes).expect("the server reads");
    }

    /// Sends `event` on `topic` as the client libraries do, and returns the `ref`. The `join_ref` is that of [`Self::join`].
    pub fn push(&mut self, topic: &str, event: &str, payload: &Value) -> String {
        self.refs += 1;
        let msg_ref = self.refs.to_string();
        self.send(&json!("j"), &json!(msg_ref), topic, event, payload);
        msg_ref
    }

    /// Joins `topic` and expects an ok reply without subscriptions.
    #[track_caller]
    pub fn join(&mut self, topic: &str, config: &Value) {
        self.send(
            &json!("j"),
            &json!("j"),
            topic,
            "phx_join",
            &json!({"config": config}),
        );
        self.expect_reply("j", topic, "ok", &json!({"postgres_changes": []}));
    }

    /// Joins `topic` and expects the refusal `reason`; returns how long it took.
    #[track_caller]
    pub fn join_refused(&mut self, topic: &str, payload: &Value, reason: &str) -> Duration {
        let start = clock::now();
        self.send(&json!("r"), &json!("r"), topic, "phx_join", payload);
        let (event, at) = self.next_within(TIMEOUT);
        self.compare(
            &event,
            "r",
            "r",
            topic,
            "phx_reply",
            &json!({"status": "error", "response": {"reason": reason}}),
        );
        at - start
    }

    /// The next message is a reply to `msg_ref` on a channel joined by [`Self::join`].
    #[track_caller]
    pub fn expect_reply(&mut self, msg_ref: &str, topic: &str, status: &str, response: &Value) {
        let event = self.next();
        self.compare(
            &event,
            "j",
            msg_ref,
            topic,
            "phx_reply",
            &json!({"status": status, "response": response}),
        );
    }

    /// The next message is a push of the channel joined by [`Self::join`].
    #[track_caller]
    pub fn expect_push(&mut self, topic: &str, event: &str, payload: &Value) {
        let next = self.next();
        self.compare_refs(&next, &json!("j"), &Value::Null, topic, event, payload);
    }

    /// The next message is a `phx_close` of the channel joined by [`Self::join`].
    #[track_caller]
    pub fn expect_closed(&mut self, topic: &str) {
        let next = self.next();
        self.compare(&next, "j", "j", topic, "phx_close", &json!({}));
    }

    /// The next messages shut the channel down: `system` with `message`, then `phx_close`.
    #[track_caller]
    pub fn expect_shutdown(&mut self, topic: &str, message: &str) {
        let channel = topic.strip_prefix("realtime:").expect("a channel's topic");
        let payload = json!({"message": message, "status": "error", "extension": "system", "channel": channel});
        self.expect_push(topic, "system", &payload);
        self.expect_closed(topic);
    }

    /// The next message came by fan-out.
    #[track_caller]
    pub fn expect_fanout(&mut self, topic: &str, event: &str, payload: &Value) {
        let next = self.next();
        self.compare_refs(&next, &Value::Null, &Value::Null, topic, event, payload);
    }

    /// The next frame is this binary one.
    #[track_caller]
    pub fn expect_binary(&mut self, bytes: &[u8]) {
        assert_eq!(self.next(), Event::Binary(bytes.to_vec()));
    }

    /// The next two messages are the client's own broadcast and its ack, in any order (specification, section 6.2).
    #[track_caller]
    pub fn expect_both(&mut self, topic: &str, payload: &Value, msg_ref: &str) {
        let (first, second) = (self.next(), self.next());
        let is_reply = compare::lane(&first).1 == "channel";
        let (reply, broadcast) = if is_reply {
            (first, second)
        } else {
            (second, first)
        };
        self.compare(
            &reply,
            "j",
            msg_ref,
            topic,
            "phx_reply",
            &json!({"status": "ok", "response": {}}),
        );
        self.compare_refs(
            &broadcast,
            &Value::Null,
            &Value::Null,
            topic,
            "broadcast",
            payload,
        );
    }

    /// The next message is this JSON, whatever the order of its keys.
    #[track_caller]
    pub fn expect_message(&mut self, expected: &str) {
        let next = self.next();
        if let Err(difference) = compare::events(
            &Event::Text(expected.to_owned()),
            &next,
            &mut Pairs::default(),
        ) {
            panic!("{difference}\n  got {next:?}\n  for {expected}");
        }
    }

    /// The next message, parsed, however it is encoded.
    #[track_caller]
    pub fn next_json(&mut self) -> Value {
        match self.next() {
            Event::Text(text) => {
                serde_json::from_str(&text).expect("a text frame of the server is JSON")
            }
            other => panic!("{other:?} is no text"),
        }
    }

    /// Nothing comes for so long. For what takes time by nature only; otherwise [`Self::expect_alive`] says the same at once.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        if let Ok((event, _)) = self.events.recv_timeout(time) {
            panic!("{event:?} came");
        }
    }

    /// The connection is closed with `code` and no reason, and ends.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) {
        assert_eq!(
            self.next(),
            Event::Close {
                code,
                reason: String::new()
            }
        );
        assert_eq!(self.next(), Event::End);
    }

    /// Nothing has come that was not asked for: the answer to a heartbeat is the next thing that does.
    #[track_caller]
    pub fn expect_alive(&mut self) {
        self.refs += 1;
        let msg_ref = format!("alive-{}", self.refs);
        self.send(
            &Value::Null,
            &json!(msg_ref),
            "phoenix",
            "heartbeat",
            &json!({}),
        );
        let next = self.next();
        let payload = json!({"status": "ok", "response": {}});
        self.compare_refs(
            &next,
            &Value::Null,
            &json!(msg_ref),
            "phoenix",
            "phx_reply",
            &payload,
        );
    }

    /// Closes with 1000; the server does the same.
    #[track_caller]
    pub fn close(&mut self) {
        self.writer().close(1000).expect("the server reads");
        self.expect_close(1000);
    }

    /// Resets the connection.
    pub fn abort(&mut self) {
        self.writer.take().expect("it was not aborted").abort();
    }

    #[track_caller]
    fn compare(
        &self,
        actual: &Event,
        join_ref: &str,
        msg_ref: &str,
        topic: &str,
        event: &str,
        payload: &Value,
    ) {
        self.compare_refs(
            actual,
            &json!(join_ref),
            &json!(msg_ref),
            topic,
            event,
            payload,
        );
    }

    /// `actual` is this message in the client's version: 1.0.0 has no join_ref, and exactly four keys.
    #[track_caller]
    fn compare_refs(
        &self,
        actual: &Event,
        join_ref: &Value,
        msg_ref: &Value,
        topic: &str,
        event: &str,
        payload: &Value,
    ) {
        let expected = if self.vsn_1 {
            json!({"topic": topic, "event": event, "payload": payload, "ref": msg_ref})
        } else {
            json!([join_ref, msg_ref, topic, event, payload])
        };
        let expected = Event::Text(expected.to_string());
        if let Err(difference) = compare::events(&expected, actual, &mut Pairs::default()) {
            panic!("{difference}\n  got {actual:?}\n  for {expected:?}");
        }
    }
}

/// Default limits.
fn none() -> Value {
    json!({})
}
