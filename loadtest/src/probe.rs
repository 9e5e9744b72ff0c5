//! What the kernel says about a process: CPU of its threads, its memory, the kernel's own memory.
//!
//! In: process ids. Out: numbers, to be subtracted from one another by the scenarios.
//! CPU comes from `schedstat`, in nanoseconds: the ticks of `stat` are 10 ms wide. It includes the
//! soft interrupts that ran on the back of the thread, which on loopback is the receiving half of
//! every send. What the kernel moved to `ksoftirqd` is counted beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io;

/// CPU time of one thread since it started, nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadCpu {
    /// The thread's name.
    pub name: String,
    /// Time on a CPU, of which `system_ns` in the kernel.
    pub total_ns: u64,
    /// Time in which it could have run but something else had its CPU.
    pub waited_ns: u64,
    /// The kernel's part by the tick counter: exact to 10 ms only.
    pub system_ns: u64,
    /// How often it gave its CPU away, or had it taken.
    pub switches: u64,
}

/// CPU times of a process by thread id.
#[derive(Clone, Debug, Default)]
pub struct ProcessCpu {
    /// Living threads. A thread that ended takes its time with it; servers keep theirs.
    pub threads: BTreeMap<i32, ThreadCpu>,
}

impl ProcessCpu {
    /// Reads all threads of `pid`.
    ///
    /// # Errors
    ///
    /// When the process is gone or belongs to somebody else.
    pub fn read(pid: u32) -> io::Result<Self> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let name = entry?.file_name();
            let Some(tid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A thread may end between the listing and the reading.
            if let Ok(thread) = read_thread(pid, tid) {
                threads.insert(tid, thread);
            }
        }
        Ok(Self { threads })
    }

    /// What was used since `earlier`, thread by thread, busiest first.
    pub fn since(&self, earlier: &Self) -> Vec<ThreadCpu> {
        let mut used: Vec<ThreadCpu> = self
            .threads
            .iter()
            .map(|(tid, now)| {
                let before = earlier.threads.get(tid);
                ThreadCpu {
                    name: now.name.clone(),
                    total_ns: now.total_ns - before.map_or(0, |before| before.total_ns),
                    waited_ns: now.waited_ns - before.map_or(0, |before| before.waited_ns),
                    system_ns: now.system_ns - before.map_or(0, |before| before.system_ns),
                    switches: now.switches - before.map_or(0, |before| before.switches),
                }
            })
            .collect();
        used.sort_by_key(|thread| std::cmp::Reverse(thread.total_ns));
        used
    }
}

fn read_thread(pid: u32, tid: i32) -> io::Result<ThreadCpu> {
    let schedstat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat"))?;
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status"))?;
    let (name, system_ticks) = parse_stat(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let (total_ns, waited_ns) = parse_schedstat(&schedstat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(ThreadCpu {
        name: name.to_owned(),
        total_ns,
        waited_ns,
        system_ns: system_ticks * (1_000_000_000 / ticks_per_second()),
        switches: parse_switches(&status),
    })
}

/// proc(5): two lines of `status` count the context switches of a thread.
fn parse_switches(status: &str) -> u64 {
    let keys = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
    keys.into_iter().map(|key| number_of(status, key)).sum()
}

/// proc(5): the first field of `schedstat` is the time on the CPU in nanoseconds, the second the
/// time on the run queue.
fn parse_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_ascii_whitespace().map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

/// proc(5): field 2 of `stat` is the name in parentheses (it may hold spaces and parentheses),
/// field 15 is `stime` in ticks.
fn parse_stat(text: &str) -> Option<(&str, u64)> {
    let open = text.find('(')?;
    let close = text.rfind(')')?;
    let name = text.get(open + 1..close)?;
    let system_ticks = text.get(close + 1..)?.split_ascii_whitespace().nth(12)?;
    Some((name, system_ticks.parse().ok()?))
}

fn ticks_per_second() -> u64 {
    // SAFETY: sysconf reads a constant of the system; any name is allowed.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100).max(1)
}

/// CPU time of the calling thread, nanoseconds.
pub fn own_thread_ns() -> u64 {
    fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| parse_schedstat(&text))
        .map_or(0, |(total_ns, _)| total_ns)
}

/// CPU time of all `ksoftirqd` threads: network work that the kernel took off the threads that
/// caused it. It belongs to nobody; on a machine with other load it is not the server's alone.
pub fn ksoftirqd_ns() -> u64 {
    let Ok(processes) = fs::read_dir("/proc") else {
        return 0;
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        // Kernel threads of the CPUs start at boot and have small numbers.
        .filter(|pid| *pid < 10_000)
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with("ksoftirqd/"))
        })
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/schedstat")).ok())
        .filter_map(|text| parse_schedstat(&text))
        .map(|(total_ns, _)| total_ns)
        .sum()
}

/// Memory of one process, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Everything resident.
    pub resident: u64,
    /// Resident and not backed by a file: heap, stacks, rings.
    pub anonymous: u64,
}

impl ProcessMemory {
    /// Reads `smaps_rollup` of `pid`.
    ///
    /// # Errors
    ///
    /// When the process is gone or belongs to somebody else.
    pub fn read(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        Ok(Self {
            resident: number_of(&text, "Rss:") * 1024,
            anonymous: number_of(&text, "Anonymous:") * 1024,
        })
    }
}

/// Bytes of a process that are resident, from a file that is cheap to read; nothing when it is gone.
pub fn resident(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * page_bytes())
}

fn page_bytes() -> u64 {
    // SAFETY: sysconf reads a constant of the system; any name is allowed.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// CPU of a process and of its children, nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct FamilyCpu {
    /// Each living process since it started.
    living: BTreeMap<u32, u64>,
    /// All children that have ended, by the coarse counter.
    ended_ns: u64,
}

impl FamilyCpu {
    /// Reads `parent` and its children.
    pub fn read(parent: u32) -> Self {
        let mut family = Self::default();
        let Ok(processes) = fs::read_dir("/proc") else {
            return family;
        };
        let pids = processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids {
            // A process may end between the listing and the reading.
            let Some(relation) = read_relation(pid) else {
                continue;
            };
            if pid == parent {
                family.ended_ns = relation.ended_ns;
            } else if relation.parent != parent {
                continue;
            }
            let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat"));
            if let Some((total_ns, _)) = schedstat.ok().as_deref().and_then(parse_schedstat) {
                family.living.insert(pid, total_ns);
            }
        }
        family
    }

    /// What each process used since `earlier` that lives now.
    pub fn since(&self, earlier: &Self) -> impl Iterator<Item = (u32, u64)> {
        self.living.iter().map(|(pid, ns)| {
            let before = earlier.living.get(pid).copied().unwrap_or(0);
            (*pid, ns.saturating_sub(before))
        })
    }

    /// What all of them used since `earlier`, also those that have ended meanwhile.
    pub fn total_since(&self, earlier: &Self) -> u64 {
        let living: u64 = self.since(earlier).map(|(_, ns)| ns).sum();
        let gone: u64 = earlier
            .living
            .iter()
            .filter(|(pid, _)| !self.living.contains_key(pid))
            .map(|(_, ns)| *ns)
            .sum();
        let ended_ns = self.ended_ns - earlier.ended_ns.min(self.ended_ns);
        living + ended_ns.saturating_sub(gone)
    }
}

/// A process among others.
struct Relation {
    name: String,
    parent: u32,
    /// CPU of its children that have ended.
    ended_ns: u64,
}

fn read_relation(pid: u32) -> Option<Relation> {
    parse_relation(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc(5): field 2 of `stat` is the name, field 4 the parent, 16 and 17 are `cutime` and `cstime`.
fn parse_relation(stat: &str) -> Option<Relation> {
    let (name, _) = parse_stat(stat)?;
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let mut ticks = fields.skip(11).map(str::parse::<u64>);
    let ended = ticks.next()?.ok()? + ticks.next()?.ok()?;
    Some(Relation {
        name: name.to_owned(),
        parent,
        ended_ns: ended * (1_000_000_000 / ticks_per_second()),
    })
}

/// The parent of a process of PostgreSQL's; nothing when the number is that of another program.
pub fn parent_of_postgres(pid: u32) -> Option<u32> {
    let relation = read_relation(pid)?;
    (relation.name.starts_with("postgres")).then_some(relation.parent)
}

/// Memory that the kernel holds for itself, bytes: both ends of loopback connections are in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelMemory {
    /// Sockets, files, requests: `Slab` of meminfo.
    pub slab: u64,
    /// Bytes in TCP buffers: `mem` of sockstat, in pages there.
    pub tcp_buffers: u64,
}

impl KernelMemory {
    /// Reads meminfo and sockstat.
    ///
    /// # Errors
    ///
    /// When /proc is not there.
    pub fn read() -> io::Result<Self> {
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let sockstat = fs::read_to_string("/proc/net/sockstat")?;
        Ok(Self {
            slab: number_of(&meminfo, "Slab:") * 1024,
            tcp_buffers: parse_tcp_pages(&sockstat) * 4096,
        })
    }
}

/// The number behind a key at the start of a line: kilobytes, in most of these files.
fn number_of(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn parse_tcp_pages(sockstat: &str) -> u64 {
    sockstat
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .and_then(|line| line.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Binds the calling thread to `cpu`.
///
/// # Errors
///
/// When the machine or the cpuset has no such CPU.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    // SAFETY: a cpu_set_t is plain bits, and all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= size_of::<libc::cpu_set_t>() * 8 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `cpu` was checked to be a bit of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: 0 is the calling thread, and the set lives for the call and has the size given.
    let answer =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Raises the number of open files to the hard limit and says what it is now.
///
/// # Errors
///
/// When the kernel refuses, which it does for no process within its hard limit.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid and writable for the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid for the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_texts_are_read() {
        assert_eq!(parse_schedstat("47821 5 1\n"), Some((47821, 5)));
        let stat = "77 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14";
        assert_eq!(parse_stat(stat), Some(("a (b) c", 12)));
        assert_eq!(number_of("Rss:   1740 kB\nPss: 1 kB\n", "Rss:"), 1740);
        let status = "voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t5\n";
        assert_eq!(parse_switches(status), 12);
        let sockstat = "sockets: used 14\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 239\n";
        assert_eq!(parse_tcp_pages(sockstat), 239);
    }

    #[test]
    fn a_family_is_summed_up_with_those_who_left() {
        let stat = "77 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14";
        let relation = parse_relation(stat).unwrap();
        assert_eq!((relation.name.as_str(), relation.parent), ("a (b) c", 1));
        let tick_ns = 1_000_000_000 / ticks_per_second();
        assert_eq!(relation.ended_ns, (13 + 14) * tick_ns);
        let family = |living: &[(u32, u64)], ended_ns| FamilyCpu {
            living: living.iter().copied().collect(),
            ended_ns,
        };
        let before = family(&[(1, 100), (2, 50)], 1000);
        // 2 used another 20 and ended; 3 is new.
        let after = family(&[(1, 130), (3, 7)], 1070);
        let since: Vec<_> = after.since(&before).collect();
        assert_eq!(since, [(1, 30), (3, 7)]);
        assert_eq!(after.total_since(&before), 30 + 7 + 20);
    }

    #[test]
    fn children_belong_to_their_parent() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let family = FamilyCpu::read(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(family.living.contains_key(&child.id()));
        assert!(family.living.contains_key(&std::process::id()));
        assert!(!family.living.contains_key(&1));
        assert_eq!(parent_of_postgres(std::process::id()), None);
        assert!(resident(std::process::id()).unwrap() > 1 << 20);
    }

    #[test]
    fn this_process_can_be_read() {
        let before = ProcessCpu::read(std::process::id()).unwrap();
        let own = own_thread_ns();
        while own_thread_ns() == own {}
        let used = ProcessCpu::read(std::process::id()).unwrap().since(&before);
        assert!(used[0].total_ns > 0);
        assert!(ProcessMemory::read(std::process::id()).unwrap().anonymous > 0);
        assert!(KernelMemory::read().unwrap().slab > 0);
    }
}
