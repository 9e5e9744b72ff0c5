//! Everything at once, for as long as asked: what gets lost in the long run, and what memory does.
//!
//! In: a [`Plan`]. Out: the figures of each load by its name, the server's CPU and memory, and how fast that
//! grows. Growth that noise does not explain is a problem: a leak.
//! The loads are those of the scenarios of their names, each with harness threads of its own on the same cores.

use std::io;
use std::thread::{self, JoinHandle};

use crate::link::Target;
use crate::progress::Progress;
use crate::report::Run;
use crate::settings::Bench;

use super::memory::{self, Slope};
use super::rows::Writing;
use super::threads::Meter;
use super::{broadcast, database_broadcast, joins, presence};

/// What is to be done.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// How long the load runs.
    #[arg(long, default_value_t = 60.0)]
    pub minutes: f64,
    /// Topics of broadcasts.
    #[arg(long, default_value_t = 100)]
    pub topics: usize,
    /// Members of each.
    #[arg(long, default_value_t = 10)]
    pub members: usize,
    /// Broadcasts per second over all topics.
    #[arg(long, default_value_t = 500.0)]
    pub rate: f64,
    /// Connections that join per second; each makes the oldest of 200 leave.
    #[arg(long, default_value_t = 50.0)]
    pub joins: f64,
    /// Members of a topic with presence; a tenth as many come and go.
    #[arg(long, default_value_t = 50)]
    pub presences: usize,
    /// The tenant's database, if rows are to be broadcast as well: ten per second to ten members.
    #[arg(long)]
    pub database: Option<String>,
}

/// What a part does.
type Scenario = Box<dyn FnOnce(&Target, &Bench) -> io::Result<Run> + Send>;

/// A load that runs beside the others.
struct Part {
    name: &'static str,
    run: JoinHandle<io::Result<Run>>,
}

/// Topics of each load at most: the policies of `loadtest/database.sql` know 10,000 together.
const TOPICS_MAX: usize = 2_500;

/// Figures of a part that are told; the server's are those of all parts together.
const TOLD: [&str; 14] = [
    "delivered",
    "joined",
    "refused",
    "loss",
    "duplicates",
    "disorder",
    "misdirected",
    "not sent",
    "not tried",
    "delivered to every member",
    "closed",
    "answered twice",
    "unanswered heartbeats",
    "tokens renewed",
];

/// Runs the plan once.
///
/// # Errors
///
/// When the harness itself cannot run: no such core, no such process, no such database.
pub fn run(target: &Target, plan: &Plan, bench: &Bench) -> io::Result<Run> {
    if plan.topics > TOPICS_MAX {
        let text = format!("more than {TOPICS_MAX} topics");
        return Err(io::Error::other(text));
    }
    let seconds = plan.minutes * 60.0;
    let meter = Meter::start(bench)?;
    let parts = start(target, plan, bench, seconds)?;
    let mut progress = Progress::new();
    let samples = memory::watch(bench, seconds, |passed| {
        let what = format!("{:.1} of {} min", passed / 60.0, plan.minutes);
        progress.say(passed / seconds, &what);
    });
    progress.end();
    let usage = meter.stop()?;
    let mut run = Run::default();
    for part in parts {
        let panicked = |_| io::Error::other("a load's thread panicked");
        let of_part = part.run.join().map_err(panicked)??;
        take(part.name, of_part, &mut run);
    }
    sum_up(&mut run);
    if bench.server.is_some() {
        let share = usage.server_ns as f64 / usage.wall_ns.max(1) as f64;
        run.push("server cpu", "%", share * 100.0);
        usage.push_switches("second", seconds as u64, &mut run);
        judge_memory(&samples, &mut run);
    }
    run.memory = samples;
    usage.push_harness(&mut run);
    Ok(run)
}

/// Starts all loads of the plan. The server is watched here and not by them.
fn start(target: &Target, plan: &Plan, bench: &Bench, seconds: f64) -> io::Result<Vec<Part>> {
    let bench = Bench {
        server: None,
        ..bench.clone()
    };
    let mut parts = Vec::new();
    let mut add = |name: &'static str, load: Scenario| -> io::Result<()> {
        // A load that heard another one's messages would take them for its own.
        let first_topic = parts.len() * TOPICS_MAX;
        let target = Target {
            first_topic,
            ..target.clone()
        };
        let bench = bench.clone();
        let run = thread::Builder::new()
            .name(format!("soak-{name}"))
            .spawn(move || load(&target, &bench))?;
        parts.push(Part { name, run });
        Ok(())
    };
    let broadcasts = broadcast::Plan {
        members: plan.members,
        topics: plan.topics,
        rate: Some(plan.rate),
        seconds,
        ..broadcast::Plan::default()
    };
    add(
        "broadcast",
        Box::new(move |target, bench| broadcast::run(target, &broadcasts, bench)),
    )?;
    let storm = joins::Plan {
        channels: 1,
        concurrency: 0,
        rate: Some(plan.joins),
        seconds,
        warm_up_seconds: 1.0,
        hold: 200_usize.div_ceil(bench.cpus.len()),
        topics: 1000,
        private: false,
        channels_only: false,
        replay: None,
        bare: false,
    };
    add(
        "joins",
        Box::new(move |target, bench| joins::run(target, &storm, bench)),
    )?;
    let presences = presence::Plan {
        members: plan.presences,
        rate: plan.presences as f64 / 2.0,
        churners: plan.presences.div_ceil(10),
        churn: plan.presences as f64 / 50.0,
        payload: 100,
        seconds,
        warm_up_seconds: 1.0,
    };
    add(
        "presence",
        Box::new(move |target, bench| presence::run(target, &presences, bench)),
    )?;
    if let Some(database) = plan.database.clone() {
        let rows = database_broadcast::Plan {
            database,
            members: 10,
            public: false,
            by: database_broadcast::By::Send,
            rows_per_transaction: 1,
            outstanding: 1,
            rate: Some(10.0),
            writing: Writing {
                writers: 1,
                payload: 100,
                seconds,
                warm_up_seconds: 1.0,
            },
        };
        add(
            "database-broadcast",
            Box::new(move |target, bench| database_broadcast::run(target, &rows, bench)),
        )?;
    }
    Ok(parts)
}

/// Takes over what is told of a part, by its name.
fn take(name: &str, part: Run, run: &mut Run) {
    for figure in part.figures {
        let is_time = ["latency ", "connect to joined "]
            .iter()
            .any(|kind| figure.name.starts_with(kind));
        if is_time || TOLD.contains(&figure.name.as_str()) {
            run.push(
                format!("{name}: {}", figure.name),
                figure.unit,
                figure.value,
            );
        }
    }
    let problems = part.problems.into_iter();
    run.problems
        .extend(problems.map(|problem| format!("{name}: {problem}")));
    if name == "broadcast" {
        run.timeline = part.timeline;
    }
}

/// Adds what all parts lost, doubled and mixed up, so that it can be expected by its short name.
fn sum_up(run: &mut Run) {
    for name in [
        "loss",
        "duplicates",
        "disorder",
        "refused",
        "closed",
        "tokens renewed",
    ] {
        let end = format!(": {name}");
        let parts = run
            .figures
            .iter()
            .filter(|figure| figure.name.ends_with(&end));
        let sum = parts.map(|figure| figure.value).sum();
        run.push(name, "", sum);
    }
}

fn judge_memory(samples: &[(f64, f64)], run: &mut Run) {
    if let (Some((_, first)), Some((_, last))) = (samples.first(), samples.last()) {
        run.push("server resident at first", "MB", *first);
        run.push("server resident", "MB", *last);
    }
    let Some(slope) = Slope::of(samples) else {
        let note = "too short to say whether memory grows";
        return run.notes.push(note.to_owned());
    };
    run.push("memory grows by", "MB/h", slope.mb_per_hour);
    run.push("  give or take", "MB/h", slope.give_or_take);
    if slope.is_leak() {
        run.problems.push(format!(
            "leak: memory grows by {:.1} MB/h, give or take {:.1}",
            slope.mb_per_hour, slope.give_or_take
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::fake::{self, Fault};

    fn run_against(fault: Fault) -> Run {
        let target = fake::start(Dialect::V2, fault);
        let plan = Plan {
            minutes: 0.02,
            topics: 2,
            members: 2,
            rate: 100.0,
            joins: 20.0,
            presences: 10,
            database: None,
        };
        run(&target, &plan, &fake::watching_bench()).unwrap()
    }

    #[test]
    fn all_loads_run_at_once_and_none_hears_the_others() {
        let run = run_against(Fault::None);
        assert_eq!(run.problems, [""; 0]);
        for name in [
            "broadcast: delivered",
            "joins: joined",
            "presence: delivered",
        ] {
            assert!(run.value(name).unwrap() > 0.0, "{name}");
        }
        assert_eq!(run.value("loss"), Some(0.0));
        let is_short = |note: &String| note.starts_with("too short");
        assert!(run.notes.iter().any(is_short), "{:?}", run.notes);
    }

    #[test]
    fn what_one_of_them_misses_is_a_problem() {
        for (fault, problem, expected) in [
            (Fault::Loses, ": 1 messages were lost", "loss=0"),
            (Fault::Doubles, ": 1 messages came twice", "duplicates=0"),
            (Fault::RefusesTenth, "joins were refused", "refused=0"),
            (
                Fault::ClosesOther,
                "closed by the server: Some(1013)",
                "closed=0",
            ),
            (
                Fault::HangsUp,
                "connection ended without a close frame",
                "closed=0",
            ),
        ] {
            fake::assert_noticed(&run_against(fault), problem, expected);
        }
    }

    #[test]
    fn memory_that_only_grows_is_a_leak() {
        let samples = |mb_per_second: f64| {
            let samples = (0..1000).map(|index| f64::from(index) * 3.6);
            let samples = samples.map(|seconds| (seconds, 100.0 + mb_per_second * seconds));
            samples.collect::<Vec<_>>()
        };
        let mut run = Run::default();
        judge_memory(&samples(0.01), &mut run);
        assert_eq!(
            run.problems,
            ["leak: memory grows by 36.0 MB/h, give or take 0.0"]
        );
        let mut run = Run::default();
        judge_memory(&samples(0.0), &mut run);
        assert_eq!(run.problems, [""; 0]);
    }
}
