//! Fan-out: members on topics, senders that keep messages outstanding or keep to a rate.
//!
//! In: a [`Plan`]. Out: delivered frames per second, latency, the server's CPU for each delivered
//! frame, and every message that was lost, doubled or out of order.
//!
//! Closed loop: each topic has a number of messages outstanding; one counts as done when every
//! member on the sender's harness thread has it, and the next one is sent then. Open loop: messages
//! are due at fixed times, and latency is measured from the time a message was due, so that a stall
//! of the server (or of the harness) is in the figures and not left out of them.

mod desk;
mod rest;
mod slow;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::link::Target;
use crate::report::Run;
use crate::settings::Bench;

use super::fanout::{self, Board, Load};
use super::threads;

pub use super::fanout::{BATCH, CPU_PER_FRAME, DELIVERED};

/// What is to be done.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Members of each topic.
    #[arg(long, default_value_t = 1000)]
    pub members: usize,
    /// Topics.
    #[arg(long, default_value_t = 1)]
    pub topics: usize,
    /// Members of each topic that send; what they send comes back to them as well.
    #[arg(long, default_value_t = 1)]
    pub senders: usize,
    /// Closed loop: messages outstanding on each topic, shared by its senders.
    #[arg(long, default_value_t = 1)]
    pub outstanding: usize,
    /// Open loop: messages per second over all topics and senders, instead of --outstanding.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Bytes of each message's JSON payload.
    #[arg(long, default_value_t = 100)]
    pub payload: usize,
    /// How messages are sent.
    #[arg(long, value_enum, default_value = "socket")]
    pub via: Via,
    /// Members of each topic that never read, its last ones: `slow-readers` sets it.
    #[arg(skip)]
    pub slow: usize,
    /// Private channels, which the tenant's database has to allow (`loadtest/database.sql`).
    #[arg(long)]
    pub private: bool,
    /// How long is measured.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// How long the load runs before that.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up_seconds: f64,
}

/// How messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// On the sockets of the members that send.
    Socket,
    /// By `POST /api/broadcast`, a connection for each member that sends.
    Rest,
}

impl Default for Plan {
    /// What the command line has when nothing is said.
    fn default() -> Self {
        Self {
            members: 1000,
            topics: 1,
            senders: 1,
            outstanding: 1,
            rate: None,
            payload: 100,
            via: Via::Socket,
            slow: 0,
            private: false,
            seconds: 5.0,
            warm_up_seconds: 1.0,
        }
    }
}

impl Plan {
    /// Whether a member of a topic reads what it gets.
    const fn reads(&self, member: usize) -> bool {
        member < self.readers()
    }

    const fn readers(&self) -> usize {
        self.members.saturating_sub(self.slow)
    }
}

/// What is told of members that never read.
pub(super) const CLOSED: &str = "slow readers closed by the server";

/// Runs the plan once.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process.
pub fn run(target: &Target, plan: &Plan, bench: &Bench) -> std::io::Result<Run> {
    let threads_count = bench.cpus.len();
    let board = Arc::new(Board::new(threads_count, threads_count));
    let shared = (target.clone(), plan.clone(), Arc::clone(&board));
    let threads = threads::start(&bench.cpus, move |index| {
        let (target, plan, board) = shared.clone();
        desk::work(target, plan, board, index, threads_count)
    })?;
    let load = Load {
        members: plan.members * plan.topics,
        copies: plan.readers() as u64,
        first: 0,
        rate: plan.rate,
        warm_up_seconds: plan.warm_up_seconds,
        seconds: plan.seconds,
        patience: Duration::ZERO,
    };
    let mut run = fanout::run(&load, bench, &board, threads)?;
    if plan.slow > 0 {
        run.push("slow readers", "", (plan.slow * plan.topics) as f64);
        let closed = board.closed.load(Ordering::Relaxed);
        run.push(CLOSED, "", closed as f64);
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault};

    fn run_against(dialect: Dialect, fault: Fault, plan: &Plan) -> Run {
        let target = fake::start(dialect, fault);
        run(&target, plan, &fake::bench()).unwrap()
    }

    fn plan(topics: usize, senders: usize, rate: Option<f64>) -> Plan {
        Plan {
            members: 4,
            topics,
            senders,
            outstanding: 4,
            rate,
            seconds: 0.1,
            warm_up_seconds: 0.0,
            ..Plan::default()
        }
    }

    #[test]
    fn an_honest_server_has_no_problems_in_any_dialect() {
        for dialect in [Dialect::V1, Dialect::V2, Dialect::V2Text] {
            for plan in [plan(1, 1, None), plan(3, 2, None), plan(3, 4, Some(1000.0))] {
                let run = run_against(dialect, Fault::None, &plan);
                assert_eq!(run.problems, [""; 0], "{dialect:?}");
                assert!(run.value("delivered").unwrap() > 0.0);
                assert!(run.value("latency p99.9").unwrap() > 0.0);
            }
        }
    }

    #[test]
    fn messages_are_sent_by_requests_as_well() {
        for (dialect, rate) in [(Dialect::V2, None), (Dialect::V1, Some(500.0))] {
            let plan = Plan {
                via: Via::Rest,
                ..plan(2, 1, rate)
            };
            let run = run_against(dialect, Fault::None, &plan);
            assert_eq!(run.problems, [""; 0], "{dialect:?}");
            assert!(run.value("delivered").unwrap() > 0.0);
        }
        let plan = Plan {
            via: Via::Rest,
            ..plan(2, 1, Some(500.0))
        };
        let run = run_against(Dialect::V2, Fault::Loses, &plan);
        assert_eq!(run.problems, ["1 messages were lost"]);
        assert_eq!(run.value("loss"), Some(1.0));
    }

    #[test]
    fn every_fault_of_a_server_is_a_problem_by_its_name() {
        let elsewhere = "messages came to a member of another topic";
        for (fault, topics, problem, expected) in [
            (Fault::Loses, 2, "1 messages were lost", "loss=0"),
            (Fault::Doubles, 2, "1 messages came twice", "duplicates=0"),
            (
                Fault::Swaps,
                1,
                "4 messages came out of order",
                "disorder=0",
            ),
            (Fault::Mixes, 2, elsewhere, "misdirected=0"),
            (
                Fault::Refuses,
                2,
                "8 of 8 members were refused",
                "delivered>0",
            ),
            (Fault::NeverAnswers, 3, "no answer within", "delivered>0"),
            (
                Fault::Closes,
                2,
                "closed by the server: Some(1012)",
                "closed=0",
            ),
            (Fault::HangsUp, 3, "ended without a close frame", "closed=0"),
        ] {
            let run = run_against(Dialect::V2, fault, &plan(topics, 1, Some(500.0)));
            fake::assert_noticed(&run, problem, expected);
        }
    }

    #[test]
    fn members_are_kept_where_they_are() {
        let plan = Plan {
            seconds: fake::TOKENS_OUTLIVED_SECONDS,
            ..plan(2, 1, Some(50.0))
        };
        // Eight of them, twice.
        fake::assert_keeps(16.0, |fault| {
            let (target, _) = fake::start_to_keep(fault);
            run(&target, &plan, &fake::bench()).unwrap()
        });
    }

    #[test]
    fn in_an_open_loop_a_stall_counts_from_the_time_a_message_was_due() {
        let plan = Plan {
            seconds: 0.5,
            ..plan(1, 1, Some(500.0))
        };
        let run = run_against(Dialect::V2, Fault::Stalls, &plan);
        assert_eq!(run.problems, [""; 0]);
        // The seventh waits for the 27th, which is not due for 20 gaps of 2 ms; the histogram is
        // exact to one in a hundred.
        assert!(run.value("latency max").unwrap() > 39_000.0, "{run:?}");
    }
}
