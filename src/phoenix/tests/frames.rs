//! Worked examples of websocket-protocol sections 3 and 6.3, and what the recordings show of malformed frames.

use crate::phoenix::{
    DecodeError, Encoding, JSON_DEPTH_MAX, Message, Payload, TooLong, Topic, Vsn, decode_binary,
    decode_text, encode_opaque_broadcast, encode_push, encode_reply, encode_user_broadcast,
    fits_binary, is_json, is_json_unread,
};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// `join_ref`, `ref`, topic and event as JSON texts.
fn names<'a>(message: &'a Message<'_>) -> [&'a str; 4] {
    [
        &message.join_ref,
        &message.msg_ref,
        &message.topic.raw,
        &message.event.raw,
    ]
}

/// The payload of the one frame in `out`, which must be of this opcode.
fn payload(out: &[u8], opcode: u8) -> &[u8] {
    assert_eq!(out[0], 0x80 | opcode);
    let (length, payload) = match out[1] {
        126 => (usize::from(out[2]) << 8 | usize::from(out[3]), &out[4..]),
        length => (usize::from(length), &out[2..]),
    };
    assert_eq!(payload.len(), length);
    payload
}

fn text(out: &[u8]) -> &str {
    std::str::from_utf8(payload(out, 1)).unwrap()
}

const ROOM: Topic<'_> = Topic {
    text: "realtime:room1",
    json: "\"realtime:room1\"",
};

#[test]
fn text_messages_of_2_0_0() {
    let check = |text: &str, expected: [&str; 5]| {
        let message = decode_text(Vsn::V2, text.as_bytes()).unwrap();
        let Payload::Json(payload) = message.payload else {
            unreachable!("text frames carry JSON")
        };
        let [join_ref, msg_ref, topic, event] = names(&message);
        assert_eq!(
            [join_ref, msg_ref, topic, event, payload],
            expected,
            "{text}"
        );
    };
    check(
        r#"["1","1","realtime:room1","phx_join",{"config":{"broadcast":{"self":true}}}]"#,
        [
            r#""1""#,
            r#""1""#,
            r#""realtime:room1""#,
            r#""phx_join""#,
            r#"{"config":{"broadcast":{"self":true}}}"#,
        ],
    );
    // A payload need not be an object, and refs may be anything.
    check(
        r#"[null,"22","phoenix","heartbeat",null]"#,
        ["null", r#""22""#, r#""phoenix""#, r#""heartbeat""#, "null"],
    );
    check("[1,2,3,4,5]", ["1", "2", "3", "4", "5"]);
    check("[1,2,3,4,5,6,{}]", ["1", "2", "3", "4", "5"]);
    check(
        " [ [1, 2] , {\"a\" : 1} ,\"t\"\n,\t\"e\" , \"\\u00e9\" ]\r\n",
        ["[1, 2]", "{\"a\" : 1}", "\"t\"", "\"e\"", "\"\\u00e9\""],
    );
}

#[test]
fn topics_and_events_are_decoded() {
    let check = |topic: &str, text: Option<&str>| {
        let frame = format!("[null,null,{topic},{topic},{{}}]");
        let message = decode_text(Vsn::V2, frame.as_bytes()).unwrap();
        for field in [message.topic, message.event] {
            assert_eq!(field.raw, topic);
            assert_eq!(field.text.as_deref(), text);
        }
    };
    check("\"realtime:room1\"", Some("realtime:room1"));
    check(
        "\"with:colons:and space/é\"",
        Some("with:colons:and space/é"),
    );
    check("\"\"", Some(""));
    check("\"a\\\"b\\\\\"", Some("a\"b\\"));
    check("\"\\u0072\\ud83d\\ude00\"", Some("r😀"));
    check("3", None);
    check("null", None);
    check("{\"a\":\"b\"}", None);
}

#[test]
fn text_messages_of_1_0_0() {
    let check = |text: &str, expected: [&str; 5]| {
        let message = decode_text(Vsn::V1, text.as_bytes()).unwrap();
        let Payload::Json(payload) = message.payload else {
            unreachable!("text frames carry JSON")
        };
        let [join_ref, msg_ref, topic, event] = names(&message);
        assert_eq!(
            [join_ref, msg_ref, topic, event, payload],
            expected,
            "{text}"
        );
    };
    check(
        r#"{"topic":"realtime:room1","event":"phx_join","payload":{"config":{}},"ref":"1","join_ref":"1"}"#,
        [
            r#""1""#,
            r#""1""#,
            r#""realtime:room1""#,
            r#""phx_join""#,
            r#"{"config":{}}"#,
        ],
    );
    check(
        r#" { "ref" : null , "x":[{}], "payload" : [ ] ,"event":"e","topic":7 } "#,
        ["null", "null", "7", r#""e""#, "[ ]"],
    );
    // Of a repeated key, the last counts; keys may be written with escapes.
    check(
        r#"{"topic":"a","event":"e","payload":{},"ref":1,"t\u006fpic":"b","ref":"2"}"#,
        ["null", r#""2""#, r#""b""#, r#""e""#, "{}"],
    );
    let binary = br#"{"topic":"t","event":"e","payload":1,"ref":2}"#;
    let message = decode_binary(Vsn::V1, binary).unwrap();
    assert_eq!(names(&message), ["null", "2", r#""t""#, r#""e""#]);
}

#[test]
fn malformed_text_is_told_from_the_unknown() {
    let malformed = |vsn, text: &[u8]| {
        let error = decode_text(vsn, text).unwrap_err();
        let name = String::from_utf8_lossy(text);
        assert!(
            matches!(error, DecodeError::Malformed(_)),
            "{name}: {error:?}"
        );
    };
    for vsn in [Vsn::V1, Vsn::V2] {
        for text in [
            &b""[..],
            b" ",
            b"not json",
            b"{",
            b"[",
            b"[\"1\",\"2\",\"realtime:x\"",
            b"{}",
            b"{\"topic\":\"realtime:z\"}",
            b"{\"topic\":\"t\",\"event\":\"e\",\"payload\":{}}",
            b"{\"topic\":\"t\",\"event\":\"e\",\"payload\":{},\"ref\":1,}",
            b"{\"topic\":\"t\",\"event\":\"e\",\"payload\":{},\"ref\":1}}",
            b"[null,null,\"t\",\"e\",{\"a\":tru}]",
            b"[null,null,\"t\",\"e\",{}] x",
            b"[null,null,\"t\",\"e\",{}",
            b"[null,null,\"t\",\"e\",{},]",
            b"[null,null,\"t\",\"\xff\",{}]",
            b"\xff\xff",
        ] {
            malformed(vsn, text);
        }
    }
    for text in [&b"[]"[..], b"[1,2,3,4]", b"null", b"\"str\"", b"7"] {
        malformed(Vsn::V2, text);
        let error = decode_text(Vsn::V1, text).unwrap_err();
        assert_eq!(error, DecodeError::Unknown("not an object"));
    }
    let object = br#"{"topic":"t","event":"e","payload":1,"ref":2}"#;
    malformed(Vsn::V2, object);
}

#[test]
fn pushes_of_kind_0_are_opaque() {
    for (hex, expected, data) in [
        (
            "00 01 01 0e 09 31 37 72 65 61 6c 74 69 6d 65 3a 72 6f 6f 6d 31 62 72 6f 61 64 63 61 73 74 01 02 03",
            [r#""1""#, r#""7""#, r#""realtime:room1""#, r#""broadcast""#],
            &b"\x01\x02\x03"[..],
        ),
        (
            "00 02 03 05 05 31 32 31 32 33 74 6f 70 69 63 65 76 65 6e 74 65 66 67",
            [r#""12""#, r#""123""#, r#""topic""#, r#""event""#],
            b"efg",
        ),
        ("00 00 00 00 00", [r#""""#; 4], b""),
    ] {
        let bytes = bytes(hex);
        let message = decode_binary(Vsn::V2, &bytes).unwrap();
        assert_eq!(names(&message), expected, "{hex}");
        assert_eq!(message.payload, Payload::Opaque(data), "{hex}");
    }
}

#[test]
fn pushes_of_kind_3_are_user_broadcasts() {
    let check = |hex, refs: [&str; 2], topic: &str, event, encoding, data: &[u8]| {
        let bytes = bytes(hex);
        let message = decode_binary(Vsn::V2, &bytes).unwrap();
        let [join_ref, msg_ref, topic_json, broadcast] = names(&message);
        assert_eq!([join_ref, msg_ref], refs, "{hex}");
        assert_eq!(topic_json, format!("\"{topic}\""), "{hex}");
        assert_eq!(broadcast, "\"broadcast\"", "{hex}");
        assert_eq!(message.event.text.as_deref(), Some("broadcast"));
        let expected = Payload::User {
            event,
            encoding,
            bytes: data,
        };
        assert_eq!(message.payload, expected, "{hex}");
    };
    let refs = ["\"1\"", "\"7\""];
    check(
        "03 01 01 0e 03 00 01 31 37 72 65 61 6c 74 69 6d 65 3a 72 6f 6f 6d 31 6d 73 67 7b 22 61 22 3a 22 62 22 7d",
        refs,
        "realtime:room1",
        "msg",
        Encoding::Json,
        br#"{"a":"b"}"#,
    );
    check(
        "03 01 01 0e 03 00 00 31 37 72 65 61 6c 74 69 6d 65 3a 72 6f 6f 6d 31 6d 73 67 ca fe",
        refs,
        "realtime:room1",
        "msg",
        Encoding::Binary,
        b"\xca\xfe",
    );
    check(
        "03 01 01 0e 03 10 01 31 37 72 65 61 6c 74 69 6d 65 3a 72 6f 6f 6d 31 6d 73 67 7b 22 70 65 72 73 69 73 74 22 3a 74 72 75 65 7d 7b 22 61 22 3a 22 62 22 7d",
        refs,
        "realtime:room1",
        "msg",
        Encoding::Json,
        br#"{"a":"b"}"#,
    );
    check(
        "03 02 03 05 0a 0e 00 31 32 31 32 33 74 6f 70 69 63 75 73 65 72 5f 65 76 65 6e 74 7b 22 73 74 6f 72 65 22 3a 74 72 75 65 7d 65 66 67",
        ["\"12\"", "\"123\""],
        "topic",
        "user_event",
        Encoding::Binary,
        b"efg",
    );
    // Any encoding but 0 is JSON.
    check(
        "03 00 00 01 01 00 ff 74 65 37",
        ["\"\"", "\"\""],
        "t",
        "e",
        Encoding::Json,
        b"7",
    );
}

#[test]
fn other_binary_frames_are_dropped() {
    let unknown = |hex| {
        let error = decode_binary(Vsn::V2, &bytes(hex)).unwrap_err();
        assert!(matches!(error, DecodeError::Unknown(_)), "{hex}: {error:?}");
    };
    let malformed = |hex| {
        let error = decode_binary(Vsn::V2, &bytes(hex)).unwrap_err();
        assert!(
            matches!(error, DecodeError::Malformed(_)),
            "{hex}: {error:?}"
        );
    };
    for hex in [
        "",
        "ff ff",
        "01 01 01 0e 02 31 37 72 65 61 6c 74 69 6d 65 3a 72 6f 6f 6d 31 6f 6b 01 02 03",
        "02 05 05 74 6f 70 69 63 65 76 65 6e 74 65 66 67",
        "04 05 0a 00 01 74 6f 70 69 63 75 73 65 72 5f 65 76 65 6e 74 7b 22 61 22 3a 22 62 22 7d",
        "5b",
        // Cut short: in the sizes, in a name.
        "00",
        "00 00 00 00",
        "00 00 00 00 01",
        "03 00 00 01 01 00",
        "03 00 00 01 01 00 00 74",
        "03 00 00 01 01 05 01 74 65 7b 7d",
        // Names that are not UTF-8.
        "03 01 00 01 01 00 01 ff 74 65 7b 7d",
        "03 00 01 01 01 00 01 ff 74 65 7b 7d",
        "03 00 00 01 01 00 01 ff 65 7b 7d",
        "03 00 00 01 01 00 01 74 ff 7b 7d",
        "00 00 00 00 01 ff",
    ] {
        unknown(hex);
    }
    for hex in [
        // Payloads that are marked as JSON and are not: README, where we differ.
        "03 00 00 01 01 00 01 74 65",
        "03 00 00 01 01 00 01 74 65 7b",
        "03 00 00 01 01 00 01 74 65 7b 7d 7d",
        "03 00 00 01 01 00 02 74 65 22 ff 22",
        // Metadata that is not JSON, even in front of binary data.
        "03 00 00 01 01 01 00 74 65 7b",
        "03 00 00 01 01 01 01 74 65 7b 7b 7d",
    ] {
        malformed(hex);
    }
}

#[test]
fn replies_and_pushes_are_encoded_for_both_serializers() {
    let reply = |vsn, join_ref, msg_ref, status, response| {
        let mut out = Vec::new();
        encode_reply(
            &mut out, vsn, join_ref, msg_ref, ROOM.json, status, response,
        );
        text(&out).to_owned()
    };
    let push = |vsn, join_ref, msg_ref, event, payload| {
        let mut out = Vec::new();
        encode_push(&mut out, vsn, join_ref, msg_ref, ROOM.json, event, payload);
        text(&out).to_owned()
    };
    let response = r#"{"postgres_changes":[]}"#;
    assert_eq!(
        reply(Vsn::V2, "\"1\"", "\"1\"", "ok", response),
        r#"["1","1","realtime:room1","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#
    );
    assert_eq!(
        reply(Vsn::V1, "\"1\"", "\"1\"", "ok", response),
        r#"{"topic":"realtime:room1","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":[]}},"ref":"1"}"#
    );
    assert_eq!(
        reply(Vsn::V2, "null", "2", "error", "\"payload_size_exceeded\""),
        r#"[null,2,"realtime:room1","phx_reply",{"status":"error","response":"payload_size_exceeded"}]"#
    );
    let message = r#"{"event":"m","payload":{"a":1},"type":"broadcast"}"#;
    assert_eq!(
        push(Vsn::V2, "null", "null", "broadcast", message),
        r#"[null,null,"realtime:room1","broadcast",{"event":"m","payload":{"a":1},"type":"broadcast"}]"#
    );
    assert_eq!(
        push(Vsn::V1, "\"ignored\"", "null", "broadcast", message),
        r#"{"topic":"realtime:room1","event":"broadcast","payload":{"event":"m","payload":{"a":1},"type":"broadcast"},"ref":null}"#
    );
    assert_eq!(
        push(Vsn::V2, "\"1\"", "\"1\"", "a\"b\n", "{}"),
        r#"["1","1","realtime:room1","a\"b\n",{}]"#
    );
    let long = format!("\"{}\"", "x".repeat(70_000));
    let mut out = Vec::new();
    encode_push(&mut out, Vsn::V2, "null", "null", ROOM.json, "e", &long);
    assert_eq!(out[..2], [0x81, 127]);
    assert_eq!(
        out.len(),
        10 + long.len() + r#"[null,null,"realtime:room1","e",]"#.len()
    );
}

#[test]
fn user_broadcasts_become_kind_4_or_an_object() {
    let check = |topic, event, metadata, encoding, data: &[u8], hex: &str, object: Option<&str>| {
        let mut out = Vec::new();
        let written =
            encode_user_broadcast(&mut out, Vsn::V2, topic, event, metadata, encoding, data);
        assert_eq!(written, Ok(true));
        assert_eq!(payload(&out, 2), bytes(hex));
        let mut out = Vec::new();
        let written =
            encode_user_broadcast(&mut out, Vsn::V1, topic, event, metadata, encoding, data);
        assert_eq!(written, Ok(object.is_some()));
        if let Some(object) = object {
            assert_eq!(text(&out), object);
        } else {
            assert!(out.is_empty());
        }
    };
    check(
        ROOM,
        "msg",
        None,
        Encoding::Json,
        br#"{"a":"b"}"#,
        "04 0e 03 00 01 72 65 61 6c 74 69 6d 65 3a 72 6f 6f 6d 31 6d 73 67 7b 22 61 22 3a 22 62 22 7d",
        Some(
            r#"{"topic":"realtime:room1","event":"broadcast","payload":{"event":"msg","payload":{"a":"b"},"type":"broadcast"},"ref":null}"#,
        ),
    );
    check(
        ROOM,
        "msg",
        None,
        Encoding::Binary,
        b"\xca\xfe",
        "04 0e 03 00 00 72 65 61 6c 74 69 6d 65 3a 72 6f 6f 6d 31 6d 73 67 ca fe",
        None,
    );
    check(
        ROOM,
        "msg",
        Some(r#"{"id":"5c3b1c1e-7a3d-4a55-9f6c-2f9a4f1f9d10"}"#),
        Encoding::Json,
        br#"{"a":"b"}"#,
        "04 0e 03 2d 01 72 65 61 6c 74 69 6d 65 3a 72 6f 6f 6d 31 6d 73 67 7b 22 69 64 22 3a 22 35 63 33 62 31 63 31 65 2d 37 61 33 64 2d 34 61 35 35 2d 39 66 36 63 2d 32 66 39 61 34 66 31 66 39 64 31 30 22 7d 7b 22 61 22 3a 22 62 22 7d",
        Some(
            r#"{"topic":"realtime:room1","event":"broadcast","payload":{"event":"msg","meta":{"id":"5c3b1c1e-7a3d-4a55-9f6c-2f9a4f1f9d10"},"payload":{"a":"b"},"type":"broadcast"},"ref":null}"#,
        ),
    );
    let topic = Topic {
        text: "topic",
        json: "\"topic\"",
    };
    check(
        topic,
        "user_event",
        Some(r#"{"replayed":true}"#),
        Encoding::Binary,
        b"efg",
        "04 05 0a 11 00 74 6f 70 69 63 75 73 65 72 5f 65 76 65 6e 74 7b 22 72 65 70 6c 61 79 65 64 22 3a 74 72 75 65 7d 65 66 67",
        None,
    );
    check(
        topic,
        "user_event",
        None,
        Encoding::Json,
        br#"{"a":"b"}"#,
        "04 05 0a 00 01 74 6f 70 69 63 75 73 65 72 5f 65 76 65 6e 74 7b 22 61 22 3a 22 62 22 7d",
        Some(
            r#"{"topic":"topic","event":"broadcast","payload":{"event":"user_event","payload":{"a":"b"},"type":"broadcast"},"ref":null}"#,
        ),
    );
    let quote = Topic {
        text: "\"",
        json: r#""\"""#,
    };
    check(
        quote,
        "\"",
        None,
        Encoding::Json,
        b"1",
        "04 01 01 00 01 22 22 31",
        Some(
            r#"{"topic":"\"","event":"broadcast","payload":{"event":"\"","payload":1,"type":"broadcast"},"ref":null}"#,
        ),
    );
}

#[test]
fn recorded_pushes_reach_both_serializers_as_recorded() {
    // broadcast_matrix.v2: what one client sent, and what the others got; the 1.0.0 texts compared parsed.
    for (sent, got, got_1_0_0) in [
        (
            "0301011e06000131367265616c74696d653a626d5f66616c73655f66616c73655f7a37646f7738637572736f727b2278223a327d",
            "041e0600017265616c74696d653a626d5f66616c73655f66616c73655f7a37646f7738637572736f727b2278223a327d",
            r#"{"ref":null,"event":"broadcast","payload":{"event":"cursor","payload":{"x":2},"type":"broadcast"},"topic":"realtime:bm_false_false_z7dow8"}"#,
        ),
        (
            "0301011e03000031377265616c74696d653a626d5f66616c73655f66616c73655f7a37646f7738726177000102ff",
            "041e0300007265616c74696d653a626d5f66616c73655f66616c73655f7a37646f7738726177000102ff",
            "",
        ),
        (
            "0301011e04090131387265616c74696d653a626d5f66616c73655f66616c73655f7a37646f77386d6574617b226b223a2276227d7b226d223a317d",
            "041e0400017265616c74696d653a626d5f66616c73655f66616c73655f7a37646f77386d6574617b226d223a317d",
            r#"{"ref":null,"event":"broadcast","payload":{"event":"meta","payload":{"m":1},"type":"broadcast"},"topic":"realtime:bm_false_false_z7dow8"}"#,
        ),
        (
            "0001011e0931397265616c74696d653a626d5f66616c73655f66616c73655f7a37646f773862726f61646361737468656c6c6f",
            "021e097265616c74696d653a626d5f66616c73655f66616c73655f7a37646f773862726f61646361737468656c6c6f",
            "",
        ),
    ] {
        let sent = bytes(sent);
        let message = decode_binary(Vsn::V2, &sent).unwrap();
        let topic = Topic {
            text: message.topic.text.as_deref().unwrap(),
            json: &message.topic.raw,
        };
        let encode = |vsn| {
            let mut out = Vec::new();
            let written = match message.payload {
                Payload::User {
                    event,
                    encoding,
                    bytes,
                } => encode_user_broadcast(&mut out, vsn, topic, event, None, encoding, bytes),
                Payload::Opaque(data) => {
                    let event = message.event.text.as_deref().unwrap();
                    encode_opaque_broadcast(&mut out, vsn, topic, event, data)
                }
                Payload::Json(_) => unreachable!("a binary frame"),
            };
            written.unwrap().then_some(out)
        };
        assert_eq!(payload(&encode(Vsn::V2).unwrap(), 2), bytes(got));
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        match encode(Vsn::V1) {
            Some(out) => assert_eq!(parse(text(&out)), parse(got_1_0_0)),
            None => assert_eq!(got_1_0_0, ""),
        }
    }
}

#[test]
fn opaque_broadcasts_become_kind_2_or_nothing() {
    let topic = Topic {
        text: "topic",
        json: "\"topic\"",
    };
    for (topic, event, data, hex) in [
        (
            ROOM,
            "broadcast",
            &b"\x01\x02\x03"[..],
            "02 0e 09 72 65 61 6c 74 69 6d 65 3a 72 6f 6f 6d 31 62 72 6f 61 64 63 61 73 74 01 02 03",
        ),
        (
            topic,
            "event",
            b"efg",
            "02 05 05 74 6f 70 69 63 65 76 65 6e 74 65 66 67",
        ),
    ] {
        let mut out = Vec::new();
        assert_eq!(
            encode_opaque_broadcast(&mut out, Vsn::V1, topic, event, data),
            Ok(false)
        );
        assert!(out.is_empty());
        assert_eq!(
            encode_opaque_broadcast(&mut out, Vsn::V2, topic, event, data),
            Ok(true)
        );
        assert_eq!(payload(&out, 2), bytes(hex));
    }
}

#[test]
fn names_of_256_bytes_fit_no_binary_frame() {
    let (long, longer) = ("é".repeat(127) + "x", "é".repeat(128));
    let (long, longer) = (long.as_str(), longer.as_str());
    assert_eq!(fits_binary(long, long, Some(long)), Ok(()));
    assert_eq!(fits_binary(longer, "e", None), Err(TooLong));
    assert_eq!(fits_binary("t", longer, None), Err(TooLong));
    assert_eq!(fits_binary("t", "e", Some(longer)), Err(TooLong));
    for vsn in [Vsn::V1, Vsn::V2] {
        let mut out = Vec::new();
        let json = format!("\"{longer}\"");
        let topic = Topic {
            text: longer,
            json: &json,
        };
        let result = encode_user_broadcast(&mut out, vsn, topic, "e", None, Encoding::Json, b"1");
        assert_eq!(result, Err(TooLong));
        assert_eq!(
            encode_opaque_broadcast(&mut out, vsn, topic, "e", b""),
            Err(TooLong)
        );
        assert!(out.is_empty(), "nothing is half-written");
    }
}

#[test]
fn json_is_checked_to_the_letter() {
    for (text, valid) in [
        ("{}", true),
        ("[]", true),
        (" \t\r\n0 ", true),
        ("\u{a0}0", false),
        ("\u{feff}0", false),
        ("-0", true),
        ("-", false),
        ("+1", false),
        ("01", false),
        ("-01", false),
        ("1.", false),
        (".5", false),
        ("1.5e", false),
        ("1e+", false),
        ("1E-05", true),
        ("0e0", true),
        ("0x1", false),
        ("1_000", false),
        ("NaN", false),
        ("Infinity", false),
        ("1e308", true),
        ("1e309", false),
        ("-1e309", false),
        ("1e-400", true),
        ("0e999", true),
        (
            "123456789012345678901234567890123456789012345678901234567890",
            true,
        ),
        ("tru", false),
        ("truee", false),
        ("True", false),
        ("nul", false),
        ("nullnull", false),
        ("\"\"", true),
        ("\"", false),
        ("'a'", false),
        ("\"\t\"", false),
        ("\"\u{7f}\"", true),
        ("\"\u{1f}\"", false),
        ("\"1234567\u{1f}\"", false),
        ("\"\\x\"", false),
        ("\"\\\"", false),
        ("\"\\u12\"", false),
        ("\"\\u12g4\"", false),
        ("\"\\u+123\"", false),
        ("\"\\U0041\"", false),
        ("\"\\ud83d\\ude00\"", true),
        ("\"\\ud83d\"", false),
        ("\"\\ud83dx\"", false),
        ("\"\\ud83d\\u0041\"", false),
        ("\"\\ud83d\\ud83d\"", false),
        ("\"\\ude00\"", false),
        ("[1,]", false),
        ("[,1]", false),
        ("[1 2]", false),
        ("[1", false),
        ("1]", false),
        ("[}", false),
        ("{\"a\":1]", false),
        ("[{]}", false),
        ("{\"a\"}", false),
        ("{\"a\":}", false),
        ("{\"a\":1,}", false),
        ("{a:1}", false),
        ("{1:1}", false),
        ("{\"a\":1 \"b\":2}", false),
        ("{\"a\" : [ { } , [ ] ] , \"a\" : null }", true),
        ("{}{}", false),
        ("// comment\n1", false),
    ] {
        assert_eq!(is_json(text.as_bytes()), valid, "{text}");
        assert!(is_json_unread(text.as_bytes()) || !valid, "{text}");
    }
    assert!(!is_json(b"\"\xff\""));
    assert!(!is_json(b"\"\xed\xa0\x80\""));
    let digits = "1".repeat(400);
    assert!(is_json(digits.as_bytes()), "integers have any length");
    assert!(!is_json(format!("{digits}.5").as_bytes()), "doubles do not");
}

/// README, where we differ: a payload of kind 3 has to be JSON. The original does not read it, so it need not be one that its parser takes.
#[test]
fn a_payload_that_nobody_reads_is_checked_by_its_grammar_alone() {
    let check = |payload: &[u8], is_ok: bool| {
        let bytes = [b"\x03\x00\x00\x01\x01\x00\x01te", payload].concat();
        let shown = String::from_utf8_lossy(payload);
        match decode_binary(Vsn::V2, &bytes) {
            Ok(message) => {
                assert!(is_ok, "{shown}");
                let Payload::User { bytes, .. } = message.payload else {
                    unreachable!("kind 3 carries a user's payload")
                };
                assert_eq!(bytes, payload, "{shown}");
            }
            Err(error) => assert!(!is_ok, "{shown}: {error:?}"),
        }
    };
    for (payload, is_ok) in [
        (r#"{"a":"\ud83d"}"#, true),
        (r#""\ude00\ud83d x""#, true),
        (r#""\ud83d\ude00""#, true),
        ("[1e400,-1e400]", true),
        (r#""\ud83""#, false),
        (r#""\ud83d\x""#, false),
        ("[1e]", false),
        ("{\"a\"}", false),
    ] {
        check(payload.as_bytes(), is_ok);
    }
    check(b"\"\xed\xa0\x80\"", false);
    let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
    check(&nested(JSON_DEPTH_MAX), true);
    check(&nested(JSON_DEPTH_MAX + 1), false);
}

#[test]
fn deep_nesting_is_malformed() {
    let nested = |opening: &str, closing: &str, depth: usize| {
        format!("{}1{}", opening.repeat(depth), closing.repeat(depth))
    };
    for (opening, closing) in [("[", "]"), ("{\"a\":", "}")] {
        assert!(is_json(nested(opening, closing, JSON_DEPTH_MAX).as_bytes()));
        assert!(!is_json(
            nested(opening, closing, JSON_DEPTH_MAX + 1).as_bytes()
        ));
        let million = opening.repeat(1_000_000);
        assert!(!is_json(million.as_bytes()));
        for vsn in [Vsn::V1, Vsn::V2] {
            for head in ["", "[null,null,null,null,", "{\"payload\":"] {
                let error = decode_text(vsn, format!("{head}{million}").as_bytes()).unwrap_err();
                assert!(matches!(error, DecodeError::Malformed(_)));
            }
        }
    }
    let alternating = nested("[{\"a\":", "}]", JSON_DEPTH_MAX / 2);
    assert!(is_json(alternating.as_bytes()));
    assert!(!is_json(alternating.replace("1}", "1]").as_bytes()));
}
