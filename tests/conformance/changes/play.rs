//! Plays a vector: its statements in a database of its own, its subscriptions as joins, its changes as frames.
//!
//! Each subscription is asked for in three ways at once, and each has to get the same: a 2.0.0 channel of its own, one entry
//! of many of a 1.0.0 channel that all subscriptions with the same claims share, and an old-style topic of 1.0.0 where the
//! topic can say it. The server is held still while the transactions are committed: a vector shows what is seen of changes
//! that all lie in the past.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::ears::{Change, Ears};
use super::value::normal;
use super::vector::{Outcome, Row, Subscription, Vector};
use super::world::{PROBE, Place};
use crate::cases::{V1, V2};
use crate::clock;
use crate::token;

/// Plays it; panics with what was different.
pub fn play(place: &Place<'_>, vector: &Vector) {
    let sql = place.sql();
    for statement in &vector.setup {
        sql.run(statement);
    }
    sql.run(&vector.publication);
    if !vector.publication.contains("for all tables") {
        sql.run("alter publication supabase_realtime add table probe.mark");
    }
    let mut groups = Group::all(place, vector);
    for group in &mut groups {
        group.join_single();
        group.join_shared();
        group.join_old();
    }
    {
        let _held = place.server.hold();
        let transactions = vector.transactions.iter().map(|list| list.join(";\n"));
        let mut all: Vec<String> = transactions.chain(vector.before_poll.clone()).collect();
        // Whoever sees what the last one has done sees the probe as well: a table that is gone is not noticed before the end of delivery.
        let last = all.last_mut().expect("something happens");
        *last = format!("{last};\n{PROBE}");
        for transaction in all {
            sql.run(&transaction);
        }
    }
    for group in &mut groups {
        group.check_single(&vector.expect);
        group.check_shared(&vector.expect);
    }
}

/// The subscriptions with the same claims, and their clients.
struct Group<'a> {
    token: String,
    subscriptions: Vec<&'a Subscription>,
    single: Ears,
    shared: Ears,
    /// Of the entries, by key; equal for all ways to ask.
    ids: BTreeMap<&'a str, u64>,
    /// By topic.
    old: BTreeMap<String, &'a Subscription>,
}

/// The topic that all subscriptions of a group share.
const SHARED: &str = "realtime:shared";

fn topic_of(subscription: &Subscription) -> String {
    format!("realtime:own {}", subscription.key)
}

impl<'a> Group<'a> {
    fn all(place: &Place<'_>, vector: &'a Vector) -> Vec<Self> {
        let mut claims: Vec<&Value> = Vec::new();
        for subscription in &vector.subscriptions {
            if !claims.contains(&&subscription.claims) {
                claims.push(&subscription.claims);
            }
        }
        let group = |claims: &Value| {
            let mut signed = claims.clone();
            if signed["exp"].is_null() {
                signed["exp"] = json!(clock::unix_s() + 3600);
            }
            let all = vector.subscriptions.iter();
            Self {
                token: token::sign(&signed),
                subscriptions: all
                    .filter(|subscription| subscription.claims == *claims)
                    .collect(),
                single: place.ears(V2),
                shared: place.ears(V1),
                ids: BTreeMap::new(),
                old: BTreeMap::new(),
            }
        };
        claims.into_iter().map(group).collect()
    }

    fn accepted(&self) -> impl Iterator<Item = &'a Subscription> + use<'a> {
        let all = self.subscriptions.clone().into_iter();
        all.filter(|subscription| subscription.outcome == Outcome::Subscribed)
    }

    /// A channel for each.
    fn join_single(&mut self) {
        for subscription in self.subscriptions.clone() {
            let topic = topic_of(subscription);
            if subscription.outcome == Outcome::Refused {
                let config = json!({"postgres_changes": [subscription.params]});
                let payload = json!({"config": config, "access_token": self.token});
                self.single.send_join(&topic, &payload);
                let reply = self.single.reply(&topic);
                assert_eq!(reply["status"], "error", "{topic}: {reply}");
                continue;
            }
            let entries = [subscription.params.clone()];
            let ids = self.single.join(&topic, &entries, &self.token, &json!({}));
            self.ids.insert(&subscription.key, ids[0]);
        }
        for subscription in &self.subscriptions {
            expect_outcome(
                &mut self.single,
                &topic_of(subscription),
                &subscription.outcome,
            );
        }
    }

    /// One channel for all that are accepted.
    fn join_shared(&mut self) {
        let accepted: Vec<&Subscription> = self.accepted().collect();
        if accepted.is_empty() {
            return;
        }
        let entries: Vec<Value> = accepted.iter().map(|one| one.params.clone()).collect();
        let ids = self.shared.subscribe(SHARED, &entries, &self.token);
        for (one, id) in accepted.iter().zip(ids) {
            assert_eq!(
                self.ids[one.key.as_str()],
                id,
                "{}: an id is of the entry alone",
                one.key
            );
        }
    }

    /// Old-style topics. The shared channel tells when everything for them has been sent.
    fn join_old(&mut self) {
        if self.accepted().next().is_none() {
            return;
        }
        for subscription in self.subscriptions.clone() {
            if let Some(topic) = subscription.old_topic()
                && !self.old.contains_key(&topic)
            {
                let payload = json!({"access_token": self.token});
                self.shared.send_join(&topic, &payload);
                let reply = self.shared.reply(&topic);
                assert_eq!(reply["status"], "ok", "{topic}: {reply}");
                self.old.insert(topic, subscription);
            }
        }
        for (topic, subscription) in &self.old {
            expect_outcome(&mut self.shared, topic, &subscription.outcome);
        }
    }

    fn check_single(&mut self, expect: &[Row]) {
        for subscription in self.accepted() {
            let topic = topic_of(subscription);
            let id = BTreeSet::from([self.ids[subscription.key.as_str()]]);
            let expected = rows_for(expect, &subscription.key).map(|data| (Some(id.clone()), data));
            let changes = self.single.changes(&topic);
            compare(&topic, expected.collect(), changes);
        }
        for subscription in &self.subscriptions {
            self.single.nothing_on(&topic_of(subscription));
        }
    }

    fn check_shared(&mut self, expect: &[Row]) {
        if self.accepted().next().is_none() {
            return;
        }
        let expected = expect.iter().filter_map(|row| {
            let ids = self
                .ids
                .iter()
                .filter(|(key, _)| row.receivers.contains(**key));
            let ids: BTreeSet<u64> = ids.map(|(_, id)| *id).collect();
            (!ids.is_empty()).then_some((Some(ids), &row.data))
        });
        let expected = expected.collect();
        let changes = self.shared.changes(SHARED);
        compare(SHARED, expected, changes);
        for (topic, subscription) in &self.old {
            let expected = rows_for(expect, &subscription.key).map(|data| (None, data));
            let changes = self.shared.changes_so_far(topic);
            let changes = changes.into_iter().filter(|change| !change.is_probe());
            compare(topic, expected.collect(), changes.collect());
        }
    }
}

#[track_caller]
fn expect_outcome(ears: &mut Ears, topic: &str, outcome: &Outcome) {
    match outcome {
        Outcome::Subscribed => {
            ears.subscribed(topic);
        }
        Outcome::Error(text) => ears.not_subscribed(topic, text),
        Outcome::Refused => {}
    }
}

fn rows_for<'r>(expect: &'r [Row], key: &str) -> impl Iterator<Item = &'r Value> {
    let rows = expect.iter().filter(move |row| row.receivers.contains(key));
    rows.map(|row| &row.data)
}

/// What came is what was expected, change by change.
#[track_caller]
fn compare(topic: &str, expected: Vec<(Option<BTreeSet<u64>>, &Value)>, actual: Vec<Change>) {
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(ids, data)| (ids, normal(data)))
        .collect();
    let actual: Vec<_> = actual
        .into_iter()
        .map(|change| (change.ids, normal(&change.data)))
        .collect();
    if expected == actual {
        return;
    }
    let lines = |changes: &[(Option<BTreeSet<u64>>, Value)]| {
        let line = |(ids, data): &(Option<BTreeSet<u64>>, Value)| format!("  {ids:?} {data}");
        let lines: Vec<String> = changes.iter().map(line).collect();
        lines.join("\n")
    };
    panic!(
        "{topic} got\n{}\ninstead of\n{}",
        lines(&actual),
        lines(&expected)
    );
}
