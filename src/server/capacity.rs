//! Whether this machine can hold what `MAX_CONNECTIONS` promises.
//!
//! What comes in: the promise, the shards, the machine. What goes out: a warning for each thing that would keep the promise from being
//! kept, with the command that changes it. What always holds: a warning says the number that is needed and the one that is there.
//! Deliberately absent: refusing to start, since fewer clients may come.

use super::machine::Machine;
use crate::limits;

/// What is to be held.
#[derive(Clone, Debug)]
pub(super) struct Plan<'a> {
    /// `MAX_CONNECTIONS`.
    pub(super) connections_max: u64,
    /// Sockets that one shard has room for.
    pub(super) sockets_per_shard: u64,
    /// Size of each shard's own table of sockets; nothing where its sockets are open files of the process.
    pub(super) socket_tables: &'a [Option<usize>],
    /// `RLIMIT_NOFILE`, if it is set.
    pub(super) open_files_max: Option<u64>,
    /// Connections that wait to be accepted.
    pub(super) backlog: u64,
    /// Where to listen.
    pub(super) port: u16,
}

/// What stands against the plan, in sentences.
#[must_use]
pub(super) fn warnings(plan: &Plan<'_>, machine: &Machine) -> Vec<String> {
    [
        files(plan, machine),
        memory(plan, machine),
        backlog(plan, machine),
        followed(plan, machine),
        port(plan, machine),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Open files. A ring's own table of sockets is as long as the limit at most, and its sockets do not count as open files: the limit
/// holds per shard. Without such a table all sockets are open files of the one process.
fn files(plan: &Plan<'_>, machine: &Machine) -> Option<String> {
    let (in_force, hard) = machine.open_files?;
    let is_per_shard = plan.socket_tables.iter().all(Option::is_some);
    let (needed, what) = if is_per_shard {
        let each = plan.sockets_per_shard.max(limits::OPEN_FILES_RESERVE);
        (each, "each shard has a table of its own, and needs")
    } else {
        let all = plan.connections_max + limits::OPEN_FILES_RESERVE;
        (all, "sockets are files of the process, which needs")
    };
    let smallest = plan.socket_tables.iter().flatten().min();
    let is_short_of_memory = smallest.is_some_and(|&table| {
        let wanted = plan.sockets_per_shard.min(in_force);
        is_per_shard && (table as u64) < wanted.min(TABLE_MAX)
    });
    if in_force >= needed && !is_short_of_memory {
        return None;
    }
    let promise = format!("MAX_CONNECTIONS is {}", plan.connections_max);
    if is_short_of_memory {
        let table = smallest.copied().unwrap_or_default();
        return Some(format!(
            "{promise}, but the kernel gave a shard a table of {table} sockets for want of memory: give it more, or set \
             MAX_CONNECTIONS lower"
        ));
    }
    let command = match plan.open_files_max {
        Some(asked) if asked < needed && hard >= needed => {
            format!("set RLIMIT_NOFILE={needed}, it is {asked}")
        }
        _ => format!(
            "run `ulimit -Hn {needed}` before the start, or set LimitNOFILE={needed} in the systemd unit, or start the container \
             with --ulimit nofile={needed}"
        ),
    };
    Some(format!(
        "{promise}: {what} {needed} open files, the limit is {in_force}; {command}"
    ))
}

/// The kernel's bound of a ring's table.
const TABLE_MAX: u64 = 1 << 20;

/// Memory of connections that are idle, each joined to a topic of its own.
fn memory(plan: &Plan<'_>, machine: &Machine) -> Option<String> {
    let memory = machine.memory?;
    let needed = plan
        .connections_max
        .saturating_mul(limits::CONNECTION_BYTES);
    if memory.available_bytes >= needed {
        return None;
    }
    let mib = |bytes: u64| bytes / (1024 * 1024);
    let fitting = memory.available_bytes / limits::CONNECTION_BYTES;
    let more = if memory.is_of_group {
        "give the control group more (MemoryMax= of the systemd unit, --memory of the container)"
    } else {
        "give the machine more"
    };
    Some(format!(
        "MAX_CONNECTIONS is {}: idle connections take {} bytes each, {} MiB, and {} MiB are available; {more}, or set \
         MAX_CONNECTIONS={fitting}",
        plan.connections_max,
        limits::CONNECTION_BYTES,
        mib(needed),
        mib(memory.available_bytes),
    ))
}

fn backlog(plan: &Plan<'_>, machine: &Machine) -> Option<String> {
    let allowed = machine.backlog_max?;
    let wanted = plan.backlog.min(plan.connections_max);
    (allowed < wanted).then(|| {
        format!(
            "net.core.somaxconn is {allowed}: of clients that come back all at once only so many wait to be accepted, the others \
             try again a second later; run `sysctl -w net.core.somaxconn={}`",
            plan.backlog
        )
    })
}

fn followed(plan: &Plan<'_>, machine: &Machine) -> Option<String> {
    let allowed = machine.followed_max?;
    // Connections that have ended are followed for a while as well.
    let needed = plan.connections_max + plan.connections_max / 4;
    (allowed < needed).then(|| {
        format!(
            "MAX_CONNECTIONS is {}, but the firewall follows {allowed} connections and drops the packets of others; run `sysctl -w \
             net.netfilter.nf_conntrack_max={needed}`, or have it not follow port {}",
            plan.connections_max, plan.port
        )
    })
}

fn port(plan: &Plan<'_>, machine: &Machine) -> Option<String> {
    let port = plan.port;
    let is_outgoing = machine.outgoing_ports.as_ref()?.contains(&port);
    let is_reserved = machine
        .reserved_ports
        .iter()
        .any(|range| range.contains(&port));
    (is_outgoing && !is_reserved).then(|| {
        format!(
            "PORT is {port}, one of those that the kernel gives to outgoing connections: one of them may have it at the next start; run \
             `sysctl -w net.ipv4.ip_local_reserved_ports={port}`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::machine::Memory;
    use super::*;

    const TABLES: [Option<usize>; 2] = [Some(10_500), Some(10_500)];

    fn plan() -> Plan<'static> {
        Plan {
            connections_max: 16_384,
            sockets_per_shard: 10_336,
            socket_tables: &TABLES,
            open_files_max: None,
            backlog: 4096,
            port: 4000,
        }
    }

    fn machine() -> Machine {
        Machine {
            open_files: Some((524_288, 524_288)),
            memory: Some(Memory {
                available_bytes: 8 << 30,
                is_of_group: false,
            }),
            backlog_max: Some(4096),
            followed_max: None,
            outgoing_ports: Some(32_768..=60_999),
            reserved_ports: Vec::new(),
        }
    }

    /// The one warning holds all these words.
    #[track_caller]
    fn check(plan: &Plan<'_>, machine: &Machine, words: &[&str]) {
        let found = warnings(plan, machine);
        assert_eq!(found.len(), usize::from(!words.is_empty()), "{found:?}");
        for word in words {
            assert!(found[0].contains(word), "{word}: {}", found[0]);
        }
    }

    #[test]
    fn a_machine_that_has_room_is_no_news() {
        check(&plan(), &machine(), &[]);
        check(&plan(), &Machine::default(), &[]);
    }

    #[test]
    fn open_files_count_per_shard_where_shards_have_tables() {
        let limited = |in_force, hard| Machine {
            open_files: Some((in_force, hard)),
            ..machine()
        };
        // Fewer files than connections, and enough all the same.
        check(&plan(), &limited(10_336, 10_336), &[]);
        let words = [
            "needs 10336 open files",
            "limit is 4096",
            "LimitNOFILE=10336",
            "ulimit -Hn 10336",
        ];
        check(&plan(), &limited(4096, 4096), &words);
        let ordinary = Plan {
            socket_tables: &[None, None],
            ..plan()
        };
        check(&ordinary, &limited(17_408, 17_408), &[]);
        let words = ["needs 17408 open files", "limit is 17407", "nofile=17408"];
        check(&ordinary, &limited(17_407, 17_407), &words);
    }

    #[test]
    fn a_limit_of_our_own_making_is_named() {
        let asked = Plan {
            open_files_max: Some(2000),
            ..plan()
        };
        let machine = Machine {
            open_files: Some((2000, 524_288)),
            ..machine()
        };
        check(&asked, &machine, &["set RLIMIT_NOFILE=10336, it is 2000"]);
    }

    #[test]
    fn a_table_that_came_out_smaller_is_named() {
        let small = Plan {
            socket_tables: &[Some(10_336), Some(5168)],
            ..plan()
        };
        check(&small, &machine(), &["a table of 5168 sockets", "memory"]);
    }

    #[test]
    fn memory_is_that_of_idle_connections() {
        let bytes = 16_384 * limits::CONNECTION_BYTES;
        let with = |available_bytes, is_of_group| Machine {
            memory: Some(Memory {
                available_bytes,
                is_of_group,
            }),
            ..machine()
        };
        check(&plan(), &with(bytes, false), &[]);
        check(
            &plan(),
            &with(bytes - 1, false),
            &["set MAX_CONNECTIONS=16383", "the machine more"],
        );
        check(
            &plan(),
            &with(bytes / 2, true),
            &["MAX_CONNECTIONS=8192", "MemoryMax=", "--memory"],
        );
    }

    #[test]
    fn what_the_network_bounds_comes_with_a_command() {
        let short = Machine {
            backlog_max: Some(128),
            ..machine()
        };
        check(
            &plan(),
            &short,
            &["is 128", "sysctl -w net.core.somaxconn=4096"],
        );
        let few = Plan {
            connections_max: 100,
            ..plan()
        };
        check(&few, &short, &[]);
        let followed = Machine {
            followed_max: Some(20_479),
            ..machine()
        };
        check(
            &plan(),
            &followed,
            &["sysctl -w net.netfilter.nf_conntrack_max=20480"],
        );
        let high = Plan {
            port: 40_000,
            ..plan()
        };
        check(
            &high,
            &machine(),
            &["sysctl -w net.ipv4.ip_local_reserved_ports=40000"],
        );
        let reserved = Machine {
            reserved_ports: vec![39_000..=40_000],
            ..machine()
        };
        check(&high, &reserved, &[]);
    }
}
