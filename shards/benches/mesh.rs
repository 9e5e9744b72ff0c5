//! Letters between threads: what posting and taking one costs, and how long one takes to a shard that sleeps.
//!
//! In: a seeded simulation for the first, two real shards on cores 0 and 1 for the second. Out: time per letter of 64 bytes, a cache
//! line, which is what a product's letter should fill. `cargo bench -p shards` measures; in a test each runs for a moment, wherever the
//! scheduler likes.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shards::sim::{Faults, Sim};
use shards::{Closed, ConnectionId, Handler, Io, Options, Peer, Placement, ShardId};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// Letters that a shard posts in one turn.
const BURST: u64 = 1024;

const ONE: ShardId = ShardId(0);
const OTHER: ShardId = ShardId(1);

/// What the threads say.
enum Letter {
    /// To the first shard: post a burst, so many times, each when the one before was taken.
    Bursts(u64),
    /// To the first shard: send a letter to and fro, so many times.
    RoundTrips(u64),
    /// One of a burst; the last one says so.
    Load { is_last: bool, _load: [u64; 7] },
    /// To the first shard: the burst was taken.
    Taken,
    /// To the second shard: answer.
    There,
    /// The answer.
    Back,
}

const _: () = assert!(size_of::<Letter>() == 64, "one letter fills one cache line");

/// Where the first shard says that it is done, and what it took.
trait Report {
    /// Bursts were posted, and each was taken.
    fn done(&self, took: Duration);

    /// Posting a burst has taken so long.
    fn posted(&self, _: Duration) {}

    /// Taking a burst has taken so long.
    fn taken(&self, _: Duration) {}
}

/// A shard that does what letters say.
struct Node<R> {
    report: R,
    left: u64,
    /// When the first letter of the errand came.
    began: shards::Tick,
    /// When the first letter of the burst was taken.
    burst_began: Option<Instant>,
}

impl<R: Report> Node<R> {
    const fn new(report: R) -> Self {
        Self {
            report,
            left: 0,
            began: shards::Tick(0),
            burst_began: None,
        }
    }

    fn post_burst(&self, io: &mut Io<'_, Letter>) {
        let began = now();
        for n in 1..=BURST {
            let letter = Letter::Load {
                is_last: n == BURST,
                _load: [n; 7],
            };
            io.mail(Peer::Shard(OTHER), letter);
        }
        self.report.posted(now().duration_since(began));
    }

    /// One more is done; says whether the errand is.
    fn is_over(&mut self, io: &Io<'_, Letter>) -> bool {
        self.left -= 1;
        if self.left == 0 {
            self.report.done(io.now().since(self.began));
        }
        self.left == 0
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark is about time")]
fn now() -> Instant {
    Instant::now()
}

impl<R: Report> Handler for Node<R> {
    type Mail = Letter;

    fn on_accept(&mut self, _: &mut Io<'_, Letter>, _: ConnectionId) {}
    fn on_bytes(&mut self, _: &mut Io<'_, Letter>, _: ConnectionId, _: &mut [u8]) {}
    fn on_close(&mut self, _: &mut Io<'_, Letter>, _: ConnectionId, _: Closed) {}
    fn on_detached(&mut self, _: &mut Io<'_, Letter>, _: ConnectionId, _: OwnedFd) {}
    fn on_timer(&mut self, _: &mut Io<'_, Letter>, _: u64) {}
    fn on_visit(&mut self, _: &mut Io<'_, Letter>, _: ConnectionId) {}
    fn on_stalled(&mut self, _: &mut Io<'_, Letter>, _: ConnectionId) {}
    fn on_turn_end(&mut self, _: &mut Io<'_, Letter>) {}

    fn on_mail(&mut self, io: &mut Io<'_, Letter>, from: Peer, letter: Letter) {
        match letter {
            Letter::Bursts(count) => {
                (self.left, self.began) = (count, io.now());
                self.post_burst(io);
            }
            Letter::RoundTrips(count) => {
                (self.left, self.began) = (count, io.now());
                io.mail(Peer::Shard(OTHER), Letter::There);
            }
            Letter::Load { is_last: false, .. } => {
                self.burst_began.get_or_insert_with(now);
            }
            Letter::Load { is_last: true, .. } => {
                if let Some(began) = self.burst_began.take() {
                    self.report.taken(now().duration_since(began));
                }
                io.mail(from, Letter::Taken);
            }
            Letter::Taken => {
                if !self.is_over(io) {
                    self.post_burst(io);
                }
            }
            Letter::There => io.mail(from, Letter::Back),
            Letter::Back => {
                if !self.is_over(io) {
                    io.mail(Peer::Shard(OTHER), Letter::There);
                }
            }
        }
    }
}

/// What both shards of a simulation add to.
#[derive(Clone, Default)]
struct Times {
    posted: Rc<Cell<Duration>>,
    taken: Rc<Cell<Duration>>,
}

impl Report for Times {
    fn done(&self, _: Duration) {}

    fn posted(&self, took: Duration) {
        self.posted.set(self.posted.get() + took);
    }

    fn taken(&self, took: Duration) {
        self.taken.set(self.taken.get() + took);
    }
}

fn options() -> Options {
    Options {
        shards: 2,
        mailbox_letters: 4096,
        ..Options::default()
    }
}

/// Both ends on one thread: the work without the way from core to core.
fn post_and_take(c: &mut Criterion) {
    let times = Times::default();
    let mut sim = Sim::with_options(1, Faults::none(), options(), |_| Node::new(times.clone()));
    let mut group = c.benchmark_group("letters on one core");
    group.throughput(Throughput::Elements(BURST));
    for (name, time) in [("post", &times.posted), ("take", &times.taken)] {
        group.bench_function(name, |b| {
            b.iter_custom(|bursts| {
                time.set(Duration::ZERO);
                sim.control.send(ONE, Letter::Bursts(bursts));
                sim.run_until_idle();
                time.get()
            });
        });
    }
    group.finish();
}

/// Tells the benchmark's thread.
struct Channel(Sender<Duration>);

impl Report for Channel {
    fn done(&self, took: Duration) {
        // Whoever waits for it is there until the shards have stopped.
        let _ = self.0.send(took);
    }
}

/// Each end on a core of its own: a stream of letters, and one letter at a time, which finds its addressee asleep.
fn between_cores(c: &mut Criterion) {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // The last core is the control thread's, which only waits.
    let cpus = if is_measured && cores > 1 {
        Placement::Cpus(vec![0, 1, 0])
    } else {
        Placement::Unpinned
    };
    let (sender, done) = channel();
    let make = move |_| Node::new(Channel(sender.clone()));
    let options = Options { cpus, ..options() };
    let mut runtime =
        shards::start(options, make).expect("shards start where they listen to nobody");
    let mut run = |letter| {
        runtime.control.send(ONE, letter);
        done.recv().expect("the shards run")
    };
    let mut group = c.benchmark_group("letters between two cores");
    group.throughput(Throughput::Elements(BURST));
    group.bench_function("stream", |b| {
        b.iter_custom(|bursts| run(Letter::Bursts(bursts)))
    });
    group.throughput(Throughput::Elements(2));
    group.bench_function("to and fro, each woken by its letter", |b| {
        b.iter_custom(|trips| run(Letter::RoundTrips(trips)));
    });
    group.finish();
}

criterion_group!(benches, post_and_take, between_cores);
criterion_main!(benches);
