//! Any JSON, nearly JSON, and any bytes.

use proptest::prelude::*;
use serde_json::Value;

use crate::phoenix::{
    Encoding, Payload, Topic, Vsn, decode_binary, decode_text, elements, encode_push,
    encode_push_around, encode_reply, encode_user_broadcast, is_json, json_string, json_term_size,
    members, parse_join, string_value, subscription_id,
};

/// Any JSON text.
pub(crate) fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,4})?([eE][-+]?[0-9]{1,2})?",
        any_json_string(),
    ];
    leaf.prop_recursive(8, 64, 6, |inner| {
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..6), "[ \\n]?")
                .prop_map(|(list, space)| format!("[{space}{}{space}]", list.join(","))),
            prop::collection::vec((any_json_string(), inner), 0..6).prop_map(|list| {
                let list: Vec<String> = list.iter().map(|(k, v)| format!("{k}: {v}")).collect();
                format!("{{{}}}", list.join(", "))
            }),
        ]
    })
}

fn any_json_string() -> impl Strategy<Value = String> {
    "\"([ -!#-\\[\\]-~é€😀]|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-cA-Cef][0-9a-f]{3}|\\\\ud83d\\\\ude00){0,20}\""
}

/// JSON with a few bytes changed, removed or doubled.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let special = prop::sample::select(b"\"\\{}[],:0-+.eEtfnu \x00\x1f\x7f\x80\xffd8".to_vec());
    let change = (
        any::<prop::sample::Index>(),
        prop::option::of(special),
        any::<bool>(),
    );
    (any_json(), prop::collection::vec(change, 0..4)).prop_map(|(json, changes)| {
        let mut bytes = json.into_bytes();
        for (at, byte, insert) in changes {
            let at = at.index(bytes.len() + 1);
            match byte {
                Some(byte) if insert || at == bytes.len() => bytes.insert(at, byte),
                Some(byte) => bytes[at] = byte,
                None if at < bytes.len() => drop(bytes.remove(at)),
                None => {}
            }
        }
        bytes
    })
}

/// Whether every number is one that the original's parser takes: an integer, or within the range of a double.
fn numbers_are_finite(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            let text = number.to_string();
            !text.contains(['.', 'e', 'E']) || text.parse().is_ok_and(f64::is_finite)
        }
        Value::Array(list) => list.iter().all(numbers_are_finite),
        Value::Object(map) => map.values().all(numbers_are_finite),
        _ => true,
    }
}

/// Everything that looks at a payload, for the sake of not panicking.
fn read_every_way(text: &str) {
    let _ = parse_join(text);
    json_term_size(text);
    subscription_id(text);
    string_value(text);
    elements(text).for_each(drop);
    members(text).for_each(drop);
    let mut out = Vec::new();
    crate::phoenix::echo_subscription(&mut out, text, 1);
}

proptest! {
    #[test]
    fn validity_agrees_with_serde_json(bytes in nearly_json()) {
        let reference: Result<Value, _> = serde_json::from_slice(&bytes);
        let valid = reference.is_ok_and(|value| numbers_are_finite(&value));
        prop_assert_eq!(is_json(&bytes), valid, "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn json_is_json(json in any_json()) {
        prop_assert!(is_json(json.as_bytes()));
    }

    #[test]
    fn every_level_is_closed_by_its_own_kind(
        objects in prop::collection::vec(any::<bool>(), 1..300),
        wrong in any::<prop::sample::Index>(),
    ) {
        let opening: String = objects.iter().map(|o| if *o { "{\"a\":" } else { "[" }).collect();
        let mut closing: Vec<u8> =
            objects.iter().rev().map(|o| if *o { b'}' } else { b']' }).collect();
        prop_assert!(is_json(&[opening.as_bytes(), b"0", &closing].concat()));
        let wrong = wrong.index(closing.len());
        closing[wrong] ^= b'}' ^ b']';
        prop_assert!(!is_json(&[opening.as_bytes(), b"0", &closing].concat()));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for vsn in [Vsn::V1, Vsn::V2] {
            let _ = decode_text(vsn, &bytes);
            let _ = decode_binary(vsn, &bytes);
            let mut pushed = bytes.clone();
            pushed.insert(0, 3);
            let _ = decode_binary(vsn, &pushed);
        }
        read_every_way(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn nearly_json_never_panics(bytes in nearly_json()) {
        read_every_way(&String::from_utf8_lossy(&bytes));
        for vsn in [Vsn::V1, Vsn::V2] {
            let _ = decode_text(vsn, &bytes);
        }
    }

    #[test]
    fn members_and_elements_agree_with_serde_json(json in any_json()) {
        let value: Value = serde_json::from_str(&json).unwrap();
        let parse = |raw: &str| serde_json::from_str::<Value>(raw).unwrap();
        let found: serde_json::Map<_, _> =
            members(&json).map(|(key, raw)| (key.into_owned(), parse(raw))).collect();
        prop_assert_eq!(found, value.as_object().cloned().unwrap_or_default());
        let found: Vec<_> = elements(&json).map(parse).collect();
        prop_assert_eq!(found, value.as_array().cloned().unwrap_or_default());
        let text = string_value(&json);
        prop_assert_eq!(text.as_deref(), value.as_str());
    }

    #[test]
    fn strings_survive_escaping(text in any::<String>()) {
        let mut json = Vec::new();
        json_string(&mut json, &text);
        let parsed: String = serde_json::from_slice(&json).unwrap();
        prop_assert_eq!(&parsed, &text);
        prop_assert_eq!(string_value(str::from_utf8(&json).unwrap()), Some(text.into()));
    }

    #[test]
    fn an_id_ignores_spelling(json in any_json()) {
        let respelled = |json| serde_json::from_str::<Value>(json).unwrap().to_string();
        let id = subscription_id(&json);
        prop_assert!((1..1 << 27).contains(&id));
        // Numbers keep their spelling, so only it may differ.
        if !json.contains(['.', 'e', 'E', '-']) {
            prop_assert_eq!(subscription_id(&respelled(&json)), id);
        }
    }

    #[test]
    fn text_messages_survive_both_serializers(
        join_ref in any_json(),
        msg_ref in any_json(),
        topic in any_json(),
        event in any::<String>(),
        payload in any_json(),
    ) {
        for vsn in [Vsn::V1, Vsn::V2] {
            let mut out = Vec::new();
            encode_push(&mut out, vsn, &join_ref, &msg_ref, &topic, &event, &payload);
            let frame = unframe(&out);
            let message = decode_text(vsn, frame).unwrap();
            let kept = if vsn == Vsn::V2 { join_ref.as_str() } else { "null" };
            prop_assert_eq!(message.join_ref.as_str(), kept);
            prop_assert_eq!(message.msg_ref.as_str(), &msg_ref);
            prop_assert_eq!(message.topic.raw.as_str(), &topic);
            prop_assert_eq!(message.event.text.as_deref(), Some(event.as_str()));
            prop_assert_eq!(message.payload, Payload::Json(&payload));

            let mut parts = b"before".to_vec();
            let rest = encode_push_around(
                &mut parts, vsn, &join_ref, &msg_ref, &topic, &event, payload.len(),
            );
            parts.extend_from_slice(payload.as_bytes());
            parts.extend_from_slice(rest.as_bytes());
            prop_assert_eq!(parts.strip_prefix(b"before"), Some(&out[..]));

            let mut out = Vec::new();
            encode_reply(&mut out, vsn, &join_ref, &msg_ref, &topic, "ok", &payload);
            let message = decode_text(vsn, unframe(&out)).unwrap();
            let expected = format!("{{\"status\":\"ok\",\"response\":{payload}}}");
            prop_assert_eq!(message.payload, Payload::Json(&expected));
            prop_assert_eq!(message.event.text.as_deref(), Some("phx_reply"));
        }
    }

    #[test]
    fn user_broadcasts_survive_their_way(
        topic in "\\PC{0,60}",
        event in "\\PC{0,60}",
        join_ref in "[0-9]{0,10}",
        payload in any_json(),
        binary in any::<bool>(),
    ) {
        let bytes = payload.as_bytes();
        let sizes = [join_ref.len(), 1, topic.len(), event.len(), 0].map(|size| size as u8);
        let encoding = if binary { Encoding::Binary } else { Encoding::Json };
        let push = [
            &[3][..],
            &sizes,
            &[encoding as u8],
            join_ref.as_bytes(),
            b"7",
            topic.as_bytes(),
            event.as_bytes(),
            bytes,
        ]
        .concat();
        let message = decode_binary(Vsn::V2, &push).unwrap();
        prop_assert_eq!(message.join_ref.as_str(), format!("\"{join_ref}\""));
        prop_assert_eq!(message.topic.text.as_deref(), Some(topic.as_str()));
        prop_assert_eq!(message.payload, Payload::User { event: &event, encoding, bytes });

        let json = message.topic.raw.as_str();
        let topic = Topic { text: &topic, json };
        let mut out = Vec::new();
        encode_user_broadcast(&mut out, Vsn::V2, topic, &event, None, encoding, bytes).unwrap();
        let head = [4, sizes[2], sizes[3], 0, encoding as u8];
        let expected = [&head[..], topic.text.as_bytes(), event.as_bytes(), bytes].concat();
        prop_assert_eq!(unframe(&out), &expected[..]);

        let mut out = Vec::new();
        let written =
            encode_user_broadcast(&mut out, Vsn::V1, topic, &event, None, encoding, bytes);
        prop_assert_eq!(written, Ok(!binary));
        if !binary {
            let value: Value = serde_json::from_slice(unframe(&out)).unwrap();
            prop_assert_eq!(&value["topic"], topic.text);
            prop_assert_eq!(&value["payload"]["event"], &event);
            prop_assert_eq!(&value["payload"]["payload"], &serde_json::from_str::<Value>(&payload).unwrap());
        }
    }
}

/// The payload of the one frame in `out`.
fn unframe(out: &[u8]) -> &[u8] {
    match out[1] {
        127 => &out[10..],
        126 => &out[4..],
        _ => &out[2..],
    }
}
