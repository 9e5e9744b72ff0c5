//! What systemd is told: sd_notify(3).
//!
//! What comes in: moments of the process' life. What goes out: datagrams to the socket that `NOTIFY_SOCKET` names. What always holds:
//! without such a socket nothing is sent, and nobody waits. Deliberately absent: what a unit file says (`deploy/realtime.service`).

use sd_notify::NotifyState;
use std::time::Duration;

/// The server takes connections and signals.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The server ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The configuration is being read again; [`ready`] follows. systemd wants to know when that began.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Says that the control core is alive, twice as often as systemd wants to hear it (`WatchdogSec=`), for as long as it is. A shard that
/// panics ends the process by itself. Returns at once where nobody wants to hear anything.
pub async fn keep_alive() {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval((period / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// Whether systemd listens is its own business.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
