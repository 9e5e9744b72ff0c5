//! Who is here: the presences of one topic, kept by the topic's owner.
//!
//! What comes in: a member's track or untrack. What goes out: the payloads of `presence_diff` and `presence_state` as JSON text (spec:
//! websocket-protocol 8.2). What always holds:
//!
//! - A member has at most one presence on a topic. (`tracking_again_replaces_the_meta`)
//! - A diff says of every meta that it leaves exactly what an earlier diff or state said when it joined.
//!   (`diffs_applied_in_order_give_the_state`)
//!
//! Deliberately absent: who may see presences, and how often a member may change its own. `channel` asks that.

use crate::mail::Member;
use crate::phoenix;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The presences of one topic.
#[derive(Debug, Default)]
pub struct Roster {
    /// In the order of keys, and within a key oldest first. Flat, so that a member among thousands with its key is found at once.
    presences: BTreeMap<Place, Presence>,
    place_of: FxHashMap<Member, Place>,
    /// Presences so far.
    count: u64,
}

/// A key, and the number of the presence among all that there were.
type Place = (Rc<str>, u64);

/// One meta.
#[derive(Debug)]
struct Presence {
    phx_ref: PhxRef,
    /// A JSON object with `phx_ref` in it, and `phx_ref_prev` when it was tracked before.
    meta: Box<str>,
}

impl Roster {
    /// `member` is present under `key` with `payload`, a JSON object. Returns the payload of the `presence_diff`.
    pub fn track(&mut self, member: Member, key: &str, payload: &str, phx_ref: PhxRef) -> String {
        match self.place_of.get(&member) {
            Some(place) if *place.0 == *key => {
                let presence = self.presences.get_mut(place);
                presence.expect(STANDS).update(key, payload, phx_ref)
            }
            Some(_) => {
                let left = self.remove(member);
                let meta = self.insert(member, key, payload, phx_ref);
                let left = left.as_ref().map(|(key, meta)| (&**key, &**meta));
                diff(Some((key, meta)), left)
            }
            None => diff(
                Some((key, self.insert(member, key, payload, phx_ref))),
                None,
            ),
        }
    }

    /// `member` is present no more. Returns the payload of the `presence_diff`, or nothing when it was not present.
    pub fn untrack(&mut self, member: Member) -> Option<String> {
        let (key, meta) = self.remove(member)?;
        Some(diff(None, Some((&key, &meta))))
    }

    /// The payload of `presence_state`: all presences, by key.
    #[must_use]
    pub fn state(&self) -> String {
        let mut out = String::from("{");
        let mut open: Option<&str> = None;
        for ((key, _), presence) in &self.presences {
            match open {
                Some(open) if *open == **key => out.push(','),
                _ => {
                    if open.is_some() {
                        out.push_str("]},");
                    }
                    push_key(&mut out, key);
                    open = Some(key);
                }
            }
            out.push_str(&presence.meta);
        }
        out.push_str(if open.is_some() { "]}}" } else { "}" });
        out
    }

    /// Members that are present.
    #[must_use]
    pub fn members(&self) -> usize {
        self.place_of.len()
    }

    fn insert(&mut self, member: Member, key: &str, payload: &str, phx_ref: PhxRef) -> &str {
        self.count += 1;
        let place: Place = (key.into(), self.count);
        self.place_of.insert(member, place.clone());
        let meta = meta(payload, phx_ref, None).into();
        let presence = self.presences.entry(place);
        &presence.or_insert(Presence { phx_ref, meta }).meta
    }

    fn remove(&mut self, member: Member) -> Option<(Rc<str>, Box<str>)> {
        let place = self.place_of.remove(&member)?;
        let presence = self.presences.remove(&place).expect(STANDS);
        Some((place.0, presence.meta))
    }
}

const STANDS: &str = "a tracked member's presence stands at its place";

impl Presence {
    /// Replaces the meta of a member that stays under its key: it keeps its place among the key's metas. Returns the diff.
    fn update(&mut self, key: &str, payload: &str, phx_ref: PhxRef) -> String {
        let joined: Box<str> = meta(payload, phx_ref, Some(self.phx_ref)).into();
        let left = std::mem::replace(&mut self.meta, joined);
        self.phx_ref = phx_ref;
        diff(Some((key, &self.meta)), Some((key, &left)))
    }
}

/// Names one version of a meta: clients identify metas by nothing else (spec 8.2).
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct PhxRef([u8; 12]);

impl PhxRef {
    /// A reference made of the time in nanoseconds, something that no other thread of the process uses, and a counter of the thread.
    #[must_use]
    pub fn new(unix_ns: u64, thread: u16, counter: u16) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&unix_ns.to_be_bytes());
        bytes[8..10].copy_from_slice(&thread.to_be_bytes());
        bytes[10..].copy_from_slice(&counter.to_be_bytes());
        Self(bytes)
    }

    /// 16 characters of URL-safe base64.
    fn push_to(self, out: &mut String) {
        URL_SAFE.encode_string(self.0, out);
    }
}

/// The track payload with its references added at top level, in place of those that a client has put there itself.
fn meta(payload: &str, phx_ref: PhxRef, previous: Option<PhxRef>) -> String {
    let is_ours = |name: &str| name == "phx_ref" || previous.is_some() && name == "phx_ref_prev";
    let payload = if phoenix::members(payload).any(|(name, _)| is_ours(&name)) {
        Cow::Owned(without(payload, is_ours))
    } else {
        Cow::Borrowed(payload)
    };
    let body = payload
        .trim_end()
        .strip_suffix('}')
        .unwrap_or(&payload)
        .trim_end();
    let mut out = String::with_capacity(body.len() + 64);
    out.push_str(body);
    if body.trim_start() != "{" {
        out.push(',');
    }
    out.push_str("\"phx_ref\":\"");
    phx_ref.push_to(&mut out);
    if let Some(previous) = previous {
        out.push_str("\",\"phx_ref_prev\":\"");
        previous.push_to(&mut out);
    }
    out.push_str("\"}");
    out
}

/// An object without the members of some names.
fn without(object: &str, is_unwanted: impl Fn(&str) -> bool) -> String {
    let mut out = Vec::with_capacity(object.len());
    for (name, value) in phoenix::members(object).filter(|(name, _)| !is_unwanted(name)) {
        out.push(if out.is_empty() { b'{' } else { b',' });
        phoenix::json_string(&mut out, &name);
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    String::from_utf8(out).expect("members of a text are text")
}

fn diff(joined: Option<(&str, &str)>, left: Option<(&str, &str)>) -> String {
    let mut out = String::from("{\"joins\":{");
    push_single(&mut out, joined);
    out.push_str("},\"leaves\":{");
    push_single(&mut out, left);
    out.push_str("}}");
    out
}

fn push_single(out: &mut String, presence: Option<(&str, &str)>) {
    if let Some((key, meta)) = presence {
        push_key(out, key);
        out.push_str(meta);
        out.push_str("]}");
    }
}

fn push_key(out: &mut String, key: &str) {
    let mut json = Vec::with_capacity(key.len() + 2);
    phoenix::json_string(&mut json, key);
    out.push_str(std::str::from_utf8(&json).expect("a JSON string of a string is UTF-8"));
    out.push_str(":{\"metas\":[");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::test_member;
    use serde_json::{Value, json};

    fn phx_ref(n: u16) -> PhxRef {
        PhxRef::new(1, 2, n)
    }

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).expect("what presence writes is JSON")
    }

    fn text(phx_ref: PhxRef) -> String {
        let mut out = String::new();
        phx_ref.push_to(&mut out);
        out
    }

    #[test]
    fn first_track_joins_and_untrack_leaves() {
        let mut roster = Roster::default();
        let joined = parse(&roster.track(test_member(1), "a\"b", r#" { "n" : 1 } "#, phx_ref(1)));
        let meta = json!({"n": 1, "phx_ref": text(phx_ref(1))});
        assert_eq!(
            joined,
            json!({"joins": {"a\"b": {"metas": [meta]}}, "leaves": {}})
        );
        assert_eq!(parse(&roster.state()), json!({"a\"b": {"metas": [meta]}}));
        let left = parse(&roster.untrack(test_member(1)).expect("it was tracked"));
        assert_eq!(
            left,
            json!({"joins": {}, "leaves": {"a\"b": {"metas": [meta]}}})
        );
        assert_eq!(roster.state(), "{}");
        assert!(roster.untrack(test_member(1)).is_none());
        assert_eq!(roster.members(), 0);
    }

    #[test]
    fn tracking_again_replaces_the_meta() {
        let mut roster = Roster::default();
        roster.track(test_member(1), "k", "{}", phx_ref(1));
        roster.track(test_member(2), "k", "{}", phx_ref(2));
        let update = parse(&roster.track(test_member(1), "k", r#"{"n":2}"#, phx_ref(3)));
        let new = json!({"n": 2, "phx_ref": text(phx_ref(3)), "phx_ref_prev": text(phx_ref(1))});
        let old = json!({"phx_ref": text(phx_ref(1))});
        assert_eq!(
            update,
            json!({"joins": {"k": {"metas": [new]}}, "leaves": {"k": {"metas": [old]}}})
        );
        let other = json!({"phx_ref": text(phx_ref(2))});
        assert_eq!(
            parse(&roster.state()),
            json!({"k": {"metas": [new, other]}})
        );
    }

    #[test]
    fn references_of_the_client_do_not_win() {
        let mut roster = Roster::default();
        let mut check = |payload: &str, expected: Value| {
            let diff = roster.track(test_member(1), "k", payload, phx_ref(1));
            let metas = &parse(&diff)["joins"]["k"]["metas"];
            assert_eq!(metas, &json!([expected]), "{payload}");
            // Not every reader takes the last of two equal keys.
            let joined = diff.split("leaves").next().expect("the first part");
            assert_eq!(joined.matches("\"phx_ref\"").count(), 1, "{diff}");
        };
        let own = text(phx_ref(1));
        check(r#"{"phx_ref":"mine"}"#, json!({"phx_ref": own}));
        check(
            r#"{"a\"":[1],"phx\u005fref":"mine","b":{"phx_ref_prev":0},"phx_ref_prev":7}"#,
            json!({"a\"": [1], "b": {"phx_ref_prev": 0}, "phx_ref": own, "phx_ref_prev": own}),
        );
    }

    #[test]
    fn reference_is_sixteen_url_safe_characters() {
        let reference = text(PhxRef::new(u64::MAX, u16::MAX, u16::MAX));
        assert_eq!(reference.len(), 16);
        assert!(!reference.contains(['+', '/', '=']));
    }

    /// What a client does with diffs: remove by `phx_ref`, add the rest.
    fn apply(state: &mut Value, diff: &Value) {
        for (key, entry) in diff["joins"].as_object().expect("an object") {
            let metas = entry["metas"].as_array().expect("metas").clone();
            let slot = &mut state[key.as_str()];
            if slot.is_null() {
                *slot = json!({"metas": []});
            }
            slot["metas"].as_array_mut().expect("metas").extend(metas);
        }
        for (key, entry) in diff["leaves"].as_object().expect("an object") {
            for left in entry["metas"].as_array().expect("metas") {
                let metas = state[key.as_str()]["metas"]
                    .as_array_mut()
                    .expect("a key that leaves has joined");
                let before = metas.len();
                metas.retain(|meta| meta["phx_ref"] != left["phx_ref"]);
                assert_eq!(metas.len() + 1, before, "what leaves has joined before");
            }
            if state[key.as_str()]["metas"]
                .as_array()
                .expect("metas")
                .is_empty()
            {
                state.as_object_mut().expect("an object").remove(key);
            }
        }
    }

    fn sorted(mut state: Value) -> Value {
        for entry in state.as_object_mut().expect("an object").values_mut() {
            entry["metas"]
                .as_array_mut()
                .expect("metas")
                .sort_by_key(|meta| meta["phx_ref"].to_string());
        }
        state
    }

    proptest::proptest! {
        #[test]
        fn diffs_applied_in_order_give_the_state(steps in proptest::collection::vec((0_u32..6, 0_u8..4, 0_u8..5), 1..60)) {
            let mut roster = Roster::default();
            let mut seen = json!({});
            for (n, (member, key, what)) in steps.into_iter().enumerate() {
                let diff = if what == 0 {
                    roster.untrack(test_member(member))
                } else {
                    let payload = format!("{{\"n\":{what}}}");
                    Some(roster.track(test_member(member), &format!("k{key}"), &payload, phx_ref(u16::try_from(n).unwrap())))
                };
                if let Some(diff) = diff {
                    apply(&mut seen, &parse(&diff));
                }
                assert_eq!(sorted(parse(&roster.state())), sorted(seen.clone()));
            }
        }
    }
}
