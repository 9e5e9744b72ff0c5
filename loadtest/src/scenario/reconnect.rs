//! All connections are cut at once, and all come back at once.
//!
//! In: a [`Plan`]. Out: how long it took until everybody was joined again, how long each had to wait, and
//! what the server spent on it.
//! The time of a member begins when the connections were cut, not when its turn to connect came. An attempt
//! that is refused is made again, as clients do, and counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::alive;
use crate::clock::now_ns;
use crate::dialect::Join;
use crate::link::{self, Target};
use crate::progress::Progress;
use crate::report::Run;
use crate::settings::Bench;
use crate::timeline::{self, Start, Timeline};

use super::held::{Found, Holding};
use super::threads::{self, Meter};
use super::{fanout, stall};

/// What is to be done.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Connections, each with one joined channel.
    #[arg(long, default_value_t = 1000)]
    pub members: usize,
    /// Topics over which they are spread.
    #[arg(long, default_value_t = 100)]
    pub topics: usize,
    /// How often all are cut.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// How long they stay between.
    #[arg(long, default_value_t = 1.0)]
    pub pause_seconds: f64,
    /// Handshakes under way at once on each harness thread.
    #[arg(long, default_value_t = 1024)]
    pub concurrency: usize,
    /// Private channels, which the tenant's database has to allow (`loadtest/database.sql`).
    #[arg(long)]
    pub private: bool,
}

/// How long a client waits before it tries again.
const RETRY: Duration = Duration::from_millis(100);

/// What the threads share.
#[derive(Debug, Default)]
struct Board {
    /// The round that is on; the first connections are round 0.
    round: AtomicUsize,
    joined: AtomicU64,
    refused: AtomicU64,
    /// When the last one joined.
    last_ns: AtomicU64,
    /// When the first were cut.
    start: Start,
    over: AtomicBool,
}

/// What one thread found.
#[derive(Debug)]
struct Findings {
    /// From the cut, by when they had joined again.
    waited: Option<Timeline>,
    handshake_ns: Histogram<u64>,
    held: Found,
}

impl Default for Findings {
    fn default() -> Self {
        Self {
            waited: None,
            handshake_ns: timeline::histogram(),
            held: Found::default(),
        }
    }
}

/// One thread.
struct Desk {
    target: Target,
    plan: Plan,
    board: Arc<Board>,
    todo: RefCell<VecDeque<usize>>,
    held: Holding,
    under_way: Cell<usize>,
    findings: RefCell<Findings>,
}

/// Runs the plan once.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process.
pub fn run(target: &Target, plan: &Plan, bench: &Bench) -> io::Result<Run> {
    let board = Arc::new(Board::default());
    let count = bench.cpus.len();
    let shared = (target.clone(), plan.clone(), Arc::clone(&board));
    let threads = threads::start(&bench.cpus, move |index| {
        let (target, plan, board) = shared.clone();
        work(target, plan, board, index, count)
    })?;
    let mut run = Run::default();
    let conducted = conduct(plan, bench, &board, &mut run);
    board.over.store(true, Ordering::Release);
    let mut waited = board.start.timeline();
    let mut handshake_ns = timeline::histogram();
    let mut held = Found::default();
    for thread in threads {
        let found = thread
            .join()
            .map_err(|_| io::Error::other("a harness thread panicked"))??;
        if let Some(of_one) = &found.waited {
            waited.add(of_one);
        }
        handshake_ns
            .add(&found.handshake_ns)
            .expect("both histograms have the same bounds");
        held.add(found.held);
    }
    conducted?;
    run.push_percentiles("cut to joined", &waited.total(), "ms", 1e6);
    run.timeline = Some(waited);
    run.push_percentiles("connect to joined", &handshake_ns, "ms", 1e6);
    let refused = board.refused.load(Ordering::Relaxed);
    run.push_count("refused", refused, "joins were refused");
    held.describe(&mut run);
    Ok(run)
}

/// Has all connect, and then cuts them round by round.
fn conduct(plan: &Plan, bench: &Bench, board: &Board, run: &mut Run) -> io::Result<()> {
    let members = plan.members as u64;
    if !wait_for(board, members, members) {
        let joined = board.joined.load(Ordering::Acquire);
        run.problems
            .push(format!("only {joined} of {members} members joined"));
        return Ok(());
    }
    let meter = Meter::start(bench)?;
    let mut longest_ns = 0;
    for round in 1..=plan.rounds {
        thread::sleep(Duration::from_secs_f64(plan.pause_seconds));
        let cut_ns = now_ns();
        if round == 1 {
            // How long they will take is not known.
            let round = plan.pause_seconds + stall().as_secs_f64();
            board.start.begin(plan.rounds as f64 * round);
        }
        board.round.store(round, Ordering::Release);
        let goal = members * (round as u64 + 1);
        if !wait_for(board, goal, members) {
            let joined = (board.joined.load(Ordering::Acquire) + members).saturating_sub(goal);
            run.problems.push(format!(
                "round {round}: only {joined} of {members} members joined again"
            ));
            break;
        }
        let took_ns = board.last_ns.load(Ordering::Acquire).saturating_sub(cut_ns);
        longest_ns = longest_ns.max(took_ns);
    }
    let usage = meter.stop()?;
    run.push("connections", "", members as f64);
    if longest_ns > 0 {
        let seconds = longest_ns as f64 / 1e9;
        run.push("joined", "connections/s", members as f64 / seconds);
        run.push("all joined again after", "ms", seconds * 1e3);
    }
    usage.push_server(bench, "reconnect", members * plan.rounds as u64, run);
    usage.push_harness(run);
    Ok(())
}

/// Waits until so many more have joined, or nobody has for as long as [`stall`].
fn wait_for(board: &Board, goal: u64, members: u64) -> bool {
    let mut progress = Progress::new();
    let joined = || board.joined.load(Ordering::Acquire);
    let all_joined = fanout::wait_until(joined, goal, stall(), |now| {
        progress.count((now + members).saturating_sub(goal), members, "have joined");
    });
    progress.end();
    all_joined
}

async fn work(
    target: Target,
    plan: Plan,
    board: Arc<Board>,
    index: usize,
    threads: usize,
) -> Findings {
    let desk = Rc::new(Desk {
        held: Holding::new(target.dialect),
        target,
        plan,
        board,
        todo: RefCell::default(),
        under_way: Cell::new(0),
        findings: RefCell::default(),
    });
    let alive = monoio::spawn({
        let desk = Rc::clone(&desk);
        async move { alive::keep(&desk.target, &desk.held).await }
    });
    let mine = || (index..desk.plan.members).step_by(threads).collect();
    let mut round = 0;
    desk.start(mine(), round);
    while !desk.is_over() {
        monoio::time::sleep(Duration::from_millis(1)).await;
        let now = desk.board.round.load(Ordering::Acquire);
        if now > round {
            round = now;
            desk.held.cut();
            desk.start(mine(), round);
        }
    }
    while desk.under_way.get() > 0 {
        monoio::time::sleep(Duration::from_millis(5)).await;
    }
    desk.held.end();
    desk.held.cut();
    let kept = alive.await;
    monoio::time::sleep(Duration::from_millis(20)).await;
    Findings {
        held: desk.held.take(kept),
        ..desk.findings.take()
    }
}

/// Takes members from the list and connects them, each until it has joined.
async fn connect_some(desk: Rc<Desk>, round: usize, cut_ns: u64) {
    loop {
        let Some(number) = desk.todo.borrow_mut().pop_front() else {
            break;
        };
        while !desk.is_over() {
            match desk.connect(number, round, cut_ns).await {
                Ok(()) => break,
                Err(problem) => desk.refused(problem),
            }
            monoio::time::sleep(RETRY).await;
        }
    }
    desk.under_way.set(desk.under_way.get() - 1);
}

impl Desk {
    fn is_over(&self) -> bool {
        self.board.over.load(Ordering::Acquire)
    }

    fn start(self: &Rc<Self>, members: VecDeque<usize>, round: usize) {
        let tasks = members.len().min(self.plan.concurrency.max(1));
        self.todo.borrow_mut().extend(members);
        let cut_ns = now_ns();
        for _ in 0..tasks {
            self.under_way.set(self.under_way.get() + 1);
            monoio::spawn(connect_some(Rc::clone(self), round, cut_ns));
        }
    }

    async fn connect(&self, number: usize, round: usize, cut_ns: u64) -> Result<(), String> {
        let topic = number % self.plan.topics.max(1);
        let topic = self.target.topic(topic);
        let join = Join {
            private: self.plan.private,
            ..Join::default()
        };
        let since_ns = now_ns();
        let (link, rest) = link::open(&self.target, number, &topic, &join).await?;
        let now = now_ns();
        self.held.hold(link, &rest);
        if round > 0 {
            let took_ns = |since_ns: u64| now.saturating_sub(since_ns).max(1);
            let mut findings = self.findings.borrow_mut();
            findings
                .waited
                .get_or_insert_with(|| self.board.start.timeline())
                .slot(now)
                .saturating_record(took_ns(cut_ns));
            findings.handshake_ns.saturating_record(took_ns(since_ns));
        }
        self.board.last_ns.fetch_max(now, Ordering::Release);
        self.board.joined.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn refused(&self, problem: String) {
        self.board.refused.fetch_add(1, Ordering::Relaxed);
        self.held.problem(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault};

    fn plan() -> Plan {
        Plan {
            members: 20,
            topics: 3,
            rounds: 2,
            pause_seconds: 0.01,
            concurrency: 8,
            private: false,
        }
    }

    fn run_against(fault: Fault) -> Run {
        let target = fake::start(Dialect::V2, fault);
        run(&target, &plan(), &fake::bench()).unwrap()
    }

    #[test]
    fn all_come_back_each_time() {
        let run = run_against(Fault::None);
        assert_eq!(run.problems, [""; 0]);
        assert!(run.value("all joined again after").unwrap() > 0.0);
        let waited = run.value("cut to joined max").unwrap();
        assert!(waited >= run.value("connect to joined max").unwrap());
    }

    #[test]
    fn every_fault_is_a_problem_by_its_name() {
        let gone = "round 1: only 0 of 20 members joined again";
        for (fault, problem, expected) in [
            (
                Fault::Refuses,
                "only 0 of 20 members joined",
                "connections>0",
            ),
            (Fault::RefusesLater, gone, "refused=0"),
            // Who is refused tries again.
            (Fault::RefusesTenth, "joins were refused", "refused=0"),
            (Fault::NeverAnswers, "no answer within", "refused=0"),
            (
                Fault::AnswersTwice,
                "joins were answered twice",
                "answered twice=0",
            ),
            (
                Fault::HangsUp,
                "connection ended without a close frame",
                "closed=0",
            ),
        ] {
            fake::assert_noticed(&run_against(fault), problem, expected);
        }
    }

    #[test]
    fn an_answer_that_comes_late_counts_for_as_long() {
        let run = run_against(Fault::AnswersLate);
        assert_eq!(run.problems, [""; 0]);
        let late_ms = fake::LATE.as_secs_f64() * 1e3;
        assert!(run.value("cut to joined max").unwrap() >= late_ms * 0.99);
    }

    #[test]
    fn those_who_stay_between_two_rounds_are_kept() {
        let plan = Plan {
            rounds: 1,
            pause_seconds: fake::TOKENS_OUTLIVED_SECONDS,
            ..plan()
        };
        fake::assert_keeps(40.0, |fault| {
            let (target, _) = fake::start_to_keep(fault);
            run(&target, &plan, &fake::bench()).unwrap()
        });
    }
}
