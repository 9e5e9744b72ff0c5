//! The vectors of row changes, as `vectors/README.md` describes them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::ours;
use super::texts::Params;

/// What happens in a database, and who is told what of it.
pub struct Vector {
    pub name: String,
    pub setup: Vec<String>,
    pub publication: String,
    pub subscriptions: Vec<Subscription>,
    pub transactions: Vec<Vec<String>>,
    pub before_poll: Vec<String>,
    /// In the order of delivery.
    pub expect: Vec<Row>,
    max_record_bytes: u64,
}

/// One entry of a join.
pub struct Subscription {
    pub key: String,
    pub params: Value,
    pub claims: Value,
    pub outcome: Outcome,
}

/// What becomes of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Subscribed,
    /// The client is told this text.
    Error(String),
    /// The join is refused, for whatever reason.
    Refused,
}

/// What those who receive a change get.
pub struct Row {
    /// Keys of subscriptions.
    pub receivers: BTreeSet<String>,
    pub data: Value,
}

/// All of them, with what this server answers otherwise.
pub fn all() -> Vec<Vector> {
    let mut vectors: Vec<Vector> = FILES.iter().flat_map(|file| read(file)).collect();
    ours::apply(&mut vectors);
    vectors
}

/// The vectors of a file, as JSON.
pub fn values(file: &str) -> Vec<Value> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/vectors/postgres-changes");
    let text = fs::read_to_string(folder.join(format!("{file}.json")));
    let text = text.expect("the vectors are in the project");
    serde_json::from_str(&text).expect("a file of vectors is an array")
}

const FILES: &[&str] = &[
    "actions",
    "events",
    "filters",
    "grants",
    "pk",
    "publication",
    "rls",
    "roles",
    "select",
    "size",
    "toast",
    "types",
];

fn read(file: &str) -> Vec<Vector> {
    values(file).iter().map(Vector::parse).collect()
}

impl Vector {
    /// What its tenant's database settings are.
    pub fn settings(&self) -> Value {
        json!({"poll_max_record_bytes": self.max_record_bytes})
    }

    fn parse(value: &Value) -> Self {
        let rows = value["expect"].as_array().into_iter().flatten();
        let subscriptions = value["subscriptions"].as_array().expect("it has some");
        Self {
            name: text(&value["name"]),
            setup: texts(&value["setup"]),
            publication: text(&value["publication"]),
            subscriptions: subscriptions.iter().map(Subscription::parse).collect(),
            transactions: value["transactions"]
                .as_array()
                .expect("it has some")
                .iter()
                .map(texts)
                .collect(),
            before_poll: texts(&value["before_poll"]),
            expect: rows
                .map(|row| Row {
                    receivers: texts(&row["subscriptions"]).into_iter().collect(),
                    data: row["data"].clone(),
                })
                .collect(),
            max_record_bytes: value["max_record_bytes"].as_u64().expect("it has a limit"),
        }
    }
}

impl Subscription {
    fn parse(value: &Value) -> Self {
        let (params, error) = (value["params"].clone(), &value["error"]);
        let outcome = if let Some(text) = error["parse"].as_str() {
            Outcome::Error(text.to_owned())
        } else if let Some(sqlstate) = error["sqlstate"].as_str() {
            let message = text(&error["message"]);
            Outcome::Error(Params::of_entry(&params).exception(sqlstate, &message))
        } else if value["rows_inserted"] == 0 {
            Outcome::Error(Params::of_entry(&params).not_enabled())
        } else {
            Outcome::Subscribed
        };
        Self {
            key: text(&value["key"]),
            params,
            claims: value["claims"].clone(),
            outcome,
        }
    }

    /// The topic of a join that asks for the same in the old style, if one can.
    pub fn old_topic(&self) -> Option<String> {
        let params = self.params.as_object().expect("an entry is an object");
        let all_events = params.get("event").is_none_or(|event| event == "*");
        if !all_events || params.contains_key("select") {
            return None;
        }
        let piece = |key: &str| params.get(key).and_then(Value::as_str);
        let schema = piece("schema").unwrap_or("public");
        let pieces = [Some(schema), piece("table"), piece("filter")];
        let pieces: Vec<&str> = pieces.into_iter().flatten().collect();
        Some(format!("realtime:{}", pieces.join(":")))
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("it is text").to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

/// A test of this file.
pub fn every_vector_can_be_read() {
    let vectors = all();
    assert!(vectors.len() > 100, "{} vectors", vectors.len());
    for vector in &vectors {
        let known: BTreeSet<&String> = vector
            .subscriptions
            .iter()
            .filter(|subscription| subscription.outcome == Outcome::Subscribed)
            .map(|subscription| &subscription.key)
            .collect();
        for row in &vector.expect {
            assert!(!row.receivers.is_empty(), "{}", vector.name);
            let strangers = row.receivers.iter().filter(|key| !known.contains(key));
            assert_eq!(strangers.count(), 0, "{}: {:?}", vector.name, row.receivers);
        }
    }
}
