//! Opening a ring: what the kernel can do is tried, never assumed, and a refusal is put into words.
//!
//! Flags and sizes go from best to least. A kernel that is too old for a flag says EINVAL, a small memory limit says
//! ENOMEM; the smallest ring still works. What cannot be done without is deferred task work and multishot receive (6.1).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, Probe, opcode};

use super::buf_ring::BufRing;
use crate::driver::BUFFER_COUNT;
use crate::options::Options;
use crate::topology::{Limit, limit};

/// A ring with everything registered.
pub(super) struct Opened {
    pub(super) ring: IoUring,
    pub(super) enter: Enter,
    pub(super) buffers: BufRing,
    pub(super) direct: Option<u32>,
}

/// Entries of the submission and the completion queue, best first.
const SIZES: [(u32, u32); 5] = [(1024, 8192), (512, 4096), (128, 1024), (32, 256), (32, 128)];

/// Receive buffers, best first.
const BUFFERS: [u16; 3] = [BUFFER_COUNT as u16, 256, 64];

/// Operations without which there is no shard.
const NEEDED: [(u8, &str); 9] = [
    (opcode::AcceptMulti::CODE, "accept"),
    (opcode::RecvMulti::CODE, "receive"),
    (opcode::Send::CODE, "send"),
    (opcode::Shutdown::CODE, "shutdown"),
    (opcode::AsyncCancel::CODE, "cancel"),
    (opcode::Close::CODE, "close"),
    (opcode::MsgRingData::CODE, "ring messages"),
    (opcode::PollAdd::CODE, "poll"),
    (opcode::Write::CODE, "write"),
];

/// Opens a ring for the calling thread alone.
///
/// # Errors
///
/// The kernel's last refusal; [`why_refused`] explains it.
pub(super) fn open(options: &Options) -> io::Result<Opened> {
    let mut budget_bytes = lockable_bytes() / options.shards.max(1) as u64;
    let ring = open_ring(budget_bytes)?;
    budget_bytes = budget_bytes.saturating_sub(ring_bytes(
        ring.params().sq_entries(),
        ring.params().cq_entries(),
    ));
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    if let Some((_, name)) = NEEDED.iter().find(|(code, _)| !probe.is_supported(*code)) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("io_uring lacks {name}"),
        ));
    }
    let can_install =
        options.direct_descriptors && probe.is_supported(opcode::FixedFdInstall::CODE);
    let direct = if can_install {
        register_files(&ring, options.connections_max)
    } else {
        None
    };
    let buffers = register_buffers(&ring, budget_bytes)?;
    // Half-closes run on workers of the ring; a mass shutdown must not start one per socket. Without the bound the
    // ring works as well.
    let _ = ring.submitter().register_iowq_max_workers(&mut [1, 2]);
    let enter = Enter::new(&ring);
    Ok(Opened {
        ring,
        enter,
        buffers,
        direct,
    })
}

/// Opens the largest ring that fits into this shard's share of the lockable memory: the kernel charges rings to the
/// user, and the first shard must not take what the last one needs.
fn open_ring(budget_bytes: u64) -> io::Result<IoUring> {
    let mut refusal = io::Error::from_raw_os_error(libc::ENOSYS);
    let smallest = SIZES[SIZES.len() - 1];
    for (submissions, completions) in SIZES {
        if ring_bytes(submissions, completions) > budget_bytes
            && (submissions, completions) != smallest
        {
            continue;
        }
        // NO_SQARRAY is of 6.6.
        for no_array in [true, false] {
            let mut builder = IoUring::builder();
            builder
                .dontfork()
                .setup_cqsize(completions)
                .setup_submit_all()
                .setup_single_issuer()
                .setup_coop_taskrun()
                .setup_defer_taskrun()
                // io-uring 0.7 asks for events in `submit` only with this flag; so do we.
                .setup_taskrun_flag();
            if no_array {
                builder.setup_no_sqarray();
            }
            match builder.build(submissions) {
                Ok(ring) => return Ok(ring),
                Err(error) => refusal = error,
            }
            match refusal.raw_os_error() {
                Some(libc::EINVAL) => {}
                Some(libc::ENOMEM) => break,
                _ => return Err(refusal),
            }
        }
    }
    Err(refusal)
}

/// Memory of a ring, about: entries of 64 and 16 bytes, their heads, in whole pages.
fn ring_bytes(submissions: u32, completions: u32) -> u64 {
    let pages = |bytes: u32| u64::from(bytes.div_ceil(4096)) * 4096;
    pages(submissions * 64) + pages(completions * 16 + submissions * 4 + 256)
}

/// Bytes that this process may lock; without bound for whoever has the privilege (`CAP_IPC_LOCK`).
fn lockable_bytes() -> u64 {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    if effective & CAP_IPC_LOCK != 0 {
        u64::MAX
    } else {
        limit(Limit::LockedBytes).0
    }
}

/// Registers an empty table of direct descriptors. Returns its size, or nothing: sockets are ordinary ones then.
fn register_files(ring: &IoUring, connections_max: usize) -> Option<u32> {
    let (open_files, _) = limit(Limit::OpenFiles);
    let mut count = u32::try_from(open_files.min(connections_max as u64))
        .unwrap_or(u32::MAX)
        .min(FILES_MAX);
    while count > 0 {
        match ring.submitter().register_files_sparse(count) {
            Ok(()) => return Some(count),
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => count /= 2,
            Err(_) => return None,
        }
    }
    None
}

/// The kernel's bound of a ring's table (`IORING_MAX_FIXED_FILES`).
const FILES_MAX: u32 = 1 << 20;

fn register_buffers(ring: &IoUring, budget_bytes: u64) -> io::Result<BufRing> {
    let mut refusal = io::Error::from_raw_os_error(libc::ENOMEM);
    for count in BUFFERS {
        if BufRing::locked_bytes(count) > budget_bytes && count != BUFFERS[BUFFERS.len() - 1] {
            continue;
        }
        match BufRing::register(ring, count) {
            Ok(buffers) => return Ok(buffers),
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => refusal = error,
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}

/// `io_uring_enter` by the ring's registered descriptor, which saves a lookup per call. The crate keeps that descriptor
/// in a borrowed submitter only, which cannot live beside its ring.
pub(super) struct Enter {
    fd: RawFd,
    flags: u32,
}

/// `IORING_REGISTER_RING_FDS` of linux/io_uring.h.
const REGISTER_RING_FDS: libc::c_uint = 20;

/// `struct io_uring_rsrc_update` of linux/io_uring.h.
#[repr(C)]
struct RingFd {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct io_uring_getevents_arg` of linux/io_uring.h.
#[repr(C)]
struct WaitArgument {
    signals: u64,
    signals_bytes: u32,
    min_wait_us: u32,
    timeout: u64,
}

impl Enter {
    fn new(ring: &IoUring) -> Self {
        let fd = ring.as_raw_fd();
        let mut update = RingFd {
            offset: u32::MAX,
            reserved: 0,
            data: fd as u64,
        };
        // JUSTIFICATION: see the type.
        // SAFETY: one valid update is passed; the kernel writes its offset.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                fd,
                REGISTER_RING_FDS,
                &raw mut update,
                1,
            )
        };
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if done == 1 {
            Self {
                fd: update.offset as RawFd,
                flags: (flags | EnterFlags::REGISTERED_RING).bits(),
            }
        } else {
            Self {
                fd,
                flags: flags.bits(),
            }
        }
    }

    /// Submits what is queued, runs deferred work, and waits until `want` completions are there or `timeout` is over.
    /// What was not taken stays queued, and what went wrong (EINTR, ETIME, a full completion queue) is over when the
    /// shard has taken its completions and comes again.
    pub(super) fn enter(&self, ring: &mut IoUring, want: u32, timeout: Option<Duration>) {
        let queue = ring.submission();
        let queued = queue.len();
        if want == 0 && queued == 0 && !queue.taskrun() && !queue.cq_overflow() {
            return;
        }
        drop(queue);
        let time = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let argument = WaitArgument {
            signals: 0,
            signals_bytes: 0,
            min_wait_us: 0,
            timeout: time
                .as_ref()
                .map_or(0, |time| std::ptr::from_ref(time) as u64),
        };
        // JUSTIFICATION: see the type.
        // SAFETY: the argument and the time it points to live for the whole call; what is queued is sound by the
        // contract of `push`.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd,
                queued as libc::c_uint,
                want,
                self.flags,
                &raw const argument,
                size_of::<WaitArgument>(),
            )
        };
    }
}

/// What forbids `io_uring`, in a sentence that names the setting.
pub(crate) fn why_refused(error: &io::Error) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    why(
        error,
        &read("/proc/sys/kernel/io_uring_disabled"),
        &read("/proc/self/status"),
        &read("/proc/sys/kernel/osrelease"),
    )
}

fn why(error: &io::Error, disabled: &str, status: &str, release: &str) -> String {
    let (disabled, release) = (disabled.trim(), release.trim());
    let filtered = status.lines().any(|line| {
        line.strip_prefix("Seccomp:")
            .is_some_and(|mode| mode.trim() == "2")
    });
    match error.raw_os_error() {
        Some(libc::EPERM) if disabled == "1" || disabled == "2" => {
            format!("io_uring is switched off by the sysctl kernel.io_uring_disabled = {disabled}")
        }
        Some(libc::EPERM | libc::ENOSYS | libc::EACCES) if filtered => {
            "io_uring is forbidden by a seccomp filter (containers: allow io_uring_setup, io_uring_enter and \
             io_uring_register)"
                .to_owned()
        }
        Some(libc::ENOSYS) => format!("the kernel (Linux {release}) was built without io_uring"),
        Some(libc::ENOMEM) => {
            let (bytes, _) = limit(Limit::LockedBytes);
            format!("io_uring does not fit into the limit of locked memory (RLIMIT_MEMLOCK is {bytes} bytes)")
        }
        Some(libc::EINVAL) => format!("the kernel (Linux {release}) is too old: io_uring is used from Linux 6.1 on"),
        _ => format!("io_uring is refused: {error} (Linux {release})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_setting() {
        let check = |errno, disabled, status, expected: &str| {
            let text = why(
                &io::Error::from_raw_os_error(errno),
                disabled,
                status,
                "5.10.0\n",
            );
            assert!(text.contains(expected), "{text}");
        };
        check(
            libc::EPERM,
            "2\n",
            "Seccomp:\t0\n",
            "kernel.io_uring_disabled = 2",
        );
        check(libc::EPERM, "0\n", "Name:\tx\nSeccomp:\t2\n", "seccomp");
        check(libc::ENOSYS, "", "Seccomp:\t2\n", "seccomp");
        check(libc::ENOSYS, "", "", "without io_uring");
        check(libc::ENOMEM, "0\n", "", "RLIMIT_MEMLOCK is");
        check(libc::EINVAL, "0\n", "", "Linux 5.10.0) is too old");
        check(libc::EPERM, "0\n", "", "refused");
    }
}
