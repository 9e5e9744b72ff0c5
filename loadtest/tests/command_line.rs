//! The program as a person runs it, against the bare server in this process.

use std::process::Command;

use loadtest::bare::{Running, uring};
use serde_json::Value;

/// Runs one scenario and returns the summary as name and median. A machine that builds something
/// beside this test makes runs invalid, and that is as it should be; problems are not.
fn run(server: &Running, arguments: &[&str]) -> Vec<(String, f64)> {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args([
            "--json",
            "--cpus",
            "0",
            "--pid",
            &std::process::id().to_string(),
        ])
        .args(["--target", &format!("ws://{}", server.address())])
        .args(arguments)
        .output()
        .expect("the harness starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {output:?}"));
    for run in report["runs"].as_array().expect("there are runs") {
        assert_eq!(run["problems"], Value::Array(Vec::new()), "{arguments:?}");
    }
    report["summary"]
        .as_array()
        .expect("there is a summary")
        .iter()
        .map(|figure| {
            let name = figure["name"].as_str().expect("figures have names");
            (
                name.to_owned(),
                figure["median"].as_f64().expect("figures are numbers"),
            )
        })
        .collect()
}

fn value(figures: &[(String, f64)], name: &str) -> f64 {
    figures
        .iter()
        .find(|(known, _)| known == name)
        .unwrap_or_else(|| panic!("{name} is missing in {figures:?}"))
        .1
}

#[test]
fn every_scenario_reports_its_figures() {
    let server = Running::start("bare", 0, uring::serve).expect("the bare server starts");
    let short = ["--seconds", "0.1", "--warm-up-seconds", "0"];
    let broadcast = run(
        &server,
        &[&["--runs", "3", "bare", "--members", "20"][..], &short].concat(),
    );
    assert!(value(&broadcast, "delivered") > 0.0);
    assert!(value(&broadcast, "server cpu per delivered frame") > 0.0);
    let joins = run(
        &server,
        &[&["joins", "--bare", "--hold", "10"][..], &short].concat(),
    );
    assert!(value(&joins, "server cpu per join") > 0.0);
    let connections = run(
        &server,
        &[
            "connections",
            "--bare",
            "--count",
            "50",
            "--per-process",
            "20",
            "--shared-topic",
            "--idle-seconds",
            "0.1",
        ],
    );
    assert_eq!(value(&connections, "connections"), 50.0);
    assert_eq!(value(&connections, "received the message"), 50.0);
    server.stop().expect("the bare server stops");
}

#[test]
fn what_is_expected_decides_how_the_program_ends() {
    let server = Running::start("bare", 0, uring::serve).expect("the bare server starts");
    let target = format!("ws://{}", server.address());
    for (expected, code, said) in [
        ("loss=0,delivered>0,p99<60s", 0, "verdict: "),
        ("loss=0,p99<1us", 3, "NOT MET: run 1: p99<1us: is "),
        ("latency=0", 2, "Names: loss, duplicates, disorder"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .args(["--cpus", "0", "--busy-machine", "--target", &target])
            .args(["--against", &target, "--expect", expected])
            .args(["bare", "--members", "3", "--seconds", "0.2"])
            .output()
            .expect("the harness starts");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(output.status.code(), Some(code), "{expected}: {text}");
        assert!(text.contains(said), "{expected}: {text}");
        let compares = text.contains("times the other server's");
        assert_eq!(compares, code != 2, "{text}");
    }
    server.stop().expect("the bare server stops");
}

#[test]
fn a_given_token_that_does_not_last_is_said_before_and_after() {
    let server = Running::start("bare", 0, uring::serve).expect("the bare server starts");
    let target = format!("ws://{}", server.address());
    // {"exp":1}: it has ended in 1970.
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["--cpus", "0", "--busy-machine", "--target", &target])
        .args(["--token", "e30.eyJleHAiOjF9.x", "--runs", "2"])
        .args(["bare", "--members", "3", "--seconds", "0.2"])
        .output()
        .expect("the harness starts");
    let said = "the token given with --token is good for 0 s, and this takes 2 s";
    for text in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(text);
        assert!(text.contains(said), "{text}");
    }
    server.stop().expect("the bare server stops");
}

#[test]
fn a_server_that_is_not_there_is_a_problem_and_no_result() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args([
            "--json",
            "--cpus",
            "0",
            "--target",
            "ws://127.0.0.1:9",
            "bare",
            "--members",
            "3",
        ])
        .output()
        .expect("the harness starts");
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&output.stdout).expect("it reports in JSON");
    assert_eq!(report["valid"], false);
}
