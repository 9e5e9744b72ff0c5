//! Which rows have been delivered: so that each is, and once.
//!
//! What comes in: the rows that are delivered, from the stream or from the table, and [`Snapshot`]s. What goes out: whether a row is
//! new. What always holds: a row of a transaction that was not over in [`Ledger::since`] is new exactly once
//! (`each_row_is_new_once`); what is remembered has a bound, [`limits::BROADCAST_REMEMBERED_MAX`]. Deliberately absent: asking the
//! database.
//!
//! Everything that was over in `since` counts as delivered; of what came after, the rows are remembered one by one. To forget some of
//! them `since` is moved on:
//!
//! ```text
//! stream   ── rows ──┤ rotate ├── rows ── … ── passed the snapshot's position: the rows before `rotate` are forgotten
//!                      take a snapshot
//! table    take a snapshot, read what is visible: rows of transactions that are over in it are forgotten
//! ```
//!
//! A stream can say a row before others see it, so rows of transactions that the snapshot does not call over are kept.

use super::row::Key;
use super::snapshot::Snapshot;
use crate::control::replication::Lsn;
use crate::limits;
use rustc_hash::{FxHashMap, FxHashSet};

/// See the room's documentation.
#[derive(Debug, Default)]
pub struct Ledger {
    since: Snapshot,
    /// Rows that the stream said since the last rotation.
    recent: Streamed,
    /// Rows that it said before.
    older: Streamed,
    /// Rows that were read from the table, with the transactions that wrote them.
    read: FxHashMap<Key, u32>,
    /// What replaces `since` when the stream has passed its position.
    next: Option<Snapshot>,
    /// The transaction that the stream is saying.
    saying: Option<u32>,
    /// A slot is being made: it may stand before rows that are read meanwhile, so none of them is forgotten.
    is_held: bool,
}

#[derive(Debug, Default)]
struct Streamed {
    rows: FxHashSet<Key>,
    /// The top-level transactions that wrote them.
    xids: Vec<u32>,
}

/// A row that was delivered before, or not.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Novelty {
    /// It is to be delivered.
    New,
    /// It was delivered.
    Known,
}

impl Ledger {
    /// A ledger of everything after this.
    #[must_use]
    pub fn new(since: Snapshot) -> Self {
        Self {
            since,
            ..Self::default()
        }
    }

    /// What is not over in this is to be read from the table after a break.
    #[must_use]
    pub fn since(&self) -> &Snapshot {
        &self.since
    }

    /// The stream begins a transaction. What follows of it is remembered under this id.
    pub fn begin(&mut self, xid: u32) {
        self.saying = Some(xid);
    }

    /// The stream says a row.
    #[must_use]
    pub fn stream(&mut self, key: Key) -> Novelty {
        if self.older.rows.contains(&key) || self.read.contains_key(&key) {
            return Novelty::Known;
        }
        if !self.recent.rows.insert(key) {
            return Novelty::Known;
        }
        // Not before: PostgreSQL 14 begins transactions that say nothing as well.
        if let Some(xid) = self.saying
            && self.recent.xids.last() != Some(&xid)
        {
            self.recent.xids.push(xid);
        }
        Novelty::New
    }

    /// The table shows a row that the transaction `xid` wrote.
    #[must_use]
    pub fn read(&mut self, key: Key, xid: u32) -> Novelty {
        let is_known = self.recent.rows.contains(&key) || self.older.rows.contains(&key);
        if is_known || self.read.insert(key, xid).is_some() {
            Novelty::Known
        } else {
            Novelty::New
        }
    }

    /// Rows that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.recent.rows.len() + self.older.rows.len() + self.read.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all rows when they are too many. Returns how many they were: after a break, these may be delivered again.
    #[must_use]
    pub fn limit(&mut self) -> Option<usize> {
        let count = self.len();
        if count <= limits::BROADCAST_REMEMBERED_MAX {
            return None;
        }
        self.recent = Streamed::default();
        self.older = Streamed::default();
        self.read = FxHashMap::default();
        Some(count)
    }

    /// Before a snapshot is taken to move on by, while a stream runs.
    pub fn rotate(&mut self) {
        let recent = std::mem::take(&mut self.recent);
        if self.older.rows.is_empty() && self.older.xids.is_empty() {
            self.older = recent;
        } else {
            self.older.rows.extend(recent.rows);
            self.older.xids.extend(recent.xids);
        }
    }

    /// Moves on by this snapshot as soon as the stream has passed its position. False when it does not see yet what the stream has
    /// said: another one has to be taken later.
    pub fn move_on(&mut self, snapshot: Snapshot) -> bool {
        let sees_all = self.older.xids.iter().all(|xid| snapshot.is_over(*xid));
        if sees_all {
            self.next = Some(snapshot);
        }
        sees_all
    }

    /// Whether a snapshot waits for the stream.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.next.is_some()
    }

    /// The stream has said everything before this position.
    pub fn passed(&mut self, position: Lsn) {
        if let Some(next) = self.next.take_if(|next| next.position() <= position) {
            self.older = Streamed::default();
            self.read.retain(|_, xid| !next.is_over(*xid));
            self.since = next;
        }
    }

    /// The table was read in a state that shows everything that is over in `snapshot`.
    pub fn was_read(&mut self, snapshot: Snapshot) {
        if !self.since.is_before(&snapshot) {
            // Another history: nothing that is known is true of it.
            *self = Self {
                saying: self.saying,
                is_held: self.is_held,
                ..Self::new(snapshot)
            };
            return;
        }
        for streamed in [&mut self.recent, &mut self.older] {
            if streamed.xids.iter().all(|xid| snapshot.is_over(*xid)) {
                *streamed = Streamed::default();
            }
        }
        if !self.is_held {
            self.read.retain(|_, xid| !snapshot.is_over(*xid));
        }
        self.since = snapshot;
    }

    /// The stream has ended: a snapshot that waited for it waits in vain.
    pub fn stream_ended(&mut self) {
        self.next = None;
        self.saying = None;
    }

    /// Whether a slot is being made: from before its request to when its stream runs, or the attempt has failed.
    pub fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::snapshot;
    use super::*;
    use uuid::Uuid;

    fn key(n: u128) -> Key {
        Key {
            id: Uuid::from_u128(n),
            inserted_at_us: 0,
        }
    }

    #[test]
    fn each_row_is_new_once() {
        let mut ledger = Ledger::new(snapshot(10, &[], 0));
        ledger.begin(11);
        assert_eq!(ledger.stream(key(1)), Novelty::New);
        assert_eq!(ledger.stream(key(1)), Novelty::Known);
        assert_eq!(ledger.read(key(1), 12), Novelty::Known);
        assert_eq!(ledger.read(key(2), 12), Novelty::New);
        assert_eq!(ledger.read(key(2), 12), Novelty::Known);
        assert_eq!(ledger.stream(key(2)), Novelty::Known);
        ledger.rotate();
        assert_eq!(ledger.stream(key(1)), Novelty::Known);
        assert_eq!(ledger.read(key(1), 12), Novelty::Known);
        let later = Key {
            inserted_at_us: 1,
            ..key(1)
        };
        assert_eq!(ledger.stream(later), Novelty::New);
    }

    #[test]
    fn rows_are_forgotten_when_the_stream_has_passed_the_snapshot() {
        let mut ledger = Ledger::new(snapshot(10, &[], 0));
        ledger.begin(11);
        assert_eq!(ledger.stream(key(1)), Novelty::New);
        ledger.rotate();
        assert!(ledger.move_on(snapshot(20, &[], 100)));
        assert_eq!(ledger.stream(key(2)), Novelty::New);
        ledger.passed(Lsn(99));
        assert_eq!((ledger.len(), ledger.since()), (2, &snapshot(10, &[], 0)));
        ledger.passed(Lsn(100));
        assert_eq!((ledger.len(), ledger.since()), (1, &snapshot(20, &[], 100)));
        assert_eq!(ledger.stream(key(2)), Novelty::Known);
    }

    #[test]
    fn snapshot_that_does_not_see_a_streamed_transaction_moves_nothing() {
        let mut ledger = Ledger::new(snapshot(10, &[], 0));
        ledger.begin(11);
        assert_eq!(ledger.stream(key(1)), Novelty::New);
        ledger.rotate();
        assert!(!ledger.move_on(snapshot(20, &[11], 100)));
        ledger.passed(Lsn(1000));
        assert_eq!(ledger.since(), &snapshot(10, &[], 0));
        // The next one sees it.
        ledger.rotate();
        assert!(ledger.move_on(snapshot(30, &[], 200)));
        ledger.passed(Lsn(200));
        assert!(ledger.is_empty());
    }

    #[test]
    fn transaction_that_is_being_said_is_kept_whole_across_a_rotation() {
        let mut ledger = Ledger::new(snapshot(10, &[], 0));
        ledger.begin(11);
        assert_eq!(ledger.stream(key(1)), Novelty::New);
        ledger.rotate();
        assert_eq!(ledger.stream(key(2)), Novelty::New);
        ledger.rotate();
        assert!(!ledger.move_on(snapshot(20, &[11], 100)));
        ledger.was_read(snapshot(20, &[11], 100));
        assert_eq!(ledger.read(key(1), 11), Novelty::Known);
        assert_eq!(ledger.read(key(2), 12), Novelty::Known);
    }

    #[test]
    fn reading_forgets_what_is_over() {
        let mut ledger = Ledger::new(snapshot(10, &[], 0));
        ledger.begin(11);
        assert_eq!(ledger.stream(key(1)), Novelty::New);
        assert_eq!(ledger.read(key(2), 12), Novelty::New);
        assert_eq!(ledger.read(key(3), 25), Novelty::New);
        ledger.was_read(snapshot(20, &[], 0));
        assert_eq!(ledger.len(), 1);
        assert_eq!(ledger.read(key(3), 25), Novelty::Known);
    }

    #[test]
    fn rows_read_while_a_slot_is_made_are_known_to_its_stream() {
        let mut ledger = Ledger::new(snapshot(10, &[], 0));
        ledger.hold(true);
        assert_eq!(ledger.read(key(1), 12), Novelty::New);
        ledger.was_read(snapshot(20, &[], 0));
        assert_eq!(ledger.stream(key(1)), Novelty::Known);
        ledger.hold(false);
        ledger.was_read(snapshot(20, &[], 0));
        assert!(ledger.is_empty());
    }

    #[test]
    fn transactions_that_say_nothing_are_not_remembered() {
        let mut ledger = Ledger::new(snapshot(10, &[], 0));
        let remembered = |ledger: &Ledger| ledger.recent.xids.len() + ledger.older.xids.len();
        for xid in 11..100 {
            ledger.begin(xid);
        }
        assert_eq!(remembered(&ledger), 0);
        assert_eq!(ledger.stream(key(1)), Novelty::New);
        assert_eq!(ledger.stream(key(2)), Novelty::New);
        assert_eq!(remembered(&ledger), 1);
        ledger.rotate();
        ledger.begin(100);
        assert_eq!(ledger.stream(key(1)), Novelty::Known);
        assert_eq!(remembered(&ledger), 1);
        // The last one that said something is what a snapshot has to see.
        assert!(!ledger.move_on(snapshot(200, &[99], 1)));
        assert!(ledger.move_on(snapshot(200, &[100], 1)));
    }

    #[test]
    fn another_history_starts_over() {
        let mut ledger = Ledger::new(snapshot(1000, &[], 0));
        assert_eq!(ledger.read(key(1), 1001), Novelty::New);
        ledger.was_read(snapshot(20, &[], 0));
        assert_eq!((ledger.len(), ledger.since()), (0, &snapshot(20, &[], 0)));
    }

    #[test]
    fn too_many_rows_are_forgotten_at_once() {
        let mut ledger = Ledger::new(snapshot(10, &[], 0));
        for n in 0..limits::BROADCAST_REMEMBERED_MAX {
            assert_eq!(ledger.stream(key(n as u128)), Novelty::New);
        }
        assert_eq!(ledger.limit(), None);
        assert_eq!(ledger.read(key(u128::MAX), 11), Novelty::New);
        assert_eq!(ledger.limit(), Some(limits::BROADCAST_REMEMBERED_MAX + 1));
        assert!(ledger.is_empty());
    }
}
