use super::*;
use crate::limits;
use proptest::prelude::*;

fn normal(text: &str) -> Result<String, Malformed> {
    let mut out = Vec::new();
    write(&mut out, text, 1 << 20)?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

/// What reading and writing anew makes of it, however it is spelled.
fn rewritten(text: &str) -> Result<String, Malformed> {
    let mut out = Vec::new();
    Tape::parse(text)?.write(&mut out, 1 << 20)?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

#[test]
fn documents_look_like_jsonb() {
    for (text, expected) in [
        ("1", "1"),
        (" null ", "null"),
        ("\t\"s\"\r\n", "\"s\""),
        ("[]", "[]"),
        ("{ }", "{}"),
        ("[[],{},[[1]]]", "[[], {}, [[1]]]"),
        (
            r#"{"b": 1, "a": [1,2.50,null], "a": 2}"#,
            r#"{"a": 2, "b": 1}"#,
        ),
        (
            r#"{"bb":1,"c":2,"aa":3,"":4}"#,
            r#"{"": 4, "c": 2, "aa": 3, "bb": 1}"#,
        ),
        // Length and order are those of the key itself.
        (
            r#"{"\u0062":1,"a":2,"\u00e9":3,"é":4,"zz":5}"#,
            r#"{"a": 2, "b": 1, "zz": 5, "é": 4}"#,
        ),
        (
            r#"{"a":{"y":1,"x":{"d":1,"c":2}},"A":[{"q":1,"p":2}]}"#,
            r#"{"A": [{"p": 2, "q": 1}], "a": {"x": {"c": 2, "d": 1}, "y": 1}}"#,
        ),
        (
            r#"[1e3,-0,1.50,1E-7,true,false]"#,
            "[1000, 0, 1.50, 0.0000001, true, false]",
        ),
        (
            r#""\/\u0041\u00e9\ud83d\ude00\u0001\u001F\u007f\u000a""#,
            "\"/Aé😀\\u0001\\u001f\u{7f}\\n\"",
        ),
        (r#"{"k\"\\\n":"v\t"}"#, r#"{"k\"\\\n": "v\t"}"#),
    ] {
        assert_eq!(normal(text).as_deref(), Ok(expected), "{text}");
        assert!(
            is_settled(expected) || expected.contains("\\\": ") || expected.contains("k\\"),
            "{expected}"
        );
        assert_eq!(rewritten(expected).as_deref(), Ok(expected));
    }
}

#[test]
fn what_jsonb_cannot_hold_is_malformed() {
    for text in [
        "",
        " ",
        "{",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "[1}",
        "{\"a\":1]",
        "1 2",
        "nul",
        "True",
        "01",
        "-01",
        "1.",
        ".5",
        "+1",
        "1e",
        "-",
        "--1",
        "NaN",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u123g\"",
        "\"\n\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\ud800x\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\\ud800\\ud800\"",
        "{\"\\u0000\":1}",
        "1e131072",
        "[1e-16384]",
        "[[[[[1e99999999999999999999]]]]]",
        "'a'",
        "\u{a0}1",
        "[1 2]",
        "{\"a\" 1}",
    ] {
        assert_eq!(normal(text), Err(Malformed), "{text}");
    }
}

#[test]
fn depth_has_a_bound() {
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let most = deep(limits::CHANGE_JSON_DEPTH_MAX);
    assert_eq!(normal(&most), Ok(most));
    assert_eq!(
        normal(&deep(limits::CHANGE_JSON_DEPTH_MAX + 1)),
        Err(Malformed)
    );
}

#[test]
fn what_is_spelled_otherwise_is_not_settled() {
    for text in [
        "[1,2]",
        "[1,  2]",
        "[ 1]",
        "[1 ]",
        " 1",
        "1 ",
        "{\"a\":1}",
        "{\"a\" : 1}",
        "{\"b\": 1, \"a\": 2}",
        "{\"a\": 1, \"a\": 2}",
        "{\"aa\": 1, \"b\": 2}",
        "1e3",
        "-0",
        "-0.0",
        "01",
        "\"\\/\"",
        "\"\\u0041\"",
        "\"\\u001F\"",
        "\"\\u000a\"",
        "\"\\u0000\"",
        "\"\n\"",
        "[1,",
        "[1",
        "",
        "{",
        "{}}",
        "[]]",
        "tru",
        "\"a",
        "{\"a\": 1]",
        "[1}",
    ] {
        assert!(!is_settled(text), "{text}");
    }
    for text in [
        "[1, 2]",
        "{\"a\": 1, \"b\": [], \"aa\": {}}",
        "\"\\u001f\\b\\\\\\\"é\"",
        "0.00",
        "-1.5",
        "{\"a\": {\"b\": 1}, \"c\": null}",
    ] {
        assert!(is_settled(text), "{text}");
    }
}

proptest! {
    #[test]
    fn settled_texts_are_what_writing_makes(value in any_value(), keys in prop::collection::btree_set("[a-cé]{0,2}", 0..4)) {
        let members = keys.into_iter().map(|key| (key, value.clone()));
        let object: serde_json::Value = members.collect::<serde_json::Map<_, _>>().into();
        for value in [value, object] {
            let text = spaced(&value);
            if is_settled(&text) {
                prop_assert_eq!(rewritten(&text), Ok(text));
            }
        }
    }

    #[test]
    fn what_is_written_is_settled(text in r#"(\[|\]|\{|\}|: ?|, ?|[0-9]e?|"(a|b|\\u006[12]|\\n){0,2}"|null){0,6}"#, value in any_value()) {
        for text in [text, value.to_string()] {
            if let Ok(once) = rewritten(&text) {
                // Keys with escapes are not looked at.
                prop_assert!(is_settled(&once) || once.contains('\\'), "{}", once);
                prop_assert_eq!(normal(&once), Ok(once));
            }
        }
    }

    #[test]
    fn values_agree_with_another_reader(value in any_value()) {
        let text = value.to_string();
        let other: serde_json::Value = serde_json::from_str(&normal(&text).expect("it is JSON")).expect("it still is");
        prop_assert_eq!(other, value);
    }
}

/// As jsonb prints it, but for the order of keys.
fn spaced(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(spaced).collect();
            format!("[{}]", elements.join(", "))
        }
        serde_json::Value::Object(members) => {
            let member =
                |(key, value)| format!("{}: {}", serde_json::Value::String(key), spaced(&value));
            let members: Vec<String> = members.clone().into_iter().map(member).collect();
            format!("{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        // NUL is what jsonb cannot hold.
        any::<String>().prop_map(|text| text.replace('\0', "").into()),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        let members = prop::collection::hash_map("[a-c\"é\\\\\n]{0,3}", inner.clone(), 0..5);
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(Into::into),
            members.prop_map(|members| members
                .into_iter()
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}
