//! What broadcasting from a database has done so far, and how far it is behind.

use super::row::Dropped;
use std::cell::Cell;

/// How far the stream is behind its database.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Lag {
    /// Bytes of the write-ahead log between what was said and its end, when they were last looked at.
    pub bytes: u64,
    /// Milliseconds between the commit of the last transaction and when its last row was handed to the shards.
    pub ms: u64,
}

/// Counters of one tenant, since its session began.
#[derive(Debug, Default)]
pub struct Measures {
    /// Rows that were handed to the shards.
    pub delivered: Cell<u64>,
    /// Those of them that were read from the table, since no stream had said them.
    pub read_from_table: Cell<u64>,
    /// Rows that came too late to be broadcast: see [`limits::BROADCAST_CATCH_UP_AGE_MAX`](crate::limits::BROADCAST_CATCH_UP_AGE_MAX).
    pub too_old: Cell<u64>,
    /// Streams that were started.
    pub streams: Cell<u64>,
    /// How far the stream is behind.
    pub lag: Cell<Lag>,
    dropped: [Cell<u64>; Dropped::ALL.len()],
}

impl Measures {
    /// Counts a row that is not broadcast.
    pub fn count_drop(&self, reason: Dropped) {
        let count = &self.dropped[reason as usize];
        count.set(count.get() + 1);
    }

    /// Rows that were not broadcast for this reason.
    #[must_use]
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped[reason as usize].get()
    }
}
