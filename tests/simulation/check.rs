//! What must be true when everything has happened that can.

use super::model::{Life, MemberId, Membership, Message, Model, Topic};
use super::realtime::metrics::Count;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a shard may sleep when its doorbell was lost, and a bit.
const ROUND: Duration = Duration::from_secs(11);

/// Rounds until everything has arrived: a lost doorbell delays a hop by one, and refused joins take 5 s each.
const ROUNDS_MAX: usize = 12;

impl Model {
    /// Lets everything happen, and checks that everything has.
    pub(crate) fn settle(&mut self) {
        self.read_all();
        for round in 0.. {
            self.heartbeats();
            self.world.advance(ROUND);
            self.read_all();
            let missing = self.missing();
            if missing.is_empty() {
                break;
            }
            assert!(round < ROUNDS_MAX, "still missing: {missing:#?}");
        }
        self.checked = self.messages.len();
        for (topic, members) in self.by_topic() {
            self.check_order(topic, &members);
            self.check_gaps(topic, &members);
        }
    }

    /// Everybody goes, and nothing stays.
    pub(crate) fn end(&mut self) {
        for id in self.actor_ids() {
            if self.actor(id).state == Life::Alive {
                self.go(id);
                let steps = self.dice.below(4);
                self.world.steps(steps);
            }
        }
        for _ in 0..4 {
            self.world.advance(ROUND);
            self.read_all();
        }
        for (n, shard) in self.world.shards().enumerate() {
            let channels = shard.channels();
            let left = [
                channels.sockets.len(),
                shard.opening(),
                channels.fanout.topics(),
            ];
            assert_eq!(
                left, [0; 3],
                "sockets, opening sockets and topics left on shard {n}"
            );
            let (of_product, of_runtime) = self.world.figures(n);
            let left = [
                &of_product.channels,
                &of_product.topics_owned,
                &of_runtime.connections,
                &of_runtime.bytes_queued,
                &of_runtime.mail_waiting,
            ];
            assert_eq!(
                left.map(Count::get),
                [0; 5],
                "channels, topics, connections, bytes and letters that shard {n} counts"
            );
        }
        for tenant in &self.world.tenants {
            assert_eq!(
                tenant.usage.users(),
                0,
                "users left of {}",
                tenant.external_id
            );
        }
    }

    /// What should have arrived and has not.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (n, actor) in self.actors.iter().enumerate() {
            match actor.state {
                Life::Alive => {
                    missing.extend(actor.asked.iter().map(|(msg_ref, asked)| {
                        format!("actor {n}: the answer to {msg_ref}, {asked:?}")
                    }));
                    let closing = actor.channels.iter().filter_map(|channel| channel.closing);
                    missing.extend(
                        closing.map(|closing| format!("actor {n}: phx_close of {closing:?}")),
                    );
                    let apart = actor
                        .channels
                        .iter()
                        .filter(|channel| channel.sent != channel.read);
                    missing.extend(apart.map(|channel| {
                        format!(
                            "actor {n}: the end of {:?}, or {:?}",
                            channel.read, channel.sent
                        )
                    }));
                }
                Life::Leaving => missing.push(format!("actor {n}: the end of its connection")),
                Life::Gone | Life::Broken => {}
            }
        }
        for (number, message) in self.messages.iter().enumerate().skip(self.checked) {
            self.missing_of(number as u64, message, &mut missing);
        }
        self.missing_presences(&mut missing);
        self.missing_users(&mut missing);
        missing
    }

    /// Memberships that will not end by anything that was sent so far.
    fn staying(&self) -> impl Iterator<Item = (MemberId, &Membership)> {
        let alive = self
            .actors
            .iter()
            .filter(|actor| actor.state == Life::Alive);
        let members =
            alive.flat_map(|actor| actor.channels.iter().filter_map(|channel| channel.sent));
        members.map(|id| (id, &self.members[id.0]))
    }

    /// Whether the shard has surely handled this message.
    fn is_handled(&self, message: &Message) -> bool {
        let Some(by) = message.by.map(|by| &self.members[by.0]) else {
            return true;
        };
        match self.actors[by.actor.0].state {
            Life::Alive => true,
            Life::Leaving | Life::Gone => !message.may_wait,
            Life::Broken => false,
        }
    }

    /// A message that was handled reaches every member that had read its join's reply when it was sent and stays.
    fn missing_of(&self, number: u64, message: &Message, missing: &mut Vec<String>) {
        if !self.is_handled(message) {
            return;
        }
        for (id, member) in self.staying() {
            let was_there = member.open_since.is_some_and(|since| since < message.at);
            if member.topic == message.topic
                && was_there
                && !self.is_left_out(message, member)
                && !member.received.contains(&number)
            {
                missing.push(format!(
                    "{id:?} of {:?}: message {number}, {message:?}",
                    member.actor
                ));
            }
        }
    }

    /// Whoever asked for a state sees exactly those who track.
    fn missing_presences(&self, missing: &mut Vec<String>) {
        let mut tracking: BTreeMap<Topic, BTreeSet<(&str, u64)>> = BTreeMap::new();
        for (_, member) in self.staying() {
            if let Some(number) = member.tracked {
                let of_topic = tracking.entry(member.topic).or_default();
                of_topic.insert((&member.key, number));
            }
        }
        for (id, member) in self.staying().filter(|(_, member)| member.presence) {
            let Some(view) = &member.view else {
                missing.push(format!("{id:?}: the state"));
                continue;
            };
            let number = |meta: &serde_json::Value| meta["n"].as_u64().unwrap_or_default();
            let seen: BTreeSet<(&str, u64)> = view
                .iter()
                .map(|((key, _), meta)| (&**key, number(meta)))
                .collect();
            let expected = tracking.get(&member.topic).cloned().unwrap_or_default();
            if seen != expected || view.len() != expected.len() {
                missing.push(format!("{id:?} sees {seen:?} instead of {expected:?}"));
            }
        }
    }

    /// The number of users is the number of sockets that have joined and not ended.
    fn missing_users(&self, missing: &mut Vec<String>) {
        for (n, tenant) in self.world.tenants.iter().enumerate() {
            let users = self
                .actors
                .iter()
                .filter(|actor| actor.tenant == n && actor.state == Life::Alive && actor.is_user);
            let (users, counted) = (users.count(), tenant.usage.users());
            if u32::try_from(users) != Ok(counted) {
                missing.push(format!("{users} users of tenant {n}, counted {counted}"));
            }
        }
    }

    fn by_topic(&self) -> BTreeMap<Topic, Vec<&Membership>> {
        let mut by_topic: BTreeMap<Topic, Vec<&Membership>> = BTreeMap::new();
        for member in &self.members {
            by_topic.entry(member.topic).or_default().push(member);
        }
        by_topic
    }

    /// There is one order of the topic's messages that everybody saw a part of: "before" has no circles.
    fn check_order(&self, topic: Topic, members: &[&Membership]) {
        let mut after: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        let mut before_count: BTreeMap<u64, usize> = BTreeMap::new();
        for member in members {
            for &number in &member.received {
                before_count.entry(number).or_default();
            }
            for pair in member.received.windows(2) {
                if after.entry(pair[0]).or_default().insert(pair[1]) {
                    *before_count.entry(pair[1]).or_default() += 1;
                }
            }
        }
        let mut free: Vec<u64> = before_count
            .iter()
            .filter(|(_, count)| **count == 0)
            .map(|(number, _)| *number)
            .collect();
        let mut placed = 0;
        while let Some(number) = free.pop() {
            placed += 1;
            for next in after.get(&number).into_iter().flatten() {
                let count = before_count.entry(*next).or_default();
                *count -= 1;
                if *count == 0 {
                    free.push(*next);
                }
            }
        }
        let sequences: Vec<&Vec<u64>> = members.iter().map(|member| &member.received).collect();
        assert_eq!(
            placed,
            before_count.len(),
            "no one order of {topic:?}: {sequences:?}"
        );
    }

    /// Between two messages that two members both got, they got the same messages.
    fn check_gaps(&self, topic: Topic, members: &[&Membership]) {
        for one in members {
            for other in members {
                let got: BTreeSet<u64> = other.received.iter().copied().collect();
                let is_common = |number: &u64| got.contains(number);
                let first = one.received.iter().position(is_common);
                let last = one.received.iter().rposition(is_common);
                let (Some(first), Some(last)) = (first, last) else {
                    continue;
                };
                for &number in &one.received[first..=last] {
                    let message = &self.messages[usize::try_from(number).expect("it was read")];
                    assert!(
                        got.contains(&number) || self.is_left_out(message, other),
                        "{:?} missed message {number} of {topic:?} in between",
                        other.actor
                    );
                }
            }
        }
    }
}
