//! The process: configuration in, exit code out. 0: ended by a signal after draining; 1: could not serve; 2: a setting is wrong.

use realtime::config::Config;
use realtime::server;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (config, warnings) = match Config::from_env(|name| std::env::var(name).ok()) {
        Ok(read) => read,
        Err(error) => return fail(2, &error.to_string()),
    };
    match server::run(config, &warnings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

#[expect(clippy::print_stderr, reason = "there is no log yet, or no more")]
fn fail(code: u8, sentence: &str) -> ExitCode {
    eprintln!("realtime: {sentence}");
    ExitCode::from(code)
}
