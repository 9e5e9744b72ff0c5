//! What clients read, and whether they may.

use super::model::{ActorId, Asked, Form, Life, MemberId, Model, TOPICS, Topic};
use serde_json::{Value, json};

/// A frame as a client reads it, whatever its serializer. 1.0.0 never says a `join_ref`.
struct Read {
    join_ref: Option<Value>,
    msg_ref: Value,
    topic: String,
    event: String,
    payload: Value,
    form: Form,
}

impl Model {
    pub(crate) fn read_all(&mut self) {
        for id in self.actor_ids() {
            self.read(id);
        }
    }

    /// Reads what has come for a client, and notices its end.
    fn read(&mut self, id: ActorId) {
        if matches!(self.actor(id).state, Life::Gone) {
            return;
        }
        let client = self.actor(id).client;
        for frame in self.world.read(client) {
            self.now += 1;
            self.on_frame(id, &frame);
        }
        if !self.world.is_ended(client) {
            return;
        }
        let is_reset = self.world.is_reset(client);
        let actor = self.actor(id);
        actor.state = match actor.state {
            Life::Leaving if !is_reset => Life::Gone,
            Life::Alive if !is_reset => panic!("{id:?} was dropped without a word"),
            _ => Life::Broken,
        };
    }

    fn on_frame(&mut self, id: ActorId, frame: &Value) {
        if let Some(code) = frame.get("close") {
            return self.on_close(id, code);
        }
        if frame["status"] == "408" {
            // Two lost doorbells in a row kept its shard from reading for longer than a request head may take.
            self.actor(id).state = Life::Broken;
            return;
        }
        let read = Read::of(frame);
        if read.topic == "phoenix" {
            let asked = self.answered(id, &read.msg_ref);
            assert!(matches!(asked, Asked::Heartbeat), "{frame}");
            return assert_eq!(read.payload, json!({"status": "ok", "response": {}}));
        }
        let tenant = self.actor(id).tenant;
        let topic = (0..TOPICS)
            .map(|number| Topic { tenant, number })
            .find(|topic| topic.name() == read.topic)
            .unwrap_or_else(|| panic!("{id:?} reads of a topic that nobody named: {frame}"));
        let closing = self.channel(id, topic).closing;
        assert!(
            closing.is_none() || read.event == "phx_close",
            "{id:?} reads this where the phx_close of {closing:?} belongs: {frame}"
        );
        match &*read.event {
            "phx_reply" => self.on_reply(id, topic, &read),
            "phx_close" => {
                let member = self.channel(id, topic).closing.take();
                self.check_end(member, &read);
                assert_eq!(read.payload, json!({}));
            }
            "phx_error" => {
                let member = self.channel(id, topic).read.take();
                self.check_end(member, &read);
                assert!(
                    member.is_some_and(|member| self.member(member).is_to_crash),
                    "{frame}"
                );
            }
            "presence_state" => self.on_state(id, topic, &read),
            "presence_diff" => self.on_diff(id, topic, &read),
            "system" => {
                assert!(self.disconnected[tenant], "{id:?} reads {frame}");
                assert_eq!(read.payload["message"], "Server requested disconnect");
            }
            _ => self.on_broadcast(id, topic, &read),
        }
    }

    fn on_close(&mut self, id: ActorId, code: &Value) {
        let is_disconnected = self.disconnected[self.actors[id.0].tenant];
        let actor = self.actor(id);
        let (is_leaving, client) = (actor.state == Life::Leaving, actor.client);
        assert!(
            (*code == 1000 && is_leaving) || (*code == 1012 && is_disconnected),
            "{id:?} is closed with {code}"
        );
        if *code == 1012 {
            // What it sent meanwhile is not read any more.
            actor.state = Life::Broken;
        }
        if *code == 1012 && !is_leaving {
            self.world.fin(client);
        }
    }

    fn on_reply(&mut self, id: ActorId, topic: Topic, read: &Read) {
        let asked = self.answered(id, &read.msg_ref);
        let ok = json!({"status": "ok", "response": {}});
        match asked {
            Asked::Join(member, before) => {
                let response = json!({"postgres_changes": []});
                self.check_reply(member, read, &json!({"status": "ok", "response": response}));
                let channel = self.channel(id, topic);
                if channel.read.is_some() {
                    assert_eq!(channel.read, before);
                    channel.closing = before;
                }
                channel.read = Some(member);
                self.actor(id).is_user = true;
                self.member(member).open_since = Some(self.now);
            }
            Asked::RefusedJoin(of, before) => {
                assert_eq!((of, &read.payload["status"]), (topic, &json!("error")));
                self.actor(id).refusals -= 1;
                let channel = self.channel(id, topic);
                assert_eq!(channel.read, before);
                channel.closing = channel.read.take();
            }
            Asked::Leave(member) => {
                self.check_reply(member, read, &ok);
                let channel = self.channel(id, topic);
                assert_eq!(channel.read, Some(member));
                channel.closing = channel.read.take();
            }
            Asked::LeaveOfNothing(of, join_ref) => {
                assert_eq!((of, &read.payload), (topic, &ok));
                assert!(read.join_ref.as_ref().is_none_or(|read| *read == join_ref));
            }
            Asked::Ok(member) => self.check_reply(member, read, &ok),
            Asked::Unmatched(of) => {
                let response = json!({"reason": "unmatched topic"});
                let payload = json!({"status": "error", "response": response});
                assert_eq!((of, &read.payload), (topic, &payload));
                assert!(read.join_ref.as_ref().is_none_or(Value::is_null));
            }
            Asked::Heartbeat => panic!("a heartbeat is answered on {topic:?}"),
        }
    }

    /// A reply that carries the channel's `join_ref`.
    fn check_reply(&mut self, member: MemberId, read: &Read, payload: &Value) {
        let member = self.member(member);
        assert_eq!(
            (&read.topic, &read.payload),
            (&member.topic.name(), payload)
        );
        assert!(
            read.join_ref
                .as_ref()
                .is_none_or(|read| *read == member.join_ref)
        );
    }

    /// `phx_close` and `phx_error` carry the channel's `join_ref` twice (spec 3.2).
    fn check_end(&mut self, member: Option<MemberId>, read: &Read) {
        let member = member.expect("only what is joined, and was asked to end, ends");
        let join_ref = &self.member(member).join_ref;
        assert_eq!(read.msg_ref, **join_ref);
        assert!(read.join_ref.as_ref().is_none_or(|read| read == join_ref));
    }

    /// The membership that reads this: there is none before the join reply, and none behind the end.
    fn reader(&mut self, id: ActorId, topic: Topic, read: &Read) -> MemberId {
        self.channel(id, topic)
            .read
            .unwrap_or_else(|| panic!("{id:?} reads {} of {topic:?} and is not joined", read.event))
    }

    fn on_broadcast(&mut self, id: ActorId, topic: Topic, read: &Read) {
        let member = self.reader(id, topic, read);
        assert!(read.join_ref.as_ref().is_none_or(Value::is_null) && read.msg_ref.is_null());
        let number = read.payload["id"]
            .as_u64()
            .expect("broadcasts are numbered");
        let message = &self.messages[usize::try_from(number).expect("there are few messages")];
        assert_eq!(
            message.topic, topic,
            "{id:?} reads message {number} of another topic"
        );
        let is_left_out = self.is_left_out(message, &self.members[member.0]);
        assert!(
            !is_left_out,
            "{id:?} reads message {number}, which is not for it"
        );
        let vsn = self.world.vsn(self.actors[id.0].client);
        assert!(
            vsn == 1 || message.form == read.form,
            "{id:?} reads {number} in another form"
        );
        assert!(
            self.actor(id).received.insert(number),
            "{id:?} reads message {number} twice"
        );
        self.member(member).received.push(number);
    }

    fn on_state(&mut self, id: ActorId, topic: Topic, read: &Read) {
        let member = self.reader(id, topic, read);
        let member = self.member(member);
        assert!(
            read.join_ref
                .as_ref()
                .is_none_or(|read| *read == member.join_ref)
        );
        assert!(member.presence, "{id:?} has not asked for a state");
        let before = member.view.replace(metas(&read.payload).collect());
        assert!(before.is_none(), "{id:?} reads a second state");
    }

    /// Behind the state, a diff removes what is there and adds what is not.
    fn on_diff(&mut self, id: ActorId, topic: Topic, read: &Read) {
        let member = self.reader(id, topic, read);
        assert!(read.join_ref.as_ref().is_none_or(Value::is_null) && read.msg_ref.is_null());
        let Some(view) = &mut self.member(member).view else {
            return;
        };
        for (place, meta) in metas(&read.payload["leaves"]) {
            assert_eq!(
                view.remove(&place),
                Some(meta),
                "{id:?}: what leaves is not there"
            );
        }
        for (place, meta) in metas(&read.payload["joins"]) {
            let before = view.insert(place, meta);
            assert!(before.is_none(), "{id:?}: what joins was there already");
        }
    }

    fn answered(&mut self, id: ActorId, msg_ref: &Value) -> Asked {
        let asked = msg_ref
            .as_str()
            .and_then(|msg_ref| self.actor(id).asked.remove(msg_ref));
        asked.unwrap_or_else(|| panic!("{id:?} reads a reply to {msg_ref}, which it has not asked"))
    }
}

/// The metas of a state or of one side of a diff, by key and `phx_ref`.
fn metas(state: &Value) -> impl Iterator<Item = ((String, String), Value)> {
    let keys = state.as_object().expect("presences are an object of keys");
    keys.iter().flat_map(|(key, entry)| {
        let metas = entry["metas"].as_array().expect("a key has metas");
        metas.iter().map(|meta| {
            let phx_ref = meta["phx_ref"].as_str().expect("a meta has a phx_ref");
            ((key.clone(), phx_ref.to_string()), meta.clone())
        })
    })
}

impl Read {
    fn of(frame: &Value) -> Self {
        let text = |value: &Value| match value.as_str() {
            Some(text) => text.to_string(),
            None => panic!("a topic and an event, not {frame}"),
        };
        if let Some(kind) = frame.get("kind") {
            let data = frame["data"].as_str().expect("binary frames have data");
            let form = match (kind.as_u64(), frame["encoding"].as_u64()) {
                (Some(2), _) => Form::Opaque,
                (_, Some(0)) => Form::UserBinary,
                _ => Form::UserJson,
            };
            return Self {
                join_ref: None,
                msg_ref: Value::Null,
                topic: text(&frame["topic"]),
                event: "broadcast".into(),
                payload: serde_json::from_str(data).expect("what is sent here is JSON"),
                form,
            };
        }
        if frame.is_array() {
            return Self {
                join_ref: Some(frame[0].clone()),
                msg_ref: frame[1].clone(),
                topic: text(&frame[2]),
                event: text(&frame[3]),
                payload: frame[4].clone(),
                form: Form::Text,
            };
        }
        let mut payload = frame["payload"].clone();
        // A user broadcast in 1.0.0 has its payload one level deeper (spec 6.3).
        if payload["type"] == "broadcast" && payload["event"] == "e" {
            payload = payload["payload"].take();
        }
        Self {
            join_ref: None,
            msg_ref: frame["ref"].clone(),
            topic: text(&frame["topic"]),
            event: text(&frame["event"]),
            payload,
            form: Form::Text,
        }
    }
}
