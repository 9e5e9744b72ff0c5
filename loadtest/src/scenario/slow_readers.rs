//! Members that stop reading: what it costs the others, and what becomes of them.
//!
//! In: a [`Plan`]. Out: the figures of a broadcast at the members that read, how many of the others the
//! server has closed, and its memory meanwhile.
//! The load is `broadcast`'s, in an open loop: a closed one would wait for nobody.

use crate::link::Target;
use crate::report::Run;
use crate::settings::Bench;

use super::broadcast;

/// What is to be done.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Members of the topic.
    #[arg(long, default_value_t = 100)]
    pub members: usize,
    /// How many of them never read.
    #[arg(long, default_value_t = 10)]
    pub slow: usize,
    /// Messages per second.
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// Bytes of each message's JSON payload.
    #[arg(long, default_value_t = 10_000)]
    pub payload: usize,
    /// How long is measured.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// How long the load runs before that.
    #[arg(long, default_value_t = 0.0)]
    pub warm_up_seconds: f64,
}

/// Runs the plan once.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process, or nobody who reads.
pub fn run(target: &Target, plan: &Plan, bench: &Bench) -> std::io::Result<Run> {
    if plan.slow >= plan.members {
        return Err(std::io::Error::other("somebody has to read"));
    }
    let plan = broadcast::Plan {
        members: plan.members,
        slow: plan.slow,
        rate: Some(plan.rate),
        payload: plan.payload,
        seconds: plan.seconds,
        warm_up_seconds: plan.warm_up_seconds,
        ..broadcast::Plan::default()
    };
    broadcast::run(target, &plan, bench)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault};

    fn run_against(fault: Fault) -> Run {
        let target = fake::start(Dialect::V2, fault);
        let plan = Plan {
            members: 2,
            slow: 1,
            rate: 300.0,
            payload: 100,
            seconds: 0.2,
            warm_up_seconds: 0.0,
        };
        run(&target, &plan, &fake::bench()).unwrap()
    }

    #[test]
    fn only_those_who_read_are_expected_to_have_everything() {
        let run = run_against(Fault::None);
        assert_eq!(run.problems, [""; 0]);
        assert_eq!(run.value("slow readers"), Some(1.0));
        assert_eq!(run.value(broadcast::CLOSED), Some(0.0));
        assert!(run.value("latency p99").unwrap() > 0.0);
    }

    #[test]
    fn a_slow_reader_that_was_closed_is_counted_and_is_no_problem() {
        let run = run_against(Fault::ClosesOther);
        assert_eq!(run.problems, [""; 0]);
        assert_eq!(run.value(broadcast::CLOSED), Some(1.0));
    }

    #[test]
    fn what_the_others_miss_or_wait_for_is_noticed() {
        for (fault, problem, expected) in [
            (Fault::Loses, "1 messages were lost", "loss=0"),
            (Fault::Doubles, "1 messages came twice", "duplicates=0"),
            (Fault::Swaps, "1 messages came out of order", "disorder=0"),
        ] {
            fake::assert_noticed(&run_against(fault), problem, expected);
        }
        // The seventh waits for the 27th: 20 gaps of 3.3 ms.
        let run = run_against(Fault::Stalls);
        assert!(run.value("latency max").unwrap() > 60_000.0, "{run:?}");
    }
}
