//! Names that comments give: of tests that hold an invariant, and of files of the tree.
//!
//! In comes source text, out come sentences about names that lead nowhere. A name counts when it stands in brackets and backquotes in the
//! documentation of a module and has an underscore; a file when its path from the root (or from its crate) stands in a comment.
//! Deliberately absent: whether a test holds what it is named for.

use std::collections::BTreeSet;

/// The functions that a file defines, and what it calls the cases of a test.
pub(crate) fn tests_of(text: &str) -> BTreeSet<String> {
    let words: Vec<&str> = text
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .collect();
    let pairs = words.windows(2);
    let named = pairs.filter(|pair| matches!(pair[0], "fn" | "name"));
    named.map(|pair| pair[1].to_owned()).collect()
}

/// Rule "invariants": the test that holds an invariant exists.
pub(crate) fn invariants_rule(path: &str, text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let lines = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("//!"));
    let documentation: Vec<&str> = lines.collect();
    let documentation = documentation.join(" ");
    let brackets = documentation
        .split("(`")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let names = brackets.flat_map(|inside| inside.split('`').step_by(2));
    let is_name = |name: &&str| {
        let is_of_one = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.contains('_') && name.chars().all(is_of_one)
    };
    let missing = names.filter(is_name).filter(|name| !tests.contains(*name));
    missing
        .map(|name| format!("{path}: there is no test `{name}`"))
        .collect()
}

/// Rule "files": a file that a comment names exists. `is_there` is asked about paths from the root.
pub(crate) fn files_rule(path: &str, text: &str, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let krate = path.split('/').next().unwrap_or_default();
    let comments = text
        .lines()
        .filter(|line| line.trim_start().starts_with("//"));
    let words = comments.flat_map(|line| {
        line.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.' | '/'))
    });
    let folders = [
        "src/",
        "shards/",
        "loadtest/",
        "tests/",
        "benches/",
        "examples/",
    ];
    let named = words
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| word.ends_with(".rs") && folders.iter().any(|it| word.starts_with(it)));
    let missing = named.filter(|name| !is_there(name) && !is_there(&format!("{krate}/{name}")));
    missing
        .map(|name| format!("{path}: there is no file {name}"))
        .collect()
}

#[test]
fn a_rule_finds_names_that_lead_nowhere() {
    let tests = tests_of("fn holds_it() {}\nCase { name: \"holds_that\" }");
    let invariants = |text: &str| invariants_rule("a.rs", text, &tests).len();
    for (text, findings) in [
        ("//! Always true (`holds_it`).", 0),
        ("//! Always true (`holds_it`, `holds_that`, in `b`).", 0),
        (
            "//! Always true\n//! (`holds_it` and\n//! `holds_nothing`).",
            1,
        ),
        (
            "//! A room (`logging`), a call (`f(x_y)`), a path (`a_b::c`).",
            0,
        ),
        ("/// Of an item (`holds_nothing`).", 0),
        ("    //! Of a module within (`holds_nothing`).", 1),
    ] {
        assert_eq!(invariants(text), findings, "{text}");
    }
    let is_there = |path: &str| ["src/lib.rs", "shards/src/mesh.rs"].contains(&path);
    let files = |path: &str, text: &str| files_rule(path, text, is_there).len();
    for (path, text, findings) in [
        ("src/a.rs", "// see src/lib.rs.", 0),
        ("src/a.rs", "/// (`src/nosuch.rs`)", 1),
        ("shards/src/a.rs", "//! src/mesh.rs rings", 0),
        ("src/a.rs", "//! src/mesh.rs rings", 1),
        ("src/a.rs", "let path = \"src/nosuch.rs\"; // a/b.rs", 0),
    ] {
        assert_eq!(files(path, text), findings, "{path}: {text}");
    }
}
