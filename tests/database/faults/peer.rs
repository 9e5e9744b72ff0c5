//! A client of version 2.0.0 that takes messages one by one and waits patiently: what comes between is kept for later.
//!
//! A broadcast of kind 4 shows like one of text, `{"event", "payload", "meta"}`, so that a test need not care which came.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clock;
use crate::server::Server;
use crate::socket::{Event, Headers, Writer};

/// Longest wait for an answer: connecting takes 15 s at most, a query as long, and the machine is busy.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// A message of the server.
#[derive(Clone, Debug)]
pub struct Message {
    pub msg_ref: Value,
    pub topic: String,
    pub event: String,
    pub payload: Value,
}

/// One WebSocket.
pub struct Peer {
    writer: Writer,
    events: Receiver<Event>,
    refs: u32,
    /// Came while something else was waited for.
    kept: VecDeque<Message>,
}

impl Peer {
    /// A socket of `tenant` with this token.
    pub fn connect(server: &Server, tenant: &str, token: &str) -> Self {
        let mut writer = Writer::connect(server.address).expect("the server accepts");
        let (sender, events) = mpsc::channel();
        writer.read_into(move |event| sender.send(event).is_ok());
        let path = format!("/socket/websocket?vsn=2.0.0&apikey={token}");
        let host = format!("{tenant}.localhost");
        writer
            .upgrade(&path, &host, &Headers::new())
            .expect("the server reads");
        let answer = events
            .recv_timeout(PATIENCE)
            .expect("an upgrade is answered");
        assert!(
            matches!(answer, Event::Upgrade { status: 101, .. }),
            "{answer:?}"
        );
        let (refs, kept) = (0, VecDeque::new());
        Self {
            writer,
            events,
            refs,
            kept,
        }
    }

    /// Sends a message that belongs to the topic's join and returns its `ref`.
    pub fn push(&mut self, topic: &str, event: &str, payload: &Value) -> String {
        self.refs += 1;
        let msg_ref = self.refs.to_string();
        self.text(&json!([topic, msg_ref, topic, event, payload]));
        msg_ref
    }

    fn text(&mut self, message: &Value) {
        self.writer
            .text(&message.to_string())
            .expect("the server reads");
    }

    /// Sends a join, whose `join_ref` is the topic, and does not wait.
    pub fn start_join(&mut self, topic: &str, config: &Value) {
        self.text(&json!([topic, format!("join {topic}"), topic, "phx_join", {"config": config}]));
    }

    /// The answer to a join: the reason of a refusal.
    pub fn joined(&mut self, topic: &str) -> Result<(), String> {
        let msg_ref = json!(format!("join {topic}"));
        let reply = self.wait_for(PATIENCE, |message| {
            message.event == "phx_reply" && message.msg_ref == msg_ref
        });
        let reply = reply.unwrap_or_else(|| panic!("the join of {topic} was not answered"));
        match reply.payload["response"]["reason"].as_str() {
            None if reply.payload["status"] == "ok" => Ok(()),
            reason => Err(reason.unwrap_or_default().to_owned()),
        }
    }

    /// Joins a private channel.
    pub fn join(&mut self, topic: &str) -> Result<(), String> {
        self.start_join(
            topic,
            &json!({"private": true, "broadcast": {"self": true}}),
        );
        self.joined(topic)
    }

    /// Joins again and again, because of faults that may take a moment to be over. Panics with the last reason after `deadline`.
    pub fn join_at_last(&mut self, topic: &str, deadline: Duration) {
        let start = clock::now();
        while let Err(reason) = self.join(topic) {
            assert!(
                start.elapsed() < deadline,
                "after {deadline:?} {topic} is still refused: {reason}"
            );
        }
    }

    /// Joins a private channel and waits until rows are streamed.
    pub fn join_streamed(&mut self, topic: &str) {
        self.start_join(
            topic,
            &json!({"private": true, "broadcast": {"replication_ready": true}}),
        );
        assert_eq!(self.joined(topic), Ok(()));
        let ready = self.wait_for(Duration::from_secs(60), |message| {
            message.event == "system" && message.topic == topic
        });
        let ready = ready.unwrap_or_else(|| panic!("{topic} was not told that rows are streamed"));
        assert_eq!(ready.payload["status"], "ok", "{ready:?}");
    }

    /// The next message that `fits`; the others are kept. Nothing when none came in time.
    pub fn wait_for(
        &mut self,
        timeout: Duration,
        mut fits: impl FnMut(&Message) -> bool,
    ) -> Option<Message> {
        if let Some(index) = self.kept.iter().position(&mut fits) {
            return self.kept.remove(index);
        }
        let deadline = clock::now() + timeout;
        loop {
            let message = self.receive(deadline)?;
            if fits(&message) {
                return Some(message);
            }
            self.kept.push_back(message);
        }
    }

    /// The next broadcast of `topic`: what its sender sent, with the id where it has one.
    pub fn broadcast(&mut self, topic: &str, timeout: Duration) -> Option<Value> {
        let broadcast = self.wait_for(timeout, |message| {
            message.event == "broadcast" && message.topic == topic
        });
        broadcast.map(|message| message.payload)
    }

    /// The code with which the server closes the socket, whatever it says before. None when it does not in time.
    pub fn closed(&mut self, timeout: Duration) -> Option<u16> {
        let deadline = clock::now() + timeout;
        loop {
            match self.events.recv_timeout(clock::left(deadline)).ok()? {
                Event::Close { code, .. } => return Some(code),
                Event::End => return None,
                _ => {}
            }
        }
    }

    /// What comes next. A socket that ends is a failure of the test.
    fn receive(&mut self, deadline: Instant) -> Option<Message> {
        loop {
            let event = self.events.recv_timeout(clock::left(deadline)).ok()?;
            match event {
                Event::Text(text) => {
                    let mut parts: [Value; 5] =
                        serde_json::from_str(&text).expect("a message has five parts");
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let (topic, event) = (text(&parts[2]), text(&parts[3]));
                    let (msg_ref, payload) = (parts[1].take(), parts[4].take());
                    return Some(Message {
                        msg_ref,
                        topic,
                        event,
                        payload,
                    });
                }
                Event::Binary(bytes) => {
                    return Some(of_kind_4(&bytes).expect("a broadcast of kind 4"));
                }
                Event::Ping(_) | Event::Pong(_) => {}
                end => panic!("the server ended the socket: {end:?}"),
            }
        }
    }
}

/// The sizes of topic, event and metadata and the encoding stand before them. An event is 1 for JSON.
fn of_kind_4(bytes: &[u8]) -> Option<Message> {
    let [4, topic, event, metadata, encoding, rest @ ..] = bytes else {
        return None;
    };
    let (topic, rest) = rest.split_at_checked((*topic).into())?;
    let (event, rest) = rest.split_at_checked((*event).into())?;
    let (metadata, body) = rest.split_at_checked((*metadata).into())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let body = match encoding {
        1 => serde_json::from_slice(body).ok()?,
        _ => json!(body),
    };
    let metadata: Value = serde_json::from_slice(metadata).unwrap_or(Value::Null);
    Some(Message {
        msg_ref: Value::Null,
        topic: text(topic),
        event: "broadcast".to_owned(),
        payload: json!({"event": text(event), "payload": body, "meta": metadata}),
    })
}
