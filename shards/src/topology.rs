//! Cores and limits of the process, and which thread goes where.
#![expect(
    unsafe_code,
    reason = "affinity and resource limits: no safe crate among the dependencies covers them"
)]

use std::io;
use std::mem::{MaybeUninit, size_of};

use crate::options::Placement;

/// The core of every thread; `None` leaves it to the scheduler.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(crate) struct Plan {
    pub(crate) shards: Vec<Option<usize>>,
    pub(crate) control: Option<usize>,
}

/// Where `shards` threads and control run.
///
/// # Errors
///
/// When the process's cores cannot be read, or a core was named that the process may not use.
pub(crate) fn plan(shards: usize, placement: &Placement) -> io::Result<Plan> {
    let allowed = match placement {
        Placement::Unpinned => {
            return Ok(Plan {
                shards: vec![None; shards],
                control: None,
            });
        }
        Placement::Auto | Placement::Cpus(_) => allowed_cpus()?,
    };
    let cpus = match placement {
        Placement::Cpus(cpus) if !cpus.is_empty() => cpus,
        _ => &allowed,
    };
    if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        let text = format!("core {cpu} is not one of the cores this process may use ({allowed:?})");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(spread(shards, cpus))
}

/// The last core is control's, the shards take turns on the others; a single core is shared.
fn spread(shards: usize, cpus: &[usize]) -> Plan {
    let control = cpus.last().copied();
    let data = if cpus.len() > 1 {
        &cpus[..cpus.len() - 1]
    } else {
        cpus
    };
    Plan {
        shards: data
            .iter()
            .copied()
            .map(Some)
            .cycle()
            .take(shards)
            .collect(),
        control,
    }
}

/// The cores that the process may use, in ascending order.
fn allowed_cpus() -> io::Result<Vec<usize>> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // JUSTIFICATION: std counts the cores but does not name them.
    // SAFETY: `set` is valid for its size.
    let result =
        unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // JUSTIFICATION: the kernel filled it.
    // SAFETY: zero is a value of cpu_set_t, and the kernel only sets bits.
    let set = unsafe { set.assume_init() };
    let cpus = (0..libc::CPU_SETSIZE as usize).filter(|cpu| {
        // JUSTIFICATION: the set has no other reader.
        // SAFETY: the index is below CPU_SETSIZE.
        unsafe { libc::CPU_ISSET(*cpu, &set) }
    });
    Ok(cpus.collect())
}

/// Pins the calling thread to `cpu`.
///
/// # Errors
///
/// What the kernel says.
pub(crate) fn pin(cpu: Option<usize>) -> io::Result<()> {
    let Some(cpu) = cpu.filter(|cpu| *cpu < libc::CPU_SETSIZE as usize) else {
        return Ok(());
    };
    // JUSTIFICATION: std cannot pin threads.
    // SAFETY: zero is a value of cpu_set_t.
    let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // JUSTIFICATION: the set has no other writer.
    // SAFETY: the index is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // JUSTIFICATION: std cannot pin threads.
    // SAFETY: `set` is valid for its size; 0 means the calling thread.
    let result =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The soft and the hard value of a limit of this process.
pub(crate) fn limit(resource: Limit) -> (u64, u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // JUSTIFICATION: std does not read limits.
    // SAFETY: `limit` is valid for a write.
    let _ = unsafe { libc::getrlimit(resource.number(), &raw mut limit) };
    (limit.rlim_cur, limit.rlim_max)
}

/// Sets the soft limit of open files to `wanted`, or to the hard one where that is less or nothing is wanted; that needs no privilege.
/// Returns what it is then.
pub(crate) fn set_open_files(wanted: Option<u64>) -> u64 {
    let (soft, hard) = limit(Limit::OpenFiles);
    let target = wanted.map_or(hard, |wanted| wanted.min(hard));
    let wanted = libc::rlimit {
        rlim_cur: target,
        rlim_max: hard,
    };
    if soft != target {
        // JUSTIFICATION: std does not set limits.
        // SAFETY: `wanted` is valid for a read.
        let _ = unsafe { libc::setrlimit(Limit::OpenFiles.number(), &raw const wanted) };
    }
    limit(Limit::OpenFiles).0
}

/// A limit that the runtime runs into.
#[derive(Copy, Clone)]
pub(crate) enum Limit {
    /// Open files; it also bounds a ring's table of sockets.
    OpenFiles,
    /// Locked memory in bytes, which older kernels charge rings to.
    LockedBytes,
}

impl Limit {
    const fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Self::OpenFiles => libc::RLIMIT_NOFILE,
            Self::LockedBytes => libc::RLIMIT_MEMLOCK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_core_is_for_control_and_shards_take_turns_on_the_rest() {
        let check = |shards, cpus: &[usize], expected: &[usize], control| {
            let plan = spread(shards, cpus);
            assert_eq!(
                plan.shards,
                expected.iter().copied().map(Some).collect::<Vec<_>>()
            );
            assert_eq!(plan.control, Some(control));
        };
        check(3, &[0, 1, 2, 3], &[0, 1, 2], 3);
        check(1, &[4, 9], &[4], 9);
        check(3, &[4, 9], &[4, 4, 4], 9);
        check(2, &[7], &[7, 7], 7);
        check(3, &[1, 2, 3], &[1, 2, 1], 3);
    }

    #[test]
    fn a_core_that_may_not_be_used_is_refused_by_name() {
        let error = plan(1, &Placement::Cpus(vec![100_000])).unwrap_err();
        assert!(
            error.to_string().starts_with("core 100000 is not one of"),
            "{error}"
        );
    }

    #[test]
    fn the_cores_of_the_process_are_found_and_can_be_pinned_to() {
        let first = allowed_cpus().unwrap()[0];
        std::thread::spawn(move || {
            pin(Some(first)).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [first]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn limits_are_read() {
        assert!(set_open_files(None) > 0);
        assert!(limit(Limit::LockedBytes).1 > 0);
    }
}
