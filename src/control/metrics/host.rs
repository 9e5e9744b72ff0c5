//! What the machine and this process look like from outside (spec: metrics 8, 10).
//!
//! What comes in: texts of `/proc`. What goes out: numbers. What always holds: what cannot be read is left out, not guessed
//! (`what_cannot_be_read_is_left_out`). Deliberately absent: limits of a container; the kernel's files do not know them.

use std::fs;
use std::time::Duration;

/// What was read at one moment.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// Memory of the machine in use, in percent.
    pub memory_used: Option<f64>,
    /// How busy its cores were since the reading before, in percent.
    pub busy: Option<f64>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: Option<[f64; 3]>,
    /// Resident memory of this process in bytes.
    pub resident_bytes: Option<u64>,
}

/// Reads, and remembers when the cores were busy.
#[derive(Debug, Default)]
pub struct Reader {
    /// When it was read last, in time since the start.
    read_at: Option<Duration>,
    cores: Option<Cores>,
    last: Host,
}

impl Reader {
    /// What it is like `now`, in time since the start; what was read less than `shortest` ago counts as now.
    pub fn read(&mut self, now: Duration, shortest: Duration) -> Host {
        if self.read_at.is_some_and(|at| now < at + shortest) {
            return self.last;
        }
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let cores = Cores::parse(&text("/proc/stat"));
        let before = std::mem::replace(&mut self.cores, cores).unwrap_or_default();
        self.read_at = Some(now);
        self.last = Host {
            memory_used: memory_used(&text("/proc/meminfo")),
            busy: cores.and_then(|cores| cores.busy_since(before)),
            load: load(&text("/proc/loadavg")),
            resident_bytes: kib_of(&text("/proc/self/status"), "VmRSS:").map(|kib| kib * 1024),
        };
        self.last
    }
}

/// Ticks of all cores since the machine was started.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
struct Cores {
    busy: u64,
    all: u64,
}

impl Cores {
    /// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal. What guests take is part of user.
    fn parse(stat: &str) -> Option<Self> {
        let ticks = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = ticks
            .split_whitespace()
            .take(8)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
        let all = ticks.iter().sum::<u64>();
        Some(Self {
            busy: all.checked_sub(idle)?,
            all,
        })
    }

    fn busy_since(self, before: Self) -> Option<f64> {
        let busy = self.busy.checked_sub(before.busy)?;
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        Some(percent(busy, all))
    }
}

/// With two digits behind the point.
fn percent(part: u64, all: u64) -> f64 {
    let hundredths = u128::from(part) * 10_000 / u128::from(all.max(1));
    u32::try_from(hundredths).map_or(100.0, f64::from) / 100.0
}

fn memory_used(meminfo: &str) -> Option<f64> {
    let total = kib_of(meminfo, "MemTotal:").filter(|total| *total > 0)?;
    let available = kib_of(meminfo, "MemAvailable:")?;
    Some(percent(total.checked_sub(available)?, total))
}

fn load(loadavg: &str) -> Option<[f64; 3]> {
    let mut loads = loadavg.split_whitespace().map(|load| load.parse().ok());
    Some([loads.next()??, loads.next()??, loads.next()??])
}

/// A line like `VmRSS:   1234 kB`.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "cpu  100 5 50 800 45 0 0 0 7 0\ncpu0 1 2 3 4\nintr 5\n";
        let cores = Cores::parse(stat).unwrap();
        assert_eq!(
            cores,
            Cores {
                busy: 155,
                all: 1000
            }
        );
        let later = Cores {
            busy: 230,
            all: 1100,
        };
        assert_eq!(later.busy_since(cores), Some(75.0));
        let meminfo = "MemTotal:       8000000 kB\nMemFree:   1 kB\nMemAvailable:   6000000 kB\n";
        assert_eq!(memory_used(meminfo), Some(25.0));
        assert_eq!(
            load("0.50 1.25 12.00 1/100 4242\n"),
            Some([0.5, 1.25, 12.0])
        );
        assert_eq!(kib_of("Name:\tx\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        for text in ["", "cpu", "cpu \n", "cpu  1 2 3\n", "cpu  a b c d\n"] {
            assert_eq!(Cores::parse(text), None, "{text:?}");
        }
        let same = Cores { busy: 1, all: 2 };
        assert_eq!(same.busy_since(same), None);
        assert_eq!(memory_used("MemTotal: 5 kB\n"), None);
        assert_eq!(memory_used("MemTotal: 5 pages\nMemAvailable: 1 kB\n"), None);
        assert_eq!(load("0.5 x"), None);
    }

    #[test]
    fn this_machine_is_read_and_not_too_often() {
        let mut reader = Reader::default();
        let shortest = Duration::from_secs(5);
        let first = reader.read(Duration::ZERO, shortest);
        let used = first.memory_used.unwrap();
        assert!(used > 0.0 && used <= 100.0, "{used}");
        assert!(first.resident_bytes.unwrap() > 100_000);
        assert!(first.busy.is_some_and(|busy| (0.0..=100.0).contains(&busy)));
        assert_eq!(reader.read(Duration::from_secs(4), shortest), first);
        assert_eq!(reader.read_at, Some(Duration::ZERO));
        let _ = reader.read(Duration::from_secs(5), shortest);
        assert_eq!(reader.read_at, Some(Duration::from_secs(5)));
    }
}
