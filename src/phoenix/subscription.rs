//! One wish for row changes, as the join reply echoes it (websocket-protocol section 5.4).

use super::escape::json_string;
use super::phash::phash2_of_json;
use super::scan::members;
use std::borrow::Cow;

/// The id of a subscription: 27 bits that depend on the object's content only, not on its spelling or the order of its keys.
///
/// The original's, which is its runtime's hash of the parsed object (spec: postgres-changes 2.1); but never 0, which client libraries
/// take for none.
pub fn subscription_id(raw: &str) -> u32 {
    (phash2_of_json(raw) & 0x07ff_ffff).max(1)
}

/// Appends the client's object unchanged, plus `id`. An `id` that it already has is replaced.
///
/// `raw` is the checked text of an object.
pub fn echo_subscription(out: &mut Vec<u8>, raw: &str, id: u32) {
    let mut number = itoa::Buffer::new();
    out.extend_from_slice(b"{\"id\":");
    out.extend_from_slice(number.format(id).as_bytes());
    if members(raw).any(|(key, _)| key == "id") {
        for (key, value) in members(raw).filter(|(key, _)| key != "id") {
            out.push(b',');
            json_string(out, &key);
            out.push(b':');
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b'}');
        return;
    }
    let inside = raw.trim_start().strip_prefix('{').unwrap_or("}");
    if members(raw).next().is_some() {
        out.push(b',');
    }
    out.extend_from_slice(inside.as_bytes());
}

/// The subscription that the sub topic itself is, when a join has no `config` at all (websocket-protocol section 5.1):
/// `schema`, `schema:table` or `schema:table:filter`, as an object.
pub fn legacy_subscription(sub_topic: &str) -> String {
    let mut object = Vec::new();
    let mut parts = sub_topic.splitn(3, ':').map(Cow::Borrowed);
    for (opening, name) in [("{", "schema"), (",", "table"), (",", "filter")] {
        let Some(part) = parts.next() else { break };
        object.extend_from_slice(opening.as_bytes());
        json_string(&mut object, name);
        object.push(b':');
        json_string(&mut object, &part);
    }
    object.push(b'}');
    String::from_utf8(object).expect("made of strings")
}

#[cfg(test)]
mod tests {
    use super::{echo_subscription, legacy_subscription, subscription_id};

    #[test]
    fn an_id_depends_on_content_only() {
        let id = subscription_id(r#"{"event":"*","schema":"public","table":"todos"}"#);
        // The one that the original has for it.
        assert_eq!(id, 68_883_293);
        for same in [
            r#"{"table":"todos","schema":"public","event":"*"}"#,
            r#"{ "event" : "\u002a" , "schema":"public","table":"todos"}"#,
            r#"{"event":"INSERT","event":"*","schema":"public","table":"todos"}"#,
            r#"{"\u0065vent":"*","schema":"public","table":"todos"}"#,
        ] {
            assert_eq!(subscription_id(same), id, "{same}");
        }
        for other in [
            r#"{"event":"*","schema":"public","table":"todo"}"#,
            r#"{"event":"*","schema":"public"}"#,
            r#"{"event":"*","schema":"public","table":"todos","filter":null}"#,
            r#"{"event":"*","schema":"publict","able":"todos"}"#,
            r#"{"event":["*"],"schema":"public","table":"todos"}"#,
            "{}",
        ] {
            assert_ne!(subscription_id(other), id, "{other}");
            assert!(subscription_id(other) < 1 << 27);
        }
        assert_ne!(
            subscription_id(r#"{"a":1}"#),
            subscription_id(r#"{"a":"1"}"#)
        );
        assert_ne!(
            subscription_id(r#"{"a":[1,2]}"#),
            subscription_id(r#"{"a":[2,1]}"#)
        );
        let nested = |inner: &str| format!("{}{inner}{}", "{\"a\":".repeat(900), "}".repeat(900));
        assert_ne!(subscription_id(&nested("1")), subscription_id(&nested("2")));
    }

    #[test]
    fn an_echo_is_the_object_with_its_id() {
        for (raw, echo) in [
            ("{}", r#"{"id":7}"#),
            (" { } ", r#"{"id":7 } "#),
            (r#"{"event":"*"}"#, r#"{"id":7,"event":"*"}"#),
            (
                r#"{"b": [1, 2],"a":null}"#,
                r#"{"id":7,"b": [1, 2],"a":null}"#,
            ),
            (r#"{"id":1}"#, r#"{"id":7}"#),
            (
                r#"{"a":"\n","id":1,"b":{"id":2},"\u0069d":3}"#,
                r#"{"id":7,"a":"\n","b":{"id":2}}"#,
            ),
        ] {
            let mut out = Vec::new();
            echo_subscription(&mut out, raw, 7);
            assert_eq!(String::from_utf8(out).unwrap(), echo);
        }
    }

    #[test]
    fn a_legacy_topic_is_split_at_its_first_two_colons() {
        for (sub_topic, object) in [
            ("noconfig", r#"{"schema":"noconfig"}"#),
            ("*", r#"{"schema":"*"}"#),
            ("public:todos", r#"{"schema":"public","table":"todos"}"#),
            (
                "public:todos:n=eq.7",
                r#"{"schema":"public","table":"todos","filter":"n=eq.7"}"#,
            ),
            (
                "public:todos:a=eq.x:y",
                r#"{"schema":"public","table":"todos","filter":"a=eq.x:y"}"#,
            ),
            ("public:", r#"{"schema":"public","table":""}"#),
            ("a\"b", r#"{"schema":"a\"b"}"#),
        ] {
            assert_eq!(legacy_subscription(sub_topic), object);
        }
    }
}
