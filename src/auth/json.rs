//! The parts of a token as JSON, without building a tree: a claims object may be large, and of most of it only the text counts.

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::fmt;

/// What a part of a token turned out to be.
pub(super) enum Object<'a> {
    /// An object, of which the wanted members were kept; of members with the same name the last counts.
    Members(Vec<(Cow<'a, str>, &'a RawValue)>),
    /// Well-formed, but no object.
    OtherJson,
    /// Not JSON.
    Malformed,
}

/// Reads `text` and keeps the members that `wanted` names.
pub(super) fn object<'a>(text: &'a str, wanted: impl Fn(&str) -> bool) -> Object<'a> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = match deserializer.deserialize_map(Members(wanted)) {
        Ok(members) if deserializer.end().is_ok() => members,
        _ if serde_json::from_str::<IgnoredAny>(text).is_ok() => return Object::OtherJson,
        _ => return Object::Malformed,
    };
    Object::Members(members)
}

struct Members<F>(F);

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for Members<F> {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Self::Value = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            if !(self.0)(&name) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value()?;
            match members.iter_mut().find(|(known, _)| *known == name) {
                Some(member) => member.1 = value,
                None => members.push((name, value)),
            }
        }
        Ok(members)
    }
}

/// A member's name, borrowed unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// The member of this name.
pub(super) fn member<'a>(
    members: &[(Cow<'a, str>, &'a RawValue)],
    name: &str,
) -> Option<&'a RawValue> {
    members
        .iter()
        .find(|(known, _)| known == name)
        .map(|&(_, value)| value)
}

/// A member as a string.
pub(super) fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// A number, as far as times need it.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) enum Numeric {
    /// Written as an integer that fits.
    Integer(i64),
    /// Any other number that is finite.
    Float(f64),
}

impl Numeric {
    /// The number that a JSON text is; none when it is something else, or too large to be one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(integer) = text.parse::<i64>()
            && !text.starts_with('+')
        {
            return Some(Self::Integer(integer));
        }
        let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        let float = text
            .parse::<f64>()
            .ok()
            .filter(|float| float.is_finite() && is_number)?;
        Some(Self::Float(float))
    }

    /// Whether it is greater than `other`.
    pub(super) fn is_after(self, other: i64) -> bool {
        match self {
            Self::Integer(integer) => integer > other,
            #[expect(
                clippy::cast_precision_loss,
                reason = "seconds of this age are exact in a double"
            )]
            Self::Float(float) => float > other as f64,
        }
    }

    /// The nearest integer, halves away from zero; what does not fit becomes the nearest that does.
    pub(super) fn rounded(self) -> i64 {
        match self {
            Self::Integer(integer) => integer,
            #[expect(clippy::cast_possible_truncation, reason = "saturates")]
            Self::Float(float) => float.round() as i64,
        }
    }
}

/// Whether two values have the same JSON type and value. An integer never equals a float, as in the original.
pub(super) fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => is_same_number(a, b),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, a)| b.get(name).is_some_and(|b| is_same(a, b)))
        }
        _ => a == b,
    }
}

fn is_same_number(a: &Number, b: &Number) -> bool {
    let (a, b) = (a.to_string(), b.to_string());
    let is_integer = |text: &str| !text.contains(['.', 'e', 'E']);
    match (is_integer(&a), is_integer(&b)) {
        (true, true) => a == b,
        (false, false) => a.parse::<f64>().ok() == b.parse::<f64>().ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_members_are_kept_and_the_last_of_a_name_counts() {
        let text = r#"{"a":1,"skip":{"deep":[{}]},"b":" x","a":[2]}"#;
        let Object::Members(members) = object(text, |name| name != "skip") else {
            panic!("an object")
        };
        assert_eq!(member(&members, "a").map(RawValue::get), Some("[2]"));
        assert_eq!(
            member(&members, "b").and_then(string).as_deref(),
            Some(" x")
        );
        assert!(member(&members, "skip").is_none());
        let Object::Members(members) = object(r#"{"\u0061":1}"#, |_| true) else {
            panic!("an object")
        };
        assert_eq!(member(&members, "a").map(RawValue::get), Some("1"));
    }

    #[test]
    fn what_is_no_object_is_told_from_what_is_no_json() {
        for text in ["[]", "1", "\"x\"", "null", " [1] "] {
            assert!(
                matches!(object(text, |_| true), Object::OtherJson),
                "{text}"
            );
        }
        for text in [
            "",
            "{",
            "{}x",
            "{} {}",
            "{\"a\"}",
            "nul",
            "[1",
            "{\"a\":1,}",
        ] {
            assert!(
                matches!(object(text, |_| true), Object::Malformed),
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_are_compared_and_rounded() {
        let check = |text: &str, expected: Option<i64>| {
            assert_eq!(
                Numeric::parse(text).map(Numeric::rounded),
                expected,
                "{text}"
            )
        };
        check("5", Some(5));
        check("-5", Some(-5));
        check("2.5", Some(3));
        check("2.4", Some(2));
        check("-2.5", Some(-3));
        check("1e3", Some(1000));
        check("99999999999999999999", Some(i64::MAX));
        check("1e999", None);
        check("\"5\"", None);
        check("null", None);
        check("[5]", None);
        check("true", None);
        assert!(Numeric::Float(10.5).is_after(10));
        assert!(!Numeric::Float(10.0).is_after(10));
        assert!(!Numeric::Integer(10).is_after(10));
    }

    #[test]
    fn equality_asks_for_type_and_value() {
        let check = |a: &str, b: &str, expected| {
            let value = |text| serde_json::from_str::<Value>(text).expect("the case is JSON");
            assert_eq!(is_same(&value(a), &value(b)), expected, "{a} {b}");
        };
        check("1", "1", true);
        check("1.0", "1.00", true);
        check("1", "1.0", false);
        check("1", "\"1\"", false);
        check(r#"{"a":[1,{}]}"#, r#"{"a":[1,{}]}"#, true);
        check(r#"{"a":1}"#, r#"{"a":1,"b":2}"#, false);
        check("[1,2]", "[2,1]", false);
        check("null", "null", true);
    }
}
