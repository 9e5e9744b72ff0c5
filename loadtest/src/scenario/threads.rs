//! The harness's own threads: one monoio runtime on each core, told apart by name.
//!
//! In: cores and what to run on each. Out: the results, and how busy the threads were. A helper
//! thread shares the core of a harness thread, and its time counts as that thread's.
//! Linux's `io_uring` drives them where it is allowed, epoll otherwise; the tasks cannot tell.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use monoio::{FusionDriver, RuntimeBuilder};

use crate::probe::{self, ProcessCpu, ThreadCpu};
use crate::report::Run;
use crate::settings::{Bench, Server};
use crate::syscalls::Syscalls;

/// What the names of harness threads start with.
const THREAD_PREFIX: &str = "load-";

/// Entries of a harness ring.
const RING_ENTRIES: u32 = 4096;

/// Starts one pinned thread on each core and runs `work` there with the core's index.
pub fn start<T, F, W>(cpus: &[usize], work: W) -> io::Result<Vec<JoinHandle<io::Result<T>>>>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
    W: Fn(usize) -> F + Clone + Send + 'static,
{
    cpus.iter()
        .enumerate()
        .map(|(index, cpu)| {
            let (cpu, work) = (*cpu, work.clone());
            std::thread::Builder::new()
                .name(format!("{THREAD_PREFIX}{index}"))
                .spawn(move || block_on(cpu, move || work(index)))
        })
        .collect()
}

/// Starts a thread beside harness thread `index` on its core, for what monoio cannot do: `work` may
/// wait in its own way.
pub fn start_beside<T: Send + 'static>(
    cpus: &[usize],
    index: usize,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<io::Result<T>>> {
    let cpu = cpus[index];
    std::thread::Builder::new()
        .name(format!("{THREAD_PREFIX}{index}-{name}"))
        .spawn(move || {
            probe::pin_to(cpu)?;
            Ok(work())
        })
}

/// The harness thread that a thread of this name is, or that it runs beside.
fn index_of(name: &str) -> Option<usize> {
    let rest = name.strip_prefix(THREAD_PREFIX)?;
    rest.split('-').next()?.parse().ok()
}

/// Runs `work` on this thread, pinned to `cpu`.
pub fn block_on<T: 'static, F: Future<Output = T> + 'static>(
    cpu: usize,
    work: impl FnOnce() -> F,
) -> io::Result<T> {
    probe::pin_to(cpu)?;
    // Without deferred task work every frame that the server sends interrupts the harness's core,
    // and the server pays for the interrupt: figures would be those of the harness.
    let mut ring = io_uring_of_monoio::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    let builder = || RuntimeBuilder::<FusionDriver>::new().with_entries(RING_ENTRIES);
    let mut runtime = builder()
        .uring_builder(ring)
        .enable_timer()
        .build()
        .or_else(|_| builder().enable_timer().build())?;
    Ok(runtime.block_on(work()))
}

/// CPU of server and harness between two moments.
#[derive(Debug)]
pub struct Meter {
    server: Option<Server>,
    server_cpu: ProcessCpu,
    syscalls: Option<Result<Syscalls, String>>,
    harness_cpu: ProcessCpu,
    ksoftirqd_ns: u64,
    at_ns: u64,
}

/// CPU used between two moments.
#[derive(Debug, Default)]
pub struct Usage {
    /// How long it was, nanoseconds.
    pub wall_ns: u64,
    /// The server's threads that did anything, by name and nanoseconds, busiest first.
    pub server: Vec<(String, u64)>,
    /// All of the server's threads, nanoseconds.
    pub server_ns: u64,
    /// Time in which the server's busiest thread could have run but something else than the server's
    /// own threads had its core.
    pub server_waited_ns: u64,
    /// Of `server_ns` in the kernel, by the coarse counter.
    pub server_system_ns: u64,
    /// Context switches of the server's threads.
    pub server_switches: u64,
    /// Its system calls, or why they were not counted.
    pub server_syscalls: Option<Result<u64, String>>,
    /// All `ksoftirqd`, nanoseconds.
    pub ksoftirqd_ns: u64,
    /// Share of its core for each harness thread, 0 to 1, by index.
    pub harness: Vec<f64>,
    /// Share of the time in which each harness thread could have run but something else did.
    pub harness_waited: Vec<f64>,
}

/// Threads of the server that are told of one by one.
pub(super) const THREADS_SHOWN_MAX: usize = 8;

/// Share of the time above which a thread that waits for its core makes a run worthless.
const WAITED_MAX: f64 = 0.05;

impl Usage {
    /// Adds what the server spent on `count` things of this kind, when it is watched.
    pub fn push_server(&self, bench: &Bench, what: &str, count: u64, run: &mut Run) {
        let Some(server) = &bench.server else {
            return;
        };
        let busy_ns = (self.server_ns + self.ksoftirqd_ns) as f64;
        let each_ms = busy_ns / 1e6 / count.max(1) as f64;
        run.push(format!("server cpu per {what}"), "ms", each_ms);
        for (name, ns) in self.server.iter().take(THREADS_SHOWN_MAX) {
            let each_ms = *ns as f64 / 1e6 / count.max(1) as f64;
            run.push(format!("  thread {name}"), "ms", each_ms);
        }
        let share = busy_ns / self.wall_ns.max(1) as f64;
        run.push("server cpu", "%", share * 100.0);
        self.push_switches(what, count, run);
        if let Some(resident) = probe::resident(server.pid) {
            run.push("server resident", "MB", resident as f64 / 1e6);
        }
    }

    /// Adds the server's context switches and system calls for each of `count` things of this kind, or why
    /// they are not known.
    pub fn push_switches(&self, what: &str, count: u64, run: &mut Run) {
        let each = |number: u64| number as f64 / count.max(1) as f64;
        let name = format!("context switches per {what}");
        run.push(name, "", each(self.server_switches));
        match &self.server_syscalls {
            Some(Ok(calls)) => run.push(format!("system calls per {what}"), "", each(*calls)),
            Some(Err(why)) => run
                .notes
                .push(format!("system calls were not counted: {why}")),
            None => {}
        }
    }

    /// Adds the harness's own CPU, and says when something else had the cores.
    pub fn push_harness(&self, run: &mut Run) {
        run.push_harness(&self.harness);
        let waited = self.server_waited_ns as f64 / self.wall_ns.max(1) as f64;
        let harness_waited = self.harness_waited.iter().copied().fold(0.0, f64::max);
        run.push("waited for a core: server", "%", waited * 100.0);
        run.push("waited for a core: harness", "%", harness_waited * 100.0);
        if waited > WAITED_MAX || harness_waited > WAITED_MAX {
            run.invalid.get_or_insert_with(|| {
                "other programs had the cores: the machine must be quiet".to_owned()
            });
        }
    }
}

impl Meter {
    /// Starts to measure.
    ///
    /// # Errors
    ///
    /// When the server's process is gone.
    pub fn start(bench: &Bench) -> io::Result<Self> {
        let server_cpu = match &bench.server {
            Some(server) => ProcessCpu::read(server.pid)?,
            None => ProcessCpu::default(),
        };
        Ok(Self {
            server: bench.server.clone(),
            server_cpu,
            syscalls: bench
                .server
                .as_ref()
                .map(|server| Syscalls::of(server.pid, &server.thread_prefix)),
            harness_cpu: ProcessCpu::read(std::process::id())?,
            ksoftirqd_ns: probe::ksoftirqd_ns(),
            at_ns: crate::clock::now_ns(),
        })
    }

    /// What was used since the start.
    ///
    /// # Errors
    ///
    /// When the server's process is gone.
    pub fn stop(&self) -> io::Result<Usage> {
        let wall_ns = crate::clock::now_ns() - self.at_ns;
        let mut usage = Usage {
            wall_ns,
            ksoftirqd_ns: probe::ksoftirqd_ns() - self.ksoftirqd_ns,
            server_syscalls: self.syscalls.as_ref().map(|syscalls| match syscalls {
                Ok(syscalls) => syscalls.count().map_err(|error| error.to_string()),
                Err(why) => Err(why.clone()),
            }),
            ..Usage::default()
        };
        if let Some(server) = &self.server {
            let mut busiest_waited_ns = None;
            for thread in ProcessCpu::read(server.pid)?.since(&self.server_cpu) {
                if !thread.name.starts_with(&server.thread_prefix) || thread.total_ns == 0 {
                    continue;
                }
                usage.server_ns += thread.total_ns;
                usage.server_switches += thread.switches;
                busiest_waited_ns.get_or_insert((thread.waited_ns, thread.total_ns));
                usage.server_system_ns += thread.system_ns;
                usage.server.push((thread.name, thread.total_ns));
            }
            // On one core the server's threads wait for each other, which is its own affair.
            if let Some((waited_ns, busiest_ns)) = busiest_waited_ns {
                let others_ns = usage.server_ns - busiest_ns;
                usage.server_waited_ns = waited_ns.saturating_sub(others_ns);
            }
        }
        let used = ProcessCpu::read(std::process::id())?.since(&self.harness_cpu);
        (usage.harness, usage.harness_waited) = shares(&used, wall_ns);
        Ok(usage)
    }
}

/// For each harness core: the share of the time that its threads had it, and the share in which one
/// of them could have run but something else than the others did.
fn shares(threads: &[ThreadCpu], wall_ns: u64) -> (Vec<f64>, Vec<f64>) {
    let mut cores: BTreeMap<usize, Vec<&ThreadCpu>> = BTreeMap::new();
    for thread in threads {
        if let Some(index) = index_of(&thread.name) {
            cores.entry(index).or_default().push(thread);
        }
    }
    let share = |ns: u64| ns as f64 / wall_ns as f64;
    let core = |threads: &Vec<&ThreadCpu>| {
        let total_ns: u64 = threads.iter().map(|thread| thread.total_ns).sum();
        let waited = threads.iter().map(|thread| {
            let others_ns = total_ns - thread.total_ns;
            thread.waited_ns.saturating_sub(others_ns)
        });
        (share(total_ns), share(waited.max().unwrap_or(0)))
    };
    cores.values().map(core).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_thread_counts_with_the_thread_whose_core_it_shares() {
        let thread = |name: &str, total_ns, waited_ns| ThreadCpu {
            name: name.to_owned(),
            total_ns,
            waited_ns,
            system_ns: 0,
            switches: 0,
        };
        let threads = [
            thread("load-0", 50, 40),
            thread("load-1", 10, 1),
            thread("load-0-writer", 30, 20),
            thread("loadtest", 100, 100),
        ];
        let (busy, waited) = shares(&threads, 100);
        assert_eq!(busy, [0.8, 0.1]);
        // 30 of the 40 were the writer's turn.
        assert_eq!(waited, [0.1, 0.01]);
    }
}
