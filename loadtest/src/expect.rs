//! What a pipeline expects of a run: `p99<50ms,loss=0,delivered>1000`.
//!
//! In: one text of the command line, and the runs of a report. Out: the expectations that were not met, a
//! sentence each. An expectation holds when every run meets it; what was not measured is not met.
//! Deliberately absent: arithmetic, and figures of two runs in one expectation.

use std::fmt;
use std::str::FromStr;

use crate::report::{Figure, Run};

/// Short names, what they measure, and for which figures they stand: the name of one, or how the names
/// end. Percentiles are those of the first thing that a scenario times.
const NAMES: [(&str, Measure, &str); 17] = [
    ("loss", Measure::Count, "loss"),
    ("duplicates", Measure::Count, "duplicates"),
    ("disorder", Measure::Count, "disorder"),
    ("p50", Measure::Time, " p50"),
    ("p95", Measure::Time, " p95"),
    ("p99", Measure::Time, " p99"),
    ("p99.9", Measure::Time, " p99.9"),
    ("max", Measure::Time, " max"),
    ("delivered", Measure::Count, "delivered"),
    ("sent", Measure::Count, "sent"),
    ("joined", Measure::Count, "joined"),
    ("connections", Measure::Count, "connections"),
    ("refused", Measure::Count, "refused"),
    ("closed", Measure::Count, "closed"),
    ("misdirected", Measure::Count, "misdirected"),
    ("cpu", Measure::Share, "server cpu"),
    ("memory", Measure::Size, "server resident"),
];

/// What a number counts, which says whether two units can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Time,
    Size,
    Share,
    Count,
}

/// The units that are understood, and how many of the smallest of their kind they are.
const UNITS: [(&str, Measure, f64); 8] = [
    ("us", Measure::Time, 1.0),
    ("ms", Measure::Time, 1e3),
    ("s", Measure::Time, 1e6),
    ("%", Measure::Share, 1.0),
    ("bytes", Measure::Size, 1.0),
    ("kB", Measure::Size, 1e3),
    ("MB", Measure::Size, 1e6),
    ("GB", Measure::Size, 1e9),
];

/// How a figure and a bound are compared; the longer signs first, as they are looked for.
const SIGNS: [(&str, Sign); 5] = [
    ("<=", Sign::AtMost),
    (">=", Sign::AtLeast),
    ("<", Sign::Less),
    (">", Sign::More),
    ("=", Sign::Equal),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    AtMost,
    AtLeast,
    Less,
    More,
    Equal,
}

impl Sign {
    fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Self::AtMost => value <= bound,
            Self::AtLeast => value >= bound,
            Self::Less => value < bound,
            Self::More => value > bound,
            Self::Equal => (value - bound).abs() < 1e-9,
        }
    }
}

/// One expectation.
#[derive(Clone, Debug, PartialEq)]
struct Expectation {
    /// As it was written.
    text: String,
    name: String,
    sign: Sign,
    /// In the smallest unit of its measure.
    bound: f64,
    measure: Measure,
}

/// All expectations of a command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expectations(Vec<Expectation>);

impl FromStr for Expectations {
    type Err = String;

    /// Reads `NAME SIGN NUMBER[UNIT]`, separated by commas.
    ///
    /// # Errors
    ///
    /// What is wrong, with the names, signs and units that there are.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim);
        parts.map(parse).collect::<Result<_, _>>().map(Self)
    }
}

impl Expectations {
    /// What the runs did not meet, a sentence each.
    pub fn unmet(&self, runs: &[Run]) -> Vec<String> {
        let checks = self.0.iter().flat_map(|expectation| {
            let runs = runs.iter().enumerate();
            runs.filter_map(|(index, run)| {
                let found = expectation.check(run).err()?;
                Some(format!("run {}: {}: {found}", index + 1, expectation.text))
            })
        });
        checks.collect()
    }
}

impl Expectation {
    /// # Errors
    ///
    /// What was found instead.
    fn check(&self, run: &Run) -> Result<(), String> {
        let figure = self.figure_of(run).ok_or_else(|| {
            let names = run.figures.iter().map(|figure| figure.name.trim());
            let names = names.collect::<Vec<_>>().join(", ");
            format!("was not measured; there is: {names}")
        })?;
        let (measure, unit) = measure_of(figure.unit);
        if measure != self.measure {
            return Err(format!("is counted in {}", figure.unit));
        }
        if self.sign.holds(figure.value * unit, self.bound) {
            Ok(())
        } else {
            Err(format!("is {} {}", figure.value, figure.unit)
                .trim_end()
                .to_owned())
        }
    }

    fn figure_of<'a>(&self, run: &'a Run) -> Option<&'a Figure> {
        let known = NAMES.iter().find(|(name, ..)| *name == self.name);
        let wanted = known.map_or(self.name.as_str(), |(.., wanted)| wanted);
        let is_wanted = |name: &str| {
            if wanted.starts_with(' ') {
                name.ends_with(wanted)
            } else {
                name.trim() == wanted
            }
        };
        run.figures.iter().find(|figure| is_wanted(&figure.name))
    }
}

fn parse(text: &str) -> Result<Expectation, String> {
    let (name, sign, rest) = SIGNS
        .iter()
        .filter_map(|(sign, meaning)| {
            let at = text.find(sign)?;
            Some((at, *meaning, &text[at + sign.len()..]))
        })
        // `<=` and `<` are found at the same place: the longer one comes first.
        .min_by_key(|(at, ..)| *at)
        .map(|(at, meaning, rest)| (text[..at].trim(), meaning, rest.trim()))
        .ok_or_else(|| help(text, "has no sign"))?;
    let digits = rest
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(rest.len());
    let (number, unit) = rest.split_at(digits);
    let number: f64 = number.parse().map_err(|_| help(text, "has no number"))?;
    let (measure, scale) = match unit.trim() {
        "" => (Measure::Count, 1.0),
        unit => UNITS
            .iter()
            .find(|(known, ..)| *known == unit)
            .map(|(_, measure, scale)| (*measure, *scale))
            .ok_or_else(|| help(text, "has an unknown unit"))?,
    };
    // A name with a space is that of a figure as the table prints it: the run says what it is in.
    match NAMES.iter().find(|(known, ..)| *known == name) {
        Some((_, wanted, _)) if *wanted != measure => {
            return Err(help(text, &format!("wants {wanted}")));
        }
        None if !name.contains(' ') => return Err(help(text, "has an unknown name")),
        _ => {}
    }
    Ok(Expectation {
        text: text.to_owned(),
        name: name.to_owned(),
        sign,
        bound: number * scale,
        measure,
    })
}

/// What a figure's unit measures, and how many of the smallest unit it is.
fn measure_of(unit: &str) -> (Measure, f64) {
    let known = UNITS.iter().find(|(known, ..)| *known == unit);
    known.map_or((Measure::Count, 1.0), |(_, measure, scale)| {
        (*measure, *scale)
    })
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Time => "a time (us, ms, s)",
            Self::Size => "a size (bytes, kB, MB, GB)",
            Self::Share => "a share (%)",
            Self::Count => "a number without a unit",
        })
    }
}

fn help(text: &str, what: &str) -> String {
    let names = NAMES.map(|(name, ..)| name).join(", ");
    let units = UNITS.map(|(unit, ..)| unit).join(", ");
    let signs = "<, <=, =, >=, >";
    format!(
        "`{text}` {what}: write NAME SIGN NUMBER UNIT, separated by commas, as in p99<50ms,loss=0. Names: {names}, \
         or a figure's whole name as the table prints it (server cpu per join<2ms). Signs: {signs}. Units: {units}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let mut run = Run::default();
        for (name, unit, value) in [
            ("delivered", "frames/s", 1500.0),
            ("server cpu", "%", 40.0),
            ("server resident", "MB", 12.0),
            ("  of which ksoftirqd", "us", 0.5),
            ("latency p99", "us", 40_000.0),
            ("latency p99.9", "us", 90_000.0),
            ("latency max", "us", 120_000.0),
            ("statement p99", "us", 1.0),
            ("loss", "", 3.0),
        ] {
            run.push(name, unit, value);
        }
        run
    }

    #[test]
    fn expectations_are_met_or_said_by_their_own_words() {
        for (text, unmet) in [
            ("p99<50ms", ""),
            ("p99 <= 40ms", ""),
            ("p99<40000us", "run 1: p99<40000us: is 40000 us"),
            ("p99.9<0.1s", ""),
            ("max<0.1s", "run 1: max<0.1s: is 120000 us"),
            ("loss=3", ""),
            ("loss=0", "run 1: loss=0: is 3"),
            ("delivered>1000,cpu<50%", ""),
            (
                "delivered>=1501,cpu<50%",
                "run 1: delivered>=1501: is 1500 frames/s",
            ),
            ("memory<0.1GB", ""),
            ("of which ksoftirqd<1us", ""),
            (
                "server resident<1ms",
                "run 1: server resident<1ms: is counted in MB",
            ),
        ] {
            let expectations: Expectations = text.parse().unwrap();
            let found = expectations.unmet(&[run()]).join("; ");
            assert_eq!(found, unmet, "{text}");
        }
    }

    #[test]
    fn every_run_has_to_meet_them_and_what_was_not_measured_is_not_met() {
        let expectations: Expectations = "loss<4".parse().unwrap();
        let mut bad = run();
        bad.figures.last_mut().unwrap().value = 4.0;
        let unmet = expectations.unmet(&[run(), bad, run()]);
        assert_eq!(unmet, ["run 2: loss<4: is 4"]);
        let expectations: Expectations = "joined>0".parse().unwrap();
        let unmet = expectations.unmet(&[run()]);
        assert!(unmet[0].contains("was not measured; there is: delivered, server cpu"));
    }

    #[test]
    fn what_is_not_understood_is_answered_with_the_names() {
        for text in [
            "",
            "p99",
            "p99<",
            "p99<ms",
            "p99<50",
            "p99<50MB",
            "p99<50 miles",
            "loss=0,,p99<1s",
            "loss=0%",
            "latency<50ms",
            "<50ms",
        ] {
            let error = text.parse::<Expectations>().unwrap_err();
            assert!(error.contains("loss, duplicates, disorder, p50"), "{error}");
        }
    }
}
