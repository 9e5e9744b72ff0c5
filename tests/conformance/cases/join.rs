//! Joining: refusals and their spacing, the reply, the shapes of the config (checklist 28 to 36).

use std::time::Duration;

use serde_json::{Value, json};

use super::{Case, Client, V1, V2, none};
use crate::clock;
use crate::token;

/// What private channels are told when there is no database to ask.
const NO_DATABASE: &str =
    "UnableToConnectToProject: Realtime was unable to connect to the project database";

pub const CASES: &[Case] = &[
    Case {
        name: "a_refusal_comes_five_seconds_after_its_join",
        limits: none,
        run: |context| {
            for vsn in [V1, V2] {
                let mut client = context.connect(vsn);
                let took = client.join_refused(
                    "realtime:",
                    &json!({"config": {}}),
                    "TopicNameRequired: You must provide a topic name",
                );
                assert!((4.9..8.0).contains(&took.as_secs_f64()), "{took:?}");
                client.expect_alive();
            }
        },
    },
    Case {
        name: "refused_joins_are_answered_in_order_and_an_ok_join_behind_them_waits",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            let start = clock::now();
            for n in 1..=2 {
                client.text(&json!([n, n, "realtime:", "phx_join", {}]).to_string());
            }
            client.text(r#"[3,3,"realtime:ok","phx_join",{"config":{}}]"#);
            // What is no join does not wait.
            client.expect_alive();
            client.text(r#"[null,"4","elsewhere","x",{}]"#);
            assert_eq!(client.next_json()[1], json!("4"));
            assert!(clock::now() - start < Duration::from_secs(4));
            for (n, at, status) in [(1, 5.0, "error"), (2, 10.0, "error"), (3, 10.0, "ok")] {
                let reply = client.next_json();
                assert_eq!(
                    (&reply[0], &reply[4]["status"]),
                    (&json!(n), &json!(status)),
                    "{reply}"
                );
                let took = (clock::now() - start).as_secs_f64();
                assert!(
                    (at - 0.1..at + 3.0).contains(&took),
                    "the reply to {n} came after {took} s"
                );
            }
        },
    },
    Case {
        name: "a_close_is_answered_while_a_refused_join_waits",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            client.text(r#"["1","1","realtime:","phx_join",{}]"#);
            let start = clock::now();
            client.close();
            assert!(clock::now() - start < Duration::from_secs(4));
        },
    },
    Case {
        name: "shapes_that_cannot_be_read_are_refused_with_a_sentence",
        limits: none,
        run: |context| {
            // Side by side, each on a socket of its own, or they would take 5 s each.
            let payloads = [
                json!({"config": "x"}),
                json!({"config": []}),
                json!({"config": {"broadcast": "x"}}),
                json!({"config": {"broadcast": []}}),
                json!({"config": {"postgres_changes": ["x"]}}),
                json!("text"),
                json!(null),
                json!([]),
            ];
            let mut clients: Vec<Client> = payloads.iter().map(|_| context.connect(V2)).collect();
            for (client, payload) in clients.iter_mut().zip(&payloads) {
                client.text(&json!(["1", "1", "realtime:a", "phx_join", payload]).to_string());
            }
            for (client, payload) in clients.iter_mut().zip(&payloads) {
                let reply = client.next_json();
                let reason = reply[4]["response"]["reason"].as_str().unwrap_or("");
                let sentence = reason.strip_prefix("UnknownErrorOnChannel: ").unwrap_or("");
                assert!(sentence.len() > 5, "{payload}: {reply}");
                client.expect_alive();
            }
        },
    },
    Case {
        name: "scalars_that_make_no_sense_take_their_defaults",
        limits: none,
        run: |context| {
            for (n, config) in [
                json!(null),
                json!({}),
                json!({"broadcast": null}),
                json!({"broadcast": {"ack": "maybe", "self": 1}}),
                json!({"private": "banana"}),
                json!({"presence": 5}),
                json!({"presence": {"key": {"a": 1}}}),
                json!({"postgres_changes": "x"}),
                json!({"postgres_changes": {"a": 1}}),
                json!({"postgres_changes": null}),
                json!({"postgres_changes": [null]}),
                json!({"postgres_changes_options": {"wait": true}, "unknown": [1]}),
            ]
            .iter()
            .enumerate()
            {
                let topic = format!("realtime:defaults-{n}");
                let mut client = context.joined(V2, &topic, config);
                client.push(&topic, "broadcast", &json!({"event": "e"}));
                client.expect_alive();
            }
        },
    },
    Case {
        name: "booleans_may_be_words_in_any_case",
        limits: none,
        run: |context| {
            let config = json!({"broadcast": {"self": "TRUE", "ack": "True"}, "private": "false", "presence": {"enabled": "False"}});
            let mut client = context.joined(V2, "realtime:words", &config);
            let sent = client.push("realtime:words", "broadcast", &json!({"event": "e"}));
            client.expect_both("realtime:words", &json!({"event": "e"}), &sent);
        },
    },
    Case {
        name: "the_reply_echoes_subscriptions_unchanged_with_equal_ids_for_equal_ones",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            let entries = r#"[{"event":"INSERT","schema":"public","table":"t","filter":"id=eq.1","more":[1.50,null]},
                {"table":"t","schema":"public","event":"*"},{"event":"*","schema":"public","table":"t"}]"#;
            client.text(&format!(r#"["j","j","realtime:echo","phx_join",{{"config":{{"postgres_changes":{entries}}}}}]"#));
            let reply = client.next_json();
            let echoed = reply[4]["response"]["postgres_changes"]
                .as_array()
                .expect("it is always there")
                .clone();
            let sent: Vec<Value> = serde_json::from_str(entries).expect("it is JSON");
            let ids: Vec<u64> = echoed
                .iter()
                .map(|entry| entry["id"].as_u64().expect("an integer"))
                .collect();
            let without = echoed.iter().map(|entry| {
                let mut entry = entry.clone();
                entry.as_object_mut().expect("an object").remove("id");
                entry
            });
            assert!(without.eq(sent), "{reply}");
            assert!(ids.iter().all(|id| *id < 1 << 27), "{ids:?}");
            assert_eq!(ids[1], ids[2]);
            assert_ne!(ids[0], ids[1]);
        },
    },
    Case {
        name: "a_join_without_config_subscribes_to_what_the_topic_names",
        limits: none,
        run: |context| {
            for (topic, entry) in [
                ("realtime:any", json!({"schema": "any"})),
                (
                    "realtime:public:users",
                    json!({"schema": "public", "table": "users"}),
                ),
                (
                    "realtime:public:users:id=eq.1:2",
                    json!({"schema": "public", "table": "users", "filter": "id=eq.1:2"}),
                ),
            ] {
                let mut client = context.connect(V2);
                client.text(&json!(["1", "1", topic, "phx_join", {}]).to_string());
                let reply = client.next_json();
                let mut echoed = reply[4]["response"]["postgres_changes"][0].clone();
                assert!(echoed["id"].is_u64(), "{reply}");
                echoed.as_object_mut().expect("an object").remove("id");
                assert_eq!(echoed, entry);
            }
        },
    },
    Case {
        name: "a_topic_is_used_as_it_is_written",
        limits: none,
        run: |context| {
            for topic in [
                "realtime:with:colons:and space/\u{e9}\u{1f600}",
                "realtime:realtime:x",
                "realtime: ",
                "realtime:\"quoted\\\"",
                "realtime:%2f",
            ] {
                let mut client = context.joined(V2, topic, &json!({"broadcast": {"self": true}}));
                client.push(topic, "broadcast", &json!({"event": "e"}));
                client.expect_fanout(topic, "broadcast", &json!({"event": "e"}));
            }
        },
    },
    Case {
        name: "the_first_usable_token_counts",
        limits: none,
        run: |context| {
            let (good, expired) = (token::good(), token::of_role("anon", -60));
            for (n, payload) in [
                json!({"access_token": expired, "user_token": good}),
                json!({"access_token": null}),
                json!({"access_token": 123}),
                json!({"access_token": "sb_publishable_x"}),
                json!({"access_token": "sb_secret_x", "user_token": expired}),
                json!({"user_token": "sb_x"}),
                json!({"access_token": good}),
            ]
            .iter()
            .enumerate()
            {
                let mut payload = payload.clone();
                payload["config"] = json!({});
                let mut client = context.connect(V2);
                client.send(
                    &json!("j"),
                    &json!("j"),
                    &format!("realtime:t{n}"),
                    "phx_join",
                    &payload,
                );
                client.expect_reply(
                    "j",
                    &format!("realtime:t{n}"),
                    "ok",
                    &json!({"postgres_changes": []}),
                );
            }
        },
    },
    Case {
        name: "each_bad_token_is_refused_with_its_text",
        limits: none,
        run: |context| {
            let far = clock::unix_s() + 1000;
            let required = "InvalidJWTToken: Fields `role` and `exp` are required in JWT";
            let malformed = "MalformedJWT: The token provided is not a valid JWT";
            let signer = "JwtSignerError: Failed to generate JWT signer, check your JWT secret or JWKS configuration";
            let claims = json!({"role": "anon", "exp": far});
            let refusals = [
                (String::new(), malformed),
                ("potato".to_owned(), malformed),
                ("a.b.c".to_owned(), malformed),
                (
                    token::of_role("anon", -100),
                    "InvalidJWTToken: Token has expired 100 seconds ago",
                ),
                (token::sign(&json!({"exp": far})), required),
                (token::sign(&json!({"role": "anon"})), required),
                (
                    token::sign(&json!({"role": "anon", "exp": far.to_string()})),
                    "Unknown Error on Channel",
                ),
                (
                    token::sign_with(&json!({"alg": "HS256"}), &claims, "other"),
                    "JwtSignatureError: Failed to validate JWT signature",
                ),
                (
                    token::sign_with(&json!({"alg": "none"}), &claims, token::SECRET),
                    signer,
                ),
                (
                    token::sign_with(&json!({"alg": "RS256", "kid": "x"}), &claims, token::SECRET),
                    signer,
                ),
            ];
            let mut clients: Vec<Client> = refusals.iter().map(|_| context.connect(V2)).collect();
            for (client, (token, _)) in clients.iter_mut().zip(&refusals) {
                client.text(&json!(["1", "1", "realtime:a", "phx_join", {"config": {}, "access_token": token}]).to_string());
            }
            for (client, (_, reason)) in clients.iter_mut().zip(&refusals) {
                client.expect_message(&json!(["1", "1", "realtime:a", "phx_reply", {"status": "error", "response": {"reason": reason}}]).to_string());
                client.expect_alive();
            }
        },
    },
    Case {
        name: "a_private_channel_needs_a_database",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            client.join_refused(
                "realtime:a",
                &json!({"config": {"private": true}}),
                NO_DATABASE,
            );
            client.join("realtime:a", &json!({}));
        },
    },
    Case {
        name: "replay_is_for_private_channels",
        limits: none,
        run: |context| {
            let payload = json!({"config": {"broadcast": {"replay": {"since": 0}}}});
            let reason = "UnableToReplayMessages: Replay is not allowed for public channels";
            context
                .connect(V2)
                .join_refused("realtime:a", &payload, reason);
        },
    },
    Case {
        name: "a_private_only_tenant_refuses_public_channels",
        limits: || json!({"private_only": true}),
        run: |context| {
            let reason = "PrivateOnly: This project only allows private channels";
            context
                .connect(V2)
                .join_refused("realtime:a", &json!({"config": {}}), reason);
        },
    },
    Case {
        name: "row_changes_without_a_database_are_announced_as_unavailable",
        limits: none,
        run: |context| {
            let mut client = context.connect(V2);
            client.text(r#"["j","j","realtime:rows","phx_join",{"config":{"postgres_changes":[{"event":"*","schema":"public"}]}}]"#);
            assert_eq!(client.next_json()[4]["status"], json!("ok"));
            let payload = json!({"channel": "rows", "extension": "postgres_changes", "status": "error",
                "message": "Realtime was unable to connect to the project database"});
            client.expect_push("realtime:rows", "system", &payload);
        },
    },
];
