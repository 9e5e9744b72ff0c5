//! What comes into a socket: messages that are handled at once, and those that wait behind a join that is not decided yet.
//!
//! The joins of one socket are decided one after another, and an error reply comes 5 s after its join (spec: websocket-protocol 4.1).
//! Heartbeats and other topics go on meanwhile; what must not overtake waits here: further joins, and messages on topics whose
//! join waits. What always holds: waiting messages keep their order, and both their number and their bytes are bounded.

use super::{Extra, Flags, RawJson, Token};
use crate::limits;
use crate::mail::TopicRef;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

/// Clients choose the names of topics, so their hashes are seeded.
type ByTopic<V> = HashMap<Rc<str>, V, foldhash::fast::RandomState>;

/// The join or leave that a socket waits for, and what waits behind it.
#[derive(Debug, Default)]
pub struct Waiting {
    /// A join that has passed its checks and waits for the owner of its topic.
    pub pending: Option<PendingJoin>,
    /// A leave that waits until its member has got what was published before it.
    pub leaving: Option<PendingLeave>,
    /// A join was refused and its reply is not due yet.
    pub refusal: Option<WaitingRefusal>,
    /// Messages in the order they came.
    messages: VecDeque<WaitingMessage>,
    /// How many of them there are of each topic: looking through all of them for every message of the socket would let one client
    /// keep its shard busy.
    by_topic: ByTopic<u32>,
    bytes: usize,
}

/// The answer to a refused join: it goes with its socket when that ends before it is due.
#[derive(Debug)]
pub struct WaitingRefusal {
    /// The topic of the join, as the client writes it.
    pub topic: Option<Box<str>>,
    /// The reply, and `phx_close` of a channel that the join has ended.
    pub frames: Vec<u8>,
    /// Whether the socket is closed behind it.
    pub closes_socket: bool,
}

/// A join that has passed all checks: what the channel will be, and what its socket gets to read.
#[derive(Debug)]
pub struct PendingJoin {
    /// The topic, in this shard's registry.
    pub topic: TopicRef,
    /// Whether the socket became a user of its tenant by this join: given back if the join comes to nothing.
    pub added_user: bool,
    /// Of the channel.
    pub flags: Flags,
    /// Of the channel.
    pub join_ref: RawJson,
    /// Of the channel.
    pub token: Rc<Token>,
    /// Of the channel.
    pub extra: Option<Box<Extra>>,
    /// The whole reply frame.
    pub reply: Vec<u8>,
    /// `phx_close` of the channel that this join replaces.
    pub close_of_old: Option<Vec<u8>>,
    /// The client wants to hear of the replication stream (spec 5.6).
    pub waits_for_replication: bool,
}

/// A leave of a topic whose owner is another shard.
#[derive(Debug)]
pub struct PendingLeave {
    /// The topic, in this shard's registry.
    pub topic: TopicRef,
    /// The same as the client writes it.
    pub text: Box<str>,
    /// Of the message, raw JSON.
    pub join_ref: Box<str>,
    /// Of the message, raw JSON.
    pub msg_ref: Box<str>,
    /// Of the message, raw JSON.
    pub topic_json: Box<str>,
}

/// A message that waits.
#[derive(Debug)]
pub struct WaitingMessage {
    /// Its topic, when it is a string.
    pub topic: Option<Rc<str>>,
    /// Whether it is a join: the others wait for one.
    pub is_join: bool,
    /// Whether it came in a binary frame.
    pub is_binary: bool,
    /// The frame's payload.
    pub bytes: Box<[u8]>,
}

/// What becomes of a message that came while a join waits.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Inbound {
    /// It is handled now.
    Handle,
    /// It was put behind the others.
    Wait,
    /// There is no room left: the socket is to be closed.
    Full,
}

impl WaitingMessage {
    /// Memory that it takes, about: a topic may be as long as its message.
    fn cost_bytes(&self) -> usize {
        let topic = self.topic.as_ref().map_or(0, |topic| topic.len());
        size_of::<Self>() + self.bytes.len() + topic
    }
}

impl Waiting {
    /// Whether messages of this topic have to wait, because a join of it does.
    #[must_use]
    pub fn holds(&self, topic: &str) -> bool {
        self.by_topic.contains_key(topic)
    }

    /// The topic of a join that was refused and whose reply is not due yet.
    #[must_use]
    pub fn refused_topic(&self) -> Option<&str> {
        self.refusal.as_ref()?.topic.as_deref()
    }

    /// Puts a message behind the others.
    pub fn push(&mut self, message: WaitingMessage) -> Inbound {
        self.bytes += message.cost_bytes();
        if self.messages.len() >= limits::WAITING_MESSAGES_MAX
            || self.bytes > limits::WAITING_BYTES_MAX
        {
            return Inbound::Full;
        }
        if let Some(topic) = &message.topic {
            *self.by_topic.entry(Rc::clone(topic)).or_default() += 1;
        }
        self.messages.push_back(message);
        Inbound::Wait
    }

    /// The next message to handle.
    pub fn pop(&mut self) -> Option<WaitingMessage> {
        let message = self.messages.pop_front()?;
        self.forget(&message);
        Some(message)
    }

    /// A message waits no longer.
    fn forget(&mut self, message: &WaitingMessage) {
        self.bytes -= message.cost_bytes();
        if let Some(topic) = &message.topic
            && let Some(count) = self.by_topic.get_mut(topic)
        {
            *count -= 1;
            if *count == 0 {
                self.by_topic.remove(topic);
            }
        }
    }

    /// Takes out what no join here is about, in its order: a refused join keeps only other joins waiting, and what is sent on its own
    /// topic and theirs.
    pub fn take_unheld(&mut self) -> Vec<WaitingMessage> {
        let mut held: HashSet<_> = self.refused_topic().map(Some).into_iter().collect();
        let is_held: Vec<bool> = self
            .messages
            .iter()
            .map(|message| {
                let topic = message.topic.as_deref();
                let is_held = message.is_join || held.contains(&topic);
                if is_held {
                    held.insert(topic);
                }
                is_held
            })
            .collect();
        let (mut unheld, mut rest) = (Vec::new(), VecDeque::new());
        for (message, is_held) in std::mem::take(&mut self.messages).into_iter().zip(is_held) {
            if is_held {
                rest.push_back(message);
            } else {
                self.forget(&message);
                unheld.push(message);
            }
        }
        self.messages = rest;
        unheld
    }

    /// Puts messages back in front of the others, where they were taken from.
    pub fn put_back(&mut self, messages: impl DoubleEndedIterator<Item = WaitingMessage>) {
        for message in messages.rev() {
            self.bytes += message.cost_bytes();
            if let Some(topic) = &message.topic {
                *self.by_topic.entry(Rc::clone(topic)).or_default() += 1;
            }
            self.messages.push_front(message);
        }
    }

    /// Messages that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether no message waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, bytes: usize) -> WaitingMessage {
        WaitingMessage {
            topic: Some(topic.into()),
            is_join: false,
            is_binary: false,
            bytes: vec![0; bytes].into(),
        }
    }

    #[test]
    fn waiting_messages_keep_their_order() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.push(message("a", 1)), Inbound::Wait);
        assert_eq!(waiting.push(message("b", 2)), Inbound::Wait);
        assert!(waiting.holds("a") && waiting.holds("b") && !waiting.holds("c"));
        assert_eq!(waiting.pop().map(|message| message.bytes.len()), Some(1));
        assert_eq!(waiting.pop().map(|message| message.bytes.len()), Some(2));
        assert!(waiting.is_empty() && waiting.bytes == 0 && !waiting.holds("a"));
    }

    #[test]
    fn a_refused_join_holds_only_joins_and_what_follows_them() {
        let mut waiting = Waiting {
            refusal: Some(WaitingRefusal {
                topic: Some("r".into()),
                frames: Vec::new(),
                closes_socket: false,
            }),
            ..Waiting::default()
        };
        for (topic, bytes, is_join) in [
            ("a", 1, false),
            ("b", 2, true),
            ("b", 3, false),
            ("a", 4, false),
            ("a", 5, true),
            ("a", 6, false),
            ("r", 7, false),
        ] {
            let message = WaitingMessage {
                is_join,
                ..message(topic, bytes)
            };
            assert_eq!(waiting.push(message), Inbound::Wait);
        }
        let numbers = |message: WaitingMessage| message.bytes.len();
        let unheld = waiting.take_unheld();
        waiting.put_back(unheld.into_iter());
        assert!(waiting.take_unheld().into_iter().map(numbers).eq([1, 4]));
        assert!(waiting.holds("a") && waiting.holds("b"));
        let rest: Vec<_> = std::iter::from_fn(|| waiting.pop()).map(numbers).collect();
        assert_eq!((rest, waiting.bytes), (vec![2, 3, 5, 6, 7], 0));
    }

    #[test]
    fn number_and_bytes_are_bounded() {
        let mut waiting = Waiting::default();
        for _ in 0..limits::WAITING_MESSAGES_MAX {
            assert_eq!(waiting.push(message("a", 1)), Inbound::Wait);
        }
        assert_eq!(waiting.push(message("a", 1)), Inbound::Full);
        assert_eq!(
            Waiting::default().push(message("a", limits::WAITING_BYTES_MAX)),
            Inbound::Full
        );
    }
}
