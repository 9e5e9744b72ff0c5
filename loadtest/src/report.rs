//! Figures of repeated runs, as a table for people or as JSON for scripts.
//!
//! In: one list of figures for each run. Out: minimum, median and maximum of each figure, every
//! problem that was seen, and whether the result may be believed. A run in which the harness was
//! busier than [`HARNESS_BUSY_MAX`] measured the harness, and says so.

use std::io::{self, Write};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::presets::Preset;
use crate::timeline::Timeline;

/// Share of one core above which the harness itself may be what was measured.
pub const HARNESS_BUSY_MAX: f64 = 0.9;

/// Different problems shown for one run; the rest is counted.
const PROBLEMS_SHOWN_MAX: usize = 10;

/// One number of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// In what.
    pub unit: &'static str,
    /// How much.
    pub value: f64,
}

/// What one run of a scenario found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    /// In the order in which they are to be read.
    pub figures: Vec<Figure>,
    /// What should not have happened: losses, refusals, closed connections.
    pub problems: Vec<String>,
    /// Why the figures say nothing about the server, if they do not.
    pub invalid: Option<String>,
    /// What a reader has to know beside the figures: what could not be measured here, and why.
    pub notes: Vec<String>,
    /// Latency and throughput while the load was measured, for plots.
    pub timeline: Option<Timeline>,
    /// The server's memory while the load was measured: seconds and megabytes.
    pub memory: Vec<(f64, f64)>,
}

impl Run {
    /// Adds a figure.
    pub fn push(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.figures.push(Figure {
            name: name.into(),
            unit,
            value,
        });
    }

    /// Adds how often something happened that should not; it is a problem when it did.
    pub fn push_count(&mut self, name: &'static str, count: u64, what: &str) {
        self.push(name, "", count as f64);
        if count > 0 {
            self.problems.push(format!("{count} {what}"));
        }
    }

    /// Adds the percentiles of a histogram of nanoseconds, in `unit` of `unit_ns` each.
    pub fn push_percentiles(
        &mut self,
        name: &str,
        histogram: &Histogram<u64>,
        unit: &'static str,
        unit_ns: f64,
    ) {
        if histogram.is_empty() {
            return;
        }
        for (label, quantile) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)] {
            let value = histogram.value_at_quantile(quantile) as f64 / unit_ns;
            self.push(format!("{name} {label}"), unit, value);
        }
        self.push(
            format!("{name} max"),
            unit,
            histogram.max() as f64 / unit_ns,
        );
    }

    /// Adds the harness's own CPU, one share for each of its cores, and judges it.
    pub fn push_harness(&mut self, shares: &[f64]) {
        for (index, share) in shares.iter().enumerate() {
            self.push(format!("harness cpu, core {index}"), "%", share * 100.0);
        }
        if shares.iter().any(|share| *share > HARNESS_BUSY_MAX) {
            self.invalid = Some(format!(
                "the harness was over {:.0} % busy: frames per second and latency may be its own \
                 limit, not the server's",
                HARNESS_BUSY_MAX * 100.0
            ));
        }
    }

    /// Writes what the figures do not say.
    fn write_remarks(&self, whose: &str, out: &mut impl Write) -> io::Result<()> {
        for note in &self.notes {
            writeln!(out, "  {whose}: {note}")?;
        }
        let problems = counted(&self.problems);
        for (problem, count) in problems.iter().take(PROBLEMS_SHOWN_MAX) {
            let times = if *count > 1 {
                format!("{count} times: ")
            } else {
                String::new()
            };
            writeln!(out, "  {whose}: PROBLEM: {times}{problem}")?;
        }
        let more = problems.len().saturating_sub(PROBLEMS_SHOWN_MAX);
        if more > 0 {
            writeln!(out, "  {whose}: and {more} more problems")?;
        }
        if let Some(reason) = &self.invalid {
            writeln!(out, "  {whose}: NOT VALID: {reason}")?;
        }
        Ok(())
    }

    /// The value of a figure, for tests and for benchmarks that compare.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures
            .iter()
            .find(|figure| figure.name == name)
            .map(|figure| figure.value)
    }
}

/// All runs of one scenario.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The command line that gave these figures.
    pub command: String,
    /// Kernel release.
    pub kernel: String,
    /// How TCP paces itself; some algorithms set timers for every send.
    pub congestion_control: String,
    /// One entry a run.
    pub runs: Vec<Run>,
    /// The same against another server, each behind or before the run of its number.
    pub against: Vec<Run>,
    /// Expectations that were not met.
    pub unmet: Vec<String>,
    /// Whose published figures stand beside these, and how much smaller the load was.
    #[serde(skip)]
    pub preset: Option<(&'static Preset, f64)>,
}

/// One line of the table.
#[derive(Debug, PartialEq, Serialize)]
pub struct Summary {
    /// What was measured.
    pub name: String,
    /// In what.
    pub unit: &'static str,
    /// The smallest of the runs.
    pub min: f64,
    /// The one in the middle.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Report {
    /// A report without runs for the command line of this process.
    pub fn new(scenario: &'static str) -> Self {
        let command = without_secrets(std::env::args().skip(1));
        let setting = |path: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.trim().to_owned()
        };
        Self {
            scenario,
            command: command.join(" "),
            kernel: setting("/proc/sys/kernel/osrelease"),
            congestion_control: setting("/proc/sys/net/ipv4/tcp_congestion_control"),
            runs: Vec::new(),
            against: Vec::new(),
            unmet: Vec::new(),
            preset: None,
        }
    }

    /// What was published of the workload, in words, and how large this load is beside it.
    pub fn published_words(&self) -> Option<String> {
        let (preset, scale) = self.preset?;
        let published = preset.published;
        Some(format!(
            "published of the original: {published} (this load: {scale} of it)"
        ))
    }

    /// Whether every run was free of problems and not limited by the harness.
    pub fn is_good(&self) -> bool {
        self.has_no_problems() && self.all_runs().all(|run| run.invalid.is_none())
    }

    /// Whether nothing was lost, refused or closed, however busy the machine was.
    pub fn has_no_problems(&self) -> bool {
        self.all_runs().all(|run| run.problems.is_empty())
    }

    fn all_runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().chain(&self.against)
    }

    /// Writes the table or, with `json`, one JSON document.
    ///
    /// # Errors
    ///
    /// When the output is closed.
    pub fn write(&self, json: bool, out: &mut impl Write) -> io::Result<()> {
        if json {
            let document = serde_json::json!({
                "scenario": self.scenario,
                "command": self.command,
                "kernel": self.kernel,
                "congestion_control": self.congestion_control,
                "valid": self.is_good(),
                "unmet": self.unmet,
                "published": self.published(),
                "summary": self.summary(),
                "runs": self.runs,
                "ratios": self.ratios(),
                "against": self.against,
            });
            return writeln!(out, "{document}");
        }
        writeln!(
            out,
            "{} ({} runs, kernel {}, {})",
            self.scenario,
            self.runs.len(),
            self.kernel,
            self.congestion_control
        )?;
        writeln!(
            out,
            "  {:<64} {:>14} {:>14} {:>14}",
            "", "min", "median", "max"
        )?;
        for line in self.summary() {
            let name = format!("{} [{}]", line.name, line.unit);
            writeln!(
                out,
                "  {name:<64} {:>14} {:>14} {:>14}",
                readable(line.min),
                readable(line.median),
                readable(line.max)
            )?;
        }
        self.write_published(out)?;
        self.write_ratios(out)?;
        for (index, run) in self.runs.iter().enumerate() {
            run.write_remarks(&format!("run {}", index + 1), out)?;
        }
        for (index, run) in self.against.iter().enumerate() {
            run.write_remarks(&format!("the other server, run {}", index + 1), out)?;
        }
        for unmet in &self.unmet {
            writeln!(out, "  NOT MET: {unmet}")?;
        }
        writeln!(
            out,
            "  verdict: {}",
            if self.is_good() { "valid" } else { "NOT VALID" }
        )
    }

    fn write_published(&self, out: &mut impl Write) -> io::Result<()> {
        let (Some((preset, _)), Some(words)) = (self.preset, self.published_words()) else {
            return Ok(());
        };
        writeln!(out, "  {words}")?;
        for (name, unit, value) in preset.figures {
            writeln!(
                out,
                "  {:<64} {:>14}",
                format!("  {name} [{unit}]"),
                readable(*value)
            )?;
        }
        Ok(())
    }

    fn write_ratios(&self, out: &mut impl Write) -> io::Result<()> {
        let ratios = self.ratios();
        if ratios.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "  {:<64} {:>14} {:>14} {:>14}",
            "times the other server's", "min", "median", "max"
        )?;
        for line in ratios {
            writeln!(
                out,
                "  {:<64} {:>14} {:>14} {:>14}",
                line.name,
                readable(line.min),
                readable(line.median),
                readable(line.max)
            )?;
        }
        Ok(())
    }

    fn published(&self) -> Option<serde_json::Value> {
        let (preset, scale) = self.preset?;
        let (name, published) = (preset.name, preset.published);
        let figures = preset.figures;
        Some(serde_json::json!({
            "preset": name, "scale": scale, "published": published, "figures": figures,
        }))
    }

    /// How many times the other server's each figure was, run by run.
    pub fn ratios(&self) -> Vec<Summary> {
        let pairs = self.runs.iter().zip(&self.against);
        let quotients: Vec<Run> = pairs
            .map(|(ours, theirs)| {
                let mut quotient = Run::default();
                for figure in &ours.figures {
                    if let Some(value) = theirs.value(&figure.name)
                        && value != 0.0
                    {
                        quotient.push(figure.name.clone(), "", figure.value / value);
                    }
                }
                quotient
            })
            .collect();
        summary_of(&quotients)
    }

    /// Minimum, median and maximum of every figure.
    pub fn summary(&self) -> Vec<Summary> {
        summary_of(&self.runs)
    }
}

/// Minimum, median and maximum of every figure, in the order of the first run that has it.
fn summary_of(runs: &[Run]) -> Vec<Summary> {
    let mut names: Vec<(&str, &'static str)> = Vec::new();
    for figure in runs.iter().flat_map(|run| &run.figures) {
        if !names.iter().any(|(name, _)| *name == figure.name) {
            names.push((&figure.name, figure.unit));
        }
    }
    names
        .into_iter()
        .map(|(name, unit)| {
            let mut values: Vec<f64> = runs.iter().filter_map(|run| run.value(name)).collect();
            values.sort_by(f64::total_cmp);
            Summary {
                name: name.to_owned(),
                unit,
                min: values[0],
                median: median(&values),
                max: values[values.len() - 1],
            }
        })
        .collect()
}

/// The middle of sorted values, or between the two that are.
fn median(sorted: &[f64]) -> f64 {
    let (lower, upper) = ((sorted.len() - 1) / 2, sorted.len() / 2);
    f64::midpoint(sorted[lower], sorted[upper])
}

/// Options whose values nobody is to read in a report.
const SECRETS: [&str; 3] = ["--token", "--secret", "--against-secret"];

/// Arguments as they may be shown.
fn without_secrets(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_value = false;
    arguments
        .map(|argument| {
            if std::mem::take(&mut is_value) {
                return "***".to_owned();
            }
            match argument.split_once('=') {
                Some((option, _)) if SECRETS.contains(&option) => format!("{option}=***"),
                _ => {
                    is_value = SECRETS.contains(&argument.as_str());
                    without_password(argument)
                }
            }
        })
        .collect()
}

/// The address of a database without who connects and with which password.
fn without_password(argument: String) -> String {
    match (argument.split_once("://"), argument.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => argument,
    }
}

/// Each problem once, with how often it was seen, in the order of its first time.
fn counted(problems: &[String]) -> Vec<(&str, usize)> {
    let mut counted: Vec<(&str, usize)> = Vec::new();
    for problem in problems {
        match counted.iter_mut().find(|(known, _)| known == problem) {
            Some((_, count)) => *count += 1,
            None => counted.push((problem, 1)),
        }
    }
    counted
}

/// A number with the digits that mean something.
pub fn readable(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(values: &[f64]) -> Report {
        let mut report = Report::new("test");
        for value in values {
            let mut run = Run::default();
            run.push("speed", "frames/s", *value);
            report.runs.push(run);
        }
        report
    }

    #[test]
    fn secrets_do_not_show_in_the_command() {
        let check = |arguments: &str, expected: &str| {
            let arguments = arguments.split(' ').map(str::to_owned);
            assert_eq!(without_secrets(arguments).join(" "), expected);
        };
        check(
            "--secret s1 --token=s2 --against-secret s3 --pid 7 joins",
            "--secret *** --token=*** --against-secret *** --pid 7 joins",
        );
        check(
            "--against-secret=s=3 --tokens 2",
            "--against-secret=*** --tokens 2",
        );
        check(
            "--database postgres://me:s@h/d",
            "--database postgres://h/d",
        );
    }

    #[test]
    fn runs_are_summed_up_by_their_median() {
        let expected = Summary {
            name: "speed".to_owned(),
            unit: "frames/s",
            min: 1.0,
            median: 2.0,
            max: 9.0,
        };
        assert_eq!(report(&[9.0, 1.0, 2.0]).summary(), [expected]);
    }

    #[test]
    fn the_median_of_two_is_between_them() {
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }

    #[test]
    fn two_servers_are_compared_run_by_run() {
        let mut ours = report(&[2.0, 9.0, 4.0]);
        assert_eq!(ours.ratios(), []);
        ours.against = report(&[4.0, 3.0, 2.0]).runs;
        ours.against[2].push("only theirs", "", 1.0);
        let expected = Summary {
            name: "speed".to_owned(),
            unit: "",
            min: 0.5,
            median: 2.0,
            max: 3.0,
        };
        assert_eq!(ours.ratios(), [expected]);
        assert!(ours.is_good());
        ours.against[1].problems.push("lost".to_owned());
        assert!(!ours.is_good());
        let mut text = Vec::new();
        ours.write(false, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("the other server, run 2: PROBLEM: lost"),
            "{text}"
        );
    }

    #[test]
    fn a_busy_harness_makes_a_run_invalid() {
        let mut report = report(&[1.0]);
        report.runs[0].push_harness(&[0.2, 0.9]);
        assert!(report.is_good());
        report.runs[0].push_harness(&[0.2, 0.95]);
        assert!(!report.is_good());
        let mut text = Vec::new();
        report.write(false, &mut text).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("NOT VALID"));
    }

    #[test]
    fn a_report_has_no_password_of_a_database() {
        let check = |argument: &str, expected: &str| {
            assert_eq!(without_password(argument.to_owned()), expected);
        };
        check("postgres://u:p@h:1/d", "postgres://h:1/d");
        check(
            "--database=postgres://u:p@q@h/d",
            "--database=postgres://h/d",
        );
        check("ws://h:1/path", "ws://h:1/path");
        check("broadcast", "broadcast");
    }

    #[test]
    fn the_same_problem_is_told_once() {
        let problems = ["a", "b", "a"].map(str::to_owned);
        assert_eq!(counted(&problems), [("a", 2), ("b", 1)]);
    }

    #[test]
    fn json_says_whether_it_is_valid() {
        let mut report = report(&[1.0]);
        report.runs[0].problems.push("lost a frame".to_owned());
        let mut text = Vec::new();
        report.write(true, &mut text).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["valid"], false);
        assert_eq!(value["summary"][0]["median"], 1.0);
    }
}
