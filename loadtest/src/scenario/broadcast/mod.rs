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

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::link::Target;
use crate::probe::ProcessMemory;
use crate::report::{self, Run};
use crate::settings::Bench;

use super::threads::{self, Meter, Usage};

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
    /// How long is measured.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// How long the load runs before that.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up_seconds: f64,
}

/// Where a run is. Only ever moves forward; it begins, as 0, with the members connecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Phase {
    WarmUp = 1,
    Measure,
    Drain,
    Done,
}

/// What the threads of a run tell each other.
#[derive(Debug, Default)]
struct Board {
    phase: AtomicU8,
    joined: AtomicUsize,
    refused: AtomicUsize,
    /// One for each thread: messages received for the first time.
    received: Vec<AtomicU64>,
    /// One for each thread: receives that brought messages.
    receives: Vec<AtomicU64>,
    /// One for each thread: messages sent.
    sent: Vec<AtomicU64>,
}

impl Board {
    fn new(threads: usize) -> Self {
        let counters = || (0..threads).map(|_| AtomicU64::new(0)).collect();
        Self {
            received: counters(),
            receives: counters(),
            sent: counters(),
            ..Self::default()
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    fn is_at_least(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Acquire) >= phase as u8
    }

    fn received(&self) -> u64 {
        sum(&self.received)
    }

    fn receives(&self) -> u64 {
        sum(&self.receives)
    }

    fn sent(&self) -> u64 {
        sum(&self.sent)
    }
}

fn sum(counters: &[AtomicU64]) -> u64 {
    let counts = counters.iter().map(|count| count.load(Ordering::Relaxed));
    counts.sum()
}

/// What one thread found.
#[derive(Debug)]
struct Findings {
    latency_ns: Histogram<u64>,
    duplicates: u64,
    late: u64,
    misdirected: u64,
    not_sent: u64,
    problems: Vec<String>,
}

/// How long nothing may happen before a phase is given up.
const STALL: Duration = if cfg!(test) {
    Duration::from_millis(300)
} else {
    Duration::from_secs(10)
};

/// Runs the plan once.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process.
pub fn run(target: &Target, plan: &Plan, bench: &Bench) -> std::io::Result<Run> {
    let board = Arc::new(Board::new(bench.cpus.len()));
    let shared = (
        target.clone(),
        plan.clone(),
        Arc::clone(&board),
        bench.cpus.len(),
    );
    let threads = threads::start(&bench.cpus, move |index| {
        let (target, plan, board, count) = shared.clone();
        desk::work(target, plan, board, index, count)
    })?;
    let mut run = Run::default();
    let measured = conduct(plan, bench, &board);
    board.enter(Phase::Done);
    let mut findings = Vec::new();
    for thread in threads {
        let found = thread
            .join()
            .map_err(|_| std::io::Error::other("a harness thread panicked"))?;
        findings.push(found?);
    }
    match measured? {
        Ok(measured) => describe(plan, bench, &measured, &mut run),
        Err(problem) => run.problems.push(problem),
    }
    judge(plan, &board, findings, &mut run);
    Ok(run)
}

/// What was counted between the two ends of the measurement.
struct Measured {
    received: u64,
    receives: u64,
    sent: u64,
    usage: Usage,
}

/// Moves the threads through the phases. The outer error is the harness's, the inner one the
/// server's.
fn conduct(plan: &Plan, bench: &Bench, board: &Board) -> std::io::Result<Result<Measured, String>> {
    let members = plan.members * plan.topics;
    let everyone = || {
        board.joined.load(Ordering::Acquire) as u64 + board.refused.load(Ordering::Acquire) as u64
    };
    if !wait_until(everyone, members as u64) {
        return Ok(Err(format!(
            "only {} of {members} members got an answer",
            everyone()
        )));
    }
    let refused = board.refused.load(Ordering::Acquire);
    if refused > 0 {
        return Ok(Err(format!("{refused} of {members} members were refused")));
    }
    board.enter(Phase::WarmUp);
    std::thread::sleep(Duration::from_secs_f64(plan.warm_up_seconds));
    board.enter(Phase::Measure);
    let (received, receives, sent) = (board.received(), board.receives(), board.sent());
    let meter = Meter::start(bench)?;
    std::thread::sleep(Duration::from_secs_f64(plan.seconds));
    let measured = Measured {
        received: board.received() - received,
        receives: board.receives() - receives,
        sent: board.sent() - sent,
        usage: meter.stop()?,
    };
    board.enter(Phase::Drain);
    let members = plan.members as u64;
    wait_until(|| board.received(), board.sent() * members);
    // A message may have been on its way out when the first sum was taken.
    wait_until(|| board.received(), board.sent() * members);
    Ok(Ok(measured))
}

/// Waits until `value` reaches `goal`, or stands still for [`STALL`].
fn wait_until(value: impl Fn() -> u64, goal: u64) -> bool {
    const LOOK: Duration = Duration::from_millis(5);
    let mut best = value();
    let mut still = Duration::ZERO;
    while best < goal {
        std::thread::sleep(LOOK);
        let now = value();
        still = if now > best {
            Duration::ZERO
        } else {
            still + LOOK
        };
        if still >= STALL {
            return false;
        }
        best = now;
    }
    true
}

/// Puts the measurement into figures.
fn describe(plan: &Plan, bench: &Bench, measured: &Measured, run: &mut Run) {
    let usage = &measured.usage;
    let seconds = usage.wall_ns as f64 / 1e9;
    run.push(DELIVERED, "frames/s", measured.received as f64 / seconds);
    run.push("sent", "messages/s", measured.sent as f64 / seconds);
    let batch = measured.received as f64 / measured.receives.max(1) as f64;
    run.push(BATCH, "", batch);
    if let Some(rate) = plan.rate {
        run.push("offered", "messages/s", rate);
    }
    if let Some(server) = &bench.server {
        let frames = measured.received.max(1) as f64;
        let per_frame = |ns: u64| ns as f64 / 1e3 / frames;
        let with_ksoftirqd = usage.server_ns + usage.ksoftirqd_ns;
        run.push(CPU_PER_FRAME, "us", per_frame(with_ksoftirqd));
        run.push("  of which ksoftirqd", "us", per_frame(usage.ksoftirqd_ns));
        let system = usage.server_system_ns as f64 / usage.server_ns.max(1) as f64;
        run.push("  of which in the kernel", "%", system * 100.0);
        for (name, ns) in usage.server.iter().take(8) {
            run.push(format!("  thread {name}"), "us", per_frame(*ns));
        }
        let share = usage.server_ns as f64 / usage.wall_ns as f64;
        run.push("server cpu", "%", share * 100.0);
        if let Ok(memory) = ProcessMemory::read(server.pid) {
            run.push("server resident", "MB", memory.resident as f64 / 1e6);
        }
    }
    usage.push_harness(run);
}

/// The figure that ratios are made of.
pub const CPU_PER_FRAME: &str = "server cpu per delivered frame";

/// How many frames a member got at once; ratios mean something only when it is the same on both
/// sides.
pub const BATCH: &str = "frames per receive";

/// Delivered frames.
pub const DELIVERED: &str = "delivered";

/// Adds latency and everything that went wrong.
fn judge(plan: &Plan, board: &Board, findings: Vec<Findings>, run: &mut Run) {
    let mut latency_ns = report::histogram();
    let (mut duplicates, mut late, mut misdirected, mut not_sent) = (0, 0, 0, 0);
    for found in findings {
        latency_ns
            .add(&found.latency_ns)
            .expect("both histograms have the same bounds");
        duplicates += found.duplicates;
        late += found.late;
        misdirected += found.misdirected;
        not_sent += found.not_sent;
        run.problems.extend(found.problems);
    }
    run.push_percentiles("latency", &latency_ns, "us", 1e3);
    let expected = board.sent() * plan.members as u64;
    let lost = expected.saturating_sub(board.received());
    for (count, what) in [
        (lost, "messages were lost"),
        (duplicates, "messages came twice"),
        (late, "messages came out of order"),
        (misdirected, "messages came to a member of another topic"),
        (
            not_sent,
            "messages could not be sent in time: the server takes less than is offered",
        ),
    ] {
        if count > 0 {
            run.problems.push(format!("{count} {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault};

    fn run_against(dialect: Dialect, fault: Fault, plan: &Plan) -> Run {
        let target = fake::start(dialect, fault);
        let bench = Bench {
            cpus: vec![0],
            server: None,
        };
        run(&target, plan, &bench).unwrap()
    }

    fn plan(topics: usize, senders: usize, rate: Option<f64>) -> Plan {
        Plan {
            members: 4,
            topics,
            senders,
            outstanding: 4,
            rate,
            payload: 100,
            seconds: 0.1,
            warm_up_seconds: 0.0,
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
    fn every_fault_of_a_server_is_a_problem_by_its_name() {
        for (fault, topics, problem) in [
            (Fault::Loses, 2, "1 messages were lost"),
            (Fault::Doubles, 2, "1 messages came twice"),
            (Fault::Swaps, 1, "4 messages came out of order"),
            (
                Fault::Mixes,
                2,
                "messages came to a member of another topic",
            ),
            (Fault::Refuses, 2, "8 of 8 members were refused"),
            (Fault::Closes, 2, "closed by the server: Some(1012)"),
        ] {
            let run = run_against(Dialect::V2, fault, &plan(topics, 1, Some(500.0)));
            let found = run.problems.iter().any(|text| text.contains(problem));
            assert!(found, "{fault:?}: {:?}", run.problems);
        }
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
