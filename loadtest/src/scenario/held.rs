//! Joined sockets that are only held: nobody waits for what they get, but it is looked at in the end, and at each heartbeat.
//!
//! In: sockets that have joined. Out: [`Found`]: which of them the server has ended, which were answered twice.
//! Always holds: an end counts once, and an end that we made ourselves never.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::alive::{Crowd, Kept};
use crate::dialect::{self, Answer, Dialect};
use crate::link::Link;
use crate::member::{Reader, Sink};
use crate::report::Run;
use crate::stamp::Stamp;

use super::fanout;
use super::readers::RECEIVE_BYTES;

/// Answers to a join beyond the first.
pub(super) const ANSWERED_TWICE: &str = "answered twice";

/// Problems that are kept; all are counted.
const PROBLEMS_MAX: usize = 100;

/// The sockets of one thread, the oldest first.
pub(super) struct Holding {
    dialect: Dialect,
    held: RefCell<VecDeque<Held>>,
    buffer: RefCell<Vec<u8>>,
    found: RefCell<Found>,
    is_over: Cell<bool>,
}

struct Held {
    link: Rc<Link>,
    reader: Reader,
    has_ended: bool,
}

/// What is wrong with sockets that should only be there.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Connections and channels that the server has ended.
    closed: u64,
    /// Answers to a join beyond the first.
    twice: u64,
    kept: Kept,
    problems: Vec<String>,
}

impl Holding {
    /// Of a server that speaks like this.
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            held: RefCell::default(),
            buffer: RefCell::new(vec![0; RECEIVE_BYTES]),
            found: RefCell::default(),
            is_over: Cell::new(false),
        }
    }

    /// Holds a socket; `rest` came behind the answer to its join.
    pub(super) fn hold(&self, link: Link, rest: &[u8]) {
        let mut held = Held {
            link: Rc::new(link),
            reader: Reader::default(),
            has_ended: false,
        };
        self.read(&mut held, rest);
        self.held.borrow_mut().push_back(held);
    }

    /// Gives the oldest one away, when there are more than `most`.
    pub(super) fn release(&self, most: usize) -> Option<Rc<Link>> {
        let mut held = self.held.borrow_mut();
        let mut oldest = (held.len() > most).then(|| held.pop_front())??;
        drop(held);
        self.look(&mut oldest);
        Some(oldest.link)
    }

    /// Ends all of them as a network does: nobody says goodbye.
    pub(super) fn cut(&self) {
        let held = self.held.take();
        for mut held in held {
            self.look(&mut held);
            self.found.borrow_mut().kept.unanswered += u64::from(held.link.is_overdue());
            held.link.shut_down();
        }
    }

    /// Nobody has to be kept any more.
    pub(super) fn end(&self) {
        self.is_over.set(true);
    }

    /// Notes that a join was answered once more.
    pub(super) fn answered_again(&self, times: u64) {
        self.found.borrow_mut().twice += times;
    }

    pub(super) fn problem(&self, problem: String) {
        self.found.borrow_mut().problem(problem);
    }

    /// All that was found, with what keeping them alive has shown.
    pub(super) fn take(&self, kept: Kept) -> Found {
        let mut found = self.found.take();
        found.kept.renewed += kept.renewed;
        found.kept.unanswered += kept.unanswered;
        found
    }

    /// Takes what has come to a socket, as far as it is there.
    fn look(&self, held: &mut Held) {
        let mut buffer = self.buffer.borrow_mut();
        while !held.has_ended {
            let kept = held.reader.begin(&mut buffer);
            match held.link.receive(&mut buffer[kept..]) {
                Ok(0) => self.ended(held, "connection ended without a close frame".to_owned()),
                Ok(count) => self.read(held, &buffer[..kept + count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return self.read(held, &buffer[..kept]);
                }
                Err(error) => self.ended(held, format!("receive: {error}")),
            }
        }
    }

    fn read(&self, held: &mut Held, bytes: &[u8]) {
        let mut found = self.found.borrow_mut();
        let mut ears = Ears {
            dialect: self.dialect,
            link: &held.link,
            found: &mut found,
        };
        let outcome = held.reader.read(bytes, &mut ears);
        drop(found);
        if let Err(problem) = outcome {
            self.ended(held, problem);
        }
    }

    fn ended(&self, held: &mut Held, problem: String) {
        held.has_ended = true;
        let mut found = self.found.borrow_mut();
        found.closed += 1;
        found.problem(problem);
    }
}

impl Crowd for Holding {
    fn link(&self, index: usize) -> Option<Rc<Link>> {
        let mut held = self.held.borrow_mut();
        let held = held.get_mut(index)?;
        // An answer to the heartbeat before may have come.
        self.look(held);
        (!held.has_ended).then(|| Rc::clone(&held.link))
    }

    fn count(&self) -> usize {
        self.held.borrow().len()
    }

    fn is_over(&self) -> bool {
        self.is_over.get()
    }
}

impl Found {
    fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    /// Adds what another thread has found.
    pub(super) fn add(&mut self, other: Self) {
        self.closed += other.closed;
        self.twice += other.twice;
        self.kept.renewed += other.kept.renewed;
        self.kept.unanswered += other.kept.unanswered;
        self.problems.extend(other.problems);
    }

    /// Adds it to what is reported.
    pub(super) fn describe(self, run: &mut Run) {
        run.problems.extend(self.problems);
        run.push_count(ANSWERED_TWICE, self.twice, "joins were answered twice");
        let Kept {
            renewed,
            unanswered,
        } = self.kept;
        fanout::push_kept(self.closed, unanswered, renewed, run);
    }
}

/// What is heard at a socket that was only to be there.
struct Ears<'a> {
    dialect: Dialect,
    link: &'a Link,
    found: &'a mut Found,
}

impl Sink for Ears<'_> {
    fn on_stamp(&mut self, _: Stamp) {}

    fn on_text(&mut self, text: &[u8]) {
        if self.dialect.is_heartbeat_reply(text) {
            self.link.answered();
        } else if self.dialect.answer(text) == Answer::Ok {
            // Each join has had its answer, and nothing else is asked.
            self.found.twice += 1;
        } else if self.dialect.is_bad_news(text) {
            self.found.closed += u64::from(dialect::says_closed(text));
            let text = String::from_utf8_lossy(text);
            self.found.problem(format!("the server said: {text}"));
        }
    }

    fn on_ping(&mut self, _: &[u8]) {}

    fn on_pong(&mut self) {
        self.link.answered();
    }
}
