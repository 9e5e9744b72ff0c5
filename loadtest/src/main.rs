//! The command line of the load harness; `README.md` says how it is used.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use loadtest::dialect::Dialect;
use loadtest::html;
use loadtest::presets::Preset;
use loadtest::probe;
use loadtest::report::{Report, Run};
use loadtest::scenario::connections::child;
use loadtest::scenario::{
    broadcast, changes, connections, database_broadcast, joins, presence, reconnect, replay, rows,
    slow_readers, soak,
};
use loadtest::settings::Settings;

/// Measures a Supabase Realtime server, or a bare WebSocket server beside it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    scenario: Scenario,
}

/// A scenario alone.
#[derive(Parser)]
struct Words {
    #[command(subcommand)]
    scenario: Scenario,
}

/// A bare server that gets the same load after each run, so that both are measured in the same
/// minute.
#[derive(Args)]
struct Beside {
    /// The bare server.
    #[arg(long, requires = "beside_pid")]
    beside: Option<String>,
    /// Its process.
    #[arg(long, requires = "beside")]
    beside_pid: Option<u32>,
}

#[derive(Subcommand)]
enum Scenario {
    /// Fan-out: frames per second, latency, CPU for each delivered frame.
    Broadcast {
        #[command(flatten)]
        plan: broadcast::Plan,
        #[command(flatten)]
        beside: Beside,
    },
    /// The same against a bare server, where the path is the topic.
    Bare(broadcast::Plan),
    /// Rows of the tenant's database that become broadcasts: rows per second, latency.
    DatabaseBroadcast(database_broadcast::Plan),
    /// Rows of a table and everybody who is subscribed to it: rows per second, latency.
    Changes(changes::Plan),
    /// Memory and idle CPU of many joined connections.
    Connections(connections::Plan),
    /// Storms of connect, upgrade and join, or of joins alone.
    Joins(joins::Plan),
    /// Joins that ask for the messages that the database still holds.
    Replay(replay::Plan),
    /// Members that say what they are, come and go.
    Presence(presence::Plan),
    /// Members that stop reading: what it costs the others.
    SlowReaders(slow_readers::Plan),
    /// All connections are cut at once and come back.
    Reconnect(reconnect::Plan),
    /// Everything at once, for long: losses, and memory that only grows.
    Soak(soak::Plan),
    /// A workload that Supabase has published figures of, and these figures beside ours.
    Preset {
        /// Which one.
        #[arg(value_parser = Preset::names())]
        name: String,
        /// How large it is, compared with the published one.
        #[arg(long, default_value_t = 0.01)]
        scale: f64,
        /// More options of the scenario, behind `--`: `-- --database postgres://...`.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Holds connections for a parent process.
    #[command(name = child::COMMAND, hide = true)]
    Child,
}

impl Scenario {
    const fn name(&self) -> &'static str {
        match self {
            Self::Broadcast { .. } => "broadcast",
            Self::Bare(_) => "bare",
            Self::DatabaseBroadcast(_) => "database-broadcast",
            Self::Changes(_) => "changes",
            Self::Connections(_) => "connections",
            Self::Joins(_) => "joins",
            Self::Replay(_) => "replay",
            Self::Presence(_) => "presence",
            Self::SlowReaders(_) => "slow-readers",
            Self::Reconnect(_) => "reconnect",
            Self::Soak(_) => "soak",
            Self::Preset { .. } => "preset",
            Self::Child => child::COMMAND,
        }
    }

    /// How long one run takes at least.
    fn seconds(&self) -> f64 {
        let writing = |writing: &rows::Writing| writing.warm_up_seconds + writing.seconds;
        match self {
            Self::Broadcast { plan, .. } | Self::Bare(plan) => plan.warm_up_seconds + plan.seconds,
            Self::DatabaseBroadcast(plan) => writing(&plan.writing),
            Self::Changes(plan) => writing(&plan.writing),
            Self::Connections(plan) => plan.idle_seconds,
            Self::Joins(plan) => plan.warm_up_seconds + plan.seconds,
            Self::Replay(plan) => plan.warm_up_seconds + plan.seconds,
            Self::Presence(plan) => plan.warm_up_seconds + plan.seconds,
            Self::SlowReaders(plan) => plan.warm_up_seconds + plan.seconds,
            Self::Reconnect(plan) => plan.rounds as f64 * plan.pause_seconds,
            Self::Soak(plan) => plan.minutes * 60.0,
            Self::Preset { .. } | Self::Child => 0.0,
        }
    }

    const fn is_bare(&self) -> bool {
        match self {
            Self::Bare(_) => true,
            Self::Joins(plan) => plan.bare,
            Self::Connections(plan) => plan.bare,
            _ => false,
        }
    }
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good = 0,
    /// Something was lost or refused, or the figures are those of the harness.
    NotValid = 2,
    /// An expectation was not met.
    NotMet = 3,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(verdict) => ExitCode::from(verdict as u8),
        Err(error) => {
            // Nothing is left to be done when the error output is closed as well.
            let _ = writeln!(io::stderr(), "loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the scenario as often as asked; says whether the result may be believed and is as expected.
fn run(arguments: &Arguments) -> io::Result<Verdict> {
    let Arguments { settings, scenario } = arguments;
    let preset = expand(scenario)?;
    let scenario = preset.as_ref().map_or(scenario, |(.., scenario)| scenario);
    if matches!(scenario, Scenario::Child) {
        child::run()?;
        return Ok(Verdict::Good);
    }
    probe::raise_open_files()?;
    // The threads of the harness pin themselves; what is left must not disturb the server's core.
    let first = settings.cpus.first().ok_or(io::ErrorKind::InvalidInput)?;
    probe::pin_to(*first)?;
    let mut settings = settings.clone();
    if let Scenario::Changes(plan) = scenario {
        settings.tokens = plan.tokens().unwrap_or(settings.tokens);
    }
    let other = settings.of_other();
    let runs = settings.runs.max(1) * if other.is_some() { 2 } else { 1 };
    let warning = settings.warning(scenario.seconds() * runs as f64);
    if let Some(warning) = &warning {
        // Before the time is spent; nothing is left to be done when the error output is closed as well.
        let _ = writeln!(io::stderr(), "loadtest: {warning}");
    }
    let mut report = Report::new(scenario.name());
    report.preset = preset.as_ref().map(|(preset, scale, _)| (*preset, *scale));
    for index in 0..settings.runs.max(1) {
        // Whoever is second finds another machine: they take turns at it.
        let other_first = index % 2 == 1;
        if let (Some(other), true) = (&other, other_first) {
            report.against.push(once(scenario, other)?);
        }
        report.runs.push(once(scenario, &settings)?);
        if let (Some(other), false) = (&other, other_first) {
            report.against.push(once(scenario, other)?);
        }
    }
    if let Some(first) = report.runs.first_mut() {
        first.notes.extend(warning);
    }
    if let Some(expectations) = &settings.expect {
        report.unmet = expectations.unmet(&report.runs);
    }
    if let Some(path) = &settings.html {
        std::fs::write(path, html::page(&report))?;
    }
    report.write(settings.json, &mut io::stdout())?;
    let is_good = report.is_good() || settings.busy_machine && report.has_no_problems();
    Ok(match (report.unmet.is_empty(), is_good) {
        (false, _) => Verdict::NotMet,
        (true, false) => Verdict::NotValid,
        (true, true) => Verdict::Good,
    })
}

/// What a preset stands for; nothing for all other scenarios.
fn expand(scenario: &Scenario) -> io::Result<Option<(&'static Preset, f64, Scenario)>> {
    let Scenario::Preset { name, scale, more } = scenario else {
        return Ok(None);
    };
    let preset = Preset::of(name).ok_or(io::ErrorKind::InvalidInput)?;
    let words = preset.words(*scale);
    let words = std::iter::once("loadtest").chain(words.iter().chain(more).map(String::as_str));
    let words = Words::try_parse_from(words).map_err(io::Error::other)?;
    Ok(Some((preset, *scale, words.scenario)))
}

/// Runs the scenario once against the server of `settings`.
fn once(scenario: &Scenario, settings: &Settings) -> io::Result<Run> {
    let bench = settings.bench();
    let mut target = settings.target().map_err(io::Error::other)?;
    if scenario.is_bare() {
        target.dialect = Dialect::Bare;
    }
    match scenario {
        Scenario::Broadcast { plan, beside } => {
            let mut run = broadcast::run(&target, plan, &bench)?;
            compare(settings, plan, beside, &mut run)?;
            Ok(run)
        }
        Scenario::Bare(plan) => broadcast::run(&target, plan, &bench),
        Scenario::DatabaseBroadcast(plan) => database_broadcast::run(&target, plan, &bench),
        Scenario::Changes(plan) => changes::run(&target, plan, &bench),
        Scenario::Connections(plan) => connections::run(settings, plan, &bench),
        Scenario::Joins(plan) => joins::run(&target, plan, &bench),
        Scenario::Replay(plan) => replay::run(&target, plan, &bench),
        Scenario::Presence(plan) => presence::run(&target, plan, &bench),
        Scenario::SlowReaders(plan) => slow_readers::run(&target, plan, &bench),
        Scenario::Soak(plan) => soak::run(&target, plan, &bench),
        Scenario::Reconnect(plan) => reconnect::run(&target, plan, &bench),
        Scenario::Preset { .. } | Scenario::Child => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Runs the same load against the bare server and adds how many times its CPU `run` took.
fn compare(
    settings: &Settings,
    plan: &broadcast::Plan,
    beside: &Beside,
    run: &mut Run,
) -> io::Result<()> {
    let (Some(url), Some(pid)) = (&beside.beside, beside.beside_pid) else {
        return Ok(());
    };
    let settings = Settings {
        target: url.clone(),
        pid: Some(pid),
        ..settings.clone()
    };
    let mut target = settings.target().map_err(io::Error::other)?;
    target.dialect = Dialect::Bare;
    let bare = broadcast::run(&target, plan, &settings.bench())?;
    for name in [
        broadcast::CPU_PER_FRAME,
        broadcast::BATCH,
        broadcast::DELIVERED,
    ] {
        if let (Some(ours), Some(theirs)) = (run.value(name), bare.value(name)) {
            run.push(
                format!("beside the bare server: {name}"),
                "times",
                ours / theirs,
            );
        }
    }
    let problems = bare.problems.into_iter();
    run.problems
        .extend(problems.map(|problem| format!("the bare server: {problem}")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_presets_are_command_lines() {
        Arguments::command().debug_assert();
        let words = ["loadtest", "--target", "ws://a", "--pid", "1", "broadcast"];
        let beside = ["--beside", "ws://b", "--beside-pid", "2"];
        let arguments = Arguments::parse_from(words.iter().chain(&beside));
        assert_eq!(arguments.settings.target, "ws://a");
        assert_eq!(arguments.settings.pid, Some(1));
        let Scenario::Broadcast { beside, .. } = arguments.scenario else {
            panic!("not a broadcast");
        };
        assert_eq!(beside.beside.as_deref(), Some("ws://b"));
        assert_eq!(beside.beside_pid, Some(2));
        for name in Preset::names() {
            let mut words = vec!["loadtest", "preset", name];
            if !name.starts_with("broadcast") && name != "private-joins" {
                words.extend(["--", "--database", "postgres://x"]);
            }
            let arguments = Arguments::parse_from(words);
            let (.., scenario) = expand(&arguments.scenario).unwrap().unwrap();
            assert!(name.starts_with(scenario.name()) || name == "private-joins");
        }
        let alone = Arguments::parse_from(words);
        assert_eq!(alone.settings.target, "ws://a");
    }
}
