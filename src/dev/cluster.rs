//! A private PostgreSQL: made, started, found again and stopped.
//!
//! What comes in: a folder and PostgreSQL's programs. What goes out: a running [`Cluster`]. What always holds: nobody but the account that
//! runs it can read the folder (0700); it listens on loopback and on a socket in that folder; a folder is a finished cluster or none,
//! because it is renamed when it is complete; it is stopped when this value is dropped. A cluster that a killed server left running is
//! taken over. (`tests/database/dev.rs`.)
//!
//! ```text
//! DATA_DIR/postgres/   cluster/  log  pgpass  .s.PGSQL.<port>
//! ```

use super::account::Account;
use super::binaries::Binaries;
use crate::config::Secret;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use uuid::Uuid;

/// The superuser that makes the cluster; the server connects as it.
pub(super) const SUPERUSER: &str = "supabase_admin";

/// Seconds that PostgreSQL may take to start, recovery after a crash included, and to stop. Above: an error, and it goes on by itself.
const START_SECONDS: u32 = 60;
const STOP_SECONDS: u32 = 30;

/// Longest path of a Unix socket in bytes, with the kernel's final zero. Above: there is none, and TCP has to do.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A running PostgreSQL that belongs to this process.
#[derive(Debug)]
pub(super) struct Cluster {
    /// `DATA_DIR/postgres`, absolute.
    pub(super) folder: PathBuf,
    pub(super) binaries: Binaries,
    /// Where it listens on 127.0.0.1.
    pub(super) port: u16,
    /// Of [`SUPERUSER`], and of everybody who may log in.
    pub(super) password: Secret,
    /// Who runs it.
    pub(super) account: Account,
    /// What happened, for the person who waits: it was made, started, or found running.
    pub(super) story: &'static str,
    is_running: bool,
}

impl Cluster {
    /// Makes or finds the cluster below `data_dir`, and starts it if it does not run.
    ///
    /// # Errors
    ///
    /// A sentence for the person at the terminal.
    pub(super) fn start(data_dir: &Path) -> Result<Self, String> {
        let data_dir = fs::canonicalize(data_dir).map_err(|error| at(data_dir, &error))?;
        let folder = data_dir.join("postgres");
        let binaries = Binaries::find(version(&folder))?;
        let account = Account::choose(&folder)?;
        account.reaches(&data_dir)?;
        let make = || -> io::Result<Secret> {
            if !folder.exists() {
                fs::DirBuilder::new().mode(0o700).create(&folder)?;
                account.give(&folder)?;
            }
            password(&folder, account)
        };
        let password = make().map_err(|error| at(&folder, &error))?;
        let mut cluster = Self {
            folder,
            binaries,
            port: 0,
            password,
            account,
            story: "started",
            is_running: false,
        };
        if !cluster.data().exists() {
            cluster.initialise()?;
            cluster.story = "made and started";
        }
        if let Some(port) = cluster.running_port() {
            cluster.port = port;
            cluster.is_running = true;
            cluster.story = "still running, from a server that could not stop it";
        } else {
            cluster.launch()?;
        }
        Ok(cluster)
    }

    /// Stops it and waits until it has stopped.
    ///
    /// # Errors
    ///
    /// A sentence; it may still run then, and the next start takes it over.
    pub(super) fn stop(mut self) -> Result<(), String> {
        self.stop_now()
    }

    /// What `psql` takes the password from.
    pub(super) fn password_file(&self) -> PathBuf {
        self.folder.join(PASSWORD_FILE)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("cluster")
    }

    fn initialise(&self) -> Result<(), String> {
        let (new, secret) = (self.folder.join("cluster.new"), self.folder.join("initial"));
        let prepare = || -> io::Result<()> {
            // Left by an attempt that was cut off.
            match fs::remove_dir_all(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let _ = fs::remove_file(&secret);
            write_private(&secret, self.password.expose(), self.account)
        };
        prepare().map_err(|error| at(&self.folder, &error))?;
        let mut initdb = self.command("initdb");
        initdb
            .arg("-D")
            .arg(&new)
            .args([
                "-U",
                SUPERUSER,
                "-E",
                "UTF8",
                "--locale=C",
                "--auth=scram-sha-256",
            ])
            .arg("--pwfile")
            .arg(&secret);
        let outcome = run(&mut initdb, "initdb");
        let _ = fs::remove_file(&secret);
        outcome?;
        let finish = || -> io::Result<()> {
            let mut settings = fs::OpenOptions::new()
                .append(true)
                .open(new.join("postgresql.conf"))?;
            writeln!(
                settings,
                "\ninclude 'realtime.conf' # written at every start"
            )?;
            fs::rename(&new, self.data())
        };
        finish().map_err(|error| at(&self.folder, &error))
    }

    /// Starts it on the port of the last time, or on another one that is free.
    fn launch(&mut self) -> Result<(), String> {
        let file = self.data().join("realtime.conf");
        let last = fs::read_to_string(&file)
            .ok()
            .and_then(|text| port_of(&text));
        self.port = free_port(last).map_err(|error| format!("no port is free: {error}"))?;
        let _ = fs::remove_file(&file);
        write_private(&file, &self.settings(), self.account).map_err(|error| at(&file, &error))?;
        let seconds = START_SECONDS.to_string();
        let mut start = self.command("pg_ctl");
        start
            .args(["start", "-w", "-s", "-t", &seconds, "-D"])
            .arg(self.data())
            .arg("-l")
            .arg(self.folder.join("log"));
        run(&mut start, "pg_ctl start").map_err(|error| {
            format!("{error}; its log is {}", self.folder.join("log").display())
        })?;
        self.is_running = true;
        Ok(())
    }

    fn settings(&self) -> String {
        let mut text = String::from(
            "# Written at every start of `realtime dev`; settings of your own belong into postgresql.conf.\n",
        );
        let socket = self.folder.join(format!(".s.PGSQL.{}", self.port));
        let sockets = if socket.as_os_str().len() < SOCKET_PATH_BYTES_MAX {
            self.folder.display().to_string()
        } else {
            String::new()
        };
        for (name, value) in [
            ("port", self.port.to_string()),
            ("listen_addresses", "127.0.0.1".to_owned()),
            (
                "unix_socket_directories",
                if sockets.is_empty() {
                    sockets
                } else {
                    format!("\"{sockets}\"")
                },
            ),
            ("wal_level", "logical".to_owned()),
            ("max_wal_senders", "20".to_owned()),
            ("max_replication_slots", "20".to_owned()),
            ("max_slot_wal_keep_size", "1GB".to_owned()),
            ("timezone", "UTC".to_owned()),
        ] {
            writeln!(text, "{name} = '{}'", value.replace('\'', "''"))
                .expect("a String takes everything");
        }
        text
    }

    /// The port of the PostgreSQL that runs in the folder, if one does.
    fn running_port(&self) -> Option<u16> {
        let mut status = self.command("pg_ctl");
        status.args(["status", "-s", "-D"]).arg(self.data());
        run(&mut status, "pg_ctl status").ok()?;
        // The fourth line of this file is the port.
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().nth(3)?.trim().parse().ok()
    }

    fn stop_now(&mut self) -> Result<(), String> {
        if !std::mem::take(&mut self.is_running) {
            return Ok(());
        }
        let seconds = STOP_SECONDS.to_string();
        let mut stop = self.command("pg_ctl");
        stop.args(["stop", "-w", "-s", "-m", "fast", "-t", &seconds, "-D"])
            .arg(self.data());
        run(&mut stop, "pg_ctl stop")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self
            .account
            .command(&self.binaries.program(program), &self.folder);
        // Settings of this process' own database would mislead PostgreSQL's programs.
        for name in [
            "PGDATA",
            "PGPORT",
            "PGHOST",
            "PGUSER",
            "PGOPTIONS",
            "PGSERVICE",
        ] {
            command.env_remove(name);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Somebody who wants to know whether it worked calls `stop`.
        let _ = self.stop_now();
    }
}

/// The major version of the programs that made the cluster in this folder, if there is one.
fn version(folder: &Path) -> Option<u32> {
    let text = fs::read_to_string(folder.join("cluster/PG_VERSION")).ok()?;
    text.trim().parse().ok()
}

const PASSWORD_FILE: &str = "pgpass";

/// The password that is kept in the folder, or a new one.
fn password(folder: &Path, account: Account) -> io::Result<Secret> {
    let file = folder.join(PASSWORD_FILE);
    match fs::read_to_string(&file) {
        Ok(text) => {
            let password = text.trim().rsplit(':').next().unwrap_or_default();
            Ok(Secret::new(password.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
            write_private(&file, &format!("*:*:*:*:{password}\n"), account)?;
            Ok(Secret::new(password))
        }
        Err(error) => Err(error),
    }
}

/// Writes a file that only its owner may read; there must be none yet.
fn write_private(path: &Path, text: &str, account: Account) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    account.give(path)
}

/// `wanted`, if nobody listens there, or another port that is free at this moment.
fn free_port(wanted: Option<u16>) -> io::Result<u16> {
    let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = match wanted.map(listen) {
        Some(Ok(listener)) => listener,
        _ => listen(0)?,
    };
    Ok(listener.local_addr()?.port())
}

fn port_of(settings: &str) -> Option<u16> {
    let value = settings
        .lines()
        .find_map(|line| line.strip_prefix("port = '"))?;
    value.trim_end_matches('\'').parse().ok()
}

/// Runs a program to its end; its last words are the error. What `pg_ctl` leaves behind writes into its log and not to us, or this
/// would never end.
fn run(command: &mut Command, name: &str) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{name} does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name} failed: {}", said.trim()))
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
