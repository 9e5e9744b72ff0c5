//! How far the words of a source have come.
//!
//! What comes in: what a stream says. What goes out: a [`Place`] for each word, which says what was said before it. What always holds:
//! decoding the same log again gives the same places, since PostgreSQL says transactions in the order of their commits and decodes
//! each by the catalog of its time (`places_are_the_same_when_a_transaction_comes_again`). Deliberately absent: which of them are done.

use crate::control::replication::Lsn;
use crate::control::replication::pgoutput::{Begin, Commit};

/// Where a word of a source stands. Later places of one slot are greater.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Place {
    /// Which of the source's slots, counted from 1.
    pub(super) life: u32,
    /// Where the commit of the transaction stands.
    commit: Lsn,
    /// Row changes of it up to here; [`WHOLE`] when it is over.
    messages: u64,
    /// Once this place is done, everything before this position is.
    confirms: Lsn,
}

/// The messages of a transaction that is over.
const WHOLE: u64 = u64::MAX;

impl Place {
    /// Where a slot begins.
    #[must_use]
    pub(super) fn start(life: u32, position: Lsn) -> Self {
        Self {
            life,
            confirms: position,
            ..Self::default()
        }
    }

    /// The commit of the transaction that this place is in, or that was the last one.
    #[must_use]
    pub fn commit_lsn(&self) -> Lsn {
        self.commit
    }

    /// Once this place is done the database need not keep anything before this position.
    #[must_use]
    pub fn confirms(&self) -> Lsn {
        self.confirms
    }

    /// What is done where both of these are, of one slot: the later of them, and every position that either confirms.
    #[must_use]
    pub(super) fn with(self, other: Self) -> Self {
        Self {
            confirms: self.confirms.max(other.confirms),
            ..self.max(other)
        }
    }

    /// Whether everything up to this place is done where `done` is.
    #[must_use]
    pub(super) fn is_done_at(&self, done: &Self) -> bool {
        self.life == done.life && (self.commit, self.messages) <= (done.commit, done.messages)
    }

    /// Whether all of the transaction of this commit is done at this place.
    #[must_use]
    pub(super) fn has_passed(&self, life: u32, commit: Lsn) -> bool {
        self.life == life && (commit, WHOLE) <= (self.commit, self.messages)
    }

    pub(super) fn begin(&mut self, begin: &Begin) {
        self.commit = begin.commit_lsn;
        self.messages = 0;
    }

    pub(super) fn message(&mut self, bytes: &[u8]) {
        if is_counted(bytes) {
            self.messages += 1;
        }
    }

    pub(super) fn commit(&mut self, commit: &Commit) {
        self.commit = commit.lsn;
        self.messages = WHOLE;
        self.confirms = self.confirms.max(commit.end);
    }

    pub(super) fn pass(&mut self, position: Lsn) {
        self.confirms = self.confirms.max(position);
    }
}

/// Whether a message is a change, as opposed to what explains changes, which a new connection is told again.
#[must_use]
pub(super) fn is_counted(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(b'I' | b'U' | b'D' | b'T' | b'M'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(place: &mut Place, kinds: &[&[u8]]) -> Vec<Place> {
        let mut places = Vec::new();
        for kind in kinds {
            place.message(kind);
            places.push(*place);
        }
        places
    }

    fn begin(commit: u64) -> Begin {
        Begin {
            commit_lsn: Lsn(commit),
            committed_at_us: 0,
            xid: 1,
        }
    }

    fn commit(lsn: u64, end: u64) -> Commit {
        Commit {
            lsn: Lsn(lsn),
            end: Lsn(end),
            committed_at_us: 0,
        }
    }

    #[test]
    fn places_are_the_same_when_a_transaction_comes_again() {
        let mut first = Place::start(1, Lsn(10));
        first.begin(&begin(100));
        let before = play(&mut first, &[b"R", b"I", b"U"]);
        // A new connection is told of the table in another place.
        let mut second = Place::start(1, Lsn(10));
        second.pass(Lsn(20));
        second.begin(&begin(100));
        let again = play(&mut second, &[b"R", b"Y", b"I", b"R", b"U"]);
        assert!(again[2].is_done_at(&before[1]) && !again[4].is_done_at(&before[1]));
        assert!(again[4].is_done_at(&before[2]));
    }

    #[test]
    fn places_grow_and_confirm_what_is_before_them() {
        let mut place = Place::start(1, Lsn(10));
        let mut seen = vec![place];
        place.begin(&begin(100));
        seen.extend(play(&mut place, &[b"I", b"D"]));
        place.pass(Lsn(90));
        seen.push(place);
        place.commit(&commit(100, 108));
        seen.push(place);
        place.pass(Lsn(150));
        seen.push(place);
        place.begin(&begin(200));
        seen.extend(play(&mut place, &[b"T"]));
        assert!(seen.is_sorted());
        let confirms: Vec<u64> = seen.iter().map(|place| place.confirms().0).collect();
        assert_eq!(confirms, [10, 10, 10, 90, 108, 150, 150]);
    }

    #[test]
    fn a_transaction_is_passed_when_it_is_over() {
        let mut place = Place::start(1, Lsn(0));
        place.begin(&begin(100));
        place.message(b"I");
        assert!(place.has_passed(1, Lsn(99)));
        assert!(!place.has_passed(1, Lsn(100)));
        place.commit(&commit(100, 108));
        assert!(place.has_passed(1, Lsn(100)));
        assert!(!place.has_passed(2, Lsn(100)));
        assert!(!place.has_passed(1, Lsn(101)));
    }

    #[test]
    fn places_of_another_slot_say_nothing() {
        let mut old = Place::start(1, Lsn(0));
        old.begin(&begin(1000));
        old.commit(&commit(1000, 1008));
        let mut new = Place::start(2, Lsn(0));
        new.begin(&begin(100));
        assert!(!new.is_done_at(&old));
    }
}
