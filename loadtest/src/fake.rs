//! A server for tests that knows just enough Phoenix, and can be told to do it wrong.
//!
//! In: connections of the harness. Out: joins answered, broadcasts relayed, with one kind of fault.
//! A thread reads each connection; one thread owns everything else, so that nothing is shared.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Sender};

use serde_json::Value;

use crate::codec;
use crate::dialect::Dialect;
use crate::link::Target;

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// The seventh delivery is forgotten, where it was sent.
    Loses,
    /// The seventh delivery is made twice, where it was sent.
    Doubles,
    /// The seventh and eighth message change places for everybody.
    Swaps,
    /// From the seventh message on, all wait until the 27th has come.
    Stalls,
    /// Every message goes to the members of all topics.
    Mixes,
    /// Joins are refused.
    Refuses,
    /// Joins are refused from the 21st on.
    RefusesLater,
    /// The seventh message closes its sender's connection.
    Closes,
    /// The seventh message closes the connection of somebody else than its sender.
    ClosesOther,
    /// Nobody is told who left.
    Stays,
    /// It never says that rows of the database are broadcast.
    NeverReady,
}

enum Event {
    Opened(TcpStream),
    Frame(u8, Vec<u8>),
    Row { topic: String, payload: String },
    Change { topic: String, payload: String },
    Ended,
}

/// The server's database: what is written there is broadcast.
#[derive(Clone)]
pub(crate) struct Rows(Sender<(usize, Event)>);

impl Rows {
    /// Writes one row; `payload` is JSON and is printed again as PostgreSQL does.
    pub(crate) fn insert(&self, topic: &str, payload: &str) {
        let value: serde_json::Map<String, Value> = serde_json::from_str(payload).unwrap();
        let keys = value.iter().rev();
        let pairs: Vec<String> = keys
            .map(|(key, value)| format!(r#""{key}": {value}"#))
            .collect();
        let event = Event::Row {
            topic: topic.to_owned(),
            payload: format!("{{{}}}", pairs.join(", ")),
        };
        // The server lives as long as the process.
        let _ = self.0.send((usize::MAX, event));
    }
}

impl Rows {
    /// Writes one row that the members of a topic are subscribed to.
    pub(crate) fn change(&self, topic: &str, payload: &str) {
        let event = Event::Change {
            topic: format!("realtime:{topic}"),
            payload: payload.to_owned(),
        };
        // The server lives as long as the process.
        let _ = self.0.send((usize::MAX, event));
    }
}

thread_local! {
    /// Whether this test has started a server that does something wrong.
    static IS_FAULTY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// How long nothing may happen in this test: where nothing is wrong, longer than a busy machine may take; where something is missing, this
/// is waited for.
pub(crate) fn stall() -> std::time::Duration {
    let is_faulty = IS_FAULTY.with(std::cell::Cell::get);
    std::time::Duration::from_millis(if is_faulty { 500 } else { 5000 })
}

/// Starts a server that lives as long as the test's process, and says how to reach it.
pub(crate) fn start(dialect: Dialect, fault: Fault) -> Target {
    start_with_rows(dialect, fault).0
}

/// The same with a database.
pub(crate) fn start_with_rows(dialect: Dialect, fault: Fault) -> (Target, Rows) {
    IS_FAULTY.with(|it| it.set(fault != Fault::None));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, events) = mpsc::channel();
    let rows = Rows(sender.clone());
    std::thread::spawn(move || {
        for (id, stream) in listener.incoming().enumerate() {
            let (sender, stream) = (sender.clone(), stream.unwrap());
            std::thread::spawn(move || read(id, &stream, &sender));
        }
    });
    std::thread::spawn(move || {
        let mut room = Room {
            dialect,
            fault,
            streams: HashMap::new(),
            members: Vec::new(),
            joins: 0,
            deliveries: 0,
            held_back: Vec::new(),
            presences: HashMap::new(),
        };
        while let Ok((id, event)) = events.recv() {
            room.on_event(id, event);
        }
    });
    (target(dialect, address), rows)
}

fn target(dialect: Dialect, address: SocketAddr) -> Target {
    Target {
        address,
        host: "load.localhost".to_owned(),
        path: "/socket/websocket".to_owned(),
        tokens: vec!["token".to_owned()],
        dialect,
        opens: None,
        first_topic: 0,
    }
}

/// Upgrades a connection and reports its frames, unmasked.
fn read(id: usize, stream: &TcpStream, events: &Sender<(usize, Event)>) {
    let mut bytes = Vec::new();
    let more = |bytes: &mut Vec<u8>| {
        let (mut buffer, mut stream) = ([0; 4096], stream);
        let count = stream.read(&mut buffer).unwrap_or(0);
        bytes.extend_from_slice(&buffer[..count]);
        count > 0
    };
    let end = loop {
        match memchr::memmem::find(&bytes, b"\r\n\r\n") {
            Some(end) => break end,
            None if more(&mut bytes) => {}
            None => return,
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    if head.starts_with("POST /api/broadcast ") {
        return answer_requests(stream, bytes, events);
    }
    let key = head.split("Sec-WebSocket-Key: ").nth(1).unwrap();
    let accept = codec::accept_of(key.split("\r\n").next().unwrap());
    let answer = format!("HTTP/1.1 101 Ok\r\nsec-websocket-accept: {accept}\r\n\r\n");
    let mut writer = stream;
    writer.write_all(answer.as_bytes()).unwrap();
    let _ = events.send((id, Event::Opened(stream.try_clone().unwrap())));
    bytes.drain(..end + 4);
    loop {
        while let Some((opcode, payload, end)) = client_frame(&bytes) {
            bytes.drain(..end);
            let _ = events.send((id, Event::Frame(opcode, payload)));
        }
        if !more(&mut bytes) {
            let _ = events.send((id, Event::Ended));
            return;
        }
    }
}

/// Takes the messages of one request after another.
fn answer_requests(mut stream: &TcpStream, mut bytes: Vec<u8>, events: &Sender<(usize, Event)>) {
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head.split("Content-Length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if let Some(body) = bytes.get(end + 4..end + 4 + length) {
                let body: Value = serde_json::from_slice(body).unwrap();
                for message in body["messages"].as_array().unwrap() {
                    let event = Event::Row {
                        topic: message["topic"].as_str().unwrap().to_owned(),
                        payload: message["payload"].to_string(),
                    };
                    let _ = events.send((usize::MAX, event));
                }
                bytes.drain(..end + 4 + length);
                stream
                    .write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
                    .unwrap();
                continue;
            }
        }
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}

fn client_frame(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (head, length) = match bytes.get(1)? & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        ),
        short => (2, usize::from(short)),
    };
    let mask = bytes.get(head..head + 4)?;
    let payload = bytes.get(head + 4..head + 4 + length)?;
    let unmasked = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask);
    Some((bytes[0] & 0x0f, unmasked.collect(), head + 4 + length))
}

fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..=125 => frame.push(length as u8),
        length => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

struct Room {
    dialect: Dialect,
    fault: Fault,
    streams: HashMap<usize, TcpStream>,
    /// Connections and their topics.
    members: Vec<(usize, String)>,
    joins: u32,
    deliveries: u32,
    held_back: Vec<(String, Vec<u8>)>,
    /// What connections have tracked.
    presences: HashMap<usize, Value>,
}

impl Room {
    fn on_event(&mut self, id: usize, event: Event) {
        match event {
            Event::Opened(stream) => {
                self.streams.insert(id, stream);
            }
            Event::Row { topic, payload } => self.on_row(&topic, &payload),
            Event::Change { topic, payload } => self.on_change(topic, &payload),
            Event::Frame(1, text) => self.on_text(id, &String::from_utf8(text).unwrap()),
            Event::Frame(2, bytes) => self.on_kind_3(id, &bytes),
            Event::Frame(..) | Event::Ended => {
                self.streams.remove(&id);
                self.members.retain(|(member, _)| *member != id);
            }
        }
    }

    fn on_text(&mut self, id: usize, text: &str) {
        let value: Value = serde_json::from_str(text).unwrap();
        let v1 = self.dialect == Dialect::V1;
        let field = |name: &str, index: usize| if v1 { &value[name] } else { &value[index] };
        let topic = field("topic", 2).as_str().unwrap().to_owned();
        let (event, payload) = (field("event", 3), field("payload", 4));
        if event == "broadcast" {
            let message = if v1 {
                format!(
                    r#"{{"event":"broadcast","payload":{payload},"ref":null,"topic":"{topic}"}}"#
                )
            } else {
                format!(r#"[null,null,"{topic}","broadcast",{payload}]"#)
            };
            return self.publish(id, topic, server_frame(1, message.as_bytes()));
        }
        let refs = (field("join_ref", 0), field("ref", 1));
        self.joins += u32::from(event == "phx_join");
        let refuses = match self.fault {
            Fault::Refuses => true,
            Fault::RefusesLater => self.joins > 20,
            _ => false,
        };
        let refused = refuses && event == "phx_join";
        let status = if refused { "error" } else { "ok" };
        let answer = format!(r#"{{"status":"{status}","response":{{"postgres_changes":[]}}}}"#);
        self.push(id, refs, &topic, "phx_reply", &answer);
        if event == "phx_join" && !refused {
            self.on_join(id, refs.0, &topic, &payload["config"]);
        } else if event == "presence" {
            self.on_presence(id, topic, Some(payload["payload"].clone()));
        } else if event == "phx_leave" {
            self.members.retain(|member| *member != (id, topic.clone()));
            self.on_presence(id, topic.clone(), None);
            self.push(id, (refs.0, refs.0), &topic, "phx_close", "{}");
        }
    }

    /// What a channel is told when it has joined (websocket-protocol 5.4).
    fn on_join(&mut self, id: usize, join_ref: &Value, topic: &str, config: &Value) {
        let broadcast = &config["broadcast"];
        let refs = (join_ref, &Value::Null);
        for number in 0..broadcast["replay"]["limit"].as_u64().unwrap_or(0) {
            let meta = format!(r#"{{"id":"{number}","replayed":true}}"#);
            let payload =
                format!(r#"{{"event":"m","meta":{meta},"payload":{{}},"type":"broadcast"}}"#);
            self.push(id, refs, topic, "broadcast", &payload);
        }
        if broadcast["replication_ready"] == true && self.fault != Fault::NeverReady {
            let payload = r#"{"extension":"system","message":"Replication connection established","status":"ok"}"#;
            self.push(id, refs, topic, "system", payload);
        }
        if config["postgres_changes"].is_array() && self.fault != Fault::NeverReady {
            let payload = r#"{"channel":"c","extension":"postgres_changes","message":"Subscribed to PostgreSQL","status":"ok"}"#;
            self.push(id, refs, topic, "system", payload);
        }
        self.members.push((id, topic.to_owned()));
    }

    /// Everybody is told what one is now and was before (websocket-protocol 8.2).
    fn on_presence(&mut self, id: usize, topic: String, meta: Option<Value>) {
        let before = match &meta {
            Some(meta) => self.presences.insert(id, meta.clone()),
            None => self.presences.remove(&id),
        };
        let part = |meta: &Option<Value>| match meta {
            Some(meta) => format!(r#"{{"{id}":{{"metas":[{meta}]}}}}"#),
            None => "{}".to_owned(),
        };
        if meta.is_none() && (before.is_none() || self.fault == Fault::Stays) {
            return;
        }
        let payload = format!(r#"{{"joins":{},"leaves":{}}}"#, part(&meta), part(&before));
        let text = if self.dialect == Dialect::V1 {
            format!(
                r#"{{"event":"presence_diff","payload":{payload},"ref":null,"topic":"{topic}"}}"#
            )
        } else {
            format!(r#"[null,null,"{topic}","presence_diff",{payload}]"#)
        };
        let first = self.first_of(&topic);
        self.publish(first, topic, server_frame(1, text.as_bytes()));
    }

    /// Writes a text frame as the channel itself would.
    fn push(&self, id: usize, refs: (&Value, &Value), topic: &str, event: &str, payload: &str) {
        let (join_ref, msg_ref) = refs;
        let text = if self.dialect == Dialect::V1 {
            format!(
                r#"{{"event":"{event}","payload":{payload},"ref":{msg_ref},"topic":"{topic}"}}"#
            )
        } else {
            format!(r#"[{join_ref},{msg_ref},"{topic}","{event}",{payload}]"#)
        };
        self.write(id, &server_frame(1, text.as_bytes()));
    }

    /// A row of the database goes out as a broadcast (broadcast-from-database 4), its payload as
    /// PostgreSQL prints it.
    fn on_row(&mut self, topic: &str, payload: &str) {
        let meta = r#"{"id":"5c3b1c1e-7a3d-4a55-9f6c-2f9a4f1f9d10"}"#;
        let topic = format!("realtime:{topic}");
        let frame = if self.dialect == Dialect::V1 {
            let payload =
                format!(r#"{{"event":"m","meta":{meta},"payload":{payload},"type":"broadcast"}}"#);
            server_frame(
                1,
                format!(
                    r#"{{"event":"broadcast","payload":{payload},"ref":null,"topic":"{topic}"}}"#
                )
                .as_bytes(),
            )
        } else {
            let sizes = [4, topic.len() as u8, 1, meta.len() as u8, 1];
            let text = format!("{topic}m{meta}{payload}");
            server_frame(2, &[&sizes, text.as_bytes()].concat())
        };
        let first = self.first_of(&topic);
        self.publish(first, topic, frame);
    }

    /// A row goes out as a change (postgres-changes 7.2).
    fn on_change(&mut self, topic: String, payload: &str) {
        let payload = format!(r#"{{"ids":[1],"data":{{"type":"INSERT","record":{payload}}}}}"#);
        let text = if self.dialect == Dialect::V1 {
            format!(
                r#"{{"topic":"{topic}","event":"postgres_changes","payload":{payload},"ref":null}}"#
            )
        } else {
            format!(r#"[null,null,"{topic}","postgres_changes",{payload}]"#)
        };
        let first = self.first_of(&topic);
        self.publish(first, topic, server_frame(1, text.as_bytes()));
    }

    /// Kind 3 comes in, kind 4 goes out (websocket-protocol 3.3).
    fn on_kind_3(&mut self, id: usize, bytes: &[u8]) {
        let [3, join_ref, msg_ref, topic, event, 0, 1, rest @ ..] = bytes else {
            panic!("not a user broadcast push: {bytes:?}");
        };
        let rest = &rest[usize::from(join_ref + msg_ref)..];
        let name = String::from_utf8(rest[..usize::from(*topic)].to_vec()).unwrap();
        let message = [&[4, *topic, *event, 0, 1], rest].concat();
        self.publish(id, name, server_frame(2, &message));
    }

    fn publish(&mut self, id: usize, topic: String, frame: Vec<u8>) {
        self.deliveries += 1;
        let odd = self.deliveries == 7;
        if odd && self.fault == Fault::ClosesOther {
            let others = self.members.iter().map(|(member, _)| *member);
            for other in others.filter(|other| *other != id).take(1) {
                self.write(other, &server_frame(8, &1013u16.to_be_bytes()));
                if let Some(stream) = self.streams.get(&other) {
                    // The harness may have gone home.
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
        }
        match self.fault {
            Fault::Swaps if odd => self.held_back.push((topic, frame)),
            Fault::Stalls if (7..27).contains(&self.deliveries) => {
                self.held_back.push((topic, frame));
            }
            Fault::Closes if odd => self.write(id, &server_frame(8, &1012u16.to_be_bytes())),
            _ => {
                let stalled = self.fault == Fault::Stalls;
                let mut now = std::mem::take(&mut self.held_back);
                // What was held back comes in its order after a stall, too late after a swap.
                now.insert(if stalled { now.len() } else { 0 }, (topic, frame));
                for (topic, frame) in now {
                    self.deliver(id, &topic, &frame, odd);
                }
            }
        }
    }

    fn first_of(&self, topic: &str) -> usize {
        let mut members = self.members.iter();
        members.find(|(_, of)| of == topic).map_or(0, |(id, _)| *id)
    }

    fn deliver(&self, id: usize, topic: &str, frame: &[u8], odd: bool) {
        let mixes = self.fault == Fault::Mixes;
        let loses = odd && self.fault == Fault::Loses;
        let to = self.members.iter().filter(|(member, of)| {
            let is_lost = loses && *member == id;
            (of == topic || mixes) && !is_lost
        });
        for (member, _) in to {
            self.write(*member, frame);
            if odd && *member == id && self.fault == Fault::Doubles {
                self.write(*member, frame);
            }
        }
    }

    fn write(&self, id: usize, frame: &[u8]) {
        if let Some(mut stream) = self.streams.get(&id) {
            // The harness may have gone home.
            let _ = stream.write_all(frame);
        }
    }
}
