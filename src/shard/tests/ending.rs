//! How sockets end, and that they leave nothing behind (spec: websocket-protocol 4.4, 4.5, 9.1, 11).

use super::world::{BEGIN, Client, Setup, World, generous, shard_id, tenant, token};
use super::{closed, fanned, heartbeat, heartbeat_ok, join_error, join_ok, shut_down};
use crate::limits;
use crate::mail::Mail;
use crate::tenant::TenantId;
use serde_json::{Value, json};
use shards::Options;
use std::sync::Arc;
use std::time::Duration;

const TOPIC: &str = "realtime:a";

/// A way for a client to go.
type End = fn(&mut World, Client);

#[test]
fn a_socket_that_ends_leaves_nothing_behind() {
    let ends: [(&str, End); 6] = [
        ("close", |world, client| world.send_close(client, 1000)),
        ("fin", |world, client| world.fin(client)),
        ("reset", |world, client| world.reset(client)),
        ("protocol error", |world, client| {
            world.write_frame(client, 3, b"")
        }),
        ("silence", |world, _| world.advance(Duration::from_secs(66))),
        ("disconnect", |world, _| {
            let id = world.tenants[0].id;
            world.tell(|| Mail::Disconnect(id));
        }),
    ];
    for shards in 1..=3 {
        for (how, end) in ends {
            let mut world = World::of(shards);
            let config = json!({"presence": {"enabled": true}});
            let clients: Vec<Client> = (0..shards * 2)
                .map(|n| world.connect(n / 2, 1 + u8::from(n % 2 == 0)))
                .collect();
            for (n, &client) in clients.iter().enumerate() {
                for topic in 0..3 {
                    let topic = format!("realtime:{topic}");
                    world.join(client, &topic, &topic, &config);
                    let payload = json!({"event": "track", "payload": {}});
                    world.send(client, &json!([topic, "2", topic, "presence", payload]));
                }
                // One more that is refused, so that something is due later for a socket that is gone.
                world.join(client, "9", "realtime:", &config);
                world.steps(n);
            }
            world.run();
            assert_eq!(world.remains()[2], clients.len());
            for &client in &clients {
                end(&mut world, client);
            }
            world.advance(Duration::from_secs(6));
            assert_eq!(world.remains(), [0, 0, 0], "{how}, {shards} shards");
        }
    }
}

#[test]
fn a_close_is_answered_with_1000_whatever_its_code() {
    let mut world = World::of(1);
    for code in [1000, 1001, 3000, 4999] {
        let client = world.member(0, 2, TOPIC, &json!({}));
        world.send_close(client, code);
        assert_eq!(world.reads(client), [json!({"close": 1000})]);
        world.fin(client);
        world.run();
        assert!(world.is_ended(client) && !world.is_reset(client));
    }
}

#[test]
fn an_idle_socket_is_closed_after_sixty_seconds() {
    let mut world = World::of(2);
    let [idle, beating, pinging] = [0, 1, 0].map(|shard| world.member(shard, 2, TOPIC, &json!({})));
    for second in 0..59 {
        world.advance(Duration::from_secs(1));
        if second == 30 {
            world.send(beating, &heartbeat("2"));
            world.write_frame(pinging, 9, b"p");
        }
    }
    assert_eq!(world.read(idle), Vec::<Value>::new());
    world.advance(Duration::from_secs(7));
    assert_eq!(world.read(idle), [json!({"close": 1000})]);
    assert_eq!(world.read(beating), [heartbeat_ok("2")]);
    assert_eq!(world.read(pinging), [json!({"pong": "p"})]);
    world.advance(Duration::from_secs(31));
    assert_eq!(world.read(beating), [json!({"close": 1000})]);
    assert_eq!(world.read(pinging), [json!({"close": 1000})]);
}

#[test]
fn a_token_that_expires_ends_its_channels_alone() {
    let mut world = World::of(1);
    let client = world.connect_with(0, 2, 0, &token(10));
    world.joined(client, "1", "realtime:short", &json!({}));
    let long = json!({"config": {}, "access_token": token(1000)});
    world.send(
        client,
        &json!(["2", "2", "realtime:long", "phx_join", long]),
    );
    world.run();
    world.read(client);
    world.advance(Duration::from_millis(9_900));
    assert_eq!(world.read(client), Vec::<Value>::new());
    world.advance(Duration::from_millis(1_000));
    let text = "Token has expired 0 seconds ago";
    assert_eq!(world.read(client), shut_down("1", "realtime:short", text));
    // The socket's own token is the expired one: a join that brings no other is refused.
    world.join(client, "3", "realtime:late", &json!({}));
    world.advance(Duration::from_secs(5));
    let now = BEGIN + world.sim.now().since(shards::Tick(0)).as_secs();
    let seconds = now - 5 - (BEGIN + 10);
    let reason = format!("InvalidJWTToken: Token has expired {seconds} seconds ago");
    assert_eq!(
        world.read(client),
        [join_error("3", "realtime:late", &reason)]
    );
    world.send(client, &json!(["2", "4", "realtime:long", "broadcast", {}]));
    world.send(client, &heartbeat("5"));
    assert_eq!(world.reads(client), [heartbeat_ok("5")]);
}

#[test]
fn a_longer_token_in_time_keeps_the_channel() {
    let mut world = World::of(1);
    let client = world.connect_with(0, 2, 0, &token(10));
    world.joined(client, "1", TOPIC, &json!({}));
    world.advance(Duration::from_secs(5));
    let payload = json!({"access_token": token(20)});
    world.send(client, &json!(["1", "2", TOPIC, "access_token", payload]));
    world.advance(Duration::from_millis(14_900));
    assert_eq!(world.read(client), Vec::<Value>::new());
    world.advance(Duration::from_secs(1));
    let text = "Token has expired 0 seconds ago";
    assert_eq!(world.read(client), shut_down("1", TOPIC, text));
}

#[test]
fn the_reaper_cuts_who_tried_to_join_and_has_no_channel() {
    let mut world = World::of(1);
    let joined = world.member(0, 2, TOPIC, &json!({}));
    let left = world.member(0, 2, TOPIC, &json!({}));
    world.send(left, &json!(["1", "2", TOPIC, "phx_leave", {}]));
    let refused = world.connect(0, 2);
    world.join(refused, "1", "realtime:", &json!({}));
    let never = world.connect(0, 2);
    for _ in 0..21 {
        world.advance(Duration::from_secs(30));
        for client in [joined, left, refused, never] {
            if !world.is_ended(client) {
                world.read(client);
                world.send(client, &heartbeat("3"));
            }
        }
    }
    world.run();
    for client in [left, refused] {
        assert!(
            world
                .read(client)
                .iter()
                .all(|frame| frame.get("close").is_none())
        );
        assert!(world.is_ended(client));
    }
    for client in [joined, never] {
        assert_eq!(world.read(client), [heartbeat_ok("3")]);
    }
}

/// A reader that takes nothing for 30 s, and one whose queue grows beyond its bound.
#[test]
fn a_slow_reader_is_closed_alone() {
    for shards in 1..=2 {
        let mut world = World::of(shards);
        let sender = world.member(0, 2, TOPIC, &json!({}));
        let slow = world.member(0, 2, TOPIC, &json!({}));
        let quick = world.member(shards - 1, 2, TOPIC, &json!({}));
        let payload = json!({"x": "y".repeat(200_000)});
        world.broadcast(sender, "9", TOPIC, &payload);
        for second in 0..32 {
            assert!(world.remains()[0] == 3 || second > 29);
            world.advance(Duration::from_secs(1));
            world.read(quick);
        }
        assert_eq!(world.remains()[0], 2);
        let read = drain(&mut world, slow);
        assert_eq!(
            read.last(),
            Some(&json!({"close": 1013})),
            "what it had begun to read, and the reason"
        );
        world.broadcast(sender, "10", TOPIC, &json!({"n": 1}));
        assert_eq!(
            world.reads(quick),
            [fanned(TOPIC, "broadcast", &json!({"n": 1}))]
        );
    }
}

#[test]
fn a_reader_whose_queue_is_full_is_closed_alone() {
    let mut world = World::of(2);
    let sender = world.member(0, 2, TOPIC, &json!({}));
    let slow = world.member(1, 2, TOPIC, &json!({}));
    let quick = world.member(1, 2, TOPIC, &json!({}));
    let payload = json!({"x": "y".repeat(2_900_000)});
    let mut sent = 0;
    while world.remains()[0] == 3 {
        sent += 1;
        assert!(sent <= 18, "the bound is 50 MB");
        world.broadcast(sender, "9", TOPIC, &payload);
        world.run();
        let mut frames = drain(&mut world, quick);
        assert_eq!(frames.pop().map(|frame| frame[4] == payload), Some(true));
    }
    assert!(sent > 16, "closed after {sent} messages");
    let read = drain(&mut world, slow);
    assert_eq!(read.last(), Some(&json!({"close": 1013})));
}

/// Pongs are two bytes, but each takes forty times as much memory while it waits.
#[test]
fn a_client_that_pings_and_does_not_read_is_closed_by_the_memory_it_takes() {
    let mut world = World::of(1);
    let client = world.connect(0, 2);
    world.run();
    let mut pings = 0;
    while world.remains()[0] == 1 {
        assert!(pings < 800_000, "each of them waits in 82 bytes of 50 MB");
        for _ in 0..10_000 {
            world.write_frame(client, 9, b"");
        }
        pings += 10_000;
        world.run();
    }
    assert!(pings > 500_000, "closed after {pings} pings");
}

/// Reads until nothing more comes.
fn drain(world: &mut World, client: Client) -> Vec<Value> {
    let mut all = Vec::new();
    let mut idle = 0;
    // A pipe holds less than a message, so a read may bring no whole frame and still make room.
    while idle < 50 {
        let read = world.reads(client);
        idle = if read.is_empty() { idle + 1 } else { 0 };
        all.extend(read);
    }
    all
}

#[test]
fn a_tenants_disconnect_is_told_on_each_channel_and_closes_its_sockets_alone() {
    let mut setup = Setup::new(2);
    setup.tenants.push(generous());
    let mut world = World::new(setup);
    let client = world.member(0, 2, "realtime:a", &json!({}));
    world.joined(client, "2", "realtime:b", &json!({}));
    let v1 = world.member(1, 1, "realtime:a", &json!({}));
    let bare = world.connect(1, 2);
    let other = world.connect_with(1, 2, 1, &token(1000));
    world.joined(other, "1", "realtime:a", &json!({}));
    let id = world.tenants[0].id;
    world.tell(|| Mail::Disconnect(id));
    let text =
        json!({"extension": "system", "message": "Server requested disconnect", "status": "ok"});
    let expected = [
        fanned("realtime:a", "system", &text),
        fanned("realtime:b", "system", &text),
        json!({"close": 1012}),
    ];
    assert_eq!(world.reads(client), expected);
    let expected = [
        json!({"topic": "realtime:a", "event": "system", "payload": text, "ref": null}),
        json!({"close": 1012}),
    ];
    assert_eq!(world.read(v1), expected);
    assert_eq!(world.read(bare), [json!({"close": 1012})]);
    assert_eq!(world.read(other), Vec::<Value>::new());
    assert_eq!(
        world
            .tenants
            .iter()
            .map(|tenant| tenant.usage.users())
            .collect::<Vec<_>>(),
        [0, 1]
    );
}

#[test]
fn a_disconnect_of_many_takes_more_than_one_turn() {
    let mut world = World::new(Setup {
        options: Options {
            connections_max: 4096,
            ..Setup::new(1).options
        },
        ..Setup::new(1)
    });
    // A turn that takes a letter has time for two batches.
    let clients: Vec<_> = (0..=2 * limits::DISCONNECT_BATCH)
        .map(|_| world.connect(0, 2))
        .collect();
    world.run();
    let letter = Mail::Disconnect(world.tenants[0].id);
    world.sim.control.send(shard_id(0), letter);
    world.steps(1);
    assert_eq!(world.remains()[0], 1);
    for client in clients {
        assert_eq!(world.reads(client), [json!({"close": 1012})]);
    }
    assert_eq!(world.remains(), [0, 0, 0]);
}

#[test]
fn a_tenant_that_is_deleted_takes_its_sockets_along() {
    let mut world = World::of(2);
    let members = [0, 1].map(|shard| {
        let config = json!({"presence": {"enabled": true}});
        world.member(shard, 2, "realtime:a", &config)
    });
    let bare = world.connect(0, 2);
    world.run();
    let id = world.tenants[0].id;
    assert_eq!(world.remains()[2], 2);
    world.tell(|| Mail::TenantGone(id));
    for member in members {
        assert_eq!(world.reads(member).last(), Some(&json!({"close": 1012})));
    }
    assert_eq!(world.reads(bare), [json!({"close": 1012})]);
    assert_eq!(world.remains(), [0, 0, 0]);
    let late = world.connect_with(0, 2, 0, &token(1000));
    world.advance(Duration::from_secs(2));
    let refused = json!({"status": "404", "body": r#"{"error":"Tenant not found"}"#});
    assert_eq!(world.reads(late), [refused]);
    // The name may come again, with another number.
    let mut again = tenant(0, generous(), 2);
    Arc::get_mut(&mut again).expect("nobody else has it").id = TenantId(9);
    world.tell(|| Mail::Tenant(Arc::clone(&again)));
    let client = world.connect(0, 2);
    world.joined(client, "1", "realtime:a", &json!({}));
}

/// Spec 4.5: nothing precedes the close, whichever shard drains first.
#[test]
fn nobody_hears_of_those_who_are_drained_first() {
    for owner in [0, 1] {
        let mut world = World::of(2);
        let topic = world.topic_of(owner);
        let members = [0, 1].map(|shard| {
            let client = world.member(shard, 2, &topic, &json!({}));
            let track = json!({"event": "track", "payload": {}});
            world.send(client, &json!(["1", "2", topic, "presence", track]));
            client
        });
        for client in members {
            assert!(!world.reads(client).is_empty());
        }
        world.read(members[0]);
        for shard in [1, 0] {
            assert_eq!(world.reads(members[shard]), Vec::<Value>::new());
            world.sim.control.send(shard_id(shard), Mail::Drain);
            let last = [json!({"close": 1012})];
            assert_eq!(world.reads(members[shard]), last, "owner {owner}");
        }
    }
}

#[test]
fn a_drain_closes_joined_sockets_and_refuses_joins() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let members: Vec<Client> = (0..shards * 2)
            .map(|n| world.member(n / 2, 2, TOPIC, &json!({"presence": {"enabled": true}})))
            .collect();
        let bare = world.connect(0, 2);
        world.run();
        for &member in &members {
            world.read(member);
        }
        world.tell(|| Mail::Drain);
        for &member in &members {
            assert_eq!(world.read(member), [json!({"close": 1012})]);
        }
        let drained = world
            .letters
            .iter()
            .filter(|letter| matches!(letter, Mail::Drained));
        assert_eq!(drained.count(), shards);
        world.join(bare, "1", TOPIC, &json!({}));
        world.advance(Duration::from_secs(5));
        let reason = "RealtimeRestarting: Realtime is restarting, please standby";
        assert_eq!(world.read(bare), [join_error("1", TOPIC, reason)]);
    }
}

/// The owner has not answered yet when the drain begins: such a socket must not stay behind, joined.
#[test]
fn a_drain_closes_sockets_whose_join_is_under_way() {
    for turns in 0..8 {
        let mut world = World::of(2);
        let topic = world.topic_of(1);
        let client = world.connect(0, 2);
        world.run();
        world.join(client, "1", &topic, &json!({}));
        world.steps(turns);
        world.tell(|| Mail::Drain);
        world.advance(Duration::from_secs(6));
        let read = world.read(client);
        let reason = "RealtimeRestarting: Realtime is restarting, please standby";
        let refused = [join_error("1", &topic, reason)];
        let is_closed = read.last() == Some(&json!({"close": 1012}));
        assert!(
            is_closed || read == refused,
            "after {turns} turns: {read:?}"
        );
        assert_eq!(world.remains()[1..], [0, 0], "after {turns} turns");
    }
}

#[test]
fn a_stopped_shard_lets_go_of_everything() {
    let mut world = World::of(2);
    let client = world.member(0, 2, TOPIC, &json!({}));
    world.tell(|| Mail::Stop);
    assert!((0..2).all(|n| world.sim.is_stopped(shard_id(n))));
    assert!(world.is_ended(client));
}

#[test]
fn a_leave_frees_the_topic_for_the_next_join() {
    let mut world = World::of(2);
    let client = world.connect(0, 2);
    for n in 0..5 {
        let join_ref = n.to_string();
        world.join(client, &join_ref, TOPIC, &json!({}));
        assert_eq!(world.reads(client), [join_ok(&join_ref, TOPIC)]);
        world.send(client, &json!([join_ref, "9", TOPIC, "phx_leave", {}]));
        assert_eq!(world.reads(client)[1], closed(&join_ref, TOPIC));
    }
}

/// Spec 5.6: the deadline belongs to the channel that asked for the stream, not to a later one of the same topic.
#[test]
fn the_deadline_of_the_replication_stream_ends_the_channel_that_waits_for_it() {
    let mut world = World::of(2);
    let topic = world.topic_of(0);
    let ready = json!({"broadcast": {"replication_ready": true}});
    // It stays, so that the topic stays the same for those who come and go.
    let waiter = world.member(0, 2, &topic, &ready);
    let client = world.member(0, 2, &topic, &ready);
    world.advance(Duration::from_secs(30));
    world.joined(client, "1", &topic, &json!({}));
    let again = world.member(0, 2, &topic, &ready);
    world.advance(Duration::from_secs(20));
    world.joined(again, "1", &topic, &ready);
    for member in [waiter, client, again] {
        world.send(member, &heartbeat("9"));
        world.reads(member);
    }
    let text = "Replication connection was not established in time";
    world.advance(Duration::from_secs(11));
    assert_eq!(world.read(waiter), shut_down("1", &topic, text));
    world.advance(Duration::from_secs(30));
    assert_eq!(world.read(client), Vec::<Value>::new());
    assert_eq!(world.read(again), Vec::<Value>::new());
    for member in [client, again] {
        world.send(member, &heartbeat("9"));
        world.reads(member);
    }
    world.advance(Duration::from_secs(20));
    assert_eq!(world.read(client), Vec::<Value>::new());
    assert_eq!(world.read(again), shut_down("1", &topic, text));
}
