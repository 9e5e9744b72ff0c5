//! Values as Elixir's `inspect` prints them: some client texts and many log texts embed them (spec: websocket-protocol, appendix).
//!
//! What comes in: JSON values and strings. What goes out: text without control characters. What always holds: the text is bounded,
//! however large the value ([`ITEMS_MAX`], [`STRING_BYTES_MAX`]); what is cut ends in `...`, as Elixir does it.

use serde_json::{Map, Number, Value};
use std::fmt::Write;

/// Items of lists and maps, all together, that are printed of one value: Elixir's default `limit`. Above: `...`.
const ITEMS_MAX: usize = 50;

/// Bytes that are printed of one string: Elixir's default `printable_limit`. Above: `"..." <> ...`.
const STRING_BYTES_MAX: usize = 4096;

/// A JSON value as Elixir prints the term that it decodes to.
#[must_use]
pub fn inspect(value: &Value) -> String {
    let mut out = String::new();
    let mut items_left = ITEMS_MAX;
    write_value(&mut out, value, &mut items_left);
    out
}

/// A list of tuples, as Elixir prints it. Tuples and what stands in them count as items.
#[must_use]
pub fn inspect_tuples<const N: usize>(tuples: impl Iterator<Item = [Value; N]>) -> String {
    let mut out = String::from("[");
    let mut items_left = ITEMS_MAX;
    write_items(&mut out, tuples, &mut items_left, |out, tuple, left| {
        out.push('{');
        write_items(out, tuple.iter(), left, write_value);
        out.push('}');
    });
    out.push(']');
    out
}

/// A string in double quotes, with Elixir's escapes.
#[must_use]
pub fn inspect_str(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(STRING_BYTES_MAX) + 2);
    write_string(&mut out, text);
    out
}

/// Errors by field, as Elixir prints the map that they are: its keys, and those of maps in it, are atoms.
#[must_use]
pub fn inspect_errors(errors: &Map<String, Value>) -> String {
    let mut out = String::new();
    let mut items_left = ITEMS_MAX;
    write_errors(&mut out, errors, &mut items_left);
    out
}

fn write_errors(out: &mut String, errors: &Map<String, Value>, items_left: &mut usize) {
    out.push_str("%{");
    write_items(
        out,
        errors.iter(),
        items_left,
        |out, (name, error), left| {
            out.push_str(name);
            out.push_str(": ");
            write_error(out, error, left);
        },
    );
    out.push('}');
}

fn write_error(out: &mut String, error: &Value, items_left: &mut usize) {
    match error {
        Value::Object(inner) => write_errors(out, inner, items_left),
        Value::Array(items) => {
            out.push('[');
            write_items(out, items.iter(), items_left, write_error);
            out.push(']');
        }
        other => write_value(out, other, items_left),
    }
}

fn write_value(out: &mut String, value: &Value, items_left: &mut usize) {
    match value {
        Value::Null => out.push_str("nil"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) if is_charlist(items) => write_charlist(out, items),
        Value::Array(items) => {
            out.push('[');
            write_items(out, items.iter(), items_left, write_value);
            out.push(']');
        }
        Value::Object(entries) => {
            out.push_str("%{");
            write_items(out, entries.iter(), items_left, |out, (key, item), left| {
                write_string(out, key);
                out.push_str(" => ");
                write_value(out, item, left);
            });
            out.push('}');
        }
    }
}

fn write_items<T>(
    out: &mut String,
    items: impl Iterator<Item = T>,
    items_left: &mut usize,
    mut write: impl FnMut(&mut String, T, &mut usize),
) {
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        if *items_left == 0 {
            out.push_str("...");
            return;
        }
        *items_left -= 1;
        write(out, item, items_left);
    }
}

/// Integers print as they are. Floats always have a fraction, and an exponent from 1.0e16 on.
fn write_number(out: &mut String, number: &Number) {
    let text = number.to_string();
    let is_integer = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'-');
    match text.parse::<f64>() {
        Ok(float) if !is_integer && float.is_finite() => {
            let text = format!("{float:?}");
            match text.split_once('e') {
                Some((mantissa, exponent)) if !mantissa.contains('.') => {
                    let _ = write!(out, "{mantissa}.0e{exponent}");
                }
                _ => out.push_str(&text),
            }
        }
        _ => out.push_str(&text),
    }
}

/// Elixir takes a list of printable ASCII codes for text of the old kind.
fn is_charlist(items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(|item| charlist_char(item).is_some())
}

fn charlist_char(item: &Value) -> Option<char> {
    let code = u8::try_from(item.as_u64()?).ok()?;
    matches!(code, 7..=13 | 27 | 32..=126).then_some(char::from(code))
}

fn write_charlist(out: &mut String, items: &[Value]) {
    let text: String = items
        .iter()
        .filter_map(charlist_char)
        .take(STRING_BYTES_MAX)
        .collect();
    out.push_str("~c");
    write_string(out, &text);
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let end = text.floor_char_boundary(STRING_BYTES_MAX);
    let mut chars = text[..end].chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '#' if chars.peek() == Some(&'{') => out.push_str("\\#"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{7f}' => out.push_str("\\d"),
            char if char.is_control() => {
                let _ = write!(out, "\\x{{{:X}}}", u32::from(char));
            }
            char => out.push(char),
        }
    }
    out.push('"');
    if end < text.len() {
        out.push_str(" <> ...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &str) {
        let value: Value = serde_json::from_str(json).expect("the case is JSON");
        assert_eq!(inspect(&value), expected, "{json}");
    }

    #[test]
    fn errors_have_atoms_for_keys() {
        let errors =
            serde_json::json!({"messages": [{}, {"topic": ["can't be blank"]}], "n": {"a": ["b"]}});
        let Value::Object(errors) = errors else {
            unreachable!("it is one")
        };
        assert_eq!(
            inspect_errors(&errors),
            r#"%{messages: [%{}, %{topic: ["can't be blank"]}], n: %{a: ["b"]}}"#
        );
    }

    #[test]
    fn values_print_as_elixir_terms() {
        check("null", "nil");
        check("true", "true");
        check("5", "5");
        check("-7", "-7");
        check(
            "123456789012345678901234567890",
            "123456789012345678901234567890",
        );
        check("1.50", "1.5");
        check("1e20", "1.0e20");
        check("2.0", "2.0");
        check(r#""a""#, r#""a""#);
        check("[]", "[]");
        check("[1, \"x\", null]", r#"[1, "x", nil]"#);
        check("[97, 98]", r#"~c"ab""#);
        check("{}", "%{}");
        check(
            r#"{"b":1,"a":{"c":[true]}}"#,
            r#"%{"a" => %{"c" => [true]}, "b" => 1}"#,
        );
    }

    #[test]
    fn tuples_print_in_a_list() {
        let check = |count: usize, expected: &str| {
            let tuple = || [Value::from("a\"b"), Value::from(true)];
            let text = inspect_tuples(std::iter::repeat_with(tuple).take(count));
            assert_eq!(text, expected);
        };
        check(0, "[]");
        check(2, r#"[{"a\"b", true}, {"a\"b", true}]"#);
        let cut = format!(
            r#"[{}{{"a\"b", ...}}, ...]"#,
            r#"{"a\"b", true}, "#.repeat(16)
        );
        check(30, &cut);
    }

    #[test]
    fn strings_are_escaped() {
        assert_eq!(inspect_str("a\"b\\c"), r#""a\"b\\c""#);
        assert_eq!(
            inspect_str("l1\nl2\r\t\u{1b}[0m\u{1}"),
            r#""l1\nl2\r\t\e[0m\x{1}""#
        );
        assert_eq!(inspect_str("#{x} #x"), r##""\#{x} #x""##);
        assert_eq!(inspect_str("Käse"), r#""Käse""#);
    }

    #[test]
    fn long_values_are_cut() {
        let list: Vec<u32> = (1000..1100).collect();
        let text = inspect(&serde_json::json!(list));
        assert!(text.ends_with("1049, ...]"), "{text}");
        let text = inspect_str(&"ä".repeat(3000));
        assert_eq!(text.len(), 4096 + 2 + " <> ...".len());
    }
}
