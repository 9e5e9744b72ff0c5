//! SIGHUP: the configuration is read again, and what can change in a running server changes.
//!
//! What comes in: the signal, and the file of `ENV_FILE`; the environment of a process does not change while it runs. What goes out: another
//! `LOG_LEVEL`, other secrets and blocklists of the management API and the metrics, and lines that name what has changed and what
//! needs a restart. What always holds: a file that is wrong changes nothing (`a_wrong_file_changes_nothing`); values never stand in a line.
//! Deliberately absent: tenants, which the management API changes.

use super::api::Api;
use super::clock;
use super::log::Log;
use super::notify;
use crate::config::{ConfigError, Reading, Report};
use crate::error::Level;
use crate::logging::{Line, Threshold};
use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_local;

/// Reads the configuration.
pub type Read = fn() -> Result<Reading, ConfigError>;

/// What a reload works with.
pub struct Reloader {
    /// Reads it again.
    pub read: Read,
    /// What was in effect at the start.
    pub report: Report,
    /// `LOG_LEVEL`.
    pub threshold: Threshold,
    /// To be given other secrets and blocklists.
    pub api: Api,
    /// Where it is told.
    pub log: Log,
}

/// The settings that can change while the server runs.
const RELOADABLE: [&str; 6] = [
    "LOG_LEVEL",
    "API_JWT_SECRET",
    "API_JWT_SECRET_NEXT",
    "API_TOKEN_BLOCKLIST",
    "METRICS_JWT_SECRET",
    "METRICS_TOKEN_BLOCKLIST",
];

/// From here on SIGHUP does not end the process: one that comes while it boots is kept for [`Reloader::listen`].
///
/// # Errors
///
/// When the kernel does not let the process handle it.
pub fn register() -> io::Result<()> {
    // What is registered stays so when the runtime is gone.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async { signal(SignalKind::hangup()).map(drop) })
}

impl Reloader {
    /// Listens for SIGHUP from now on. To be called within the `LocalSet`.
    ///
    /// # Errors
    ///
    /// When the kernel does not let the process handle it.
    pub fn listen(self) -> io::Result<()> {
        let mut signals = signal(SignalKind::hangup())?;
        spawn_local(async move {
            let mut last = self.report.clone();
            while signals.recv().await.is_some() {
                notify::reloading();
                self.reload(&mut last);
                notify::ready();
            }
        });
        Ok(())
    }

    /// Reads and applies; `last` is what was read before.
    fn reload(&self, last: &mut Report) {
        let reading = match (self.read)() {
            Ok(reading) => reading,
            Err(error) => return self.say(Level::Error, &format!("Not reloaded: {error}")),
        };
        let is_reloadable = |name: &&str| RELOADABLE.contains(name);
        let mut changed = reading.report.changed_since(last);
        changed.retain(is_reloadable);
        self.threshold.set(reading.config.log_level);
        self.api.reload(&reading.config);
        let changed = match changed.as_slice() {
            [] => "nothing has changed that a reload can change".to_owned(),
            names => names.join(", "),
        };
        self.say(Level::Notice, &format!("Reloaded: {changed}"));
        // Compared with the start: what was said at an earlier reload is still not in effect.
        let mut others = reading.report.changed_since(&self.report);
        others.retain(|name| !is_reloadable(name));
        if !others.is_empty() {
            let names = others.join(", ");
            self.say(
                Level::Warning,
                &format!("Changed, in effect after a restart: {names}"),
            );
        }
        *last = reading.report;
    }

    fn say(&self, level: Level, text: &str) {
        self.log.write(Line::new(clock::unix_ms(), level, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Duration;

    const NAME: &str =
        "control::reload::tests::a_signal_while_the_process_boots_waits_for_the_server";
    const IS_CHILD: &str = "REALTIME_TEST_SIGNALS_ITSELF";

    #[test]
    fn a_signal_while_the_process_boots_waits_for_the_server() {
        if std::env::var_os(IS_CHILD).is_some() {
            return boot_under_a_signal();
        }
        // A process of its own: it ends where this does not hold, and others have servers that would reload.
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(IS_CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{} {said}", child.status);
        assert!(said.contains("1 passed"), "{said}");
    }

    fn boot_under_a_signal() {
        register().unwrap();
        let pid = std::process::id().to_string();
        let kill = Command::new("kill").args(["-HUP", &pid]).status().unwrap();
        assert!(kill.success());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut signals = signal(SignalKind::hangup()).unwrap();
            let kept = tokio::time::timeout(Duration::from_secs(60), signals.recv()).await;
            assert_eq!(kept, Ok(Some(())));
        });
    }
}
