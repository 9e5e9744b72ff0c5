//! What the loads with a tenant's database have in common: rows that are written there and reach
//! the members of channels.
//!
//! In: a `Pace`, what members `Ask` for, a `Table` for each writer. Out: rows per second that
//! everybody got who should, the time from when a row was due to when it was there, and every row
//! that was lost, doubled or out of its writer's order.
//!
//! `writer` waits for PostgreSQL on a thread of its own beside a harness thread, `members` read on
//! monoio. Closed loop: rows are written as fast as PostgreSQL takes them, but no more than a number
//! of them ahead of what the members have. Open loop: transactions are due at fixed times, and the
//! time that a row takes begins there. A first row of each writer has to arrive everywhere before.

mod database;
mod members;
mod writer;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::dialect::Join;
use crate::link::Target;
use crate::report::Run;
use crate::settings::Bench;
use crate::timeline;

pub(super) use self::database::Database;
use self::members::Crowd;
pub(super) use self::writer::Table;
use self::writer::{Gate, Writer, Written};
use super::fanout::{self, Board, DELIVERED, Load};
use super::threads;

/// Who writes what for how long, as the command line of every such load says it.
#[derive(Clone, Debug, clap::Args)]
pub struct Writing {
    /// Connections that write.
    #[arg(long, default_value_t = 1)]
    pub writers: usize,
    /// Bytes of each row's payload.
    #[arg(long, default_value_t = 100)]
    pub payload: usize,
    /// How long is measured.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// How long the load runs before that.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up_seconds: f64,
}

#[cfg(test)]
impl Writing {
    /// For a test of the harness itself.
    pub(super) const fn briefly(writers: usize) -> Self {
        Self {
            writers,
            payload: 100,
            seconds: 0.2,
            warm_up_seconds: 0.0,
        }
    }
}

/// How many rows are written, how fast, and for how many.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Members of all topics together.
    pub(super) members: usize,
    /// Members that get each row.
    pub(super) copies: usize,
    /// Closed loop: rows that may be written and not yet received by everybody.
    pub(super) outstanding: usize,
    /// Open loop: rows per second over all writers.
    pub(super) rate: Option<f64>,
    /// Rows of each transaction, which is one statement.
    pub(super) rows_per_transaction: usize,
    /// By whom, and for how long.
    pub(super) writing: Writing,
}

/// What members ask for when they join.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// Broadcasts on one topic.
    Broadcasts {
        /// A private channel.
        private: bool,
    },
    /// Row changes.
    Changes {
        /// The entry of `postgres_changes`, JSON.
        entry: String,
        /// Whether each member has a topic of its own.
        topics: bool,
        /// Whether each row is for one member alone: [`owner_of`].
        owns: bool,
    },
}

impl Ask {
    /// The number of the topic that a member joins.
    fn topic_of(&self, member: usize) -> usize {
        match self {
            Self::Changes { topics: true, .. } => member,
            _ => 0,
        }
    }

    fn join_of(&self, member: usize) -> Join<'_> {
        match self {
            Self::Broadcasts { private } => Join {
                private: *private,
                replication_ready: member == 0,
                ..Join::default()
            },
            Self::Changes { entry, .. } => Join {
                changes: Some(entry),
                ..Join::default()
            },
        }
    }

    const fn owns(&self) -> bool {
        matches!(self, Self::Changes { owns: true, .. })
    }
}

/// The member that a row is for, where each is for one alone.
pub(super) const fn owner_of(sequence: u32, members: usize) -> usize {
    sequence as usize % members
}

/// A board for a run on this machine.
pub(super) fn board(bench: &Bench, writers: usize) -> Arc<Board> {
    Arc::new(Board::new(bench.cpus.len(), writers))
}

/// Runs once, with a table for each writer.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process.
pub(super) fn run(
    target: &Target,
    pace: &Pace,
    ask: &Ask,
    bench: &Bench,
    board: &Arc<Board>,
    tables: Vec<Box<dyn Table>>,
) -> io::Result<Run> {
    let receivers = bench.cpus.len();
    let gate = Arc::new(Gate::new(tables.len()));
    let writers: io::Result<Vec<_>> = tables
        .into_iter()
        .enumerate()
        .map(|(index, table)| {
            let (board, gate) = (Arc::clone(board), Arc::clone(&gate));
            let writer = Writer::new(index, pace.clone(), board, gate, table);
            threads::start_beside(&bench.cpus, index % receivers, "writer", || writer.work())
        })
        .collect();
    let writers = writers?;
    let crowd = Crowd {
        index: 0,
        threads: receivers,
        members: pace.members,
        writers: pace.writing.writers,
        ask: ask.clone(),
    };
    let shared = (target.clone(), crowd, Arc::clone(board), Arc::clone(&gate));
    let threads = threads::start(&bench.cpus, move |index| {
        let (target, crowd, board, gate) = shared.clone();
        members::work(target, Crowd { index, ..crowd }, board, gate)
    })?;
    let load = Load {
        members: pace.members,
        copies: pace.copies as u64,
        first: (pace.writing.writers * pace.copies) as u64,
        rate: pace.rate,
        warm_up_seconds: pace.writing.warm_up_seconds,
        seconds: pace.writing.seconds,
        patience: PER_ROW_OF_TRANSACTION
            * u32::try_from(pace.rows_per_transaction).unwrap_or(u32::MAX),
    };
    let mut run = fanout::run(&load, bench, board, threads)?;
    let written: io::Result<Vec<_>> = writers
        .into_iter()
        .map(|writer| {
            let panicked = |_| io::Error::other("a writer panicked");
            writer.join().map_err(panicked)?
        })
        .collect();
    let written = written?.into_iter().map(|(written, _)| written).collect();
    describe(pace, written, &mut run);
    Ok(run)
}

/// Adds what the writers know.
fn describe(pace: &Pace, written: Vec<Written>, run: &mut Run) {
    if let Some(delivered) = run.value(DELIVERED) {
        let rows = delivered / pace.copies.max(1) as f64;
        run.push(ROWS, "rows/s", rows);
    }
    let mut statement_ns = timeline::histogram();
    let (mut busy_ns, mut behind) = (0, 0);
    for of_one in written {
        statement_ns
            .add(&of_one.statement_ns)
            .expect("both histograms have the same bounds");
        busy_ns += of_one.busy_ns;
        behind += of_one.behind;
        run.problems.extend(of_one.problems);
    }
    run.push_percentiles("statement", &statement_ns, "us", 1e3);
    let share = busy_ns as f64 / 1e9 / pace.writing.seconds / pace.writing.writers.max(1) as f64;
    run.push("writers waiting for PostgreSQL", "%", share * 100.0);
    if behind > 0 {
        run.problems.push(format!(
            "{behind} rows were due and not written: PostgreSQL takes less than is offered"
        ));
    }
}

/// A transaction is written whole, and PostgreSQL reads it whole before it says its first row to a
/// stream: so much longer may nothing arrive for each of its rows.
const PER_ROW_OF_TRANSACTION: Duration = Duration::from_micros(100);

/// Rows that every member got who was to get them.
pub(super) const ROWS: &str = "delivered to every member";
