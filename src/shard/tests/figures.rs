//! What shards count while clients come, talk and go (spec: metrics 2, 3, 4).

use super::world::{BEGIN, Client, Setup, World, generous, kind_3, token};
use crate::auth::sign_hs256;
use crate::error::ErrorCode;
use crate::metrics::{Count, Figures, Refused, Relayed, ShardMetrics, Slow, Tally};
use crate::phoenix::Vsn;
use crate::tenant::{Counter, TenantLimits};
use serde_json::json;
use std::time::Duration;

const TOPIC: &str = "realtime:a";

/// The sum of a number over all shards.
fn sum(world: &World, read: impl Fn(&Figures, &ShardMetrics) -> u64) -> u64 {
    let shards = 0..world.shard_count;
    shards
        .map(|shard| world.figures(shard))
        .map(|(of, runtime)| read(of, runtime))
        .sum()
}

fn errors(world: &World) -> Vec<(ErrorCode, u64)> {
    world.tenants[0].usage.errors().collect()
}

fn payloads(world: &World, what: Relayed) -> (u64, u64) {
    let tally = world.tenants[0].usage.payloads(what);
    tally.map_or((0, 0), |tally| (tally.count(), tally.sum))
}

#[test]
fn channels_and_topics_are_counted_while_they_last() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let clients: Vec<Client> = (0..shards)
            .map(|shard| world.member(shard, 2, TOPIC, &json!({})))
            .collect();
        world.joined(clients[0], "2", "realtime:b", &json!({}));
        let channels = |world: &World| sum(world, |of, _| of.channels.get());
        let topics = |world: &World| sum(world, |of, _| of.topics_owned.get());
        assert_eq!(channels(&world), shards as u64 + 1);
        assert_eq!(topics(&world), 2, "each has one owner");
        world.send(
            clients[0],
            &json!(["2", "3", "realtime:b", "phx_leave", {}]),
        );
        world.run();
        assert_eq!(channels(&world), shards as u64);
        assert_eq!(topics(&world), 1);
        // One joins again, which ends its channel of before.
        world.join(clients[0], "4", TOPIC, &json!({}));
        world.run();
        assert_eq!(channels(&world), shards as u64);
        clients.iter().for_each(|&client| world.reset(client));
        world.run();
        assert_eq!((channels(&world), topics(&world)), (0, 0));
        assert_eq!(sum(&world, |of, _| of.joins_ok.get()), shards as u64 + 2);
        assert_eq!(sum(&world, |_, of| of.connections.get()), 0);
    }
}

#[test]
fn joins_count_by_their_result() {
    let mut world = World::of(2);
    let client = world.member(0, 2, TOPIC, &json!({}));
    world.join(client, "2", "realtime:", &json!({}));
    world.send(client, &json!(["3", "3", "nonsense", "phx_join", {}]));
    world.run();
    assert_eq!(sum(&world, |of, _| of.joins_ok.get()), 1);
    assert_eq!(sum(&world, |of, _| of.joins_refused.get()), 1);
    assert_eq!(errors(&world), [(ErrorCode::TopicNameRequired, 1)]);
}

#[test]
fn messages_and_upgrades_count_with_the_length_of_their_turn() {
    let mut world = World::of(1);
    let one = world.member(0, 1, TOPIC, &json!({}));
    let two = world.member(0, 2, TOPIC, &json!({}));
    world.broadcast(two, "2", TOPIC, &json!({"event": "e", "payload": {}}));
    world.send(two, &json!(["1", "3", TOPIC, "what is this", {}]));
    // No messages of channels: a heartbeat, a topic that is not joined, and leaving.
    world.send(two, &json!([null, "4", "phoenix", "heartbeat", {}]));
    world.send(two, &json!(["1", "5", "realtime:x", "broadcast", {}]));
    world.send(one, &json!(["1", "6", TOPIC, "phx_leave", {}]));
    world.run();
    // The turn in which they were handled is noted by the next one.
    world.send(two, &json!([null, "7", "phoenix", "heartbeat", {}]));
    world.run();
    let (figures, _) = world.figures(0);
    assert_eq!(figures.handled_ms.tally().count(), 2);
    let upgraded = figures.upgraded_ms.each_ref().map(|of| of.tally().count());
    assert_eq!(upgraded, [1, 1]);
}

#[test]
fn every_byte_of_a_socket_is_counted_for_its_tenant() {
    let mut world = World::new(Setup {
        tenants: vec![generous(), generous()],
        ..Setup::new(2)
    });
    let token = token(7 * 86_400);
    let other = world.connect_with(0, 2, 1, &token);
    world.joined(other, "1", TOPIC, &json!({}));
    let clients = [0, 1].map(|shard| world.member(shard, 2, TOPIC, &json!({})));
    world.broadcast(
        clients[0],
        "2",
        TOPIC,
        &json!({"event": "e", "payload": {"x": "y"}}),
    );
    world.run();
    let of_tenants: Vec<(u64, u64)> = world.tenants.iter().map(|it| it.usage.bytes()).collect();
    let bytes = [
        (|_: &Figures, of: &ShardMetrics| of.bytes_in.get()) as fn(&Figures, &ShardMetrics) -> u64,
        |_, of| of.bytes_out.get(),
    ]
    .map(|read| sum(&world, read));
    let all = (
        of_tenants[0].0 + of_tenants[1].0,
        of_tenants[0].1 + of_tenants[1].1,
    );
    assert_eq!(
        all,
        (bytes[0], bytes[1]),
        "from the first byte of the head to the last"
    );
    assert!(
        of_tenants.iter().all(|of| of.0 > 200 && of.1 > 200),
        "{of_tenants:?}"
    );
    let before = of_tenants[1];
    world.write_frame(clients[1], 9, b"12345");
    world.run();
    // A masked frame of five bytes, and its answer, which is not masked.
    let usage = &world.tenants[0].usage;
    assert_eq!(usage.bytes(), (of_tenants[0].0 + 11, of_tenants[0].1 + 7));
    assert_eq!(world.tenants[1].usage.bytes(), before);
    // The last words of a socket count as well: closing frames.
    world.send_close(clients[1], 1000);
    world.run();
    assert_eq!(world.tenants[0].usage.bytes().1, of_tenants[0].1 + 7 + 4);
}

#[test]
fn relayed_payloads_count_once_however_many_get_them() {
    let mut world = World::of(3);
    let members: Vec<Client> = (0..3)
        .map(|n| world.member(n, 2, TOPIC, &json!({})))
        .collect();
    let payload = json!({"event": "TEST", "payload": {"msg": 1}, "type": "broadcast"});
    world.broadcast(members[0], "2", TOPIC, &payload);
    world.send_binary(members[1], &kind_3(["1", "3"], TOPIC, "msg", 1, b"12345"));
    world.run();
    assert_eq!(payloads(&world, Relayed::Broadcast), (2, 75 + 5 + 3 + 24));
    assert_eq!(payloads(&world, Relayed::Presence), (0, 0));
    let track = json!({"event": "track", "payload": {"a": 1}});
    world.send(members[0], &json!(["1", "4", TOPIC, "presence", track]));
    world.run();
    let (count, bytes) = payloads(&world, Relayed::Presence);
    assert!(count == 1 && bytes > 50, "{count} {bytes}");
    assert_eq!(payloads(&world, Relayed::Broadcast).0, 2);
}

#[test]
fn what_is_too_large_is_not_relayed_and_not_counted() {
    let limits = TenantLimits {
        payload_bytes_max: 100,
        ..generous()
    };
    let mut world = World::new(Setup {
        tenants: vec![limits],
        ..Setup::new(1)
    });
    let client = world.member(0, 2, TOPIC, &json!({}));
    let payload = json!({"event": "e", "payload": {"x": "y".repeat(100)}});
    world.broadcast(client, "2", TOPIC, &payload);
    world.run();
    assert_eq!(payloads(&world, Relayed::Broadcast), (0, 0));
    assert_eq!(world.tenants[0].usage.total(Counter::Events), 1);
}

#[test]
fn errors_count_by_code_beyond_what_the_log_shows() {
    let mut world = World::of(1);
    let client = world.member(0, 2, TOPIC, &json!({}));
    let count = u64::from(crate::limits::LOG_LINES_PER_WINDOW_MAX) + 5;
    for _ in 0..count {
        world.write_frame(client, 1, b"no JSON");
    }
    world.run();
    assert_eq!(
        errors(&world),
        [(ErrorCode::MalformedWebSocketMessage, count)]
    );
    // A warning does not count: a channel that is shut down since its token has expired.
    let claims = json!({"role": "anon", "exp": BEGIN + 5});
    let short = sign_hs256(super::world::SECRET, &claims.to_string());
    let other = world.connect_with(0, 2, 0, &short);
    world.joined(other, "1", TOPIC, &json!({}));
    world.advance(Duration::from_secs(6));
    assert_eq!(errors(&world).len(), 1);
    let (figures, _) = world.figures(0);
    assert!(figures.lines_suppressed.get() >= 5);
}

#[test]
fn upgrades_are_refused_by_reason() {
    let limits = TenantLimits {
        users_max: 1,
        ..generous()
    };
    let mut world = World::new(Setup {
        tenants: vec![limits],
        ..Setup::new(1)
    });
    let good = token(86_400);
    world.member(0, 2, TOPIC, &json!({}));
    world.connect_with(0, 2, 0, &good);
    world.connect_with(0, 1, 0, "nonsense");
    world.connect_with(0, 2, 7, &good);
    world.run();
    let (figures, _) = world.figures(0);
    let refused: Vec<u64> = figures.refused.iter().map(Count::get).collect();
    let mut expected = [0; Refused::ALL.len()];
    for reason in [Refused::TooManyUsers, Refused::Token] {
        expected[reason as usize] = 1;
    }
    // Without a tenant of that name the only one is not meant by another name.
    expected[Refused::TenantNotFound as usize] = 1;
    assert_eq!(refused, expected);
    let tallies: [Tally<6>; 2] = figures.refused_ms.each_ref().map(|of| of.tally());
    let of = |vsn: Vsn| (tallies[vsn as usize].count(), tallies[vsn as usize].sum);
    assert_eq!(of(Vsn::V1), (1, 2000), "after the back-off");
    assert_eq!(of(Vsn::V2), (2, 4000));
    let code = ErrorCode::ConnectionRateLimitReached;
    assert_eq!(errors(&world), [(code, 1)], "a bad token does not count");
}

#[test]
fn readers_that_do_not_keep_up_are_counted_by_reason() {
    let mut world = World::of(1);
    // Nobody reads in these worlds before a test does so for him.
    let _reader = world.member(0, 2, TOPIC, &json!({}));
    let sender = world.member(0, 2, TOPIC, &json!({}));
    let waiting = |world: &World| sum(world, |_, of| of.bytes_queued.get());
    let payload = json!({"event": "e", "payload": {"x": "y".repeat(400_000)}});
    for n in 0..4 {
        world.broadcast(sender, &n.to_string(), TOPIC, &payload);
    }
    world.run();
    assert!(waiting(&world) > 1_000_000, "{}", waiting(&world));
    world.advance(Duration::from_secs(35));
    let slow = |world: &World, why: Slow| sum(world, |of, _| of.slow[why as usize].get());
    assert_eq!(
        (slow(&world, Slow::Stalled), slow(&world, Slow::Full)),
        (1, 0)
    );
    world.advance(Duration::from_secs(60));
    assert_eq!(waiting(&world), 0);
    // One for whom too much waits.
    let _reader = world.member(0, 2, TOPIC, &json!({}));
    let sender = world.member(0, 2, TOPIC, &json!({}));
    for n in 0..130 {
        world.broadcast(sender, &n.to_string(), TOPIC, &payload);
        world.run();
    }
    assert_eq!(
        (slow(&world, Slow::Stalled), slow(&world, Slow::Full)),
        (1, 1)
    );
}
