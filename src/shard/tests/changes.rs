//! Row changes as clients see them: where the control core puts a channel, and what reaches it from there (spec: postgres-changes 6, 7).

use super::database::{set_state, with_database, world};
use super::world::{BEGIN, Client, SECRET, Setup, World, token};
use super::{closed, fanned, join_error, pushed, shut_down};
use crate::auth::sign_hs256;
use crate::error::{ErrorCode, Level};
use crate::limits;
use crate::logging::Identity;
use crate::mail::{
    ChangeBatch, ClassId, GroupId, Listen, ListenerNews, Listeners, Listening, Mail, RowChange,
    Run, Seat,
};
use crate::phoenix::subscription_id;
use crate::tenant::TenantId;
use serde_json::{Value, json};
use shards::{Options, ShardId};
use std::sync::Arc;
use std::time::Duration;

const TOPIC: &str = "realtime:a";

/// What is asked of the control core, with the shard that asks.
type Asked = (ShardId, Listen);

impl World {
    /// Joins with these entries; returns what the control core was told.
    fn subscribe(
        &mut self,
        client: Client,
        join_ref: &str,
        topic: &str,
        entries: &[Value],
    ) -> Asked {
        self.join(
            client,
            join_ref,
            topic,
            &json!({"postgres_changes": entries}),
        );
        let reads = self.reads(client);
        let status = match &reads[0] {
            Value::Array(message) => &message[4]["status"],
            message => &message["payload"]["status"],
        };
        assert_eq!(status, "ok", "{reads:?}");
        self.listens().pop().expect("the channel listens")
    }

    /// What the control core was told of listeners since it was asked last.
    fn listens(&mut self) -> Vec<Asked> {
        self.run();
        std::mem::take(&mut self.listens)
    }

    /// How often it was told that somebody listens no more.
    fn unlistens(&mut self) -> usize {
        self.run();
        let is_it = |letter: &&Mail| matches!(letter, Mail::Unlisten { .. });
        self.letters.iter().filter(is_it).count()
    }

    /// Seats a channel: class and group of each entry.
    fn seat(&mut self, (shard, listen): &Asked, seats: &[(u64, u64)], news: Option<ListenerNews>) {
        let seats = seats.iter().zip(0..).map(|((class, group), entry)| Seat {
            entry,
            class: ClassId(*class),
            group: GroupId(*group),
        });
        let listening = Listening {
            listener: listen.listener,
            seats: Some(seats.collect()),
            news,
            line: None,
        };
        self.sim
            .control
            .send(*shard, Mail::Listening(Box::new(listening)));
        self.run();
    }

    fn change(&mut self, runs: Vec<Run>) {
        self.change_of(self.tenants[0].id, runs);
    }

    fn change_of(&mut self, tenant: TenantId, runs: Vec<Run>) {
        let batch = Arc::new(ChangeBatch {
            tenant,
            runs,
            room: None,
        });
        self.tell(|| Mail::Changes(Arc::clone(&batch)));
    }
}

fn whole(class: u64) -> Listeners {
    Listeners {
        class: ClassId(class),
        groups: None,
    }
}

fn part(class: u64, groups: &[u64]) -> Listeners {
    Listeners {
        class: ClassId(class),
        groups: Some(groups.iter().map(|group| GroupId(*group)).collect()),
    }
}

fn run(audience: Vec<Listeners>, changes: &[(&'static str, u32)]) -> Run {
    let changes = changes.iter().map(|(event, n)| RowChange {
        event,
        data: format!("{{\"n\":{n}}}").into(),
    });
    Run {
        audience,
        changes: changes.collect(),
    }
}

fn entry(table: &str) -> Value {
    json!({"event": "*", "schema": "public", "table": table})
}

fn id_of(table: &str) -> u32 {
    subscription_id(&entry(table).to_string())
}

fn change_of(topic: &str, tables: &[&str], n: u32) -> Value {
    let ids: Vec<u32> = tables.iter().map(|table| id_of(table)).collect();
    fanned(
        topic,
        "postgres_changes",
        &json!({"ids": ids, "data": {"n": n}}),
    )
}

#[test]
fn entries_of_a_channel_share_a_frame() {
    let mut world = world(2);
    let client = world.connect(1, 2);
    let asked = world.subscribe(client, "1", TOPIC, &[entry("x"), entry("y"), entry("x")]);
    assert_eq!(asked.0, super::shard_id(1));
    assert_eq!(asked.1.entries.len(), 3);
    assert!(!asked.1.is_refresh);
    world.seat(&asked, &[(1, 10), (2, 20), (1, 10)], None);
    world.change(vec![
        run(
            vec![whole(1), part(2, &[20])],
            &[("INSERT", 1), ("UPDATE", 2)],
        ),
        run(vec![whole(2)], &[("DELETE", 3)]),
        run(vec![part(1, &[11]), whole(3)], &[("INSERT", 4)]),
    ]);
    let expected = [
        change_of(TOPIC, &["x", "y", "x"], 1),
        change_of(TOPIC, &["x", "y", "x"], 2),
        change_of(TOPIC, &["y"], 3),
    ];
    assert_eq!(world.reads(client), expected);
}

#[test]
fn equal_listeners_share_a_buffer() {
    let mut world = world(1);
    let (one, other, old, away) = (
        world.connect(0, 2),
        world.connect(0, 2),
        world.connect(0, 1),
        world.connect(0, 2),
    );
    for client in [one, other, old] {
        let asked = world.subscribe(client, "1", TOPIC, &[entry("x")]);
        world.seat(&asked, &[(1, 10)], None);
    }
    let asked = world.subscribe(away, "1", "realtime:b", &[entry("x")]);
    world.seat(&asked, &[(1, 11)], None);
    world.change(vec![run(vec![whole(1)], &[("INSERT", 1)])]);
    for client in [one, other] {
        assert_eq!(world.reads(client), [change_of(TOPIC, &["x"], 1)]);
    }
    assert_eq!(world.reads(away), [change_of("realtime:b", &["x"], 1)]);
    let payload = json!({"ids": [id_of("x")], "data": {"n": 1}});
    let expected = super::push(
        1,
        [Value::Null, Value::Null],
        TOPIC,
        "postgres_changes",
        &payload,
    );
    assert_eq!(world.reads(old), [expected]);
    let made = world
        .shards()
        .map(|shard| shard.channels().fanout.changes.buffers_made());
    assert_eq!(made.sum::<u64>(), 3, "one for each serializer and topic");
}

#[test]
fn a_topic_that_is_the_subscription_is_answered_the_way_of_old() {
    let mut world = world(1);
    let client = world.connect(0, 2);
    let topic = "realtime:public:x";
    world.send(
        client,
        &json!(["1", "1", topic, "phx_join", {"user_token": token(3600)}]),
    );
    world.reads(client);
    let asked = world.listens().pop().expect("the channel listens");
    assert_eq!(*asked.1.entries[0], *r#"{"schema":"public","table":"x"}"#);
    world.seat(&asked, &[(1, 10)], None);
    world.change(vec![run(vec![whole(1)], &[("INSERT", 1), ("DELETE", 2)])]);
    let expected = [
        fanned(topic, "INSERT", &json!({"n": 1})),
        fanned(topic, "DELETE", &json!({"n": 2})),
    ];
    assert_eq!(world.reads(client), expected);
}

#[test]
fn news_are_messages_of_the_channel() {
    let mut world = world(1);
    let client = world.connect(0, 2);
    let asked = world.subscribe(client, "7", TOPIC, &[entry("x")]);
    let news = |is_ok, message: &str| {
        Some(ListenerNews {
            is_ok,
            message: message.into(),
        })
    };
    world.seat(&asked, &[(1, 10)], news(true, "fine"));
    world.seat(&asked, &[], news(false, "not \"fine\""));
    let system = |status: &str, message: &str| {
        let payload = json!({"extension": "postgres_changes", "status": status, "message": message, "channel": "a"});
        pushed("7", TOPIC, "system", &payload)
    };
    let expected = [system("ok", "fine"), system("error", "not \"fine\"")];
    assert_eq!(world.reads(client), expected);
    world.change(vec![run(vec![whole(1)], &[("INSERT", 1)])]);
    assert!(world.reads(client).is_empty(), "it stands nowhere any more");
}

fn ok_news() -> Option<ListenerNews> {
    let message = "Subscribed to PostgreSQL".into();
    Some(ListenerNews {
        is_ok: true,
        message,
    })
}

fn system(extension: &str, message: &str) -> Value {
    let payload =
        json!({"extension": extension, "status": "ok", "message": message, "channel": "a"});
    pushed("1", TOPIC, "system", &payload)
}

/// Joins with a subscription, and with everything else that follows a join (spec: websocket-protocol 5.4).
fn join_with_all(world: &mut World, shard: usize) -> Client {
    let client = world.connect(shard, 2);
    let config = json!({
        "presence": {"enabled": true}, "broadcast": {"replication_ready": true}, "postgres_changes": [entry("x")],
    });
    world.joined(client, "1", TOPIC, &config);
    client
}

/// Spec: websocket-protocol 5.4 and checklist 35.
#[test]
fn the_word_on_the_subscriptions_precedes_what_else_follows_a_join() {
    for shards in 1..=2 {
        let mut world = world(shards);
        set_state(&mut world, true, true);
        world.tenants[0].usage.set_reads_changes(true);
        let client = join_with_all(&mut world, shards - 1);
        assert_eq!(world.reads(client), Vec::<Value>::new());
        let asked = world.listens().pop().expect("the channel listens");
        world.seat(&asked, &[(1, 10)], None);
        assert_eq!(world.reads(client), Vec::<Value>::new());
        world.seat(&asked, &[(1, 10)], ok_news());
        let expected = [
            system("postgres_changes", "Subscribed to PostgreSQL"),
            system("system", "Replication connection established"),
            pushed("1", TOPIC, "presence_state", &json!({})),
        ];
        assert_eq!(world.reads(client), expected);
        world.advance(limits::FIRST_NEWS_TIMEOUT);
        world.seat(&asked, &[(1, 10)], ok_news());
        assert_eq!(world.reads(client), expected[..1], "each comes once");
    }
}

#[test]
fn nothing_waits_long_for_the_word_on_the_subscriptions() {
    let mut world = world(1);
    world.tenants[0].usage.set_reads_changes(true);
    let client = join_with_all(&mut world, 0);
    world.advance(limits::FIRST_NEWS_TIMEOUT);
    let state = pushed("1", TOPIC, "presence_state", &json!({}));
    assert_eq!(world.reads(client), [state]);
    let asked = world.listens().pop().expect("the channel listens");
    world.seat(&asked, &[(1, 10)], ok_news());
    let word = system("postgres_changes", "Subscribed to PostgreSQL");
    assert_eq!(world.reads(client), [word]);
}

#[test]
fn where_no_changes_are_read_yet_nothing_waits_for_them() {
    let mut world = world(1);
    let client = world.connect(0, 2);
    let config = json!({"presence": {"enabled": true}, "postgres_changes": [entry("x")]});
    world.join(client, "1", TOPIC, &config);
    let reads = world.reads(client);
    let state = pushed("1", TOPIC, "presence_state", &json!({}));
    assert_eq!(reads[1..], [state], "{reads:?}");
}

/// A member that asks for the state long after its join has a right to everything of that turn.
#[test]
fn a_state_that_waited_costs_its_member_no_message() {
    let mut world = world(1);
    world.tenants[0].usage.set_reads_changes(true);
    let client = join_with_all(&mut world, 0);
    let sender = world.member(0, 2, TOPIC, &json!({}));
    let asked = world.listens().pop().expect("the channel listens");
    let payload = json!({"event": "x"});
    world.broadcast(sender, "9", TOPIC, &payload);
    world.seat(&asked, &[(1, 10)], ok_news());
    let expected = [
        system("postgres_changes", "Subscribed to PostgreSQL"),
        fanned(TOPIC, "broadcast", &payload),
        pushed("1", TOPIC, "presence_state", &json!({})),
    ];
    assert_eq!(world.reads(client), expected);
}

/// What nobody takes is bounded, and whoever would have to wait for it is answered.
#[test]
fn a_control_core_that_takes_no_mail_is_asked_no_more() {
    const UNREACHABLE: &str = "Realtime was unable to connect to the project database";
    let options = Options {
        mailbox_letters: 64,
        ..Setup::new(1).options
    };
    let mut world = with_database(World::new(Setup {
        options,
        ..Setup::new(1)
    }));
    let client = world.connect(0, 2);
    world.subscribe(client, "1", TOPIC, &[entry("x")]);
    let config = json!({"postgres_changes": [entry("x")]});
    let payload = json!({"extension": "postgres_changes", "status": "error", "message": UNREACHABLE, "channel": "b"});
    let refused = pushed("2", "realtime:b", "system", &payload);
    let is_refused = (0..limits::CONTROL_LETTERS_WAITING_MAX).any(|_| {
        for _ in 0..32 {
            world.join(client, "2", "realtime:b", &config);
            world.send(client, &json!(["2", "2", "realtime:b", "phx_leave", {}]));
        }
        world.sim.run_until_idle();
        world.read(client).contains(&refused)
    });
    assert!(is_refused);
    // A private topic needs an answer, and new claims have to be heard of.
    world.join(client, "3", "realtime:c", &json!({"private": true}));
    world.send(
        client,
        &json!(["1", "4", TOPIC, "access_token", {"access_token": token(99)}]),
    );
    for _ in 0..7 {
        world.sim.advance(Duration::from_secs(1));
        world.sim.run_until_idle();
    }
    let reason = format!("UnableToConnectToProject: {UNREACHABLE}");
    let [system, close] = shut_down("1", TOPIC, UNREACHABLE);
    let expected = [system, close, join_error("3", "realtime:c", &reason)];
    assert_eq!(world.read(client), expected);
    let told = world.listens().len() + world.unlistens();
    assert!(told > limits::CONTROL_LETTERS_WAITING_MAX, "{told}");
    assert!(
        told <= limits::CONTROL_LETTERS_WAITING_MAX + 64 + 4,
        "{told}"
    );
    assert!(world.questions.is_empty());
}

#[test]
fn whoever_leaves_hears_nothing_more_and_the_control_core_is_told() {
    let mut world = world(1);
    let client = world.connect(0, 2);
    let first = world.subscribe(client, "1", TOPIC, &[entry("x")]);
    world.seat(&first, &[(1, 10)], None);
    world.send(client, &json!(["1", "2", TOPIC, "phx_leave", {}]));
    world.run();
    assert_eq!(world.unlistens(), 1);
    world.change(vec![run(vec![whole(1)], &[("INSERT", 1)])]);
    let reads = world.reads(client);
    assert_eq!(reads.last(), Some(&closed("1", TOPIC)), "{reads:?}");
    // The next channel has the place of the one before, and nothing of what is said to that one.
    let second = world.subscribe(client, "3", TOPIC, &[entry("x")]);
    assert_eq!(second.1.listener.index, first.1.listener.index);
    world.seat(&first, &[(1, 10)], None);
    world.change(vec![run(vec![whole(1)], &[("INSERT", 2)])]);
    assert!(world.reads(client).is_empty());
    world.reset(client);
    world.run();
    assert_eq!(world.unlistens(), 2);
    assert!(
        world
            .shards()
            .all(|shard| shard.channels().fanout.changes.is_empty())
    );
}

#[test]
fn a_new_token_is_told_and_a_new_seat_replaces_the_old_one() {
    let mut world = world(1);
    let client = world.connect(0, 2);
    let asked = world.subscribe(client, "1", TOPIC, &[entry("x")]);
    world.seat(&asked, &[(1, 10)], None);
    let newer = json!(["1", "2", TOPIC, "access_token", {"access_token": token(7200)}]);
    world.send(client, &newer);
    let again = world
        .listens()
        .pop()
        .expect("it listens with the new token");
    assert!(again.1.is_refresh);
    assert_eq!(again.1.listener, asked.1.listener);
    assert_ne!(again.1.claims, asked.1.claims);
    world.change(vec![run(vec![whole(1)], &[("INSERT", 1)])]);
    world.seat(&again, &[(1, 12)], None);
    world.change(vec![
        run(vec![part(1, &[10])], &[("INSERT", 2)]),
        run(vec![part(1, &[12])], &[("INSERT", 3)]),
    ]);
    let expected = [1, 3].map(|n| change_of(TOPIC, &["x"], n));
    assert_eq!(world.reads(client), expected);
}

#[test]
fn a_batch_is_of_one_tenant() {
    let mut world = world(1);
    let client = world.connect(0, 2);
    let asked = world.subscribe(client, "1", TOPIC, &[entry("x")]);
    world.seat(&asked, &[(1, 10)], None);
    let other = TenantId(world.tenants[0].id.0 + 1);
    world.change_of(
        other,
        vec![run(vec![whole(1), part(1, &[10])], &[("INSERT", 1)])],
    );
    assert!(world.reads(client).is_empty());
    world.change(vec![run(vec![whole(1)], &[("INSERT", 2)])]);
    assert_eq!(world.reads(client), [change_of(TOPIC, &["x"], 2)]);
}

#[test]
fn what_becomes_of_a_subscription_is_told_on_behalf_of_its_socket() {
    let mut world = world(1);
    let claims = json!({"role": "anon", "exp": BEGIN + 3600, "sub": "ann", "iss": "us"});
    let token = sign_hs256(SECRET, &claims.to_string());
    // Which lines a socket gets is a parameter of its upgrade.
    let clients = ["", "&log_level=warning"].map(|level| {
        let client = world.connect_with(0, 2, 0, &format!("{token}{level}"));
        world.run();
        client
    });
    let lines = [
        (ErrorCode::UnableToSubscribeToPostgres, "slow"),
        (ErrorCode::RealtimeDisabledForConfiguration, "wrong"),
        (ErrorCode::ReconnectSubscribeToPostgres, "down"),
    ];
    for client in clients {
        let (shard, listen) = world.subscribe(client, "1", TOPIC, &[entry("x")]);
        for (code, text) in lines {
            let listening = Listening {
                listener: listen.listener,
                seats: None,
                news: None,
                line: Some((code, text.into())),
            };
            let letter = Mail::Listening(Box::new(listening));
            world.sim.control.send(shard, letter);
            world.run();
        }
    }
    let said: Vec<(ErrorCode, Level)> = world
        .lines
        .iter()
        .filter_map(|line| Some((line.code?, line.level)))
        .collect();
    let [slow, wrong, down] = lines.map(|(code, _)| (code, code.level()));
    assert_eq!(said, [slow, slow, wrong, down]);
    let exp = (BEGIN + 3600).to_string();
    let ann = Identity::new(Some("ann"), Some("us"), Some(&exp));
    for line in world.lines.iter().filter(|line| line.code.is_some()) {
        assert_eq!((&line.identity, line.tenant.as_deref()), (&ann, Some("t0")));
    }
    // Errors count, warnings do not, whoever hears of them (spec: errors-and-logs 4).
    let errors: Vec<_> = world.tenants[0].usage.errors().collect();
    assert_eq!(errors, [(ErrorCode::UnableToSubscribeToPostgres, 2)]);
}
