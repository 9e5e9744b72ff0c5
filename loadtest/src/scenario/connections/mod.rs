//! Many joined connections: what each costs in memory, and all of them in CPU while nothing happens.
//!
//! In: a [`Plan`]. Out: bytes per connection of the server and of the kernel, idle CPU and, when all
//! share one topic, whether one message reached every one of them.
//!
//! One process may hold only so many descriptors, so the connections live in child processes, each
//! within its own limit. The children are this program again, told what to do line by line.

pub mod child;

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::probe::{self, KernelMemory, ProcessMemory};
use crate::report::Run;
use crate::settings::{Bench, Settings};

use super::threads::Meter;

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

/// How long the message may take to reach everybody.
const DELIVERY: Duration = Duration::from_secs(10);

/// How long the server may tidy up before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);

/// One child process and the lines to and from it.
struct Worker {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Worker {
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
    let server = bench.server.as_ref().map(|server| server.pid);
    let memory = || server.map_or(Ok(ProcessMemory::default()), ProcessMemory::read);
    let mut run = Run::default();
    let (before, kernel_before) = (memory()?, KernelMemory::read()?);
    let meter = Meter::start(bench)?;
    let started = Instant::now();
    let mut workers = spawn(settings, plan)?;
    let (mut joined, mut refused) = (0, 0);
    for worker in &mut workers {
        let said = worker.hear()?;
        joined += said.joined;
        refused += said.refused;
        run.problems.extend(said.problems);
    }
    let took = started.elapsed();
    let ramp = meter.stop()?;
    let each = |bytes: u64| bytes as f64 / joined.max(1) as f64;
    run.push("connections", "", joined as f64);
    run.push(
        "joined",
        "connections/s",
        joined as f64 / took.as_secs_f64(),
    );
    run.push("refused", "", refused as f64);
    if refused > 0 {
        run.problems
            .push(format!("{refused} connections were refused"));
    }
    std::thread::sleep(SETTLE);
    let (after, kernel_after) = (memory()?, KernelMemory::read()?);
    if server.is_some() {
        run.push("server cpu per join", "ms", each(ramp.server_ns) / 1e6);
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
    let mut lost = 0;
    for worker in &mut workers {
        worker.tell("end")?;
        let said = worker.hear()?;
        lost += said.lost;
        run.problems.extend(said.problems);
        worker.process.wait()?;
    }
    run.push("ended by themselves", "", lost as f64);
    if lost > 0 {
        run.problems
            .push(format!("{lost} connections ended by themselves"));
    }
    Ok(run)
}

/// Starts the children; each begins to connect at once.
fn spawn(settings: &Settings, plan: &Plan) -> io::Result<Vec<Worker>> {
    let limit = probe::raise_open_files()? as usize;
    let per_process = plan
        .per_process
        .unwrap_or(usize::MAX)
        .min(limit.saturating_sub(DESCRIPTORS_RESERVED))
        .max(1);
    (0..plan.count.div_ceil(per_process))
        .map(|index| {
            let first = index * per_process;
            let order = child::Order {
                target: settings.target.clone(),
                host: settings.host.clone(),
                token: settings.token.clone(),
                secret: settings.secret.clone(),
                tokens: settings.tokens,
                opens_per_second: settings.opens_per_second.map(|all| {
                    all * per_process.min(plan.count - first) as f64 / plan.count as f64
                }),
                vsn: settings.vsn,
                first,
                count: per_process.min(plan.count - first),
                shared_topic: plan.shared_topic,
                bare: plan.bare,
                cpu: settings.cpus[index % settings.cpus.len()],
            };
            let mut process = Command::new(std::env::current_exe()?)
                .arg(child::COMMAND)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let to = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
            let from = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
            let mut worker = Worker {
                process,
                to,
                from: BufReader::new(from),
            };
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
    std::thread::sleep(Duration::from_secs_f64(plan.idle_seconds));
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
    while received < joined && started.elapsed() < DELIVERY {
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
    let missed = joined.saturating_sub(received);
    run.push("loss", "", missed as f64);
    run.push(
        "the last one had it after",
        "ms",
        latency_ns_max as f64 / 1e6,
    );
    if received != joined {
        run.problems
            .push(format!("{received} of {joined} received the message"));
    }
    Ok(())
}
