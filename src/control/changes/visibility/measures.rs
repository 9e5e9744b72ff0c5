//! What asking for visible rows has cost so far.

use std::cell::Cell;

/// Counters of one tenant, over all of its checkers since the process began.
#[derive(Debug, Default)]
pub struct Measures {
    /// Batches that were asked about.
    pub calls: Cell<u64>,
    /// Questions: a table, a role and claims.
    pub checks: Cell<u64>,
    /// Keys of all questions.
    pub keys: Cell<u64>,
    /// Keys without a verdict.
    pub lost: Cell<u64>,
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
