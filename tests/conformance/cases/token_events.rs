//! Tokens of a joined channel: replaced, and expiring (checklist 38 to 42).

use serde_json::{Value, json};

use super::{Case, V1, V2, none};
use crate::clock;
use crate::token;

pub const CASES: &[Case] = &[
    Case {
        name: "a_token_event_that_changes_nothing_has_no_answer",
        limits: none,
        run: |context| {
            let good = token::good();
            let mut client = context.connect_with(V2, &good);
            client.join("realtime:a", &json!({"broadcast": {"self": true}}));
            for payload in [
                json!({"access_token": good}),
                json!({"access_token": null}),
                json!({"access_token": "sb_publishable_x"}),
                json!({"access_token": 5}),
                json!({"access_token": {}}),
                json!({}),
                json!({"access_token": token::of_role("other", 1000)}),
            ] {
                client.push("realtime:a", "access_token", &payload);
                client.expect_alive();
            }
            client.push("realtime:a", "broadcast", &json!({"event": "e"}));
            client.expect_fanout("realtime:a", "broadcast", &json!({"event": "e"}));
        },
    },
    Case {
        name: "each_bad_token_shuts_its_channel_down_and_no_other",
        limits: none,
        run: |context| {
            let far = clock::unix_s() + 1000;
            let malformed = "The token provided is not a valid JWT";
            let required = "Fields `role` and `exp` are required in JWT";
            let bad = [
                (String::new(), malformed),
                ("potato".to_owned(), malformed),
                (
                    token::of_role("anon", -10),
                    "Token has expired 10 seconds ago",
                ),
                (token::sign(&json!({"exp": far})), required),
                (token::sign(&json!({"role": "anon"})), required),
                (
                    token::sign_with(
                        &json!({"alg": "HS256"}),
                        &json!({"role": "anon", "exp": far}),
                        "other",
                    ),
                    ":signature_error",
                ),
                (
                    token::sign_with(
                        &json!({"alg": "none"}),
                        &json!({"role": "anon", "exp": far}),
                        "x",
                    ),
                    ":error_generating_signer",
                ),
            ];
            for vsn in [V1, V2] {
                let mut client =
                    context.joined(vsn, "realtime:other", &json!({"broadcast": {"self": true}}));
                for (token, message) in &bad {
                    client.join("realtime:a", &json!({}));
                    client.push(
                        "realtime:a",
                        "access_token",
                        &json!({"access_token": token}),
                    );
                    client.expect_shutdown("realtime:a", message);
                }
                client.push("realtime:other", "broadcast", &json!({"event": "e"}));
                client.expect_fanout("realtime:other", "broadcast", &json!({"event": "e"}));
            }
        },
    },
    Case {
        name: "a_channel_ends_when_its_token_expires_and_others_live_on",
        limits: none,
        run: |context| {
            let mut client = context.joined(V2, "realtime:long", &json!({}));
            let start = clock::now();
            let payload = json!({"config": {}, "access_token": token::of_role("anon", 3)});
            client.send(
                &json!("j"),
                &json!("j"),
                "realtime:short",
                "phx_join",
                &payload,
            );
            client.expect_reply(
                "j",
                "realtime:short",
                "ok",
                &json!({"postgres_changes": []}),
            );
            client.expect_shutdown("realtime:short", "Token has expired 0 seconds ago");
            let took = (clock::now() - start).as_secs_f64();
            assert!((1.9..6.5).contains(&took), "after {took} s");
            client.expect_alive();
        },
    },
    Case {
        name: "a_new_token_moves_the_end",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            let payload = json!({"config": {}, "access_token": token::of_role("anon", 3)});
            client.send(&json!("j"), &json!("j"), "realtime:a", "phx_join", &payload);
            client.expect_reply("j", "realtime:a", "ok", &json!({"postgres_changes": []}));
            client.push(
                "realtime:a",
                "access_token",
                &json!({"access_token": token::of_role("anon", 7)}),
            );
            let start = clock::now();
            client.expect_shutdown("realtime:a", "Token has expired 0 seconds ago");
            let took = (clock::now() - start).as_secs_f64();
            assert!(took > 5.5, "after {took} s");
        },
    },
    Case {
        name: "an_expired_socket_token_joins_nothing_more",
        limits: none,
        run: |context| {
            let mut client = context.connect_with(V2, &token::of_role("anon", 2));
            client.join("realtime:a", &json!({}));
            client.expect_shutdown("realtime:a", "Token has expired 0 seconds ago");
            client.text(r#"["1","1","realtime:b","phx_join",{"config":{}}]"#);
            let reply: Value = client.next_json();
            let reason = reply[4]["response"]["reason"].as_str().unwrap_or("");
            assert!(
                reason.starts_with("InvalidJWTToken: Token has expired "),
                "{reply}"
            );
            client.expect_alive();
        },
    },
];
