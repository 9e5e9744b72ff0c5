//! The one clock of the harness: nanoseconds that mean the same in every thread and child process.

/// Nanoseconds of `CLOCK_MONOTONIC`, which starts with the machine and is shared by its processes.
///
/// `std::time::Instant` hides the number, so that a child process could not compare its times with
/// another's.
#[inline]
pub fn now_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid, writable timespec for the whole call, and the clock id exists on
    // every Linux, so the call cannot fail.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    debug_assert_eq!(answer, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_does_not_go_back() {
        let first = super::now_ns();
        assert!(first > 0);
        assert!(super::now_ns() >= first);
    }
}
