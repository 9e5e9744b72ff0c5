//! Which transactions a statement saw.
//!
//! What comes in: a snapshot as PostgreSQL prints it, `xmin:xmax:xip,xip`. What goes out: whether it sees a transaction. What always
//! holds: a transaction that is not known to be over counts as running. Deliberately absent: whether it was committed; what the stream
//! says was.
//!
//! Why anybody asks: a commit is in the log, and in the stream, before other sessions see it. A question about row level security that
//! is asked in between reads rows as they were, and both answers may be wrong.

use std::fmt;
use std::str::FromStr;

/// See the room's documentation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// Every earlier transaction is over.
    oldest_running: u64,
    /// This and every later one had not begun.
    next: u64,
    /// Those in between that run.
    running: Vec<u64>,
}

impl Snapshot {
    /// As a statement of SQL has it. The older name of the function, which every version knows.
    pub const SQL: &'static str = "pg_catalog.txid_current_snapshot()::pg_catalog.text";

    /// Whether the transaction with this number is over. The stream says the lower half of a number, so it is taken for the one of
    /// that half that is nearest to now.
    #[must_use]
    pub fn sees(&self, xid: u32) -> bool {
        let low = u32::try_from(self.next & u64::from(u32::MAX)).unwrap_or_default();
        let ahead = i64::from(xid.wrapping_sub(low).cast_signed());
        let Some(full) = self.next.checked_add_signed(ahead) else {
            // Before the first of all.
            return true;
        };
        full < self.oldest_running || (full < self.next && !self.running.contains(&full))
    }
}

/// It is not what PostgreSQL prints.
#[derive(Debug, Eq, PartialEq)]
pub struct NoSnapshot;

impl fmt::Display for NoSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a snapshot is xmin:xmax:xip,xip")
    }
}

impl std::error::Error for NoSnapshot {}

impl FromStr for Snapshot {
    type Err = NoSnapshot;

    fn from_str(text: &str) -> Result<Self, NoSnapshot> {
        let number = |text: &str| text.parse().map_err(|_| NoSnapshot);
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or(NoSnapshot);
        let (oldest_running, next, running) = (number(part()?)?, number(part()?)?, part()?);
        let running = running.split(',').filter(|xid| !xid.is_empty());
        Ok(Self {
            oldest_running,
            next,
            running: running.map(number).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_seen_when_it_is_over() {
        let check = |snapshot: &str, xid: u32, expected: bool| {
            let sees = snapshot.parse::<Snapshot>().unwrap().sees(xid);
            assert_eq!(sees, expected, "{xid} in {snapshot}");
        };
        check("100:105:100,102", 99, true);
        check("100:105:100,102", 100, false);
        check("100:105:100,102", 101, true);
        check("100:105:100,102", 102, false);
        check("100:105:100,102", 104, true);
        check("100:105:100,102", 105, false);
        check("100:105:100,102", 106, false);
        check("100:100:", 99, true);
        check("100:100:", 100, false);
    }

    #[test]
    fn numbers_go_on_where_their_lower_half_begins_anew() {
        let around = (1u64 << 32) + 3;
        let text = format!("{}:{around}:{}", around - 5, around - 5);
        let snapshot: Snapshot = text.parse().unwrap();
        let check = |xid: u32, expected| assert_eq!(snapshot.sees(xid), expected, "{xid}");
        check(2, true);
        check(3, false);
        check(u32::MAX, true);
        check(u32::MAX - 1, false);
        check(u32::MAX - 2, true);
        // Half of all numbers back and one more is half of them ahead.
        check(3 + (1 << 31), true);
        check(2 + (1 << 31), false);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "1", "1:2", "a:2:", "1:b:", "1:2:c", "1:2:3,", "-1:2:"] {
            let parsed = text.parse::<Snapshot>();
            assert_eq!(parsed.is_ok(), text == "1:2:3,", "{text}");
        }
    }
}
