//! A page, read strictly, as a scraper reads it.

use std::collections::{BTreeMap, BTreeSet};

/// A page as a scraper has it.
#[derive(Default)]
pub(super) struct Read {
    pub(super) kinds: BTreeMap<String, String>,
    /// Names with labels as they are written.
    pub(super) series: BTreeMap<String, String>,
}

impl Read {
    /// Reads the text format strictly: every series belongs to the family above it, none comes twice.
    pub(super) fn of(page: &str) -> Self {
        let mut read = Self::default();
        let (mut family, mut kind) = ("", "");
        let mut buckets = Buckets::default();
        assert!(page.ends_with("# EOF\n"));
        for line in page.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap();
                assert!(!text.is_empty() && !text.contains('\\'), "{line}");
                family = name;
            } else if let Some(of) = line.strip_prefix("# TYPE ") {
                let (name, of) = of.split_once(' ').unwrap();
                assert_eq!(name, family, "TYPE comes behind HELP");
                kind = of;
                let before = read.kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} comes twice");
            } else if line != "# EOF" {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap();
                let labels = labels.strip_suffix('}').unwrap();
                assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
                check_labels(labels);
                let suffix = name.strip_prefix(family).expect(line);
                if kind == "histogram" {
                    buckets.take(suffix, labels, value);
                } else {
                    assert_eq!(suffix, "", "{line}");
                }
                let before = read.series.insert(series.to_owned(), value.to_owned());
                assert_eq!(before, None, "{series} comes twice");
            }
        }
        buckets.check_end();
        read
    }

    /// The value of a series with the labels of the test's node.
    pub(super) fn value(&self, name: &str, labels: &str) -> Option<&str> {
        let mut labels: Vec<_> = labels
            .split(',')
            .filter(|label| !label.is_empty())
            .collect();
        labels.extend([
            r#"host="127.0.0.1""#,
            r#"id="realtime@127.0.0.1""#,
            r#"region="nil""#,
        ]);
        labels.sort_unstable();
        let series = format!("{name}{{{}}}", labels.join(","));
        self.series.get(&series).map(String::as_str)
    }

    pub(super) fn tenants(&self, name: &str) -> BTreeSet<&str> {
        let series = self.series.keys();
        let series = series.filter_map(|series| series.strip_prefix(name)?.strip_prefix('{'));
        series
            .filter_map(|labels| Some(labels.split_once("tenant=\"")?.1.split_once('"')?.0))
            .collect()
    }
}

/// The histogram that is being read: bounds ascend, buckets never fall, and the last one is the count.
#[derive(Default)]
struct Buckets {
    labels: String,
    bound: f64,
    below: u64,
    /// Sum and count are still to come.
    is_open: bool,
}

impl Buckets {
    fn take(&mut self, suffix: &str, labels: &str, value: &str) {
        match suffix {
            "_bucket" => {
                let (mut bound, mut others) = ("", Vec::new());
                for label in labels.split(',') {
                    match label.strip_prefix("le=\"") {
                        Some(le) => bound = le.strip_suffix('"').unwrap(),
                        None => others.push(label),
                    }
                }
                let others = others.join(",");
                let (bound, below) = (bound.parse().unwrap(), value.parse().unwrap());
                if self.is_open && self.labels == others {
                    assert!(
                        self.bound < bound && self.below <= below,
                        "{labels} {value}"
                    );
                } else {
                    self.check_end();
                }
                let labels = others;
                *self = Self {
                    labels,
                    bound,
                    below,
                    is_open: true,
                };
            }
            "_sum" => assert_eq!((&*self.labels, self.bound), (labels, f64::INFINITY)),
            "_count" => {
                assert_eq!(
                    (&*self.labels, self.below),
                    (labels, value.parse().unwrap())
                );
                self.is_open = false;
            }
            _ => panic!("{suffix} of a histogram"),
        }
    }

    fn check_end(&self) {
        assert!(
            !self.is_open,
            "a histogram without sum and count: {}",
            self.labels
        );
    }
}

/// Labels of which no value holds a comma.
fn check_labels(labels: &str) {
    let names: Vec<&str> = labels
        .split(',')
        .map(|label| {
            let (name, value) = label.split_once('=').unwrap();
            assert!(
                value.len() >= 2 && value.starts_with('"') && value.ends_with('"'),
                "{label}"
            );
            name
        })
        .collect();
    assert!(names.is_sorted(), "{names:?}");
    for name in ["host", "id", "region"] {
        assert!(names.contains(&name), "{names:?}");
    }
}
