//! Joins of private channels that ask for the messages that the database still holds.
//!
//! In: a [`Plan`]. Out: joins per second, the time each took until its answer was there, and the messages
//! that were replayed for each. The load is `joins`' with channels that come and go on sockets that stay.

use crate::link::Target;
use crate::report::Run;
use crate::settings::Bench;

use super::joins;

/// What is to be done.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Messages that each join asks for; the server gives no more than 25.
    #[arg(long, default_value_t = 25)]
    pub limit: u32,
    /// Sockets of each harness thread, each with one join under way.
    #[arg(long, default_value_t = 16)]
    pub concurrency: usize,
    /// Topics over which the joins are spread; `database.sql` writes to the first 1,000.
    #[arg(long, default_value_t = 1000)]
    pub topics: usize,
    /// How long is measured.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// How long the load runs before that.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up_seconds: f64,
}

/// Runs the plan once.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process.
pub fn run(target: &Target, plan: &Plan, bench: &Bench) -> std::io::Result<Run> {
    let joins = joins::Plan {
        channels: 1,
        concurrency: plan.concurrency,
        rate: None,
        seconds: plan.seconds,
        warm_up_seconds: plan.warm_up_seconds,
        hold: 0,
        topics: plan.topics,
        private: true,
        channels_only: true,
        replay: Some(plan.limit),
        bare: false,
    };
    let mut run = joins::run(target, &joins, bench)?;
    let joined = run.value("joined").unwrap_or(0.0);
    if joined > 0.0 && run.value(joins::REPLAYED) == Some(0.0) {
        run.problems
            .push("nothing was replayed: write messages first (loadtest/database.sql)".to_owned());
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault};

    fn run_against(fault: Fault, limit: u32) -> Run {
        let target = fake::start(Dialect::V2, fault);
        let plan = Plan {
            limit,
            concurrency: 4,
            topics: 10,
            seconds: 0.2,
            warm_up_seconds: 0.0,
        };
        run(&target, &plan, &fake::bench()).unwrap()
    }

    #[test]
    fn joins_get_what_they_ask_for() {
        let run = run_against(Fault::None, 3);
        assert_eq!(run.problems, [""; 0]);
        let replayed = run.value(joins::REPLAYED).unwrap();
        assert!((2.0..=4.0).contains(&replayed), "{replayed}");
    }

    #[test]
    fn every_fault_is_a_problem_by_its_name() {
        for (fault, limit, problem, expected) in [
            (
                Fault::None,
                0,
                "nothing was replayed",
                "replayed for each join>0",
            ),
            (Fault::Refuses, 3, "join refused", "refused=0"),
            (Fault::RefusesTenth, 3, "joins were refused", "refused=0"),
            (Fault::Loses, 3, "1 messages were not replayed", "loss=0"),
            (
                Fault::Doubles,
                3,
                "1 messages were replayed twice",
                "duplicates=0",
            ),
            (
                Fault::Swaps,
                3,
                "1 messages were replayed out of order",
                "disorder=0",
            ),
            (
                Fault::AnswersTwice,
                3,
                "joins were answered twice",
                "answered twice=0",
            ),
            (Fault::NeverAnswers, 3, "no answer within", "refused=0"),
            (Fault::HangsUp, 3, "closed before", "refused=0"),
        ] {
            let run = run_against(fault, limit);
            fake::assert_noticed(&run, problem, expected);
        }
    }

    #[test]
    fn an_answer_that_comes_late_counts_for_as_long() {
        let run = run_against(Fault::AnswersLate, 3);
        assert_eq!(run.problems, [""; 0]);
        let late_ms = fake::LATE.as_secs_f64() * 1e3;
        assert!(run.value("join to joined max").unwrap() >= late_ms * 0.99);
    }
}
