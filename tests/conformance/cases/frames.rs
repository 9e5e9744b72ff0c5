//! Serializers and frames: refs, malformed input, binary kinds, sizes (checklist 9 to 16).

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::{Case, V1, V2, none};
use crate::socket::{Event, frame, header, opcode};

pub const CASES: &[Case] = &[
    Case {
        name: "refs_of_any_json_type_are_echoed_unchanged",
        limits: none,
        run: |context| {
            for vsn in [V1, V2] {
                let mut client = context.connect(vsn);
                for msg_ref in [
                    "7",
                    "\"7\"",
                    "null",
                    "1.50",
                    "12345678901234567890123",
                    "true",
                    "[1,{\"a\":null}]",
                    "{}",
                    "\"\\u00e9\\\"\"",
                ] {
                    if vsn == V1 {
                        client.text(&format!(r#"{{"topic":"phoenix","event":"heartbeat","payload":{{}},"ref":{msg_ref}}}"#));
                    } else {
                        client.text(&format!(r#"[null,{msg_ref},"phoenix","heartbeat",{{}}]"#));
                    }
                    let Event::Text(text) = client.next() else {
                        panic!("no text")
                    };
                    let reply: Value = serde_json::from_str(&text).expect("a reply is JSON");
                    let echoed = if vsn == V1 { &reply["ref"] } else { &reply[1] };
                    let sent: Value =
                        serde_json::from_str(msg_ref).expect("the test's refs are JSON");
                    assert_eq!(*echoed, sent, "{vsn}: {text}");
                }
            }
        },
    },
    Case {
        name: "a_malformed_frame_is_dropped_and_the_next_one_answered",
        limits: none,
        run: |context| {
            let deep = "[".repeat(100_000);
            let both = [
                "",
                " ",
                "not json",
                "null",
                "\"str\"",
                "5",
                "{}",
                "[]",
                "[1]",
                "[1,2,3]",
                "\u{feff}[]",
                "[,]",
                "{\"a\":",
                &deep,
            ];
            let v1 = [
                r#"[null,"1","phoenix","heartbeat",{}]"#,
                r#"{"topic":"phoenix","event":"heartbeat","payload":{}}"#,
                r#"{"topic":"phoenix","event":"heartbeat","ref":"1"}"#,
                r#"{"topic":"phoenix","payload":{},"ref":"1"}"#,
                r#"{"event":"heartbeat","payload":{},"ref":"1"}"#,
            ];
            let v2 = [
                r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}"#,
                r#"[null,"1","phoenix","heartbeat"]"#,
                r#"[null,"1","phoenix","heartbeat",{}"#,
                r#"[null,"1","phoenix","heartbeat",{}]x"#,
                r#"[null,"1","phoenix","heartbeat",{"a":01}]"#,
                "[null,\"1\",\"phoenix\",\"heartbeat\",\"\u{1}\"]",
            ];
            for (vsn, own) in [(V1, v1.as_slice()), (V2, v2.as_slice())] {
                let mut client = context.connect(vsn);
                for text in both.iter().chain(own) {
                    client.text(text);
                    client.expect_alive();
                }
            }
        },
    },
    Case {
        name: "invalid_utf_8_in_a_text_frame_is_dropped_or_closes_with_1007",
        limits: none,
        run: |context| {
            // The protocol drops what is not JSON; RFC 6455 section 8.1 closes. Either harms nobody else.
            for bytes in [
                &b"\xff\xfe"[..],
                b"[null,\"1\",\"phoenix\",\"heartbeat\",\"\xc3\x28\"]",
                b"\xed\xa0\x80",
            ] {
                let mut client = context.connect(V2);
                client
                    .writer()
                    .raw(&frame(true, opcode::TEXT, bytes))
                    .expect("the server reads");
                client.text(r#"[null,"after","phoenix","heartbeat",{}]"#);
                match client.next() {
                    Event::Text(text) => assert!(text.contains("after"), "{text}"),
                    other => assert!(
                        matches!(other, Event::Close { code: 1007, .. }),
                        "{other:?}"
                    ),
                }
            }
            context.connect(V2).expect_alive();
        },
    },
    Case {
        name: "extra_elements_and_keys_are_ignored",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            client.text(r#"[null,"1","phoenix","heartbeat",{},"more",[]]"#);
            client.expect_message(
                r#"[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]"#,
            );
            let mut client = context.connect(V1);
            client.text(r#"{"x":1,"topic":"phoenix","event":"heartbeat","payload":null,"ref":null,"join_ref":[]}"#);
            let Event::Text(text) = client.next() else {
                panic!("no text")
            };
            let reply: Value = serde_json::from_str(&text).expect("a reply is JSON");
            assert_eq!(
                reply.as_object().map(serde_json::Map::len),
                Some(4),
                "{text}"
            );
        },
    },
    Case {
        name: "a_binary_frame_of_a_wrong_kind_or_cut_short_is_dropped",
        limits: none,
        run: |context| {
            let whole = user_push("j", "1", "realtime:kinds", "msg", "", 1, b"{}");
            for vsn in [V1, V2] {
                let mut client =
                    context.joined(vsn, "realtime:kinds", &json!({"broadcast": {"self": true}}));
                let mut bad: Vec<Vec<u8>> = [1, 2, 4, 5, 255]
                    .map(|kind| [&[kind], &whole[1..]].concat())
                    .to_vec();
                bad.push(Vec::new());
                // Cut inside of the header or of a field; from the payload on, it is a shorter payload.
                bad.extend((1..whole.len() - 2).map(|size| whole[..size].to_vec()));
                for bytes in bad {
                    client.binary(&bytes);
                    client.expect_alive();
                }
            }
        },
    },
    Case {
        name: "kind_3_reaches_2_0_0_as_kind_4_and_1_0_0_as_an_object",
        limits: none,
        run: |context| {
            let topic = "realtime:kind3";
            let mut sender = context.joined(V2, topic, &json!({"broadcast": {"ack": true}}));
            let mut two = context.joined(V2, topic, &json!({}));
            let mut one = context.joined(V1, topic, &json!({}));
            for (metadata, encoding, payload) in [
                ("", 1, &b"{ \"b\":1, \"a\" : 1.50 }"[..]),
                ("", 7, b"{\"a\":\"b\"}"),
                ("{\"persist\":true}", 1, b"{\"a\":\"b\"}"),
                ("", 0, b"\xca\xfe"),
                ("{\"k\":1}", 0, b""),
            ] {
                sender.binary(&user_push(
                    "j", "5", topic, "msg", metadata, encoding, payload,
                ));
                sender.expect_reply("5", topic, "ok", &json!({}));
                let encoding = u8::from(encoding != 0);
                two.expect_binary(
                    &[
                        &[4, topic.len() as u8, 3, 0, encoding],
                        topic.as_bytes(),
                        b"msg",
                        payload,
                    ]
                    .concat(),
                );
                if encoding == 1 {
                    let payload: Value =
                        serde_json::from_slice(payload).expect("the test's payloads are JSON");
                    one.expect_fanout(
                        topic,
                        "broadcast",
                        &json!({"event": "msg", "type": "broadcast", "payload": payload}),
                    );
                }
            }
            one.expect_alive();
            two.expect_alive();
        },
    },
    Case {
        name: "a_kind_3_payload_that_only_claims_to_be_json_is_dropped",
        limits: none,
        run: |context| {
            let topic = "realtime:forged";
            let mut sender = context.joined(
                V2,
                topic,
                &json!({"broadcast": {"ack": true, "self": true}}),
            );
            let mut one = context.joined(V1, topic, &json!({}));
            let forged: [(&str, &[u8]); 5] = [
                ("", b"{"),
                ("", b"1},\"x\":{"),
                ("", b""),
                ("", b"\xff"),
                ("not json", b"{}"),
            ];
            for (metadata, payload) in forged {
                sender.binary(&user_push("j", "6", topic, "msg", metadata, 1, payload));
                sender.expect_alive();
            }
            sender.binary(&user_push("j", "7", topic, "end", "", 1, b"1"));
            one.expect_fanout(
                topic,
                "broadcast",
                &json!({"event": "end", "type": "broadcast", "payload": 1}),
            );
        },
    },
    Case {
        name: "kind_0_reaches_2_0_0_as_kind_2_and_1_0_0_never",
        limits: none,
        run: |context| {
            let topic = "realtime:kind0";
            let mut sender = context.joined(V2, topic, &json!({"broadcast": {"ack": true}}));
            let mut two = context.joined(V2, topic, &json!({}));
            let mut one = context.joined(V1, topic, &json!({}));
            let head = [0, 1, 1, topic.len() as u8, 9];
            sender.binary(
                &[
                    &head,
                    &b"j8"[..],
                    topic.as_bytes(),
                    b"broadcast",
                    b"\x01\x02\x03",
                ]
                .concat(),
            );
            sender.expect_reply("8", topic, "ok", &json!({}));
            two.expect_binary(
                &[
                    &[2, topic.len() as u8, 9],
                    topic.as_bytes(),
                    b"broadcast",
                    b"\x01\x02\x03",
                ]
                .concat(),
            );
            sender.push(topic, "broadcast", &json!({"event": "end"}));
            one.expect_fanout(topic, "broadcast", &json!({"event": "end"}));
        },
    },
    Case {
        name: "an_event_longer_than_a_header_byte_reaches_1_0_0_from_text_alone",
        limits: none,
        run: |context| {
            let topic = "realtime:long";
            let mut sender = context.joined(V2, topic, &json!({}));
            let mut member = context.joined(V2, topic, &json!({}));
            let payload = json!({"type": "broadcast", "event": "e".repeat(300), "payload": {}});
            sender.push(topic, "broadcast", &payload);
            member.expect_fanout(topic, "broadcast", &payload);
        },
    },
    Case {
        name: "a_frame_over_5_000_000_bytes_closes_its_own_connection_with_1009",
        limits: none,
        run: |context| {
            let mut bystander = context.connect(V2);
            let mut client = context.connect(V2);
            // The header is enough; a client that would still write could see a reset.
            client
                .writer()
                .raw(&header(true, opcode::TEXT, 5_000_001))
                .expect("the server reads");
            client.expect_close(1009);
            bystander.expect_alive();
        },
    },
    Case {
        name: "fragments_over_5_000_000_bytes_together_close_with_1009",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            let part = vec![b' '; 1_000_000];
            client
                .writer()
                .raw(&frame(false, opcode::TEXT, &part))
                .expect("the server reads");
            for _ in 0..4 {
                client
                    .writer()
                    .raw(&frame(false, opcode::CONTINUATION, &part))
                    .expect("the server reads");
            }
            client
                .writer()
                .raw(&header(true, opcode::CONTINUATION, 1))
                .expect("the server reads");
            client.expect_close(1009);
        },
    },
    Case {
        name: "a_frame_of_5_000_000_bytes_is_read",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            let heartbeat = r#"[null,"big","phoenix","heartbeat",""]"#;
            let (start, end) = heartbeat.split_at(heartbeat.len() - 2);
            let filler = "x".repeat(5_000_000 - heartbeat.len());
            client.text(&format!("{start}{filler}{end}"));
            let Event::Text(text) = client.next() else {
                panic!("no text")
            };
            assert!(
                text.starts_with(r#"[null,"big","phoenix","phx_reply""#),
                "{text}"
            );
        },
    },
    Case {
        name: "one_topic_speaks_each_member_s_version",
        limits: none,
        run: |context| {
            let topic = "realtime:both";
            let mut one = context.joined(V1, topic, &json!({}));
            let mut two = context.joined(V2, topic, &json!({}));
            for vsn in [V1, V2] {
                let mut sender = context.joined(vsn, topic, &json!({}));
                sender.push(topic, "broadcast", &EVERY_SHAPE);
                one.expect_fanout(topic, "broadcast", &EVERY_SHAPE);
                two.expect_fanout(topic, "broadcast", &EVERY_SHAPE);
            }
        },
    },
];

static EVERY_SHAPE: LazyLock<Value> = LazyLock::new(|| {
    let text = r#"{"type":"broadcast","event":"e","payload":{"n":null,"f":1.50,"big":12345678901234567890,
        "t":"é\u0000\"\\/","e":{},"l":[[],[1]],"":true},"extra":1}"#;
    serde_json::from_str(text).expect("it is JSON")
});

/// A kind 3 frame (specification, section 3.3).
pub fn user_push(
    join_ref: &str,
    msg_ref: &str,
    topic: &str,
    event: &str,
    metadata: &str,
    encoding: u8,
    payload: &[u8],
) -> Vec<u8> {
    let texts = [join_ref, msg_ref, topic, event, metadata];
    let size = |text: &&str| u8::try_from(text.len()).expect("a header holds one byte a size");
    let mut out = vec![3];
    out.extend(texts.iter().map(size));
    out.push(encoding);
    texts.iter().for_each(|text| out.extend(text.as_bytes()));
    out.extend(payload);
    out
}
