use super::*;
use proptest::prelude::*;
use serde_json::json;

fn parsed(entry: &str) -> Wish {
    Wish::parse(entry).unwrap_or_else(|text| panic!("{entry}: {text}"))
}

fn refused(entry: &str) -> String {
    match Wish::parse(entry) {
        Ok(wish) => panic!("{entry}: {wish:?}"),
        Err(text) => text,
    }
}

/// An entry for one table with a filter.
fn entry(filter: &str) -> String {
    json!({"schema": "public", "table": "t", "filter": filter}).to_string()
}

/// A wish as the vectors write it.
fn described(wish: &Wish) -> Value {
    let filters: Vec<Value> = wish
        .filters
        .iter()
        .map(|filter| {
            json!({"column": filter.column, "op": filter.operator.as_str(), "value": filter.value, "negate": filter.negate})
        })
        .collect();
    json!({
        "action": wish.wanted.as_str(),
        "schema": wish.schema,
        "table": wish.table,
        "filters": filters,
        "select": wish.select,
    })
}

#[test]
fn every_recorded_entry_is_read_as_the_original_reads_it() {
    let text = include_str!("../../../../tests/conformance/vectors/postgres-changes/params.json");
    let vectors: Vec<Value> = serde_json::from_str(text).unwrap();
    assert!(vectors.len() > 60);
    for vector in &vectors {
        let (name, expected) = (&vector["name"], &vector["later"]);
        let result = match Wish::parse(&vector["params"].to_string()) {
            Ok(wish) => json!({"ok": described(&wish)}),
            Err(text) => json!({"error": text}),
        };
        assert_eq!(&result, expected, "{name}");
    }
}

#[test]
fn filters_are_split_at_commas_that_are_neither_in_parentheses_nor_in_quotes() {
    let check = |filter: &str, expected: &[(&str, &str, &str)]| {
        let wish = parsed(&entry(filter));
        let filters: Vec<_> = wish
            .filters
            .iter()
            .map(|one| (&*one.column, one.operator.as_str(), &*one.value))
            .collect();
        assert_eq!(filters, expected, "{filter}");
    };
    check("", &[]);
    check(" \u{3000}\t", &[]);
    check("a=eq.1,b=eq.2", &[("a", "eq", "1"), ("b", "eq", "2")]);
    check(
        "a=in.(1,(2,3)),b=eq.2",
        &[("a", "in", "{1,(2,3)}"), ("b", "eq", "2")],
    );
    check(
        r#"a=eq."x,y",b=eq.2"#,
        &[("a", "eq", "x,y"), ("b", "eq", "2")],
    );
    check(
        r#"a=eq."x\",y",b=eq.2"#,
        &[("a", "eq", "x\",y"), ("b", "eq", "2")],
    );
    check(
        r#"a=eq."x\ä,y",b=eq.2"#,
        &[("a", "eq", "xä,y"), ("b", "eq", "2")],
    );
    // A quote in the midst of a value opens nothing.
    check(
        r#"a=eq.5",b=eq.6""#,
        &[("a", "eq", "5\""), ("b", "eq", "6\"")],
    );
    // Parentheses in quotes are text; one too many outside is harmless; one too few takes the rest.
    check(r#"a=eq."(",b=eq.2"#, &[("a", "eq", "("), ("b", "eq", "2")]);
    check("a=eq.),b=eq.2", &[("a", "eq", ")"), ("b", "eq", "2")]);
    check("a=eq.)(,b=eq.2", &[("a", "eq", ")(,b=eq.2")]);
    check("a=eq.(,b=eq.2", &[("a", "eq", "(,b=eq.2")]);
    // A quote directly behind a comma opens: the column's quotes hide what is between.
    check(
        r#"a=eq.1,"b,c"=eq.2"#,
        &[("a", "eq", "1"), ("\"b,c\"", "eq", "2")],
    );
    check("ä=eq.ü", &[("ä", "eq", "ü")]);
    check("a=eq.b=c", &[("a", "eq", "b=c")]);
    check("=eq.", &[("", "eq", "")]);
}

#[test]
fn values_lose_their_quotes_only_when_these_enclose_them() {
    let check = |value: &str, expected: &str| {
        let wish = parsed(&entry(&format!("a=eq.{value}")));
        assert_eq!(wish.filters[0].value, expected, "{value}");
    };
    check(r#""x""#, "x");
    check(r#""""#, "");
    check(r#"""#, r#"""#);
    check(r#""x"y"#, r#""x"y"#);
    check(r#""x"y""#, r#""x"y""#);
    check(r#""x\""#, r#""x\""#);
    check(r#""x\\""#, r"x\");
    check(r#""\n""#, "n");
    check(r#"x"y""#, r#"x"y""#);
}

#[test]
fn negation_is_one_level() {
    let wish = parsed(&entry("a=not.in.(1),b=is.null"));
    let negated: Vec<bool> = wish.filters.iter().map(|one| one.negate).collect();
    assert_eq!(negated, [true, false]);
    assert_eq!(
        refused(&entry("a=not.not.eq.1")),
        r#"Error parsing `filter` params: ["not", "eq.1"]"#
    );
    assert_eq!(
        refused(&entry("a=not.eq")),
        r#"Error parsing `filter` params: ["eq"]"#
    );
}

#[test]
fn every_operator_is_known_by_its_name_and_by_no_other() {
    for operator in Operator::ALL {
        let value = if operator == Operator::In { "()" } else { "1" };
        let filter = format!("a={}.{value}", operator.as_str());
        assert_eq!(parsed(&entry(&filter)).filters[0].operator, operator);
        let loud = filter.to_uppercase().replace("A=", "a=");
        let expected = format!(
            r#"Error parsing `filter` params: ["{}", "{value}"]"#,
            operator.as_str().to_uppercase()
        );
        assert_eq!(refused(&entry(&loud)), expected);
    }
    assert!(Operator::ALL.is_sorted());
}

#[test]
fn the_first_segment_that_makes_no_sense_is_told_of() {
    const EMPTY: &str = "filter must not contain empty segments (check for extra commas)";
    const PARENTHESES: &str = "`in` filter value must be wrapped by parentheses";
    let check = |filter: &str, expected: &str| {
        let expected = format!("Error parsing `filter` params: {expected}");
        assert_eq!(refused(&entry(filter)), expected, "{filter}");
    };
    check(",", EMPTY);
    check("a=eq.1,", EMPTY);
    check(",a=eq.1", EMPTY);
    check("a=eq.1, ,b=eq.1", EMPTY);
    check("a=foo.1,,b=eq.1", r#"["foo", "1"]"#);
    check("a=eq.1,b", r#"["b"]"#);
    check("a=eq.1,b=in.1,c", PARENTHESES);
    check("a=in.(1", PARENTHESES);
    check("a=in.1)", PARENTHESES);
    check("a=in.(", PARENTHESES);
    check("a=in. (1)", PARENTHESES);
    check("a=.1", r#"["", "1"]"#);
    check("a\"b#{c}", r##"["a\"b\#{c}"]"##);
    check("a=x\u{1}.ä\n ö", r#"["x\x{1}", "ä\n ö"]"#);
}

#[test]
fn an_entry_that_names_no_table_is_shown_to_its_client() {
    let check = |entry: &str, expected: &str| {
        let text = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: ";
        assert_eq!(refused(entry), format!("{text}{expected}"), "{entry}");
    };
    check("{}", "%{}");
    check(
        r#"{"event": "*", "b": 1.50, "a": [true, null]}"#,
        r#"%{"a" => [true, nil], "b" => 1.5, "event" => "*"}"#,
    );
    check(r#"{"schema": 5}"#, r#"%{"schema" => 5}"#);
    check(
        r#"{"schema": "s", "table": false}"#,
        r#"%{"schema" => "s", "table" => false}"#,
    );
    check(
        r#"{"schema": "s", "table": "t", "filter": null}"#,
        r#"%{"filter" => nil, "schema" => "s", "table" => "t"}"#,
    );
    check(
        r#"{"table": "t", "filter": ""}"#,
        r#"%{"filter" => "", "table" => "t"}"#,
    );
    check(r#"{"event": "*", "user_token": "secret"}"#, "<redacted>");
    check(r#"{"auth_token": null}"#, "<redacted>");
    // The key counts, not where else the word stands.
    check(
        r#"{"event": "user_token"}"#,
        r#"%{"event" => "user_token"}"#,
    );
    let deep = format!(r#"{{"a": {}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    let shown = format!(r#"%{{"a" => {}...{}}}"#, "[".repeat(50), "]".repeat(50));
    check(&deep, &shown);
}

#[test]
fn of_a_repeated_key_the_last_value_counts() {
    let entry = r#"{"table": 1, "schema": "a", "table": "x", "event": "INSERT", "schema": "b", "t\u0061ble": "y", "event": null}"#;
    let wish = parsed(entry);
    assert_eq!((&*wish.schema, &*wish.table), ("b", "y"));
    assert_eq!(wish.wanted, Wanted::All);
    refused(r#"{"table": "x", "table": 1}"#);
}

#[test]
fn an_event_is_an_action_in_any_case_and_anything_else_is_all() {
    let check = |event: &str, expected: Wanted| {
        let entry = format!(r#"{{"table": "t", "event": {event}}}"#);
        assert_eq!(parsed(&entry).wanted, expected, "{event}");
    };
    check(r#""INSERT""#, Wanted::Only(Action::Insert));
    check(r#""uPdAtE""#, Wanted::Only(Action::Update));
    check(r#""\u0064elete""#, Wanted::Only(Action::Delete));
    check(r#""*""#, Wanted::All);
    check(r#"" INSERT""#, Wanted::All);
    check(r#""TRUNCATE""#, Wanted::All);
    check("null", Wanted::All);
    check("[\"INSERT\"]", Wanted::All);
    check(&format!("\"{}\"", "insert".repeat(1000)), Wanted::All);
    assert!(Wanted::All.includes(Action::Delete));
    assert!(Wanted::Only(Action::Delete).includes(Action::Delete));
    assert!(!Wanted::Only(Action::Delete).includes(Action::Insert));
}

#[test]
fn columns_are_selected_of_one_table_only() {
    let check = |entry: &str, expected: Option<&[&str]>| {
        let select = parsed(entry).select;
        let select: Option<Vec<&str>> = select
            .as_ref()
            .map(|all| all.iter().map(|one| &**one).collect());
        assert_eq!(select.as_deref(), expected, "{entry}");
    };
    check(
        r#"{"table": "t", "select": ["b", "a", "b"]}"#,
        Some(&["b", "a", "b"]),
    );
    check(
        r#"{"table": "t", "select": ["a", 1, null, ["c"]]}"#,
        Some(&["a"]),
    );
    check(r#"{"table": "t", "select": []}"#, None);
    check(r#"{"table": "t", "select": [1]}"#, None);
    check(r#"{"table": "t", "select": null}"#, None);
    check(r#"{"table": "t", "select": 1}"#, None);
    check(r#"{"schema": "s", "select": []}"#, None);
    for entry in [
        r#"{"schema": "s", "select": ["a"]}"#,
        r#"{"schema": "*", "table": "t", "select": ["a"]}"#,
        r#"{"table": "*", "select": ["a"]}"#,
    ] {
        assert_eq!(refused(entry), SELECT_OF_MANY, "{entry}");
    }
    // A select that cannot be read is told of before anything else, one that cannot be had after everything else.
    assert_eq!(refused(r#"{"select": "a"}"#), SELECT_IS_TEXT);
    let both = r#"{"schema": "*", "table": "t", "filter": "a", "select": ["a"]}"#;
    assert_eq!(refused(both), r#"Error parsing `filter` params: ["a"]"#);
}

#[test]
fn what_a_client_is_told_names_what_it_asked_for() {
    let wish = parsed(&entry("id=eq.1"));
    assert_eq!(
        wish.params(),
        r#"event: *, schema: public, table: t, filters: [{"id", "eq", "1", false}], select: nil"#
    );
    let wish = parsed(
        r#"{"event": "update", "schema": "a\"b", "table": "t", "filter": "x=not.in.(\"1\"),y=is.null", "select": ["b", "a"]}"#,
    );
    let params = r#"event: UPDATE, schema: a"b, table: t, filters: [{"x", "in", "{\"1\"}", true}, {"y", "is", "null", false}], select: ["b", "a"]"#;
    assert_eq!(wish.params(), params);
    assert_eq!(
        wish.not_enabled(),
        format!(
            "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: [{params}]"
        )
    );
    // As it was recorded from the original.
    let wish = parsed(
        r#"{"event": "*", "schema": "public", "table": "test", "filter": "notacolumn=eq.123"}"#,
    );
    let text = raised_text("ERROR", "P0001", "invalid column for filter notacolumn");
    assert_eq!(
        wish.exception(&text),
        r#"Unable to subscribe to changes with given parameters. An exception happened so please check your connect parameters: [event: *, schema: public, table: test, filters: [{"notacolumn", "eq", "123", false}], select: nil]. Exception: ERROR P0001 (raise_exception) invalid column for filter notacolumn"#
    );
}

#[test]
fn tables_are_matched_literally() {
    let check = |entry: &str, schema: &str, table: &str, expected: bool| {
        let wish = parsed(entry);
        assert_eq!(
            wish.matches(schema, table),
            expected,
            "{entry} {schema}.{table}"
        );
    };
    check(r#"{"table": "t"}"#, "public", "t", true);
    check(r#"{"table": "t"}"#, "other", "t", false);
    check(r#"{"table": "t"}"#, "public", "T", false);
    check(r#"{"schema": "s"}"#, "s", "anything", true);
    check(r#"{"schema": "s"}"#, "t", "anything", false);
    check(r#"{"schema": "*", "table": "t"}"#, "s", "t", true);
    check(r#"{"schema": "*"}"#, "s", "t", true);
    check(r#"{"table": "a_b"}"#, "public", "axb", false);
    check(r#"{"table": "a%"}"#, "public", "ab", false);
}

/// Were one of them read again for each of its characters, this would take minutes.
#[test]
fn texts_of_any_size_are_read_once() {
    const SIZE: usize = 256 << 10;
    for piece in [
        "(", ")", "\"", ".\"", "\\", ",\"", "a=eq.1,", "(\"", "=", "not.", " ", "ä",
    ] {
        let text = piece.repeat(SIZE / piece.len());
        let text = if Wish::parse(&entry(&text)).is_ok() {
            text
        } else {
            format!("a=eq.{text}")
        };
        if let Ok(wish) = Wish::parse(&entry(&text)) {
            // Texts for clients are cut where the original cuts them.
            assert!(wish.params().len() < 100_000);
        }
    }
    let many = format!(r#"{{"table": 1, "x": [{}0]}}"#, "0,".repeat(SIZE));
    assert!(refused(&many).len() < 1000);
    let keys: String = (0..SIZE / 16)
        .map(|key| format!(r#""{key}": 0,"#))
        .collect();
    assert!(refused(&format!("{{{keys}\"a\": 0}}")).len() < 2000);
}

proptest! {
    #[test]
    fn no_filter_panics_and_every_error_has_its_prefix(
        filter in r#"([abx=.,()"\\ äü0-9{}]|eq|in|not|is|like){0,40}"#
    ) {
        match Wish::parse(&entry(&filter)) {
            Ok(wish) => prop_assert!(wish.params().starts_with("event: *, schema: public, table: t, filters: [")),
            Err(text) => prop_assert!(text.starts_with("Error parsing `filter` params: "), "{}", text),
        }
    }

    #[test]
    fn a_value_in_quotes_is_what_was_quoted(values in prop::collection::vec(".*", 1..4)) {
        let quoted = |value: &String| value.replace('\\', r"\\").replace('"', "\\\"");
        let filters: Vec<String> = values.iter().map(|value| format!("c=eq.\"{}\"", quoted(value))).collect();
        let wish = parsed(&entry(&filters.join(",")));
        let read: Vec<&String> = wish.filters.iter().map(|one| &one.value).collect();
        prop_assert_eq!(read, values.iter().collect::<Vec<_>>());
    }

    #[test]
    fn any_text_is_an_entry_or_is_refused(entry in ".*") {
        let _ = Wish::parse(&entry);
    }
}

#[test]
fn filters_are_bounded() {
    let entry = |count| {
        let filter = vec!["a=eq.1"; count].join(",");
        format!(r#"{{"schema": "s", "table": "t", "filter": "{filter}"}}"#)
    };
    assert_eq!(Wish::parse(&entry(100)).unwrap().filters.len(), 100);
    let error = Wish::parse(&entry(101)).unwrap_err();
    assert!(
        error.ends_with("more than 100 filters in one entry"),
        "{error}"
    );
    assert!(Wish::parse(&entry(30_000)).is_err());
}
