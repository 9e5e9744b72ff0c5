//! What a tenant may use, counted over all shards (spec: websocket-protocol 9.3).

use super::world::{Client, Setup, World, generous, shard_id};
use super::{closed, fanned, heartbeat, heartbeat_ok, join_error, join_ok, ok, shut_down};
use crate::limits;
use crate::mail::Mail;
use crate::tenant::{Counter, TenantLimits};
use serde_json::{Value, json};
use shards::Options;
use std::time::Duration;

fn limited(shards: usize, change: impl Fn(&mut TenantLimits)) -> World {
    let mut limits = generous();
    change(&mut limits);
    World::new(Setup {
        tenants: vec![limits],
        ..Setup::new(shards)
    })
}

/// What the control core does at a tick.
fn publish(world: &World, counter: Counter, average: f64, limit: u32) {
    let _ = world.tenants[0].usage.publish(counter, average, limit);
}

#[test]
fn users_are_counted_exactly_over_all_shards() {
    let mut world = limited(3, |limits| limits.users_max = 2);
    let [one, two, three] = [0, 1, 2].map(|shard| world.connect(shard, 2));
    world.run();
    // All three ask at once; two of them are let in, whichever they are.
    for client in [one, two, three] {
        world.join(client, "1", "realtime:a", &json!({}));
    }
    world.advance(Duration::from_secs(5));
    let mut replies: Vec<Value> = [one, two, three]
        .iter()
        .flat_map(|&client| world.read(client))
        .collect();
    replies.sort_by_key(|reply| reply[4]["status"] == "ok");
    let reason = "ConnectionRateLimitReached: Too many connected users";
    let expected = [
        join_error("1", "realtime:a", reason),
        join_ok("1", "realtime:a"),
        join_ok("1", "realtime:a"),
    ];
    assert_eq!(replies, expected);
    assert_eq!(world.tenants[0].usage.users(), 2);
    // Now an upgrade is refused as well, after its delay.
    let fourth = world.connect(0, 2);
    world.advance(Duration::from_secs(2));
    let refusal = json!({"status": "429", "body": "{\"error\":\"Too many connected users\"}"});
    assert_eq!(world.read(fourth), [refusal]);
}

#[test]
fn a_socket_counts_once_and_until_it_ends() {
    let mut world = limited(2, |limits| limits.users_max = 1);
    let client = world.member(0, 2, "realtime:a", &json!({}));
    world.joined(client, "2", "realtime:b", &json!({}));
    for topic in ["realtime:a", "realtime:b"] {
        world.send(client, &json!([null, "3", topic, "phx_leave", {}]));
    }
    for (join_ref, topic) in [("1", "realtime:a"), ("2", "realtime:b")] {
        world.send(client, &json!([join_ref, "3", topic, "phx_leave", {}]));
    }
    assert_eq!(world.reads(client).len(), 4);
    assert_eq!(
        world.tenants[0].usage.users(),
        1,
        "a socket without channels counts on"
    );
    world.reset(client);
    world.run();
    assert_eq!(world.tenants[0].usage.users(), 0);
}

#[test]
fn a_refused_join_makes_no_user() {
    let mut world = World::of(2);
    let client = world.connect(0, 2);
    world.join(client, "1", "realtime:a", &json!({"private": true}));
    world.advance(Duration::from_secs(5));
    assert_eq!(world.read(client).len(), 1);
    assert_eq!(world.tenants[0].usage.users(), 0);
    world.joined(client, "2", "realtime:a", &json!({}));
    assert_eq!(world.tenants[0].usage.users(), 1);
}

#[test]
fn channels_of_a_socket_are_counted_and_freed() {
    let mut world = limited(2, |limits| limits.channels_per_socket_max = 2);
    let client = world.member(0, 2, "realtime:a", &json!({}));
    world.joined(client, "2", "realtime:b", &json!({}));
    world.join(client, "3", "realtime:c", &json!({}));
    world.advance(Duration::from_secs(5));
    let reason = "ChannelRateLimitReached: Too many channels";
    assert_eq!(world.read(client), [join_error("3", "realtime:c", reason)]);
    world.joined(client, "4", "realtime:b", &json!({}));
    world.send(client, &json!(["1", "5", "realtime:a", "phx_leave", {}]));
    assert_eq!(
        world.reads(client),
        [ok("1", "5", "realtime:a"), closed("1", "realtime:a")]
    );
    world.joined(client, "6", "realtime:c", &json!({}));
}

/// Spec 5.1: a shape that nothing can be made of is the last thing that a join fails for.
#[test]
fn limits_and_tokens_are_checked_before_shapes() {
    let check = |channels_max: u32, token: &str, reason: &str| {
        let mut world = limited(1, |limits| limits.channels_per_socket_max = channels_max);
        let client = world.member(0, 2, "realtime:a", &json!({}));
        let payload = json!({"config": "x", "access_token": token});
        world.send(
            client,
            &json!(["2", "2", "realtime:b", "phx_join", payload]),
        );
        world.advance(Duration::from_secs(5));
        let error = join_error("2", "realtime:b", reason);
        assert_eq!(world.read(client), [error]);
        assert_eq!(world.tenants[0].usage.users(), 1);
    };
    check(1, "", "ChannelRateLimitReached: Too many channels");
    let malformed = "MalformedJWT: The token provided is not a valid JWT";
    check(2, "", malformed);
    let shape = "UnknownErrorOnChannel: config must be an object";
    check(2, "sb_x", shape);
}

/// Spec 9.3: the message at hand is delivered and acked; then every channel that received it ends, and no other.
#[test]
fn a_tripped_events_limit_ends_receiving_channels_behind_the_message() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let config = json!({"broadcast": {"ack": true, "self": true}});
        let sender = world.member(0, 2, "realtime:a", &config);
        let reader = world.member(shards - 1, 2, "realtime:a", &json!({}));
        world.joined(reader, "2", "realtime:idle", &json!({}));
        let silent = world.member(0, 2, "realtime:other", &json!({}));
        publish(&world, Counter::Events, 200.0, 100);
        world.broadcast(sender, "9", "realtime:a", &json!({"n": 1}));
        let text = "Too many messages per second";
        let message = fanned("realtime:a", "broadcast", &json!({"n": 1}));
        let end = shut_down("1", "realtime:a", text);
        let of_sender = world.reads(sender);
        assert_eq!(of_sender.len(), 4);
        assert!(of_sender.contains(&ok("1", "9", "realtime:a")));
        assert!(of_sender.contains(&message));
        assert_eq!(of_sender[2..], end);
        let expected: Vec<Value> = std::iter::once(message).chain(end).collect();
        assert_eq!(world.read(reader), expected);
        assert_eq!(world.read(silent), Vec::<Value>::new());
        // The idle channel of the same socket lives, and joins stay possible.
        publish(&world, Counter::Events, 0.0, 100);
        world.send(reader, &json!(["2", "3", "realtime:idle", "phx_leave", {}]));
        assert_eq!(world.reads(reader).len(), 2);
        world.joined(sender, "2", "realtime:a", &json!({}));
    }
}

/// Spec 5.8: the message at hand is delivered. What else is published in its turn finds no channel any more.
#[test]
fn a_tripped_events_limit_lets_one_message_through() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let sender = world.member(0, 2, "realtime:a", &json!({"broadcast": {"ack": true}}));
        let reader = world.member(shards - 1, 2, "realtime:a", &json!({}));
        publish(&world, Counter::Events, 200.0, 100);
        let acks: Vec<Value> = ["7", "8", "9"]
            .iter()
            .map(|msg_ref| {
                world.broadcast(sender, msg_ref, "realtime:a", &json!({"n": msg_ref}));
                ok("1", msg_ref, "realtime:a")
            })
            .collect();
        assert_eq!(world.reads(sender), acks);
        let end = shut_down("1", "realtime:a", "Too many messages per second");
        let message = fanned("realtime:a", "broadcast", &json!({"n": "7"}));
        let expected: Vec<Value> = std::iter::once(message).chain(end).collect();
        assert_eq!(world.read(reader), expected);
    }
}

/// Spec 9.2 and 9.3: the check at the upgrade is a use. Joins that come with it are in no first, short bucket, then.
#[test]
fn an_upgrade_starts_the_counter_of_joins() {
    let mut world = World::of(2);
    for shard in [0, 1] {
        let client = world.connect(shard, 2);
        assert_eq!(world.reads(client), Vec::<Value>::new());
    }
    let started = world.letters.iter().filter(|letter| {
        let counter = Counter::Joins;
        matches!(letter, Mail::RateStarted { counter: of, .. } if *of == counter)
    });
    assert_eq!(started.count(), 1);
    assert_eq!(world.tenants[0].usage.total(Counter::Joins), 0);
}

/// Spec 9.3: only channels that receive something. A sender without `self` receives nothing of its own message.
#[test]
fn a_tripped_events_limit_spares_a_sender_that_does_not_hear_itself() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let sender = world.member(0, 2, "realtime:a", &json!({"broadcast": {"ack": true}}));
        let reader = world.member(shards - 1, 2, "realtime:a", &json!({}));
        publish(&world, Counter::Events, 200.0, 100);
        for msg_ref in ["8", "9"] {
            world.broadcast(sender, msg_ref, "realtime:a", &json!({"n": 1}));
            assert_eq!(world.reads(sender), [ok("1", msg_ref, "realtime:a")]);
        }
        assert_eq!(world.read(reader).len(), 3, "the message and the end");
    }
}

#[test]
fn one_message_to_n_members_counts_one_and_n() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let config = json!({"broadcast": {"self": true}});
        let sender = world.member(0, 2, "realtime:a", &config);
        world.member(shards - 1, 2, "realtime:a", &config);
        for _ in 0..5 {
            world.broadcast(sender, "9", "realtime:a", &json!({}));
        }
        world.run();
        assert_eq!(world.tenants[0].usage.total(Counter::Events), 15);
        let started = |letter: &Mail| {
            matches!(
                letter,
                Mail::RateStarted {
                    counter: Counter::Events,
                    ..
                }
            )
        };
        let announced = world
            .letters
            .iter()
            .filter(|letter| started(letter))
            .count();
        assert_eq!(announced, 1, "the control core is told once");
    }
}

#[test]
fn a_tripped_joins_limit_refuses_the_join_and_then_the_socket() {
    let mut world = World::of(2);
    let client = world.member(0, 2, "realtime:a", &json!({}));
    publish(&world, Counter::Joins, 2.0, 1);
    world.join(client, "2", "realtime:b", &json!({}));
    world.join(client, "3", "realtime:c", &json!({}));
    world.advance(Duration::from_secs(5));
    let reason = "ClientJoinRateLimitReached: Too many joins per second";
    let expected = [
        join_error("2", "realtime:b", reason),
        json!({"close": 1001}),
    ];
    assert_eq!(world.read(client), expected);
    let late = world.connect(1, 2);
    world.advance(Duration::from_secs(2));
    let refusal = json!({"status": "429", "body": "{\"error\":\"Too many joins per second\"}"});
    assert_eq!(world.read(late), [refusal]);
}

#[test]
fn a_tripped_presence_limit_ends_whoever_tracks_or_gets_a_state() {
    let mut world = World::of(2);
    let tracker = world.member(0, 2, "realtime:a", &json!({}));
    let quiet = world.member(1, 2, "realtime:a", &json!({}));
    publish(&world, Counter::PresenceEvents, 11.0, 10);
    let payload = json!({"event": "track", "payload": {}});
    world.send(
        tracker,
        &json!(["1", "2", "realtime:a", "presence", payload]),
    );
    let text = "Too many presence messages per second";
    assert_eq!(world.reads(tracker), shut_down("1", "realtime:a", text));
    let joiner = world.connect(1, 2);
    world.join(
        joiner,
        "1",
        "realtime:a",
        &json!({"presence": {"enabled": true}}),
    );
    let expected: Vec<Value> = std::iter::once(join_ok("1", "realtime:a"))
        .chain(shut_down("1", "realtime:a", text))
        .collect();
    assert_eq!(world.reads(joiner), expected);
    assert_eq!(world.read(quiet), Vec::<Value>::new());
}

/// Spec 9.3: 1 per state sent, 1 per effective track, 1 per recipient of each diff.
#[test]
fn presence_events_are_counted_by_state_track_and_recipient() {
    let mut world = World::of(3);
    let members: Vec<Client> = (0..3)
        .map(|shard| {
            world.member(
                shard,
                2,
                "realtime:a",
                &json!({"presence": {"enabled": true}}),
            )
        })
        .collect();
    world.run();
    assert_eq!(world.tenants[0].usage.total(Counter::PresenceEvents), 3);
    let payload = json!({"event": "track", "payload": {}});
    for _ in 0..2 {
        world.send(
            members[1],
            &json!(["1", "2", "realtime:a", "presence", payload]),
        );
        world.run();
    }
    assert_eq!(
        world.tenants[0].usage.total(Counter::PresenceEvents),
        3 + 1 + 3
    );
    assert_eq!(world.tenants[0].usage.total(Counter::Events), 0);
}

/// Whoever never finishes a message takes some memory; all of them together take no more than that.
#[test]
fn unfinished_messages_share_a_bound() {
    const BYTES: usize = 4_900_000;
    let mut world = World::of(1);
    let clients = [0, 1].map(|_| world.connect(0, 2));
    // Binary, masked with zeros, of a length that is told in eight bytes.
    let mut begun = vec![0x82, 0xff];
    begun.extend((BYTES as u64 + 1).to_be_bytes());
    begun.resize(begun.len() + 4 + BYTES, 0);
    for client in clients {
        world.run();
        world.write(client, &begun);
        world.run();
    }
    assert_eq!(world.reads(clients[1]), [json!({"close": 1013})]);
    // What was there first is finished, and what it took is free again.
    world.write(clients[0], &[0]);
    world.send(clients[0], &heartbeat("1"));
    let reads = world.reads(clients[0]);
    assert_eq!(reads.last(), Some(&heartbeat_ok("1")), "{reads:?}");
    let held = world.shards().map(|shard| shard.channels().partial_bytes);
    assert_eq!(held.sum::<usize>(), 0);
}

#[test]
fn a_control_core_that_takes_no_mail_holds_up_no_socket() {
    const TOPIC: &str = "realtime:a";
    let mut world = World::new(Setup {
        options: Options {
            connections_max: 16_000,
            mailbox_letters: 64,
            ..Setup::new(2).options
        },
        ..Setup::new(2)
    });
    let [one, two] = [0, 1].map(|shard| world.member(shard, 2, TOPIC, &json!({})));
    // Requests and log lines of one shard, while nobody takes its letters.
    let mut is_busy = false;
    while !is_busy {
        let peers: Vec<_> = (0..100).map(|_| world.sim.connect(shard_id(0))).collect();
        for &peer in &peers {
            let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
            world.sim.peer(peer).write(request);
        }
        world.send(one, &json!("not a message"));
        world.sim.run_until_idle();
        for peer in peers {
            is_busy |= world.sim.peer(peer).read().starts_with(b"HTTP/1.1 503 ");
            world.sim.peer(peer).fin();
        }
    }
    for (from, to) in [(one, two), (two, one)] {
        world.broadcast(from, "9", TOPIC, &json!({"n": 1}));
        world.sim.run_until_idle();
        assert_eq!(
            world.read(to),
            [fanned(TOPIC, "broadcast", &json!({"n": 1}))]
        );
    }
    world.run();
    let handed = world
        .letters
        .iter()
        .filter(|letter| matches!(letter, Mail::HandOver(_)))
        .count();
    assert!(
        handed > limits::CONTROL_LETTERS_WAITING_MAX,
        "{handed} wait"
    );
    assert!(
        handed < limits::CONTROL_LETTERS_WAITING_MAX + 64 + 200,
        "{handed} wait"
    );
}
