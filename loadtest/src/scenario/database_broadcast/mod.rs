//! Broadcast from the database: rows of `realtime.messages` that reach the members of one topic.
//!
//! In: a [`Plan`]. Out: rows per second that every member got, the time from when a row was due to
//! when it was there, and every row that was lost, doubled or out of its writer's order.
//!
//! `writer` waits for PostgreSQL on a thread of its own beside a harness thread, `members` read on
//! monoio. Closed loop: rows are written as fast as PostgreSQL takes them, but no more than a number
//! of them ahead of what the members have. Open loop: transactions are due at fixed times, and the
//! time that a row takes begins there. A first row of each writer has to arrive everywhere before.

mod members;
mod writer;

use std::io;
use std::sync::Arc;

use crate::dialect;
use crate::link::Target;
use crate::report::{self, Run};
use crate::settings::Bench;

use self::members::Crowd;
use self::writer::{Gate, Messages, Table, Writer, Written};
use super::fanout::{self, Board, DELIVERED, Load};
use super::threads;

/// What is to be done.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// The tenant's database, `postgres://user:password@host:port/name`. The user must be allowed to
    /// insert into realtime.messages.
    #[arg(long)]
    pub database: String,
    /// Members of the topic.
    #[arg(long, default_value_t = 1)]
    pub members: usize,
    /// A public channel and public rows.
    #[arg(long)]
    pub public: bool,
    /// How rows are written.
    #[arg(long, value_enum, default_value = "send")]
    pub by: By,
    /// Rows of each transaction, which is one statement.
    #[arg(long, default_value_t = 1)]
    pub rows_per_transaction: usize,
    /// Connections that write.
    #[arg(long, default_value_t = 1)]
    pub writers: usize,
    /// Closed loop: rows that may be written and not yet received by everybody.
    #[arg(long, default_value_t = 5000)]
    pub outstanding: usize,
    /// Open loop: rows per second over all writers, instead of --outstanding.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Bytes of each row's JSON payload.
    #[arg(long, default_value_t = 100)]
    pub payload: usize,
    /// How long is measured.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// How long the load runs before that.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up_seconds: f64,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// A call of realtime.send for each row.
    Send,
    /// One insert into realtime.messages for all rows of a transaction.
    Insert,
}

/// Runs the plan once.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process, no such database.
pub fn run(target: &Target, plan: &Plan, bench: &Bench) -> io::Result<Run> {
    let tables = (0..plan.writers).map(|_| {
        let topic = target.dialect.topic(0);
        let topic = dialect::topic_in_database(&topic);
        let messages = Messages::connect(&plan.database, plan.by, topic, !plan.public)?;
        Ok(Box::new(messages) as Box<dyn Table>)
    });
    let tables: Result<Vec<_>, String> = tables.collect();
    run_on(target, plan, bench, tables.map_err(io::Error::other)?)
}

/// The same with a table for each writer.
fn run_on(
    target: &Target,
    plan: &Plan,
    bench: &Bench,
    tables: Vec<Box<dyn Table>>,
) -> io::Result<Run> {
    let receivers = bench.cpus.len();
    let board = Arc::new(Board::new(receivers, tables.len()));
    let gate = Arc::new(Gate::new(tables.len()));
    let writers: io::Result<Vec<_>> = tables
        .into_iter()
        .enumerate()
        .map(|(index, table)| {
            let (board, gate) = (Arc::clone(&board), Arc::clone(&gate));
            let writer = Writer::new(index, plan.clone(), board, gate, table);
            threads::start_beside(&bench.cpus, index % receivers, "writer", || writer.work())
        })
        .collect();
    let writers = writers?;
    let shared = (
        target.clone(),
        plan.clone(),
        Arc::clone(&board),
        Arc::clone(&gate),
    );
    let threads = threads::start(&bench.cpus, move |index| {
        let (target, plan, board, gate) = shared.clone();
        members::work(target, Crowd::of(&plan, index, receivers), board, gate)
    })?;
    let load = Load {
        members: plan.members,
        copies: plan.members as u64,
        first: (plan.writers * plan.members) as u64,
        rate: plan.rate,
        warm_up_seconds: plan.warm_up_seconds,
        seconds: plan.seconds,
    };
    let mut run = fanout::run(&load, bench, &board, threads)?;
    let written: io::Result<Vec<Written>> = writers
        .into_iter()
        .map(|writer| {
            let panicked = |_| io::Error::other("a writer panicked");
            writer.join().map_err(panicked)?
        })
        .collect();
    describe(plan, written?, &mut run);
    Ok(run)
}

/// Adds what the writers know.
fn describe(plan: &Plan, written: Vec<Written>, run: &mut Run) {
    if let Some(delivered) = run.value(DELIVERED) {
        let rows = delivered / plan.members.max(1) as f64;
        run.push(ROWS, "rows/s", rows);
    }
    let mut statement_ns = report::histogram();
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
    let share = busy_ns as f64 / 1e9 / plan.seconds / plan.writers.max(1) as f64;
    run.push("writers waiting for PostgreSQL", "%", share * 100.0);
    if behind > 0 {
        run.problems.push(format!(
            "{behind} rows were due and not written: PostgreSQL takes less than is offered"
        ));
    }
}

/// Rows that every member got.
pub const ROWS: &str = "delivered to every member";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault, Rows};

    impl Table for Rows {
        fn insert(&mut self, payloads: &[String]) -> Result<(), String> {
            for payload in payloads {
                Self::insert(self, "load-000000", payload);
            }
            Ok(())
        }
    }

    /// A database that takes a first row and no more.
    struct Full(Option<Rows>);

    impl Table for Full {
        fn insert(&mut self, payloads: &[String]) -> Result<(), String> {
            let mut rows = self.0.take().ok_or("the disk is full")?;
            Table::insert(&mut rows, payloads)
        }
    }

    fn plan(members: usize, writers: usize, rate: Option<f64>) -> Plan {
        Plan {
            database: String::new(),
            members,
            public: false,
            by: By::Send,
            rows_per_transaction: 3,
            writers,
            outstanding: 30,
            rate,
            payload: 100,
            seconds: 0.2,
            warm_up_seconds: 0.0,
        }
    }

    fn bench() -> Bench {
        Bench {
            cpus: vec![0],
            server: None,
        }
    }

    fn run_against(dialect: Dialect, fault: Fault, plan: &Plan) -> Run {
        let (target, rows) = fake::start_with_rows(dialect, fault);
        let table = || Box::new(rows.clone()) as Box<dyn Table>;
        let tables = (0..plan.writers).map(|_| table()).collect();
        run_on(&target, plan, &bench(), tables).unwrap()
    }

    #[test]
    fn rows_reach_all_members_in_any_dialect_and_both_loops() {
        for dialect in [Dialect::V1, Dialect::V2] {
            for plan in [plan(4, 1, None), plan(1, 2, None), plan(4, 2, Some(500.0))] {
                let run = run_against(dialect, Fault::None, &plan);
                assert_eq!(run.problems, [""; 0], "{dialect:?}");
                assert!(run.value(ROWS).unwrap() > 0.0);
                assert!(run.value("latency p99").unwrap() > 0.0);
                assert!(run.value("statement p50").unwrap() > 0.0);
            }
        }
    }

    #[test]
    fn an_open_loop_keeps_to_its_rate() {
        let run = run_against(Dialect::V2, Fault::None, &plan(1, 1, Some(300.0)));
        let rows = run.value(ROWS).unwrap();
        assert!((150.0..400.0).contains(&rows), "{rows}");
    }

    #[test]
    fn every_fault_is_a_problem_by_its_name() {
        for (fault, problem) in [
            (Fault::Loses, "1 messages were lost"),
            (Fault::Doubles, "1 messages came twice"),
            (Fault::Swaps, "4 messages came out of order"),
            (Fault::Closes, "closed by the server: Some(1012)"),
            (Fault::Refuses, "4 of 4 members were refused"),
            (Fault::NeverReady, "only 3 of 4 members got an answer"),
        ] {
            let run = run_against(Dialect::V2, fault, &plan(4, 1, Some(300.0)));
            let found = run.problems.iter().any(|text| text.contains(problem));
            assert!(found, "{fault:?}: {:?}", run.problems);
        }
    }

    #[test]
    fn what_the_database_says_is_a_problem() {
        let (target, rows) = fake::start_with_rows(Dialect::V2, Fault::None);
        let full = Box::new(Full(Some(rows))) as Box<dyn Table>;
        let run = run_on(&target, &plan(1, 1, None), &bench(), vec![full]).unwrap();
        let found = run.problems.contains(&"the disk is full".to_owned());
        assert!(found, "{:?}", run.problems);
    }
}
