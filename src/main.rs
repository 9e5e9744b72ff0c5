//! The process: configuration in, exit code out. 0: ended by a signal after draining; 1: could not serve; 2: a setting is wrong.
//!
//! `realtime` serves; `realtime dev` does so with a PostgreSQL of its own.

use realtime::config::Config;
use realtime::{dev, server};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (config, warnings) = match Config::from_env(|name| std::env::var(name).ok()) {
        Ok(read) => read,
        Err(error) => return fail(2, &error.to_string()),
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [] => server::run(config, &warnings),
        [command] if command == "dev" => dev::run(config, &warnings),
        _ => {
            return fail(
                2,
                "it takes no argument but `dev`; settings are in the environment",
            );
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

#[expect(clippy::print_stderr, reason = "there is no log yet, or no more")]
fn fail(code: u8, sentence: &str) -> ExitCode {
    eprintln!("realtime: {sentence}");
    ExitCode::from(code)
}
