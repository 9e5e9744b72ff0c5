//! What both fan-out loads have in common: the phases of a run, what its threads count, the figures.
//!
//! In: a [`Load`] and the threads that make it. Out: a [`Run`] with delivered frames per second,
//! latency, the server's CPU for each frame, and every message that was lost, doubled or out of
//! order. Who sends, and how members are read, is the scenario's own affair.

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::probe::ProcessMemory;
use crate::progress::Progress;
use crate::report::Run;
use crate::settings::Bench;
use crate::timeline::{Start, Timeline};

use super::threads::{Meter, THREADS_SHOWN_MAX, Usage};
use super::{memory, stall};

/// Where a run is. Only ever moves forward; it begins, as 0, with the members connecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Phase {
    WarmUp = 1,
    Measure,
    Drain,
    Done,
}

/// What the threads of a run tell each other.
#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) phase: AtomicU8,
    pub(super) joined: AtomicUsize,
    pub(super) refused: AtomicUsize,
    /// One for each thread: messages received for the first time.
    pub(super) received: Vec<AtomicU64>,
    /// One for each thread: receives that brought messages.
    pub(super) receives: Vec<AtomicU64>,
    /// One for each sending thread: messages sent.
    pub(super) sent: Vec<AtomicU64>,
    /// Members that do not read and were closed by the server.
    pub(super) closed: AtomicUsize,
    /// When the measurement began.
    pub(super) start: Start,
}

impl Board {
    /// A board for as many receiving threads and as many that count what they send.
    pub(super) fn new(receivers: usize, senders: usize) -> Self {
        let counters = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            received: counters(receivers),
            receives: counters(receivers),
            sent: counters(senders),
            ..Self::default()
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Counts messages that `sender` is about to make and send. False, and nothing is counted, when
    /// the load is over: either the conductor counts them, or the sender has seen the end.
    pub(super) fn announce(&self, sender: usize, messages: u64) -> bool {
        self.sent[sender].fetch_add(messages, Ordering::SeqCst);
        let is_over = self.phase.load(Ordering::SeqCst) >= Phase::Drain as u8;
        if is_over {
            self.sent[sender].fetch_sub(messages, Ordering::SeqCst);
        }
        !is_over
    }

    pub(super) fn is_at_least(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Acquire) >= phase as u8
    }

    pub(super) fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    pub(super) fn received(&self) -> u64 {
        sum(&self.received)
    }

    pub(super) fn receives(&self) -> u64 {
        sum(&self.receives)
    }

    pub(super) fn sent(&self) -> u64 {
        sum(&self.sent)
    }
}

fn sum(counters: &[AtomicU64]) -> u64 {
    let counts = counters.iter().map(|count| count.load(Ordering::SeqCst));
    counts.sum()
}

/// What one thread found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Latency while the load was measured, if anything arrived then.
    pub(super) timeline: Option<Timeline>,
    pub(super) duplicates: u64,
    pub(super) late: u64,
    pub(super) misdirected: u64,
    pub(super) not_sent: u64,
    /// Connections and channels that the server has ended.
    pub(super) closed: u64,
    /// Heartbeats without an answer.
    pub(super) unanswered: u64,
    /// Tokens that were renewed.
    pub(super) renewed: u64,
    pub(super) problems: Vec<String>,
}

impl Findings {
    /// The histogram of the interval that `now_ns` is in, on the board's clock.
    #[inline]
    pub(super) fn slot(&mut self, board: &Board, now_ns: u64) -> &mut Histogram<u64> {
        self.timeline
            .get_or_insert_with(|| board.start.timeline())
            .slot(now_ns)
    }
}

/// What was counted between the two ends of the measurement.
struct Measured {
    received: u64,
    receives: u64,
    sent: u64,
    usage: Usage,
    /// Of the server, if it is watched.
    memory: Vec<(f64, f64)>,
}

/// What the conductor of a run has to know of its plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Members of all topics together.
    pub(super) members: usize,
    /// Members that get each message.
    pub(super) copies: u64,
    /// Messages, counted at each member, that have to arrive before the load is warming up.
    pub(super) first: u64,
    /// Messages per second that are offered, in an open loop.
    pub(super) rate: Option<f64>,
    /// How long the load runs before it is measured.
    pub(super) warm_up_seconds: f64,
    /// How long it is measured.
    pub(super) seconds: f64,
    /// How much longer than usual nothing may arrive while all is well.
    pub(super) patience: Duration,
}

/// Conducts one run whose threads have been started, and reports it.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process.
pub(super) fn run(
    load: &Load,
    bench: &Bench,
    board: &Board,
    threads: Vec<JoinHandle<io::Result<Findings>>>,
) -> io::Result<Run> {
    let mut run = Run::default();
    let measured = conduct(load, bench, board);
    board.enter(Phase::Done);
    let mut findings = Vec::new();
    for thread in threads {
        let found = thread
            .join()
            .map_err(|_| io::Error::other("a harness thread panicked"))?;
        findings.push(found?);
    }
    match measured? {
        Ok(measured) => {
            describe(load.rate, bench, &measured, &mut run);
            run.memory = measured.memory;
        }
        Err(problem) => run.problems.push(problem),
    }
    judge(load.copies, board, findings, &mut run);
    Ok(run)
}

/// Moves the threads through the phases. The outer error is the harness's, the inner one the
/// server's.
fn conduct(load: &Load, bench: &Bench, board: &Board) -> io::Result<Result<Measured, String>> {
    let members = load.members;
    let everyone = || {
        board.joined.load(Ordering::Acquire) as u64 + board.refused.load(Ordering::Acquire) as u64
    };
    let mut progress = Progress::new();
    let all = members as u64;
    let answered = wait_until(everyone, all, stall(), |now| {
        progress.count(now, all, "have joined");
    });
    progress.end();
    if !answered {
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
    let stall = stall() + load.patience;
    if !wait_until(|| board.received(), load.first, stall, |_| {}) {
        let received = board.received();
        return Ok(Err(format!(
            "only {received} of the first {} messages arrived",
            load.first
        )));
    }
    warm_up(load.warm_up_seconds);
    board.start.begin(load.seconds);
    board.enter(Phase::Measure);
    let (received, receives, sent) = (board.received(), board.receives(), board.sent());
    let meter = Meter::start(bench)?;
    let memory = watch(load, bench, board);
    let measured = Measured {
        received: board.received() - received,
        receives: board.receives() - receives,
        sent: board.sent() - sent,
        usage: meter.stop()?,
        memory,
    };
    board.enter(Phase::Drain);
    // A message may be on its way out when the first sum is taken.
    for _ in 0..2 {
        let expected = board.sent() * load.copies;
        wait_until(|| board.received(), expected, stall, |_| {});
    }
    Ok(Ok(measured))
}

/// Lets the load run before it is measured.
pub(super) fn warm_up(seconds: f64) {
    let mut progress = Progress::new();
    let nobody = Bench {
        cpus: Vec::new(),
        server: None,
    };
    memory::watch(&nobody, seconds, |passed| {
        progress.say(passed / seconds, "warming up");
    });
    progress.end();
}

/// Lets the load run for its time, and looks at the server's memory and says how far it is meanwhile.
fn watch(load: &Load, bench: &Bench, board: &Board) -> Vec<(f64, f64)> {
    let mut progress = Progress::new();
    let before = board.received();
    let memory = memory::watch(bench, load.seconds, |seconds| {
        let received = board.received() - before;
        let per_second = received as f64 / seconds.max(1e-3);
        progress.say(seconds / load.seconds, &format!("{per_second:.0} frames/s"));
    });
    progress.end();
    memory
}

/// Waits until `value` reaches `goal`, or stands still for as long as `stall`; `tick` is told what it is meanwhile.
pub(super) fn wait_until(
    value: impl Fn() -> u64,
    goal: u64,
    stall: Duration,
    mut tick: impl FnMut(u64),
) -> bool {
    const LOOK: Duration = Duration::from_millis(5);
    let mut best = value();
    let mut still = Duration::ZERO;
    while best < goal {
        std::thread::sleep(LOOK);
        let now = value();
        tick(now);
        still = if now > best {
            Duration::ZERO
        } else {
            still + LOOK
        };
        if still >= stall {
            return false;
        }
        best = now;
    }
    true
}

/// Puts the measurement into figures.
fn describe(rate: Option<f64>, bench: &Bench, measured: &Measured, run: &mut Run) {
    let usage = &measured.usage;
    let seconds = usage.wall_ns as f64 / 1e9;
    run.push(DELIVERED, "frames/s", measured.received as f64 / seconds);
    run.push("sent", "messages/s", measured.sent as f64 / seconds);
    let batch = measured.received as f64 / measured.receives.max(1) as f64;
    run.push(BATCH, "", batch);
    if let Some(rate) = rate {
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
        for (name, ns) in usage.server.iter().take(THREADS_SHOWN_MAX) {
            run.push(format!("  thread {name}"), "us", per_frame(*ns));
        }
        usage.push_switches("delivered frame", measured.received, run);
        let share = usage.server_ns as f64 / usage.wall_ns as f64;
        run.push("server cpu", "%", share * 100.0);
        if let Ok(memory) = ProcessMemory::read(server.pid) {
            run.push("server resident", "MB", memory.resident as f64 / 1e6);
        }
        let most = measured.memory.iter().map(|(_, megabytes)| *megabytes);
        if let Some(most) = most.reduce(f64::max) {
            run.push("server resident at most", "MB", most);
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
fn judge(copies: u64, board: &Board, findings: Vec<Findings>, run: &mut Run) {
    let mut timeline = board.start.timeline();
    let mut all = Findings::default();
    for found in findings {
        if let Some(of_one) = &found.timeline {
            timeline.add(of_one);
        }
        all.duplicates += found.duplicates;
        all.late += found.late;
        all.misdirected += found.misdirected;
        all.not_sent += found.not_sent;
        all.closed += found.closed;
        all.unanswered += found.unanswered;
        all.renewed += found.renewed;
        run.problems.extend(found.problems);
    }
    run.push_percentiles("latency", &timeline.total(), "us", 1e3);
    run.timeline = Some(timeline);
    let expected = board.sent() * copies;
    let lost = expected.saturating_sub(board.received());
    for (name, count, what) in [
        (LOSS, lost, "messages were lost"),
        (DUPLICATES, all.duplicates, "messages came twice"),
        ("disorder", all.late, "messages came out of order"),
        (
            "misdirected",
            all.misdirected,
            "messages came to a member of another topic",
        ),
        (
            "not sent",
            all.not_sent,
            "messages could not be sent in time: less is taken than is offered",
        ),
    ] {
        run.push_count(name, count, what);
    }
    push_kept(all.closed, all.unanswered, all.renewed, run);
}

/// Adds what became of connections that were to stay.
pub(super) fn push_kept(closed: u64, unanswered: u64, renewed: u64, run: &mut Run) {
    run.push_count(
        CLOSED,
        closed,
        "connections or channels were ended by the server",
    );
    run.push_count(
        "unanswered heartbeats",
        unanswered,
        "heartbeats were not answered",
    );
    if renewed > 0 {
        run.push(RENEWED, "", renewed as f64);
    }
}

/// Connections and channels that the server has ended.
pub(super) const CLOSED: &str = "closed";

/// Tokens that were renewed on joined channels.
pub(super) const RENEWED: &str = "tokens renewed";

/// What came twice.
pub(super) const DUPLICATES: &str = "duplicates";

/// Messages that a member did not get, counted at each.
pub(super) const LOSS: &str = "loss";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_after_the_end_is_not_counted() {
        let board = Board::new(1, 2);
        assert!(board.announce(0, 3) && board.announce(1, 4));
        board.enter(Phase::Drain);
        assert!(!board.announce(0, 5));
        assert_eq!(board.sent(), 7);
    }
}
