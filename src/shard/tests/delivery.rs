//! Who gets which broadcast, in which order and form (spec: websocket-protocol 3.3, 4.1, 6).

use super::world::{Client, HASH_SEED, World, kind_0, kind_3, owner, shard_id};
use super::{Setup, closed, fanned, join_error, join_ok, ok, push, unmatched};
use crate::mail::{Audience, Content, Mail, Publish, To, TopicHasher, TopicKey, encodings};
use crate::phoenix::Encoding;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The ids of the broadcasts among these frames, whatever their form.
fn ids(frames: &[Value]) -> Vec<u64> {
    let payload = |frame: &Value| match frame {
        Value::Array(message) => message[4].clone(),
        message => message["payload"].clone(),
    };
    frames
        .iter()
        .filter_map(|frame| payload(frame)["id"].as_u64())
        .collect()
}

#[test]
fn members_on_all_shards_see_one_order() {
    for shards in 1..=3 {
        for owner_shard in 0..shards {
            let mut world = World::of(shards);
            let topic = world.topic_of(owner_shard);
            let to_self = json!({"broadcast": {"self": true}});
            let members: Vec<Client> = (0..shards * 4)
                .map(|n| {
                    world.member(
                        n % shards,
                        if n < shards * 2 { 1 } else { 2 },
                        &topic,
                        &to_self,
                    )
                })
                .collect();
            for id in 0..60 {
                world.broadcast(
                    members[id * 7 % members.len()],
                    "9",
                    &topic,
                    &json!({"id": id}),
                );
                world.steps(id % 3);
            }
            world.run();
            let first = ids(&world.read(members[0]));
            assert_eq!(first.len(), 60);
            for &member in &members[1..] {
                assert_eq!(
                    ids(&world.read(member)),
                    first,
                    "{shards} shards, owner {owner_shard}"
                );
            }
        }
    }
}

#[test]
fn messages_of_one_member_stay_in_its_order() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let sender = world.member(0, 2, "realtime:a", &json!({}));
        let reader = world.member(shards - 1, 2, "realtime:a", &json!({}));
        for id in 0..40 {
            world.broadcast(sender, "9", "realtime:a", &json!({"id": id}));
            world.steps(1);
        }
        let read = world.reads(reader);
        assert!(ids(&read).into_iter().eq(0..40));
    }
}

#[test]
fn a_message_is_encoded_once_per_serializer() {
    let mut world = World::of(3);
    let members: Vec<Client> = (0..12)
        .map(|n| world.member(n % 3, if n < 6 { 1 } else { 2 }, "realtime:a", &json!({})))
        .collect();
    let before = encodings();
    for (id, &member) in members.iter().enumerate() {
        world.broadcast(member, "9", "realtime:a", &json!({"id": id}));
    }
    world.run();
    assert_eq!(encodings() - before, 2 * 12);
    assert!(
        members
            .iter()
            .all(|&member| ids(&world.read(member)).len() == 11)
    );
}

#[test]
fn a_member_gets_nothing_from_before_its_join() {
    for shards in 1..=3 {
        for owner_shard in 0..shards {
            let mut world = World::of(shards);
            let topic = world.topic_of(owner_shard);
            // Both on the owner's shard, so that "before" means the same turn: the broadcast is not sealed when the join comes.
            let sender = world.member(owner_shard, 2, &topic, &json!({}));
            let joiner = world.connect(owner_shard, 2);
            world.run();
            world.broadcast(sender, "9", &topic, &json!({"id": 1}));
            world.join(joiner, "1", &topic, &json!({}));
            assert_eq!(world.reads(joiner), [join_ok("1", &topic)]);
            for shard in 0..shards {
                world.broadcast(sender, "9", &topic, &json!({"id": 2}));
                world.run();
                let late = world.connect(shard, 2);
                world.join(late, "1", &topic, &json!({}));
                assert_eq!(world.reads(late), [join_ok("1", &topic)]);
                world.broadcast(sender, "9", &topic, &json!({"id": 3}));
                assert_eq!(
                    world.reads(late),
                    [fanned(&topic, "broadcast", &json!({"id": 3}))]
                );
            }
        }
    }
}

/// The owner takes the broadcast and, in the same turn, the subscription of the joiner's shard.
#[test]
fn a_shard_that_subscribes_gets_nothing_from_before() {
    let mut world = World::of(2);
    let topic = world.topic_of(1);
    let sender = world.member(1, 2, &topic, &json!({}));
    let joiner = world.connect(0, 2);
    world.run();
    world.join(joiner, "1", &topic, &json!({}));
    // Nobody else has anything to do: this is the turn of the joiner's shard.
    world.steps(1);
    world.broadcast(sender, "9", &topic, &json!({"id": 1}));
    assert_eq!(world.reads(joiner), [join_ok("1", &topic)]);
}

/// A batch is under way to a topic whose place another topic has by now.
#[test]
fn a_batch_that_comes_late_reaches_no_other_topic() {
    for turns in 0..6 {
        let mut world = World::of(2);
        let (remote, own) = (world.topic_of(1), world.topic_of(0));
        let sender = world.member(1, 2, &remote, &json!({}));
        let reader = world.member(0, 2, &remote, &json!({}));
        world.broadcast(sender, "9", &remote, &json!({"id": 1}));
        world.steps(turns);
        world.send(reader, &json!(["1", "2", remote, "phx_leave", {}]));
        world.join(reader, "3", &own, &json!({}));
        let read = world.reads(reader);
        let is_of_own = |frame: &&Value| frame[2] == own;
        let of_own: Vec<&Value> = read.iter().filter(is_of_own).collect();
        assert_eq!(of_own, [&join_ok("3", &own)]);
        let left = read.iter().position(|frame| *frame == closed("1", &remote));
        let left = left.expect("the old channel ends");
        assert!(
            ids(&read[left..]).is_empty(),
            "after {turns} turns: {read:?}"
        );
    }
}

/// Two clients with different serializers ask for a topic of another shard, and the second letter finds the mailbox full.
#[test]
fn a_member_is_in_only_when_its_own_serializer_is_served() {
    for seed in 0..40 {
        let mut setup = Setup::new(2);
        setup.seed = seed;
        setup.options.mailbox_letters = 1;
        let mut world = World::new(setup);
        let topic = world.topic_of(1);
        let sender = world.member(1, 2, &topic, &json!({}));
        let v2 = world.connect(0, 2);
        let v1 = world.connect(0, 1);
        world.run();
        for client in [v2, v1] {
            world.join(client, "1", &topic, &json!({}));
        }
        let mut turns = 0;
        while world.read(v1).is_empty() {
            turns += 1;
            assert!(turns < 100, "no reply");
            world.steps(1);
        }
        world.broadcast(sender, "9", &topic, &json!({"id": 1}));
        assert_eq!(ids(&world.reads(v1)), [1], "seed {seed}");
    }
}

#[test]
fn a_member_gets_what_was_published_before_it_left() {
    let mut world = World::of(1);
    // In one turn the sockets are read in the order they connected.
    let [before, leaver, after] = [(); 3].map(|()| world.member(0, 2, "realtime:a", &json!({})));
    world.broadcast(before, "9", "realtime:a", &json!({"id": 1}));
    world.send(leaver, &json!(["1", "2", "realtime:a", "phx_leave", {}]));
    world.broadcast(after, "9", "realtime:a", &json!({"id": 2}));
    let first = fanned("realtime:a", "broadcast", &json!({"id": 1}));
    let left = [ok("1", "2", "realtime:a"), closed("1", "realtime:a")];
    let expected: Vec<Value> = std::iter::once(first).chain(left).collect();
    assert_eq!(world.reads(leaver), expected);
}

/// The owner may be another shard: what the leaver has published itself comes back before the answer to its leave, and what is sent
/// behind the leave is handled behind it.
#[test]
fn a_member_gets_its_own_messages_before_it_leaves() {
    for shards in 1..=3 {
        for owner in 0..shards {
            let mut world = World::of(shards);
            let topic = world.topic_of(owner);
            let heard = json!({"broadcast": {"self": true}});
            let client = world.member(0, 2, &topic, &heard);
            let others = [(0, "2"), (1, "3")].map(|(n, join_ref)| {
                let other = format!("{topic}:{n}");
                world.joined(client, join_ref, &other, &heard);
                (join_ref, other)
            });
            world.broadcast(client, "4", &topic, &json!({"id": 1}));
            world.send(client, &json!(["1", "5", topic, "phx_leave", {}]));
            world.broadcast(client, "6", &topic, &json!({"id": 2}));
            for (join_ref, other) in &others {
                world.broadcast(client, "7", other, &json!({}));
                world.send(client, &json!([join_ref, "8", other, "phx_leave", {}]));
                world.broadcast(client, "9", other, &json!({}));
            }
            world.join(client, "10", &topic, &json!({}));
            let read = world.reads(client);
            let of = |topic: &str| -> Vec<Value> {
                let is_of = |frame: &&Value| frame[2] == topic;
                read.iter().filter(is_of).cloned().collect()
            };
            let expected = [
                fanned(&topic, "broadcast", &json!({"id": 1})),
                ok("1", "5", &topic),
                closed("1", &topic),
                unmatched("6", &topic),
                join_ok("10", &topic),
            ];
            assert_eq!(of(&topic), expected, "{shards} shards, owner {owner}");
            for (join_ref, other) in &others {
                let expected = [
                    fanned(other, "broadcast", &json!({})),
                    ok(join_ref, "8", other),
                    closed(join_ref, other),
                    unmatched("9", other),
                ];
                assert_eq!(of(other), expected, "{shards} shards, owner {owner}");
            }
        }
    }
}

/// A refused join and a leave are both under way, and each has messages that wait for it.
#[test]
fn a_leave_goes_on_while_a_join_is_refused() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let [first, second] = [(); 2].map(|()| world.topic_of(shards - 1));
        let second = format!("{second}:x");
        let heard = json!({"broadcast": {"self": true}});
        let client = world.member(0, 2, &first, &heard);
        world.joined(client, "2", &second, &heard);
        world.join(client, "3", "realtime:", &json!({}));
        for (join_ref, topic) in [("1", &first), ("2", &second)] {
            world.broadcast(client, "4", topic, &json!({}));
            world.send(client, &json!([join_ref, "5", topic, "phx_leave", {}]));
            world.broadcast(client, "6", topic, &json!({}));
        }
        world.join(client, "7", &first, &json!({}));
        let read = world.reads(client);
        for (join_ref, topic) in [("1", &first), ("2", &second)] {
            let of: Vec<_> = read
                .iter()
                .filter(|frame| frame[2] == **topic)
                .cloned()
                .collect();
            let expected = [
                fanned(topic, "broadcast", &json!({})),
                ok(join_ref, "5", topic),
                closed(join_ref, topic),
                unmatched("6", topic),
            ];
            assert_eq!(of, expected, "{shards} shards");
        }
        world.advance(Duration::from_secs(5));
        let reason = "TopicNameRequired: You must provide a topic name";
        let expected = [join_error("3", "realtime:", reason), join_ok("7", &first)];
        assert_eq!(world.read(client), expected);
    }
}

/// Spec 6.2 and 6.3: ack times self times what is sent, from a 2.0.0 sender that stands beside a reader of each serializer.
#[test]
fn ack_and_self_hold_for_every_kind_of_push() {
    for shards in 1..=3 {
        for (ack, to_self) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut world = World::of(shards);
            let topic = "realtime:a";
            let config = json!({"broadcast": {"ack": ack, "self": to_self}});
            let sender = world.member(0, 2, topic, &config);
            let v1 = world.member(shards - 1, 1, topic, &json!({}));
            let v2 = world.member(shards / 2, 2, topic, &json!({}));
            let payload = json!({"event": "e", "payload": {"a": [1]}, "type": "broadcast"});
            let object = |encoding, data| json!({"kind": 4, "topic": topic, "event": "e", "metadata": "", "encoding": encoding, "data": data});
            let as_v1 = push(1, [json!(null), json!(null)], topic, "broadcast", &payload);
            let as_text = fanned(topic, "broadcast", &payload);
            let opaque = json!({"kind": 2, "topic": topic, "event": "broadcast", "data": "xyz"});
            let mut check = |what: &dyn Fn(&mut World), to_v1: Option<&Value>, to_v2: &Value| {
                what(&mut world);
                world.run();
                assert_eq!(world.read(v1), Vec::from_iter(to_v1.cloned()));
                assert_eq!(world.read(v2), std::slice::from_ref(to_v2));
                let mut expected = vec![to_v2.clone()];
                expected.retain(|_| to_self);
                expected.extend([ok("1", "7", topic)].into_iter().filter(|_| ack));
                let mut read = world.read(sender);
                // Ack and own message come in any order (spec 6.2).
                read.sort_by_key(|frame| frame[3] == json!("phx_reply"));
                assert_eq!(read, expected, "ack {ack} self {to_self} shards {shards}");
            };
            check(
                &|world| world.broadcast(sender, "7", topic, &payload),
                Some(&as_v1),
                &as_text,
            );
            check(
                &|world| {
                    world.send_binary(sender, &kind_3(["1", "7"], topic, "e", 1, br#"{"a":[1]}"#))
                },
                Some(&as_v1),
                &object(1, r#"{"a":[1]}"#),
            );
            check(
                &|world| world.send_binary(sender, &kind_3(["1", "7"], topic, "e", 0, b"abc")),
                None,
                &object(0, "abc"),
            );
            check(
                &|world| world.send_binary(sender, &kind_0(["1", "7"], topic, "broadcast", b"xyz")),
                None,
                &opaque,
            );
        }
    }
}

#[test]
fn a_text_payload_is_relayed_whole() {
    let mut world = World::of(2);
    let sender = world.member(0, 1, "realtime:ä\"b", &json!({}));
    let reader = world.member(1, 2, "realtime:ä\"b", &json!({}));
    for payload in [
        json!({}),
        json!({"x": 12_345_678_901_234_567_890_u64, "ü": "\u{1f600}", "payload": null}),
    ] {
        world.broadcast(sender, "9", "realtime:ä\"b", &payload);
        assert_eq!(
            world.reads(reader),
            [fanned("realtime:ä\"b", "broadcast", &payload)]
        );
    }
}

#[test]
fn a_broadcast_that_is_no_object_ends_the_senders_channel_alone() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let topic = world.topic_of(shards - 1);
        let sender = world.member(
            0,
            2,
            &topic,
            &json!({"broadcast": {"self": true, "ack": true}}),
        );
        let readers = [1, 2].map(|vsn| world.member(shards - 1, vsn, &topic, &json!({})));
        world.broadcast(sender, "9", &topic, &json!("text"));
        let error = json!(["1", "1", topic, "phx_error", {"reason": "channel_crash"}]);
        assert_eq!(world.reads(sender), [error]);
        world.broadcast(sender, "10", &topic, &json!({}));
        assert_eq!(world.reads(sender), [unmatched("10", &topic)]);
        for reader in readers {
            assert_eq!(world.reads(reader), Vec::<Value>::new());
        }
    }
}

#[test]
fn a_payload_over_the_limit_reaches_nobody() {
    let mut limits = super::world::generous();
    limits.payload_bytes_max = 1500;
    let mut world = World::new(Setup {
        tenants: vec![limits],
        ..Setup::new(2)
    });
    let sender = world.member(
        0,
        2,
        "realtime:a",
        &json!({"broadcast": {"ack": true, "self": true}}),
    );
    let silent = world.member(0, 2, "realtime:a", &json!({}));
    let reader = world.member(1, 2, "realtime:a", &json!({}));
    let large = json!({"x": "y".repeat(1500)});
    world.broadcast(sender, "9", "realtime:a", &large);
    world.broadcast(silent, "9", "realtime:a", &large);
    let refusal = json!(["1", "9", "realtime:a", "phx_reply", {"status": "error", "response": "payload_size_exceeded"}]);
    assert_eq!(world.reads(sender), [refusal]);
    assert_eq!(world.read(silent), Vec::<Value>::new());
    assert_eq!(world.read(reader), Vec::<Value>::new());
}

/// A batch is sealed before its turn ends when it has grown large; the order holds across the seam.
#[test]
fn large_batches_keep_the_order() {
    let mut world = World::of(2);
    let topic = world.topic_of(0);
    let config = json!({"broadcast": {"self": true}});
    let members = [0, 0, 1].map(|shard| world.member(shard, 2, &topic, &config));
    for id in 0..30 {
        let payload = json!({"id": id, "filler": "x".repeat(40_000)});
        world.broadcast(members[id % 3], "9", &topic, &payload);
    }
    let mut read = [(); 3].map(|()| Vec::new());
    while read.iter().any(|ids| ids.len() < 30) {
        let before = read.iter().map(Vec::len).sum::<usize>();
        world.run();
        for (read, &member) in read.iter_mut().zip(&members) {
            read.extend(ids(&world.read(member)));
        }
        assert!(
            read.iter().map(Vec::len).sum::<usize>() > before,
            "stuck at {read:?}"
        );
    }
    assert_eq!(read[0], read[1]);
    assert_eq!(read[0], read[2]);
}

#[test]
fn equal_names_of_two_tenants_are_two_topics() {
    let mut setup = Setup::new(2);
    setup.tenants.push(super::world::generous());
    let mut world = World::new(setup);
    let sender = world.member(0, 2, "realtime:a", &json!({}));
    let own = world.member(1, 2, "realtime:a", &json!({}));
    let other = world.connect_with(1, 2, 1, &super::world::token(1000));
    world.joined(other, "1", "realtime:a", &json!({}));
    world.broadcast(sender, "9", "realtime:a", &json!({"id": 1}));
    assert_eq!(ids(&world.reads(own)), [1]);
    assert_eq!(world.read(other), Vec::<Value>::new());
}

#[test]
fn a_first_member_with_another_serializer_gets_its_own_form() {
    for shards in 1..=3 {
        for owner_shard in 0..shards {
            let mut world = World::of(shards);
            let topic = world.topic_of(owner_shard);
            let sender = world.member(0, 2, &topic, &json!({}));
            let reader = world.member(shards - 1, 1, &topic, &json!({}));
            assert_eq!(owner(&world.tenants[0], &topic, shards), owner_shard);
            world.broadcast(sender, "9", &topic, &json!({"id": 1}));
            let expected = push(
                1,
                [json!(null), json!(null)],
                &topic,
                "broadcast",
                &json!({"id": 1}),
            );
            assert_eq!(world.reads(reader), [expected]);
        }
    }
}

/// A message that no frame can carry is dropped, and leaves nothing behind that a leave would wait for.
#[test]
fn a_leave_is_answered_behind_a_message_that_was_too_long() {
    let mut world = World::of(2);
    let topic = world.topic_of(0);
    let member = world.member(1, 2, &topic, &json!({}));
    let hasher = TopicHasher::new(HASH_SEED);
    let name = topic.trim_start_matches("realtime:");
    let key = TopicKey::of_name(&hasher, world.tenants[0].id, false, name);
    let publish = Publish {
        to: To::Key(Arc::new(key)),
        content: Content::User {
            event: "e".repeat(300).into(),
            metadata: None,
            encoding: Encoding::Json,
            bytes: b"{}"[..].into(),
        },
        except: None,
        audience: Audience::Broadcast,
        id: None,
    };
    let letter = Mail::Publish(Box::new(publish));
    world.sim.control.send(shard_id(0), letter);
    world.run();
    world.send(member, &json!(["1", "9", topic, "phx_leave", {}]));
    let read = world.reads(member);
    assert!(read.contains(&ok("1", "9", &topic)), "{read:?}");
}
