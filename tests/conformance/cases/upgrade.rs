//! The upgrade: tokens, versions, paths, refusals and their delay (specification, checklist 1 to 8).

use std::time::Duration;

use serde_json::json;

use super::{Case, Client, V1, V2, none};
use crate::clock;
use crate::socket::{Event, Headers};
use crate::token;

pub const CASES: &[Case] = &[
    Case {
        name: "the_token_of_the_header_wins_over_that_of_the_query",
        limits: none,
        run: |context| {
            let good = token::good();
            let header = |value: &str| Headers::from([("x-api-key".to_owned(), value.to_owned())]);
            upgraded(&mut context.open("/socket/websocket?vsn=2.0.0", &header(&good)));
            upgraded(
                &mut context.open("/socket/websocket?vsn=2.0.0&apikey=potato", &header(&good)),
            );
            let path = format!("/socket/websocket?vsn=2.0.0&apikey={good}");
            for bad in ["potato", ""] {
                let mut client = context.open(&path, &header(bad));
                refused(&mut client, 401, "The token provided is not a valid JWT");
            }
        },
    },
    Case {
        name: "a_token_may_be_percent_encoded_and_hold_spaces",
        limits: none,
        run: |context| {
            let encoded = token::good()
                .replace('.', "%2E")
                .replacen("eyJ", "e%20yJ", 1);
            upgraded(&mut context.open(
                &format!("/socket/websocket?vsn=2.0.0&apikey={encoded}"),
                &Headers::new(),
            ));
        },
    },
    Case {
        name: "only_full_versions_of_two_serializers_are_spoken",
        limits: none,
        run: |context| {
            let good = token::good();
            for (query, status) in [
                ("", 101),
                ("&vsn=1.0.0", 101),
                ("&vsn=1.0.5", 101),
                ("&vsn=2.0.0", 101),
                ("&vsn=2.0.7", 101),
                ("&vsn=2.0", 403),
                ("&vsn=2", 403),
                ("&vsn=2.1.0", 403),
                ("&vsn=3.0.0", 403),
                ("&vsn=abc", 403),
                ("&vsn=", 403),
            ] {
                let mut client = context.open(
                    &format!("/socket/websocket?apikey={good}{query}"),
                    &Headers::new(),
                );
                let start = clock::now();
                match client.next() {
                    Event::Upgrade {
                        status: actual,
                        body,
                        ..
                    } => {
                        assert_eq!((actual, body.as_str()), (status, ""), "{query}");
                    }
                    other => panic!("{query}: {other:?}"),
                }
                assert!(
                    clock::now() - start < Duration::from_millis(1800),
                    "{query} was delayed"
                );
            }
        },
    },
    Case {
        name: "a_bad_version_is_refused_before_anything_else",
        limits: none,
        run: |context| {
            let mut client = context.open("/socket/websocket?vsn=3.0.0", &Headers::new());
            assert!(matches!(client.next(), Event::Upgrade { status: 403, .. }));
        },
    },
    Case {
        name: "each_refusal_has_its_status_and_text_after_two_seconds",
        limits: none,
        run: |context| {
            let start = clock::now();
            let far = clock::unix_s() + 1000;
            let required = "Fields `role` and `exp` are required in JWT";
            let signer =
                "Failed to generate JWT signer, check your JWT secret or JWKS configuration";
            let other_alg = |alg: &str| {
                token::sign_with(
                    &json!({"alg": alg, "kid": "k"}),
                    &json!({"role": "x", "exp": far}),
                    token::SECRET,
                )
            };
            let refusals = [
                ("", 401, "API key is missing"),
                ("&apikey[]=x", 401, "API key is missing"),
                ("&apikey=", 401, "The token provided is not a valid JWT"),
                (
                    "&apikey=a.b.c",
                    401,
                    "The token provided is not a valid JWT",
                ),
                (
                    "&apikey=sb_publishable_x",
                    401,
                    "The token provided is not a valid JWT",
                ),
                (
                    &format!("&apikey={}", token::of_role("anon", -5)),
                    401,
                    "Token has expired",
                ),
                (
                    &format!("&apikey={}", token::sign(&json!({"exp": far}))),
                    401,
                    required,
                ),
                (
                    &format!("&apikey={}", token::sign(&json!({"role": "anon"}))),
                    401,
                    required,
                ),
                (
                    &format!(
                        "&apikey={}",
                        token::sign_with(
                            &json!({"alg": "HS256"}),
                            &json!({"role": "x", "exp": far}),
                            "other"
                        )
                    ),
                    401,
                    "Failed to validate JWT signature",
                ),
                (&format!("&apikey={}", other_alg("none")), 401, signer),
                (&format!("&apikey={}", other_alg("RS256")), 401, signer),
                (
                    &format!("&apikey={}", token::sign(&json!({"role": "x", "exp": "x"}))),
                    500,
                    "Error connecting to Realtime",
                ),
            ];
            let open = |query: &str| {
                context.open(
                    &format!("/socket/websocket?vsn=2.0.0{query}"),
                    &Headers::new(),
                )
            };
            let mut clients: Vec<Client> = refusals.iter().map(|(query, ..)| open(query)).collect();
            for (client, (query, status, text)) in clients.iter_mut().zip(refusals) {
                let (event, at) = client.next_within(Duration::from_secs(20));
                assert_refusal(&event, status, text);
                let took = at - start;
                assert!(took > Duration::from_millis(1900), "{query}: {took:?}");
                // Refusals do not wait for each other.
                assert!(took < Duration::from_millis(5000), "{query}: {took:?}");
            }
        },
    },
    Case {
        name: "an_unknown_tenant_is_not_found",
        limits: none,
        run: |context| {
            let mut client = context.dial();
            let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
            client
                .writer()
                .upgrade(&path, "nobody.localhost", &Headers::new())
                .expect("the server reads a head");
            refused(&mut client, 404, "Tenant not found");
        },
    },
    Case {
        name: "a_suspended_tenant_is_refused",
        limits: || json!({"suspend": true}),
        run: |context| {
            let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
            refused(
                &mut context.open(&path, &Headers::new()),
                403,
                "Realtime was disabled for this tenant",
            );
        },
    },
    Case {
        name: "the_tenant_is_the_first_label_of_the_host_in_any_case",
        limits: none,
        run: |context| {
            let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
            for host in [
                format!("{}.localhost:4000", context.tenant),
                format!("{}.supabase.co", context.tenant.to_uppercase()),
                context.tenant.clone(),
            ] {
                let mut client = context.dial();
                let forwarded =
                    Headers::from([("X-Forwarded-Host".to_owned(), "nobody.example".to_owned())]);
                client
                    .writer()
                    .upgrade(&path, &host, &forwarded)
                    .expect("the server reads a head");
                upgraded(&mut client);
            }
        },
    },
    Case {
        name: "origin_protocols_extensions_and_unknown_parameters_are_ignored",
        limits: none,
        run: |context| {
            let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            let headers = Headers::from(
                [
                    ("Origin", "https://evil.example"),
                    ("Sec-WebSocket-Protocol", "phoenix, chat"),
                    (
                        "Sec-WebSocket-Extensions",
                        "permessage-deflate; client_max_window_bits",
                    ),
                ]
                .map(own),
            );
            let path = format!(
                "/socket/websocket?eventsPerSecond=10&x=%ff&vsn=2.0.0&log_level=debug&apikey={}",
                token::good()
            );
            let mut client = context.open(&path, &headers);
            match client.next() {
                Event::Upgrade {
                    status: 101,
                    headers,
                    ..
                } => {
                    assert!(
                        !headers.contains_key("sec-websocket-protocol"),
                        "{headers:?}"
                    );
                    assert!(
                        !headers.contains_key("sec-websocket-extensions"),
                        "{headers:?}"
                    );
                }
                other => panic!("{other:?}"),
            }
            client.expect_alive();
        },
    },
    Case {
        name: "the_path_of_the_gateway_works_too",
        limits: none,
        run: |context| {
            let path = format!("/realtime/v1/websocket?vsn=2.0.0&apikey={}", token::good());
            let mut client = context.open(&path, &Headers::new());
            upgraded(&mut client);
            client.join("realtime:gateway", &json!({}));
        },
    },
    Case {
        name: "a_plain_request_to_the_socket_is_told_what_is_missing",
        limits: none,
        run: |context| {
            let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
            let text = "'connection' header must contain 'upgrade', got [\"close\"]";
            assert_answer(&context.http("GET", &path, &[], b""), 400, text);
            assert_answer(&context.http("POST", &path, &[], b"{}"), 400, "");
            assert_answer(&context.http("OPTIONS", &path, &[], b""), 400, "");
            let start = clock::now();
            let refusal = context.http("GET", "/socket/websocket?vsn=2.0.0", &[], b"");
            assert_refusal(&refusal, 401, "API key is missing");
            assert!(clock::now() - start > Duration::from_millis(1900));
        },
    },
    Case {
        name: "both_versions_beat",
        limits: none,
        run: |context| {
            for vsn in [V1, V2] {
                let mut client = context.connect(vsn);
                client.expect_alive();
                client.close();
            }
        },
    },
];

#[track_caller]
fn upgraded(client: &mut Client) {
    let answer = client.next();
    assert!(
        matches!(answer, Event::Upgrade { status: 101, .. }),
        "{answer:?}"
    );
}

#[track_caller]
fn refused(client: &mut Client, status: u16, text: &str) {
    assert_refusal(&client.next(), status, text);
}

#[track_caller]
fn assert_refusal(answer: &Event, status: u16, text: &str) {
    assert_answer(answer, status, &json!({"error": text}).to_string());
    if let Event::Upgrade { headers, .. } = answer {
        let kind = headers.get("content-type").map(String::as_str);
        assert_eq!(kind, Some("application/json; charset=utf-8"));
        assert!(!headers.contains_key("x-request-id"), "{headers:?}");
    }
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
