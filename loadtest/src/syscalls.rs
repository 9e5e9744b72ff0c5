//! How many system calls a process makes, counted by the kernel's own tracepoint.
//!
//! In: a process. Out: a number, or why this machine does not let us count: it takes tracefs, and the right to
//! use perf events (root, `CAP_PERFMON`, or `kernel.perf_event_paranoid` below 0).
//! A system call costs a few nanoseconds more while it is counted.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::FromRawFd;

/// Where the number of the tracepoint stands.
const IDS: [&str; 2] = [
    "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id",
    "/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/id",
];

/// perf_event_open(2): the type of events that tracepoints are.
const PERF_TYPE_TRACEPOINT: u32 = 2;

/// perf_event_open(2), the bit `inherit`: threads that start later count as well.
const INHERIT: u64 = 1 << 1;

/// perf_event_open(2), the first version of the structure (`PERF_ATTR_SIZE_VER0`).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

const _: () = assert!(size_of::<Attributes>() == 64, "PERF_ATTR_SIZE_VER0");

/// Counters of a process, one for each of its threads.
#[derive(Debug)]
pub struct Syscalls(Vec<File>);

impl Syscalls {
    /// Starts to count at the threads of `pid` whose name begins with `prefix`.
    ///
    /// # Errors
    ///
    /// Why nothing can be counted, for a person to read.
    pub fn of(pid: u32, prefix: &str) -> Result<Self, String> {
        let id = IDS.iter().find_map(|path| fs::read_to_string(path).ok());
        let id = id.ok_or(
            "tracefs cannot be read (mount -t tracefs tracefs /sys/kernel/tracing, as root)",
        )?;
        let id = id
            .trim()
            .parse()
            .map_err(|_| "tracefs has no number for raw_syscalls:sys_enter")?;
        let threads =
            fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| error.to_string())?;
        let mut counters = Vec::new();
        for thread in threads.flatten() {
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            let tid = thread.file_name().to_str().and_then(|tid| tid.parse().ok());
            if let (Some(tid), true) = (tid, name.starts_with(prefix)) {
                let counter = open(tid, id);
                counters.push(counter.map_err(|error| format!("perf_event_open: {error}"))?);
            }
        }
        Ok(Self(counters))
    }

    /// System calls since the start.
    ///
    /// # Errors
    ///
    /// When a counter cannot be read.
    pub fn count(&self) -> io::Result<u64> {
        let mut sum = 0;
        for mut counter in &self.0 {
            let mut count = [0; 8];
            counter.read_exact(&mut count)?;
            sum += u64::from_ne_bytes(count);
        }
        Ok(sum)
    }
}

fn open(tid: libc::pid_t, id: u64) -> io::Result<File> {
    let attributes = Attributes {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<Attributes>() as u32,
        config: id,
        flags: INHERIT,
        ..Attributes::default()
    };
    let (any_cpu, no_group, no_flags): (libc::c_int, libc::c_int, libc::c_ulong) = (-1, -1, 0);
    // SAFETY: the structure lives for the call and has the size that it says; all else are numbers. The
    // answer is a new descriptor or -1.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            tid,
            any_cpu,
            no_group,
            no_flags,
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just created and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_or_it_is_said_why_not() {
        match Syscalls::of(std::process::id(), "") {
            Ok(syscalls) => {
                let before = syscalls.count().unwrap();
                for _ in 0..1000 {
                    fs::read_to_string("/proc/self/comm").unwrap();
                }
                assert!(syscalls.count().unwrap() >= before + 1000);
            }
            Err(why) => assert!(
                why.contains("tracefs") || why.contains("perf_event_open"),
                "{why}"
            ),
        }
    }
}
