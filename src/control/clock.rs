//! The clocks of the control core: the only place in `control` that reads one.
//!
//! What goes out: moments for timers, and the wall clock for tokens and logs. Everything else takes time as an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Now, for timers and durations.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since 1970-01-01, leap seconds ignored.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the clock of the control core, which has no turns"
)]
pub fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// [`unix_time`] in whole seconds, as tokens and records count it.
#[must_use]
pub fn unix_seconds() -> i64 {
    i64::try_from(unix_time().as_secs()).unwrap_or(i64::MAX)
}

/// [`unix_time`] in milliseconds, as log lines print it.
#[must_use]
pub fn unix_ms() -> u64 {
    u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX)
}
