//! Topics, leaving, rejoining, the ends of a socket (checklist 17 to 27).

use std::time::Duration;

use serde_json::json;

use super::{Case, V1, V2, none};
use crate::clock;
use crate::server::{self, Server};
use crate::socket::{Event, frame, opcode};

pub const CASES: &[Case] = &[
    Case {
        name: "only_a_heartbeat_is_an_event_of_the_topic_phoenix",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            for payload in ["{}", "null", "5", "[]", r#"{"access_token":"x"}"#] {
                client.text(&format!(r#"[null,"1","phoenix","heartbeat",{payload}]"#));
                client.expect_message(
                    r#"[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]"#,
                );
            }
            client.text(r#"["1","2","phoenix","phx_join",{}]"#);
            client.expect_message(&unmatched("\"2\"", "phoenix"));
            client.text(r#"["1","3","phoenix","other",{}]"#);
            client.expect_message(&unmatched("\"3\"", "phoenix"));
        },
    },
    Case {
        name: "what_has_no_channel_is_unmatched_at_once",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            let start = clock::now();
            for (topic, event) in [
                ("room", "phx_join"),
                ("realtime", "phx_join"),
                ("realtime:a", "broadcast"),
                ("realtime:a", "presence"),
                ("", "x"),
            ] {
                client.text(&json!(["1", "9", topic, event, {}]).to_string());
                client.expect_message(&unmatched("\"9\"", topic));
            }
            client.text("[1,2,3,4,5]");
            client.expect_message(r#"[null,2,3,"phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#);
            assert!(clock::now() - start < Duration::from_secs(4));
        },
    },
    Case {
        name: "leaving_what_was_not_joined_is_ok",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            client.text(r#"["1","2","realtime:a","phx_leave",{}]"#);
            client.expect_message(
                r#"["1","2","realtime:a","phx_reply",{"status":"ok","response":{}}]"#,
            );
            client.expect_alive();
        },
    },
    Case {
        name: "leaving_is_answered_and_then_closes_the_channel",
        limits: none,
        run: |context| {
            for vsn in [V1, V2] {
                let mut client = context.joined(vsn, "realtime:a", &json!({}));
                let leave = client.push("realtime:a", "phx_leave", &json!({}));
                client.expect_reply(&leave, "realtime:a", "ok", &json!({}));
                client.expect_closed("realtime:a");
                client.expect_alive();
            }
        },
    },
    Case {
        name: "a_leave_of_an_earlier_join_is_ignored",
        limits: none,
        run: |context| {
            let mut client =
                context.joined(V2, "realtime:a", &json!({"broadcast": {"self": true}}));
            for join_ref in [json!("old"), json!(null), json!(5)] {
                client.send(
                    &join_ref,
                    &json!("1"),
                    "realtime:a",
                    "phx_leave",
                    &json!({}),
                );
                client.expect_alive();
            }
            client.push("realtime:a", "broadcast", &json!({"event": "e"}));
            client.expect_fanout("realtime:a", "broadcast", &json!({"event": "e"}));
        },
    },
    Case {
        name: "a_stale_missing_or_null_ref_is_accepted",
        limits: none,
        run: |context| {
            let mut client =
                context.joined(V2, "realtime:a", &json!({"broadcast": {"self": true}}));
            for (join_ref, msg_ref) in [
                (json!("old"), json!("1")),
                (json!(null), json!("2")),
                (json!("j"), json!(null)),
            ] {
                client.send(
                    &join_ref,
                    &msg_ref,
                    "realtime:a",
                    "broadcast",
                    &json!({"event": "e"}),
                );
                client.expect_fanout("realtime:a", "broadcast", &json!({"event": "e"}));
            }
        },
    },
    Case {
        name: "joining_again_replaces_the_channel_after_the_reply",
        limits: none,
        run: |context| {
            let mut client =
                context.joined(V2, "realtime:a", &json!({"broadcast": {"self": false}}));
            client.text(
                r#"["k","k","realtime:a","phx_join",{"config":{"broadcast":{"self":true}}}]"#,
            );
            client.expect_message(r#"["k","k","realtime:a","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#);
            client.expect_closed("realtime:a");
            // Once, although the topic was joined twice.
            client.push("realtime:a", "broadcast", &json!({"event": "e"}));
            client.expect_fanout("realtime:a", "broadcast", &json!({"event": "e"}));
            client.expect_alive();
        },
    },
    Case {
        name: "an_unknown_event_has_no_answer_and_no_effect",
        limits: none,
        run: |context| {
            // A topic each: the acknowledged broadcast of the first may still be on its way when the second joins.
            for (vsn, topic) in [(V1, "realtime:a"), (V2, "realtime:b")] {
                let mut client = context.joined(vsn, topic, &json!({"broadcast": {"ack": true}}));
                for event in [
                    "heartbeat",
                    "phx_reply",
                    "phx_error",
                    "phx_close",
                    "nosuchevent",
                    "",
                    "phx_join2",
                ] {
                    client.push(topic, event, &json!({}));
                    client.expect_alive();
                }
                let sent = client.push(topic, "broadcast", &json!({}));
                client.expect_reply(&sent, topic, "ok", &json!({}));
            }
        },
    },
    Case {
        name: "a_ping_is_answered_with_its_payload",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            for payload in [&b""[..], b"hello", &[0xff; 125]] {
                client
                    .writer()
                    .raw(&frame(true, opcode::PING, payload))
                    .expect("the server reads");
                assert_eq!(client.next(), Event::Pong(payload.to_vec()));
            }
            client
                .writer()
                .raw(&frame(true, opcode::PONG, b"unasked"))
                .expect("the server reads");
            client.expect_alive();
        },
    },
    Case {
        name: "a_silent_socket_is_closed_after_60_to_66_seconds",
        limits: none,
        run: |context| {
            // Before the last thing that is sent: on a busy machine the answer may be seen late.
            let start = clock::now();
            let mut client = context.joined(V2, "realtime:a", &json!({}));
            let (event, at) = client.next_within(Duration::from_secs(75));
            assert_eq!(
                event,
                Event::Close {
                    code: 1000,
                    reason: String::new()
                }
            );
            let took = (at - start).as_secs_f64();
            assert!((59.9..70.0).contains(&took), "after {took} s");
        },
    },
    Case {
        name: "a_ping_counts_as_a_sign_of_life",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            let start = clock::now();
            // Nothing may come for 40 s; then a ping starts the time anew.
            client.expect_silence(Duration::from_secs(40));
            client
                .writer()
                .raw(&frame(true, opcode::PING, b""))
                .expect("the server reads");
            assert_eq!(client.next(), Event::Pong(Vec::new()));
            let (event, at) = client.next_within(Duration::from_secs(75));
            assert_eq!(
                event,
                Event::Close {
                    code: 1000,
                    reason: String::new()
                }
            );
            assert!((at - start).as_secs() >= 99, "after {:?}", at - start);
        },
    },
    Case {
        name: "a_close_is_answered_in_kind",
        limits: none,
        run: |context| {
            context.connect(V1).close();
            context.joined(V2, "realtime:a", &json!({})).close();
        },
    },
    Case {
        name: "a_stopping_server_closes_every_joined_socket_with_1012_and_ends",
        limits: none,
        run: |context| {
            let server = Server::start(
                context.setup,
                &[server::tenant(&context.tenant, &json!({}))],
                &[],
            );
            let own = super::Context {
                server: &server,
                setup: context.setup,
                tenant: context.tenant.clone(),
            };
            let presence = json!({"presence": {"enabled": true, "key": "k"}});
            let mut clients: Vec<_> = (0..20).map(|_| own.connect(V2)).collect();
            for client in &mut clients {
                client.join("realtime:a", &presence);
                client.expect_push("realtime:a", "presence_state", &json!({}));
            }
            server.terminate();
            for client in &mut clients {
                client.expect_close(1012);
            }
            assert!(
                server.ends_within(Duration::from_secs(15)),
                "it does not end"
            );
        },
    },
    Case {
        name: "a_socket_that_failed_to_join_is_dropped_by_the_reaper_and_one_that_never_tried_is_not",
        limits: none,
        run: |context| {
            let tenants = [server::tenant(&context.tenant, &json!({}))];
            let server = Server::start(
                context.setup,
                &tenants,
                &[
                    ("NO_CHANNEL_TIMEOUT_IN_MS", "2000"),
                    ("CHANNEL_ERROR_BACKOFF_MS", "50"),
                ],
            );
            let own = super::Context {
                server: &server,
                setup: context.setup,
                tenant: context.tenant.clone(),
            };
            let mut never = own.connect(V2);
            let mut has = own.joined(V2, "realtime:a", &json!({}));
            let mut left = own.joined(V2, "realtime:a", &json!({}));
            let mut failed = own.connect(V2);
            failed.join_refused(
                "realtime:",
                &json!({}),
                "TopicNameRequired: You must provide a topic name",
            );
            let leave = left.push("realtime:a", "phx_leave", &json!({}));
            left.expect_reply(&leave, "realtime:a", "ok", &json!({}));
            left.expect_closed("realtime:a");
            assert_eq!(failed.next(), Event::End);
            assert_eq!(left.next(), Event::End);
            never.expect_alive();
            has.expect_alive();
        },
    },
];

fn unmatched(msg_ref: &str, topic: &str) -> String {
    let topic = json!(topic);
    format!(
        r#"[null,{msg_ref},{topic},"phx_reply",{{"status":"error","response":{{"reason":"unmatched topic"}}}}]"#
    )
}
