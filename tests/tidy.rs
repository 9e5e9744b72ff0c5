//! The structure of the tree, checked: every **Rule** of the house style that no compiler lint can see.
//!
//! In comes the text of the tree's own files; out goes a list of sentences that say which file breaks which rule. Each rule
//! is a pure function over text, with a test beside it that shows it fails on a bad sample; one test per rule then runs it
//! over the tree. Nothing is compiled, executed or fetched here, so this is the cheapest step after formatting.
//!
//! Deliberately absent: sharing (`Mutex`, clocks, sleeping), which `.clippy.toml` forbids, and formatting.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use names::{files_rule, invariants_rule, tests_of};
use source::{code_of, declared, module_of, names_crate, paths_of};

#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/source.rs"]
mod source;

/// Files that may be longer than [`LINES_MAX`], each with its length. A number may only go down.
const LONG_FILES: &[(&str, usize)] = &[];

/// Longer files are asking to become a room.
const LINES_MAX: usize = 800;

/// Rooms that may name the runtime, beside `control/mod.rs`.
const MAY_NAME_SHARDS: &[&str] = &["metrics", "mail", "connection", "fanout", "shard", "server"];

/// Rooms that may wait, and so may name tokio.
const MAY_NAME_TOKIO: &[&str] = &["control", "server", "dev"];

/// Rooms that may name the control plane.
const MAY_NAME_CONTROL: &[&str] = &["control", "server", "dev"];

/// Words of the product, which the runtime does not know.
const PRODUCT_WORDS: &[&str] = &["phoenix", "postgres", "tenant", "websocket", "presence"];

/// Places of `shards/src` that may be unsafe: a file of that name, or everything in the folder.
const MAY_BE_UNSAFE: &[&str] = &["driver/uring", "driver/epoll", "topology"];

// -- the rules ---------------------------------------------------------------------------------------------------------

/// Rule "crates": `shards` depends on no other crate of ours, `loadtest` is alone.
fn crates_rule(package: &str, manifest: &str) -> Vec<String> {
    let forbidden: &[&str] = match package {
        "shards" => &["realtime", "loadtest"],
        "loadtest" => &["realtime", "shards"],
        _ => &[],
    };
    dependency_lines(manifest)
        .filter(|(name, _)| forbidden.contains(name))
        .map(|(name, _)| format!("{package} depends on {name}"))
        .collect()
}

/// Rule "dependencies": every dependency says in a comment what it is for, and versions stand once.
fn dependencies_rule(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut section = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim();
        } else if let Some((name, value)) = dependency(line) {
            let ours = value.contains("path =");
            if section == "[workspace.dependencies]" {
                if !ours && !value.contains('#') {
                    found.push(format!("{name} has no comment saying what it is for"));
                }
            } else if section.contains("dependencies]") && !value.contains("workspace") {
                found.push(format!(
                    "{name} states a version outside of [workspace.dependencies]"
                ));
            }
        }
    }
    found
}

/// Rule "rooms": a room uses only rooms declared above it. `path` is relative to the crate's `src`; `order` lists the rooms,
/// lowest first; `parent` is empty for the rooms of the crate, or the name of the room whose inner order this is.
fn rooms_rule(path: &str, text: &str, order: &[String], parent: &[&str]) -> Vec<String> {
    // A library without rooms has no order to keep.
    if order.is_empty() {
        return Vec::new();
    }
    let here = module_of(path);
    let room = |module: &[String]| -> Option<String> {
        let inside = module.len() > parent.len()
            && module.iter().zip(parent).all(|(have, want)| have == want);
        inside.then(|| module[parent.len()].clone())
    };
    let Some(own) = room(&here) else {
        return Vec::new();
    };
    let Some(own_rank) = order.iter().position(|name| *name == own) else {
        return vec![format!("{path} is in no declared room")];
    };
    let mut found = BTreeSet::new();
    for used in paths_of(&here, &code_of(text)) {
        let Some(used) = room(&used) else { continue };
        match order.iter().position(|name| *name == used) {
            Some(rank) if rank > own_rank => {
                found.insert(format!(
                    "{path}: `{own}` uses `{used}`, which is declared below it"
                ));
            }
            // An inner room may name what its parent's door holds; the crate's root holds rooms only.
            None if parent.is_empty() => {
                found.insert(format!("{path}: `crate::{used}` is no room"));
            }
            _ => {}
        }
    }
    found.into_iter().collect()
}

/// Rule "runtime": who may name `shards::` and `tokio`.
fn runtime_rule(path: &str, text: &str) -> Vec<String> {
    let here = module_of(path);
    let room = here.first().map_or("", String::as_str);
    let code = code_of(text);
    let mut found = Vec::new();
    let door = path == "control/mod.rs" || path == "control.rs";
    if names_crate(&code, "shards") && !door && !MAY_NAME_SHARDS.contains(&room) {
        found.push(format!("{path} names `shards::`"));
    }
    if names_crate(&code, "tokio") && !MAY_NAME_TOKIO.contains(&room) {
        found.push(format!("{path} names `tokio`"));
    }
    found
}

/// Rule "planes": nothing outside `control` and `server` uses `control::`.
fn planes_rule(path: &str, text: &str) -> Vec<String> {
    let here = module_of(path);
    let room = here.first().map_or("", String::as_str);
    let code = code_of(text);
    let uses = paths_of(&here, &code)
        .iter()
        .any(|used| used.first().is_some_and(|first| first == "control"))
        || code.contains("realtime::control");
    if uses && !MAY_NAME_CONTROL.contains(&room) {
        vec![format!("{path} uses `control::`")]
    } else {
        Vec::new()
    }
}

/// Rule "vocabulary": the runtime never says a word of the product, comments included.
fn vocabulary_rule(path: &str, text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let said = PRODUCT_WORDS.iter().filter(|word| text.contains(**word));
    said.map(|word| format!("{path} says {word}")).collect()
}

/// Rule "unsafe": the product forbids it, the runtime denies it and opens it in named places only.
fn unsafe_rule(package: &str, path: &str, text: &str) -> Vec<String> {
    let root = path == "lib.rs" && text.lines().any(|line| line.contains("mod "));
    let code = code_of(text);
    let mut found = Vec::new();
    if package != "shards" {
        if root && !code.contains("#![forbid(unsafe_code)]") {
            found.push(format!("{package}/{path} does not forbid unsafe code"));
        }
        return found;
    }
    if root && !code.contains("#![deny(unsafe_code)]") {
        found.push(format!("shards/{path} does not deny unsafe code"));
    }
    let place = path.trim_end_matches(".rs");
    let open = MAY_BE_UNSAFE
        .iter()
        .any(|may| place == *may || place.starts_with(&format!("{may}/")));
    let says = [
        "expect(unsafe_code",
        "allow(unsafe_code",
        "warn(unsafe_code",
    ]
    .iter()
    .any(|says| code.contains(says));
    if says && !open {
        // A file may open a module by its declaration: `#[expect(unsafe_code, ...)] pub mod spsc;`
        let lines: Vec<&str> = code.lines().collect();
        for (index, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.contains("(unsafe_code"))
        {
            let opened = lines[index..]
                .iter()
                .find_map(|line| line.split_once("mod ").map(|(_, name)| name));
            let name = opened.unwrap_or("").trim_end_matches([';', '{', ' ']);
            let folder = place.trim_end_matches("mod").trim_end_matches("lib");
            let declared = MAY_BE_UNSAFE.contains(&format!("{folder}{name}").as_str());
            if !declared && !line.contains("#![deny") {
                found.push(format!("shards/{path} opens unsafe code"));
            }
        }
    }
    found
}

/// Rule "attributes": a lint is silenced with `expect`, which reports itself when no longer needed; no test is skipped.
fn attributes_rule(path: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let bad = [
        ("[allow(", "silences a lint with allow"),
        ("[ignore", "skips a test"),
        ("todo!(", "holds a stub"),
    ];
    let hits = bad.iter().filter(|(word, _)| code.contains(word));
    hits.map(|(_, says)| format!("{path} {says}")).collect()
}

/// Rule "file length": a long file stands in `listed` with its length, and only shrinks.
fn length_rule(path: &str, lines: usize, listed: &[(&str, usize)]) -> Vec<String> {
    match listed.iter().find(|(name, _)| *name == path) {
        Some((_, length)) if lines > *length => {
            vec![format!("{path} grew from {length} to {lines} lines")]
        }
        Some((_, length)) if lines < *length => {
            vec![format!("{path} shrank to {lines} lines: lower its number")]
        }
        None if lines > LINES_MAX => {
            vec![format!("{path} has {lines} lines, more than {LINES_MAX}")]
        }
        _ => Vec::new(),
    }
}

/// Rule "paths": no file names a folder of the machine it was written on.
fn paths_rule(path: &str, text: &str) -> Vec<String> {
    // Put together here, or this file would break its own rule.
    let bad = [
        concat!("/wo", "rk/"),
        concat!("/tm", "p/h/"),
        concat!("../sha", "red/"),
    ];
    let hits = bad.iter().filter(|word| text.contains(**word));
    hits.map(|word| format!("{path} names {word}")).collect()
}

/// Rule "one hand": the pages' scripts are written as the rest of the JavaScript is, without semicolons and with single quotes.
fn scripts_rule(path: &str, text: &str) -> Vec<String> {
    let is_other = |line: &str| {
        let is_comment = ["//", "/*", "*"].iter().any(|it| line.starts_with(it));
        !is_comment && (line.ends_with(';') || line.contains(" from \""))
    };
    let lines = text.lines().map(str::trim).filter(|line| is_other(line));
    lines
        .map(|line| format!("{path} is written by another hand: {line}"))
        .collect()
}

// -- reading manifests -------------------------------------------------------------------------------------------------

/// `name` and everything after it, when `line` declares a dependency.
fn dependency(line: &str) -> Option<(&str, &str)> {
    let end = line.find(|c: char| !c.is_alphanumeric() && c != '-' && c != '_')?;
    let (name, value) = line.split_at(end);
    let declares = value.trim_start().starts_with('=')
        || value.starts_with(".workspace")
        || value.starts_with(".path");
    (declares && !name.is_empty()).then_some((name, value))
}

/// The dependencies of all kinds of a manifest.
fn dependency_lines(manifest: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut inside = false;
    manifest.lines().filter_map(move |line| {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
            return None;
        }
        inside.then(|| dependency(line)).flatten()
    })
}

// -- the tree ----------------------------------------------------------------------------------------------------------

/// One text file of the tree, its path relative to the root, with `/`.
struct File {
    path: String,
    text: String,
}

/// Every text file that belongs to the project: not what tools fetched or built.
fn tree() -> Vec<File> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree can be listed") {
            let path = entry.expect("a folder of the tree can be listed").path();
            let name = path
                .strip_prefix(&root)
                .expect("it was found below the root")
                .to_string_lossy()
                .replace('\\', "/");
            if path.is_dir() && !path.is_symlink() {
                if !is_foreign(&name) {
                    folders.push(path);
                }
            } else if let Some(text) = text_of(&path) {
                files.push(File { path: name, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn is_foreign(folder: &str) -> bool {
    let last = folder.rsplit('/').next().unwrap_or("");
    [
        "target",
        ".git",
        "node_modules",
        ".venv",
        "__pycache__",
        "output",
    ]
    .contains(&last)
        || folder == "data"
}

fn text_of(path: &Path) -> Option<String> {
    // `.git` is a file in a linked worktree, and names the folder of the main one.
    if path.file_name().is_some_and(|name| name == ".git") {
        return None;
    }
    fs::read(path)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
}

/// Runs `rule` on every file below `folder` (with the path relative to it) that ends in `.rs`.
fn over(folder: &str, rule: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree() {
        let inside = file
            .path
            .strip_prefix(folder)
            .and_then(|rest| rest.strip_prefix('/'));
        if let Some(path) = inside.filter(|path| path.ends_with(".rs")) {
            found.extend(rule(path, &file.text));
        }
    }
    found
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// Fails with all findings, one a line.
#[track_caller]
fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

mod the_tree {
    use super::*;

    #[test]
    fn keeps_its_crates_apart() {
        for package in ["shards", "loadtest"] {
            let manifest =
                read(&format!("{package}/Cargo.toml")).expect("every crate of ours has a manifest");
            assert_none(&crates_rule(package, &manifest));
        }
    }

    /// The first command of the README: with a second binary among the default members cargo does not know which one is meant.
    #[test]
    fn starts_the_server_with_cargo_run() {
        let manifest = read("Cargo.toml").expect("the workspace has a manifest");
        let has = |line: &str| manifest.lines().any(|found| found.starts_with(line));
        assert!(has("default-members = [\".\"]") && has("default-run = \"realtime\""));
    }

    #[test]
    fn says_what_each_dependency_is_for() {
        for manifest in ["Cargo.toml", "shards/Cargo.toml", "loadtest/Cargo.toml"] {
            assert_none(&dependencies_rule(
                &read(manifest).expect("every crate of ours has a manifest"),
            ));
        }
    }

    #[test]
    fn has_rooms_that_only_look_up() {
        let order = declared(&read("src/lib.rs").expect("the product is a library"));
        assert_none(&over("src", |path, text| {
            rooms_rule(path, text, &order, &[])
        }));
    }

    #[test]
    fn has_an_order_of_its_own_in_control() {
        let order = read("src/control/mod.rs")
            .map(|text| declared(&text))
            .unwrap_or_default();
        let inner = |path: &str| path.starts_with("control/") && path != "control/mod.rs";
        let rule = |path: &str, text: &str| rooms_rule(path, text, &order, &["control"]);
        assert_none(&over("src", |path, text| {
            if inner(path) {
                rule(path, text)
            } else {
                Vec::new()
            }
        }));
    }

    #[test]
    fn names_the_runtime_only_where_it_may() {
        assert_none(&over("src", runtime_rule));
    }

    #[test]
    fn keeps_its_planes_apart() {
        assert_none(&over("src", planes_rule));
    }

    #[test]
    fn has_a_runtime_that_does_not_know_the_product() {
        assert_none(&over("shards/src", vocabulary_rule));
    }

    #[test]
    fn is_unsafe_only_where_it_may() {
        assert_none(&over("src", |path, text| {
            unsafe_rule("realtime", path, text)
        }));
        assert_none(&over("shards/src", |path, text| {
            unsafe_rule("shards", path, text)
        }));
    }

    #[test]
    fn silences_lints_by_expecting_them() {
        for folder in ["src", "shards", "loadtest", "tests", "benches", "examples"] {
            assert_none(&over(folder, attributes_rule));
        }
    }

    #[test]
    fn has_no_file_that_wants_to_be_a_room() {
        let code = |path: &str| {
            path == "tests/run"
                || [".rs", ".js", ".mjs", ".ts", ".py", ".sh"]
                    .iter()
                    .any(|end| path.ends_with(end))
        };
        let mut found = Vec::new();
        for file in tree().iter().filter(|file| code(&file.path)) {
            found.extend(length_rule(
                &file.path,
                file.text.lines().count(),
                LONG_FILES,
            ));
        }
        let stale = LONG_FILES.iter().filter(|(name, _)| read(name).is_none());
        found.extend(stale.map(|(name, _)| format!("{name} is listed and does not exist")));
        assert_none(&found);
    }

    #[test]
    fn has_scripts_of_one_hand() {
        let folders = ["src/control/pages/", "tests/browser/unit/"];
        let tree = tree();
        let scripts = tree.iter().filter(|file| {
            file.path.ends_with(".js") && folders.iter().any(|it| file.path.starts_with(it))
        });
        let found: Vec<_> = scripts
            .flat_map(|file| scripts_rule(&file.path, &file.text))
            .collect();
        assert_none(&found);
    }

    #[test]
    fn names_tests_and_files_that_there_are() {
        let tree = tree();
        let rust: Vec<&File> = tree.iter().filter(|it| it.path.ends_with(".rs")).collect();
        let tests: BTreeSet<String> = rust.iter().flat_map(|it| tests_of(&it.text)).collect();
        let is_there = |path: &str| tree.iter().any(|file| file.path == path);
        let mut found = Vec::new();
        for file in &rust {
            if !file.path.starts_with("tests/") {
                found.extend(invariants_rule(&file.path, &file.text, &tests));
            }
            found.extend(files_rule(&file.path, &file.text, is_there));
        }
        assert_none(&found);
    }

    #[test]
    fn knows_nothing_of_the_machine_it_was_written_on() {
        assert_none(
            &tree()
                .iter()
                .flat_map(|file| paths_rule(&file.path, &file.text))
                .collect::<Vec<_>>(),
        );
    }
}

mod a_rule {
    use super::*;

    fn order() -> Vec<String> {
        declared(
            "//! rooms\npub mod low;\n#[cfg(unix)]\nmod middle;\npub(crate) mod high;\npub mod control;\nmod inline { }\n",
        )
    }

    /// Findings of the rooms rule for `code` in `path`.
    fn rooms(path: &str, code: &str) -> usize {
        rooms_rule(path, code, &order(), &[]).len()
    }

    #[test]
    fn reads_the_order_of_the_declarations() {
        assert_eq!(order(), ["low", "middle", "high", "control"]);
    }

    #[test]
    fn lets_a_room_look_up_only() {
        for (path, code, findings) in [
            ("middle.rs", "use crate::low::Thing;", 0),
            ("middle.rs", "use crate::high::Thing;", 1),
            ("middle.rs", "fn f() { crate::high::f() }", 1),
            ("middle.rs", "use crate::{low, high::{self, Thing}};", 1),
            ("middle.rs", "use super::high;", 1),
            ("middle.rs", "mod tests { use super::*; }", 0),
            ("middle.rs", "mod tests { use super::super::high; }", 1),
            (
                "middle.rs",
                "mod tests { fn f() { } use super::f; } use super::high;",
                1,
            ),
            (
                "middle.rs",
                "// use crate::high;\n/* crate::high */ const S: &str = \"crate::high\";",
                0,
            ),
            (
                "middle.rs",
                "const C: char = '\"'; use crate::high::x; const D: char = '\"';",
                1,
            ),
            (
                "middle.rs",
                "const R: &str = r#\"crate::high \" \"#; use crate::low;",
                0,
            ),
            (
                "middle.rs",
                "macro_rules! m { () => { $crate::high::f() } }",
                1,
            ),
            ("middle/mod.rs", "use self::inner::x; use super::low;", 0),
            (
                "middle/inner.rs",
                "use super::other; use super::super::low;",
                0,
            ),
            ("middle/inner.rs", "use super::super::high;", 1),
            ("middle/inner.rs", "use crate::middle::other;", 0),
            ("middle.rs", "use crate::nowhere::x;", 1),
            ("stranger.rs", "", 1),
            ("lib.rs", "pub use crate::high::Thing;", 0),
        ] {
            assert_eq!(rooms(path, code), findings, "{path}: {code}");
        }
    }

    #[test]
    fn lets_an_inner_room_look_up_only() {
        let order = ["store".to_owned(), "api".to_owned()];
        let rule = |path: &str, code: &str| rooms_rule(path, code, &order, &["control"]).len();
        assert_eq!(
            rule(
                "control/api/mod.rs",
                "use super::store; use crate::control::store; use crate::low; use super::Door;"
            ),
            0
        );
        assert_eq!(rule("control/store/mod.rs", "use super::api;"), 1);
        assert_eq!(
            rule("control/store/inner.rs", "use crate::control::api::x;"),
            1
        );
        assert_eq!(rule("control/stranger.rs", ""), 1);
    }

    #[test]
    fn keeps_crates_apart() {
        for (package, manifest, findings) in [
            ("shards", "[dependencies]\nlibc.workspace = true\n", 0),
            ("shards", "[dependencies]\nrealtime.workspace = true\n", 1),
            (
                "loadtest",
                "[dev-dependencies]\nrealtime = { path = \"..\" }\n",
                1,
            ),
            ("loadtest", "[package]\nrealtime = 1\n", 0),
            ("realtime", "[dependencies]\nshards.workspace = true\n", 0),
        ] {
            assert_eq!(
                crates_rule(package, manifest).len(),
                findings,
                "{package}: {manifest}"
            );
        }
    }

    #[test]
    fn asks_what_a_dependency_is_for() {
        for (manifest, findings) in [
            (
                "[workspace.dependencies]\nlibc = \"1\" # system calls\nours = { path = \"ours\" }\n",
                0,
            ),
            ("[workspace.dependencies]\nlibc = \"1\"\n", 1),
            ("[dependencies]\nlibc.workspace = true\n", 0),
            ("[dev-dependencies]\nlibc = \"1\" # system calls\n", 1),
            ("[package]\nname = \"x\"\n", 0),
        ] {
            assert_eq!(dependencies_rule(manifest).len(), findings, "{manifest}");
        }
    }

    #[test]
    fn names_who_may_name_the_runtime() {
        for (path, code, findings) in [
            ("shard.rs", "use shards::Handler;", 0),
            ("fanout/deliver.rs", "fn f(x: shards::Mail) {}", 0),
            ("control/mod.rs", "use shards::Mesh; use tokio::net;", 0),
            ("control/api/mod.rs", "use shards::Mesh;", 1),
            ("channel/join.rs", "use shards::Mesh;", 1),
            ("channel/join.rs", "use tokio::time;", 1),
            ("channel/join.rs", "fn f() { ::tokio::spawn(g) }", 1),
            ("channel/join.rs", "use tokio;", 1),
            (
                "config.rs",
                "let n = config.shards; let tokio = 1; // tokio::x",
                0,
            ),
            ("server.rs", "use {shards::Mesh, tokio::net};", 0),
        ] {
            assert_eq!(runtime_rule(path, code).len(), findings, "{path}: {code}");
        }
    }

    #[test]
    fn keeps_planes_apart() {
        for (path, code, findings) in [
            ("server.rs", "use crate::control::Control;", 0),
            ("control/api.rs", "use super::super::control::x;", 0),
            ("channel/mod.rs", "use crate::control::Control;", 1),
            ("channel/mod.rs", "use crate::{low, control};", 1),
            ("main.rs", "use realtime::control;", 1),
            ("websocket/mod.rs", "use self::control::Frame;", 0),
        ] {
            assert_eq!(planes_rule(path, code).len(), findings, "{path}: {code}");
        }
    }

    #[test]
    fn hears_the_product_in_the_runtime() {
        assert_eq!(
            vocabulary_rule("slab.rs", "// one slot per connection").len(),
            0
        );
        assert_eq!(
            vocabulary_rule("slab.rs", "// a WebSocket of a tenant").len(),
            2
        );
    }

    #[test]
    fn finds_unsafe_code_outside_of_its_places() {
        let root = "#![forbid(unsafe_code)]\npub mod a;";
        for (package, path, text, findings) in [
            ("realtime", "lib.rs", root, 0),
            ("realtime", "lib.rs", "pub mod a;", 1),
            (
                "realtime",
                "lib.rs",
                "// #![forbid(unsafe_code)]\npub mod a;",
                1,
            ),
            ("shards", "lib.rs", root, 1),
            ("shards", "lib.rs", "#![deny(unsafe_code)]\npub mod a;", 0),
            (
                "shards",
                "lib.rs",
                "#![deny(unsafe_code)]\n#[expect(unsafe_code, reason = \"\")]\npub mod topology;",
                0,
            ),
            (
                "shards",
                "lib.rs",
                "#![deny(unsafe_code)]\n#[expect(unsafe_code, reason = \"\")]\npub mod mesh;",
                1,
            ),
            (
                "shards",
                "driver/mod.rs",
                "#[expect(unsafe_code, reason = \"\")]\nmod epoll;",
                0,
            ),
            (
                "shards",
                "topology.rs",
                "#![expect(unsafe_code, reason = \"\")]",
                0,
            ),
            (
                "shards",
                "driver/uring/sqe.rs",
                "#[expect(unsafe_code, reason = \"\")] fn f() {}",
                0,
            ),
            (
                "shards",
                "mesh.rs",
                "#[expect(unsafe_code, reason = \"\")] fn f() {}",
                1,
            ),
            ("shards", "topology_helper.rs", "#![allow(unsafe_code)]", 1),
        ] {
            assert_eq!(
                unsafe_rule(package, path, text).len(),
                findings,
                "{package}/{path}: {text}"
            );
        }
    }

    #[test]
    fn finds_silenced_lints_and_skipped_tests() {
        assert_eq!(
            attributes_rule("a.rs", "#[expect(dead_code, reason = \"\")] // #[allow(x)]").len(),
            0
        );
        assert_eq!(attributes_rule("a.rs", "#[allow(dead_code)]").len(), 1);
        assert_eq!(
            attributes_rule("a.rs", "#[ignore]\n#[test] fn f() { todo!() }").len(),
            2
        );
    }

    #[test]
    fn finds_scripts_of_another_hand() {
        let found = |text: &str| scripts_rule("a.js", text).len();
        assert_eq!(
            found("import { a } from './b.js'\n/* x;\n * y; */\n// z;"),
            0
        );
        assert_eq!(found("import { a } from \"./b.js\"\nf();"), 2);
    }

    #[test]
    fn lets_long_files_only_shrink() {
        let listed = [("long.rs", 900)];
        for (path, lines, findings) in [
            ("short.rs", 800, 0),
            ("short.rs", 801, 1),
            ("long.rs", 900, 0),
            ("long.rs", 901, 1),
            ("long.rs", 899, 1),
        ] {
            assert_eq!(
                length_rule(path, lines, &listed).len(),
                findings,
                "{path} {lines}"
            );
        }
    }

    #[test]
    fn finds_folders_of_another_machine() {
        assert_eq!(paths_rule("a", "see https://example.com/work").len(), 0);
        assert_eq!(paths_rule("a", concat!("see /wo", "rk/notes")).len(), 1);
    }
}
