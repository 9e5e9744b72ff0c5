//! The data plane on the simulated kernel: what the rooms below promise, seen by clients.
//!
//! One file per subject; `world.rs` is the shards and the clients, and what follows here makes tests short. Runs with chosen faults and
//! many seeds are in `tests/simulation.rs`.

use crate as realtime;

mod changes;
mod database;
mod delivery;
mod ending;
mod joining;
mod limits;
mod presence;
mod seeking;
mod world;

use crate::mail::Mail;
use serde_json::{Value, json};
use shards::Options;
use world::{Client, Faults, Setup, World, generous, shard_id, token};

/// A message as a client with this serializer reads it.
fn push(vsn: u8, refs: [Value; 2], topic: &str, event: &str, payload: &Value) -> Value {
    let [join_ref, msg_ref] = refs;
    if vsn == 1 {
        json!({"ref": msg_ref, "topic": topic, "event": event, "payload": payload})
    } else {
        json!([join_ref, msg_ref, topic, event, payload])
    }
}

/// What a channel itself pushes to a 2.0.0 client.
fn pushed(join_ref: &str, topic: &str, event: &str, payload: &Value) -> Value {
    json!([join_ref, null, topic, event, payload])
}

/// What reaches a 2.0.0 client by the fan-out.
fn fanned(topic: &str, event: &str, payload: &Value) -> Value {
    json!([null, null, topic, event, payload])
}

/// An ok reply to a 2.0.0 client, to anything but a join.
fn ok(join_ref: &str, msg_ref: &str, topic: &str) -> Value {
    json!([join_ref, msg_ref, topic, "phx_reply", {"status": "ok", "response": {}}])
}

/// The ok reply to a join of a 2.0.0 client.
fn join_ok(join_ref: &str, topic: &str) -> Value {
    json!([join_ref, join_ref, topic, "phx_reply", {"status": "ok", "response": {"postgres_changes": []}}])
}

/// The error reply to a join of a 2.0.0 client.
fn join_error(join_ref: &str, topic: &str, reason: &str) -> Value {
    json!([join_ref, join_ref, topic, "phx_reply", {"status": "error", "response": {"reason": reason}}])
}

/// `phx_close` of a 2.0.0 client's channel.
fn closed(join_ref: &str, topic: &str) -> Value {
    json!([join_ref, join_ref, topic, "phx_close", {}])
}

/// The last words of a channel that is shut down, to a 2.0.0 client.
fn shut_down(join_ref: &str, topic: &str, text: &str) -> [Value; 2] {
    let name = topic.strip_prefix("realtime:").unwrap();
    let payload =
        json!({"channel": name, "extension": "system", "message": text, "status": "error"});
    [
        pushed(join_ref, topic, "system", &payload),
        closed(join_ref, topic),
    ]
}

fn unmatched(msg_ref: &str, topic: &str) -> Value {
    json!([null, msg_ref, topic, "phx_reply", {"status": "error", "response": {"reason": "unmatched topic"}}])
}

fn heartbeat(msg_ref: &str) -> Value {
    json!([null, msg_ref, "phoenix", "heartbeat", {}])
}

fn heartbeat_ok(msg_ref: &str) -> Value {
    json!([null, msg_ref, "phoenix", "phx_reply", {"status": "ok", "response": {}}])
}

impl Setup {
    /// A kernel without faults, roomy mailboxes, one tenant that may do what it likes.
    fn new(shards: usize) -> Self {
        let options = Options {
            shards,
            connections_max: 1024,
            ..Options::default()
        };
        Self {
            seed: 1,
            faults: Faults::none(),
            options,
            tenants: vec![generous()],
            seeks_tenants: false,
        }
    }
}

impl World {
    /// A world of this many shards without faults.
    fn of(shards: usize) -> Self {
        Self::new(Setup::new(shards))
    }

    /// The control core tells every shard.
    fn tell(&mut self, letter: impl Fn() -> Mail) {
        for n in 0..self.shard_count {
            self.sim.control.send(shard_id(n), letter());
        }
        self.run();
    }

    /// A client of tenant 0 whose token expires in a week.
    fn connect(&mut self, shard: usize, vsn: u8) -> Client {
        self.connect_with(shard, vsn, 0, &token(7 * 86_400))
    }

    /// Asks to join; the reference of the join is also its `ref`.
    fn join(&mut self, client: Client, join_ref: &str, topic: &str, config: &Value) {
        self.send(
            client,
            &json!([join_ref, join_ref, topic, "phx_join", {"config": config}]),
        );
    }

    /// Joins, and reads the reply, which is ok.
    fn joined(&mut self, client: Client, join_ref: &str, topic: &str, config: &Value) {
        self.join(client, join_ref, topic, config);
        let answer = self.reads(client);
        let status = answer.first().map(|first| match first {
            Value::Array(message) => message[4]["status"].clone(),
            message => message["payload"]["status"].clone(),
        });
        assert_eq!(status, Some(json!("ok")), "{answer:?}");
    }

    /// A client on this shard that has joined the topic with join_ref 1.
    fn member(&mut self, shard: usize, vsn: u8, topic: &str, config: &Value) -> Client {
        let client = self.connect(shard, vsn);
        self.joined(client, "1", topic, config);
        client
    }

    fn broadcast(&mut self, client: Client, msg_ref: &str, topic: &str, payload: &Value) {
        self.send(client, &json!(["1", msg_ref, topic, "broadcast", payload]));
    }

    /// Lets everything happen and reads what a client got.
    fn reads(&mut self, client: Client) -> Vec<Value> {
        self.run();
        self.read(client)
    }

    /// A topic that this shard owns, for tenant 0.
    fn topic_of(&self, shard: usize) -> String {
        let shards = self.shards().count();
        let names = (0..1000).map(|n| format!("realtime:room{n}"));
        let mut owned =
            names.filter(|topic| world::owner(&self.tenants[0], topic, shards) == shard);
        owned
            .next()
            .expect("every shard owns some of a thousand topics")
    }

    /// Sockets and topics that any shard still knows, and users of tenant 0.
    fn remains(&self) -> [usize; 3] {
        let sockets = self
            .shards()
            .map(|shard| shard.channels().sockets.len() + shard.opening());
        let topics = self.shards().map(|shard| shard.channels().fanout.topics());
        let users = self.tenants[0].usage.users() as usize;
        [sockets.sum(), topics.sum(), users]
    }
}
