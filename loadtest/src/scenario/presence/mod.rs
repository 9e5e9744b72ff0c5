//! Presence: members of one topic that say what they are, some that come and go, and all are told of it.
//!
//! In: a [`Plan`]. Out: diffs per second, the time from when a change was due to when a member had it, and
//! every change that a member missed, had twice or had out of its author's order.
//!
//! Open loop. Members stay, track a new payload in turn and check everything. Churners join with a presence
//! and leave again, also in turn; every coming and every going has to reach each member once.

mod desk;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::link::Target;
use crate::report::Run;
use crate::settings::Bench;

use super::fanout::{self, Board, Load};
use super::threads;

/// What is to be done.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Members that stay; each remembers what it had from each other.
    #[arg(long, default_value_t = 100)]
    pub members: usize,
    /// Payloads that members track per second, all together.
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// Channels that come and go.
    #[arg(long, default_value_t = 10)]
    pub churners: usize,
    /// Comings and goings per second, all together.
    #[arg(long, default_value_t = 20.0)]
    pub churn: f64,
    /// Bytes of each presence's JSON payload.
    #[arg(long, default_value_t = 100)]
    pub payload: usize,
    /// How long is measured.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// How long the load runs before that.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up_seconds: f64,
}

/// Members of a run at most: what each remembers of each other is their square.
const MEMBERS_MAX: usize = 5000;

/// Runs the plan once.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process, too many members.
pub fn run(target: &Target, plan: &Plan, bench: &Bench) -> io::Result<Run> {
    if plan.members + plan.churners > MEMBERS_MAX {
        let text = format!("more than {MEMBERS_MAX} members and churners");
        return Err(io::Error::other(text));
    }
    let threads_count = bench.cpus.len();
    let board = Arc::new(Board::new(threads_count, threads_count));
    let shared = (target.clone(), plan.clone(), Arc::clone(&board));
    let threads = threads::start(&bench.cpus, move |index| {
        let (target, plan, board) = shared.clone();
        desk::work(target, plan, board, index, threads_count)
    })?;
    let load = Load {
        members: plan.members + plan.churners,
        copies: plan.members as u64,
        // Everybody says what it is and hears it of everybody.
        first: (plan.members * plan.members) as u64,
        rate: Some(plan.rate + plan.churn),
        warm_up_seconds: plan.warm_up_seconds,
        seconds: plan.seconds,
        patience: Duration::ZERO,
    };
    fanout::run(&load, bench, &board, threads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault};

    fn plan(members: usize, churn: f64) -> Plan {
        Plan {
            members,
            rate: 200.0,
            churners: 2,
            churn,
            payload: 100,
            seconds: 0.3,
            warm_up_seconds: 0.0,
        }
    }

    fn run_against(dialect: Dialect, fault: Fault, members: usize, churn: f64) -> Run {
        let target = fake::start(dialect, fault);
        run(&target, &plan(members, churn), &fake::bench()).unwrap()
    }

    #[test]
    fn everybody_hears_of_everybody_in_any_dialect() {
        for dialect in [Dialect::V1, Dialect::V2] {
            let run = run_against(dialect, Fault::None, 3, 100.0);
            assert_eq!(run.problems, [""; 0], "{dialect:?}");
            assert!(run.value("delivered").unwrap() > 0.0);
            assert!(run.value("latency p99").unwrap() > 0.0);
        }
    }

    #[test]
    fn every_fault_is_a_problem_by_its_name() {
        for (fault, members, churn, problem, expected) in [
            (Fault::Loses, 3, 0.0, "1 messages were lost", "loss=0"),
            (
                Fault::Doubles,
                3,
                0.0,
                "1 messages came twice",
                "duplicates=0",
            ),
            // Neighbours are of different members, unless there is one alone.
            (
                Fault::Swaps,
                1,
                0.0,
                "1 messages came out of order",
                "disorder=0",
            ),
            (
                Fault::Refuses,
                3,
                0.0,
                "5 of 5 members were refused",
                "delivered>0",
            ),
            (Fault::Stays, 3, 100.0, "messages were lost", "loss=0"),
            (
                Fault::ClosesOther,
                3,
                0.0,
                "closed by the server: Some(1013)",
                "closed=0",
            ),
            // Those who come and go are refused as well.
            (Fault::RefusesTenth, 3, 400.0, "the server said", "loss=0"),
        ] {
            let run = run_against(Dialect::V2, fault, members, churn);
            fake::assert_noticed(&run, problem, expected);
        }
    }

    #[test]
    fn those_who_stay_are_kept_and_those_who_come_and_go() {
        let plan = Plan {
            rate: 20.0,
            seconds: fake::TOKENS_OUTLIVED_SECONDS,
            ..plan(3, 3.0)
        };
        fake::assert_keeps(6.0, |fault| {
            let (target, _) = fake::start_to_keep(fault);
            run(&target, &plan, &fake::bench()).unwrap()
        });
    }

    #[test]
    fn a_stall_counts_from_the_time_a_change_was_due() {
        let run = run_against(Dialect::V2, Fault::Stalls, 3, 0.0);
        assert_eq!(run.problems, [""; 0]);
        // The seventh waits for the 27th: 20 gaps of 5 ms.
        assert!(run.value("latency max").unwrap() > 95_000.0, "{run:?}");
    }
}
