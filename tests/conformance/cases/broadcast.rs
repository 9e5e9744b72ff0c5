//! Broadcast: acks, who receives, sizes, edges (checklist 43 to 46).

use serde_json::json;

use super::frames::user_push;
use super::{Case, Client, V1, V2, none};

pub const CASES: &[Case] = &[
    Case {
        name: "ack_and_self_decide_what_the_sender_gets",
        limits: none,
        run: |context| {
            for vsn in [V1, V2] {
                for (ack, own) in [(false, false), (true, false), (false, true), (true, true)] {
                    let topic = format!("realtime:{vsn}-{ack}-{own}");
                    let mut sender = context.joined(
                        vsn,
                        &topic,
                        &json!({"broadcast": {"ack": ack, "self": own}}),
                    );
                    let mut member = context.joined(V2, &topic, &json!({}));
                    let payload =
                        json!({"type": "broadcast", "event": "e", "payload": {"a": [1, null]}});
                    let sent = sender.push(&topic, "broadcast", &payload);
                    match (ack, own) {
                        (true, true) => sender.expect_both(&topic, &payload, &sent),
                        (true, false) => sender.expect_reply(&sent, &topic, "ok", &json!({})),
                        (false, true) => sender.expect_fanout(&topic, "broadcast", &payload),
                        (false, false) => {}
                    }
                    sender.expect_alive();
                    member.expect_fanout(&topic, "broadcast", &payload);
                    member.expect_alive();
                }
            }
        },
    },
    Case {
        name: "a_payload_is_relayed_whole_whatever_it_holds",
        limits: none,
        run: |context| {
            let mut sender = context.joined(V2, "realtime:whole", &json!({}));
            let mut one = context.joined(V1, "realtime:whole", &json!({}));
            let mut two = context.joined(V2, "realtime:whole", &json!({}));
            for payload in [
                json!({}),
                json!({"payload": {"z": 1}}),
                json!({"type": "other", "event": 5, "foo": "bar", "meta": {"id": "abc"}}),
                json!({"event": "e", "payload": "\u{e9}\u{1f600}\u{0}\u{7f}\"\\"}),
                json!({"event": "e", "payload": {"deep": [[[[[[[[[[{}]]]]]]]]]]}}),
            ] {
                sender.push("realtime:whole", "broadcast", &payload);
                one.expect_fanout("realtime:whole", "broadcast", &payload);
                two.expect_fanout("realtime:whole", "broadcast", &payload);
            }
        },
    },
    Case {
        name: "members_on_all_shards_get_every_message_in_one_order",
        limits: || json!({"max_events_per_second": 100_000}),
        run: |context| {
            let mut members: Vec<Client> = (0..12)
                .map(|_| context.joined(V2, "realtime:order", &json!({})))
                .collect();
            let mut senders: Vec<Client> = (0..3)
                .map(|_| context.joined(V2, "realtime:order", &json!({})))
                .collect();
            for n in 0..50 {
                for (who, sender) in senders.iter_mut().enumerate() {
                    sender.push(
                        "realtime:order",
                        "broadcast",
                        &json!({"event": "e", "payload": [who, n]}),
                    );
                }
            }
            let orders: Vec<Vec<String>> = members
                .iter_mut()
                .map(|member| {
                    (0..150)
                        .map(|_| member.next_json()[4]["payload"].to_string())
                        .collect()
                })
                .collect();
            assert!(
                orders.iter().all(|order| *order == orders[0]),
                "members disagree"
            );
            for who in 0..3 {
                let of_one = orders[0]
                    .iter()
                    .filter(|payload| payload.starts_with(&format!("[{who},")));
                assert!(
                    of_one.eq((0..50)
                        .map(|n| format!("[{who},{n}]"))
                        .collect::<Vec<_>>()
                        .iter()),
                    "sender {who}"
                );
            }
        },
    },
    Case {
        name: "other_topics_hear_nothing",
        limits: none,
        run: |context| {
            let mut sender = context.joined(V2, "realtime:a", &json!({}));
            let mut others: Vec<Client> =
                ["realtime:A", "realtime:a:", "realtime:a ", "realtime:b"]
                    .map(|topic| context.joined(V2, topic, &json!({})))
                    .into();
            let mut member = context.joined(V2, "realtime:a", &json!({}));
            sender.push("realtime:a", "broadcast", &json!({"event": "e"}));
            member.expect_fanout("realtime:a", "broadcast", &json!({"event": "e"}));
            others.iter_mut().for_each(Client::expect_alive);
        },
    },
    Case {
        name: "a_member_that_left_hears_nothing",
        limits: none,
        run: |context| {
            let mut sender = context.joined(V2, "realtime:a", &json!({"broadcast": {"ack": true}}));
            let mut member = context.joined(V2, "realtime:a", &json!({}));
            let leave = member.push("realtime:a", "phx_leave", &json!({}));
            member.expect_reply(&leave, "realtime:a", "ok", &json!({}));
            member.expect_closed("realtime:a");
            let sent = sender.push("realtime:a", "broadcast", &json!({"event": "e"}));
            sender.expect_reply(&sent, "realtime:a", "ok", &json!({}));
            member.expect_alive();
        },
    },
    Case {
        name: "a_payload_that_is_no_object_ends_the_sender_s_channel_and_reaches_nobody",
        limits: none,
        run: |context| {
            for payload in [
                json!("text"),
                json!(5),
                json!([1]),
                json!(null),
                json!(true),
            ] {
                let mut sender = context.joined(
                    V2,
                    "realtime:a",
                    &json!({"broadcast": {"ack": true, "self": true}}),
                );
                let mut one = context.joined(V1, "realtime:a", &json!({}));
                let mut two = context.joined(V2, "realtime:a", &json!({}));
                sender.push("realtime:a", "broadcast", &payload);
                sender.expect_message(
                    r#"["j","j","realtime:a","phx_error",{"reason":"channel_crash"}]"#,
                );
                sender.join("realtime:a", &json!({}));
                sender.push("realtime:a", "broadcast", &json!({"event": "after"}));
                one.expect_fanout("realtime:a", "broadcast", &json!({"event": "after"}));
                two.expect_fanout("realtime:a", "broadcast", &json!({"event": "after"}));
            }
        },
    },
    Case {
        name: "too_large_a_payload_is_never_relayed",
        limits: || json!({"max_payload_size_in_kb": 1}),
        run: |context| {
            let mut acked = context.joined(V2, "realtime:a", &json!({"broadcast": {"ack": true}}));
            let mut silent = context.joined(V1, "realtime:a", &json!({}));
            let large = json!({"event": "e", "payload": {"text": "x".repeat(3000)}});
            let sent = acked.push("realtime:a", "broadcast", &large);
            acked.expect_reply(
                &sent,
                "realtime:a",
                "error",
                &json!("payload_size_exceeded"),
            );
            acked.binary(&user_push("j", "77", "realtime:a", "e", "", 0, &[0; 3000]));
            acked.expect_reply("77", "realtime:a", "error", &json!("payload_size_exceeded"));
            silent.push("realtime:a", "broadcast", &large);
            silent.expect_alive();
            // Just below the limit, and its slack, passes.
            let small = json!({"event": "e", "payload": {"text": "x".repeat(900)}});
            let sent = acked.push("realtime:a", "broadcast", &small);
            acked.expect_reply(&sent, "realtime:a", "ok", &json!({}));
            silent.expect_fanout("realtime:a", "broadcast", &small);
        },
    },
    Case {
        name: "the_default_limit_lets_a_large_message_through_to_both_versions",
        limits: none,
        run: |context| {
            let mut sender =
                context.joined(V2, "realtime:large", &json!({"broadcast": {"ack": true}}));
            let mut one = context.joined(V1, "realtime:large", &json!({}));
            let mut two = context.joined(V2, "realtime:large", &json!({}));
            let payload = json!({"event": "e", "payload": {"text": "\u{e9}".repeat(1_000_000)}});
            let sent = sender.push("realtime:large", "broadcast", &payload);
            sender.expect_reply(&sent, "realtime:large", "ok", &json!({}));
            one.expect_fanout("realtime:large", "broadcast", &payload);
            two.expect_fanout("realtime:large", "broadcast", &payload);
        },
    },
];
