//! Storms of connections: connect, upgrade, join; then the oldest one leaves.
//!
//! In: a [`Plan`]. Out: joins per second, the time each took, the server's CPU for each.
//! A thread holds a bounded number of joined connections and ends the oldest for each new one, so
//! that a run can be longer than the descriptors last; the ends are part of the server's CPU.
//! Closed loop: a number of handshakes is under way at any time. Open loop: they are due at fixed
//! times, and their latency starts there. `channels` keeps the sockets instead and joins and leaves
//! channels on them: what a private channel costs is not hidden behind connect and upgrade then.

mod channels;
mod replays;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::alive;
use crate::clock::now_ns;
use crate::codec::{self, Opcode};
use crate::dialect::{FIRST_JOIN_REF, Join};
use crate::link::{self, Link, Target};
use crate::progress::Progress;
use crate::report::Run;
use crate::settings::Bench;
use crate::signal::{self, Alarm};
use crate::timeline::{Start, Timeline};

use self::replays::Replays;
use super::held::{Found, Holding};
use super::threads::{self, Meter};
use super::{fanout, memory};

/// What is to be done.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Closed loop: handshakes under way at once on each harness thread.
    #[arg(long, default_value_t = 64)]
    pub concurrency: usize,
    /// Open loop: handshakes per second, instead of --concurrency.
    #[arg(long)]
    pub rate: Option<f64>,
    /// How long is measured.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// How long the storm blows before that.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up_seconds: f64,
    /// Channels that each connection joins, one after another.
    #[arg(long, default_value_t = 1, conflicts_with_all = ["channels_only", "bare"])]
    pub channels: usize,
    /// Joined connections that each harness thread holds; the oldest one leaves for a new one.
    #[arg(long, default_value_t = 2000)]
    pub hold: usize,
    /// Topics over which the joins are spread.
    #[arg(long, default_value_t = 1000)]
    pub topics: usize,
    /// Private channels, which the tenant's database has to allow (`loadtest/database.sql`).
    #[arg(long)]
    pub private: bool,
    /// Keep --concurrency sockets and join and leave channels on them, each with the next token.
    #[arg(long, conflicts_with_all = ["rate", "bare"])]
    pub channels_only: bool,
    /// Each join asks for the newest messages of the last hour that the database holds, this many at
    /// most.
    #[arg(long, requires_all = ["private", "channels_only"])]
    pub replay: Option<u32>,
    /// Speak to a bare server: connect and upgrade only.
    #[arg(long)]
    pub bare: bool,
}

/// What a replay is told of.
pub(super) const REPLAYED: &str = "replayed for each join";

/// Open-loop handshakes under way at most; more are counted as not tried.
const UNDER_WAY_MAX: usize = 4096;

/// What the threads share.
#[derive(Debug, Default)]
struct Board {
    joined: AtomicU64,
    refused: AtomicU64,
    /// Messages that were replayed.
    replayed: AtomicU64,
    measures: AtomicBool,
    over: AtomicBool,
    start: Start,
}

#[derive(Debug)]
struct Findings {
    timeline: Option<Timeline>,
    not_tried: u64,
    replays: Replays,
    held: Found,
}

struct Desk {
    target: Target,
    plan: Plan,
    board: Arc<Board>,
    /// Numbers of this thread's connections: `next`, then every `step`-th.
    next: Cell<usize>,
    step: usize,
    held: Holding,
    under_way: Cell<usize>,
    timeline: RefCell<Option<Timeline>>,
    not_tried: Cell<u64>,
    replays: RefCell<Replays>,
}

/// Runs the plan once.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process; or when a connection could not join that many channels.
pub fn run(target: &Target, plan: &Plan, bench: &Bench) -> std::io::Result<Run> {
    // A second join of one topic would end the first.
    if plan.channels == 0 || plan.channels > plan.topics.max(1) {
        return Err(std::io::Error::other(format!(
            "--channels is {}, which has to be 1 at least and not more than --topics, {}",
            plan.channels, plan.topics
        )));
    }
    let board = Arc::new(Board::default());
    let shared = (
        // The storm has a rate of its own.
        Target {
            opens: None,
            ..target.clone()
        },
        plan.clone(),
        Arc::clone(&board),
        bench.cpus.len(),
    );
    let threads = threads::start(&bench.cpus, move |index| {
        let (target, plan, board, count) = shared.clone();
        work(target, plan, board, index, count)
    })?;
    let mut run = Run::default();
    fanout::warm_up(plan.warm_up_seconds);
    board.start.begin(plan.seconds);
    board.measures.store(true, Ordering::Release);
    let joined = board.joined.load(Ordering::Relaxed);
    let replayed = board.replayed.load(Ordering::Relaxed);
    let meter = Meter::start(bench)?;
    let mut progress = Progress::new();
    run.memory = memory::watch(bench, plan.seconds, |seconds| {
        let since = board.joined.load(Ordering::Relaxed) - joined;
        let per_second = since as f64 / seconds.max(1e-3);
        progress.say(seconds / plan.seconds, &format!("{per_second:.0} joins/s"));
    });
    progress.end();
    let joined = board.joined.load(Ordering::Relaxed) - joined;
    let replayed = board.replayed.load(Ordering::Relaxed) - replayed;
    let usage = meter.stop();
    board.over.store(true, Ordering::Release);
    let mut timeline = board.start.timeline();
    let (mut not_tried, mut held, mut replays) = (0, Found::default(), Replays::default());
    for thread in threads {
        let found = thread
            .join()
            .map_err(|_| std::io::Error::other("a harness thread panicked"))??;
        if let Some(of_one) = &found.timeline {
            timeline.add(of_one);
        }
        not_tried += found.not_tried;
        held.add(found.held);
        replays.add(&found.replays);
    }
    let usage = usage?;
    let seconds = usage.wall_ns as f64 / 1e9;
    let unit = if plan.channels_only || plan.channels > 1 {
        "channels/s"
    } else {
        "connections/s"
    };
    run.push("joined", unit, joined as f64 / seconds);
    if plan.replay.is_some() {
        let each = replayed as f64 / joined.max(1) as f64;
        run.push(REPLAYED, "messages", each);
    }
    if bench.server.is_some() {
        let busy_ns = (usage.server_ns + usage.ksoftirqd_ns) as f64;
        run.push(
            "joined per second of server cpu",
            unit,
            joined as f64 / (busy_ns / 1e9),
        );
        usage.push_server(bench, "join", joined, &mut run);
    }
    let name = if plan.channels_only {
        "join to joined"
    } else {
        "connect to joined"
    };
    run.push_percentiles(name, &timeline.total(), "ms", 1e6);
    run.timeline = Some(timeline);
    usage.push_harness(&mut run);
    let refused = board.refused.load(Ordering::Relaxed);
    run.push_count("refused", refused, "joins were refused");
    run.push_count("not tried", not_tried, "were not tried in time");
    if plan.replay.is_some() {
        replays.describe(&mut run);
    }
    held.describe(&mut run);
    Ok(run)
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
        board,
        next: Cell::new(index),
        step: threads,
        under_way: Cell::new(0),
        timeline: RefCell::default(),
        not_tried: Cell::new(0),
        replays: RefCell::default(),
        plan,
    });
    let alive = monoio::spawn({
        let desk = Rc::clone(&desk);
        async move { alive::keep(&desk.target, &desk.held).await }
    });
    match desk.plan.rate {
        Some(rate) => at_rate(&desk, rate / threads as f64).await,
        None => {
            for _ in 0..desk.plan.concurrency {
                desk.under_way.set(desk.under_way.get() + 1);
                if desk.plan.channels_only {
                    monoio::spawn(channels::again_and_again(Rc::clone(&desk)));
                } else {
                    monoio::spawn(again_and_again(Rc::clone(&desk)));
                }
            }
        }
    }
    while desk.under_way.get() > 0 || !desk.is_over() {
        monoio::time::sleep(Duration::from_millis(10)).await;
    }
    desk.held.end();
    desk.held.cut();
    let kept = alive.await;
    monoio::time::sleep(Duration::from_millis(20)).await;
    Findings {
        timeline: desk.timeline.take(),
        not_tried: desk.not_tried.get(),
        replays: desk.replays.take(),
        held: desk.held.take(kept),
    }
}

/// Joins until the storm is over.
async fn again_and_again(desk: Rc<Desk>) {
    while !desk.is_over() {
        desk.join_once(now_ns()).await;
    }
    desk.under_way.set(desk.under_way.get() - 1);
}

/// Starts joins at their times.
async fn at_rate(desk: &Rc<Desk>, rate: f64) {
    let alarm = match Alarm::new() {
        Ok(alarm) => alarm,
        Err(error) => return desk.held.problem(format!("timer: {error}")),
    };
    let start_ns = now_ns();
    let mut turn: u64 = 0;
    while !desk.is_over() {
        let at_ns = start_ns + (turn as f64 * 1e9 / rate) as u64;
        if let Err(error) = alarm.until(at_ns).await {
            return desk.held.problem(format!("timer: {error}"));
        }
        turn += 1;
        if desk.under_way.get() < UNDER_WAY_MAX {
            desk.under_way.set(desk.under_way.get() + 1);
            let desk = Rc::clone(desk);
            monoio::spawn(async move {
                desk.join_once(at_ns).await;
                desk.under_way.set(desk.under_way.get() - 1);
            });
        } else {
            desk.not_tried.set(desk.not_tried.get() + 1);
        }
        signal::yield_now().await;
    }
}

impl Desk {
    fn is_over(&self) -> bool {
        self.board.over.load(Ordering::Acquire)
    }

    async fn join_once(&self, since_ns: u64) {
        let (number, topic) = self.next();
        let join = self.what_to_join();
        match link::open(&self.target, number, &topic, &join).await {
            Ok((link, mut rest)) => {
                self.joined(since_ns);
                if let Err(problem) = self.join_others(&link, number, &mut rest).await {
                    return self.refused(problem);
                }
                self.hold(link, &rest).await;
            }
            Err(problem) => self.refused(problem),
        }
    }

    /// How a channel is joined.
    fn what_to_join(&self) -> Join<'static> {
        Join {
            private: self.plan.private,
            ..Join::default()
        }
    }

    /// Joins the channels behind the first one of connection `number`, on the topics behind its topic.
    ///
    /// # Errors
    ///
    /// That the answer to one was a refusal, or why there was none.
    async fn join_others(
        &self,
        link: &Link,
        number: usize,
        received: &mut Vec<u8>,
    ) -> Result<(), String> {
        let dialect = self.target.dialect;
        for channel in 1..self.plan.channels {
            let topic = (number + channel) % self.plan.topics.max(1);
            let topic = self.target.topic(topic);
            let join_ref = FIRST_JOIN_REF + channel as u32;
            let turn = self.target.tokens.turn();
            let mut frame = Vec::new();
            dialect.push_numbered_join(&topic, join_ref, &self.what_to_join(), &mut frame);
            let since_ns = now_ns();
            let joins = async {
                link.send(&frame)
                    .await
                    .map_err(|error| format!("join: {error}"))?;
                link.joined(dialect, join_ref, received).await
            };
            let again = self.target.in_time(joins).await?;
            self.held.answered_again(again);
            link.enter(&topic, join_ref, number, turn);
            self.joined(since_ns);
        }
        Ok(())
    }

    /// The number of this thread's next join, and its topic.
    fn next(&self) -> (usize, String) {
        let number = self.next.get();
        self.next.set(number + self.step);
        let topic = number % self.plan.topics.max(1);
        (number, self.target.topic(topic))
    }

    fn joined(&self, since_ns: u64) {
        self.board.joined.fetch_add(1, Ordering::Relaxed);
        if self.board.measures.load(Ordering::Relaxed) {
            let now = now_ns();
            let took_ns = now.saturating_sub(since_ns).max(1);
            let mut timeline = self.timeline.borrow_mut();
            timeline
                .get_or_insert_with(|| self.board.start.timeline())
                .slot(now)
                .saturating_record(took_ns);
        }
    }

    fn refused(&self, problem: String) {
        self.board.refused.fetch_add(1, Ordering::Relaxed);
        self.held.problem(problem);
    }

    /// Keeps a connection; the oldest one says goodbye when there are too many.
    async fn hold(&self, link: Link, rest: &[u8]) {
        self.held.hold(link, rest);
        if let Some(oldest) = self.held.release(self.plan.hold) {
            let mut goodbye = Vec::new();
            codec::push_frame(Opcode::Close, &1000u16.to_be_bytes(), 1, &mut goodbye);
            // A server that has closed it already does not hear it.
            let _ = oldest.send(&goodbye).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault};

    fn plan() -> Plan {
        Plan {
            concurrency: 4,
            rate: None,
            seconds: 0.2,
            warm_up_seconds: 0.0,
            channels: 1,
            hold: 5,
            topics: 10,
            private: false,
            channels_only: false,
            replay: None,
            bare: false,
        }
    }

    fn run_against(dialect: Dialect, fault: Fault, plan: &Plan) -> Run {
        let target = fake::start(dialect, fault);
        run(&target, plan, &fake::bench()).unwrap()
    }

    fn open_loop() -> Plan {
        Plan {
            rate: Some(200.0),
            ..plan()
        }
    }

    #[test]
    fn joins_are_counted_in_both_loops() {
        for plan in [plan(), open_loop()] {
            let run = run_against(Dialect::V2, Fault::None, &plan);
            assert_eq!(run.problems, [""; 0]);
            assert!(run.value("joined").unwrap() > 0.0);
            assert!(run.value("connect to joined p50").unwrap() > 0.0);
        }
    }

    #[test]
    fn every_fault_is_a_problem_by_its_name() {
        let channels = Plan {
            channels_only: true,
            ..plan()
        };
        for (fault, problem, expected) in [
            (Fault::Refuses, "join refused", "joined>0"),
            (Fault::RefusesTenth, "joins were refused", "refused=0"),
            (
                Fault::AnswersTwice,
                "joins were answered twice",
                "answered twice=0",
            ),
            (Fault::NeverAnswers, "no answer within", "refused=0"),
        ] {
            for plan in [&plan(), &open_loop(), &channels] {
                let run = run_against(Dialect::V2, fault, plan);
                fake::assert_noticed(&run, problem, expected);
            }
        }
        // Those that are held are looked at when they leave, and in the end.
        for hold in [1, 1000] {
            let plan = Plan {
                hold,
                ..open_loop()
            };
            let run = run_against(Dialect::V2, Fault::HangsUp, &plan);
            fake::assert_noticed(&run, "connection ended without a close frame", "closed=0");
        }
    }

    #[test]
    fn each_connection_joins_its_channels() {
        for dialect in [Dialect::V1, Dialect::V2] {
            let plan = Plan {
                channels: 3,
                rate: Some(40.0),
                seconds: 0.5,
                ..plan()
            };
            let run = run_against(dialect, Fault::None, &plan);
            assert_eq!(run.problems, [""; 0]);
            // Channels, of 40 connections a second.
            let joined = run.value("joined").unwrap();
            assert!(joined > 70.0, "{joined}");
        }
        let plan = Plan {
            channels: 2,
            ..open_loop()
        };
        for (fault, expected) in [
            (Fault::AnswersTwice, "answered twice=0"),
            (Fault::RefusesTenth, "refused=0"),
        ] {
            let run = run_against(Dialect::V2, fault, &plan);
            fake::assert_noticed(&run, "joins", expected);
        }
    }

    #[test]
    fn more_channels_than_topics_are_refused() {
        let plan = Plan {
            channels: 11,
            ..plan()
        };
        let target = fake::start(Dialect::V2, Fault::None);
        let error = run(&target, &plan, &fake::bench()).unwrap_err();
        assert!(error.to_string().contains("--topics"), "{error}");
    }

    #[test]
    fn an_answer_that_comes_late_counts_for_as_long() {
        for plan in [plan(), open_loop()] {
            let run = run_against(Dialect::V2, Fault::AnswersLate, &plan);
            assert_eq!(run.problems, [""; 0]);
            let late_ms = fake::LATE.as_secs_f64() * 1e3;
            let longest = run.value("connect to joined max").unwrap();
            assert!(longest >= late_ms * 0.99, "{longest}");
        }
    }

    #[test]
    fn those_who_are_held_are_kept() {
        let plan = Plan {
            rate: Some(5.0),
            hold: 1000,
            seconds: fake::TOKENS_OUTLIVED_SECONDS,
            ..plan()
        };
        fake::assert_keeps(5.0, |fault| {
            let (target, _) = fake::start_to_keep(fault);
            run(&target, &plan, &fake::bench()).unwrap()
        });
    }

    #[test]
    fn channels_are_joined_and_left_on_sockets_that_stay() {
        for dialect in [Dialect::V1, Dialect::V2] {
            let plan = Plan {
                channels_only: true,
                private: true,
                replay: Some(3),
                ..plan()
            };
            let run = run_against(dialect, Fault::None, &plan);
            assert_eq!(run.problems, [""; 0]);
            assert!(run.value("joined").unwrap() > 0.0);
            assert!(run.value("join to joined p50").unwrap() > 0.0);
            // What the last joins asked for comes after the end.
            let replayed = run.value("replayed for each join").unwrap();
            assert!((2.0..=4.0).contains(&replayed), "{replayed}");
        }
    }
}
