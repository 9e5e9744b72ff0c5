//! What clients do, and what has to come back for it.

use super::model::{
    Actor, ActorId, Asked, Channel, Form, Life, MemberId, Membership, Message, Model, TENANTS,
    TOPICS, Topic,
};
use super::realtime::mail::{Audience, Content, Mail, Publish, To, TopicHasher, TopicKey};
use super::world::{Client, HASH_SEED, kind_0, kind_3, owner, shard_id, token};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Clients alive at one time.
const ALIVE_MAX: usize = 10;

impl Model {
    /// Somebody does something, and sometimes there is time for it to happen.
    pub(crate) fn act(&mut self) {
        self.now += 1;
        let alive: Vec<ActorId> = self
            .actor_ids()
            .filter(|id| self.actors[id.0].state == Life::Alive)
            .collect();
        if alive.is_empty() || (alive.len() < ALIVE_MAX && self.dice.one_in(6)) {
            self.connect();
        } else {
            let id = self.dice.of(&alive);
            let topic = self.topic(self.actors[id.0].tenant);
            match self.dice.below(40) {
                0..=8 => self.join(id, topic),
                9..=12 => self.leave(id, topic),
                13..=23 => self.broadcast(id, topic),
                24 => self.crash(id, topic),
                25..=29 => self.track(id, topic),
                30..=31 => self.untrack(id, topic),
                32 => self.nonsense(id, topic),
                33 => self.join_in_vain(id, topic),
                34 => self.heartbeat(id),
                35..=36 => self.publish_from_control(topic),
                37 => self.go(id),
                38 => self.tell_of_tenant(topic.tenant),
                _ => self.pass_time(),
            }
        }
        match self.dice.below(16) {
            0 => self.world.run(),
            1..=9 => {
                let steps = self.dice.below(5);
                self.world.steps(steps);
            }
            _ => {}
        }
        if self.dice.one_in(3) {
            self.read_all();
        }
    }

    fn topic(&mut self, tenant: usize) -> Topic {
        Topic {
            tenant,
            number: self.dice.below(TOPICS),
        }
    }

    fn connect(&mut self) {
        let tenant = self.dice.below(TENANTS);
        let shards = self.world.shards().count();
        let (shard, vsn) = (self.dice.below(shards), self.dice.of(&[1, 2, 2]));
        let client = self
            .world
            .connect_with(shard, vsn, tenant, &token(7 * 86_400));
        self.actors.push(Actor {
            client,
            tenant,
            channels: [Channel::default(); TOPICS],
            asked: BTreeMap::new(),
            last_ref: 0,
            refusals: 0,
            state: Life::Alive,
            is_user: false,
            received: BTreeSet::new(),
        });
    }

    fn join(&mut self, id: ActorId, topic: Topic) {
        let join_ref = self.next_ref(id);
        let [ack, to_self, presence] = [(); 3].map(|()| self.dice.one_in(2));
        let key = format!("key{}", self.dice.below(3));
        let config = json!({
            "broadcast": {"ack": ack, "self": to_self},
            "presence": {"enabled": presence, "key": key},
        });
        let member = MemberId(self.members.len());
        self.members.push(Membership {
            actor: id,
            topic,
            join_ref: join_ref.clone(),
            ack,
            to_self,
            presence,
            key,
            tracked: None,
            open_since: None,
            is_to_crash: false,
            received: Vec::new(),
            view: None,
        });
        let before = self.channel(id, topic).sent.replace(member);
        self.ask(id, &join_ref, Asked::Join(member, before));
        self.send(
            id,
            &json!([join_ref, join_ref, topic.name(), "phx_join", {"config": config}]),
        );
    }

    /// A private channel: this tenant has no database that could say who may read it.
    fn join_in_vain(&mut self, id: ActorId, topic: Topic) {
        if self.actor(id).refusals == 2 {
            return;
        }
        self.actor(id).refusals += 1;
        let join_ref = self.next_ref(id);
        let before = self.channel(id, topic).sent.take();
        self.ask(id, &join_ref, Asked::RefusedJoin(topic, before));
        let payload = json!({"config": {"private": true}});
        self.send(
            id,
            &json!([join_ref, join_ref, topic.name(), "phx_join", payload]),
        );
    }

    fn leave(&mut self, id: ActorId, topic: Topic) {
        let msg_ref = self.next_ref(id);
        let sent = self.channel(id, topic).sent;
        if sent.is_some() && self.dice.one_in(5) {
            // Not the channel's own join_ref: ignored.
            return self.send(id, &json!(["0", msg_ref, topic.name(), "phx_leave", {}]));
        }
        self.channel(id, topic).sent = None;
        let join_ref = match sent {
            Some(member) => {
                self.ask(id, &msg_ref, Asked::Leave(member));
                self.member(member).join_ref.clone()
            }
            None => {
                self.ask(id, &msg_ref, Asked::LeaveOfNothing(topic, "0".into()));
                "0".into()
            }
        };
        self.send(
            id,
            &json!([join_ref, msg_ref, topic.name(), "phx_leave", {}]),
        );
    }

    fn broadcast(&mut self, id: ActorId, topic: Topic) {
        let msg_ref = self.next_ref(id);
        let number = self.messages.len() as u64;
        let sent = self.channel(id, topic).sent;
        match sent {
            Some(member) if self.members[member.0].ack => self.ask(id, &msg_ref, Asked::Ok(member)),
            Some(_) => {}
            None => self.ask(id, &msg_ref, Asked::Unmatched(topic)),
        }
        let client = self.actor(id).client;
        let forms: &[Form] = match self.world.vsn(client) {
            1 => &[Form::Text],
            _ => &[Form::Text, Form::UserJson, Form::UserBinary, Form::Opaque],
        };
        let form = self.dice.of(forms);
        let may_wait = self.actor(id).asked.values().any(Asked::is_join);
        if sent.is_some() {
            self.messages.push(Message {
                topic,
                form,
                by: sent,
                may_wait,
                at: self.now,
            });
        }
        let name = topic.name();
        // A stale or missing join_ref does not matter here (spec 4.3).
        let refs = ["", &*msg_ref];
        let data = json!({"id": number}).to_string();
        match form {
            Form::Text => {
                self.send(
                    id,
                    &json!([null, msg_ref, name, "broadcast", {"id": number}]),
                );
            }
            Form::UserJson | Form::UserBinary => {
                let encoding = u8::from(form == Form::UserJson);
                let frame = kind_3(refs, &name, "e", encoding, data.as_bytes());
                self.world.send_binary(client, &frame);
            }
            Form::Opaque => {
                let frame = kind_0(refs, &name, "broadcast", data.as_bytes());
                self.world.send_binary(client, &frame);
            }
        }
    }

    /// A broadcast that is no object: the sender's channel ends with `phx_error`, and nobody gets it.
    fn crash(&mut self, id: ActorId, topic: Topic) {
        let msg_ref = self.next_ref(id);
        match self.channel(id, topic).sent.take() {
            Some(member) => self.member(member).is_to_crash = true,
            None => self.ask(id, &msg_ref, Asked::Unmatched(topic)),
        }
        self.send(id, &json!([null, msg_ref, topic.name(), "broadcast", 5]));
    }

    fn track(&mut self, id: ActorId, topic: Topic) {
        // Sometimes what is tracked already.
        let sent = self.channel(id, topic).sent;
        let tracked = sent.and_then(|member| self.member(member).tracked);
        let number = match tracked {
            Some(tracked) if self.dice.one_in(4) => tracked,
            _ => {
                self.tracks += 1;
                self.tracks
            }
        };
        if let Some(member) = sent {
            self.member(member).tracked = Some(number);
        }
        self.presence(
            id,
            topic,
            &json!({"event": "track", "payload": {"n": number}}),
        );
    }

    fn untrack(&mut self, id: ActorId, topic: Topic) {
        if let Some(member) = self.channel(id, topic).sent {
            self.member(member).tracked = None;
        }
        self.presence(id, topic, &json!({"event": "untrack"}));
    }

    fn presence(&mut self, id: ActorId, topic: Topic, payload: &Value) {
        let msg_ref = self.next_ref(id);
        let asked = match self.channel(id, topic).sent {
            Some(member) => Asked::Ok(member),
            None => Asked::Unmatched(topic),
        };
        self.ask(id, &msg_ref, asked);
        self.send(
            id,
            &json!([null, msg_ref, topic.name(), "presence", payload]),
        );
    }

    /// What nobody understands, on a channel or in a frame.
    fn nonsense(&mut self, id: ActorId, topic: Topic) {
        let msg_ref = self.next_ref(id);
        if self.channel(id, topic).sent.is_none() {
            self.ask(id, &msg_ref, Asked::Unmatched(topic));
        }
        self.send(id, &json!([null, msg_ref, topic.name(), "nonsense", {}]));
        let client = self.actor(id).client;
        self.world.write_frame(client, 1, b"[1,");
        self.world.send_binary(client, b"\xff\xff");
    }

    fn heartbeat(&mut self, id: ActorId) {
        let msg_ref = self.next_ref(id);
        self.ask(id, &msg_ref, Asked::Heartbeat);
        self.send(id, &json!([null, msg_ref, "phoenix", "heartbeat", {}]));
    }

    /// As the REST API does it.
    fn publish_from_control(&mut self, topic: Topic) {
        let number = self.messages.len();
        let tenant = Arc::clone(&self.world.tenants[topic.tenant]);
        let (hasher, text) = (TopicHasher::new(HASH_SEED), topic.name());
        let name = text.trim_start_matches("realtime:");
        let key = TopicKey::of_name(&hasher, tenant.id, false, name);
        let publish = Publish {
            to: To::Key(Arc::new(key)),
            content: Content::Json {
                event: "broadcast",
                payload: Cow::Owned(json!({"id": number}).to_string()),
            },
            except: None,
            audience: Audience::Broadcast,
            id: None,
        };
        let owner = owner(&tenant, &text, self.world.shards().count());
        self.messages.push(Message {
            topic,
            form: Form::Text,
            by: None,
            may_wait: false,
            at: self.now,
        });
        let letter = Mail::Publish(Box::new(publish));
        self.world.sim.control.send(shard_id(owner), letter);
    }

    /// One of the ways to go.
    pub(crate) fn go(&mut self, id: ActorId) {
        let client = self.actor(id).client;
        self.actor(id).state = Life::Leaving;
        match self.dice.below(3) {
            0 => self.world.send_close(client, 1000),
            1 => self.world.fin(client),
            _ => {
                self.actor(id).state = Life::Broken;
                self.world.reset(client);
            }
        }
    }

    /// A new snapshot of a tenant, which changes nothing for its clients, or now and then its disconnect.
    fn tell_of_tenant(&mut self, tenant: usize) {
        let snapshot = Arc::clone(&self.world.tenants[tenant]);
        let is_disconnect = self.dice.one_in(3);
        for shard in 0..self.world.shards().count() {
            let letter = if is_disconnect {
                Mail::Disconnect(snapshot.id)
            } else {
                Mail::Tenant(Arc::clone(&snapshot))
            };
            self.world.sim.control.send(shard_id(shard), letter);
        }
        self.disconnected[tenant] |= is_disconnect;
    }

    fn pass_time(&mut self) {
        let by = Duration::from_millis(self.dice.below(3000) as u64);
        self.world.advance(by);
    }

    /// Every client that is alive gives a sign of it.
    pub(crate) fn heartbeats(&mut self) {
        for id in self.actor_ids() {
            if self.actor(id).state == Life::Alive {
                self.heartbeat(id);
            }
        }
    }

    fn next_ref(&mut self, id: ActorId) -> String {
        let actor = self.actor(id);
        actor.last_ref += 1;
        actor.last_ref.to_string()
    }

    fn ask(&mut self, id: ActorId, msg_ref: &str, asked: Asked) {
        self.actor(id).asked.insert(msg_ref.into(), asked);
    }

    fn send(&mut self, id: ActorId, message: &Value) {
        let client: Client = self.actor(id).client;
        self.world.send(client, message);
    }
}
