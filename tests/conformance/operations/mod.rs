//! What an operator meets: the command line, signals, limits of the process, lines, traces.
//!
//! Each test has a server of its own, since it ends it, fills it or reads all that it says. What is waited for is an event: a line, a
//! datagram, the end of the process.

use std::process::{Command, Output};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::caught;
use crate::server::{Server, Setup};

mod authorities;
mod capacity;
mod codes;
mod collector;
mod command;
mod redaction;
mod signals;
mod systemd;

/// One test.
type Test = (&'static str, fn());

/// How many run at once: each starts servers.
pub const THREADS: usize = 8;

/// What takes longer has gone wrong, on a busy machine as well.
const PATIENCE: Duration = Duration::from_secs(60);

const SETUP: Setup = Setup {
    driver: "uring",
    shards: 3,
};

pub fn trials() -> Vec<Trial> {
    let rooms = [
        ("command", command::TESTS),
        ("capacity", capacity::TESTS),
        ("signals", signals::TESTS),
        ("systemd", systemd::TESTS),
        ("redaction", redaction::TESTS),
        ("codes", codes::TESTS),
        ("authorities", authorities::TESTS),
        ("traces", collector::TESTS),
    ];
    let tests = rooms
        .into_iter()
        .flat_map(|(room, tests)| tests.iter().map(move |test| (room, test)));
    tests
        .map(|(room, (name, run))| {
            Trial::test(format!("operations::{room}::{name}"), move || {
                caught(run, String::new)
            })
        })
        .collect()
}

/// Runs the binary to its end, with nothing in its environment but `env`.
fn run(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_realtime"))
        .args(arguments)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .expect("the binary was built with this test")
}

/// Waits until the server has said something.
#[track_caller]
fn wait_for_line(server: &Server, words: &str) {
    wait_for_lines(server, words, 1);
}

/// The same, so often since its start.
#[track_caller]
fn wait_for_lines(server: &Server, words: &str, times: usize) {
    let is_said = server.says_within(words, times, PATIENCE);
    assert!(
        is_said,
        "{words:?} was not said {times} times:\n{}",
        server.log_end()
    );
}
