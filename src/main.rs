//! The process: arguments and configuration in, exit code out.
//!
//! 0: ended by a signal, or said what was asked for; 1: could not serve; 2: an argument or a setting is wrong.

use realtime::config::Reading;
use realtime::{dev, server};
use std::io::Write as _;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
usage: realtime [COMMAND]

A drop-in replacement for the Supabase Realtime server.

  (none)           serve until SIGTERM or SIGINT
  dev              serve with a private PostgreSQL, to try everything
  config [--json]  print each setting, its value and where that comes from; secrets do not show
  --version        print the version
  --help           print this

Settings are environment variables, and lines NAME=value of the file that ENV_FILE names; the environment goes first. README.md
and deploy/ describe them.

signals    SIGTERM, SIGINT  refuse joins, close sockets, end within 30 s; a second one ends at once
           SIGHUP           read ENV_FILE again and apply what can be applied; the log says what needs a restart
exit code  0  ended by a signal, or said what was asked for
           1  could not serve: the sentence on standard error says why
           2  an argument or a setting is wrong: likewise
           134 (SIGABRT) a shard has panicked: a mistake in this program, please report it
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] => started(server::run),
        ["dev"] => started(dev::run),
        ["config"] => configuration(false),
        ["config", "--json"] => configuration(true),
        ["--help" | "-h" | "help"] => print(HELP),
        ["--version" | "-V" | "version"] => {
            print(concat!("realtime ", env!("CARGO_PKG_VERSION"), "\n"))
        }
        _ => fail(
            2,
            "unknown arguments; `realtime --help` names those that there are",
        ),
    }
}

fn read() -> Result<Reading, ExitCode> {
    Reading::of_process().map_err(|error| fail(2, &error.to_string()))
}

fn started(run: impl FnOnce(Reading) -> Result<(), String>) -> ExitCode {
    match read() {
        Err(code) => code,
        Ok(reading) => match run(reading) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error),
        },
    }
}

fn configuration(as_json: bool) -> ExitCode {
    let mut reading = match read() {
        Err(code) => return code,
        Ok(reading) => reading,
    };
    if let Err(error) = server::derive(&reading.config, &mut reading.report) {
        return fail(1, &error);
    }
    let report = &reading.report;
    print(&if as_json {
        report.json()
    } else {
        report.text()
    })
}

/// Who reads may have had enough (`realtime config | head`).
fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "there is no log yet, or no more")]
fn fail(code: u8, sentence: &str) -> ExitCode {
    eprintln!("realtime: {sentence}");
    ExitCode::from(code)
}
