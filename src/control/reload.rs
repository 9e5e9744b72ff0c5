//! SIGHUP: the configuration is read again, and what can change in a running server changes.
//!
//! What comes in: the signal, the file of `ENV_FILE`, and the files that the configuration names; the environment of a process does not
//! change while it runs. What goes out: another `LOG_LEVEL`, other secrets and blocklists of the management API and the metrics, the
//! tenants of `EMBEDDED_TENANTS`, other certificate authorities, and lines that name what has changed and what needs a restart. What always
//! holds: a file that is wrong changes nothing (`a_wrong_file_changes_nothing`); of tenants only what is new is stored, so one that stands
//! in the file as it is disconnects nobody (`tenants_of_the_file_are_added_changed_and_removed`); values never stand in a line.
//! Deliberately absent: what a change of a tenant ends; the registrar knows that.

use super::api::Api;
use super::boot::names_of;
use super::client::Client;
use super::clock;
use super::database::tls;
use super::described::Described;
use super::log::Log;
use super::notify;
use super::registrar::Registrar;
use super::supervise::{caught, panic_text};
use crate::config::{Config, ConfigError, Reading, Report};
use crate::error::Level;
use crate::logging::{Line, Threshold};
use std::collections::HashSet;
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
    /// Changes tenants.
    pub registrar: Registrar,
    /// The names that stood in `EMBEDDED_TENANTS` at the start.
    pub described: HashSet<String>,
    /// Those who check certificates of others by the authorities of this machine.
    pub clients: Vec<Client>,
    /// Where it is told.
    pub log: Log,
}

/// What was read before.
struct Last {
    report: Report,
    described: HashSet<String>,
}

/// The file of tenants, whose path and content count at every reload.
const TENANTS: &str = "EMBEDDED_TENANTS";

/// The settings that can change while the server runs.
const RELOADABLE: [&str; 7] = [
    TENANTS,
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
            let mut last = Last {
                report: self.report.clone(),
                described: self.described.clone(),
            };
            while signals.recv().await.is_some() {
                notify::reloading();
                if let Err(panic) = caught(self.reload(&mut last)).await {
                    let text = format!("a reload failed: {}", panic_text(&*panic));
                    self.say(Level::Error, &text);
                }
                notify::ready();
            }
        });
        Ok(())
    }

    /// Reads and applies; `last` is what was read before.
    async fn reload(&self, last: &mut Last) {
        // Everything is read before anything changes.
        let (reading, described) = match self.read_all().await {
            Ok(read) => read,
            Err(why) => return self.say(Level::Error, &format!("Not reloaded: {why}")),
        };
        let is_reloadable = |name: &&str| RELOADABLE.contains(name);
        let mut changed = reading.report.changed_since(&last.report);
        changed.retain(|name| is_reloadable(name) && *name != TENANTS);
        let mut changed: Vec<String> = changed.into_iter().map(str::to_owned).collect();
        self.threshold.set(reading.config.log_level);
        self.api.reload(&reading.config);
        let tenants = match &described {
            Some(described) => self.take_tenants(described, &reading.config, last).await,
            // No file says nothing of anybody.
            None => Counts::default(),
        };
        changed.extend(tenants.text());
        let changed = match changed.as_slice() {
            [] => "nothing has changed that a reload can change".to_owned(),
            names => names.join(", "),
        };
        self.say(Level::Notice, &format!("Reloaded: {changed}"));
        self.renew_authorities(&reading.config);
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
        last.report = reading.report;
    }

    /// The configuration, and the tenants that it describes. Nothing of the file is wrong.
    async fn read_all(&self) -> Result<(Reading, Option<Described>), String> {
        let reading = (self.read)().map_err(|error| error.to_string())?;
        let Some(path) = &reading.config.embedded_tenants else {
            return Ok((reading, None));
        };
        let described = Described::read(path).map_err(|error| error.to_string())?;
        let known = self.registrar.list().await;
        let known = known.map_err(|_| "the tenants that are there cannot be read".to_owned())?;
        let (defaults, now) = (&reading.config.tenant_defaults, clock::unix_seconds());
        let records = described.records(&known, defaults, now);
        records.map_err(|error| error.to_string())?;
        Ok((reading, Some(described)))
    }

    /// Makes tenants what the file says. One that stood in it and does no more is deleted, but for the one that every start makes.
    async fn take_tenants(
        &self,
        described: &Described,
        config: &Config,
        last: &mut Last,
    ) -> Counts {
        let mut counts = Counts::default();
        let mut names = names_of(described);
        for one in described.tenants() {
            let (name, attributes) = (one.external_id.clone(), one.attributes.clone());
            match self.registrar.describe(name, attributes).await {
                Ok(None) => {}
                Ok(Some(true)) => counts.added += 1,
                Ok(Some(false)) => counts.changed += 1,
                Err(_) => counts.failed += 1,
            }
        }
        let self_host = &config.self_host;
        let is_made_anew = |name: &String| self_host.seeds && *name == self_host.tenant_name;
        let gone = last.described.difference(&names);
        let gone: Vec<String> = gone.filter(|name| !is_made_anew(name)).cloned().collect();
        for name in gone {
            match self.registrar.delete(name.clone()).await {
                Ok(()) => counts.removed += 1,
                Err(_) => {
                    counts.failed += 1;
                    // The next reload finds it missing again.
                    names.insert(name);
                }
            }
        }
        last.described = names;
        counts
    }

    /// Certificate authorities are files of the machine, which changes them without a word.
    fn renew_authorities(&self, config: &Config) {
        for client in &self.clients {
            match client.renew() {
                Ok(false) => {}
                Ok(true) => {
                    let name = client.variable();
                    let text = format!("The certificate authorities for {name} were read again");
                    self.say(Level::Info, &text);
                }
                Err(why) => self.say(Level::Error, &format!("Not read again: {why}")),
            }
        }
        let database = config.database.as_ref().filter(|database| database.has_tls);
        let Some(file) = database.and_then(|database| database.ca_cert.as_ref()) else {
            return;
        };
        match tls::check_ca_cert(file.as_ref()) {
            Ok(()) => {
                let text = "DB_SSL_CA_CERT is read for each new connection to the control database";
                self.say(Level::Info, text);
            }
            Err(why) => {
                let text = format!(
                    "DB_SSL_CA_CERT cannot be used for new connections to the control database: {why}"
                );
                self.say(Level::Error, &text);
            }
        }
    }

    fn say(&self, level: Level, text: &str) {
        self.log.write(Line::new(clock::unix_ms(), level, text));
    }
}

/// What became of the tenants of a file.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
struct Counts {
    added: usize,
    changed: usize,
    removed: usize,
    /// The log says why, and the next reload tries again.
    failed: usize,
}

impl Counts {
    /// Nothing where nothing was to be done.
    fn text(self) -> Option<String> {
        let Self {
            added,
            changed,
            removed,
            failed,
        } = self;
        let done = format!("{TENANTS} ({added} added, {changed} changed, {removed} removed");
        match (self == Self::default(), failed) {
            (true, _) => None,
            (_, 0) => Some(format!("{done})")),
            _ => Some(format!(
                "{done}, {failed} not stored: a reload tries again)"
            )),
        }
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
    fn what_became_of_tenants_is_told_where_that_is_something() {
        let check = |counts: [usize; 4], expected: Option<&str>| {
            let [added, changed, removed, failed] = counts;
            let counts = Counts {
                added,
                changed,
                removed,
                failed,
            };
            assert_eq!(counts.text().as_deref(), expected);
        };
        check([0; 4], None);
        let text = "EMBEDDED_TENANTS (1 added, 2 changed, 3 removed)";
        check([1, 2, 3, 0], Some(text));
        let text =
            "EMBEDDED_TENANTS (0 added, 0 changed, 0 removed, 1 not stored: a reload tries again)";
        check([0, 0, 0, 1], Some(text));
    }

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
