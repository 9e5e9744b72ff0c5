//! JSON values that are equal by meaning: numbers as exact decimals, commit times by their form.

use serde_json::Value;

use crate::compare::is_timestamp;

/// `value` with every number as its plain decimal digits, and every commit time that is in its form as `<timestamp>`.
///
/// The scale of a number stays (`1.50` is not `1.5`), its exponent does not (`1E-7` is `0.0000001`).
pub fn normal(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::String(format!("number {}", plain(&number.to_string()))),
        Value::Array(list) => list.iter().map(normal).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match value {
                Value::String(text) if key == "commit_timestamp" && is_timestamp(text) => {
                    (key.clone(), Value::from("<timestamp>"))
                }
                value => (key.clone(), normal(value)),
            })
            .collect(),
        other => other.clone(),
    }
}

/// A JSON number without an exponent.
fn plain(number: &str) -> String {
    let Some((mantissa, exponent)) = number.split_once(['e', 'E']) else {
        return number.to_owned();
    };
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let point = i32::try_from(whole.len()).expect("a number is short") + exponent;
    let digits = format!("{whole}{fraction}");
    let size = i32::try_from(digits.len()).expect("a number is short");
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    let text = if point <= 0 {
        format!("0.{}{digits}", zeros(-point))
    } else if point >= size {
        format!("{digits}{}", zeros(point - size))
    } else {
        let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or(0));
        format!("{whole}.{fraction}")
    };
    // `0.5e1` is 5, not 05.
    let trimmed = text.trim_start_matches('0');
    let text = match trimmed.chars().next() {
        Some('.') | None => format!("0{trimmed}"),
        Some(_) => trimmed.to_owned(),
    };
    format!("{sign}{text}")
}

/// A test of this file.
pub fn numbers_are_equal_as_decimals() {
    for (number, decimal) in [
        ("0", "0"),
        ("1.50", "1.50"),
        ("-1", "-1"),
        ("1E-7", "0.0000001"),
        ("1e3", "1000"),
        ("1.5e3", "1500"),
        ("1.25e1", "12.5"),
        ("-2.5E-1", "-0.25"),
        ("0.5e1", "5"),
        ("0e0", "0"),
        ("1e300", &format!("1{}", "0".repeat(300))),
    ] {
        assert_eq!(plain(number), decimal, "{number}");
    }
}
