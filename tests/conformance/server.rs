//! The server under test: the built binary as a child process, with tenants, a folder and a port of its own.
//!
//! It counts as started when it has said that it listens and its health check answers. It is killed when its handle is
//! dropped; what it printed is kept in a file, whose end belongs to every failure message.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock;
use crate::socket::{self, Event, Headers};
use crate::token;

/// One way to run the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setup {
    pub driver: &'static str,
    pub shards: u32,
}

impl Setup {
    /// Every setup that all tests run on.
    pub const ALL: [Self; 4] = [
        Self {
            driver: "uring",
            shards: 3,
        },
        Self {
            driver: "epoll",
            shards: 3,
        },
        Self {
            driver: "uring",
            shards: 1,
        },
        Self {
            driver: "epoll",
            shards: 1,
        },
    ];

    /// `uring_3`.
    pub fn name(self) -> String {
        format!("{}_{}", self.driver, self.shards)
    }
}

/// A running server.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    folder: PathBuf,
}

impl Server {
    /// Starts the binary. `tenants` are objects with the attributes of the management API; `env` overrides the variables.
    pub fn start(setup: Setup, tenants: &[Value], env: &[(&str, &str)]) -> Self {
        let server =
            Self::start_binary(env!("CARGO_BIN_EXE_realtime").as_ref(), setup, tenants, env);
        assert!(
            server.is_healthy(),
            "the server does not answer:\n{}",
            server.log_end()
        );
        server
    }

    /// Starts the echo example on `driver`: the same frame code, strict about UTF-8, and no protocol on top.
    pub fn start_echo(driver: &'static str) -> Self {
        let product = Path::new(env!("CARGO_BIN_EXE_realtime"));
        let binary = product.with_file_name("examples").join("echo");
        assert!(
            binary.exists(),
            "there is no echo server: run `cargo build --example echo`"
        );
        Self::start_binary(&binary, Setup { driver, shards: 1 }, &[], &[])
    }

    fn start_binary(binary: &Path, setup: Setup, tenants: &[Value], env: &[(&str, &str)]) -> Self {
        // The port was free a moment ago; another process may take it before the server does.
        let mut last = String::new();
        for _ in 0..3 {
            let port = free_port();
            match Self::try_start(binary, &[], setup, tenants, env, port) {
                Ok(server) => return server,
                Err(log) => last = log,
            }
        }
        panic!("the server does not start:\n{last}");
    }

    /// Starts a binary once, on this port; the error is the end of what it printed.
    pub fn try_start(
        binary: &Path,
        arguments: &[&str],
        setup: Setup,
        tenants: &[Value],
        env: &[(&str, &str)],
        port: u16,
    ) -> Result<Self, String> {
        let folder = new_folder(&setup.name(), port);
        let list = folder.join("tenants.json");
        fs::write(&list, json!(tenants).to_string()).expect("a temporary file can be written");
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| KEPT.contains(&name.as_str())))
            .env("PORT", port.to_string())
            .env("SHARDS", setup.shards.to_string())
            .env("DRIVER", setup.driver)
            .env("DATA_DIR", folder.join("data"))
            .env("EMBEDDED_TENANTS", &list)
            .env("SELF_HOST_TENANT_NAME", "realtime-dev")
            .env("API_JWT_SECRET", token::SECRET)
            .env("METRICS_JWT_SECRET", token::METRICS_SECRET)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .expect("the binary was built with this test");
        let (listening, listens) = mpsc::channel();
        let log = folder.join("log");
        let outputs: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("it is piped")),
            Box::new(child.stderr.take().expect("it is piped")),
        ];
        for output in outputs {
            let file = File::options()
                .create(true)
                .append(true)
                .open(&log)
                .expect("a temporary file can be written");
            let listening = listening.clone();
            thread::spawn(move || copy_lines(output, file, &listening));
        }
        drop(listening);
        let server = Self {
            child,
            address: (Ipv4Addr::LOCALHOST, port).into(),
            folder,
        };
        // The channel also ends when the server's output does.
        if listens.recv_timeout(START_TIMEOUT).is_err() {
            return Err(server.log_end());
        }
        Ok(server)
    }

    /// Whether the health check answers.
    pub fn is_healthy(&self) -> bool {
        let headers = Headers::from([("host".to_owned(), "localhost".to_owned())]);
        let answer = socket::request(self.address, "GET", "/healthcheck", &headers, b"");
        matches!(answer, Ok(Event::Upgrade { status: 200, body, .. }) if body == "ok")
    }

    /// Asks the server to stop, as an operator does.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Holds the server still until the guard is dropped: what others do meanwhile has all happened when it looks again.
    ///
    /// One test at a time; the others wait for their turn.
    pub fn hold(&self) -> Held<'_> {
        let turn = File::create(self.folder.join("held")).expect("a temporary file can be written");
        turn.lock().expect("a file can be locked");
        self.signal("STOP");
        Held {
            server: self,
            _turn: turn,
        }
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "the server is gone"
        );
    }

    /// Whether the process ended by itself within `timeout`, and well.
    pub fn ends_within(self, timeout: Duration) -> bool {
        self.exit_code_within(timeout) == Some(0)
    }

    /// The code with which the process ended by itself within `timeout`.
    pub fn exit_code_within(mut self, timeout: Duration) -> Option<i32> {
        // A child's end cannot be waited for with a timeout, so it is looked at again and again.
        let status = look_until(timeout, || {
            self.child.try_wait().expect("a child can be asked")
        });
        status.and_then(|status| status.code())
    }

    /// Whether the server says this within `timeout`, so often since its start.
    pub fn says_within(&self, words: &str, times: usize, timeout: Duration) -> bool {
        let is_said = || self.log().matches(words).count() >= times;
        look_until(timeout, || is_said().then_some(())).is_some()
    }

    /// A size of proc_pid_status(5): `VmRSS` is the memory that the process holds, `VmHWM` the most that it ever held.
    pub fn memory_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("the server runs, on Linux");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line
            .and_then(|line| line.split_whitespace().next())
            .and_then(|number| number.parse().ok());
        number.expect("a process that runs holds memory")
    }

    /// What the server printed so far.
    pub fn log(&self) -> String {
        let text = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The last lines of it that name `word`.
    pub fn log_about(&self, word: &str) -> String {
        let text = self.log();
        let names = |line: &&str| {
            line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))
                .any(|part| part == word)
        };
        let lines: Vec<&str> = text.lines().filter(names).collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// The last lines of it.
    pub fn log_end(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A server that is held still.
pub struct Held<'a> {
    server: &'a Server,
    /// Locked as long as it is open.
    _turn: File,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.server.signal("CONT");
    }
}

/// What `look` finds within `timeout`, looking ten times a second.
fn look_until<T>(timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = clock::now() + timeout;
    let (_keep, never) = mpsc::channel::<()>();
    loop {
        let found = look();
        if found.is_some() || clock::now() >= deadline {
            return found;
        }
        let _ = never.recv_timeout(Duration::from_millis(100));
    }
}

/// Variables of the surroundings that the server gets to see.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "TMPDIR",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "LLVM_PROFILE_FILE",
];

/// A debug build on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);

fn copy_lines(output: impl std::io::Read, mut file: File, listening: &Sender<()>) {
    for line in BufReader::new(output).split(b'\n') {
        let Ok(line) = line else { return };
        if String::from_utf8_lossy(&line).contains("listening on") {
            // Nobody waits any longer when it is said twice.
            let _ = listening.send(());
        }
        // The folder is removed while the last lines still come.
        let _ = file.write_all(&[&line[..], b"\n"].concat());
    }
}

/// A free port below the range that the kernel gives to outgoing connections: one of those could take it before the server.
pub fn free_port() -> u16 {
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = 20_000 + u16::try_from(random % 12_000).expect("it is below 12,000");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn new_folder(name: &str, port: u16) -> PathBuf {
    let unique = format!("realtime-{}-{name}-{port}", std::process::id());
    let folder = std::env::temp_dir().join(unique);
    fs::create_dir_all(&folder).expect("a temporary folder can be made");
    folder
}

/// A tenant without a database: `limits` are more attributes, or others.
pub fn tenant(external_id: &str, limits: &Value) -> Value {
    let mut tenant =
        json!({"external_id": external_id, "name": external_id, "jwt_secret": token::SECRET});
    for (name, value) in limits.as_object().into_iter().flatten() {
        tenant[name] = value.clone();
    }
    tenant
}
