//! What asking for visible rows has cost so far.

use std::cell::Cell;

/// Counters of one tenant, over all of its checkers since the process began.
#[derive(Debug, Default)]
pub struct Measures {
    /// Times that something was asked: once for a batch as a rule, more often for large ones and for those that are tried again.
    pub calls: Cell<u64>,
    /// Questions of batches that were decided: a table, a role and claims. Whoever decides counts them, and their keys.
    pub checks: Cell<u64>,
    /// Keys of all these questions.
    pub keys: Cell<u64>,
    /// Transactions that were sent, those of bisections among them.
    pub transactions: Cell<u64>,
    /// Transactions that looked for the keys on which another one had failed.
    pub bisections: Cell<u64>,
    /// Statements that were prepared.
    pub prepared: Cell<u64>,
    /// Connections that were opened.
    pub connections: Cell<u64>,
    /// Connections that were given up with a query on them.
    pub given_up: Cell<u64>,
    /// Microseconds from question to answer, all calls together.
    pub time_us: Cell<u64>,
}

impl Measures {
    /// Adds to a counter.
    pub(super) fn add(counter: &Cell<u64>, count: usize) {
        counter.set(counter.get() + u64::try_from(count).unwrap_or(u64::MAX));
    }
}
