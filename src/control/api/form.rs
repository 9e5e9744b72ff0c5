//! Forms as parameters: `a[b]=1&list[]=2` and its multipart sister to the JSON that says the same (spec: http-api 1.3).
//!
//! What comes in: a body and its content type. What goes out: an object whose leaves are strings. What always holds: at most
//! [`limits::FORM_FIELDS_MAX`] fields and [`limits::FORM_DEPTH_MAX`] brackets are looked at, anything beyond makes the body one that does not parse.

use super::request_id::percent_decoded;
use crate::limits;
use serde_json::{Map, Value};

/// The parameters of an `application/x-www-form-urlencoded` text; `None` when it cannot be read.
#[must_use]
pub fn urlencoded(text: &str) -> Option<Map<String, Value>> {
    let decode =
        |part: &str| String::from_utf8(percent_decoded(&part.replace('+', " ")).into_owned()).ok();
    let mut form = Map::new();
    for (count, pair) in text.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if count == limits::FORM_FIELDS_MAX {
            return None;
        }
        insert(&mut form, &decode(name)?, decode(value)?)?;
    }
    Some(form)
}

/// The parameters of a `multipart/form-data` body; `None` when it cannot be read. Files are taken as text like other fields.
#[must_use]
pub fn multipart(content_type: &str, body: &[u8]) -> Option<Map<String, Value>> {
    let boundary = parameter(content_type, "boundary")?;
    let text = std::str::from_utf8(body).ok()?;
    let delimiter = format!("\r\n--{boundary}");
    // The first boundary may open the body without a line break before it.
    let text = format!("\r\n{text}");
    let mut form = Map::new();
    let mut is_closed = false;
    for (count, part) in text.split(delimiter.as_str()).skip(1).enumerate() {
        if part.starts_with("--") {
            is_closed = true;
            break;
        }
        if count == limits::FORM_FIELDS_MAX {
            return None;
        }
        let (head, content) = part.strip_prefix("\r\n")?.split_once("\r\n\r\n")?;
        let disposition = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim()
                .eq_ignore_ascii_case("content-disposition")
                .then_some(value)
        })?;
        insert(
            &mut form,
            parameter(disposition, "name")?,
            content.to_owned(),
        )?;
    }
    is_closed.then_some(form)
}

/// The parameter `name` of a header's value: `multipart/form-data; boundary="x"`.
fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.trim().split_once('=')?;
        key.eq_ignore_ascii_case(name)
            .then(|| value.trim_matches('"'))
    })
}

/// Puts a field at its place: `a[b][]` is an element of the list `b` in the object `a`.
fn insert(form: &mut Map<String, Value>, name: &str, value: String) -> Option<()> {
    let (first, mut rest) = name.split_at(name.find('[').unwrap_or(name.len()));
    let mut place = form.entry(first).or_insert(Value::Null);
    for _ in 0..limits::FORM_DEPTH_MAX {
        let Some((key, behind)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        else {
            *place = Value::String(value);
            return Some(());
        };
        rest = behind;
        place = if key.is_empty() {
            if !place.is_array() {
                *place = Value::Array(Vec::new());
            }
            let list = place.as_array_mut()?;
            list.push(Value::Null);
            list.last_mut()?
        } else {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place.as_object_mut()?.entry(key).or_insert(Value::Null)
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn brackets_make_objects_and_lists() {
        let check = |text: &str, expected: Value| {
            assert_eq!(Value::Object(urlencoded(text).unwrap()), expected, "{text}")
        };
        check("", json!({}));
        check("messages=1", json!({"messages": "1"}));
        check("a=b+c%2B&d", json!({"a": "b c+", "d": ""}));
        check(
            "a[b]=1&a[c][d]=2",
            json!({"a": {"b": "1", "c": {"d": "2"}}}),
        );
        check("l[]=1&l[]=2", json!({"l": ["1", "2"]}));
        check("l[][a]=1&l[][a]=2", json!({"l": [{"a": "1"}, {"a": "2"}]}));
        check("a=1&a=2", json!({"a": "2"}));
        check("m%5B0%5D=1", json!({"m": {"0": "1"}}));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert!(urlencoded("a=%ff").is_none());
        assert!(urlencoded(&format!("a{}=1", "[x]".repeat(limits::FORM_DEPTH_MAX))).is_none());
        assert!(urlencoded(&"a=1&".repeat(limits::FORM_FIELDS_MAX + 1)).is_none());
        assert!(urlencoded(&"a=1&".repeat(limits::FORM_FIELDS_MAX)).is_some());
    }

    #[test]
    fn multipart_fields_are_found_between_boundaries() {
        let body = "--B\r\nContent-Disposition: form-data; name=\"messages[0][topic]\"\r\n\r\nt\r\n\
                    --B\r\ncontent-disposition: form-data; name=\"n\"\r\nContent-Type: text/plain\r\n\r\nline\r\nline\r\n--B--\r\n";
        let check = |kind: &str, body: &str, expected: Option<Value>| {
            assert_eq!(
                multipart(kind, body.as_bytes()).map(Value::Object),
                expected,
                "{kind} {body}"
            );
        };
        let form = json!({"messages": {"0": {"topic": "t"}}, "n": "line\r\nline"});
        check("multipart/form-data; boundary=B", body, Some(form.clone()));
        check(
            "multipart/form-data; charset=utf-8; boundary=\"B\"",
            body,
            Some(form),
        );
        check("multipart/form-data", body, None);
        check("multipart/form-data; boundary=C", body, None);
        check(
            "multipart/form-data; boundary=B",
            &body[..body.len() - 6],
            None,
        );
        check("multipart/form-data; boundary=B", "--B--", Some(json!({})));
    }
}
