//! Everything that the server for tests knows, and what it does wrong.
//!
//! In: what connections say, one after another. Out: frames to them.

use std::collections::HashMap;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dialect::Dialect;
use crate::stamp::Stamp;
use crate::tokens;

use super::Fault;
use super::wire::{Event, server_frame};

/// What a join, a leave and a heartbeat are answered.
const OK: &str = r#"{"status":"ok","response":{"postgres_changes":[]}}"#;

/// What is said of channels that are none.
const UNMATCHED: &str = r#"{"status":"error","response":{"reason":"unmatched topic"}}"#;

/// How late an answer comes that is late.
pub(super) const LATE: Duration = Duration::from_millis(150);

pub(super) struct Room {
    dialect: Dialect,
    fault: Fault,
    streams: HashMap<usize, TcpStream>,
    /// The tokens of their upgrades.
    tokens: HashMap<usize, String>,
    members: Vec<Member>,
    joins: u32,
    replays: u32,
    deliveries: u32,
    /// Joins that are to be answered later.
    late: Vec<(Instant, Join)>,
    held_back: Vec<(String, Vec<u8>)>,
    /// What connections have tracked.
    presences: HashMap<usize, Value>,
}

/// What somebody has asked for.
struct Join {
    id: usize,
    join_ref: Value,
    msg_ref: Value,
    topic: String,
    payload: Value,
}

/// A channel of a connection.
struct Member {
    id: usize,
    topic: String,
    join_ref: Value,
    /// When its token ends, since 1970, if it says so.
    ends: Option<Duration>,
}

impl Room {
    pub(super) fn new(dialect: Dialect, fault: Fault) -> Self {
        Self {
            dialect,
            fault,
            streams: HashMap::new(),
            tokens: HashMap::new(),
            members: Vec::new(),
            joins: 0,
            replays: 0,
            deliveries: 0,
            late: Vec::new(),
            held_back: Vec::new(),
            presences: HashMap::new(),
        }
    }

    pub(super) fn on_event(&mut self, id: usize, event: Event) {
        match event {
            Event::Opened(stream, token) => {
                self.streams.insert(id, stream);
                self.tokens.insert(id, token);
            }
            Event::Row { topic, payload } => self.on_row(&topic, &payload),
            Event::Change { topic, payload } => self.on_change(topic, &payload),
            Event::Frame(1, text) => self.on_text(id, &String::from_utf8(text).unwrap()),
            Event::Frame(2, bytes) => self.on_kind_3(id, &bytes),
            Event::Frame(..) | Event::Ended => {
                self.streams.remove(&id);
                self.members.retain(|member| member.id != id);
            }
        }
    }

    /// Does what is to be done at a time: late answers, and channels whose tokens have ended.
    pub(super) fn on_time(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.late)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.late = later;
        for (_, join) in due {
            self.answer(join);
        }
        let now = tokens::since_1970();
        let has_ended = |member: &Member| member.ends.is_some_and(|ends| ends < now);
        let (ended, stay) = std::mem::take(&mut self.members)
            .into_iter()
            .partition(has_ended);
        self.members = stay;
        for Member {
            id,
            topic,
            join_ref,
            ..
        } in ended
        {
            let system = r#"{"extension":"system","message":"Token has expired 0 seconds ago","status":"error"}"#;
            self.push(id, (&join_ref, &Value::Null), &topic, "system", system);
            self.push(id, (&join_ref, &join_ref), &topic, "phx_close", "{}");
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
        match event.as_str().unwrap() {
            "phx_join" => self.on_join(Join {
                id,
                join_ref: refs.0.clone(),
                msg_ref: refs.1.clone(),
                topic,
                payload: payload.clone(),
            }),
            "presence" if !self.is_member(id, &topic) => {
                self.push(id, refs, &topic, "phx_reply", UNMATCHED);
            }
            "presence" => {
                self.reply(id, refs, &topic);
                self.on_presence(id, topic, Some(payload["payload"].clone()));
            }
            "phx_leave" => {
                self.members
                    .retain(|member| member.id != id || member.topic != topic);
                self.on_presence(id, topic.clone(), None);
                self.reply(id, refs, &topic);
                self.push(id, (refs.0, refs.0), &topic, "phx_close", "{}");
            }
            "access_token" | "heartbeat" if self.fault == Fault::Forgets => {}
            "access_token" => {
                let ends = payload["access_token"].as_str().and_then(tokens::ends_at);
                let mut members = self.members.iter_mut();
                match members.find(|member| member.id == id && member.topic == topic) {
                    Some(member) => member.ends = ends,
                    None => self.push(id, refs, &topic, "phx_reply", UNMATCHED),
                }
            }
            _ => self.reply(id, refs, &topic),
        }
    }

    fn reply(&self, id: usize, refs: (&Value, &Value), topic: &str) {
        self.push(id, refs, topic, "phx_reply", OK);
    }

    fn is_member(&self, id: usize, topic: &str) -> bool {
        let mut members = self.members.iter();
        members.any(|member| member.id == id && member.topic == topic)
    }

    fn on_join(&mut self, join: Join) {
        self.joins += 1;
        let is_tenth = self.joins.is_multiple_of(10);
        match self.fault {
            Fault::Refuses => self.refuse(&join),
            Fault::RefusesLater if self.joins > 20 => self.refuse(&join),
            Fault::RefusesTenth if is_tenth => self.refuse(&join),
            Fault::AnswersLate if is_tenth => self.late.push((Instant::now() + LATE, join)),
            Fault::NeverAnswers if is_tenth => {}
            Fault::AnswersTwice if is_tenth => {
                let refs = (&join.join_ref, &join.msg_ref);
                self.reply(join.id, refs, &join.topic);
                self.answer(join);
            }
            Fault::HangsUp if is_tenth => {
                let id = join.id;
                self.answer(join);
                self.hang_up(id);
            }
            _ => self.answer(join),
        }
    }

    fn refuse(&self, join: &Join) {
        let refusal = r#"{"status":"error","response":{"reason":"No"}}"#;
        let refs = (&join.join_ref, &join.msg_ref);
        self.push(join.id, refs, &join.topic, "phx_reply", refusal);
    }

    /// Has somebody in a channel.
    fn answer(&mut self, join: Join) {
        let Join {
            id,
            join_ref,
            msg_ref,
            topic,
            payload,
        } = join;
        self.reply(id, (&join_ref, &msg_ref), &topic);
        let token = payload["access_token"].as_str();
        let token = token.or_else(|| self.tokens.get(&id).map(String::as_str));
        let ends = token.and_then(tokens::ends_at);
        self.greet(id, &join_ref, &topic, &payload["config"]);
        self.members.push(Member {
            id,
            topic,
            join_ref,
            ends,
        });
    }

    fn hang_up(&self, id: usize) {
        if let Some(stream) = self.streams.get(&id) {
            // The harness may have gone home.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// What a channel is told when it has joined (websocket-protocol 5.4).
    fn greet(&mut self, id: usize, join_ref: &Value, topic: &str, config: &Value) {
        let broadcast = &config["broadcast"];
        let refs = (join_ref, &Value::Null);
        if let Some(limit) = broadcast["replay"]["limit"].as_u64() {
            for number in self.replayed(limit as u32) {
                let meta = format!(r#"{{"id":"{number}","replayed":true}}"#);
                let mut payload = Vec::new();
                let stamp = Stamp {
                    sender: 0,
                    sequence: number,
                    at_ns: 0,
                };
                stamp.encode(0, &mut payload);
                let payload = String::from_utf8(payload).unwrap();
                let payload = format!(
                    r#"{{"event":"m","meta":{meta},"payload":{payload},"type":"broadcast"}}"#
                );
                self.push(id, refs, topic, "broadcast", &payload);
            }
        }
        if broadcast["replication_ready"] == true && self.fault != Fault::NeverReady {
            let payload = r#"{"extension":"system","message":"Replication connection established","status":"ok"}"#;
            self.push(id, refs, topic, "system", payload);
        }
        if config["postgres_changes"].is_array() && self.fault != Fault::NeverReady {
            let payload = r#"{"channel":"c","extension":"postgres_changes","message":"Subscribed to PostgreSQL","status":"ok"}"#;
            self.push(id, refs, topic, "system", payload);
        }
    }

    /// The numbers of the messages that a join gets again; the seventh gets something else.
    fn replayed(&mut self, limit: u32) -> Vec<u32> {
        self.replays += 1;
        let mut numbers: Vec<u32> = (0..limit).collect();
        match self.fault {
            Fault::Loses if self.replays == 7 => drop(numbers.remove(1)),
            Fault::Doubles if self.replays == 7 => numbers.insert(1, 0),
            Fault::Swaps if self.replays == 7 => numbers.swap(0, 1),
            _ => {}
        }
        numbers
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
        self.write(id, &self.frame(refs, topic, event, payload));
    }

    fn frame(&self, refs: (&Value, &Value), topic: &str, event: &str, payload: &str) -> Vec<u8> {
        let (join_ref, msg_ref) = refs;
        let text = if self.dialect == Dialect::V1 {
            format!(
                r#"{{"event":"{event}","payload":{payload},"ref":{msg_ref},"topic":"{topic}"}}"#
            )
        } else {
            format!(r#"[{join_ref},{msg_ref},"{topic}","{event}",{payload}]"#)
        };
        server_frame(1, text.as_bytes())
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
        let is_first = matches!(self.fault, Fault::LosesFirst | Fault::DoublesFirst);
        let odd = self.deliveries == if is_first { 1 } else { 7 };
        if odd && self.fault == Fault::ClosesOther {
            let others = self.members.iter().map(|member| member.id);
            for other in others.filter(|other| *other != id).take(1) {
                self.write(other, &server_frame(8, &1013u16.to_be_bytes()));
                self.hang_up(other);
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
        let first = members.find(|member| member.topic == topic);
        first.map_or(0, |member| member.id)
    }

    fn deliver(&self, id: usize, topic: &str, frame: &[u8], odd: bool) {
        let mixes = self.fault == Fault::Mixes;
        for member in &self.members {
            let is_odd = odd && member.id == id;
            let loses = matches!(self.fault, Fault::Loses | Fault::LosesFirst);
            let doubles = matches!(self.fault, Fault::Doubles | Fault::DoublesFirst);
            if member.topic != topic && !mixes || is_odd && loses {
                continue;
            }
            self.write(member.id, frame);
            if is_odd && doubles {
                self.write(member.id, frame);
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
