//! The files of `deploy/`, read by what will read them: the configuration, parsers, and systemd where it is installed.
//!
//! What cannot be run here is at least understood: a variable that the server does not know, a file that is not there, a key that is set
//! twice. Deliberately absent: building the image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use realtime::config::{Config, Reading, Shown, Source};
use realtime::limits;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    let path = root().join("deploy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every variable that the configuration asks for.
fn known() -> BTreeSet<String> {
    let asked = std::cell::RefCell::new(BTreeSet::new());
    let get = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        None
    };
    Config::from_env(get).expect("nothing is set, so nothing is wrong");
    asked.into_inner()
}

/// What the configuration makes of these variables.
fn reading(variables: &BTreeMap<String, String>) -> Reading {
    let get = |name: &str| variables.get(name).cloned();
    let read_file = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    Reading::of(get, read_file).unwrap_or_else(|error| panic!("{error}"))
}

/// Lines `NAME=value`, those behind a `#` as well; true for the ones that are set.
fn assignments(text: &str) -> Vec<(String, String, bool)> {
    let lines = text.lines().filter_map(|line| {
        let (line, is_set) = match line.strip_prefix('#') {
            Some(line) => (line, false),
            None => (line, true),
        };
        let (name, value) = line.split_once('=')?;
        let is_name = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|it| it.is_ascii_uppercase() || it.is_ascii_digit() || it == b'_')
        };
        is_name(name).then(|| (name.to_owned(), value.to_owned(), is_set))
    });
    lines.collect()
}

#[test]
fn the_example_of_settings_names_variables_that_there_are() {
    let (known, text) = (known(), read("realtime.env.example"));
    let lines = assignments(&text);
    assert!(lines.len() > 40, "{lines:?}");
    let mut seen = BTreeSet::new();
    for (name, _, _) in &lines {
        assert!(known.contains(name), "{name} is not known");
        assert!(seen.insert(name), "{name} stands there twice");
    }
    // As it is, and with every line that has a value in effect.
    for only_set in [true, false] {
        let wanted = lines
            .iter()
            .filter(|(_, value, is_set)| *is_set || (!only_set && !value.is_empty()));
        let variables = wanted
            .map(|(name, value, _)| (name.clone(), value.clone()))
            .collect();
        let warnings = reading(&variables).warnings;
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn the_example_of_settings_tells_the_defaults() {
    // What is worth another value than its default, as an example.
    const OTHERS: [&str; 3] = ["RUN_JANITOR", "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER"];
    let report = reading(&BTreeMap::new()).report;
    for (name, value, is_set) in assignments(&read("realtime.env.example")) {
        let setting = report.find(&name).unwrap_or_else(|| panic!("{name}"));
        let Shown::Text(default) = &setting.value else {
            continue;
        };
        if !is_set && setting.source == Source::Default && !OTHERS.contains(&name.as_str()) {
            assert_eq!(&value, default, "{name}");
        }
    }
}

#[test]
fn the_example_of_settings_sets_no_secret() {
    let text = read("realtime.env.example");
    let set: Vec<String> = assignments(&text)
        .into_iter()
        .filter(|(_, value, is_set)| *is_set && !value.is_empty())
        .map(|(name, _, _)| name)
        .collect();
    for name in set {
        let is_secret = ["SECRET", "PASSWORD", "KEY", "AUTH"]
            .iter()
            .any(|word| name.contains(word));
        assert!(!is_secret, "everybody knows this {name}");
    }
}

fn yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

fn compose() -> Value {
    yaml(&read("compose.yaml")).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_key_that_is_set_twice_is_noticed() {
    assert!(yaml("a: 1\nb:\n  c: 1\n  d: 1").is_ok());
    assert!(yaml("a: 1\nb:\n  c: 1\n  c: 1").is_err());
}

#[test]
fn compose_sets_variables_that_there_are() {
    let (known, compose) = (known(), compose());
    let environment = compose["services"]["realtime"]["environment"]
        .as_object()
        .expect("it is a map");
    let mut variables = BTreeMap::new();
    for (name, value) in environment {
        let value = value.as_str().expect("a text");
        assert!(known.contains(name), "{name} is not known");
        let value = match value.strip_prefix("${") {
            // Whoever starts it has to set that one; 16 bytes are right for all of them.
            Some(rest) if rest.contains(":?") => "0123456789abcdef".to_owned(),
            Some(rest) => rest
                .split_once(":-")
                .map_or("", |(_, it)| it.trim_end_matches('}'))
                .to_owned(),
            None => value.to_owned(),
        };
        variables.insert(name.to_owned(), value);
    }
    let reading = reading(&variables);
    assert!(reading.warnings.is_empty(), "{:?}", reading.warnings);
    assert!(reading.config.database.is_some() && reading.config.self_host.seeds);
}

#[test]
fn compose_names_files_that_there_are_and_leaves_time_to_drain() {
    let compose = compose();
    let server = &compose["services"]["realtime"];
    let deploy = root().join("deploy");
    let context = deploy.join(server["build"]["context"].as_str().expect("it is built"));
    let dockerfile = server["build"]["dockerfile"].as_str().expect("it is built");
    assert!(context.join(dockerfile).exists(), "{dockerfile}");
    let options = server["security_opt"].as_array().expect("a list");
    let profile = options
        .iter()
        .find_map(|it| it.as_str()?.strip_prefix("seccomp:"));
    assert!(deploy.join(profile.expect("io_uring needs one")).exists());
    for volume in compose["services"]["db"]["volumes"]
        .as_array()
        .expect("a list")
    {
        let volume = volume.as_str().expect("a text");
        if let Some((file, _)) = volume.strip_prefix("./").and_then(|it| it.split_once(':')) {
            assert!(deploy.join(file).exists(), "{file}");
        }
    }
    let period = server["stop_grace_period"]
        .as_str()
        .and_then(|it| it.strip_suffix('s'));
    let period: u64 = period.and_then(|it| it.parse().ok()).expect("seconds");
    assert!(period > limits::DRAIN_TIMEOUT.as_secs() + 10, "{period}");
}

#[test]
fn the_seccomp_profile_allows_io_uring_and_nothing_that_leaves_a_container() {
    let profile: Value = serde_json::from_str(&read("seccomp.json")).expect("it is JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut allowed = BTreeSet::new();
    for rule in profile["syscalls"].as_array().expect("a list") {
        let names = rule["names"].as_array().expect("a list");
        assert!(rule["comment"].is_string() && !names.is_empty(), "{rule}");
        for name in names {
            let name = name.as_str().expect("a name");
            assert!(allowed.insert(name.to_owned()), "{name} stands there twice");
        }
    }
    for name in [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "accept4",
        "futex",
        "clone",
    ] {
        assert!(allowed.contains(name), "{name}");
    }
    for name in [
        "mount",
        "umount2",
        "pivot_root",
        "unshare",
        "setns",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "bpf",
        "perf_event_open",
        "kexec_load",
        "init_module",
        "finit_module",
        "delete_module",
        "reboot",
        "swapon",
        "keyctl",
        "add_key",
        "open_by_handle_at",
        "userfaultfd",
        "iopl",
        "ioperm",
        "settimeofday",
        "clock_settime",
        "sethostname",
        "chroot",
        "mknod",
        "mknodat",
    ] {
        assert!(!allowed.contains(name), "{name}");
    }
}

#[test]
fn the_image_is_built_from_files_that_there_are() {
    let dockerfile = read("Dockerfile");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the project has one");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \""));
    let version = version.expect("it is stated").trim_end_matches('"');
    assert!(
        dockerfile.contains(&format!("FROM rust:{version}-")),
        "the compiler is {version}"
    );
    let mut copied = BTreeSet::new();
    for line in dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
    {
        if line.starts_with("--from=") {
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let (_, sources) = words.split_last().expect("a place to copy to");
        for source in sources {
            assert!(root().join(source).exists(), "{source}");
            copied.insert((*source).to_owned());
        }
    }
    // Without its members cargo does not read a workspace, without its targets not a package.
    for needed in [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "shards",
        "loadtest",
        "migrations",
        "benches",
        "tests",
        "examples",
    ] {
        assert!(copied.contains(needed), "{needed} is not copied");
    }
    let ignored = read("Dockerfile.dockerignore");
    let ignored: Vec<&str> = ignored
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert!(
        copied.iter().all(|it| !ignored.contains(&it.as_str())),
        "{ignored:?}"
    );
    assert!(
        dockerfile.lines().any(|line| line.starts_with("USER ")),
        "it must not run as root"
    );
}

/// The lines `key=value` of a unit.
fn unit() -> Vec<(String, String)> {
    let text = read("realtime.service");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn the_unit_fits_the_server() {
    let (unit, known) = (unit(), known());
    let all = |key: &str| -> Vec<&str> {
        unit.iter()
            .filter(|(it, _)| it == key)
            .map(|(_, value)| value.as_str())
            .collect()
    };
    assert_eq!(all("Type"), ["notify"]);
    for variable in all("Environment") {
        let (name, _) = variable.split_once('=').expect("a name and a value");
        assert!(known.contains(name), "{name} is not known");
    }
    let stop: u64 = all("TimeoutStopSec")[0].parse().expect("seconds");
    assert!(stop > limits::DRAIN_TIMEOUT.as_secs() + 10, "{stop}");
    assert_eq!(all("RestartPreventExitStatus"), ["2"]);
    let calls = all("SystemCallFilter").join(" ");
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(calls.contains(call), "{call}");
    }
    let start: u64 = all("TimeoutStartSec")[0].parse().expect("seconds");
    assert!(start > 90, "systemd's own {start}");
    let files: u64 = all("LimitNOFILE")[0].parse().expect("a number");
    assert!(files <= 1_048_576, "the kernel's fs.nr_open: {files}");
}

#[test]
fn systemd_understands_the_unit() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("skipped: systemd-analyze is not installed");
        return;
    }
    // The program is not installed here, and neither is its user.
    let program = PathBuf::from("/bin/true");
    let text =
        read("realtime.service").replace("/usr/local/bin/realtime", &program.display().to_string());
    let folder = std::env::temp_dir().join(format!("realtime-unit-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder can be made");
    let file = folder.join("realtime.service");
    fs::write(&file, text).expect("a temporary file can be written");
    let run = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .arg(&file)
            .output();
        let output = output.expect("it is installed");
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (is_right, said) = run(&["verify", "--man=no"]);
    let ours: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("realtime"))
        .collect();
    assert!(is_right && ours.is_empty(), "{said}");
    // Of 100; a unit without any hardening has 96.
    let (is_tight, said) = run(&["security", "--offline=true", "--threshold=20", "--no-pager"]);
    let _ = fs::remove_dir_all(&folder);
    assert!(is_tight, "{said}");
}

#[test]
fn each_kernel_setting_has_a_reason_and_is_set_once() {
    let text = read("sysctl.conf");
    let (mut seen, mut has_reason) = (BTreeSet::new(), false);
    for line in text.lines() {
        if line.starts_with('#') {
            has_reason = true;
        } else if line.is_empty() {
            has_reason = false;
        } else {
            let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
            assert!(has_reason, "{key} has no reason");
            assert!(value.parse::<u64>().is_ok(), "{line}");
            assert!(seen.insert(key), "{key} is set twice");
        }
    }
    assert!(seen.len() > 5, "{seen:?}");
}

#[test]
fn the_readme_shows_options_that_the_harness_has() {
    let settings =
        fs::read_to_string(root().join("loadtest/src/settings.rs")).expect("it is there");
    let readme = read("README.md");
    let commands = readme.split('`').filter(|it| it.starts_with("cargo load "));
    let mut found = 0;
    for command in commands {
        // Options of all scenarios stand before the scenario's name.
        let words = command.split(' ').skip(2);
        let mut words = words.take_while(|word| *word != "connections");
        while let Some(option) = words.next().and_then(|word| word.strip_prefix("--")) {
            let field = format!("    pub {}:", option.replace('-', "_"));
            let is_known = option == "help" || settings.contains(&field);
            assert!(is_known, "{command}: --{option}");
            words.next();
            found += 1;
        }
    }
    assert!(found >= 3, "{found}");
}

#[test]
fn the_readme_knows_every_file() {
    let readme = read("README.md");
    for entry in fs::read_dir(root().join("deploy")).expect("it is there") {
        let name = entry.expect("it is there").file_name();
        let name = name.to_string_lossy();
        assert!(
            name == "README.md" || readme.contains(&format!("`{name}`")),
            "{name}"
        );
    }
}
