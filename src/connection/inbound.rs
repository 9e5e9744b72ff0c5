//! What comes into a socket: messages that are handled at once, and those that wait behind something that is not decided yet.
//!
//! The joins of one socket are decided one after another, and an error reply comes 5 s after its join (spec: websocket-protocol 4.1).
//! Heartbeats and other topics go on meanwhile; what must not overtake waits here: further joins, and messages on topics whose
//! join, or whose question to the tenant's database, waits. What always holds: waiting messages keep their order, and both their number and their bytes are bounded.

use super::{Extra, Flags, RawJson, Token};
use crate::limits;
use crate::mail::{TopicRef, Verdict};
use crate::phoenix::Message;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

/// Clients choose the names of topics, so their hashes are seeded.
type ByTopic<V> = HashMap<Rc<str>, V, foldhash::fast::RandomState>;

/// The join, leave or question that a socket waits for, and what waits behind it.
#[derive(Debug, Default)]
pub struct Waiting {
    /// A join that has passed the checks of its shard.
    pub joining: Option<Joining>,
    /// A question about a joined channel.
    pub asked: Option<Box<Asked>>,
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

/// A join on its way.
#[derive(Debug)]
pub struct Joining {
    /// What it waits for.
    pub stage: Stage,
    /// What comes of it.
    pub join: PendingJoin,
}

/// What a join waits for, in this order. Public topics of a tenant whose database is connected have the second stage alone.
#[derive(Copy, Clone, Debug)]
pub enum Stage {
    /// The tenant's database: whether it can be reached, and what its policies say.
    Asking(QuestionRef),
    /// The owner of the topic, by its name in this shard's registry.
    Subscribing(TopicRef),
    /// The messages that were kept. From now on nothing that is published gets past the member to be.
    Replaying(TopicRef, QuestionRef),
}

/// An open question to the control core.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct QuestionRef {
    /// Its number.
    pub number: u32,
    /// The second of unix time in which it is given up.
    pub due: u32,
}

/// A question about a joined channel. What is sent on its topic meanwhile waits.
#[derive(Debug)]
pub struct Asked {
    /// The question.
    pub question: QuestionRef,
    /// The channel's topic.
    pub topic: TopicRef,
    /// The same as clients write it.
    pub text: Box<str>,
    /// What the answer is for.
    pub purpose: Purpose,
}

/// What the answer to a question about a channel is for.
#[derive(Debug)]
pub enum Purpose {
    /// This message, the first that needs to know what may be written, is handled.
    Write(WaitingMessage),
    /// The channel has a new token: it may read less than before, or more.
    Refresh,
}

/// Whom a reply to a join is for: parts of its message.
#[derive(Debug)]
pub struct Address {
    /// The topic, as the client writes it.
    pub topic: Box<str>,
    /// The same as raw JSON.
    pub topic_json: Box<str>,
    /// Raw JSON, as sent.
    pub join_ref: Box<str>,
    /// Raw JSON.
    pub msg_ref: Box<str>,
}

impl Address {
    /// Of a message whose topic is this text.
    #[must_use]
    pub fn of(topic: &str, message: &Message<'_>) -> Self {
        Self {
            topic: topic.into(),
            topic_json: (*message.topic.raw).into(),
            join_ref: (*message.join_ref).into(),
            msg_ref: (*message.msg_ref).into(),
        }
    }
}

/// A join that has passed the checks of its shard: what the channel will be, and what its socket gets to read.
#[derive(Debug)]
pub struct PendingJoin {
    /// Whom the reply is for.
    pub address: Address,
    /// Whether the topic is a private one.
    pub private: bool,
    /// `replay` of the join, raw JSON.
    pub replay: Option<Box<str>>,
    /// What the policies of a private topic allow.
    pub verdict: Verdict,
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
    /// When it came, in milliseconds since 1970.
    pub asked_unix_ms: u64,
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

impl Stage {
    /// The question that is open in this stage.
    #[must_use]
    pub fn question(&self) -> Option<QuestionRef> {
        match self {
            Self::Asking(question) | Self::Replaying(_, question) => Some(*question),
            Self::Subscribing(_) => None,
        }
    }
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

    /// The open question that is given up first.
    #[must_use]
    pub fn first_question(&self) -> Option<QuestionRef> {
        let of_join = self
            .joining
            .as_ref()
            .and_then(|joining| joining.stage.question());
        let of_channel = self.asked.as_ref().map(|asked| asked.question);
        [of_join, of_channel]
            .into_iter()
            .flatten()
            .min_by_key(|question| question.due)
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
