//! Prometheus' text format, as the original writes it (spec: metrics 1).
//!
//! What comes in: families, and the series of each. What goes out: text. What always holds: `HELP` and `TYPE` stand once before the
//! series of a family, also when it has none; every series has the labels of the node; labels are sorted, their values escaped; buckets
//! of a histogram are cumulative and end with all values. Deliberately absent: what is measured.

use crate::metrics::Tally;
use smallvec::SmallVec;
use std::fmt::{self, Write};

/// What Prometheus is told of a family's values.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It only grows, until the process ends.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many values were at most so large.
    Histogram,
}

/// A number in the unit in which it is shown.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Value {
    /// As it is.
    Integer(u64),
    /// As it is.
    Float(f64),
    /// Nanoseconds, shown in seconds.
    Nanos(u64),
    /// Microseconds, shown in seconds.
    Micros(u64),
    /// Milliseconds, shown in seconds.
    Millis(u64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Nanos(ns) => write!(f, "{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000),
            Self::Micros(us) => write!(f, "{}.{:06}", us / 1_000_000, us % 1_000_000),
            Self::Millis(ms) => write!(f, "{}.{:03}", ms / 1000, ms % 1000),
        }
    }
}

impl Value {
    /// As a bound: always with a point (`10.0`, `0.001`).
    fn bound(self) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            #[expect(clippy::cast_precision_loss, reason = "bounds are round numbers")]
            let value = match self {
                Self::Integer(value) => value as f64,
                Self::Float(value) => value,
                Self::Nanos(ns) => ns as f64 / 1e9,
                Self::Micros(us) => us as f64 / 1e6,
                Self::Millis(ms) => ms as f64 / 1e3,
            };
            write!(f, "{value:?}")
        })
    }
}

/// Names and values.
type Labels<'a> = [(&'a str, &'a str)];

/// A text that is being written.
#[derive(Debug)]
pub struct Exposition<'a> {
    text: String,
    /// What every series says of its node.
    node: &'a Labels<'a>,
    /// The family that was begun last.
    name: &'static str,
}

impl<'a> Exposition<'a> {
    /// Without any family; `node` is said with every series.
    #[must_use]
    pub const fn new(node: &'a Labels<'a>) -> Self {
        Self {
            text: String::new(),
            node,
            name: "",
        }
    }

    /// Begins a family: the series that follow are its own. `help` is one line without a backslash.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A series of the family.
    pub fn series(&mut self, labels: &Labels<'_>, value: Value) {
        self.line("", labels, value);
    }

    /// A histogram of the family: a series for each bound, and those of all values. `unit` says what its numbers are.
    pub fn histogram<const N: usize>(
        &mut self,
        labels: &Labels<'_>,
        tally: &Tally<N>,
        unit: fn(u64) -> Value,
    ) {
        let mut below = 0_u64;
        for (bound, count) in tally.bounds.iter().zip(tally.counts) {
            below = below.wrapping_add(count);
            self.bucket(labels, &unit(*bound).bound().to_string(), below);
        }
        self.bucket(labels, "+Inf", tally.count());
        self.line("_sum", labels, unit(tally.sum));
        self.line("_count", labels, Value::Integer(tally.count()));
    }

    fn bucket(&mut self, labels: &Labels<'_>, bound: &str, below: u64) {
        let mut all: SmallVec<[(&str, &str); 8]> = SmallVec::from_slice(labels);
        all.push(("le", bound));
        self.line("_bucket", &all, Value::Integer(below));
    }

    fn line(&mut self, suffix: &str, labels: &Labels<'_>, value: Value) {
        let mut all: SmallVec<[(&str, &str); 8]> = SmallVec::from_slice(self.node);
        all.extend_from_slice(labels);
        all.sort_unstable();
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (index, (name, value)) in all.into_iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '"' => self.text.push_str("\\\""),
                    '\\' => self.text.push_str("\\\\"),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        self.write(format_args!("}} {value}\n"));
    }

    /// Ends a part: that of the node, or that of its tenants. Returns where it ends in the text.
    pub fn end_part(&mut self) -> usize {
        self.text.push_str("# EOF\n");
        self.text.len()
    }

    /// What was written.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.text
            .write_fmt(text)
            .expect("a string takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    #[test]
    fn a_family_is_described_before_its_series() {
        let node = [("region", "eu"), ("host", "h"), ("id", "a@h")];
        let mut text = Exposition::new(&node);
        text.family("x_total", Kind::Counter, "What x is.");
        text.series(&[("tenant", "a"), ("reason", "r")], Value::Integer(7));
        text.series(&[], Value::Integer(u64::MAX));
        text.family("y", Kind::Gauge, "What y is.");
        let end = text.end_part();
        let expected = "# HELP x_total What x is.\n# TYPE x_total counter\n\
            x_total{host=\"h\",id=\"a@h\",reason=\"r\",region=\"eu\",tenant=\"a\"} 7\n\
            x_total{host=\"h\",id=\"a@h\",region=\"eu\"} 18446744073709551615\n\
            # HELP y What y is.\n# TYPE y gauge\n# EOF\n";
        assert_eq!(end, expected.len());
        assert_eq!(text.into_text(), expected);
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_all_values() {
        static BOUNDS: [u64; 2] = [10, 3_000_000];
        let histogram = Histogram::new(&BOUNDS);
        for value in [1, 10, 11, 3_000_001] {
            histogram.observe(value);
        }
        let node = [("host", "h")];
        let mut text = Exposition::new(&node);
        text.family("x", Kind::Histogram, "What x is.");
        text.histogram(&[("tenant", "a")], &histogram.tally(), Value::Integer);
        text.histogram(&[], &histogram.tally(), Value::Nanos);
        let expected = "# HELP x What x is.\n# TYPE x histogram\n\
            x_bucket{host=\"h\",le=\"10.0\",tenant=\"a\"} 2\n\
            x_bucket{host=\"h\",le=\"3000000.0\",tenant=\"a\"} 3\n\
            x_bucket{host=\"h\",le=\"+Inf\",tenant=\"a\"} 4\n\
            x_sum{host=\"h\",tenant=\"a\"} 3000023\n\
            x_count{host=\"h\",tenant=\"a\"} 4\n\
            x_bucket{host=\"h\",le=\"1e-8\"} 2\n\
            x_bucket{host=\"h\",le=\"0.003\"} 3\n\
            x_bucket{host=\"h\",le=\"+Inf\"} 4\n\
            x_sum{host=\"h\"} 0.003000023\n\
            x_count{host=\"h\"} 4\n";
        assert_eq!(text.into_text(), expected);
    }

    #[test]
    fn values_of_labels_are_escaped() {
        let check = |value: &str, expected: &str| {
            let mut text = Exposition::new(&[]);
            text.series(&[("l", value)], Value::Integer(0));
            assert_eq!(text.into_text(), format!("{{l=\"{expected}\"}} 0\n"));
        };
        check("a", "a");
        check("", "");
        check(r#"a"b"#, r#"a\"b"#);
        check(r"a\n", r"a\\n");
        check("a\nb", r"a\nb");
        check("ä}=,", "ä}=,");
    }

    #[test]
    fn times_are_shown_in_seconds() {
        let check = |value: Value, expected: &str| assert_eq!(value.to_string(), expected);
        check(Value::Integer(1234), "1234");
        check(Value::Float(12.0), "12.0");
        check(Value::Float(0.25), "0.25");
        check(Value::Nanos(1_000_000_001), "1.000000001");
        check(Value::Micros(0), "0.000000");
        check(Value::Micros(1_000_001), "1.000001");
        check(Value::Micros(999_999), "0.999999");
        check(Value::Millis(0), "0.000");
        check(Value::Millis(61_020), "61.020");
    }
}
