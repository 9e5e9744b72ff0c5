//! Presence: state, diffs, keys, endings, its own limits (checklist 51 to 57).

use serde_json::{Value, json};

use super::{Case, Client, Context, V1, V2, none};

const TOPIC: &str = "realtime:pr";

pub const CASES: &[Case] = &[
    Case {
        name: "the_state_comes_after_the_reply_and_only_if_asked_for",
        limits: none,
        run: |context| {
            for vsn in [V1, V2] {
                let mut client = context.joined(vsn, TOPIC, &json!({"presence": {"key": "k"}}));
                client.expect_alive();
                let mut client = context.joined(vsn, TOPIC, &enabled("k"));
                client.expect_push(TOPIC, "presence_state", &json!({}));
                client.expect_alive();
            }
        },
    },
    Case {
        name: "a_tenant_can_turn_presence_on_for_all",
        limits: || json!({"presence_enabled": true}),
        run: |context| {
            let mut client = context.joined(V2, TOPIC, &json!({}));
            client.expect_push(TOPIC, "presence_state", &json!({}));
        },
    },
    Case {
        name: "a_track_reaches_every_member_and_the_state_of_later_ones",
        limits: none,
        run: |context| {
            let mut plain = context.joined(V1, TOPIC, &json!({}));
            let mut tracker = member(context, V2, "a", json!({}));
            let diff = tracker.track(&json!({"n": 1, "list": [null, 1.50]}));
            let reference = diff["joins"]["a"]["metas"][0]["phx_ref"].clone();
            assert!(
                reference
                    .as_str()
                    .is_some_and(|reference| !reference.is_empty()),
                "{diff}"
            );
            assert_eq!(
                diff,
                json!({"joins": metas("a", &[json!({"phx_ref": reference, "n": 1, "list": [null, 1.50]})]), "leaves": {}})
            );
            assert_eq!(plain.next_diff(), diff);
            let late = metas(
                "a",
                &[json!({"phx_ref": reference, "n": 1, "list": [null, 1.50]})],
            );
            member(context, V1, "b", late);
        },
    },
    Case {
        name: "tracking_the_same_again_does_nothing",
        limits: none,
        run: |context| {
            let mut tracker = member(context, V2, "a", json!({}));
            tracker.track(&json!({"n": 1, "m": 2}));
            let again = tracker.push(
                TOPIC,
                "presence",
                &json!({"type": "presence", "event": "track", "payload": {"m": 2, "n": 1}}),
            );
            tracker.expect_reply(&again, TOPIC, "ok", &json!({}));
            tracker.expect_alive();
            tracker.untrack();
            tracker.track(&json!({"n": 1, "m": 2}));
        },
    },
    Case {
        name: "tracking_something_else_is_one_diff_that_names_the_previous_ref",
        limits: none,
        run: |context| {
            let mut tracker = member(context, V2, "a", json!({}));
            let first = tracker.track(&json!({"n": 1}))["joins"]["a"]["metas"][0].clone();
            let second = tracker.track(&json!({"n": 2}));
            let joined = second["joins"]["a"]["metas"][0].clone();
            assert_eq!(joined["phx_ref_prev"], first["phx_ref"]);
            assert_ne!(joined["phx_ref"], first["phx_ref"]);
            assert_eq!(second["leaves"], metas("a", &[first]));
            // The state shows it too.
            let third = member(context, V2, "b", metas("a", std::slice::from_ref(&joined)));
            drop(third);
            let third = tracker.track(&json!({"n": 3}));
            assert_eq!(third["leaves"], metas("a", &[joined]));
        },
    },
    Case {
        name: "every_way_to_go_is_a_leave",
        limits: none,
        run: |context| {
            let ways: [fn(&mut Client); 5] = [
                |client| client.untrack_only(),
                |client| drop(client.push(TOPIC, "phx_leave", &json!({}))),
                |client| client.writer().close(1000).expect("the server reads"),
                Client::abort,
                |client| {
                    drop(client.push(TOPIC, "access_token", &json!({"access_token": "potato"})))
                },
            ];
            let mut watcher = context.joined(V2, TOPIC, &json!({}));
            for way in ways {
                let mut goer = member(context, V2, "g", json!({}));
                let joined = goer.track(&json!({"n": 1}));
                assert_eq!(watcher.next_diff(), joined);
                way(&mut goer);
                assert_eq!(
                    watcher.next_diff(),
                    json!({"joins": {}, "leaves": joined["joins"]})
                );
            }
            watcher.expect_alive();
        },
    },
    Case {
        name: "sockets_with_one_key_are_one_entry_with_several_metas_oldest_first",
        limits: none,
        run: |context| {
            let mut first = member(context, V2, "same", json!({}));
            let one = first.track(&json!({"n": 1}))["joins"]["same"]["metas"][0].clone();
            let mut second = member(
                context,
                V1,
                "same",
                metas("same", std::slice::from_ref(&one)),
            );
            let two = second.track(&json!({"n": 2}))["joins"]["same"]["metas"][0].clone();
            assert_eq!(
                first.next_diff(),
                json!({"joins": metas("same", std::slice::from_ref(&two)), "leaves": {}})
            );
            member(context, V2, "late", metas("same", &[one, two.clone()]));
            second.abort();
            assert_eq!(
                first.next_diff(),
                json!({"joins": {}, "leaves": metas("same", &[two])})
            );
        },
    },
    Case {
        name: "a_member_without_a_key_gets_a_uuid",
        limits: none,
        run: |context| {
            for presence in [
                json!({}),
                json!({"key": ""}),
                json!({"key": null}),
                json!({"key": {"a": 1}}),
                json!({"key": 123}),
            ] {
                let mut client = context.joined(V2, TOPIC, &json!({"presence": presence}));
                let diff = client.track(&json!({}));
                let keys: Vec<&String> = diff["joins"]
                    .as_object()
                    .into_iter()
                    .flat_map(serde_json::Map::keys)
                    .collect();
                let expected = if presence["key"] == 123 { 3 } else { 36 };
                assert!(
                    keys.len() == 1 && keys[0].len() == expected,
                    "{presence}: {diff}"
                );
                client.untrack();
            }
        },
    },
    Case {
        name: "each_presence_event_has_its_answer",
        limits: none,
        run: |context| {
            let map = json!({"reason": "Presence track payload must be a map"});
            for (payload, status, response, diff) in [
                (
                    json!({"type": "presence", "event": "untrack"}),
                    "ok",
                    json!({}),
                    false,
                ),
                (
                    json!({"type": "presence", "event": "track", "payload": "text"}),
                    "error",
                    map.clone(),
                    false,
                ),
                (
                    json!({"type": "presence", "event": "track", "payload": [1]}),
                    "error",
                    map,
                    false,
                ),
                (
                    json!({"type": "presence", "event": "nonsense"}),
                    "error",
                    json!({}),
                    false,
                ),
                (json!({"type": "presence"}), "ok", json!({}), false),
                (
                    json!({"event": "TRACK", "payload": {"n": 1}}),
                    "ok",
                    json!({}),
                    true,
                ),
                (json!({"event": "track"}), "ok", json!({}), true),
            ] {
                let mut client = context.joined(V2, TOPIC, &json!({}));
                let sent = client.push(TOPIC, "presence", &payload);
                let mut events = vec![client.next_json()];
                if diff {
                    events.push(client.next_json());
                }
                let reply = events
                    .iter()
                    .find(|event| event[3] == "phx_reply")
                    .expect("there is always a reply");
                assert_eq!(
                    *reply,
                    json!(["j", sent, TOPIC, "phx_reply", {"status": status, "response": response}]),
                    "{payload}"
                );
                client.close();
            }
        },
    },
    Case {
        name: "the_sixth_presence_event_in_thirty_seconds_shuts_the_channel_down",
        limits: none,
        run: |context| {
            let mut client = context.joined(V2, TOPIC, &json!({}));
            let nonsense = json!({"type": "presence", "event": "nonsense"});
            for _ in 0..5 {
                let sent = client.push(TOPIC, "presence", &nonsense);
                client.expect_reply(&sent, TOPIC, "error", &json!({}));
            }
            client.push(TOPIC, "presence", &nonsense);
            client.expect_shutdown(TOPIC, "Client presence rate limit exceeded");
            client.join(TOPIC, &json!({}));
            client.track(&json!({}));
        },
    },
    Case {
        name: "a_tenant_s_own_presence_window_counts",
        limits: || json!({"max_client_presence_events_per_window": 2, "client_presence_window_ms": 60_000}),
        run: |context| {
            let mut client = context.joined(V2, TOPIC, &json!({}));
            client.track(&json!({"n": 1}));
            client.track(&json!({"n": 2}));
            client.push(
                TOPIC,
                "presence",
                &json!({"type": "presence", "event": "untrack"}),
            );
            // Its presence ends with the channel; its own leave may still reach it.
            client.expect_shutdown_with_diffs(TOPIC, "Client presence rate limit exceeded");
        },
    },
    Case {
        name: "too_large_a_track_shuts_the_channel_down",
        limits: || json!({"max_payload_size_in_kb": 1}),
        run: |context| {
            let mut client = context.joined(V2, TOPIC, &json!({}));
            client.push(
                TOPIC,
                "presence",
                &json!({"type": "presence", "event": "track", "payload": {"x": "y".repeat(3000)}}),
            );
            client.expect_shutdown(TOPIC, "Track message size exceeded");
        },
    },
    Case {
        name: "many_members_agree_on_who_is_here",
        limits: || json!({"max_presence_events_per_second": 100_000}),
        run: |context| {
            let mut members: Vec<Client> = Vec::new();
            for n in 0..12 {
                let mut client = context.joined(V2, TOPIC, &enabled(&format!("k{n}")));
                let state = client.next_json();
                assert_eq!(state[3], "presence_state");
                assert_eq!(
                    state[4].as_object().map(serde_json::Map::len),
                    Some(n),
                    "{state}"
                );
                client.track(&json!({"n": n}));
                for other in &mut members {
                    assert!(other.next_diff()["joins"].get(format!("k{n}")).is_some());
                }
                members.push(client);
            }
            while let Some(mut gone) = members.pop() {
                let key = format!("k{}", members.len());
                gone.abort();
                for other in &mut members {
                    assert!(other.next_diff()["leaves"].get(&key).is_some());
                }
            }
        },
    },
];

fn enabled(key: &str) -> Value {
    json!({"presence": {"enabled": true, "key": key}})
}

/// One key's entry of a state or diff.
fn metas(key: &str, metas: &[Value]) -> Value {
    json!({key: {"metas": metas}})
}

/// A client that joined with presence under `key` and read this `state`.
#[track_caller]
fn member(context: &Context<'_>, vsn: &str, key: &str, state: Value) -> Client {
    let mut client = context.joined(vsn, TOPIC, &enabled(key));
    client.expect_push(TOPIC, "presence_state", &state);
    client
}

impl Client {
    /// Tracks `payload`; returns the diff that this causes. Reply and diff may come in any order.
    #[track_caller]
    fn track(&mut self, payload: &Value) -> Value {
        self.presence(&json!({"type": "presence", "event": "track", "payload": payload}))
    }

    #[track_caller]
    fn untrack(&mut self) -> Value {
        self.presence(&json!({"type": "presence", "event": "untrack"}))
    }

    fn untrack_only(&mut self) {
        self.push(
            TOPIC,
            "presence",
            &json!({"type": "presence", "event": "untrack"}),
        );
    }

    #[track_caller]
    fn presence(&mut self, payload: &Value) -> Value {
        self.push(TOPIC, "presence", payload);
        let (first, second) = (Parts::of(&self.next_json()), Parts::of(&self.next_json()));
        let (reply, diff) = if first.event == "phx_reply" {
            (first, second)
        } else {
            (second, first)
        };
        assert_eq!(
            (reply.event.as_str(), &reply.payload),
            ("phx_reply", &json!({"status": "ok", "response": {}}))
        );
        assert_eq!(diff.event, "presence_diff", "{}", diff.payload);
        diff.payload
    }

    /// The payload of the next message, a diff.
    #[track_caller]
    fn next_diff(&mut self) -> Value {
        let parts = Parts::of(&self.next_json());
        assert_eq!(parts.event, "presence_diff", "{}", parts.payload);
        parts.payload
    }

    /// As `expect_shutdown`, with diffs before, between or after its messages.
    #[track_caller]
    fn expect_shutdown_with_diffs(&mut self, topic: &str, message: &str) {
        let mut others = Vec::new();
        while others.len() < 2 {
            let parts = Parts::of(&self.next_json());
            if parts.event != "presence_diff" {
                others.push(parts);
            }
        }
        assert_eq!(
            (others[0].event.as_str(), &others[0].payload["message"]),
            ("system", &json!(message)),
            "{topic}"
        );
        assert_eq!(others[1].event, "phx_close");
    }
}

/// What differs between the versions only in where it stands.
struct Parts {
    event: String,
    payload: Value,
}

impl Parts {
    fn of(message: &Value) -> Self {
        let (event, payload) = if message.is_array() {
            (&message[3], &message[4])
        } else {
            (&message["event"], &message["payload"])
        };
        Self {
            event: event.as_str().unwrap_or("").to_owned(),
            payload: payload.clone(),
        }
    }
}
