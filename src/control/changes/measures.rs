//! What delivering row changes has done so far, and how far it is behind.

use super::{source, visibility};
use std::cell::Cell;
use std::rc::Rc;

/// Why a change did not reach somebody who had asked for it, or anybody.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Dropped {
    /// The tenant's limit of database events was reached.
    RateLimited,
    /// Its table was gone when it was to be delivered.
    TableGone,
    /// It is no row of its table: the stream is not what it is taken for.
    Garbled,
    /// Whether a group of subscribers may see it could not be had.
    NoVerdict,
}

impl Dropped {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::RateLimited,
        Self::TableGone,
        Self::Garbled,
        Self::NoVerdict,
    ];

    /// Its name as a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::TableGone => "table_gone",
            Self::Garbled => "garbled",
            Self::NoVerdict => "no_verdict",
        }
    }
}

/// Counters of one tenant, since the process began.
#[derive(Debug, Default)]
pub struct Measures {
    /// Changes of tables that somebody has subscribed to.
    pub seen: Cell<u64>,
    /// Those of them that reached a subscriber.
    pub delivered: Cell<u64>,
    /// Changes times matching subscriptions.
    pub matched: Cell<u64>,
    /// Batches that were decided.
    pub batches: Cell<u64>,
    /// Microseconds that deciding them took.
    pub deciding_us: Cell<u64>,
    /// Milliseconds between the commit of the last transaction and when its last change was handed to the shards.
    pub lag_ms: Cell<u64>,
    /// Times that changes may have been missed, and subscribers were told.
    pub gaps: Cell<u64>,
    /// Subscriptions now.
    pub subscriptions: Cell<u64>,
    /// Of reading the slot.
    pub source: Rc<source::Measures>,
    /// Of asking who may see what, one question per set of claims, table and batch.
    pub visibility: Rc<visibility::Measures>,
    dropped: [Cell<u64>; Dropped::ALL.len()],
}

impl Measures {
    /// Counts changes that did not reach somebody.
    pub fn count_dropped(&self, reason: Dropped, count: u64) {
        add(&self.dropped[reason as usize], count);
    }

    /// How many did not, for this reason.
    #[must_use]
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped[reason as usize].get()
    }

    /// Nobody listens any more: there is nothing to be behind with, and no slot that keeps anything.
    pub(super) fn come_to_rest(&self) {
        let source = &self.source;
        for gauge in [
            &self.subscriptions,
            &self.lag_ms,
            &source.lag_bytes,
            &source.retained_bytes,
        ] {
            gauge.set(0);
        }
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get().wrapping_add(count));
}
