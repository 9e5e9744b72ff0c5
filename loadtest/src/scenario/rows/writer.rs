//! Who writes the rows.
//!
//! In: a [`Pace`] and a [`Table`]. Out: [`Written`].
//! A writer is a thread that does nothing but wait: for the time of its next transaction, for
//! PostgreSQL, or for the members.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::clock::now_ns;
use crate::scenario::fanout::{Board, Phase};
use crate::stamp::Stamp;
use crate::timeline;

use super::Pace;

/// How far behind its times a writer may be at the end before its rows count as not written.
const BEHIND_NS_MAX: u64 = 1_000_000_000;

/// How often a waiting writer looks whether the run is over.
const LOOK: Duration = Duration::from_millis(5);

/// Where rows go.
pub(in crate::scenario) trait Table: Send {
    /// Writes one row for each payload, in one transaction and in their order. `first` is the
    /// sequence number of the first.
    ///
    /// # Errors
    ///
    /// What the database said; a warning is an error here.
    fn insert(&mut self, first: u32, payloads: &[String]) -> Result<(), String>;
}

/// Where writers wait until the members have more.
pub(super) struct Gate {
    writers: Vec<Waiting>,
}

struct Waiting {
    /// Messages that all members together must have received.
    goal: AtomicU64,
    thread: OnceLock<Thread>,
}

impl Gate {
    /// A gate for as many writers.
    pub(super) fn new(writers: usize) -> Self {
        let waiting = || Waiting {
            goal: AtomicU64::new(u64::MAX),
            thread: OnceLock::new(),
        };
        Self {
            writers: (0..writers).map(|_| waiting()).collect(),
        }
    }

    /// Wakes the writers that have waited for what has just been received.
    #[inline]
    pub(super) fn open(&self, board: &Board) {
        for writer in &self.writers {
            let goal = writer.goal.load(Ordering::SeqCst);
            if goal != u64::MAX
                && board.received() >= goal
                && let Some(thread) = writer.thread.get()
            {
                thread.unpark();
            }
        }
    }

    /// Waits until the members have received `goal` messages or the load is over.
    fn wait(&self, writer: usize, goal: u64, board: &Board) {
        let waiting = &self.writers[writer];
        waiting.thread.get_or_init(thread::current);
        waiting.goal.store(goal, Ordering::SeqCst);
        while board.received() < goal && !board.is_at_least(Phase::Drain) {
            thread::park_timeout(LOOK);
        }
        waiting.goal.store(u64::MAX, Ordering::SeqCst);
    }
}

/// What a writer knows when it is done.
#[derive(Debug)]
pub(super) struct Written {
    /// Time of each statement while the load was measured.
    pub(super) statement_ns: Histogram<u64>,
    /// All of them together.
    pub(super) busy_ns: u64,
    /// Rows that were due and not written.
    pub(super) behind: u64,
    pub(super) problems: Vec<String>,
}

/// One writer.
pub(super) struct Writer {
    index: usize,
    pace: Pace,
    board: Arc<Board>,
    gate: Arc<Gate>,
    table: Box<dyn Table>,
    next: u32,
    written: Written,
}

impl Writer {
    pub(super) fn new(
        index: usize,
        pace: Pace,
        board: Arc<Board>,
        gate: Arc<Gate>,
        table: Box<dyn Table>,
    ) -> Self {
        Self {
            index,
            pace,
            board,
            gate,
            table,
            next: 0,
            written: Written {
                statement_ns: timeline::histogram(),
                busy_ns: 0,
                behind: 0,
                problems: Vec::new(),
            },
        }
    }

    /// Writes until the load is over. The table comes back: its connection must not end before
    /// everything has been measured.
    pub(super) fn work(mut self) -> (Written, Box<dyn Table>) {
        while !self.board.is_at_least(Phase::WarmUp) {
            thread::sleep(LOOK);
        }
        if let Err(problem) = self.write_all() {
            self.written.problems.push(problem);
        }
        (self.written, self.table)
    }

    fn write_all(&mut self) -> Result<(), String> {
        // No member is there when the run has failed before its load.
        if self.board.is_at_least(Phase::Drain) {
            return Ok(());
        }
        self.insert(1, now_ns())?;
        let first = self.pace.writing.writers * self.pace.copies;
        self.gate.wait(self.index, first as u64, &self.board);
        match self.pace.rate {
            Some(rate) => self.at_rate(rate / self.pace.writing.writers as f64),
            None => self.ahead(),
        }
    }

    /// Writes transactions at their times.
    fn at_rate(&mut self, rate: f64) -> Result<(), String> {
        let rows = self.pace.rows_per_transaction;
        let gap_ns = rows as f64 / rate * 1e9;
        // The writers take turns.
        let start_ns =
            now_ns() + (gap_ns * self.index as f64 / self.pace.writing.writers as f64) as u64;
        let mut turn: u64 = 0;
        let mut at_ns = start_ns;
        while !self.board.is_at_least(Phase::Drain) {
            let now = now_ns();
            if at_ns > now {
                thread::sleep(Duration::from_nanos(at_ns - now).min(LOOK));
                continue;
            }
            self.insert(rows, at_ns)?;
            turn += 1;
            at_ns = start_ns + (turn as f64 * gap_ns) as u64;
        }
        let behind_ns = now_ns().saturating_sub(at_ns);
        if behind_ns > BEHIND_NS_MAX {
            self.written.behind = (behind_ns as f64 / gap_ns) as u64 * rows as u64;
        }
        Ok(())
    }

    /// Writes as much as is taken, within the bound of what the members have not received yet.
    fn ahead(&mut self) -> Result<(), String> {
        let rows = self.pace.rows_per_transaction as u64;
        let outstanding = (self.pace.outstanding as u64).max(rows);
        while !self.board.is_at_least(Phase::Drain) {
            let must_be_there = (self.board.sent() + rows).saturating_sub(outstanding);
            let goal = must_be_there * self.pace.copies as u64;
            self.gate.wait(self.index, goal, &self.board);
            if self.board.is_at_least(Phase::Drain) {
                break;
            }
            self.insert(rows as usize, now_ns())?;
        }
        Ok(())
    }

    /// Writes one transaction, unless the load is over.
    fn insert(&mut self, rows: usize, at_ns: u64) -> Result<(), String> {
        // Before there is anything to write: to make many rows takes its time.
        if !self.board.announce(self.index, rows as u64) {
            return Ok(());
        }
        let first = self.next;
        let payloads: Result<Vec<String>, _> = (0..rows)
            .map(|_| String::from_utf8(self.payload(at_ns)))
            .collect();
        let payloads = payloads.map_err(|error| error.to_string())?;
        let since_ns = now_ns();
        self.table.insert(first, &payloads)?;
        if self.board.is(Phase::Measure) {
            let took_ns = (now_ns() - since_ns).max(1);
            self.written.busy_ns += took_ns;
            self.written.statement_ns.saturating_record(took_ns);
        }
        Ok(())
    }

    fn payload(&mut self, at_ns: u64) -> Vec<u8> {
        let stamp = Stamp {
            sender: self.index as u32,
            sequence: self.next,
            at_ns,
        };
        self.next += 1;
        let mut payload = Vec::with_capacity(self.pace.writing.payload);
        stamp.encode(self.pace.writing.payload, &mut payload);
        payload
    }
}
