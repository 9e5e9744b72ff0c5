//! Between the task that reads and whoever takes its words.
//!
//! What comes in: words in their order, and how far they were dispatched. What goes out: the same words, without those that are done. What
//! always holds: changes wait in bounded numbers and bytes ([`limits::CHANGES_WORDS_WAITING_MAX`],
//! [`limits::CHANGES_WORDS_WAITING_BYTES_MAX`]); words about the source itself are few and never wait for room; a word that is done is
//! not handed out again (`what_is_done_is_not_said_again`). Deliberately absent: the database.

use super::place::{Place, is_counted};
use super::{Measures, Word};
use crate::control::replication::Lsn;
use crate::limits;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::Notify;

/// See the room's documentation.
pub(super) struct Queue {
    words: RefCell<VecDeque<Word>>,
    bytes: Cell<usize>,
    /// The furthest place that was dispatched.
    done: Cell<Place>,
    /// Which slot the words of now are from.
    life: Cell<u32>,
    /// Its reader is gone: nothing comes any more.
    is_closed: Cell<bool>,
    came: Notify,
    taken: Notify,
    confirmed: Notify,
    measures: Rc<Measures>,
}

impl Queue {
    pub(super) fn new(measures: Rc<Measures>) -> Self {
        Self {
            words: RefCell::default(),
            bytes: Cell::default(),
            done: Cell::default(),
            life: Cell::default(),
            is_closed: Cell::default(),
            came: Notify::new(),
            taken: Notify::new(),
            confirmed: Notify::new(),
            measures,
        }
    }

    // -- the reader's side --

    /// A new slot begins.
    pub(super) fn begin_life(&self, position: Lsn) {
        self.life.set(self.life.get() + 1);
        self.done.set(Place::start(self.life.get(), position));
    }

    /// Where the words go on when a connection is restored: behind what is done. A position that is passed before the next transaction
    /// begins is behind the last one, as it was before the break.
    pub(super) fn resume(&self) -> Place {
        self.done.get()
    }

    /// Hands a word about the source over, at once.
    pub(super) fn tell(&self, word: Word) {
        self.push(word);
    }

    /// Hands a change over, when there is room for it.
    pub(super) async fn say(&self, word: Word) {
        while self.is_full() {
            self.taken.notified().await;
        }
        self.push(word);
    }

    /// Whether changes wait for whoever takes them.
    pub(super) fn is_full(&self) -> bool {
        self.words.borrow().len() >= limits::CHANGES_WORDS_WAITING_MAX
            || self.bytes.get() >= limits::CHANGES_WORDS_WAITING_BYTES_MAX
    }

    fn push(&self, word: Word) {
        let mut words = self.words.borrow_mut();
        if matches!(
            (&word, words.back()),
            (Word::Passed(..), Some(Word::Passed(..)))
        ) {
            words.pop_back();
        }
        self.bytes.set(self.bytes.get() + size(&word));
        words.push_back(word);
        self.came.notify_one();
    }

    /// Everything before this position is done.
    pub(super) fn position_done(&self) -> Lsn {
        self.done.get().confirms()
    }

    /// Returns when more is done than when this was called last.
    pub(super) async fn more_is_done(&self) {
        self.confirmed.notified().await;
    }

    /// Returns when everything before `position` is done.
    pub(super) async fn reaches(&self, position: Lsn) {
        while self.position_done() < position {
            self.confirmed.notified().await;
        }
    }

    /// Nothing comes any more.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        self.came.notify_one();
    }

    // -- the other side --

    /// Everything up to `place` was dispatched. What a slot has said that is none any more says nothing about the current one.
    pub(super) fn done(&self, place: Place) {
        let before = self.done.get();
        if place.life != before.life {
            return;
        }
        // A connection that was restored counts from what was done then. What was in hand may have been done since, and the database
        // may not say it again: a position that is passed next confirms what it says, though its place is an earlier one.
        let after = before.with(place);
        self.done.set(after);
        if after.confirms() > before.confirms() {
            self.confirmed.notify_one();
        }
    }

    /// What comes next. Forgets nothing when it is dropped.
    ///
    /// # Panics
    ///
    /// When its reader has ended, which it does only by a panic of its own.
    pub(super) async fn next(&self) -> Word {
        loop {
            if let Some(word) = self.ready() {
                return word;
            }
            assert!(!self.is_closed.get(), "the reader of row changes has ended");
            self.came.notified().await;
        }
    }

    /// What is there already.
    pub(super) fn ready(&self) -> Option<Word> {
        loop {
            let word = self.words.borrow_mut().pop_front()?;
            self.bytes.set(self.bytes.get() - size(&word));
            if !self.is_full() {
                self.taken.notify_one();
            }
            if self.is_done(&word) {
                self.measures.skipped.set(self.measures.skipped.get() + 1);
            } else {
                return Some(word);
            }
        }
    }

    fn is_done(&self, word: &Word) -> bool {
        let done = self.done.get();
        match word {
            Word::Begin(begin) => done.has_passed(self.life.get(), begin.commit_lsn),
            Word::Message(bytes, place) => is_counted(bytes) && place.is_done_at(&done),
            Word::Commit(_, place) => place.is_done_at(&done),
            Word::Up { .. } | Word::Passed(..) | Word::Gap(_) | Word::Down(_) => false,
        }
    }
}

/// What a word counts for, beside its place in the queue.
fn size(word: &Word) -> usize {
    match word {
        Word::Message(bytes, _) => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::replication::pgoutput::{Begin, Commit};
    use bytes::Bytes;

    fn queue() -> Queue {
        Queue::new(Rc::default())
    }

    /// A transaction of so many inserts, with the table before them.
    fn transaction(queue: &Queue, place: &mut Place, commit: u64, rows: usize) {
        let begin = Begin {
            commit_lsn: Lsn(commit),
            committed_at_us: 0,
            xid: 1,
        };
        place.begin(&begin);
        queue.tell(Word::Begin(begin));
        for row in 0..=rows {
            let bytes = Bytes::from_static(if row == 0 { b"R" } else { b"I" });
            place.message(&bytes);
            queue.tell(Word::Message(bytes, *place));
        }
        let commit = Commit {
            lsn: Lsn(commit),
            end: Lsn(commit + 8),
            committed_at_us: 0,
        };
        place.commit(&commit);
        queue.tell(Word::Commit(commit, *place));
    }

    fn drain(queue: &Queue) -> (String, Vec<Place>) {
        let (mut text, mut places) = (String::new(), Vec::new());
        while let Some(word) = queue.ready() {
            match word {
                Word::Begin(_) => text.push('B'),
                Word::Message(bytes, place) => {
                    text.push(char::from(bytes[0]));
                    places.push(place);
                }
                Word::Commit(_, place) => {
                    text.push('C');
                    places.push(place);
                }
                Word::Passed(_, place) => {
                    text.push('P');
                    places.push(place);
                }
                Word::Up { .. } => text.push('U'),
                Word::Gap(_) => text.push('G'),
                Word::Down(_) => text.push('D'),
            }
        }
        (text, places)
    }

    #[test]
    fn what_is_done_is_not_said_again() {
        let queue = queue();
        queue.begin_life(Lsn(1));
        let start = queue.resume();
        let say = || {
            let mut place = start;
            transaction(&queue, &mut place, 100, 2);
            transaction(&queue, &mut place, 200, 3);
        };
        say();
        let (text, places) = drain(&queue);
        assert_eq!(text, "BRIICBRIIIC");
        // Nothing is done: all of it comes again.
        say();
        assert_eq!(drain(&queue).0, "BRIICBRIIIC");
        // Half of the second transaction is; tables are always said.
        queue.done(places[6]);
        say();
        assert_eq!(drain(&queue).0, "RBRIC");
        assert_eq!(queue.position_done(), Lsn(108));
        queue.done(places[8]);
        say();
        assert_eq!(drain(&queue).0, "RR");
        assert_eq!(queue.position_done(), Lsn(208));
        // Older places take nothing back.
        queue.done(places[0]);
        assert_eq!(queue.position_done(), Lsn(208));
        // Of a new slot nothing is done, wherever the log of its database is.
        queue.begin_life(Lsn(5));
        let mut place = queue.resume();
        transaction(&queue, &mut place, 50, 1);
        queue.done(places[8]);
        assert_eq!(queue.position_done(), Lsn(5));
        assert_eq!(drain(&queue).0, "BRIC");
    }

    #[test]
    fn positions_that_were_passed_are_said_once() {
        let queue = queue();
        queue.begin_life(Lsn(1));
        let mut place = queue.resume();
        for position in 2..5 {
            place.pass(Lsn(position));
            queue.tell(Word::Passed(Lsn(position), place));
        }
        let (text, places) = drain(&queue);
        assert_eq!(text, "P");
        queue.done(places[0]);
        assert_eq!(queue.position_done(), Lsn(4));
    }

    #[test]
    fn positions_that_are_passed_behind_a_break_confirm() {
        let queue = queue();
        queue.begin_life(Lsn(1));
        let mut place = queue.resume();
        transaction(&queue, &mut place, 100, 1);
        transaction(&queue, &mut place, 200, 1);
        let places = drain(&queue).1;
        queue.done(places[2]);
        assert_eq!(queue.position_done(), Lsn(108));
        // A new connection: nothing is published, others write.
        let mut restored = queue.resume();
        restored.pass(Lsn(150));
        queue.done(restored);
        assert_eq!(queue.position_done(), Lsn(150));
        // What was in hand when it broke is done only now.
        queue.done(places[5]);
        assert_eq!(queue.position_done(), Lsn(208));
        restored.pass(Lsn(300));
        queue.done(restored);
        assert_eq!(queue.position_done(), Lsn(300));
        // That takes nothing back of what is done.
        transaction(&queue, &mut restored, 200, 1);
        assert_eq!(drain(&queue).0, "R");
    }

    #[tokio::test]
    async fn changes_wait_within_bounds() {
        let queue = queue();
        queue.begin_life(Lsn(1));
        let start = queue.resume();
        let large = Bytes::from(vec![b'R'; limits::CHANGES_WORDS_WAITING_BYTES_MAX]);
        queue.say(Word::Message(large, start)).await;
        assert!(queue.is_full());
        let small = || Word::Message(Bytes::from_static(b"R"), start);
        {
            let mut waiting = Box::pin(queue.say(small()));
            let waits = std::future::poll_fn(|context| {
                std::task::Poll::Ready(waiting.as_mut().poll(context).is_pending())
            });
            assert!(waits.await);
            // News of the source do not wait.
            queue.tell(Word::Down(String::new()));
            assert!(queue.ready().is_some());
            waiting.await;
        }
        assert_eq!(drain(&queue).0, "DR");
        for _ in 0..limits::CHANGES_WORDS_WAITING_MAX {
            queue.say(small()).await;
        }
        assert!(queue.is_full());
    }
}
