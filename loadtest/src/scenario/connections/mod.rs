//! Many joined connections: what each costs in memory, and all of them in CPU while nothing happens.
//!
//! In: a [`Plan`]. Out: bytes per connection of the server and of the kernel, idle CPU and, when all
//! share one topic, whether one message reached every one of them.
//!
//! One process may hold only so many descriptors, so the connections live in child processes, each
//! within its own limit. The children are this program again, told what to do line by line.

pub mod child;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::probe::{self, KernelMemory, ProcessMemory};
use crate::progress::Progress;
use crate::report::Run;
use crate::settings::{Bench, Settings};

use super::fanout::{self, DUPLICATES, LOSS};
use super::threads::Meter;
use super::{memory, stall};

/// What is to be done.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Connections, each with one joined channel.
    #[arg(long, default_value_t = 10_000)]
    pub count: usize,
    /// All join one topic, and one message is sent to all of them.
    #[arg(long)]
    pub shared_topic: bool,
    /// How long the idle server is watched; no heartbeats are sent meanwhile.
    #[arg(long, default_value_t = 10.0)]
    pub idle_seconds: f64,
    /// Connections of each child process; as many as its descriptors allow when absent.
    #[arg(long)]
    pub per_process: Option<usize>,
    /// Speak to a bare server.
    #[arg(long)]
    pub bare: bool,
}

/// Descriptors that a child needs for itself.
const DESCRIPTORS_RESERVED: usize = 64;

/// How long the server may tidy up before its memory is read.
const SETTLE: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 2000 });

/// One child and the lines to and from it.
struct Worker {
    /// Its process, where it has one of its own.
    process: Option<Child>,
    to: Box<dyn Write>,
    from: Box<dyn BufRead>,
}

impl Worker {
    fn new(process: Option<Child>, to: impl Write + 'static, from: impl Read + 'static) -> Self {
        Self {
            process,
            to: Box::new(to),
            from: Box::new(BufReader::new(from)),
        }
    }

    /// Starts this program again.
    fn start() -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(child::COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let from = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self::new(Some(process), to, from))
    }

    fn tell(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.to, "{line}")?;
        self.to.flush()
    }

    fn hear(&mut self) -> io::Result<child::Said> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err(io::Error::other("a child process ended early"));
        }
        serde_json::from_str(&line).map_err(io::Error::other)
    }
}

/// Runs the plan once.
///
/// # Errors
///
/// When the harness itself cannot run: no children, no such process.
pub fn run(settings: &Settings, plan: &Plan, bench: &Bench) -> io::Result<Run> {
    run_with(Worker::start, settings, plan, bench)
}

/// The same with children of another kind.
fn run_with(
    start: impl Fn() -> io::Result<Worker>,
    settings: &Settings,
    plan: &Plan,
    bench: &Bench,
) -> io::Result<Run> {
    if plan.count == 0 {
        return Err(io::Error::other("no connections"));
    }
    let server = bench.server.as_ref().map(|server| server.pid);
    let memory = || server.map_or(Ok(ProcessMemory::default()), ProcessMemory::read);
    let mut run = Run::default();
    let (before, kernel_before) = (memory()?, KernelMemory::read()?);
    let meter = Meter::start(bench)?;
    let started = Instant::now();
    let mut workers = spawn(start, settings, plan)?;
    let (mut joined, mut refused) = (0, 0);
    let mut progress = Progress::new();
    progress.count(0, plan.count as u64, "have joined");
    for worker in &mut workers {
        let said = worker.hear()?;
        joined += said.joined;
        refused += said.refused;
        run.problems.extend(said.problems);
        progress.count(joined as u64, plan.count as u64, "have joined");
    }
    progress.end();
    let took = started.elapsed();
    let ramp = meter.stop()?;
    let each = |bytes: u64| bytes as f64 / joined.max(1) as f64;
    run.push("connections", "", joined as f64);
    run.push(
        "joined",
        "connections/s",
        joined as f64 / took.as_secs_f64(),
    );
    run.push_count("refused", refused as u64, "connections were refused");
    std::thread::sleep(SETTLE);
    let (after, kernel_after) = (memory()?, KernelMemory::read()?);
    if server.is_some() {
        run.push("server cpu per join", "ms", each(ramp.server_ns) / 1e6);
        ramp.push_switches("join", joined as u64, &mut run);
        let anonymous = after.anonymous.saturating_sub(before.anonymous);
        let resident = after.resident.saturating_sub(before.resident);
        run.push("server memory per connection", "bytes", each(anonymous));
        run.push("server resident per connection", "bytes", each(resident));
        run.push("server resident, empty", "MB", before.resident as f64 / 1e6);
        run.push("server resident, full", "MB", after.resident as f64 / 1e6);
    }
    let slab = kernel_after.slab.saturating_sub(kernel_before.slab);
    let buffers = kernel_after
        .tcp_buffers
        .saturating_sub(kernel_before.tcp_buffers);
    run.push("kernel slab per connection, both ends", "bytes", each(slab));
    run.push(
        "kernel tcp buffers per connection, both ends",
        "bytes",
        each(buffers),
    );
    idle(plan, bench, &mut workers, &mut run)?;
    if plan.shared_topic {
        deliver(&mut workers, joined, &mut run)?;
    }
    end(workers, &mut run)?;
    Ok(run)
}

/// Ends the children and adds what became of their connections.
fn end(workers: Vec<Worker>, run: &mut Run) -> io::Result<()> {
    let (mut closed, mut unanswered, mut renewed, mut duplicates) = (0, 0, 0, 0);
    for mut worker in workers {
        worker.tell(child::END)?;
        let said = worker.hear()?;
        closed += (said.lost + said.closed) as u64;
        unanswered += said.unanswered;
        renewed += said.renewed;
        duplicates += said.duplicates;
        run.problems.extend(said.problems);
        if let Some(mut process) = worker.process {
            process.wait()?;
        }
    }
    run.push_count(DUPLICATES, duplicates, "received the message again");
    fanout::push_kept(closed, unanswered, renewed, run);
    Ok(())
}

/// Starts the children; each begins to connect at once.
fn spawn(
    start: impl Fn() -> io::Result<Worker>,
    settings: &Settings,
    plan: &Plan,
) -> io::Result<Vec<Worker>> {
    let limit = probe::raise_open_files()? as usize;
    let per_process = plan
        .per_process
        .unwrap_or(usize::MAX)
        .min(limit.saturating_sub(DESCRIPTORS_RESERVED))
        .max(1);
    let place = settings.place().map_err(io::Error::other)?;
    (0..plan.count.div_ceil(per_process))
        .map(|index| {
            let first = index * per_process;
            let count = per_process.min(plan.count - first);
            let share = count as f64 / plan.count as f64;
            let order = child::Order {
                place: place.clone(),
                opens_per_second: settings.opens_per_second.map(|all| all * share),
                first,
                count,
                shared_topic: plan.shared_topic,
                bare: plan.bare,
                cpu: settings.cpus[index % settings.cpus.len()],
            };
            let mut worker = start()?;
            worker.tell(&serde_json::to_string(&order)?)?;
            Ok(worker)
        })
        .collect()
}

/// Watches the server while nothing happens.
fn idle(plan: &Plan, bench: &Bench, workers: &mut [Worker], run: &mut Run) -> io::Result<()> {
    for worker in &mut *workers {
        worker.tell("idle")?;
    }
    for worker in &mut *workers {
        worker.hear()?;
    }
    let meter = Meter::start(bench)?;
    let mut progress = Progress::new();
    run.memory = memory::watch(bench, plan.idle_seconds, |passed| {
        progress.say(passed / plan.idle_seconds, "all are idle");
    });
    progress.end();
    let usage = meter.stop()?;
    if bench.server.is_some() {
        let seconds = usage.wall_ns as f64 / 1e9;
        run.push(
            "idle server cpu",
            "ms per s",
            usage.server_ns as f64 / 1e6 / seconds,
        );
    }
    Ok(())
}

/// Sends one message and waits until everybody has it.
fn deliver(workers: &mut [Worker], joined: usize, run: &mut Run) -> io::Result<()> {
    workers[0].tell("send")?;
    workers[0].hear()?;
    let started = Instant::now();
    let (mut received, mut latency_ns_max) = (0, 0);
    while received < joined && started.elapsed() < stall() {
        std::thread::sleep(Duration::from_millis(50));
        (received, latency_ns_max) = (0, 0);
        for worker in &mut *workers {
            worker.tell("count")?;
            let said = worker.hear()?;
            received += said.received;
            latency_ns_max = latency_ns_max.max(said.latency_ns_max);
        }
    }
    run.push("received the message", "", received as f64);
    run.push(
        "the last one had it after",
        "ms",
        latency_ns_max as f64 / 1e6,
    );
    let missed = joined.saturating_sub(received) as u64;
    run.push_count(LOSS, missed, "did not receive the message");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault};

    /// A child on a thread of this process.
    fn start() -> io::Result<Worker> {
        let (here, there) = UnixStream::pair()?;
        let input = there.try_clone()?;
        std::thread::spawn(move || child::serve(input, there));
        Ok(Worker::new(None, here.try_clone()?, here))
    }

    fn run_against(fault: Fault, words: &[&str], plan: &Plan) -> Run {
        let target = fake::start(Dialect::V2, fault);
        let url = format!("ws://{}/socket/websocket", target.address);
        let words = [&["--cpus", "0", "--target", &url][..], words].concat();
        run_with(start, &Settings::of(&words), plan, &fake::watching_bench()).unwrap()
    }

    fn plan() -> Plan {
        Plan {
            count: 20,
            shared_topic: true,
            idle_seconds: 0.01,
            per_process: Some(12),
            bare: false,
        }
    }

    #[test]
    fn all_join_and_get_the_message() {
        let run = run_against(Fault::None, &["--vsn", "2"], &plan());
        assert_eq!(run.problems, [""; 0]);
        assert_eq!(run.value("connections"), Some(20.0));
        assert_eq!(run.value("received the message"), Some(20.0));
        assert!(run.value("idle server cpu").is_some());
    }

    #[test]
    fn every_fault_is_a_problem_by_its_name() {
        for (fault, problem, expected) in [
            (
                Fault::RefusesTenth,
                "2 connections were refused",
                "refused=0",
            ),
            (
                Fault::HangsUp,
                "connection ended without a close frame",
                "closed=0",
            ),
            (Fault::LosesFirst, "1 did not receive the message", "loss=0"),
            (
                Fault::DoublesFirst,
                "1 received the message again",
                "duplicates=0",
            ),
        ] {
            fake::assert_noticed(&run_against(fault, &[], &plan()), problem, expected);
        }
    }

    #[test]
    fn everybody_is_kept_but_while_the_server_is_idle() {
        let plan = Plan {
            idle_seconds: 0.5,
            ..plan()
        };
        // Sockets are opened slowly, so that the first ones outlive their tokens.
        let words = "--token-seconds 3 --heartbeat-seconds 0.3 --opens-per-second 5";
        let words: Vec<&str> = words.split(' ').collect();
        fake::assert_keeps(20.0, |fault| run_against(fault, &words, &plan));
    }
}
