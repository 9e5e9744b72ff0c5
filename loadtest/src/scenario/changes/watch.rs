//! Who watches the processes while the load runs: PostgreSQL's CPU, the server's memory.
//!
//! In: a board that says where the run is. Out: [`Seen`].
//! PostgreSQL is found from a connection to it, where it runs on this machine: the parent of that
//! connection's process. Its CPU is that of the parent and of all its children, those that ended
//! included.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use crate::probe::{self, FamilyCpu};
use crate::report::Run;
use crate::scenario::fanout::{Board, Phase};
use crate::scenario::rows::Database;
use crate::settings::Bench;

/// How often the watcher looks.
const LOOK: Duration = Duration::from_millis(10);

/// How long the server gets to let go of what the members had.
const SETTLE: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 1000 });

/// PostgreSQL's processes that are told of one by one.
const BACKENDS_SHOWN_MAX: usize = 8;

/// A run's watcher.
pub(super) struct Watch {
    server: Option<u32>,
    postgres: Option<Postgres>,
    /// Bytes that the server had before anybody was connected.
    before: u64,
}

/// PostgreSQL on this machine.
struct Postgres {
    /// Names its processes.
    database: Database,
    /// The parent of its processes.
    postmaster: u32,
}

/// What was seen.
#[derive(Default)]
pub(super) struct Seen {
    /// Bytes of the server that were resident: before, at most, after.
    resident: Option<[u64; 3]>,
    cpu: Option<PostgresCpu>,
}

/// PostgreSQL's CPU while the load was measured, nanoseconds.
struct PostgresCpu {
    total_ns: u64,
    /// By what the process is there for, busiest first.
    by_name: Vec<(String, u64)>,
    /// Frames that were received meanwhile.
    received: u64,
    wall_ns: u64,
}

/// One moment of the run.
struct Moment {
    cpu: FamilyCpu,
    received: u64,
    at_ns: u64,
    /// What each process is there for.
    names: BTreeMap<u32, String>,
}

impl Watch {
    /// A watcher of the server and of the database's PostgreSQL.
    ///
    /// # Errors
    ///
    /// What the database said.
    pub(super) fn new(url: &str, bench: &Bench) -> Result<Self, String> {
        let database = Database::connect(url)?;
        let postgres = postmaster(&database)?.map(|postmaster| Postgres {
            database,
            postmaster,
        });
        Ok(Self::of(
            bench.server.as_ref().map(|server| server.pid),
            postgres,
        ))
    }

    /// A watcher of a process alone.
    #[cfg(test)]
    pub(super) fn blind(pid: u32) -> Self {
        Self::of(Some(pid), None)
    }

    fn of(server: Option<u32>, postgres: Option<Postgres>) -> Self {
        Self {
            before: server.and_then(probe::resident).unwrap_or(0),
            server,
            postgres,
        }
    }

    /// Watches until the run is done.
    pub(super) fn work(self, board: &Board) -> Seen {
        let mut peak = self.before;
        let (mut first, mut last) = (None, None);
        while !board.is_at_least(Phase::Done) {
            thread::sleep(LOOK);
            peak = peak.max(self.server.and_then(probe::resident).unwrap_or(0));
            if first.is_none() && board.is(Phase::Measure) {
                first = self.moment(board);
            }
            if last.is_none() && board.is_at_least(Phase::Drain) {
                last = self.moment(board);
            }
        }
        let cpu = match (first, last) {
            (Some(first), Some(last)) => Some(cpu_between(&first, &last)),
            _ => None,
        };
        thread::sleep(SETTLE);
        let after = self.server.and_then(probe::resident);
        Seen {
            resident: after.map(|after| [self.before, peak, after]),
            cpu,
        }
    }

    fn moment(&self, board: &Board) -> Option<Moment> {
        let postgres = self.postgres.as_ref()?;
        Some(Moment {
            received: board.received(),
            at_ns: crate::clock::now_ns(),
            cpu: FamilyCpu::read(postgres.postmaster),
            // While the run lasts: processes that have ended have no name any more.
            names: names(&postgres.database).unwrap_or_default(),
        })
    }
}

fn cpu_between(first: &Moment, last: &Moment) -> PostgresCpu {
    let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
    for (pid, ns) in last.cpu.since(&first.cpu) {
        let name = last.names.get(&pid).or_else(|| first.names.get(&pid));
        let name = name.map_or("another process", |name| name);
        *by_name.entry(name.to_owned()).or_default() += ns;
    }
    let mut by_name: Vec<_> = by_name.into_iter().filter(|(_, ns)| *ns > 0).collect();
    by_name.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    PostgresCpu {
        total_ns: last.cpu.total_since(&first.cpu),
        by_name,
        received: last.received - first.received,
        wall_ns: last.at_ns - first.at_ns,
    }
}

/// The process that all of PostgreSQL's are children of, where they are on this machine.
fn postmaster(database: &Database) -> Result<Option<u32>, String> {
    let rows = database.query(
        "select pg_backend_pid(), inet_server_addr() is not distinct from inet_client_addr()",
        &[],
    )?;
    let row = rows.first().ok_or("the database has no process")?;
    let (pid, is_here): (i32, bool) = (row.get(0), row.get(1));
    Ok(u32::try_from(pid)
        .ok()
        .filter(|_| is_here)
        .and_then(probe::parent_of_postgres))
}

/// What each of PostgreSQL's processes is there for.
fn names(database: &Database) -> Result<BTreeMap<u32, String>, String> {
    let rows = database.query(
        "select pid, case backend_type when 'client backend' then coalesce(nullif(application_name, ''), \
         case when query like 'insert%' then 'the writers' else 'a client' end) \
         else backend_type || coalesce(' ' || nullif(application_name, ''), '') end \
         from pg_stat_activity",
        &[],
    )?;
    let name = |row: &tokio_postgres::Row| {
        let (pid, name): (i32, String) = (row.get(0), row.get(1));
        Some((u32::try_from(pid).ok()?, name))
    };
    Ok(rows.iter().filter_map(name).collect())
}

impl Seen {
    /// Adds what was seen, for rows that `copies` members got each.
    pub(super) fn describe(&self, copies: usize, run: &mut Run) {
        if let Some(cpu) = &self.cpu {
            let rows = cpu.received as f64 / copies.max(1) as f64;
            let per_row = |ns: u64| ns as f64 / 1e3 / rows.max(1.0);
            run.push("PostgreSQL cpu per row", "us", per_row(cpu.total_ns));
            for (name, ns) in cpu.by_name.iter().take(BACKENDS_SHOWN_MAX) {
                run.push(format!("  PostgreSQL: {name}"), "us", per_row(*ns));
            }
            let share = cpu.total_ns as f64 / cpu.wall_ns.max(1) as f64;
            run.push("PostgreSQL cpu", "%", share * 100.0);
        }
        if let Some(resident) = self.resident {
            for (name, bytes) in ["before", "peak", "after"].into_iter().zip(resident) {
                run.push(format!("server resident {name}"), "MB", bytes as f64 / 1e6);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_told_for_each_row() {
        let seen = Seen {
            resident: Some([1_000_000, 5_000_000, 2_000_000]),
            cpu: Some(PostgresCpu {
                total_ns: 8_000_000,
                by_name: vec![("walsender".to_owned(), 6_000_000)],
                received: 40,
                wall_ns: 16_000_000,
            }),
        };
        let mut run = Run::default();
        seen.describe(4, &mut run);
        for (name, expected) in [
            ("PostgreSQL cpu per row", 800.0),
            ("  PostgreSQL: walsender", 600.0),
            ("PostgreSQL cpu", 50.0),
            ("server resident before", 1.0),
            ("server resident peak", 5.0),
            ("server resident after", 2.0),
        ] {
            assert_eq!(run.value(name), Some(expected), "{name}");
        }
    }
}
