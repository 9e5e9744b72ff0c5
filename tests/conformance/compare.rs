//! What was recorded beside what came: equal as messages, not as bytes.
//!
//! In go two values, or two events; out comes nothing, or a sentence naming the first place where they differ. Some values
//! differ from run to run by nature. They are *bound*: the first time a recorded one meets an actual one they become a pair,
//! and from then on each must meet its partner again. So a `phx_ref` may be any string, but a `phx_ref_prev` must be the
//! right one, and equal subscriptions must have equal ids.
//!
//! Free: the order of keys, `phx_ref`, `phx_ref_prev`, UUIDs, the moments and the database of a tenant, ids of row subscriptions and their order in a change, the time of
//! a commit, a few seconds in "expired n seconds ago", what follows `UnknownErrorOnChannel:`. Everything else must be equal,
//! numbers digit by digit.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::socket::{Event, Headers};

/// Pairs of recorded and actual values that differ by nature.
#[derive(Clone, Default)]
pub struct Pairs {
    forward: BTreeMap<String, String>,
    backward: BTreeMap<String, String>,
}

impl Pairs {
    /// Pairs the two, or says with whom one of them is paired already.
    fn bind(&mut self, recorded: &str, actual: &str) -> Result<(), String> {
        let old = self
            .forward
            .entry(recorded.to_owned())
            .or_insert_with(|| actual.to_owned());
        if old != actual {
            return Err(format!("{recorded} was {old} before and is {actual} now"));
        }
        let old = self
            .backward
            .entry(actual.to_owned())
            .or_insert_with(|| recorded.to_owned());
        if old != recorded {
            return Err(format!(
                "{actual} stood for {old} before and stands for {recorded} now"
            ));
        }
        Ok(())
    }
}

/// Compares what a connection received. `Ok` also makes the new pairs permanent; on `Err` they are as before.
pub fn events(recorded: &Event, actual: &Event, pairs: &mut Pairs) -> Result<(), String> {
    let mut tried = pairs.clone();
    let result = match (recorded, actual) {
        (Event::Text(recorded), Event::Text(actual)) => texts(recorded, actual, &mut tried),
        (Event::Binary(recorded), Event::Binary(actual)) => binaries(recorded, actual, &mut tried),
        (
            Event::Upgrade {
                status,
                headers,
                body,
            },
            Event::Upgrade {
                status: actual,
                headers: actual_headers,
                body: actual_body,
            },
        ) => {
            if status == actual {
                heads(headers, actual_headers, &mut tried)
                    .and_then(|()| texts(body, actual_body, &mut tried))
            } else {
                Err(format!(
                    "status {actual} with {actual_body:?} instead of {status}"
                ))
            }
        }
        _ if recorded == actual => Ok(()),
        _ => Err(format!("{actual:?} instead of {recorded:?}")),
    };
    if result.is_ok() {
        *pairs = tried;
    }
    result
}

/// A broadcast of kind 4 is compared part by part, because its metadata and its payload may hold ids; anything else as bytes.
fn binaries(recorded: &[u8], actual: &[u8], pairs: &mut Pairs) -> Result<(), String> {
    match (Broadcast::parse(recorded), Broadcast::parse(actual)) {
        (Some(recorded), Some(actual)) if recorded.head == actual.head => {
            texts(recorded.metadata, actual.metadata, pairs)?;
            match (recorded.payload, actual.payload) {
                (Payload::Json(recorded), Payload::Json(actual)) => texts(recorded, actual, pairs),
                (recorded, actual) if recorded == actual => Ok(()),
                (recorded, actual) => Err(format!("{actual:?} instead of {recorded:?}")),
            }
        }
        _ if recorded == actual => Ok(()),
        _ => Err(format!("{actual:?} instead of {recorded:?}")),
    }
}

/// A broadcast of kind 4.
struct Broadcast<'a> {
    /// Topic and event.
    head: [&'a [u8]; 2],
    metadata: &'a str,
    payload: Payload<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payload<'a> {
    Bytes(&'a [u8]),
    Json(&'a str),
}

impl<'a> Broadcast<'a> {
    /// The sizes of topic, event and metadata, and the encoding stand before them.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let [4, topic, event, metadata, encoding, rest @ ..] = bytes else {
            return None;
        };
        let (topic, rest) = rest.split_at_checked((*topic).into())?;
        let (event, rest) = rest.split_at_checked((*event).into())?;
        let (metadata, payload) = rest.split_at_checked((*metadata).into())?;
        let metadata = std::str::from_utf8(metadata).ok()?;
        let payload = match encoding {
            0 => Payload::Bytes(payload),
            _ => Payload::Json(std::str::from_utf8(payload).ok()?),
        };
        let head = [topic, event];
        Some(Self {
            head,
            metadata,
            payload,
        })
    }
}

/// Headers whose presence and value are part of the contract.
const HEADERS: &[&str] = &[
    "access-control-allow-origin",
    "cache-control",
    "content-type",
    "location",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "upgrade",
    "vary",
    "www-authenticate",
    "x-rate-limit",
];

fn heads(recorded: &Headers, actual: &Headers, pairs: &mut Pairs) -> Result<(), String> {
    for name in HEADERS {
        let (recorded, actual) = (recorded.get(*name), actual.get(*name));
        let differs = match (recorded, actual) {
            // Where something is may be named by an id.
            (Some(recorded), Some(actual)) if *name == "location" => {
                paths(recorded, actual, pairs)?
            }
            (recorded, actual) => recorded != actual,
        };
        if differs {
            return Err(format!("header {name}: {actual:?} instead of {recorded:?}"));
        }
    }
    // Only its value is random.
    let name = "x-request-id";
    if recorded.contains_key(name) != actual.contains_key(name) {
        return Err(format!(
            "header {name}: {:?} instead of {:?}",
            actual.get(name),
            recorded.get(name)
        ));
    }
    Ok(())
}

/// Whether two paths differ in more than an id at their end.
fn paths(recorded: &str, actual: &str, pairs: &mut Pairs) -> Result<bool, String> {
    match (recorded.rsplit_once('/'), actual.rsplit_once('/')) {
        (Some(recorded), Some(actual)) if recorded.0 == actual.0 && is_uuid(recorded.1) => {
            strings("", recorded.1, actual.1, pairs).map(|is_same| !is_same)
        }
        _ => Ok(recorded != actual),
    }
}

/// JSON is compared as values, anything else as text.
fn texts(recorded: &str, actual: &str, pairs: &mut Pairs) -> Result<(), String> {
    if recorded == "(page omitted)" && !actual.is_empty() {
        return Ok(());
    }
    match (serde_json::from_str(recorded), serde_json::from_str(actual)) {
        (Ok(recorded), Ok(actual)) => values("", &recorded, &actual, pairs),
        _ if recorded == actual => Ok(()),
        _ => Err(format!("{actual:?} instead of {recorded:?}")),
    }
}

/// Compares two values found at `path`.
pub fn values(
    path: &str,
    recorded: &Value,
    actual: &Value,
    pairs: &mut Pairs,
) -> Result<(), String> {
    let differ = || Err(format!("{path}: {actual} instead of {recorded}"));
    match (recorded, actual) {
        (Value::Object(recorded), Value::Object(actual)) => objects(path, recorded, actual, pairs),
        (Value::Array(recorded), Value::Array(actual)) if path.ends_with("/ids") => {
            ids(path, recorded, actual, pairs)
        }
        (Value::Array(recorded), Value::Array(actual)) if recorded.len() == actual.len() => {
            let both = recorded.iter().zip(actual).enumerate();
            for (index, (recorded, actual)) in both {
                values(&format!("{path}/{index}"), recorded, actual, pairs)?;
            }
            Ok(())
        }
        (Value::String(recorded), Value::String(actual)) => {
            if recorded == actual || strings(path, recorded, actual, pairs)? {
                Ok(())
            } else {
                differ()
            }
        }
        (Value::Number(recorded), Value::Number(actual)) if is_subscription_id(path) => {
            let small = actual.as_u64().is_some_and(|id| id < 1 << 27);
            if !small {
                return Err(format!("{path}: {actual} is no 27-bit id"));
            }
            pairs.bind(&recorded.to_string(), &actual.to_string())
        }
        // It takes a moment after the first join.
        (Value::Bool(_), Value::Bool(_)) if path.ends_with("/replication_connected") => Ok(()),
        _ if recorded == actual => Ok(()),
        _ => differ(),
    }
}

/// The ids of the subscriptions that a change is for, in any order: the partners of the recorded ones.
fn ids(path: &str, recorded: &[Value], actual: &[Value], pairs: &Pairs) -> Result<(), String> {
    let partner = |id: &Value| {
        let partner = pairs.forward.get(&id.to_string());
        partner
            .cloned()
            .ok_or(format!("{path}: no reply gave {id}"))
    };
    let mut partners = recorded
        .iter()
        .map(partner)
        .collect::<Result<Vec<_>, _>>()?;
    let mut actual: Vec<String> = actual.iter().map(Value::to_string).collect();
    partners.sort();
    actual.sort();
    if partners == actual {
        Ok(())
    } else {
        Err(format!("{path}: {actual:?} instead of {partners:?}"))
    }
}

/// `…/response/postgres_changes/0/id`.
fn is_subscription_id(path: &str) -> bool {
    path.ends_with("/id") && path.contains("/postgres_changes/")
}

/// Whether two different strings mean the same.
fn strings(path: &str, recorded: &str, actual: &str, pairs: &mut Pairs) -> Result<bool, String> {
    let reference = path.ends_with("/phx_ref") || path.ends_with("/phx_ref_prev");
    if reference || (is_uuid(recorded) && is_uuid(actual)) {
        return pairs.bind(recorded, actual).map(|()| true);
    }
    // The recorded database is another one. What is stored of its address tells the values apart.
    let of_database = ["/db_name", "/db_port", "/db_user"];
    if of_database.iter().any(|name| path.ends_with(name)) {
        return pairs.bind(recorded, actual).map(|()| true);
    }
    if path.ends_with("/inserted_at") || path.ends_with("/updated_at") {
        return Ok(is_moment(recorded) && is_moment(actual));
    }
    if path.ends_with("/commit_timestamp") {
        return Ok(is_timestamp(recorded) && is_timestamp(actual));
    }
    let prefix = "UnknownErrorOnChannel: ";
    if recorded.starts_with(prefix) && actual.starts_with(prefix) && actual.len() > prefix.len() {
        return Ok(true);
    }
    let (Some(recorded), Some(actual)) = (expired(recorded), expired(actual)) else {
        return Ok(false);
    };
    // Decided a little later or earlier in the second.
    Ok(recorded.0 == actual.0 && (recorded.1 - actual.1).abs() <= 3)
}

/// `… has expired 125 seconds ago` split into what is before the number, and the number.
fn expired(text: &str) -> Option<(&str, i64)> {
    let text = text.strip_suffix(" seconds ago")?;
    let (before, seconds) = text.rsplit_once(' ')?;
    Some((before, seconds.parse().ok()?))
}

/// The form of a commit's time: `2026-11-23T17:06:41.355Z`, in milliseconds always.
pub fn is_timestamp(text: &str) -> bool {
    has_form(text, "0000-00-00T00:00:00.000Z")
}

/// The form of a moment in the management API: `2026-11-23T17:19:58`.
fn is_moment(text: &str) -> bool {
    has_form(text, "0000-00-00T00:00:00")
}

/// Whether a text is like another one, but for its digits.
fn has_form(text: &str, form: &str) -> bool {
    let fits = |(byte, form): (u8, u8)| match form {
        b'0' => byte.is_ascii_digit(),
        other => byte == other,
    };
    text.len() == form.len() && text.bytes().zip(form.bytes()).all(fits)
}

/// The shape of RFC 9562: 8-4-4-4-12 hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    let digits = text
        .bytes()
        .all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    digits && lengths.eq([8, 4, 4, 4, 12])
}

fn objects(
    path: &str,
    recorded: &Map<String, Value>,
    actual: &Map<String, Value>,
    pairs: &mut Pairs,
) -> Result<(), String> {
    let mut strangers: Vec<&String> = actual
        .keys()
        .filter(|key| !recorded.contains_key(*key))
        .collect();
    for (key, value) in recorded {
        let partner = match actual.get(key) {
            Some(partner) => partner,
            // A presence without a key of its own stands under a random one.
            None if is_uuid(key) && strangers.first().is_some_and(|key| is_uuid(key)) => {
                let other = strangers.remove(0);
                pairs.bind(key, other)?;
                &actual[other]
            }
            None => return Err(format!("{path}: no {key}")),
        };
        values(&format!("{path}/{key}"), value, partner, pairs)?;
    }
    match strangers.first() {
        Some(key) => Err(format!(
            "{path}: {key}, which was not recorded: {}",
            actual[*key]
        )),
        None => Ok(()),
    }
}

/// Events of one lane must come in the recorded order; events of different lanes may overtake each other.
///
/// A lane is one topic, and there one of three: the channel's own answers and pushes, its broadcasts, its presence diffs
/// (the recordings' README: the order of a reply and of what it causes is not fixed). What is not a message has one lane.
pub fn lane(event: &Event) -> (String, &'static str) {
    match event {
        Event::Text(text) => {
            let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
            let (topic, event) = (
                value.get("topic").or(value.get(2)),
                value.get("event").or(value.get(3)),
            );
            let kind = match event.and_then(Value::as_str) {
                Some("broadcast") => "broadcast",
                Some("presence_diff") => "diff",
                _ => "channel",
            };
            let topic = topic.map_or_else(String::new, |topic| {
                topic.as_str().map_or(topic.to_string(), str::to_owned)
            });
            (topic, kind)
        }
        Event::Binary(bytes) => {
            // Kinds 2 and 4 put the size of the topic first; their headers have three and five bytes.
            let start = match bytes.first() {
                Some(2) => 3,
                Some(4) => 5,
                _ => return (String::new(), "binary"),
            };
            let size = usize::from(bytes.get(1).copied().unwrap_or(0));
            let topic = bytes.get(start..start + size).unwrap_or_default();
            (String::from_utf8_lossy(topic).into_owned(), "broadcast")
        }
        _ => (String::new(), "connection"),
    }
}

/// Tests of this file, for the table in `main.rs`.
pub const TESTS: &[(&str, fn())] = &[
    ("equal_messages_are_equal", || {
        for (recorded, actual) in [
            (
                r#"["1",null,"t","e",{"a":1,"b":[true,null]}]"#,
                r#"["1",null,"t","e",{"b":[true,null],"a":1}]"#,
            ),
            (r#"{"topic":"t"}"#, r#"{ "topic" : "t" }"#),
            ("\"\u{e9}\"", r#""\u00e9""#),
            (
                r#"{"big":12345678901234567000}"#,
                r#"{"big":12345678901234567000}"#,
            ),
            (r#"{"phx_ref":"a"}"#, r#"{"phx_ref":"b"}"#),
            (
                r#"{"11111111-1111-1111-1111-111111111111":{"metas":[]}}"#,
                r#"{"22222222-2222-2222-2222-222222222222":{"metas":[]}}"#,
            ),
            (
                r#""Token has expired 125 seconds ago""#,
                r#""Token has expired 123 seconds ago""#,
            ),
            (
                r#""UnknownErrorOnChannel: no function clause""#,
                r#""UnknownErrorOnChannel: config must be an object""#,
            ),
            ("Not Found", "Not Found"),
        ] {
            assert_eq!(check(recorded, actual), Ok(()), "{recorded} and {actual}");
        }
    }),
    ("different_messages_are_different", || {
        for (recorded, actual) in [
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#),
            (r#"{"a":1,"b":2}"#, r#"{"a":1}"#),
            (r#"[1,2]"#, r#"[2,1]"#),
            (r#"[1]"#, r#"[1,2]"#),
            (r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"1"}"#, r#"{"a":1}"#),
            (
                r#"{"big":12345678901234567000}"#,
                r#"{"big":12345678901234567001}"#,
            ),
            (
                r#""Token has expired 125 seconds ago""#,
                r#""Token has expired 12 seconds ago""#,
            ),
            (
                r#""A: Token has expired 1 seconds ago""#,
                r#""B: Token has expired 1 seconds ago""#,
            ),
            (
                r#""UnknownErrorOnChannel: x""#,
                r#""UnknownErrorOnChannel: ""#,
            ),
            (r#"{"phx_ref":"a"}"#, r#"{"phx_ref":5}"#),
            (
                r#"{"11111111-1111-1111-1111-111111111111":1}"#,
                r#"{"key":1}"#,
            ),
            ("Not Found", "not found"),
            (r#"{"a":1}"#, r#"{"a":1"#),
        ] {
            assert!(check(recorded, actual).is_err(), "{recorded} and {actual}");
        }
    }),
    ("a_free_value_keeps_its_partner", || {
        let recorded = r#"[{"phx_ref":"a"},{"phx_ref":"b","phx_ref_prev":"a"}]"#;
        assert_eq!(
            check(
                recorded,
                r#"[{"phx_ref":"x"},{"phx_ref":"y","phx_ref_prev":"x"}]"#
            ),
            Ok(())
        );
        assert!(
            check(
                recorded,
                r#"[{"phx_ref":"x"},{"phx_ref":"y","phx_ref_prev":"z"}]"#
            )
            .is_err()
        );
        assert!(
            check(
                recorded,
                r#"[{"phx_ref":"x"},{"phx_ref":"x","phx_ref_prev":"x"}]"#
            )
            .is_err()
        );
        let recorded = r#"{"postgres_changes":[{"id":5},{"id":6},{"id":5}]}"#;
        assert_eq!(
            check(
                recorded,
                r#"{"postgres_changes":[{"id":70},{"id":71},{"id":70}]}"#
            ),
            Ok(())
        );
        assert!(
            check(
                recorded,
                r#"{"postgres_changes":[{"id":70},{"id":71},{"id":72}]}"#
            )
            .is_err()
        );
        assert!(
            check(
                recorded,
                r#"{"postgres_changes":[{"id":134217728},{"id":71},{"id":134217728}]}"#
            )
            .is_err()
        );
        assert!(
            check(
                recorded,
                r#"{"postgres_changes":[{"id":"70"},{"id":71},{"id":"70"}]}"#
            )
            .is_err()
        );
    }),
    ("the_ids_of_a_change_come_in_any_order", || {
        let recorded = r#"[{"postgres_changes":[{"id":5},{"id":6}]},{"ids":[6,5]}]"#;
        for (ids, equal) in [
            ("[70,71]", true),
            ("[71,70]", true),
            ("[70]", false),
            ("[70,70]", false),
            ("[70,71,71]", false),
            ("[5,6]", false),
        ] {
            let actual =
                format!(r#"[{{"postgres_changes":[{{"id":70}},{{"id":71}}]}},{{"ids":{ids}}}]"#);
            assert_eq!(check(recorded, &actual).is_ok(), equal, "{ids}");
        }
        assert!(check(r#"{"ids":[5]}"#, r#"{"ids":[5]}"#).is_err());
    }),
    ("the_time_of_a_commit_is_free_and_its_form_is_not", || {
        let recorded = r#"{"commit_timestamp":"2026-11-23T17:06:41.355Z"}"#;
        for (actual, equal) in [
            (r#""2027-01-01T00:00:00.000Z""#, true),
            (r#""2027-01-01T00:00:00Z""#, false),
            (r#""2027-01-01T00:00:00.000000Z""#, false),
            (r#""2027-01-01 00:00:00.000Z""#, false),
            (r#""2027-01-01T00:00:00.000+""#, false),
            ("null", false),
        ] {
            let actual = format!(r#"{{"commit_timestamp":{actual}}}"#);
            assert_eq!(check(recorded, &actual).is_ok(), equal, "{actual}");
        }
    }),
    ("a_failed_comparison_binds_nothing", || {
        let mut pairs = Pairs::default();
        let text = |text: &str| Event::Text(text.to_owned());
        let recorded = text(r#"{"phx_ref":"a","x":1}"#);
        assert!(events(&recorded, &text(r#"{"phx_ref":"wrong","x":2}"#), &mut pairs).is_err());
        assert_eq!(
            events(&recorded, &text(r#"{"phx_ref":"right","x":1}"#), &mut pairs),
            Ok(())
        );
    }),
    ("headers_of_the_contract_count", || {
        let answer = |headers: &[(&str, &str)], body: &str| {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            Event::Upgrade {
                status: 404,
                headers: headers.iter().map(own).collect(),
                body: body.to_owned(),
            }
        };
        let recorded = answer(
            &[
                ("vary", "accept-encoding"),
                ("x-request-id", "a"),
                ("date", "x"),
            ],
            "Not Found",
        );
        for (actual, equal) in [
            (
                answer(
                    &[("vary", "accept-encoding"), ("x-request-id", "b")],
                    "Not Found",
                ),
                true,
            ),
            (answer(&[("vary", "accept-encoding")], "Not Found"), false),
            (answer(&[("x-request-id", "b")], "Not Found"), false),
            (
                answer(
                    &[("vary", "accept-encoding"), ("x-request-id", "b")],
                    "Gone",
                ),
                false,
            ),
            (Event::End, false),
        ] {
            assert_eq!(
                events(&recorded, &actual, &mut Pairs::default()).is_ok(),
                equal,
                "{actual:?}"
            );
        }
    }),
    ("ids_in_binary_broadcasts_are_bound", || {
        // Encoding 1 is JSON; the ids are those of a row, in its metadata and in its payload.
        let frame = |encoding: u8, ids: [u8; 2]| {
            let [metadata, payload] = ids.map(|id| {
                let id = "00000000-0000-0000-0000-000000000000".replace('0', &id.to_string());
                format!(r#"{{"id":"{id}"}}"#)
            });
            let size = u8::try_from(metadata.len()).expect("it is short");
            let head = [4, 1, 1, size, encoding, b't', b'e'];
            Event::Binary([&head[..], metadata.as_bytes(), payload.as_bytes()].concat())
        };
        for (recorded, actual, equal) in [
            (frame(1, [1, 1]), frame(1, [2, 2]), true),
            (frame(1, [1, 1]), frame(1, [2, 3]), false),
            (frame(0, [1, 1]), frame(0, [2, 1]), true),
            (frame(0, [1, 1]), frame(0, [2, 2]), false),
            (frame(0, [1, 1]), frame(1, [1, 1]), false),
        ] {
            let result = events(&recorded, &actual, &mut Pairs::default());
            assert_eq!(result.is_ok(), equal, "{recorded:?} {actual:?}");
        }
    }),
    ("a_lane_is_a_topic_and_a_kind", || {
        for (event, topic, kind) in [
            (
                Event::Text(r#"[null,null,"t","broadcast",{}]"#.to_owned()),
                "t",
                "broadcast",
            ),
            (
                Event::Text(r#"{"topic":"t","event":"presence_diff"}"#.to_owned()),
                "t",
                "diff",
            ),
            (
                Event::Text(r#"["1","1","t","phx_reply",{}]"#.to_owned()),
                "t",
                "channel",
            ),
            (
                Event::Text(r#"[null,2,3,"phx_reply",{}]"#.to_owned()),
                "3",
                "channel",
            ),
            (
                Event::Binary(b"\x04\x01\x01\x00\x01te{}".to_vec()),
                "t",
                "broadcast",
            ),
            (
                Event::Binary(b"\x02\x01\x01te..".to_vec()),
                "t",
                "broadcast",
            ),
            (Event::Binary(vec![]), "", "binary"),
            (Event::End, "", "connection"),
        ] {
            assert_eq!(lane(&event), (topic.to_owned(), kind), "{event:?}");
        }
    }),
];

fn check(recorded: &str, actual: &str) -> Result<(), String> {
    texts(recorded, actual, &mut Pairs::default())
}
