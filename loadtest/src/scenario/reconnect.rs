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

use crate::clock::now_ns;
use crate::dialect::Join;
use crate::link::{self, Link, Target};
use crate::report::Run;
use crate::settings::Bench;
use crate::timeline;

use super::stall;
use super::threads::{self, Meter};

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

/// Problems that a thread keeps; all refusals are counted.
const PROBLEMS_MAX: usize = 100;

/// What the threads share.
#[derive(Debug, Default)]
struct Board {
    /// The round that is on; the first connections are round 0.
    round: AtomicUsize,
    joined: AtomicU64,
    refused: AtomicU64,
    /// When the last one joined.
    last_ns: AtomicU64,
    over: AtomicBool,
}

/// What one thread found.
#[derive(Debug)]
struct Findings {
    waited_ns: Histogram<u64>,
    handshake_ns: Histogram<u64>,
    problems: Vec<String>,
}

/// One thread.
struct Desk {
    target: Target,
    plan: Plan,
    board: Arc<Board>,
    todo: RefCell<VecDeque<usize>>,
    links: RefCell<Vec<Link>>,
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
    let mut waited_ns = timeline::histogram();
    let mut handshake_ns = timeline::histogram();
    for thread in threads {
        let found = thread
            .join()
            .map_err(|_| io::Error::other("a harness thread panicked"))??;
        for (all, one) in [
            (&mut waited_ns, &found.waited_ns),
            (&mut handshake_ns, &found.handshake_ns),
        ] {
            all.add(one).expect("both histograms have the same bounds");
        }
        run.problems.extend(found.problems);
    }
    conducted?;
    run.push_percentiles("cut to joined", &waited_ns, "ms", 1e6);
    run.push_percentiles("connect to joined", &handshake_ns, "ms", 1e6);
    let refused = board.refused.load(Ordering::Relaxed);
    run.push("refused", "", refused as f64);
    if refused > 0 {
        run.problems.push(format!("{refused} joins were refused"));
    }
    Ok(run)
}

/// Has all connect, and then cuts them round by round.
fn conduct(plan: &Plan, bench: &Bench, board: &Board, run: &mut Run) -> io::Result<()> {
    let members = plan.members as u64;
    if !wait_for(board, members) {
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
        board.round.store(round, Ordering::Release);
        let goal = members * (round as u64 + 1);
        if !wait_for(board, goal) {
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

/// Waits until so many have joined, or nobody has for as long as [`stall`].
fn wait_for(board: &Board, goal: u64) -> bool {
    const LOOK: Duration = Duration::from_millis(1);
    let (mut best, mut still) = (0, Duration::ZERO);
    while best < goal && still < stall() {
        thread::sleep(LOOK);
        let joined = board.joined.load(Ordering::Acquire);
        still = if joined > best {
            Duration::ZERO
        } else {
            still + LOOK
        };
        best = joined;
    }
    best >= goal
}

async fn work(
    target: Target,
    plan: Plan,
    board: Arc<Board>,
    index: usize,
    threads: usize,
) -> Findings {
    let desk = Rc::new(Desk {
        target,
        plan,
        board,
        todo: RefCell::default(),
        links: RefCell::default(),
        under_way: Cell::new(0),
        findings: RefCell::new(Findings {
            waited_ns: timeline::histogram(),
            handshake_ns: timeline::histogram(),
            problems: Vec::new(),
        }),
    });
    let mine = || (index..desk.plan.members).step_by(threads).collect();
    let mut round = 0;
    desk.start(mine(), round);
    while !desk.is_over() {
        monoio::time::sleep(Duration::from_millis(1)).await;
        let now = desk.board.round.load(Ordering::Acquire);
        if now > round {
            round = now;
            desk.cut();
            desk.start(mine(), round);
        }
    }
    while desk.under_way.get() > 0 {
        monoio::time::sleep(Duration::from_millis(5)).await;
    }
    desk.cut();
    monoio::time::sleep(Duration::from_millis(20)).await;
    desk.findings.replace(Findings {
        waited_ns: timeline::histogram(),
        handshake_ns: timeline::histogram(),
        problems: Vec::new(),
    })
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

    /// Ends all connections as a network does: nobody says goodbye.
    fn cut(&self) {
        for link in self.links.borrow_mut().drain(..) {
            link.shut_down();
        }
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
        let (link, _) = link::open(&self.target, number, &topic, &join).await?;
        let now = now_ns();
        self.links.borrow_mut().push(link);
        if round > 0 {
            let mut findings = self.findings.borrow_mut();
            let record = |histogram: &mut Histogram<u64>, since_ns: u64| {
                histogram.saturating_record(now.saturating_sub(since_ns).max(1));
            };
            record(&mut findings.waited_ns, cut_ns);
            record(&mut findings.handshake_ns, since_ns);
        }
        self.board.last_ns.fetch_max(now, Ordering::Release);
        self.board.joined.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn refused(&self, problem: String) {
        self.board.refused.fetch_add(1, Ordering::Relaxed);
        let problems = &mut self.findings.borrow_mut().problems;
        if problems.len() < PROBLEMS_MAX {
            problems.push(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault};

    fn run_against(fault: Fault) -> Run {
        let target = fake::start(Dialect::V2, fault);
        let bench = Bench {
            cpus: vec![0],
            server: None,
        };
        let plan = Plan {
            members: 20,
            topics: 3,
            rounds: 2,
            pause_seconds: 0.01,
            concurrency: 8,
            private: false,
        };
        run(&target, &plan, &bench).unwrap()
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
    fn who_does_not_come_back_is_missed() {
        let run = run_against(Fault::RefusesLater);
        let problem = "round 1: only 0 of 20 members joined again".to_owned();
        assert!(run.problems.contains(&problem), "{:?}", run.problems);
        assert!(run.value("refused").unwrap() >= 20.0);
        let run = run_against(Fault::Refuses);
        assert_eq!(run.problems[0], "only 0 of 20 members joined");
    }
}
