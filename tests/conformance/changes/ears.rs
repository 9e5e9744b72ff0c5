//! A client that joins topics for row changes and sorts what it hears by topic.
//!
//! Everything that comes is looked at strictly: text frames only, the parts and keys that the protocol names and no others,
//! no refs on a change. What comes on one topic stays in its order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::cases::{Client, Context, V1};
use crate::clock;
use crate::compare::is_timestamp;
use crate::socket::Event;
use crate::token;

/// What every new-style join asks for too: rows that mark the end of something.
pub fn probe() -> Value {
    json!({"event": "INSERT", "schema": "probe", "table": "mark"})
}

/// The client.
pub struct Ears {
    client: Client,
    vsn_1: bool,
    refs: u32,
    join_refs: BTreeMap<String, String>,
    heard: BTreeMap<String, VecDeque<Heard>>,
    /// When something was sent last.
    sent_at: Instant,
}

/// A message of a channel.
#[derive(Clone, Debug)]
pub struct Heard {
    pub join_ref: Value,
    pub msg_ref: Value,
    pub event: String,
    pub payload: Value,
    pub at: Instant,
}

/// A change as a client gets it.
#[derive(Clone, Debug)]
pub struct Change {
    /// None in the old style.
    pub ids: Option<BTreeSet<u64>>,
    pub data: Value,
}

impl Change {
    /// Whether it is a row of the probe's table, which marks the end.
    pub fn is_probe(&self) -> bool {
        self.data["schema"] == "probe"
    }
}

impl Ears {
    /// A client of version `vsn` with a good token.
    pub fn new(context: &Context<'_>, vsn: &str) -> Self {
        Self {
            client: context.connect_with(vsn, &token::of_role("service_role", 3600)),
            vsn_1: vsn == V1,
            refs: 0,
            join_refs: BTreeMap::new(),
            heard: BTreeMap::new(),
            sent_at: clock::now(),
        }
    }

    /// Sends a join; the payload is sent as it is.
    pub fn send_join(&mut self, topic: &str, payload: &Value) {
        let join_ref = self.next_ref();
        self.join_refs.insert(topic.to_owned(), join_ref.clone());
        self.client.send(
            &json!(join_ref),
            &json!(join_ref),
            topic,
            "phx_join",
            payload,
        );
    }

    /// Joins with these entries and the probe, as whoever the token says, and is subscribed. Returns the entries' ids.
    #[track_caller]
    pub fn subscribe(&mut self, topic: &str, entries: &[Value], token: &str) -> Vec<u64> {
        let ids = self.join(topic, entries, token, &json!({}));
        self.subscribed(topic);
        ids
    }

    /// Joins with these entries, the probe and more `config`; the reply is ok. Returns the entries' ids.
    #[track_caller]
    pub fn join(
        &mut self,
        topic: &str,
        entries: &[Value],
        token: &str,
        config: &Value,
    ) -> Vec<u64> {
        let mut entries = entries.to_vec();
        entries.push(probe());
        let mut config = config.clone();
        config["postgres_changes"] = json!(entries);
        let payload = json!({"config": config, "access_token": token});
        self.send_join(topic, &payload);
        let mut ids = self.joined(topic, &entries);
        ids.pop();
        ids
    }

    /// The next message on `topic` is the ok reply to its join, which gives `entries` back in order, each with an id.
    #[track_caller]
    pub fn joined(&mut self, topic: &str, entries: &[Value]) -> Vec<u64> {
        let reply = self.reply(topic);
        assert_eq!(reply["status"], "ok", "{topic}: {reply}");
        let list = reply["response"]["postgres_changes"].as_array();
        let list = list.unwrap_or_else(|| panic!("{topic}: no subscriptions in {reply}"));
        let ids: Vec<u64> = list.iter().map(id_of).collect();
        let echo: Vec<Value> = list
            .iter()
            .map(|entry| {
                let mut entry = entry.clone();
                entry.as_object_mut().expect("it has an id").remove("id");
                entry
            })
            .collect();
        assert_eq!(
            echo, entries,
            "{topic}: the entries are given back as they were sent"
        );
        ids
    }

    /// The next message on `topic` says that it is subscribed.
    #[track_caller]
    pub fn subscribed(&mut self, topic: &str) -> Heard {
        let heard = self.next_on(topic);
        self.check_system(topic, &heard, "ok", "Subscribed to PostgreSQL");
        heard
    }

    /// The next message on `topic` says that it is not, with this text.
    #[track_caller]
    pub fn not_subscribed(&mut self, topic: &str, text: &str) {
        let heard = self.next_on(topic);
        self.check_system(topic, &heard, "error", text);
    }

    #[track_caller]
    fn check_system(&self, topic: &str, heard: &Heard, status: &str, text: &str) {
        let channel = topic.strip_prefix("realtime:").expect("a channel's topic");
        let payload = json!({"extension": "postgres_changes", "status": status, "message": text, "channel": channel});
        assert_eq!(
            (heard.event.as_str(), &heard.payload),
            ("system", &payload),
            "{topic}"
        );
        assert_eq!(heard.msg_ref, Value::Null, "{topic}");
        if !self.vsn_1 {
            assert_eq!(heard.join_ref, json!(self.join_refs[topic]), "{topic}");
        }
    }

    /// The next message on `topic` is a reply; its payload.
    #[track_caller]
    pub fn reply(&mut self, topic: &str) -> Value {
        let heard = self.next_on(topic);
        assert_eq!(heard.event, "phx_reply", "{topic}: {heard:?}");
        heard.payload
    }

    /// The next message on `topic` is a change.
    #[track_caller]
    pub fn change(&mut self, topic: &str) -> Change {
        let heard = self.next_on(topic);
        read_change(topic, heard)
    }

    /// All changes on `topic` up to the next row of the probe.
    #[track_caller]
    pub fn changes(&mut self, topic: &str) -> Vec<Change> {
        let mut changes = Vec::new();
        loop {
            let change = self.change(topic);
            if change.is_probe() {
                return changes;
            }
            changes.push(change);
        }
    }

    /// The ids of the rows that changes on `topic` say, up to the next row of the probe. Meanwhile the channel may be told that it
    /// is subscribed again.
    #[track_caller]
    pub fn rows_told(&mut self, topic: &str) -> Vec<Value> {
        let mut ids = Vec::new();
        loop {
            let heard = self.next_on(topic);
            if heard.event == "system" {
                self.check_system(topic, &heard, "ok", "Subscribed to PostgreSQL");
                continue;
            }
            let change = read_change(topic, heard);
            if change.is_probe() {
                return ids;
            }
            ids.push(change.data["record"]["id"].clone());
        }
    }

    /// The changes of `topic` that have come so far. Whoever asks knows by something else that all have.
    #[track_caller]
    pub fn changes_so_far(&mut self, topic: &str) -> Vec<Change> {
        let heard = self.heard.remove(topic).unwrap_or_default();
        heard
            .into_iter()
            .map(|heard| read_change(topic, heard))
            .collect()
    }

    /// Nothing more has come on `topic`.
    #[track_caller]
    pub fn nothing_on(&self, topic: &str) {
        let heard = self.heard.get(topic);
        assert!(heard.is_none_or(VecDeque::is_empty), "{topic}: {heard:?}");
    }

    /// Leaves `topic`, which is answered and closed.
    #[track_caller]
    pub fn leave(&mut self, topic: &str) {
        self.push(topic, "phx_leave", &json!({}));
        assert_eq!(self.reply(topic)["status"], "ok", "{topic}");
        assert_eq!(self.next_on(topic).event, "phx_close", "{topic}");
    }

    /// Sends `event` on a joined topic.
    pub fn push(&mut self, topic: &str, event: &str, payload: &Value) {
        let (join_ref, msg_ref) = (json!(self.join_refs[topic]), json!(self.next_ref()));
        self.client.send(&join_ref, &msg_ref, topic, event, payload);
    }

    /// What comes next on `topic`.
    #[track_caller]
    pub fn next_on(&mut self, topic: &str) -> Heard {
        self.try_next_on(topic, PATIENCE)
            .unwrap_or_else(|| panic!("nothing came on {topic}; elsewhere: {:?}", self.heard))
    }

    /// What comes next on `topic` within `patience`, or nothing.
    #[track_caller]
    pub fn try_next_on(&mut self, topic: &str, patience: Duration) -> Option<Heard> {
        let deadline = clock::now() + patience;
        loop {
            if let Some(heard) = self.heard.get_mut(topic).and_then(VecDeque::pop_front) {
                return Some(heard);
            }
            self.beat();
            let left = clock::left(deadline);
            let Some((event, at)) = self.client.try_next(left.min(BEAT)) else {
                if left <= BEAT {
                    return None;
                }
                continue;
            };
            let (topic, heard) = self.read(&event, at);
            self.heard.entry(topic).or_default().push_back(heard);
        }
    }

    /// A client that is silent for a minute is disconnected. The answers are heard on `phoenix`.
    fn beat(&mut self) {
        if self.sent_at.elapsed() >= BEAT {
            self.sent_at = clock::now();
            let msg_ref = json!(self.next_ref());
            self.client
                .send(&Value::Null, &msg_ref, "phoenix", "heartbeat", &json!({}));
        }
    }

    /// A message of the server in the client's version: topic and the rest.
    #[track_caller]
    fn read(&self, event: &Event, at: Instant) -> (String, Heard) {
        let Event::Text(text) = event else {
            panic!("{event:?} is no text frame");
        };
        let value: Value = serde_json::from_str(text).expect("a text frame of the server is JSON");
        let parts: Vec<Value> = if self.vsn_1 {
            let object = value
                .as_object()
                .unwrap_or_else(|| panic!("no object: {text}"));
            assert_keys(object, &["event", "payload", "ref", "topic"], text);
            let [event, payload, msg_ref, topic] =
                ["event", "payload", "ref", "topic"].map(|key| object[key].clone());
            vec![Value::Null, msg_ref, topic, event, payload]
        } else {
            value
                .as_array()
                .cloned()
                .unwrap_or_else(|| panic!("no array: {text}"))
        };
        let [join_ref, msg_ref, topic, event, payload] =
            <[Value; 5]>::try_from(parts).unwrap_or_else(|_| panic!("not five parts: {text}"));
        let own = |value: &Value| {
            value
                .as_str()
                .unwrap_or_else(|| panic!("no text: {text}"))
                .to_owned()
        };
        let heard = Heard {
            join_ref,
            msg_ref,
            event: own(&event),
            payload,
            at,
        };
        (own(&topic), heard)
    }

    fn next_ref(&mut self) -> String {
        self.refs += 1;
        self.refs.to_string()
    }
}

/// So long something may take that has to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// So often a client says that it is there.
const BEAT: Duration = Duration::from_secs(20);

fn id_of(entry: &Value) -> u64 {
    let id = entry["id"].as_u64().filter(|id| *id < 1 << 27);
    id.unwrap_or_else(|| panic!("no 27-bit id in {entry}"))
}

/// A change, in the form of its style.
#[track_caller]
fn read_change(topic: &str, heard: Heard) -> Change {
    let refs = (&heard.join_ref, &heard.msg_ref);
    assert_eq!(refs, (&Value::Null, &Value::Null), "{topic}: {heard:?}");
    let (ids, data) = if heard.event == "postgres_changes" {
        let payload = heard.payload.as_object().expect("a payload is an object");
        assert_keys(payload, &["data", "ids"], topic);
        let ids = payload["ids"].as_array().expect("ids are a list");
        let ids = ids.iter().map(|id| id.as_u64().expect("an id is a number"));
        (Some(ids.collect()), payload["data"].clone())
    } else {
        (None, heard.payload.clone())
    };
    let object = data
        .as_object()
        .unwrap_or_else(|| panic!("{topic}: no change: {heard:?}"));
    let kind = data["type"].as_str().unwrap_or_default();
    let rows: &[&str] = match kind {
        "INSERT" => &["record"],
        "UPDATE" => &["old_record", "record"],
        "DELETE" => &["old_record"],
        _ => panic!("{topic}: no change: {heard:?}"),
    };
    if ids.is_none() {
        assert_eq!(
            heard.event, kind,
            "{topic}: an old-style change is an event of its type"
        );
    }
    let mut keys = vec![
        "columns",
        "commit_timestamp",
        "errors",
        "schema",
        "table",
        "type",
    ];
    keys.extend(rows);
    keys.sort_unstable();
    assert_keys(object, &keys, topic);
    for row in rows {
        assert!(data[row].is_object(), "{topic}: {row} in {data}");
    }
    assert!(data["columns"].is_array(), "{topic}: columns in {data}");
    match &data["commit_timestamp"] {
        Value::Null => {}
        Value::String(text) if is_timestamp(text) => {}
        other => panic!("{topic}: committed at {other}"),
    }
    Change { ids, data }
}

/// An object has these keys, sorted, and no others.
#[track_caller]
fn assert_keys(object: &Map<String, Value>, keys: &[&str], context: &str) {
    let mut actual: Vec<&str> = object.keys().map(String::as_str).collect();
    actual.sort_unstable();
    assert_eq!(actual, keys, "{context}");
}
