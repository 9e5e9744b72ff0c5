//! Postgres Changes: rows of a table that reach everybody who is subscribed to it.
//!
//! In: a [`Plan`]. Out: rows per second that every subscriber got, the time from when a row was due to
//! when it was there, what PostgreSQL and the server spent on it, and every row that was lost,
//! doubled, out of order, or shown to somebody it was not for.
//! The table is made here, published and given its policies; how rows are written and members read
//! is the affair of `scenario::rows`.

mod table;
mod watch;

use std::io;
use std::str::FromStr;
use std::sync::Arc;

use crate::link::Target;
use crate::report::Run;
use crate::settings::Bench;

use self::table::Changes;
use self::watch::Watch;
use super::rows::{self, Ask, Pace, Table, Writing};
use super::threads;

/// What is to be done.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// The tenant's database, `postgres://user:password@host:port/name`. The user must be allowed to
    /// create and to publish a table.
    #[arg(long)]
    pub database: String,
    /// Members, each with one entry of postgres_changes.
    #[arg(long, default_value_t = 1)]
    pub subscribers: usize,
    /// Who may see the rows.
    #[arg(long, value_enum, default_value = "none")]
    pub rls: Rls,
    /// Which channels the members join.
    #[arg(long, value_enum, default_value = "same")]
    pub channels: Channels,
    /// A filter of every entry; every row has to pass it (`pad=neq.y`).
    #[arg(long)]
    pub filter: Option<String>,
    /// Rows per second over all writers, in an open loop; `max`: closed loop, as many as are
    /// delivered.
    #[arg(long, default_value = "max")]
    pub rate: Rate,
    /// Closed loop: rows that may be written and not yet received by everybody; at least a
    /// transaction.
    #[arg(long, default_value_t = 1000)]
    pub outstanding: usize,
    /// Rows of each transaction, which is one statement.
    #[arg(long, default_value_t = 1)]
    pub transaction: usize,
    /// The tenant's publication.
    #[arg(long, default_value = "supabase_realtime")]
    pub publication: String,
    /// By whom rows are written, and for how long.
    #[command(flatten)]
    pub writing: Writing,
}

/// Who may see the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rls {
    /// Everybody: no row level security.
    None,
    /// Every user, by a policy; all members are the same one.
    One,
    /// Every user, by a policy; each member is another one.
    All,
    /// Each row one of the members, in turn, each of whom is another user.
    Own,
}

/// Which channels the members join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Channels {
    /// One for all.
    Same,
    /// One for each.
    Each,
}

/// Rows per second; none for as many as are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(pub Option<f64>);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(rate) if rate > 0.0 => Ok(Self(Some(rate))),
            _ => Err("a number of rows per second, or max".to_owned()),
        }
    }
}

impl Plan {
    /// How many different tokens the members need, if that is not for the command line to say.
    pub fn tokens(&self) -> Option<usize> {
        match self.rls {
            Rls::None => None,
            Rls::One => Some(1),
            Rls::All | Rls::Own => Some(self.subscribers),
        }
    }

    fn pace(&self) -> Pace {
        Pace {
            members: self.subscribers,
            copies: match self.rls {
                Rls::Own => 1,
                Rls::None | Rls::One | Rls::All => self.subscribers,
            },
            outstanding: self.outstanding,
            rate: self.rate.0,
            rows_per_transaction: self.transaction,
            writing: self.writing.clone(),
        }
    }

    fn ask(&self) -> Ask {
        let mut entry = serde_json::json!({
            "event": "INSERT",
            "schema": table::SCHEMA,
            "table": table::TABLE,
        });
        if let Some(filter) = &self.filter {
            entry["filter"] = filter.as_str().into();
        }
        Ask::Changes {
            entry: entry.to_string(),
            topics: self.channels == Channels::Each,
            owns: self.rls == Rls::Own,
        }
    }
}

/// Runs the plan once.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process, no such database.
pub fn run(target: &Target, plan: &Plan, bench: &Bench) -> io::Result<Run> {
    if plan.subscribers == 0 {
        return Err(io::Error::other("nobody is subscribed"));
    }
    if plan
        .tokens()
        .is_some_and(|tokens| target.tokens.users() != tokens)
    {
        return Err(io::Error::other(
            "tokens are signed as --rls wants them: leave --token and --tokens out",
        ));
    }
    table::set_up(plan).map_err(io::Error::other)?;
    let tables = (0..plan.writing.writers).map(|_| {
        let changes = Changes::connect(plan)?;
        Ok(Box::new(changes) as Box<dyn Table>)
    });
    let tables: Result<Vec<_>, String> = tables.collect();
    let tables = tables.map_err(io::Error::other)?;
    let watch = Watch::new(&plan.database, bench).map_err(io::Error::other)?;
    run_on(target, plan, bench, tables, watch)
}

/// The same with a table for each writer, and with who watches the processes.
fn run_on(
    target: &Target,
    plan: &Plan,
    bench: &Bench,
    tables: Vec<Box<dyn Table>>,
    watch: Watch,
) -> io::Result<Run> {
    let pace = plan.pace();
    let board = rows::board(bench, plan.writing.writers);
    let watched = {
        let board = Arc::clone(&board);
        threads::start_beside(&bench.cpus, 0, "watch", move || watch.work(&board))?
    };
    let mut run = rows::run(target, &pace, &plan.ask(), bench, &board, tables)?;
    let seen = watched
        .join()
        .map_err(|_| io::Error::other("the watching thread panicked"))??;
    seen.describe(pace.copies, &mut run);
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault, Rows};
    use crate::scenario::rows::ROWS;

    /// Writes to the topics that a row is for.
    struct Topics {
        rows: Rows,
        members: usize,
        channels: Channels,
        owns: bool,
    }

    impl Table for Topics {
        fn insert(&mut self, first: u32, payloads: &[String]) -> Result<(), String> {
            for (sequence, payload) in (first..).zip(payloads) {
                let to = match (self.channels, self.owns) {
                    (Channels::Same, _) => 0..1,
                    (Channels::Each, false) => 0..self.members,
                    (Channels::Each, true) => {
                        let owner = rows::owner_of(sequence, self.members);
                        owner..owner + 1
                    }
                };
                for topic in to {
                    self.rows.change(&format!("load-{topic:06}"), payload);
                }
            }
            Ok(())
        }
    }

    fn plan(rls: Rls, channels: Channels, rate: Option<f64>) -> Plan {
        Plan {
            database: String::new(),
            subscribers: 4,
            rls,
            channels,
            filter: None,
            rate: Rate(rate),
            outstanding: 30,
            transaction: 3,
            publication: "supabase_realtime".to_owned(),
            writing: Writing::briefly(1),
        }
    }

    fn run_against(dialect: Dialect, fault: Fault, plan: &Plan, owns: bool) -> Run {
        let (target, rows) = fake::start_with_rows(dialect, fault);
        run_with(&target, &rows, plan, owns)
    }

    fn run_with(target: &Target, rows: &Rows, plan: &Plan, owns: bool) -> Run {
        let table = || {
            Box::new(Topics {
                rows: rows.clone(),
                members: plan.subscribers,
                channels: plan.channels,
                owns,
            }) as Box<dyn Table>
        };
        let tables = (0..plan.writing.writers).map(|_| table()).collect();
        let watch = Watch::blind(std::process::id());
        run_on(target, plan, &fake::bench(), tables, watch).unwrap()
    }

    #[test]
    fn rows_reach_all_subscribers_whatever_the_channels() {
        for (dialect, channels, rate) in [
            (Dialect::V1, Channels::Same, None),
            (Dialect::V2, Channels::Each, None),
            (Dialect::V2, Channels::Same, Some(500.0)),
        ] {
            let plan = plan(Rls::None, channels, rate);
            let run = run_against(dialect, Fault::None, &plan, false);
            assert_eq!(run.problems, [""; 0], "{dialect:?} {channels:?}");
            assert!(run.value(ROWS).unwrap() > 0.0);
            assert!(run.value("latency p99").unwrap() > 0.0);
            assert!(run.value("server resident peak").unwrap() > 0.0);
        }
    }

    #[test]
    fn a_row_that_somebody_else_gets_is_a_problem() {
        let plan = plan(Rls::Own, Channels::Each, Some(300.0));
        let run = run_against(Dialect::V2, Fault::None, &plan, true);
        assert_eq!(run.problems, [""; 0]);
        let run = run_against(Dialect::V2, Fault::None, &plan, false);
        let problem = "messages came to a member of another topic";
        let found = run.problems.iter().any(|text| text.contains(problem));
        assert!(found, "{:?}", run.problems);
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
            (
                Fault::ClosesOther,
                "closed by the server: Some(1013)",
                "closed=0",
            ),
            (Fault::Refuses, "4 of 4 members were refused", "delivered>0"),
            (
                Fault::NeverReady,
                "only 0 of 4 members got an answer",
                "delivered>0",
            ),
        ] {
            let plan = plan(Rls::None, Channels::Same, Some(300.0));
            let run = run_against(Dialect::V2, fault, &plan, false);
            fake::assert_noticed(&run, problem, expected);
        }
    }

    #[test]
    fn a_stall_counts_from_the_time_a_row_was_due() {
        let plan = plan(Rls::None, Channels::Same, Some(300.0));
        let run = run_against(Dialect::V2, Fault::Stalls, &plan, false);
        assert_eq!(run.problems, [""; 0]);
        // Rows from the seventh on wait for the 27th, six transactions of 10 ms later.
        assert!(run.value("latency max").unwrap() > 55_000.0, "{run:?}");
    }

    #[test]
    fn subscribers_are_kept_where_they_are() {
        let mut plan = plan(Rls::None, Channels::Each, Some(30.0));
        plan.writing.seconds = fake::TOKENS_OUTLIVED_SECONDS;
        fake::assert_keeps(8.0, |fault| {
            let (target, rows) = fake::start_to_keep(fault);
            run_with(&target, &rows, &plan, false)
        });
    }

    #[test]
    fn a_rate_is_a_number_or_max() {
        assert_eq!("max".parse(), Ok(Rate(None)));
        assert_eq!("0.5".parse(), Ok(Rate(Some(0.5))));
        for text in ["", "0", "-1", "nan", "most"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
