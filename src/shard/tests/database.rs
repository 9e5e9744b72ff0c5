//! Questions to a tenant's database as clients see them: private channels, replay, the replication stream (spec: authorization-rls 5,
//! websocket-protocol 5.6, 5.10, 6.5).

use super::world::{Client, World, token};
use super::{closed, fanned, heartbeat, heartbeat_ok, join_error, join_ok, ok, pushed, shut_down};
use crate::limits;
use crate::mail::{
    Answer, Ask, AskError, Audience, Body, Checks, Content, DatabaseState, Mail, Publish, Replayed,
    To, Told, TopicHasher, TopicKey, Verdict,
};
use crate::phoenix::Encoding;
use crate::tenant::Tenant;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const TOPIC: &str = "realtime:a";
const DENIED: &str = "You do not have permissions to read from this Channel topic: a";

const READS: Verdict = Verdict {
    broadcast_read: Some(true),
    presence_read: Some(true),
    broadcast_write: None,
    presence_write: None,
};

fn writes(may: bool) -> Verdict {
    Verdict {
        broadcast_write: Some(may),
        presence_write: Some(may),
        ..Verdict::default()
    }
}

/// A world of one tenant that has a database, which is connected.
pub(super) fn world(shards: usize) -> World {
    with_database(World::of(shards))
}

/// The same of a world that is there.
pub(super) fn with_database(mut world: World) -> World {
    let before = &world.tenants[0];
    let tenant = Arc::new(Tenant {
        id: before.id,
        external_id: Arc::clone(&before.external_id),
        verifier: super::world::verifier(),
        limits: before.limits,
        suspended: false,
        private_only: false,
        presence_enabled: false,
        has_database: true,
        usage: Arc::clone(&before.usage),
    });
    world.tenants[0] = Arc::clone(&tenant);
    world.tell(|| Mail::Tenant(Arc::clone(&tenant)));
    set_state(&mut world, true, false);
    world
}

pub(super) fn set_state(world: &mut World, is_connected: bool, is_replicating: bool) {
    let tenant = world.tenants[0].id;
    let state = DatabaseState {
        is_connected,
        is_replicating,
    };
    world.tell(|| Mail::Database { tenant, state });
}

fn private(more: &Value) -> Value {
    let mut config = json!({"private": true, "broadcast": {"ack": true}});
    for (name, value) in more.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    config
}

impl World {
    /// The next question, which must have been asked.
    fn asked(&mut self) -> Ask {
        self.run();
        let (_, question) = self.questions.front().expect("a shard has asked");
        question.ask.clone()
    }

    /// Answers the next question.
    fn answer(&mut self, outcome: Result<Told, AskError>) {
        self.run();
        let (shard, question) = self.questions.pop_front().expect("a shard has asked");
        let answer = Answer {
            connection: question.connection,
            number: question.number,
            outcome,
        };
        self.sim.control.send(shard, Mail::Answer(Box::new(answer)));
        self.run();
    }

    fn verdict(&mut self, verdict: Verdict) {
        self.answer(Ok(Told::Verdict(verdict)));
    }

    /// A member of the private topic that may read all.
    fn private_member(&mut self, shard: usize, config: &Value) -> Client {
        let client = self.connect(shard, 2);
        self.join(client, "1", TOPIC, &private(config));
        let is_asked = checks(&self.asked()).presence_read;
        self.verdict(Verdict {
            presence_read: READS.presence_read.filter(|_| is_asked),
            ..READS
        });
        let reads = self.reads(client);
        assert_eq!(reads.first(), Some(&join_ok("1", TOPIC)), "{reads:?}");
        client
    }

    /// A row of the database, sent to the private topic.
    fn row(&mut self, id: u128, n: u32) {
        self.send_row(id, json!({"n": n}).to_string());
        self.run();
    }

    fn send_row(&mut self, id: u128, payload: String) {
        let hasher = TopicHasher::new(super::world::HASH_SEED);
        let key = TopicKey::of_name(&hasher, self.tenants[0].id, true, "a");
        let owner = key.owner(self.shard_count);
        let id = Uuid::from_u128(id);
        let publish = Publish {
            to: To::Key(Arc::new(key)),
            content: Content::User {
                event: Cow::Borrowed("row"),
                metadata: Some(Cow::Owned(json!({"id": id.to_string()}).to_string())),
                encoding: Encoding::Json,
                bytes: Cow::Owned(payload.into_bytes()),
            },
            except: None,
            audience: Audience::Broadcast,
            id: Some(id),
        };
        self.sim
            .control
            .send(owner, Mail::Publish(Box::new(publish)));
    }
}

fn checks(ask: &Ask) -> Checks {
    match ask {
        Ask::Policies { checks, .. } => *checks,
        other => panic!("policies were to be asked, not {other:?}"),
    }
}

#[test]
fn a_private_join_waits_for_its_verdict() {
    for shards in 1..=3 {
        let mut world = world(shards);
        let client = world.connect(shards - 1, 2);
        world.join(
            client,
            "1",
            TOPIC,
            &private(&json!({"presence": {"enabled": true}})),
        );
        world.send(client, &heartbeat("2"));
        assert_eq!(world.reads(client), [heartbeat_ok("2")]);
        let ask = world.asked();
        let expected = Checks {
            broadcast_read: true,
            presence_read: true,
            writes: false,
        };
        assert_eq!(checks(&ask), expected);
        let Ask::Policies { context, .. } = ask else {
            unreachable!("its checks were read a line above");
        };
        assert_eq!(
            (&*context.topic, context.claims.role.as_deref()),
            ("a", Some("anon"))
        );
        world.verdict(READS);
        let reads = world.reads(client);
        assert_eq!(
            reads,
            [
                join_ok("1", TOPIC),
                pushed("1", TOPIC, "presence_state", &json!({}))
            ]
        );
    }
}

#[test]
fn a_private_topic_and_a_public_one_of_the_same_name_have_nothing_in_common() {
    let mut world = world(2);
    let inside = world.private_member(0, &json!({}));
    let outside = world.member(1, 2, TOPIC, &json!({}));
    world.broadcast(outside, "2", TOPIC, &json!({"event": "x"}));
    world.row(1, 1);
    assert_eq!(world.reads(outside), Vec::<Value>::new());
    assert_eq!(
        world.reads(inside).len(),
        1,
        "the row, and nothing of the public topic"
    );
}

#[test]
fn who_may_not_read_is_refused() {
    let no = Verdict {
        broadcast_read: Some(false),
        presence_read: None,
        ..Verdict::default()
    };
    let connect =
        "UnableToConnectToProject: Realtime was unable to connect to the project database";
    let denied = format!("Unauthorized: {DENIED}");
    let check = |outcome: Result<Told, AskError>, reason: &str| {
        let mut world = world(1);
        let client = world.connect(0, 2);
        world.join(client, "1", TOPIC, &private(&json!({})));
        world.answer(outcome.clone());
        assert_eq!(
            world.reads(client),
            Vec::<Value>::new(),
            "it is told after five seconds"
        );
        world.advance(Duration::from_secs(6));
        assert_eq!(
            world.read(client),
            [join_error("1", TOPIC, reason)],
            "{outcome:?}"
        );
        assert_eq!(world.remains(), [1, 0, 0], "{outcome:?}");
    };
    check(Ok(Told::Verdict(no)), &denied);
    check(Ok(Told::Verdict(Verdict::default())), &denied);
    check(Err(AskError::Policy("division by zero".into())), &denied);
    check(Ok(Told::Connected), connect);
    check(Err(AskError::Unreachable), connect);
    check(
        Err(AskError::PoolExhausted),
        "IncreaseConnectionPool: Please increase your connection pool size",
    );
    check(
        Err(AskError::Other("?".into())),
        "Realtime was unable to connect to the project database",
    );
    check(
        Err(AskError::Canceled("57014".into())),
        "QueryCanceled: 57014",
    );
}

#[test]
fn an_answer_that_does_not_come_is_a_no() {
    let mut world = world(2);
    let client = world.connect(1, 2);
    world.join(client, "1", TOPIC, &private(&json!({})));
    for n in 0..11 {
        world.advance(Duration::from_secs(6));
        world.send(client, &heartbeat(&n.to_string()));
    }
    world.advance(Duration::from_secs(6));
    let reason = "UnableToConnectToProject: Realtime was unable to connect to the project database";
    let reads = world.read(client);
    assert!(reads.contains(&join_error("1", TOPIC, reason)), "{reads:?}");
    world.verdict(READS);
    assert_eq!(
        world.reads(client),
        Vec::<Value>::new(),
        "the late answer finds nobody"
    );
}

#[test]
fn a_write_that_is_not_answered_is_dropped_and_the_next_asks_again() {
    let mut world = world(1);
    let client = world.private_member(0, &json!({}));
    world.broadcast(client, "2", TOPIC, &json!({"event": "x"}));
    for n in 0..11 {
        world.advance(Duration::from_secs(6));
        world.send(client, &heartbeat(&n.to_string()));
    }
    world.run();
    world.read(client);
    world.questions.clear();
    world.broadcast(client, "3", TOPIC, &json!({"event": "x"}));
    world.verdict(writes(true));
    assert_eq!(world.reads(client), [ok("1", "3", TOPIC)]);
}

#[test]
fn a_socket_that_ends_while_it_asks_leaves_nothing_behind() {
    let mut world = world(2);
    for shard in 0..2 {
        let client = world.connect(shard, 2);
        let replay = json!({"broadcast": {"replay": {"since": 0}}});
        world.join(client, "1", TOPIC, &private(&replay));
        world.verdict(READS);
        assert!(matches!(world.asked(), Ask::Replay { .. }));
        world.reset(client);
        world.run();
        assert_eq!(world.remains(), [0, 0, 0]);
        world.answer(Ok(Told::Replayed(Vec::new())));
        assert_eq!(world.remains(), [0, 0, 0]);
    }
}

#[test]
fn who_reads_presence_alone_gets_no_broadcasts() {
    let mut world = world(1);
    let sender = world.private_member(0, &json!({}));
    let reader = world.connect(0, 2);
    world.join(
        reader,
        "1",
        TOPIC,
        &private(&json!({"presence": {"enabled": true}})),
    );
    world.verdict(Verdict {
        broadcast_read: Some(false),
        ..READS
    });
    assert_eq!(world.reads(reader).len(), 2);
    world.broadcast(sender, "2", TOPIC, &json!({"event": "x"}));
    world.verdict(writes(true));
    let track = json!({"event": "track", "payload": {}});
    world.send(sender, &json!(["1", "3", TOPIC, "presence", track]));
    world.verdict(Verdict {
        presence_read: Some(true),
        ..Verdict::default()
    });
    let events: Vec<_> = world
        .reads(reader)
        .iter()
        .map(|frame| frame[3].clone())
        .collect();
    assert_eq!(events, ["presence_diff"]);
}

#[test]
fn what_follows_the_first_broadcast_waits_for_its_verdict() {
    for shards in 1..=2 {
        let mut world = world(shards);
        let reader = world.private_member(shards - 1, &json!({}));
        let writer = world.private_member(0, &json!({}));
        let public = "realtime:public";
        world.join(writer, "9", public, &json!({"broadcast": {"ack": true}}));
        assert_eq!(world.reads(writer), [join_ok("9", public)]);
        for n in 0..3 {
            world.broadcast(
                writer,
                &format!("{n}"),
                TOPIC,
                &json!({"event": "x", "n": n}),
            );
        }
        world.send(
            writer,
            &json!(["9", "p", public, "broadcast", {"event": "x"}]),
        );
        assert_eq!(world.reads(writer), [ok("9", "p", public)]);
        assert_eq!(checks(&world.asked()), Checks::WRITES);
        world.verdict(writes(true));
        let acks: Vec<_> = (0..3).map(|n| ok("1", &n.to_string(), TOPIC)).collect();
        assert_eq!(world.reads(writer), acks);
        let sent: Vec<_> = (0..3)
            .map(|n| fanned(TOPIC, "broadcast", &json!({"event": "x", "n": n})))
            .collect();
        assert_eq!(world.reads(reader), sent);
        assert!(world.questions.is_empty(), "the verdict is kept");
    }
}

#[test]
fn two_channels_ask_one_after_the_other() {
    let mut world = world(1);
    let client = world.private_member(0, &json!({}));
    world.join(client, "2", "realtime:b", &private(&json!({})));
    world.verdict(READS);
    assert_eq!(world.reads(client), [join_ok("2", "realtime:b")]);
    world.broadcast(client, "10", TOPIC, &json!({"event": "x"}));
    world.send(
        client,
        &json!(["2", "11", "realtime:b", "broadcast", {"event": "x"}]),
    );
    world.verdict(writes(true));
    assert_eq!(world.reads(client), [ok("1", "10", TOPIC)]);
    world.verdict(writes(true));
    assert_eq!(world.reads(client), [ok("2", "11", "realtime:b")]);
}

#[test]
fn a_denied_broadcast_vanishes_and_a_denied_track_is_an_error() {
    let mut world = world(1);
    let reader = world.private_member(0, &json!({}));
    let client = world.private_member(0, &json!({}));
    world.broadcast(client, "2", TOPIC, &json!({"event": "x"}));
    world.verdict(writes(false));
    let track = json!({"event": "TRACK", "payload": {}});
    world.send(client, &json!(["1", "3", TOPIC, "presence", track]));
    let expected = Checks {
        presence_read: true,
        ..Checks::default()
    };
    assert_eq!(
        checks(&world.asked()),
        expected,
        "presence was off at the join"
    );
    world.verdict(Verdict {
        presence_read: Some(true),
        ..Verdict::default()
    });
    let error = json!(["1", "3", TOPIC, "phx_reply", {"status": "error", "response": {}}]);
    assert_eq!(world.reads(client), [error]);
    assert_eq!(world.reads(reader), Vec::<Value>::new());
}

#[test]
fn a_check_that_fails_costs_the_message_and_no_more() {
    let mut world = world(1);
    let client = world.private_member(0, &json!({}));
    for msg_ref in ["2", "3"] {
        world.broadcast(client, msg_ref, TOPIC, &json!({"event": "x"}));
    }
    world.answer(Err(AskError::Unreachable));
    assert_eq!(
        checks(&world.asked()),
        Checks::WRITES,
        "the second one asks again"
    );
    world.verdict(writes(true));
    assert_eq!(world.reads(client), [ok("1", "3", TOPIC)]);
}

#[test]
fn a_new_token_is_checked_and_may_lose_the_channel() {
    let lost = "You no longer have permission to read from this Channel topic: a";
    let check = |outcome: Result<Told, AskError>, text: Option<&str>| {
        let mut world = world(1);
        let client = world.private_member(0, &json!({"presence": {"enabled": true}}));
        let payload = json!({"access_token": token(3600)});
        world.send(client, &json!(["1", "5", TOPIC, "access_token", payload]));
        world.broadcast(client, "6", TOPIC, &json!({"event": "x"}));
        assert_eq!(
            world.reads(client),
            Vec::<Value>::new(),
            "it waits for the verdict"
        );
        world.answer(outcome.clone());
        if let Some(text) = text {
            let mut reads = world.reads(client);
            assert_eq!(
                reads.drain(..2).as_slice(),
                shut_down("1", TOPIC, text),
                "{outcome:?}"
            );
        } else {
            world.verdict(writes(true));
            assert_eq!(world.reads(client), [ok("1", "6", TOPIC)], "{outcome:?}");
        }
    };
    let both = |broadcast, presence| {
        Ok(Told::Verdict(Verdict {
            broadcast_read: Some(broadcast),
            presence_read: Some(presence),
            ..Verdict::default()
        }))
    };
    check(both(true, true), None);
    check(both(true, false), Some(lost));
    check(both(false, true), Some(lost));
    check(both(false, false), Some(DENIED));
    check(
        Err(AskError::Unreachable),
        Some("Realtime was unable to connect to the project database"),
    );
    check(
        Err(AskError::PoolExhausted),
        Some(":increase_connection_pool"),
    );
    check(
        Err(AskError::Canceled("x".into())),
        Some("Query was cancelled, please try again"),
    );
}

#[test]
fn what_a_track_has_learnt_is_not_kept_for_a_new_token() {
    let mut world = world(1);
    let sender = world.private_member(0, &json!({"presence": {"enabled": true}}));
    let client = world.private_member(0, &json!({}));
    let track = json!({"event": "track", "payload": {}});
    world.send(client, &json!(["1", "2", TOPIC, "presence", track]));
    world.verdict(Verdict {
        presence_read: Some(true),
        ..writes(false)
    });
    world.reads(client);
    let payload = json!({"access_token": token(3600)});
    world.send(client, &json!(["1", "3", TOPIC, "access_token", payload]));
    assert!(checks(&world.asked()).presence_read);
    world.verdict(Verdict {
        presence_read: Some(false),
        ..READS
    });
    let lost = "You no longer have permission to read from this Channel topic: a";
    assert_eq!(world.reads(client), shut_down("1", TOPIC, lost));
    world.send(sender, &json!(["1", "4", TOPIC, "presence", track]));
    world.verdict(writes(true));
    assert_eq!(world.reads(client), Vec::<Value>::new());
}

/// A row as it is kept.
fn kept(id: u128) -> Replayed {
    Replayed {
        id: Uuid::from_u128(id),
        event: "row".into(),
        body: Body::Json(format!("{{\"n\": {id}}}")),
    }
}

/// The same as a client reads it.
fn replayed(id: u128) -> Value {
    let meta = json!({"id": Uuid::from_u128(id).to_string(), "replayed": true});
    let payload = json!({"event": "row", "payload": {"n": id}, "type": "broadcast", "meta": meta});
    pushed("1", TOPIC, "broadcast", &payload)
}

/// A client that waits for the messages that were kept.
fn replaying(world: &mut World, shard: usize) -> Client {
    let client = world.connect(shard, 2);
    let replay = json!({"broadcast": {"replay": {"since": 5}}});
    world.join(client, "1", TOPIC, &private(&replay));
    world.verdict(READS);
    assert!(matches!(world.asked(), Ask::Replay { .. }));
    client
}

#[test]
fn what_is_published_while_kept_messages_are_awaited_is_not_missed() {
    for (shards, has_member) in [(1, false), (1, true), (2, false), (3, true)] {
        let mut world = world(shards);
        let other = has_member.then(|| world.private_member(0, &json!({})));
        let client = replaying(&mut world, shards - 1);
        world.row(2, 2);
        world.row(3, 3);
        // In the turn of the answer, if the topic is owned there.
        world.send_row(4, json!({"n": 4}).to_string());
        world.answer(Ok(Told::Replayed(vec![kept(1), kept(2)])));
        world.row(5, 5);
        let reads = world.reads(client);
        assert_eq!(reads[..3], [join_ok("1", TOPIC), replayed(1), replayed(2)]);
        let live: Vec<_> = reads[3..].iter().map(|frame| &frame["data"]).collect();
        assert_eq!(live, [r#"{"n":3}"#, r#"{"n":4}"#, r#"{"n":5}"#], "{shards}");
        if let Some(other) = other {
            assert_eq!(world.reads(other).len(), 4);
        }
        for client in [Some(client), other].into_iter().flatten() {
            world.reset(client);
        }
        world.run();
        assert_eq!(world.remains()[1], 0);
    }
}

#[test]
fn a_join_that_would_miss_something_is_refused() {
    let mut world = world(1);
    let client = replaying(&mut world, 0);
    world.send_row(2, json!("x".repeat(limits::HELD_BYTES_MAX)).to_string());
    world.run();
    world.row(3, 3);
    world.answer(Ok(Told::Replayed(vec![kept(1)])));
    world.advance(Duration::from_secs(6));
    let reason = "UnableToReplayMessages: Realtime was unable to replay messages";
    assert_eq!(world.read(client), [join_error("1", TOPIC, reason)]);
    assert_eq!(world.remains()[1], 0);
}

#[test]
fn kept_messages_come_first_and_once() {
    for shards in 1..=3 {
        let mut world = world(shards);
        let client = world.connect(shards - 1, 2);
        let replay = json!({"broadcast": {"replay": {"since": 5, "limit": 2}}});
        world.join(client, "1", TOPIC, &private(&replay));
        world.verdict(READS);
        let Ask::Replay {
            topic,
            since_ms,
            limit,
        } = world.asked()
        else {
            panic!("kept messages were to be asked for");
        };
        assert_eq!((&*topic, since_ms, limit), ("a", 5, 2));
        world.answer(Ok(Told::Replayed(vec![kept(1), kept(2)])));
        world.row(2, 2);
        world.row(3, 3);
        let reads = world.reads(client);
        assert_eq!(reads[..3], [join_ok("1", TOPIC), replayed(1), replayed(2)]);
        assert_eq!(
            reads.len(),
            4,
            "the second row is known, the third is not: {reads:?}"
        );
        let leave = json!(["1", "7", TOPIC, "phx_leave", {}]);
        world.send(client, &leave);
        assert_eq!(
            world.reads(client),
            [ok("1", "7", TOPIC), closed("1", TOPIC)]
        );
        assert_eq!(world.remains()[1], 0);
    }
}

#[test]
fn replay_that_makes_no_sense_is_refused() {
    let check = |config: Value, verdict: Verdict, reason: &str| {
        let mut world = world(1);
        let client = world.connect(0, 2);
        world.join(client, "1", TOPIC, &config);
        if config["private"] == json!(true) {
            world.verdict(verdict);
        }
        world.advance(Duration::from_secs(6));
        assert_eq!(
            world.read(client),
            [join_error("1", TOPIC, reason)],
            "{config}"
        );
    };
    let config =
        |private: bool, replay: Value| json!({"private": private, "broadcast": {"replay": replay}});
    check(
        config(false, Value::Null),
        READS,
        "UnableToReplayMessages: Replay is not allowed for public channels",
    );
    check(
        config(true, json!({"since": "0"})),
        READS,
        "UnableToReplayMessages: Replay params are not valid",
    );
    let presence_alone = Verdict {
        broadcast_read: Some(false),
        ..READS
    };
    check(
        config(true, json!({"since": 0})),
        presence_alone,
        &format!("Unauthorized: {DENIED}"),
    );
}

#[test]
fn public_joins_ask_only_until_the_database_is_connected() {
    let mut world = world(1);
    set_state(&mut world, false, false);
    let client = world.connect(0, 2);
    world.join(client, "1", TOPIC, &json!({}));
    assert!(matches!(world.asked(), Ask::Connect));
    world.answer(Ok(Told::Connected));
    assert_eq!(world.reads(client), [join_ok("1", TOPIC)]);
    set_state(&mut world, true, false);
    world.member(0, 2, TOPIC, &json!({}));
    assert!(world.questions.is_empty());
}

#[test]
fn the_stream_is_announced_to_those_who_wait_for_it() {
    let mut world = world(1);
    let wants = json!({"broadcast": {"replication_ready": true}});
    let early = world.member(0, 2, TOPIC, &wants);
    let late = world.member(0, 2, "realtime:late", &json!({}));
    set_state(&mut world, true, true);
    let text = json!({"channel": "a", "extension": "system", "status": "ok",
        "message": "Replication connection established"});
    let ready = pushed("1", TOPIC, "system", &text);
    assert_eq!(world.reads(early), std::slice::from_ref(&ready));
    assert_eq!(world.reads(late), Vec::<Value>::new());
    let later = world.connect(0, 2);
    world.join(later, "1", TOPIC, &wants);
    assert_eq!(world.reads(later), [join_ok("1", TOPIC), ready]);
}

#[test]
fn a_token_whose_role_is_none_is_refused_without_a_question() {
    let check = |role: Value, reason: &str| {
        let mut world = world(1);
        let claims = json!({"role": role, "exp": super::world::BEGIN + 600});
        let token = crate::auth::sign_hs256(super::world::SECRET, &claims.to_string());
        let client = world.connect(0, 2);
        let payload = json!({"config": {"private": true}, "access_token": token});
        world.send(client, &json!(["1", "1", TOPIC, "phx_join", payload]));
        world.advance(Duration::from_secs(6));
        assert_eq!(
            world.read(client),
            [join_error("1", TOPIC, reason)],
            "{role}"
        );
        assert!(world.questions.is_empty());
    };
    let missing = "InvalidJWTToken: Fields `role` and `exp` are required in JWT";
    check(Value::Null, missing);
    check(json!(""), missing);
    check(json!(5), missing);
    check(json!("none"), &format!("Unauthorized: {DENIED}"));
}
