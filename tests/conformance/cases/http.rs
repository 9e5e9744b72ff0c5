//! The HTTP side that needs no database: health, broadcasts, unknown paths, keeping connections alive.

use serde_json::{Value, json};

use super::{Case, Context, V1, V2, none};
use crate::socket::{self, Event};
use crate::token;

pub const CASES: &[Case] = &[
    Case {
        name: "the_health_check_answers_any_host_and_its_path_only_get",
        limits: none,
        run: |context| {
            assert_answer(
                &context.http("GET", "/healthcheck", &[("host", "whatever")], b""),
                200,
                "ok",
            );
            assert_answer(&context.http("HEAD", "/healthcheck", &[], b""), 200, "");
            assert_answer(
                &context.http("POST", "/healthcheck", &[], b"{}"),
                404,
                "Not Found",
            );
        },
    },
    Case {
        name: "unknown_paths_are_not_found",
        limits: none,
        run: |context| {
            for path in [
                "/nope",
                "/api/nope",
                "/socket",
                "/socket/nope",
                "/realtime/v1/nope",
                "/tenant-metrics",
            ] {
                assert_answer(&context.http("GET", path, &[], b""), 404, "Not Found");
            }
        },
    },
    Case {
        name: "the_metrics_know_who_is_connected",
        limits: none,
        run: |context| {
            let users = || context.metric("realtime_connections_connected");
            assert_eq!(users(), None, "it was never here");
            let mut client = context.joined(V2, "realtime:m", &json!({}));
            assert_eq!(users().as_deref(), Some("1"));
            client.expect_alive();
        },
    },
    Case {
        name: "a_batch_reaches_both_versions_as_text",
        limits: none,
        run: |context| {
            let mut one = context.joined(V1, "realtime:hb", &json!({}));
            let mut two = context.joined(V2, "realtime:hb", &json!({}));
            let messages = r#"{"messages":[{"topic":"hb","event":"e","payload":{"big":12345678901234567890,"f":1.50}},{"topic":"hb","event":"e","payload":{},"id":"abc","x":1},{"topic":"realtime:hb","event":"e","payload":{}}]}"#;
            for path in ["/api/broadcast", "/realtime/v1/api/broadcast"] {
                assert_answer(
                    &post(context, path, "application/json", messages.as_bytes()),
                    202,
                    "",
                );
                for client in [&mut one, &mut two] {
                    let first: Value = serde_json::from_str(r#"{"event":"e","type":"broadcast","payload":{"big":12345678901234567890,"f":1.50}}"#).expect("it is JSON");
                    client.expect_fanout("realtime:hb", "broadcast", &first);
                    let second = json!({"event": "e", "type": "broadcast", "payload": {}, "meta": {"id": "abc"}});
                    client.expect_fanout("realtime:hb", "broadcast", &second);
                    client.expect_alive();
                }
            }
        },
    },
    Case {
        name: "a_single_message_is_a_user_broadcast",
        limits: none,
        run: |context| {
            let mut one = context.joined(V1, "realtime:a b", &json!({}));
            let mut two = context.joined(V2, "realtime:a b", &json!({}));
            let kind_4 = |event: &str, encoding: u8, payload: &[u8]| {
                let sizes = [
                    4,
                    12,
                    u8::try_from(event.len()).expect("short"),
                    0,
                    encoding,
                ];
                [&sizes[..], b"realtime:a b", event.as_bytes(), payload].concat()
            };
            let json_answer = post(
                context,
                "/api/broadcast/a%20b/events/m%2Fs",
                "application/json",
                br#"{"a":1}"#,
            );
            assert_answer(&json_answer, 202, "");
            two.expect_binary(&kind_4("m/s", 1, br#"{"a":1}"#));
            one.expect_fanout(
                "realtime:a b",
                "broadcast",
                &json!({"event": "m/s", "type": "broadcast", "payload": {"a": 1}}),
            );
            let bytes = post(
                context,
                "/api/broadcast/a%20b/events/raw",
                "application/octet-stream",
                b"\x00\xff",
            );
            assert_answer(&bytes, 202, "");
            two.expect_binary(&kind_4("raw", 0, b"\x00\xff"));
            one.expect_alive();
        },
    },
    Case {
        name: "a_single_message_of_another_type_is_unsupported",
        limits: none,
        run: |context| {
            let text = r#"{"error":"Unsupported Media Type. Use application/json or application/octet-stream"}"#;
            assert_answer(
                &post(context, "/api/broadcast/a/events/e", "text/plain", b"x"),
                415,
                text,
            );
        },
    },
    Case {
        name: "a_pre_flight_is_answered",
        limits: none,
        run: |context| {
            for path in [
                "/api/broadcast",
                "/api/broadcast/a/events/e",
                "/realtime/v1/api/broadcast",
            ] {
                let headers = [
                    ("origin", "http://x.example"),
                    ("access-control-request-method", "POST"),
                ];
                match context.http("OPTIONS", path, &headers, b"") {
                    Event::Upgrade {
                        status: 204,
                        headers,
                        ..
                    } => {
                        assert_eq!(
                            headers
                                .get("access-control-allow-origin")
                                .map(String::as_str),
                            Some("*"),
                            "{path}"
                        );
                        assert!(
                            headers.contains_key("access-control-allow-headers"),
                            "{path}: {headers:?}"
                        );
                    }
                    other => panic!("{path}: {other:?}"),
                }
            }
        },
    },
    Case {
        name: "a_token_without_a_space_is_unauthorized",
        limits: none,
        run: |context| {
            let headers = [
                ("authorization", "nospace"),
                ("content-type", "application/json"),
            ];
            let answer = context.http("POST", "/api/broadcast", &headers, br#"{"messages":[]}"#);
            assert_answer(&answer, 401, r#"{"message":"Unauthorized"}"#);
        },
    },
    Case {
        name: "private_messages_without_a_database_are_skipped_or_reported",
        limits: none,
        run: |context| {
            let mut public = context.joined(V2, "realtime:p", &json!({}));
            let batch = br#"{"messages":[{"topic":"p","event":"e","payload":{},"private":true}]}"#;
            assert_answer(
                &post(context, "/api/broadcast", "application/json", batch),
                202,
                "",
            );
            let single = post(
                context,
                "/api/broadcast/p/events/e?private=true",
                "application/json",
                b"{}",
            );
            assert_answer(&single, 422, r#"{"message":"Tenant database unavailable"}"#);
            public.expect_alive();
        },
    },
    Case {
        name: "a_body_over_8_000_000_bytes_is_too_large",
        limits: none,
        run: |context| {
            let body = format!("{{\"messages\":\"{}\"}}", "x".repeat(8_000_001));
            // The server may answer and hang up before all of it is sent, and the answer may get lost in that.
            match try_post(context, "/api/broadcast", body.as_bytes()) {
                Ok(Event::Upgrade { status: 413, .. }) | Err(_) => {}
                other => panic!("{other:?}"),
            }
            context.connect(V2).expect_alive();
        },
    },
];

fn post(context: &Context<'_>, path: &str, kind: &str, body: &[u8]) -> Event {
    let authorization = format!("Bearer {}", token::good());
    context.http(
        "POST",
        path,
        &[("content-type", kind), ("authorization", &authorization)],
        body,
    )
}

fn try_post(context: &Context<'_>, path: &str, body: &[u8]) -> std::io::Result<Event> {
    let headers = [
        ("host", context.host()),
        ("content-type", "application/json".to_owned()),
        ("authorization", format!("Bearer {}", token::good())),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value));
    socket::request(context.server.address, "POST", path, &headers.into(), body)
}

#[track_caller]
fn assert_answer(answer: &Event, status: u16, text: &str) {
    match answer {
        Event::Upgrade {
            status: actual,
            body,
            ..
        } => assert_eq!((*actual, body.as_str()), (status, text)),
        other => panic!("{other:?} instead of {status} {text}"),
    }
}
