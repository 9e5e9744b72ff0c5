//! The same bare publish/subscribe server on five loops: raw `io_uring`, the shards of this project, epoll, monoio, glommio.
//!
//! In: nothing; each server runs on a thread of its own on core 0, the clients on core 1. Out: CPU
//! microseconds for each delivered frame, in the loads of the baseline table.
//! `cargo bench --bench runtimes` measures; every other way to run it is a smoke test of a moment.
//! `cargo bench --bench runtimes -- NAME` measures the loops of that name. Deliberately absent: the product. What it costs beside
//! these loops is measured by `loadtest`.

#[path = "runtimes/epoll.rs"]
mod epoll;
#[path = "runtimes/on_glommio.rs"]
mod on_glommio;
#[path = "runtimes/on_monoio.rs"]
mod on_monoio;
#[path = "runtimes/on_shards.rs"]
mod on_shards;

use std::io::{self, Write};

use loadtest::bare::{self, Running, Serve};
use loadtest::link::Target;
use loadtest::report::Run;
use loadtest::scenario::broadcast::{self, CPU_PER_FRAME, Plan};
use loadtest::settings::{Bench, Server};

const SERVERS: [(&str, Serve); 5] = [
    ("io_uring", bare::uring::serve),
    (SHARDS, on_shards::serve),
    ("epoll", epoll::serve),
    ("monoio", on_monoio::serve),
    ("glommio", on_glommio::serve),
];

/// This one makes a thread of its own, with a name of its own.
const SHARDS: &str = "shards";

/// A load of the baseline table.
struct Load {
    name: &'static str,
    topics: usize,
    members: usize,
    outstanding: usize,
    rate: Option<f64>,
}

const LOADS: [Load; 4] = [
    Load {
        name: "1,000 members, 1 outstanding",
        topics: 1,
        members: 1000,
        outstanding: 1,
        rate: None,
    },
    Load {
        name: "1,000 members, 8 outstanding",
        topics: 1,
        members: 1000,
        outstanding: 8,
        rate: None,
    },
    Load {
        name: "9,000 members, 64 outstanding",
        topics: 1,
        // Both ends of a connection are descriptors of this one process.
        members: 9000,
        outstanding: 64,
        rate: None,
    },
    Load {
        name: "500 topics x 10, 60,000 frames/s",
        topics: 500,
        members: 10,
        outstanding: 1,
        rate: Some(6000.0),
    },
];

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let measures = arguments.iter().any(|argument| argument == "--bench");
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let is_wanted = |name: &str| wanted.is_none_or(|wanted| name.contains(wanted.as_str()));
    loadtest::probe::raise_open_files()?;
    let mut out = io::stdout();
    if !measures {
        writeln!(
            out,
            "smoke test: a thirtieth of each load for a moment; no figures"
        )?;
    }
    for load in &LOADS {
        writeln!(out, "{}", load.name)?;
        for (name, serve) in SERVERS.into_iter().filter(|(name, _)| is_wanted(name)) {
            let run = measure(name, serve, load, measures)?;
            let value = |name| run.value(name).unwrap_or(f64::NAN);
            writeln!(
                out,
                "  {name:<10} {:>8.3} us of CPU per frame, {:>9.0} frames/s, {:>5.1} at once, {:>5.0} us p50{}",
                value(CPU_PER_FRAME),
                value("delivered"),
                value("frames per receive"),
                value("latency p50"),
                run.invalid
                    .map_or(String::new(), |why| format!(" NOT VALID: {why}")),
            )?;
            // A loop of somebody else's that stalls on a busy machine is a figure that is missing, not a test that failed.
            match (name, run.problems.is_empty()) {
                (_, true) => {}
                ("monoio" | "glommio", false) => {
                    writeln!(out, "  {name:<10} {}", run.problems.join("; "))?;
                }
                (_, false) => {
                    let problems = run.problems.join("; ");
                    return Err(io::Error::other(format!("{name}: {problems}")));
                }
            }
        }
    }
    Ok(())
}

/// Runs one load against one server, or a thirtieth of it when nothing is to be measured.
fn measure(name: &str, serve: Serve, load: &Load, measures: bool) -> io::Result<Run> {
    let cores = std::thread::available_parallelism()?.get();
    let server = Running::start(&format!("bare-{name}"), 0, serve)?;
    let target = Target::bare(server.address());
    let bench = Bench {
        cpus: vec![usize::from(cores > 1)],
        server: Some(Server {
            pid: std::process::id(),
            thread_prefix: match name {
                SHARDS => "shard-".to_owned(),
                _ => format!("bare-{name}"),
            },
        }),
    };
    let part = |whole: usize| if measures { whole } else { whole.div_ceil(30) };
    let plan = Plan {
        members: if load.topics == 1 {
            part(load.members)
        } else {
            load.members
        },
        topics: if load.topics == 1 {
            1
        } else {
            part(load.topics)
        },
        senders: 1,
        outstanding: load.outstanding,
        rate: load
            .rate
            .map(|rate| if measures { rate } else { rate / 30.0 }),
        seconds: if measures { 3.0 } else { 0.05 },
        warm_up_seconds: if measures { 1.0 } else { 0.0 },
        ..Plan::default()
    };
    let run = broadcast::run(&target, &plan, &bench)?;
    server.stop()?;
    Ok(run)
}
