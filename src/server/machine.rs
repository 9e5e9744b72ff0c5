//! What this machine allows, as far as it bounds the number of connections.
//!
//! What comes in: files of `/proc` and `/sys`. What goes out: a [`Machine`]. What always holds: what cannot be read is not known, and
//! nobody is told anything about it. Deliberately absent: changing any of it, and opinions (`capacity`).

use std::fs;
use std::ops::RangeInclusive;

/// Limits of the machine and of this process.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Machine {
    /// Files that this process may have open: what is in force, and what it could be raised to.
    pub(super) open_files: Option<(u64, u64)>,
    /// Memory that is there to be used.
    pub(super) memory: Option<Memory>,
    /// `net.core.somaxconn`: connections that may wait to be accepted.
    pub(super) backlog_max: Option<u64>,
    /// `net.netfilter.nf_conntrack_max`: connections that the firewall can follow. Not there without one.
    pub(super) followed_max: Option<u64>,
    /// `net.ipv4.ip_local_port_range`: ports that the kernel gives to outgoing connections.
    pub(super) outgoing_ports: Option<RangeInclusive<u16>>,
    /// `net.ipv4.ip_local_reserved_ports`: those of them that it does not give.
    pub(super) reserved_ports: Vec<RangeInclusive<u16>>,
}

/// Memory in bytes, and what bounds it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Memory {
    /// How much is there.
    pub(super) available_bytes: u64,
    /// Whether a control group allows less than the machine has.
    pub(super) is_of_group: bool,
}

impl Machine {
    /// Reads everything.
    #[must_use]
    pub(super) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).ok();
        let number = |path: &str| text(path)?.trim().parse().ok();
        Self {
            open_files: text("/proc/self/limits").and_then(|text| open_files(&text)),
            memory: memory(
                text("/proc/meminfo").and_then(|text| available(&text)),
                text("/proc/self/cgroup").and_then(|groups| left_of_group(&groups, text)),
            ),
            backlog_max: number("/proc/sys/net/core/somaxconn"),
            followed_max: number("/proc/sys/net/netfilter/nf_conntrack_max"),
            outgoing_ports: text("/proc/sys/net/ipv4/ip_local_port_range")
                .and_then(|text| port_range(&text)),
            reserved_ports: text("/proc/sys/net/ipv4/ip_local_reserved_ports")
                .map(|text| ports(&text))
                .unwrap_or_default(),
        }
    }
}

/// Soft and hard limit, out of proc_pid_limits(5).
fn open_files(limits: &str) -> Option<(u64, u64)> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = line.split_whitespace().map(|number| match number {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    });
    Some((numbers.next()??, numbers.next()??))
}

/// `MemAvailable` of proc_meminfo(5), in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the control groups of this process, from its own to the outermost, leave to it at least. `groups` is proc_pid_cgroup(5).
fn left_of_group(groups: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let of_version = |line: &str, controllers: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let is_ours = parts.next()?.split(',').any(|it| it == controllers);
        parts.next().filter(|_| is_ours).map(str::to_owned)
    };
    let versions = [
        ("", "/sys/fs/cgroup", "memory.max", "memory.current"),
        (
            "memory",
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        ),
    ];
    let mut least: Option<u64> = None;
    for (controllers, root, limit, usage) in versions {
        let group = groups
            .lines()
            .find_map(|line| of_version(line, controllers));
        let mut group = group.as_deref().map(|group| group.trim_end_matches('/'));
        while let Some(path) = group {
            let number = |name: &str| read(&format!("{root}{path}/{name}"))?.trim().parse().ok();
            // `max`, where there is no limit, is no number.
            if let (Some(limit), Some(usage)) = (number(limit), number(usage)) {
                let left = u64::saturating_sub(limit, usage);
                least = Some(least.map_or(left, |least| least.min(left)));
            }
            group = path.rsplit_once('/').map(|(outer, _)| outer);
        }
    }
    least
}

fn memory(of_machine: Option<u64>, of_group: Option<u64>) -> Option<Memory> {
    let is_of_group = of_group.is_some_and(|group| of_machine.is_none_or(|it| group < it));
    let available_bytes = if is_of_group { of_group } else { of_machine };
    available_bytes.map(|available_bytes| Memory {
        available_bytes,
        is_of_group,
    })
}

/// Two numbers between spaces.
fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some(first.parse().ok()?..=last.trim().parse().ok()?)
}

/// Ports and ranges of ports: `80,4000-4010`.
fn ports(text: &str) -> Vec<RangeInclusive<u16>> {
    let range = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             96364                96364                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some((1024, 524_288)));
        let unlimited =
            "Max open files            1024                 unlimited            files\n";
        assert_eq!(open_files(unlimited), Some((1024, u64::MAX)));
        assert_eq!(open_files("Max open files  x y"), None);
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn available_memory_is_read() {
        let meminfo = "MemTotal:       32000000 kB\nMemAvailable:   23656784 kB\n";
        assert_eq!(available(meminfo), Some(23_656_784 * 1024));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn the_narrowest_control_group_counts() {
        let files = |files: &'static [(&'static str, &'static str)]| {
            move |path: &str| {
                let found = files.iter().find(|(known, _)| *known == path);
                found.map(|(_, text)| (*text).to_owned())
            }
        };
        let second = files(&[
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/b/memory.current", "10\n"),
            ("/sys/fs/cgroup/a/memory.max", "1000\n"),
            ("/sys/fs/cgroup/a/memory.current", "400\n"),
            ("/sys/fs/cgroup/memory.max", "9000\n"),
            ("/sys/fs/cgroup/memory.current", "400\n"),
        ]);
        assert_eq!(left_of_group("0::/a/b\n", second), Some(600));
        assert_eq!(left_of_group("0::/\n", second), Some(8600));
        assert_eq!(left_of_group("", second), None);
        let first = files(&[
            ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "50\n"),
            ("/sys/fs/cgroup/memory/x/memory.usage_in_bytes", "70\n"),
        ]);
        assert_eq!(left_of_group("4:cpu,memory:/x\n0::/\n", first), Some(0));
    }

    #[test]
    fn the_smaller_of_machine_and_group_counts() {
        let check = |machine, group, expected: Option<(u64, bool)>| {
            let memory = memory(machine, group);
            assert_eq!(
                memory.map(|it| (it.available_bytes, it.is_of_group)),
                expected
            );
        };
        check(Some(5), None, Some((5, false)));
        check(Some(5), Some(7), Some((5, false)));
        check(Some(5), Some(4), Some((4, true)));
        check(None, Some(4), Some((4, true)));
        check(None, None, None);
    }

    #[test]
    fn ports_are_read() {
        assert_eq!(port_range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(port_range("x"), None);
        assert_eq!(ports("80,4000-4010\n"), [80..=80, 4000..=4010]);
        assert_eq!(ports("\n"), []);
    }

    #[test]
    fn this_machine_says_something() {
        let machine = Machine::read();
        assert!(
            machine.open_files.is_some() && machine.memory.is_some(),
            "{machine:?}"
        );
    }
}
