//! Joins: the order of replies, what waits behind what, and what is refused (spec: websocket-protocol 4.1, 4.3, 5).

use super::world::{Client, Faults, Setup, World, token};
use super::{
    closed, fanned, heartbeat, heartbeat_ok, join_error, join_ok, ok, shut_down, unmatched,
};
use serde_json::{Value, json};
use std::time::Duration;

const NO_NAME: &str = "TopicNameRequired: You must provide a topic name";

#[test]
fn the_join_reply_precedes_the_channels_messages() {
    for seed in 0..20 {
        for shards in 1..=3 {
            let mut setup = Setup::new(shards);
            setup.seed = seed;
            setup.faults = Faults::lossless();
            let mut world = World::new(setup);
            let all = json!({"broadcast": {"self": true}, "presence": {"enabled": true}});
            let senders: Vec<Client> = (0..shards).map(|shard| world.connect(shard, 2)).collect();
            let joiner = world.connect(shards - 1, 2);
            for &client in &senders {
                world.join(client, "1", "realtime:a", &all);
            }
            world.advance(Duration::from_secs(11));
            for id in 0..10 {
                for &sender in &senders {
                    world.broadcast(sender, "9", "realtime:a", &json!({"id": id}));
                    let track = json!({"event": "track", "payload": {"id": id}});
                    world.send(sender, &json!(["1", "9", "realtime:a", "presence", track]));
                }
                if id == 5 {
                    world.join(joiner, "1", "realtime:a", &all);
                }
                world.steps(2);
            }
            world.advance(Duration::from_secs(11));
            let read = world.read(joiner);
            assert_eq!(
                read.first(),
                Some(&join_ok("1", "realtime:a")),
                "seed {seed}"
            );
            let states = read.iter().filter(|frame| frame[3] == "presence_state");
            assert_eq!(states.count(), 1, "seed {seed}");
        }
    }
}

#[test]
fn refused_joins_are_answered_five_seconds_apart_while_heartbeats_go_on() {
    let mut world = World::of(2);
    let client = world.member(0, 2, "realtime:a", &json!({"broadcast": {"self": true}}));
    for msg_ref in ["2", "3"] {
        world.join(client, msg_ref, "realtime:", &json!({}));
    }
    world.join(client, "4", "realtime:b", &json!({}));
    for n in 0..2 {
        world.advance(Duration::from_millis(4900));
        world.send(client, &heartbeat("7"));
        world.broadcast(client, "8", "realtime:a", &json!({"n": n}));
        // Nothing of the refused join or of those behind it, but everything else.
        let expected = [
            heartbeat_ok("7"),
            fanned("realtime:a", "broadcast", &json!({"n": n})),
        ];
        assert_eq!(world.reads(client), expected);
        world.advance(Duration::from_millis(100));
        let refusal = join_error(["2", "3"][n], "realtime:", NO_NAME);
        let ok_behind = join_ok("4", "realtime:b");
        let expected = [refusal, ok_behind];
        assert_eq!(world.reads(client), expected[..=n]);
    }
}

#[test]
fn each_join_is_refused_with_its_reason() {
    let mut world = World::of(1);
    let expired = token(1);
    world.advance(Duration::from_secs(3));
    let check = |world: &mut World, payload: Value, reason: &str| {
        let client = world.connect(0, 2);
        world.send(
            client,
            &json!(["1", "1", "realtime:a", "phx_join", payload]),
        );
        world.advance(Duration::from_millis(4900));
        assert_eq!(world.read(client), Vec::<Value>::new(), "{reason}");
        world.advance(Duration::from_millis(200));
        assert_eq!(world.read(client), [join_error("1", "realtime:a", reason)]);
        world.send(client, &heartbeat("2"));
        assert_eq!(world.reads(client), [heartbeat_ok("2")]);
    };
    check(
        &mut world,
        json!({"config": {"private": true}}),
        "UnableToConnectToProject: Realtime was unable to connect to the project database",
    );
    check(
        &mut world,
        json!({"config": {"broadcast": {"replay": null}}}),
        "UnableToReplayMessages: Replay is not allowed for public channels",
    );
    check(
        &mut world,
        json!({"config": {}, "access_token": ""}),
        "MalformedJWT: The token provided is not a valid JWT",
    );
    let seconds = world.sim.now().since(shards::Tick(0)).as_secs() - 1;
    check(
        &mut world,
        json!({"config": {}, "access_token": expired}),
        &format!("InvalidJWTToken: Token has expired {seconds} seconds ago"),
    );
}

#[test]
fn a_second_join_of_a_topic_replaces_the_first_behind_its_reply() {
    for shards in 1..=3 {
        for owner in 0..shards {
            let mut world = World::of(shards);
            let topic = world.topic_of(owner);
            let client = world.member(0, 2, &topic, &json!({}));
            let other = world.member(shards - 1, 2, &topic, &json!({}));
            world.join(client, "2", &topic, &json!({"broadcast": {"self": true}}));
            assert_eq!(
                world.reads(client),
                [join_ok("2", &topic), closed("1", &topic)]
            );
            world.send(other, &json!(["1", "3", topic, "broadcast", {"n": 1}]));
            assert_eq!(
                world.reads(client),
                [fanned(&topic, "broadcast", &json!({"n": 1}))]
            );
        }
    }
}

#[test]
fn a_refused_second_join_ends_the_first_all_the_same() {
    let mut world = World::of(1);
    let client = world.member(0, 2, "realtime:a", &json!({}));
    world.join(client, "2", "realtime:a", &json!({"private": true}));
    world.advance(Duration::from_millis(4900));
    assert_eq!(world.read(client), Vec::<Value>::new());
    world.advance(Duration::from_millis(100));
    let reason = "UnableToConnectToProject: Realtime was unable to connect to the project database";
    let expected = [
        join_error("2", "realtime:a", reason),
        closed("1", "realtime:a"),
    ];
    assert_eq!(world.read(client), expected);
    world.broadcast(client, "3", "realtime:a", &json!({}));
    assert_eq!(world.reads(client), [unmatched("3", "realtime:a")]);
}

#[test]
fn what_is_sent_behind_a_join_is_handled_behind_it() {
    for shards in 1..=3 {
        for owner in 0..shards {
            let mut world = World::of(shards);
            let topic = world.topic_of(owner);
            let reader = world.member(shards - 1, 2, &topic, &json!({}));
            let client = world.connect(0, 2);
            world.join(client, "1", &topic, &json!({"broadcast": {"ack": true}}));
            world.broadcast(client, "2", &topic, &json!({"n": 1}));
            world.send(client, &json!(["1", "3", topic, "phx_leave", {}]));
            world.join(client, "4", &topic, &json!({}));
            let expected = [
                join_ok("1", &topic),
                ok("1", "2", &topic),
                ok("1", "3", &topic),
                closed("1", &topic),
                join_ok("4", &topic),
            ];
            assert_eq!(
                world.reads(client),
                expected,
                "{shards} shards, owner {owner}"
            );
            assert_eq!(
                world.read(reader),
                [fanned(&topic, "broadcast", &json!({"n": 1}))]
            );
        }
    }
}

/// Two sockets wait for the same topic of another shard, and the first leaves as soon as it is in.
#[test]
fn a_leave_behind_a_join_leaves_the_topic_to_others_who_wait_for_it() {
    let mut world = World::of(2);
    let topic = world.topic_of(1);
    let [leaver, stayer] = [(); 2].map(|()| world.connect(0, 2));
    world.run();
    for client in [leaver, stayer] {
        world.join(client, "1", &topic, &json!({}));
    }
    world.send(leaver, &json!(["1", "2", topic, "phx_leave", {}]));
    let expected = [
        join_ok("1", &topic),
        ok("1", "2", &topic),
        closed("1", &topic),
    ];
    assert_eq!(world.reads(leaver), expected);
    assert_eq!(world.read(stayer), [join_ok("1", &topic)]);
    let sender = world.member(1, 2, &topic, &json!({}));
    world.broadcast(sender, "2", &topic, &json!({"n": 1}));
    assert_eq!(
        world.reads(stayer),
        [fanned(&topic, "broadcast", &json!({"n": 1}))]
    );
}

/// Of one channel the client reads the answers in the order of its questions; other topics go on meanwhile.
#[test]
fn what_is_sent_behind_a_refused_join_of_the_same_topic_waits_for_its_reply() {
    let mut world = World::of(2);
    let client = world.member(0, 2, "realtime:a", &json!({}));
    world.join(client, "2", "realtime:a", &json!({"private": true}));
    world.broadcast(client, "3", "realtime:a", &json!({}));
    world.send(client, &json!(["2", "4", "realtime:a", "phx_leave", {}]));
    world.broadcast(client, "5", "realtime:b", &json!({}));
    world.join(client, "6", "realtime:a", &json!({}));
    world.advance(Duration::from_millis(4900));
    assert_eq!(world.read(client), [unmatched("5", "realtime:b")]);
    world.advance(Duration::from_millis(100));
    let reason = "UnableToConnectToProject: Realtime was unable to connect to the project database";
    let expected = [
        join_error("2", "realtime:a", reason),
        closed("1", "realtime:a"),
        unmatched("3", "realtime:a"),
        ok("2", "4", "realtime:a"),
        join_ok("6", "realtime:a"),
    ];
    assert_eq!(world.read(client), expected);
}

/// The topic's join waits for another shard, so the refused join and the broadcast wait together behind it.
#[test]
fn a_message_does_not_wait_for_a_refused_join_of_another_topic() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let topic = world.topic_of(shards - 1);
        let client = world.connect(0, 2);
        world.join(client, "1", &topic, &json!({"broadcast": {"ack": true}}));
        world.join(client, "2", "realtime:", &json!({}));
        world.broadcast(client, "3", &topic, &json!({}));
        world.join(client, "4", "realtime:late", &json!({}));
        let leave = json!(["4", "5", "realtime:late", "phx_leave", {}]);
        world.send(client, &leave);
        world.broadcast(client, "6", &topic, &json!({}));
        let expected = [
            join_ok("1", &topic),
            ok("1", "3", &topic),
            ok("1", "6", &topic),
        ];
        assert_eq!(world.reads(client), expected, "{shards} shards");
        world.advance(Duration::from_secs(5));
        let expected = [
            join_error("2", "realtime:", NO_NAME),
            join_ok("4", "realtime:late"),
            ok("4", "5", "realtime:late"),
            closed("4", "realtime:late"),
        ];
        assert_eq!(world.read(client), expected, "{shards} shards");
    }
}

#[test]
fn a_topic_without_members_is_forgotten() {
    for shards in 1..=3 {
        for owner in 0..shards {
            let mut world = World::of(shards);
            let topic = world.topic_of(owner);
            let members: Vec<Client> = (0..shards * 2)
                .map(|n| world.member(n / 2, 1 + u8::from(n % 2 == 0), &topic, &json!({})))
                .collect();
            for &member in &members {
                assert!(world.remains()[1] > 0);
                world.send(member, &json!(["1", "2", topic, "phx_leave", {}]));
                world.run();
            }
            assert_eq!(world.remains(), [members.len(), 0, members.len()]);
        }
    }
}

/// Whoever wanted to join is gone before the owner has answered.
#[test]
fn a_topic_that_nobody_waits_for_any_more_is_forgotten() {
    for turns in 0..8 {
        let mut world = World::of(2);
        let topic = world.topic_of(1);
        let client = world.connect(0, 2);
        world.run();
        world.join(client, "1", &topic, &json!({"presence": {"enabled": true}}));
        world.steps(turns);
        world.reset(client);
        world.run();
        assert_eq!(world.remains(), [0, 0, 0], "after {turns} turns");
    }
}

/// The first to ask is gone before the answer, and somebody else has asked anew: the late answer must not undo that.
#[test]
fn a_topic_that_is_asked_for_anew_outlives_the_answer_to_who_is_gone() {
    for turns in 0..6 {
        let mut world = World::of(2);
        let topic = world.topic_of(1);
        let sender = world.member(1, 2, &topic, &json!({}));
        let [first, second] = [(); 2].map(|()| world.connect(0, 2));
        world.run();
        world.join(first, "1", &topic, &json!({}));
        world.steps(turns);
        world.reset(first);
        world.join(second, "1", &topic, &json!({}));
        assert_eq!(world.reads(second), [join_ok("1", &topic)]);
        world.broadcast(sender, "2", &topic, &json!({"n": 1}));
        let expected = fanned(&topic, "broadcast", &json!({"n": 1}));
        assert_eq!(world.reads(second), [expected], "after {turns} turns");
    }
}

#[test]
fn a_leave_counts_only_with_the_channels_join_ref() {
    let mut world = World::of(1);
    let client = world.member(0, 2, "realtime:a", &json!({}));
    for join_ref in [json!("2"), json!(null), json!(1)] {
        world.send(
            client,
            &json!([join_ref, "2", "realtime:a", "phx_leave", {}]),
        );
        assert_eq!(world.reads(client), Vec::<Value>::new());
    }
    // The same string as "1".
    world.write_frame(client, 1, br#"["\u0031","3","realtime:a","phx_leave",{}]"#);
    let expected = [ok("1", "3", "realtime:a"), closed("1", "realtime:a")];
    assert_eq!(world.reads(client), expected);
    world.send(client, &json!(["5", "6", "realtime:a", "phx_leave", {}]));
    assert_eq!(world.reads(client), [ok("5", "6", "realtime:a")]);
}

/// Without a join_ref, replies carry the join's ref and `phx_close` carries null (spec 3.2).
#[test]
fn a_join_without_join_ref_lends_its_ref() {
    let mut world = World::of(1);
    let client = world.connect(0, 2);
    world.send(
        client,
        &json!([null, 7, "realtime:a", "phx_join", {"config": {"broadcast": {"ack": true}}}]),
    );
    world.send(
        client,
        &json!([null, {"x": 1}, "realtime:a", "broadcast", {}]),
    );
    world.send(client, &json!(["any", "9", "realtime:a", "phx_leave", {}]));
    let reply = |join_ref: Value, msg_ref: Value, response: Value| json!([join_ref, msg_ref, "realtime:a", "phx_reply", {"status": "ok", "response": response}]);
    let expected = [
        reply(json!(null), json!(7), json!({"postgres_changes": []})),
        reply(json!(7), json!({"x": 1}), json!({})),
        reply(json!(7), json!("9"), json!({})),
        json!([null, null, "realtime:a", "phx_close", {}]),
    ];
    assert_eq!(world.reads(client), expected);
}

#[test]
fn what_makes_no_sense_on_a_channel_is_not_answered() {
    let mut world = World::of(1);
    let client = world.member(0, 2, "realtime:a", &json!({}));
    for event in [
        "nonsense",
        "heartbeat",
        "phx_reply",
        "phx_error",
        "phx_close",
    ] {
        world.send(client, &json!(["1", "2", "realtime:a", event, {}]));
        assert_eq!(world.reads(client), Vec::<Value>::new(), "{event}");
    }
    for frame in [
        "",
        "{}",
        "[]",
        "null",
        "\"x\"",
        "[1,2,3]",
        "{",
        r#"["1","2","realtime:a","broadcast"]"#,
    ] {
        world.write_frame(client, 1, frame.as_bytes());
        assert_eq!(world.reads(client), Vec::<Value>::new(), "{frame}");
    }
    for frame in [
        &b""[..],
        b"\xff\xff",
        b"\x01\x00",
        b"\x02\x01\x01ab",
        b"\x03\x01\x01\x0a",
    ] {
        world.send_binary(client, frame);
        assert_eq!(world.reads(client), Vec::<Value>::new(), "{frame:?}");
    }
    world.send(client, &heartbeat("3"));
    assert_eq!(world.reads(client), [heartbeat_ok("3")]);
}

#[test]
fn topics_that_are_not_joined_are_unmatched() {
    let mut world = World::of(1);
    let client = world.connect(0, 2);
    let check = |world: &mut World, topic: &str, event: &str| {
        world.send(client, &json!(["1", "2", topic, event, {}]));
        assert_eq!(
            world.reads(client),
            [unmatched("2", topic)],
            "{topic} {event}"
        );
    };
    check(&mut world, "room", "phx_join");
    check(&mut world, "phoenix", "phx_join");
    check(&mut world, "phoenix", "other");
    check(&mut world, "realtime:a", "broadcast");
    check(&mut world, "realtime:a", "heartbeat");
}

#[test]
fn a_stale_or_missing_join_ref_does_not_matter_elsewhere() {
    let mut world = World::of(1);
    let config = json!({"broadcast": {"ack": true}});
    let client = world.member(0, 2, "realtime:a", &config);
    for join_ref in [json!("0"), json!(null)] {
        world.send(
            client,
            &json!([join_ref, "2", "realtime:a", "broadcast", {}]),
        );
        assert_eq!(world.reads(client), [ok("1", "2", "realtime:a")]);
    }
}

#[test]
fn a_token_that_says_nothing_new_changes_nothing() {
    let mut world = World::of(1);
    let client = world.connect(0, 2);
    let own = token(7 * 86_400);
    world.joined(client, "1", "realtime:a", &json!({}));
    for value in [
        json!(own),
        json!(null),
        json!("sb_publishable_x"),
        json!(5),
        json!(token(1000)),
    ] {
        world.send(
            client,
            &json!(["1", "2", "realtime:a", "access_token", {"access_token": value}]),
        );
        assert_eq!(world.reads(client), Vec::<Value>::new());
    }
    let payload = json!({"access_token": "a.b.c"});
    world.send(
        client,
        &json!(["1", "2", "realtime:a", "access_token", payload]),
    );
    let text = "The token provided is not a valid JWT";
    assert_eq!(world.reads(client), shut_down("1", "realtime:a", text));
}

/// `ANY_HOST_SINGLE_TENANT` is for hosts that name nobody: a name that is not a tenant's is refused, also where there is one tenant.
#[test]
fn an_unknown_name_is_not_found_although_there_is_one_tenant() {
    let mut world = World::of(1);
    let client = world.connect_with(0, 2, 7, &token(60));
    world.advance(Duration::from_secs(2));
    let expected = json!({"status": "404", "body": r#"{"error":"Tenant not found"}"#});
    assert_eq!(world.read(client), [expected]);
}

#[test]
fn a_socket_with_many_channels_reaches_each_by_its_own_name() {
    let mut world = World::of(3);
    let client = world.connect(0, 2);
    let names: Vec<_> = (0..12).map(|n| format!("realtime:room:{n}")).collect();
    for name in &names {
        world.join(client, name, name, &json!({"broadcast": {"self": true}}));
    }
    world.advance(Duration::from_secs(11));
    world.read(client);
    for name in names.iter().rev() {
        world.broadcast(client, "9", name, &json!({"to": name}));
        world.advance(Duration::from_secs(11));
        assert_eq!(
            world.read(client),
            [fanned(name, "broadcast", &json!({"to": name}))]
        );
        world.send(client, &heartbeat("h"));
        world.advance(Duration::from_secs(11));
        assert_eq!(world.read(client), [heartbeat_ok("h")]);
    }
    world.broadcast(client, "9", "realtime:room:12", &json!({}));
    world.advance(Duration::from_secs(11));
    assert_eq!(world.read(client), [unmatched("9", "realtime:room:12")]);
}

#[test]
fn a_join_that_would_cost_too_much_is_refused_and_its_neighbour_is_not() {
    let mut world = World::of(1);
    let client = world.connect(0, 2);
    let check = |world: &mut World, bytes: usize, is_ok: bool| {
        let payload = json!({"config": {}, "more": "x".repeat(bytes)});
        world.send(
            client,
            &json!(["1", "1", "realtime:a", "phx_join", payload]),
        );
        world.advance(Duration::from_secs(6));
        let read = world.read(client);
        assert_eq!(read[0][4]["status"] == "ok", is_ok, "{bytes} bytes");
    };
    check(&mut world, 200 * 1024, true);
    check(&mut world, 256 * 1024, false);
    world.send(client, &heartbeat("2"));
    world.advance(Duration::from_secs(1));
    assert_eq!(world.read(client), [heartbeat_ok("2")]);
}
