//! What `deploy/` asks of the metrics: every name must be one that this server has, and every file must be what its reader expects.

use super::*;
use serde::Deserialize;

const ALERTS: &str = include_str!("../../../../deploy/prometheus/alerts.yml");
const SCRAPE: &str = include_str!("../../../../deploy/prometheus/prometheus.yml");
const DASHBOARD: &str = include_str!("../../../../deploy/grafana/realtime.json");

/// A file of alerting rules, with the fields that Prometheus knows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alerts {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(rename = "for", default)]
    lasting: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// What of a scrape configuration is used here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prometheus {
    global: BTreeMap<String, String>,
    rule_files: Vec<String>,
    scrape_configs: Vec<Scrape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scrape {
    job_name: String,
    metrics_path: String,
    scheme: String,
    scrape_timeout: String,
    authorization: BTreeMap<String, String>,
    static_configs: Vec<BTreeMap<String, Vec<String>>>,
}

fn alerts() -> Alerts {
    serde_saphyr::from_str(ALERTS).expect("it is a file of rules")
}

/// Words of a query that are no metrics.
const FUNCTIONS: &[&str] = &[
    "by",
    "histogram_quantile",
    "increase",
    "instance",
    "job",
    "le",
    "max",
    "min",
    "or",
    "rate",
    "reason",
    "shard",
    "sum",
    "tenant",
    "topk",
    "code",
    "driver",
    "message_type",
    "result",
    "up",
];

/// The metrics of a query: its words outside of quotes, brackets and selectors that are no functions.
fn metrics_of(query: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut is_quoted, mut depth) = (false, 0);
    for c in query.chars().chain([' ']) {
        match c {
            '"' => is_quoted = !is_quoted,
            '{' | '[' if !is_quoted => depth += 1,
            '}' | ']' if !is_quoted => depth -= 1,
            _ => {}
        }
        let is_word = c.is_ascii_alphanumeric() || c == '_' || c == ':';
        if is_word && !is_quoted && depth == 0 {
            word.push(c);
        } else if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
    }
    let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    words.retain(|word| !is_number(word) && !FUNCTIONS.contains(&&**word));
    words
}

/// Every name that a page can have, histograms by their three.
fn known() -> BTreeSet<String> {
    let kinds = run(async { Stage::new(&[]).read().await }).kinds;
    let mut known = BTreeSet::new();
    for (name, kind) in kinds {
        if kind == "histogram" {
            known.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
        } else {
            known.insert(name);
        }
    }
    known
}

fn check_queries<'a>(queries: impl IntoIterator<Item = &'a str>) -> usize {
    let (known, mut found) = (known(), 0);
    for query in queries {
        let metrics = metrics_of(query);
        assert!(!metrics.is_empty() || query.contains("up{"), "{query}");
        for metric in metrics {
            assert!(known.contains(&metric), "there is no {metric}: {query}");
            found += 1;
        }
    }
    found
}

#[test]
fn queries_are_read() {
    let check = |query: &str, expected: &[&str]| assert_eq!(metrics_of(query), expected, "{query}");
    check(
        "histogram_quantile(0.99, sum by (le) (rate(a_bucket{x=~\"b{c\"}[5m]))) > 0.1",
        &["a_bucket"],
    );
    check("a_total / b > 1e3 or c", &["a_total", "b", "c"]);
    check("up{job=\"realtime\"} == 0", &[]);
}

#[test]
fn alerts_ask_for_metrics_that_there_are() {
    let groups = alerts().groups;
    let rules: Vec<&Rule> = groups.iter().flat_map(|group| &group.rules).collect();
    let found = check_queries(rules.iter().map(|rule| &*rule.expr));
    assert!(found >= rules.len() && rules.len() > 15);
    let names: BTreeSet<&str> = rules.iter().map(|rule| &*rule.alert).collect();
    assert_eq!(names.len(), rules.len(), "names are told apart");
    for rule in rules {
        let severity = &*rule.labels["severity"];
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{}",
            rule.alert
        );
        for text in ["summary", "look"] {
            assert!(!rule.annotations[text].is_empty(), "{}", rule.alert);
        }
        let lasting = rule.lasting.strip_suffix('m');
        let is_time = lasting.is_some_and(|minutes| minutes.parse::<u32>().is_ok());
        assert!(is_time || rule.lasting.is_empty(), "{}", rule.alert);
    }
    assert!(
        groups
            .iter()
            .all(|group| group.name.starts_with("realtime-"))
    );
}

/// The last finite bound of a histogram, by the name of its buckets.
fn last_bound(buckets: &str) -> f64 {
    use crate::metrics::{ASKED_MS_BOUNDS, LATENCY_MS_BOUNDS};
    match buckets {
        "realtime_tenants_broadcast_from_database_latency_committed_at_bucket" => {
            LATENCY_MS_BOUNDS[LATENCY_MS_BOUNDS.len() - 1] as f64
        }
        "realtime_tenants_read_authorization_check_bucket" => {
            ASKED_MS_BOUNDS[ASKED_MS_BOUNDS.len() - 1] as f64
        }
        // The runtime's table (`TURN_NS_BOUNDS`), which this room may not name.
        "realtime_shard_turn_duration_seconds_bucket" => 1.0,
        other => panic!("which bound is the last of {other}?"),
    }
}

#[test]
fn alerts_on_quantiles_can_fire() {
    let mut found = 0;
    for rule in alerts().groups.iter().flat_map(|group| &group.rules) {
        if !rule.expr.contains("histogram_quantile") {
            continue;
        }
        found += 1;
        let [buckets] = &metrics_of(&rule.expr)[..] else {
            panic!("{}", rule.expr);
        };
        let (query, threshold) = rule.expr.rsplit_once(' ').expect("it compares");
        let threshold: f64 = threshold.parse().expect("it compares with a number");
        // Prometheus: a quantile that is in the bucket +Inf is the bound before it.
        let can_fire = match query.rsplit_once(' ').expect("it compares").1 {
            ">" => last_bound(buckets) > threshold,
            ">=" => last_bound(buckets) >= threshold,
            other => panic!("{other}"),
        };
        assert!(can_fire, "{} never fires", rule.alert);
    }
    assert!(found >= 3, "{found}");
}

#[test]
fn the_scrape_configuration_is_one_for_this_server() {
    let config: Prometheus = serde_saphyr::from_str(SCRAPE).expect("it is a configuration");
    assert_eq!(config.rule_files, ["alerts.yml"]);
    assert!(config.global.contains_key("scrape_interval"));
    let [scrape] = &*config.scrape_configs else {
        panic!("one job");
    };
    // The alert that the server is down goes by this name.
    assert_eq!(scrape.job_name, "realtime");
    assert!(ALERTS.contains("up{job=\"realtime\"}"));
    assert_eq!(
        (&*scrape.metrics_path, &*scrape.scheme),
        ("/metrics", "http")
    );
    assert_eq!(scrape.scrape_timeout, "15s");
    assert_eq!(scrape.authorization["type"], "Bearer");
    assert_eq!(scrape.static_configs[0]["targets"], ["localhost:4000"]);
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("it is JSON");
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut queries, mut ids, mut places) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = |of: &str| panel["gridPos"][of].as_u64().unwrap();
        assert!(places.insert((place("x"), place("y"))), "{panel}");
        assert!(place("x") + place("w") <= 24);
        let targets = panel["targets"].as_array();
        assert!(targets.is_some() || panel["type"] == "row", "{panel}");
        let targets = targets.into_iter().flatten();
        queries.extend(targets.map(|target| target["expr"].as_str().unwrap()));
    }
    assert!(check_queries(queries) > 40);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["datasource", "instance", "tenant"]);
    for variable in &variables[1..] {
        let query = variable["query"]["query"].as_str().unwrap();
        let metric = query
            .strip_prefix("label_values(")
            .unwrap()
            .split(',')
            .next()
            .unwrap();
        assert!(known().contains(metric), "{metric}");
    }
}
