//! Limits of tenants and sockets (checklist 58 to 62).

use std::time::Duration;

use serde_json::{Value, json};

use super::{Case, Client, V1, V2};
use crate::clock;
use crate::socket::{Event, Headers};
use crate::token;

pub const CASES: &[Case] = &[
    Case {
        name: "one_channel_too_many_is_refused_and_a_leave_makes_room",
        limits: || json!({"max_channels_per_client": 2}),
        run: |context| {
            let mut client = context.joined(V2, "realtime:a", &json!({}));
            client.join("realtime:b", &json!({}));
            client.join_refused(
                "realtime:c",
                &json!({}),
                "ChannelRateLimitReached: Too many channels",
            );
            let leave = client.push("realtime:a", "phx_leave", &json!({}));
            client.expect_reply(&leave, "realtime:a", "ok", &json!({}));
            client.expect_closed("realtime:a");
            client.join("realtime:c", &json!({}));
            // Another socket has its own.
            context.joined(V1, "realtime:a", &json!({})).expect_alive();
        },
    },
    Case {
        name: "users_count_from_their_first_join_to_the_end_of_their_socket",
        limits: || json!({"max_concurrent_users": 2}),
        run: |context| {
            let mut third = context.connect(V2);
            let mut first = context.joined(V2, "realtime:a", &json!({}));
            let mut second = context.joined(V1, "realtime:a", &json!({}));
            let reason = "ConnectionRateLimitReached: Too many connected users";
            third.join_refused("realtime:a", &json!({"config": {}}), reason);
            // One who counts may join more.
            first.join("realtime:b", &json!({}));
            let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
            let answer = context.open(&path, &Headers::new()).next();
            assert!(
                matches!(&answer, Event::Upgrade { status: 429, body, .. } if body == r#"{"error":"Too many connected users"}"#),
                "{answer:?}"
            );
            // Leaving is not enough, ending is.
            let leave = second.push("realtime:a", "phx_leave", &json!({}));
            second.expect_reply(&leave, "realtime:a", "ok", &json!({}));
            second.expect_closed("realtime:a");
            third.join_refused("realtime:a", &json!({"config": {}}), reason);
            second.close();
            third.join("realtime:a", &json!({}));
        },
    },
    Case {
        name: "too_many_joins_per_second_refuse_joins_with_1001_and_upgrades_with_429",
        limits: || json!({"max_joins_per_second": 1, "max_channels_per_client": 10_000}),
        run: |context| {
            // The upgrade asks the counter first, and so starts it.
            let start = clock::now();
            let mut client = context.connect(V2);
            let mut joins = 0;
            // Joins come evenly; the counter trips at its first tick, 5 s after its first use.
            let refused = loop {
                client.text(
                    &json!(["j", "j", format!("realtime:{joins}"), "phx_join", {"config": {}}])
                        .to_string(),
                );
                joins += 1;
                let sent = clock::now();
                let reply = client.next_json();
                if reply[4]["status"] == "error" {
                    break (reply, sent);
                }
                client.expect_silence(Duration::from_millis(100));
            };
            assert_eq!(
                refused.0[4]["response"]["reason"],
                json!("ClientJoinRateLimitReached: Too many joins per second")
            );
            let tripped = (refused.1 - start).as_secs_f64();
            assert!(
                (4.7..6.5).contains(&tripped),
                "after {tripped} s and {joins} joins"
            );
            client.expect_close(1001);
            let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
            let answer = context.open(&path, &Headers::new()).next();
            assert!(
                matches!(&answer, Event::Upgrade { status: 429, body, .. } if body == r#"{"error":"Too many joins per second"}"#),
                "{answer:?}"
            );
        },
    },
    Case {
        name: "too_many_events_per_second_end_the_channels_that_hear_one_and_no_other",
        limits: || json!({"max_events_per_second": 2}),
        run: |context| {
            let mut sender = context.joined(
                V2,
                "realtime:e",
                &json!({"broadcast": {"self": true, "ack": true}}),
            );
            let mut member = context.joined(V1, "realtime:e", &json!({}));
            member.join("realtime:other", &json!({}));
            let start = clock::now();
            let payload = json!({"event": "x"});
            let message = "Too many messages per second";
            let is_shutdown =
                |event: &Event| matches!(event, Event::Text(text) if text.contains(message));
            let mut is_member_out = false;
            loop {
                let sent = sender.push("realtime:e", "broadcast", &payload);
                // The message at hand is delivered and acked, whatever comes then.
                sender.expect_both("realtime:e", &payload, &sent);
                if !is_member_out {
                    let heard = member.next();
                    // The tick may come between the two shards.
                    is_member_out = is_shutdown(&heard);
                    if is_member_out {
                        member.expect_closed("realtime:e");
                    } else {
                        let none = &Value::Null;
                        member.compare_refs(
                            &heard,
                            none,
                            none,
                            "realtime:e",
                            "broadcast",
                            &payload,
                        );
                    }
                }
                if let Some((event, _)) = sender.maybe(Duration::from_millis(60)) {
                    assert!(is_shutdown(&event), "{event:?}");
                    break;
                }
            }
            let tripped = (clock::now() - start).as_secs_f64();
            assert!((4.7..6.5).contains(&tripped), "after {tripped} s");
            sender.expect_closed("realtime:e");
            if !is_member_out {
                member.expect_shutdown("realtime:e", message);
            }
            // Joins and upgrades stay possible; a channel that hears nothing stays.
            sender.join("realtime:quiet", &json!({}));
            context.connect(V2).expect_alive();
            let leave = member.push("realtime:other", "phx_leave", &json!({}));
            member.expect_reply(&leave, "realtime:other", "ok", &json!({}));
        },
    },
    Case {
        name: "too_much_presence_per_second_ends_the_channel_that_tracks",
        limits: || json!({"max_presence_events_per_second": 1}),
        run: |context| {
            // The first state creates the counter, whose first tick follows at once: what comes together with it, on a fast machine
            // more than five, would trip the limit already then (specification, section 9.2).
            let config = json!({"presence": {"enabled": true, "key": "k"}});
            let mut first = context.joined(V2, "realtime:p", &config);
            first.expect_push("realtime:p", "presence_state", &json!({}));
            first.expect_silence(Duration::from_millis(100));
            // Twenty states are more than one a second over the two buckets that are there at the second tick, after 5 s.
            let mut clients: Vec<Client> = (0..20).map(|_| context.connect(V2)).collect();
            for client in &mut clients {
                client.join("realtime:p", &config);
            }
            let mut last = clients.pop().expect("there are twenty");
            // The first tick may have seen enough of them already.
            let mut shut_down = false;
            while let Some((event, _)) = last.maybe(Duration::from_secs(6)) {
                shut_down |= matches!(&event, Event::Text(text) if text.contains("Too many presence messages per second"));
            }
            if !shut_down {
                last.push(
                    "realtime:p",
                    "presence",
                    &json!({"event": "track", "payload": {}}),
                );
                last.expect_shutdown("realtime:p", "Too many presence messages per second");
            }
        },
    },
    Case {
        name: "too_many_events_per_second_refuse_http_broadcasts",
        limits: || json!({"max_events_per_second": 2}),
        run: |context| {
            let authorization = format!("Bearer {}", token::good());
            let headers = [
                ("content-type", "application/json"),
                ("authorization", authorization.as_str()),
            ];
            let body = br#"{"messages":[{"topic":"a","event":"e","payload":{}},{"topic":"a","event":"e","payload":{}},{"topic":"a","event":"e","payload":{}}]}"#;
            let answer = context.http("POST", "/api/broadcast", &headers, body);
            let text =
                r#"{"message":"Too many messages to broadcast, please reduce the batch size"}"#;
            assert!(
                matches!(&answer, Event::Upgrade { status: 429, body, .. } if body == text),
                "{answer:?}"
            );
        },
    },
];

impl Client {
    /// What comes within `time`, if anything does.
    fn maybe(&mut self, time: Duration) -> Option<(Event, std::time::Instant)> {
        self.events.recv_timeout(time).ok()
    }
}
