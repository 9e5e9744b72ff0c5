//! The command line, and how the process ends when it cannot begin.

use std::net::TcpListener;
use std::process::Output;

use serde_json::Value;

use super::{Test, run};

pub const TESTS: &[Test] = &[
    (
        "help_and_version_need_no_settings",
        help_and_version_need_no_settings,
    ),
    ("unknown_arguments_end_with_2", unknown_arguments_end_with_2),
    (
        "a_wrong_setting_ends_with_2_and_a_sentence",
        a_wrong_setting_ends_with_2_and_a_sentence,
    ),
    (
        "a_taken_port_ends_with_1_and_a_sentence",
        a_taken_port_ends_with_1_and_a_sentence,
    ),
    (
        "config_prints_every_setting_with_its_source",
        config_prints_every_setting_with_its_source,
    ),
    ("config_shows_no_secret", config_shows_no_secret),
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn expect_failure(output: &Output, code: i32, sentence: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(
        said.starts_with("realtime: ") && said.contains(sentence),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

fn help_and_version_need_no_settings() {
    // A wrong setting keeps nobody from reading the help.
    let wrong = [("PORT", "http")];
    for name in ["--help", "-h", "help"] {
        let output = run(&[name], &wrong);
        let said = text(&output.stdout);
        assert!(output.status.success(), "{name}");
        for word in ["usage: realtime", "config [--json]", "SIGHUP", "exit code"] {
            assert!(said.contains(word), "{name}: {word}\n{said}");
        }
    }
    for name in ["--version", "-V", "version"] {
        let output = run(&[name], &wrong);
        let expected = format!("realtime {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(0), expected)
        );
    }
}

fn unknown_arguments_end_with_2() {
    for arguments in [
        &["serve"][..],
        &["config", "--yaml"],
        &["dev", "now"],
        &["--port=1"],
    ] {
        expect_failure(&run(arguments, &[]), 2, "--help");
    }
}

fn a_wrong_setting_ends_with_2_and_a_sentence() {
    let sentence = "env PORT expected a Integer, got \"http\" (allowed: 0 to 65535)";
    for arguments in [&[][..], &["config"], &["dev"]] {
        expect_failure(&run(arguments, &[("PORT", "http")]), 2, sentence);
    }
    let sentence = "env ENV_FILE expected a file of lines NAME=value, got \"/nowhere/x\"";
    expect_failure(&run(&[], &[("ENV_FILE", "/nowhere/x")]), 2, sentence);
}

fn a_taken_port_ends_with_1_and_a_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let folder = std::env::temp_dir().join(format!("realtime-taken-{}", std::process::id()));
    let data = folder.display().to_string();
    let env = [
        ("BIND", "127.0.0.1"),
        ("PORT", &*port),
        ("DATA_DIR", &*data),
        ("SHARDS", "1"),
    ];
    let output = run(&[], &env);
    let _ = std::fs::remove_dir_all(&folder);
    expect_failure(
        &output,
        1,
        "another process listens there; stop it or set PORT",
    );
}

fn config_prints_every_setting_with_its_source() {
    let env = [
        ("PORT", "4001"),
        ("JANITOR_CLEANUP_MAX_CHILDREN", "9"),
        ("CPU_AFFINITY", "0-3"),
        ("NUM_ACCEPTORS", "100"),
    ];
    let output = run(&["config"], &env);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let has = |name: &str, rest: &str| {
        said.lines().any(|line| {
            let parts = line.split_once(' ');
            parts.is_some_and(|(first, after)| first == name && after.trim_start() == rest)
        })
    };
    for (name, rest) in [
        ("PORT", "4001  (environment)"),
        ("MAX_CONNECTIONS", "16384  (default)"),
        (
            "JANITOR_MAX_CHILDREN",
            "9  (alias JANITOR_CLEANUP_MAX_CHILDREN)",
        ),
        ("SHARDS", "3  (derived: one for each core but the last)"),
        ("LOG_LEVEL", "info  (default)"),
        ("REGION", "(none)  (default)"),
    ] {
        assert!(has(name, rest), "{name}  {rest}\n{said}");
    }
    let acceptors = said.lines().find(|line| line.starts_with("NUM_ACCEPTORS "));
    assert!(
        acceptors.is_some_and(|line| line.contains("without effect: ")),
        "{said}"
    );
    let output = run(&["config", "--json"], &env);
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(rows.len(), said.lines().count());
    let port = rows
        .iter()
        .find(|row| row["name"] == "PORT")
        .expect("it is there");
    assert_eq!(
        (&port["value"], &port["source"]),
        (&"4001".into(), &"environment".into())
    );
}

fn config_shows_no_secret() {
    let secret = "hunter2hunter2hu";
    let env = [
        ("API_JWT_SECRET", secret),
        ("DB_HOST", "db"),
        ("DB_PASSWORD", secret),
        ("DB_ENC_KEY", secret),
        ("METRICS_PUSHER_URL", "https://me:hunter2@host/?key=hunter2"),
        ("LOGFLARE_API_KEY", secret),
        ("API_JWT_JWKS", r#"{"keys":[{"kty":"oct","k":"hunter2"}]}"#),
    ];
    for arguments in [&["config"][..], &["config", "--json"]] {
        let output = run(arguments, &env);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("*** (16 to 31 bytes)") && !said.contains("hunter2"),
            "{said}"
        );
    }
}
