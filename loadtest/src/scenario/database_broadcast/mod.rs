//! Broadcast from the database: rows of `realtime.messages` that reach the members of one topic.
//!
//! In: a [`Plan`]. Out: rows per second that every member got, the time from when a row was due to
//! when it was there, and every row that was lost, doubled or out of its writer's order.
//!
//! How rows are written and members read is the affair of `scenario::rows`.

use std::io;

use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use crate::dialect::{self, USER_EVENT};
use crate::link::Target;
use crate::report::Run;
use crate::settings::Bench;

use super::rows::{self, Ask, Database, Pace, Table, Writing};

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
    /// Closed loop: rows that may be written and not yet received by everybody.
    #[arg(long, default_value_t = 5000)]
    pub outstanding: usize,
    /// Open loop: rows per second over all writers, instead of --outstanding.
    #[arg(long)]
    pub rate: Option<f64>,
    /// By whom, and for how long.
    #[command(flatten)]
    pub writing: Writing,
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
    let tables = (0..plan.writing.writers).map(|_| {
        let topic = target.topic(0);
        let topic = dialect::topic_in_database(&topic);
        let messages = Messages::connect(&plan.database, plan.by, topic, !plan.public)?;
        Ok(Box::new(messages) as Box<dyn Table>)
    });
    let tables: Result<Vec<_>, String> = tables.collect();
    run_on(target, plan, bench, tables.map_err(io::Error::other)?)
}

impl Plan {
    fn pace(&self) -> Pace {
        Pace {
            members: self.members,
            copies: self.members,
            outstanding: self.outstanding,
            rate: self.rate,
            rows_per_transaction: self.rows_per_transaction,
            writing: self.writing.clone(),
        }
    }
}

/// The same with a table for each writer.
fn run_on(
    target: &Target,
    plan: &Plan,
    bench: &Bench,
    tables: Vec<Box<dyn Table>>,
) -> io::Result<Run> {
    let ask = Ask::Broadcasts {
        private: !plan.public,
    };
    let board = rows::board(bench, plan.writing.writers);
    rows::run(target, &plan.pace(), &ask, bench, &board, tables)
}

/// `realtime.messages`, over a connection of its own.
struct Messages {
    database: Database,
    statement: Statement,
    topic: String,
    private: bool,
}

impl Messages {
    /// Connects and prepares the statement.
    ///
    /// # Errors
    ///
    /// What is wrong with the address or in the database, for a person to read.
    fn connect(url: &str, by: By, topic: &str, private: bool) -> Result<Self, String> {
        let database = Database::connect(url)?;
        let statement = database.prepare(&statement_of(by))?;
        Ok(Self {
            database,
            statement,
            topic: topic.to_owned(),
            private,
        })
    }
}

impl Table for Messages {
    fn insert(&mut self, _: u32, payloads: &[String]) -> Result<(), String> {
        let values: [&(dyn ToSql + Sync); 3] = [&payloads, &self.topic, &self.private];
        self.database.execute(&self.statement, &values)
    }
}

/// The statement that writes all rows of a transaction.
fn statement_of(by: By) -> String {
    let rows = "unnest($1::text[]) as row (payload)";
    match by {
        By::Send => format!(
            "select realtime.send(row.payload::jsonb, '{USER_EVENT}', $2::text, $3::boolean) from {rows}"
        ),
        By::Insert => format!(
            "insert into realtime.messages (payload, event, topic, private, extension) \
             select row.payload::jsonb, '{USER_EVENT}', $2::text, $3::boolean, 'broadcast' from {rows}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault, Rows};
    use crate::scenario::rows::ROWS;

    impl Table for Rows {
        fn insert(&mut self, _: u32, payloads: &[String]) -> Result<(), String> {
            for payload in payloads {
                Self::insert(self, "load-000000", payload);
            }
            Ok(())
        }
    }

    /// A database that takes a first row and no more.
    struct Full(Option<Rows>);

    impl Table for Full {
        fn insert(&mut self, _: u32, payloads: &[String]) -> Result<(), String> {
            let mut rows = self.0.take().ok_or("the disk is full")?;
            Table::insert(&mut rows, 0, payloads)
        }
    }

    fn plan(members: usize, writers: usize, rate: Option<f64>) -> Plan {
        Plan {
            database: String::new(),
            members,
            public: false,
            by: By::Send,
            rows_per_transaction: 3,
            outstanding: 30,
            rate,
            writing: Writing::briefly(writers),
        }
    }

    fn run_against(dialect: Dialect, fault: Fault, plan: &Plan) -> Run {
        let (target, rows) = fake::start_with_rows(dialect, fault);
        let table = || Box::new(rows.clone()) as Box<dyn Table>;
        let tables = (0..plan.writing.writers).map(|_| table()).collect();
        run_on(&target, plan, &fake::bench(), tables).unwrap()
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
        // A closed loop writes thousands; what a busy machine was late with is made up for.
        assert!((100.0..1000.0).contains(&rows), "{rows}");
    }

    #[test]
    fn every_fault_is_a_problem_by_its_name() {
        for (fault, problem, expected) in [
            (Fault::Loses, "1 messages were lost", "loss=0"),
            (Fault::Doubles, "1 messages came twice", "duplicates=0"),
            (Fault::Swaps, "4 messages came out of order", "disorder=0"),
            (
                Fault::Closes,
                "closed by the server: Some(1012)",
                "closed=0",
            ),
            (Fault::Refuses, "4 of 4 members were refused", "delivered>0"),
            (
                Fault::NeverReady,
                "only 3 of 4 members got an answer",
                "delivered>0",
            ),
        ] {
            let run = run_against(Dialect::V2, fault, &plan(4, 1, Some(300.0)));
            fake::assert_noticed(&run, problem, expected);
        }
    }

    #[test]
    fn a_stall_counts_from_the_time_a_row_was_due() {
        let run = run_against(Dialect::V2, Fault::Stalls, &plan(4, 1, Some(300.0)));
        assert_eq!(run.problems, [""; 0]);
        // Rows from the seventh on wait for the 27th, six transactions of 10 ms later.
        assert!(run.value("latency max").unwrap() > 55_000.0, "{run:?}");
    }

    #[test]
    fn what_the_database_says_is_a_problem() {
        let (target, rows) = fake::start_with_rows(Dialect::V2, Fault::None);
        let full = Box::new(Full(Some(rows))) as Box<dyn Table>;
        let run = run_on(&target, &plan(1, 1, None), &fake::bench(), vec![full]).unwrap();
        let found = run.problems.contains(&"the disk is full".to_owned());
        assert!(found, "{:?}", run.problems);
    }
}
