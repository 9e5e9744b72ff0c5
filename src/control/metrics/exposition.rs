//! Prometheus' text format, as the original writes it (spec: metrics 1).
//!
//! What comes in: families, and the series of each. What goes out: text. What always holds: `HELP` and `TYPE` stand once before the
//! series of a family, also when it has none; every series has the labels of the node; labels are sorted, their values escaped.
//! Deliberately absent: what is measured, and histograms, since nothing here is one yet.

use std::fmt::{self, Write};

/// What Prometheus is told of a family's values.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It only grows, until the process ends.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A number in the unit in which it is shown.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// As it is.
    Integer(u64),
    /// Microseconds, shown in seconds.
    Micros(u64),
    /// Milliseconds, shown in seconds.
    Millis(u64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Micros(us) => write!(f, "{}.{:06}", us / 1_000_000, us % 1_000_000),
            Self::Millis(ms) => write!(f, "{}.{:03}", ms / 1000, ms % 1000),
        }
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
        };
        self.name = name;
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A series of the family.
    pub fn series(&mut self, labels: &Labels<'_>, value: Value) {
        let mut all = [self.node, labels].concat();
        all.sort_unstable();
        self.text.push_str(self.name);
        for (index, (name, value)) in all.into_iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            self.write(format_args!("{before}{name}=\""));
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

    /// Ends a part: that of the node, or that of its tenants.
    pub fn end_part(&mut self) {
        self.text.push_str("# EOF\n");
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

    #[test]
    fn a_family_is_described_before_its_series() {
        let node = [("region", "eu"), ("host", "h"), ("id", "a@h")];
        let mut text = Exposition::new(&node);
        text.family("x_total", Kind::Counter, "What x is.");
        text.series(&[("tenant", "a"), ("reason", "r")], Value::Integer(7));
        text.series(&[], Value::Integer(u64::MAX));
        text.family("y", Kind::Gauge, "What y is.");
        text.end_part();
        let expected = "# HELP x_total What x is.\n# TYPE x_total counter\n\
            x_total{host=\"h\",id=\"a@h\",reason=\"r\",region=\"eu\",tenant=\"a\"} 7\n\
            x_total{host=\"h\",id=\"a@h\",region=\"eu\"} 18446744073709551615\n\
            # HELP y What y is.\n# TYPE y gauge\n# EOF\n";
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
        check(Value::Micros(0), "0.000000");
        check(Value::Micros(1_000_001), "1.000001");
        check(Value::Micros(999_999), "0.999999");
        check(Value::Millis(0), "0.000");
        check(Value::Millis(61_020), "61.020");
    }
}
